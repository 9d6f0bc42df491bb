//! Each kind has its number and survives its JSON.

use super::*;
use crate::roster::Change;
use crate::witness::HeadRow;

/// One of each kind.
pub(in crate::ledger) fn one_of_each() -> Vec<Entry> {
    let study: StudyId = "mnist".parse().unwrap();
    let (round, digest) = (Round(3), Digest([0xab; 32]));
    let study_digest = Digest([0xcd; 32]);
    let traffic = Traffic { messages: 2, bytes: 90 };
    vec![
        Started {
            site: "st-mary".parse().unwrap(),
            agent: "consilium-agent 0.1.0".into(),
            key: consilium_common::signed::SecretKey::from_seed(&[7; 32]).public(),
            first: true,
        }
        .into(),
        Word {
            study: study.clone(),
            digest: study_digest,
            said: Person::Accepted,
            by: "Dr. Ada".into(),
            reason: "ethics vote EA1/123".into(),
            account: "agent (uid 990)".into(),
        }
        .into(),
        StudyStands {
            study: study.clone(),
            version: 2,
            digest: study_digest,
            stands: Stands::Accepted,
            why: "accepted by Dr. Ada".into(),
        }
        .into(),
        Connected { coordinator: "fl.example:443".into(), address: "192.0.2.1:443".into() }.into(),
        Disconnected {
            connection: 3,
            reason: "closed".into(),
            said: [("Hello".to_owned(), traffic)].into(),
        }
        .into(),
        Fetched { study: study.clone(), round: Some(round), part: Part::Base, digest, bytes: 9 }
            .into(),
        Made {
            study: study.clone(),
            study_digest,
            round,
            task: Some(TaskKind::Train),
            base: Some(digest),
            digest,
            bytes: 100,
            weight: 80,
        }
        .into(),
        Sending {
            study: study.clone(),
            study_digest,
            accepted: 2,
            round,
            digest,
            size: 100,
            offset: 40,
            bytes: 60,
        }
        .into(),
        Sent { sending: 7, study: study.clone(), round, through: 100, stored: true, trouble: None }
            .into(),
        Settled { study, round, counted: true }.into(),
    ]
}

#[test]
fn each_kind_survives_its_json_and_no_other_kind_s_number() {
    let all = one_of_each();
    for (number, entry) in (1..).zip(&all) {
        assert_eq!(entry.kind(), number);
        let line = Line { at: WallMillis(7), entry: entry.clone() };
        let bytes = line.to_bytes().unwrap();
        assert_eq!(Line::read(number, &bytes), Ok(line));
        let other = 1 + number % u16::try_from(all.len()).unwrap();
        assert!(Line::read(other, &bytes).unwrap_err().contains("another kind"));
    }
    assert!(Line::read(99, b"{}").unwrap_err().contains("kind 99 is not known"));
}

#[test]
fn what_is_said_of_the_coordinators_log_and_of_the_roster_has_numbers_of_its_own() {
    let head = |records| HeadRow { records, root: Digest([0xab; 32]) };
    let contradicted = Contradicted { kept: head(9), told: head(8), why: "it is shorter".into() };
    let accepted = HistoryAccepted {
        before: Some(head(9)),
        now: head(8),
        by: "Dr. Ada".into(),
        reason: "the operators restored a copy".into(),
        account: "agent (uid 990)".into(),
    };
    let change = Change { added: vec!["ueno".parse().unwrap()], ..Change::default() };
    let roster = RosterAccepted {
        version: 4,
        digest: Digest([8; 32]),
        change,
        by: "policy".into(),
        reason: None,
        account: None,
    };
    let all: [(u16, Entry); 3] =
        [(12, contradicted.into()), (13, accepted.into()), (14, roster.into())];
    for (number, entry) in all {
        assert_eq!((entry.kind(), entry.study()), (number, None));
        let line = Line { at: WallMillis(7), entry };
        assert_eq!(Line::read(number, &line.to_bytes().unwrap()), Ok(line));
    }
}

#[test]
fn a_withdrawal_and_changed_data_have_numbers_of_their_own_and_name_no_patient() {
    let study: StudyId = "mnist".parse().unwrap();
    let withdrew = Withdrew {
        id: Digest([9; 32]),
        study: study.clone(),
        versions: "v1 to v3".into(),
        remedy: Remedy::Retire,
        by: "Dr. Ada".into(),
    };
    let changed = DataChanged { study, round: Round(3), changed: 1, added: 2, missing: 0 };
    let all: [(u16, Entry); 2] = [(40, withdrew.into()), (41, changed.into())];
    for (number, entry) in all {
        assert_eq!((entry.kind(), entry.study().is_some()), (number, true));
        let line = Line { at: WallMillis(7), entry };
        assert_eq!(Line::read(number, &line.to_bytes().unwrap()), Ok(line));
    }
    let line = "{\"at\":7,\"what\":\"data-changed\",\"study\":\"mnist\",\"round\":3,\"changed\":1,\
                \"added\":2,\"missing\":0}";
    assert!(Line::read(41, line.as_bytes()).is_ok());
}

#[test]
fn the_json_of_a_range_is_this() {
    let line = Line { at: WallMillis(7), entry: one_of_each().remove(7) };
    let digest = |byte: &str| byte.repeat(32);
    let expected = format!(
        "{{\"at\":7,\"what\":\"sending\",\"study\":\"mnist\",\"study_digest\":\"{}\",\
         \"accepted\":2,\"round\":3,\"digest\":\"{}\",\"size\":100,\"offset\":40,\"bytes\":60}}",
        digest("cd"),
        digest("ab")
    );
    assert_eq!(String::from_utf8(line.to_bytes().unwrap()).unwrap(), expected);
}
