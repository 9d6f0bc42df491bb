use consilium_common::signed::{Document, SecretKey, Signature};
use consilium_common::time::Millis;

use super::*;

const NOW: WallMillis = WallMillis(1_764_000_000_000);

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

/// Two operators of whom two must sign; st-mary belongs from the start.
struct Town {
    members: Members,
    now: WallMillis,
}

impl Town {
    fn new() -> Self {
        let mut consortium =
            Consortium::new("thorax".parse().unwrap(), key(100).public(), 2).unwrap();
        for (name, n) in [("ada", 101), ("bob", 102)] {
            consortium = consortium.with_operator(&name.parse().unwrap(), key(n).public()).unwrap();
        }
        let roster = Roster::new("thorax".parse().unwrap());
        let roster = roster.with_site(&site("st-mary"), key(1).public()).unwrap();
        Self { members: Members::new(consortium, roster), now: NOW }
    }

    fn put(&mut self, record: Record) -> Record {
        self.members.apply(&record);
        record
    }

    fn invite(&mut self, name: &str, secret: u8) -> Secret {
        let secret = Secret::new([secret; 32]);
        let invited = self.members.may_invite(&site(name), secret.hash(), "ada", self.now);
        self.put(invited.unwrap().0);
        secret
    }

    fn ask(&mut self, secret: &Secret, signed: &Signed<EnrolRequest>) -> Result<bool, MemberError> {
        let record = self.members.may_ask(secret, signed, self.now)?;
        let new = record.is_some();
        record.into_iter().for_each(|record| self.members.apply(&record));
        Ok(new)
    }

    fn approve(&mut self, signed: &Signed<EnrolRequest>, by: u8) -> Result<(), MemberError> {
        let (record, _) = self.members.may_approve(&approval(signed, by), "ada")?;
        self.members.apply(&record);
        Ok(())
    }

    fn revoke(&mut self, name: &str, of: u8, by: u8) -> Result<SiteId, MemberError> {
        let (record, out) = self.members.may_revoke(&revocation(name, of, by), "ada")?;
        self.members.apply(&record);
        Ok(out.site)
    }

    fn sign(&mut self, by: u8) -> Result<Record, MemberError> {
        let text = self.members.proposal().unwrap().expect("a proposal").text;
        let record = self.members.may_sign(&text, &signature(&text, by), "ada")?;
        Ok(self.put(record))
    }
}

fn signature(text: &[u8], by: u8) -> Signature {
    key(by).sign(Roster::DOMAIN, text)
}

fn request(name: &str, n: u8) -> Signed<EnrolRequest> {
    let request = EnrolRequest {
        consortium: "thorax".parse().unwrap(),
        site: site(name),
        site_key: key(n).public(),
        csr: vec![n],
    };
    Signed::sign(request.to_bytes().unwrap(), &key(n))
}

fn approval(of: &Signed<EnrolRequest>, by: u8) -> Signed<Approval> {
    let asked = of.parse_unverified().unwrap();
    let (consortium, site) = (asked.consortium, asked.site);
    Signed::sign(Approval { consortium, site, request: of.digest() }.to_bytes().unwrap(), &key(by))
}

fn renewal(name: &str, by: u8) -> Signed<RenewRequest> {
    let (consortium, site) = ("thorax".parse().unwrap(), site(name));
    let request = RenewRequest { consortium, site, csr: vec![], at: NOW };
    Signed::sign(request.to_bytes().unwrap(), &key(by))
}

fn revocation(name: &str, of: u8, by: u8) -> Signed<Revocation> {
    let word = Revocation {
        consortium: "thorax".parse().unwrap(),
        site: site(name),
        site_key: key(of).public(),
        reason: "its laptop was stolen".to_owned(),
    };
    Signed::sign(word.to_bytes().unwrap(), &key(by))
}

#[test]
fn a_site_comes_in_by_token_approval_and_two_signatures_and_not_before() {
    let mut town = Town::new();
    let (token, asked) = (town.invite("charite", 7), request("charite", 2));
    assert_eq!(town.members.invited(NOW).count(), 1);
    assert_eq!(town.ask(&token, &asked), Ok(true));
    assert_eq!(town.ask(&token, &asked), Ok(false), "the same request again hears how it stands");
    assert_eq!(town.members.invited(NOW).count(), 0);
    assert_eq!(town.members.proposal().unwrap(), None, "nobody approved it");
    town.approve(&asked, 101).unwrap();
    assert!(matches!(town.members.belongs(&site("charite")), Err(MemberError::NotInRoster { .. })));
    assert_eq!(town.members.may_renew(&renewal("charite", 2)), Ok(site("charite")));

    let proposal = town.members.proposal().unwrap().unwrap();
    assert_eq!((proposal.joins.clone(), proposal.leaves.clone()), (vec![site("charite")], vec![]));
    assert_eq!(proposal.version, town.members.roster().version() + 1);
    assert!(matches!(town.sign(101).unwrap(), Record::RosterSignature(_)));
    assert!(matches!(town.sign(101).unwrap(), Record::RosterSignature(_)), "the same one twice");
    assert_eq!(town.members.proposal().unwrap().unwrap().signatures.len(), 1);
    assert!(town.members.belongs(&site("charite")).is_err());
    assert!(matches!(town.sign(102).unwrap(), Record::Roster(_)));
    assert_eq!(town.members.belongs(&site("charite")), Ok(()));
    assert_eq!(town.members.belongs(&site("st-mary")), Ok(()));
    assert_eq!(town.members.proposal().unwrap(), None);
}

#[test]
fn a_token_is_for_one_request_of_one_site_for_one_day() {
    let mut town = Town::new();
    let token = town.invite("charite", 7);
    let unknown = Secret::new([8; 32]);
    assert_eq!(town.ask(&unknown, &request("charite", 2)), Err(MemberError::Token));
    let other = town.ask(&token, &request("st-anna", 2));
    assert_eq!(other, Err(MemberError::OtherSite(site("charite"))));
    let forged = Signed::from_parts(request("charite", 2).bytes, request("charite", 3).signatures);
    assert!(matches!(town.ask(&token, &forged), Err(MemberError::Signed(_))));
    let own = town.ask(&token, &request("charite", 1));
    assert_eq!(own, Err(MemberError::SharedKey(site("st-mary"))));
    town.now = WallMillis(NOW.0 + INVITATION_LENGTH.0 + 1);
    assert_eq!(town.ask(&token, &request("charite", 2)), Err(MemberError::Token));
    town.now = WallMillis(NOW.0 + INVITATION_LENGTH.0);
    assert_eq!(town.ask(&token, &request("charite", 2)), Ok(true));
    assert_eq!(town.ask(&token, &request("charite", 3)), Err(MemberError::Token), "it is used");
    town.now = WallMillis(NOW.0 + 10 * INVITATION_LENGTH.0);
    assert_eq!(town.ask(&token, &request("charite", 2)), Ok(false), "and its request still waits");
}

#[test]
fn an_approval_is_an_operators_and_of_the_request_that_waits() {
    let mut town = Town::new();
    let (token, asked) = (town.invite("charite", 7), request("charite", 2));
    assert_eq!(town.approve(&asked, 101), Err(MemberError::NoRequest(site("charite"))));
    town.ask(&token, &asked).unwrap();
    let waits = Fingerprint::of(asked.digest());
    let other = town.approve(&request("charite", 3), 101);
    assert_eq!(other, Err(MemberError::OtherRequest { site: site("charite"), waits }));
    assert!(matches!(town.approve(&asked, 1), Err(MemberError::Signed(_))));
    town.approve(&asked, 102).unwrap();
    // Somebody with a second invitation cannot take the name over.
    let again = town.members.may_invite(&site("charite"), Digest::of(b"x"), "ada", NOW);
    assert_eq!(again.unwrap_err(), MemberError::Known(site("charite")));
}

#[test]
fn who_is_revoked_is_out_at_once_and_the_name_comes_back_with_another_key_alone() {
    let mut town = Town::new();
    assert!(matches!(town.revoke("st-mary", 1, 1), Err(MemberError::Signed(_))));
    assert_eq!(town.revoke("st-mary", 2, 101), Err(MemberError::Unknown(site("st-mary"))));
    assert_eq!(town.revoke("st-mary", 1, 101), Ok(site("st-mary")));
    let out = town.members.belongs(&site("st-mary"));
    assert!(matches!(&out, Err(MemberError::Revoked { reason, .. }) if reason.contains("stolen")));
    let renewed = town.members.may_renew(&renewal("st-mary", 1));
    assert!(matches!(renewed, Err(MemberError::Revoked { .. })));
    assert_eq!(town.members.proposal().unwrap().unwrap().leaves, [site("st-mary")]);

    let token = town.invite("st-mary", 7);
    let old = town.ask(&token, &request("st-mary", 1));
    assert!(matches!(old, Err(MemberError::Revoked { .. })));
    let asked = request("st-mary", 2);
    town.ask(&token, &asked).unwrap();
    town.approve(&asked, 101).unwrap();
    // The roster still has the old key: the new one takes part once the operators have signed it.
    assert!(matches!(town.members.belongs(&site("st-mary")), Err(MemberError::NotInRoster { .. })));
    let proposal = town.members.proposal().unwrap().unwrap();
    assert_eq!(proposal.leaves, proposal.joins);
    town.sign(101).unwrap();
    town.sign(102).unwrap();
    assert_eq!(town.members.belongs(&site("st-mary")), Ok(()));
    assert_eq!(town.members.key_of(&site("st-mary")), Some(key(2).public()));
}

#[test]
fn only_the_proposed_text_is_signed_and_a_change_begins_anew() {
    let mut town = Town::new();
    let none = town.members.may_sign(b"x", &signature(b"x", 101), "ada").unwrap_err();
    assert!(matches!(none, MemberError::NoProposal(_)));
    town.revoke("st-mary", 1, 101).unwrap();
    let old = town.members.proposal().unwrap().unwrap().text;
    let strange = town.members.may_sign(&old, &signature(&old, 1), "eve");
    assert!(matches!(strange, Err(MemberError::Signed(_))));
    town.sign(101).unwrap();
    let (token, asked) = (town.invite("charite", 7), request("charite", 2));
    town.ask(&token, &asked).unwrap();
    town.approve(&asked, 101).unwrap();
    let stale = town.members.may_sign(&old, &signature(&old, 102), "bob");
    assert!(matches!(stale, Err(MemberError::OtherRoster(_))));
    assert!(town.members.proposal().unwrap().unwrap().signatures.is_empty());
}

#[test]
fn the_log_alone_says_all_of_it_again() {
    let (mut town, mut log) = (Town::new(), Vec::new());
    let fresh = town.members.clone();
    let (token, asked) = (Secret::new([7; 32]), request("charite", 2));
    log.push(town.members.may_invite(&site("charite"), token.hash(), "ada", NOW).unwrap().0);
    town.members.apply(&log[0]);
    log.push(town.members.may_ask(&token, &asked, NOW).unwrap().unwrap());
    town.members.apply(&log[1]);
    log.push(town.members.may_approve(&approval(&asked, 101), "ada").unwrap().0);
    town.members.apply(&log[2]);
    let until = WallMillis(NOW.0 + Millis::from_secs(60).0);
    let chain = "-----BEGIN".to_owned();
    log.push(town.put(Record::Certificate(Certified { site: site("charite"), chain, until })));
    log.push(town.sign(102).unwrap());
    let mut again = fresh;
    log.iter().for_each(|record| again.apply(record));
    assert_eq!(format!("{again:?}"), format!("{:?}", town.members));
    let (_, applicant) = again.applicants().next().unwrap();
    assert_eq!((applicant.until, applicant.chain.is_some()), (Some(until), true));
}

#[test]
fn tokens_that_were_not_used_are_over_when_the_site_has_another_is_in_or_is_out() {
    let mut town = Town::new();
    let (first, second) = (town.invite("newcomer", 7), town.invite("newcomer", 8));
    let asked = request("newcomer", 2);
    assert!(matches!(town.ask(&first, &asked), Err(MemberError::Token)), "the newer one counts");
    assert_eq!(town.members.invited(town.now).count(), 1);
    assert!(town.ask(&second, &asked).unwrap());
    let third = town.invite("newcomer", 9);
    town.approve(&asked, 101).unwrap();
    assert!(town.ask(&third, &request("newcomer", 3)).is_err(), "it is in");
    town.revoke("newcomer", 2, 101).unwrap();
    assert!(town.ask(&third, &request("newcomer", 3)).is_err(), "and out");
    let fourth = town.invite("newcomer", 10);
    assert!(town.ask(&fourth, &request("newcomer", 3)).unwrap(), "until it is invited anew");
}
