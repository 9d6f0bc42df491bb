//! Who belongs and who wants to: invitations, requests, certificates, revocations, and the roster with
//! the next one on its way. PURE: a fold of the log's records, and what may be added to them.
//!
//! ```text
//!   Invitation ─► EnrolRequest ─► Approval ─► Certificate          a site may connect
//!                                     └─────► RosterSignature × k ─► Roster     and takes part
//!   Revocation ─► neither, from that moment on
//! ```
//!
//! Each `may_…` judges what somebody asks and returns the record that would make it so; it changes
//! nothing. The edge writes the record, waits until it is durable, and applies it.

mod error;
mod next_roster;

use std::collections::{BTreeMap, BTreeSet};

use consilium_certs::consortium::Consortium;
use consilium_certs::roster::Roster;
use consilium_common::audit::Record;
use consilium_common::audit::record::{
    Approved, Certified, EnrolAsked, Invited, Revoked, RosterSet,
};
use consilium_common::enrol::{
    Approval, EnrolRequest, Fingerprint, RenewRequest, Revocation, Secret,
};
use consilium_common::ids::{ConsortiumId, Digest, SiteId};
use consilium_common::limits::{INVITATION_LENGTH, INVITATIONS_MAX};
use consilium_common::signed::{PublicKey, Signed};
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::RosterOffer;

pub use error::MemberError;
pub use next_roster::Proposal;

/// A site's way in.
#[derive(Debug, Clone)]
pub struct Applicant {
    /// As it asked.
    pub signed: Signed<EnrolRequest>,
    /// Read from there.
    pub request: EnrolRequest,
    /// An operator's word.
    pub approval: Option<Signed<Approval>>,
    /// What the CA made last.
    pub chain: Option<String>,
    /// When that ends.
    pub until: Option<WallMillis>,
}

impl Applicant {
    /// What people compare.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.signed.digest())
    }
}

#[derive(Debug, Clone)]
struct Invitation {
    site: SiteId,
    until: WallMillis,
    /// The request that it was spent on.
    spent: Option<Digest>,
}

/// See the module.
#[derive(Debug, Clone)]
pub struct Members {
    consortium: Consortium,
    roster: Roster,
    /// As the operators signed it; none before the log's first.
    signed: Option<RosterSet>,
    invitations: BTreeMap<Digest, Invitation>,
    applicants: BTreeMap<SiteId, Applicant>,
    revoked: BTreeMap<PublicKey, Revocation>,
    signatures: next_roster::Signatures,
}

impl Members {
    /// With the roster that the operators signed, before the log is read.
    #[must_use]
    pub fn new(consortium: Consortium, roster: Roster) -> Self {
        Self {
            consortium,
            roster,
            signed: None,
            invitations: BTreeMap::new(),
            applicants: BTreeMap::new(),
            revoked: BTreeMap::new(),
            signatures: next_roster::Signatures::default(),
        }
    }

    /// Takes a record of the log. Those that are about something else, or that no release could have
    /// written, change nothing.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the records of rounds are another fold's")]
    pub fn apply(&mut self, record: &Record) {
        match record {
            Record::Roster(set) => {
                let signed =
                    Signed::<Roster>::from_parts(set.bytes.clone(), set.signatures.clone());
                if let Ok(roster) = Roster::verified(&signed, &self.consortium)
                    && roster.version() >= self.roster.version()
                {
                    (self.roster, self.signed) = (roster, Some(set.clone()));
                    self.signatures = next_roster::Signatures::default();
                }
            }
            Record::Invitation(Invited { site, token, until, .. }) => {
                // A token that was mislaid is of no use to whoever finds it.
                self.forget_invitations(site);
                let (site, until) = (site.clone(), *until);
                self.invitations.insert(*token, Invitation { site, until, spent: None });
            }
            Record::EnrolRequest(EnrolAsked { token, signed }) => self.asked(*token, signed),
            Record::Approval(Approved { signed, .. }) => {
                if let Ok(word) = signed.parse_unverified()
                    && let Some(applicant) = self.applicants.get_mut(&word.site)
                    && applicant.signed.digest() == word.request
                {
                    applicant.approval = Some(signed.clone());
                    self.forget_invitations(&word.site);
                }
            }
            Record::Certificate(Certified { site, chain, until }) => {
                if let Some(applicant) = self.applicants.get_mut(site) {
                    (applicant.chain, applicant.until) = (Some(chain.clone()), Some(*until));
                }
            }
            Record::Revocation(Revoked { signed, .. }) => {
                if let Ok(word) = signed.parse_unverified() {
                    let of_key =
                        |applicant: &Applicant| applicant.request.site_key == word.site_key;
                    if self.applicants.get(&word.site).is_some_and(of_key) {
                        self.applicants.remove(&word.site);
                    }
                    self.forget_invitations(&word.site);
                    self.revoked.insert(word.site_key, word);
                }
            }
            Record::RosterSignature(signed) => self.signatures.take(signed),
            _ => {}
        }
    }

    /// The site's tokens that were not used work no more.
    fn forget_invitations(&mut self, site: &SiteId) {
        self.invitations.retain(|_, one| one.site != *site || one.spent.is_some());
    }

    fn asked(&mut self, token: Digest, signed: &Signed<EnrolRequest>) {
        let Ok(request) = signed.parse_unverified() else {
            return;
        };
        if let Some(invitation) = self.invitations.get_mut(&token) {
            invitation.spent = Some(signed.digest());
        }
        let site = request.site.clone();
        let signed = signed.clone();
        let applicant = Applicant { signed, request, approval: None, chain: None, until: None };
        self.applicants.insert(site, applicant);
    }

    /// Whose members they are.
    #[must_use]
    pub fn consortium(&self) -> &ConsortiumId {
        &self.consortium.name
    }

    /// The roster in force.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The same as sites hear it; none before the log has one.
    #[must_use]
    pub fn roster_offer(&self) -> Option<RosterOffer> {
        let RosterSet { bytes, signatures } = self.signed.clone()?;
        Some(RosterOffer { bytes, signatures })
    }

    /// Those whose keys came by enrolment, by name.
    pub fn applicants(&self) -> impl Iterator<Item = (&SiteId, &Applicant)> {
        self.applicants.iter()
    }

    /// Who sent this very request.
    #[must_use]
    pub fn applicant_of(&self, signed: &Signed<EnrolRequest>) -> Option<Applicant> {
        let sent = |one: &&Applicant| one.signed.digest() == signed.digest();
        self.applicants.values().find(sent).cloned()
    }

    /// Sites that may take part.
    #[must_use]
    pub fn belonging(&self) -> BTreeSet<SiteId> {
        let sites = self.roster.sites().map(|(site, _)| site);
        sites.filter(|site| self.belongs(site).is_ok()).cloned().collect()
    }

    /// Invitations that were not used and are not over: site and end.
    pub fn invited(&self, now: WallMillis) -> impl Iterator<Item = (&SiteId, WallMillis)> {
        let open = move |one: &&Invitation| one.spent.is_none() && now <= one.until;
        self.invitations.values().filter(open).map(|one| (&one.site, one.until))
    }

    /// Everybody who was put out.
    pub fn revocations(&self) -> impl Iterator<Item = &Revocation> {
        self.revoked.values()
    }

    /// The key of `site`: the one that was approved last, else the roster's, else the one that asks.
    #[must_use]
    pub fn key_of(&self, site: &SiteId) -> Option<PublicKey> {
        let asked = || self.applicants.get(site).map(|applicant| applicant.request.site_key);
        self.approved_key(site).or_else(|| self.roster.site_key(site).copied()).or_else(asked)
    }

    /// The key of a site whose request was approved.
    fn approved_key(&self, site: &SiteId) -> Option<PublicKey> {
        let applicant = self.applicants.get(site)?;
        applicant.approval.as_ref().map(|_| applicant.request.site_key)
    }

    /// Who else has this key, or asks with it: one key would count as two sites.
    fn other_owner(&self, site: &SiteId, key: &PublicKey) -> Option<&SiteId> {
        let asking = self.applicants.iter().map(|(name, one)| (name, &one.request.site_key));
        let mut all = self.roster.sites().chain(asking);
        all.find(|(name, owned)| *name != site && *owned == key).map(|(name, _)| name)
    }

    /// Why the site may not come in, if it was put out: its name says so until it has another key.
    #[must_use]
    pub fn revocation(&self, site: &SiteId) -> Option<&Revocation> {
        match self.key_of(site) {
            Some(key) => self.revoked.get(&key),
            None => self.revoked.values().find(|word| word.site == *site),
        }
    }

    /// Whether the site may take part: it is in the roster by its key and was not put out.
    ///
    /// # Errors
    /// [`MemberError::Revoked`] or [`MemberError::NotInRoster`].
    pub fn belongs(&self, site: &SiteId) -> Result<(), MemberError> {
        if let Some(word) = self.revocation(site) {
            let (site, reason) = (site.clone(), word.reason.clone());
            return Err(MemberError::Revoked { site, reason });
        }
        let signed = self.roster.site_key(site).copied();
        if signed.is_some() && signed == self.key_of(site) {
            return Ok(());
        }
        Err(MemberError::NotInRoster { site: site.clone(), version: self.roster.version() })
    }

    /// An invitation of `site`, by a token with this hash, and when that ends.
    ///
    /// # Errors
    /// The site belongs already, or too many invitations are open.
    pub fn may_invite(
        &self,
        site: &SiteId,
        token: Digest,
        by: &str,
        now: WallMillis,
    ) -> Result<(Record, WallMillis), MemberError> {
        let belongs = self.roster.contains(site) || self.approved_key(site).is_some();
        if belongs && self.revocation(site).is_none() {
            return Err(MemberError::Known(site.clone()));
        }
        if self.invited(now).count() >= INVITATIONS_MAX {
            return Err(MemberError::TooMany);
        }
        let until = WallMillis(now.0.saturating_add(INVITATION_LENGTH.0));
        let invited = Invited { site: site.clone(), token, until, by: by.to_owned() };
        Ok((Record::Invitation(invited), until))
    }

    /// A request for the first certificate. `None` if this very request came before: then the answer is
    /// how it stands.
    ///
    /// # Errors
    /// The token is none, was spent on another request, has ended, or is another site's; the request is
    /// not signed by the key in it.
    pub fn may_ask(
        &self,
        secret: &Secret,
        signed: &Signed<EnrolRequest>,
        now: WallMillis,
    ) -> Result<Option<Record>, MemberError> {
        let token = secret.hash();
        let invitation = self.invitations.get(&token).ok_or(MemberError::Token)?;
        let request = signed.parse_unverified()?;
        signed.verify(&[request.site_key], 1)?;
        if request.site != invitation.site {
            return Err(MemberError::OtherSite(invitation.site.clone()));
        }
        if request.consortium != self.consortium.name {
            return Err(MemberError::OtherConsortium);
        }
        if let Some(word) = self.revoked.get(&request.site_key) {
            let (site, reason) = (request.site, word.reason.clone());
            return Err(MemberError::Revoked { site, reason });
        }
        let key = request.site_key;
        if self.approved_key(&request.site).is_some_and(|approved| approved != key) {
            return Err(MemberError::Known(request.site));
        }
        if let Some(other) = self.other_owner(&request.site, &key) {
            return Err(MemberError::SharedKey(other.clone()));
        }
        match invitation.spent {
            Some(digest) if digest == signed.digest() => Ok(None),
            None if now <= invitation.until => {
                Ok(Some(Record::EnrolRequest(EnrolAsked { token, signed: signed.clone() })))
            }
            _ => Err(MemberError::Token),
        }
    }

    /// An operator's approval.
    ///
    /// # Errors
    /// No operator signed it, or it is not of the request that waits.
    pub fn may_approve(
        &self,
        signed: &Signed<Approval>,
        by: &str,
    ) -> Result<(Record, &Applicant), MemberError> {
        let word = signed.verify(&self.consortium.operator_keys(), 1)?;
        if word.consortium != self.consortium.name {
            return Err(MemberError::OtherConsortium);
        }
        let waiting = self.applicants.get(&word.site);
        let applicant = waiting.ok_or_else(|| MemberError::NoRequest(word.site.clone()))?;
        if applicant.signed.digest() != word.request {
            let waits = applicant.fingerprint();
            return Err(MemberError::OtherRequest { site: word.site, waits });
        }
        let record = Record::Approval(Approved { signed: signed.clone(), by: by.to_owned() });
        Ok((record, applicant))
    }

    /// A site's request for its next certificate: whose it is.
    ///
    /// # Errors
    /// The site was put out, does not belong, or its key did not sign.
    pub fn may_renew(&self, signed: &Signed<RenewRequest>) -> Result<SiteId, MemberError> {
        let request = signed.parse_unverified()?;
        if request.consortium != self.consortium.name {
            return Err(MemberError::OtherConsortium);
        }
        if let Some(word) = self.revocation(&request.site) {
            let (site, reason) = (request.site, word.reason.clone());
            return Err(MemberError::Revoked { site, reason });
        }
        let unknown = || MemberError::Unknown(request.site.clone());
        let key = self.key_of(&request.site).ok_or_else(unknown)?;
        signed.verify(&[key], 1)?;
        Ok(request.site)
    }

    /// An operator's revocation: the record, and whom it puts out.
    ///
    /// # Errors
    /// No operator signed it, or it names a key that is not the site's.
    pub fn may_revoke(
        &self,
        signed: &Signed<Revocation>,
        by: &str,
    ) -> Result<(Record, Revocation), MemberError> {
        let word = signed.verify(&self.consortium.operator_keys(), 1)?;
        if word.consortium != self.consortium.name {
            return Err(MemberError::OtherConsortium);
        }
        if self.key_of(&word.site) != Some(word.site_key) {
            return Err(MemberError::Unknown(word.site));
        }
        let record = Record::Revocation(Revoked { signed: signed.clone(), by: by.to_owned() });
        Ok((record, word))
    }
}

#[cfg(test)]
mod tests;
