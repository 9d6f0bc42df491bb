//! What can follow a roster, what is kept across a start, and what is said of it.

use consilium_common::signed::SecretKey;
use tempfile::TempDir;

use super::*;

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

/// Signed by two of three operators.
fn consortium() -> Consortium {
    let mut consortium = Consortium::new("thorax".parse().unwrap(), key(99).public(), 2).unwrap();
    for (name, n) in [("ada", 101), ("bob", 102), ("eve", 103)] {
        consortium = consortium.with_operator(&name.parse().unwrap(), key(n).public()).unwrap();
    }
    consortium
}

fn roster(version: u64, sites: &[(&str, u8)]) -> Signed<Roster> {
    let start = Roster::new("thorax".parse().unwrap());
    let add = |roster: Roster, (name, n): &(&str, u8)| {
        roster.with_site(&site(name), key(*n).public()).unwrap()
    };
    let roster = sites.iter().fold(start, add).with_version(version);
    signed(&roster, &[101, 102])
}

fn signed(roster: &Roster, by: &[u8]) -> Signed<Roster> {
    use consilium_common::signed::Document;
    let bytes = roster.to_toml().unwrap();
    let signatures = by.iter().map(|n| key(*n).sign(Roster::DOMAIN, &bytes)).collect();
    Signed::from_parts(bytes, signatures)
}

fn open(state: &TempDir) -> Rosters {
    Rosters::open(state.path(), consortium()).unwrap()
}

fn accept(rosters: &Rosters, version: u64) {
    let (kept, _) = rosters.waiting(version).unwrap();
    rosters.accept(kept).unwrap();
}

const TWO: [(&str, u8); 2] = [("charite", 1), ("st-mary", 2)];

#[test]
fn a_roster_waits_until_it_is_accepted_and_lasts_then() {
    let state = TempDir::new().unwrap();
    let rosters = open(&state);
    assert!(rosters.why_plans_wait().unwrap().contains("has shown no roster yet"));
    assert!(rosters.offer(roster(3, &TWO)).unwrap().is_some());
    let why = rosters.why_plans_wait().unwrap();
    assert!(why.contains("`consilium-agent roster accept 3 "), "{why}");
    let again = open(&state);
    assert_eq!(again.status().version, None, "not accepted, not kept");
    accept(&rosters, 3);
    assert_eq!(rosters.why_plans_wait(), None);
    assert_eq!(rosters.offer(roster(3, &TWO)).unwrap(), None, "the same again");

    let again = open(&state);
    let status = again.status();
    assert_eq!((status.version, status.sites.len(), status.waiting), (Some(3), 2, None));
    assert!(matches!(again.waiting(3), Err(KeptRosterError::NotWaiting(3))));
    let more = [TWO[0], ("st-mary", 7), ("ueno", 3)];
    assert!(again.offer(roster(5, &more)).unwrap().is_some());
    let change = again.status().waiting.unwrap().change;
    assert_eq!(change.to_string(), "with ueno; with another key for st-mary");
    assert!(again.offer(roster(4, &TWO[..1])).unwrap().is_some(), "the newest word is what waits");
    assert_eq!(again.status().waiting.unwrap().change.to_string(), "without st-mary");
    accept(&again, 4);
    let files: Vec<_> = fs::read_dir(state.path().join(ROSTER)).unwrap().collect();
    assert_eq!((files.len(), open(&state).status().version), (2, Some(4)));
}

#[test]
fn what_cannot_follow_is_told_and_changes_nothing() {
    let state = TempDir::new().unwrap();
    let rosters = open(&state);
    rosters.offer(roster(3, &TWO)).unwrap();
    accept(&rosters, 3);
    let before = rosters.status();
    let next = roster(4, &TWO[..1]);
    let few = Signed::from_parts(next.bytes.clone(), next.signatures[..1].to_vec());
    assert!(matches!(rosters.offer(few), Err(Doubt::Unsigned(_))));
    let mut forged = next;
    forged.bytes.push(b'\n');
    assert!(matches!(rosters.offer(forged), Err(Doubt::Unsigned(_))));
    let elsewhere = Roster::new("cardio".parse().unwrap()).with_version(9);
    assert!(matches!(rosters.offer(signed(&elsewhere, &[101, 103])), Err(Doubt::Unsigned(_))));
    assert_eq!(rosters.offer(roster(2, &TWO)), Err(Doubt::Older { told: 2, known: 3 }));
    assert_eq!(rosters.offer(roster(3, &TWO[..1])), Err(Doubt::Two(3)));
    assert_eq!((rosters.status(), rosters.why_plans_wait()), (before, None));
}

#[test]
fn a_roster_that_was_changed_on_the_disk_stops_the_start() {
    let state = TempDir::new().unwrap();
    let rosters = open(&state);
    rosters.offer(roster(3, &TWO)).unwrap();
    accept(&rosters, 3);
    let document = path_of(&state.path().join(ROSTER), 3);
    let text = fs::read_to_string(&document).unwrap();
    let changed = text.replace("charite", "charity");
    consilium_io::disk::replace(&document, changed.as_bytes()).unwrap();
    let error = Rosters::open(state.path(), consortium()).unwrap_err();
    assert!(error.to_string().contains("was changed after"), "{error}");
    // Written, and killed before its signatures were.
    signed_file::store_unsigned(&document, text.as_bytes()).unwrap();
    assert_eq!(open(&state).status().version, None);
}
