//! Whose records a round used: what lasts, what is shared, and what a trace says of it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::wire::messages::TaskKind;
use consilium_common::worker::Census;
use consilium_common::worker::patients::{PatientHash, PatientSet};
use consilium_io::disk::replace_private;

use super::fresh;
use crate::state::patients::{Part, RoundUse};
use crate::state::{StateFolder, look_at_patients};

fn study() -> StudyId {
    "ward".parse().unwrap()
}

fn round(number: u64, task: TaskKind) -> RoundUse {
    RoundUse {
        round: Round(number),
        study_digest: Digest([1; 32]),
        task,
        base: Version(number - 1),
        used: None,
        scored: None,
        counted: None,
    }
}

/// What a worker leaves: who was used, and who scored.
fn left(state: &StateFolder, room: &Path, used: &[&str], scored: &[&str]) -> Census {
    let key = state.patients.key().unwrap();
    let put = |name: &str, patients: &[&str]| {
        let path = room.join(name);
        let _none = fs::remove_file(&path);
        if !patients.is_empty() {
            let set = patients.iter().map(|patient| PatientHash::of(&key, patient));
            let bytes = PatientSet(set.collect()).to_bytes();
            replace_private(&path, &bytes).unwrap();
        }
        path
    };
    Census {
        key: state.patients.key_path(),
        used: put("used", used),
        scored: put("scored", scored),
    }
}

#[test]
fn a_trace_is_what_was_done_and_outlives_the_daemon() {
    let (keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    for number in 1..=4 {
        let out = number == 3;
        let used: &[&str] = if out { &["ben"] } else { &["ada-lovelace", "ben"] };
        let census = left(&state, keep.path(), used, &["cy"]);
        state.patients.begin(&study(), round(number, TaskKind::Train), &census).unwrap();
        // The third round's fate is not known, the fourth's update did not count.
        if number != 3 {
            state.patients.settle(&study(), Round(number), number != 4).unwrap();
        }
    }
    let census = left(&state, keep.path(), &[], &[]);
    state.patients.begin(&study(), round(5, TaskKind::Train), &census).unwrap();
    state.patients.settle(&study(), Round(9), true).unwrap();
    drop(state);
    let patients = look_at_patients(&folder).unwrap();
    let rounds = |patient: &str| -> Vec<(u64, Option<u64>, Part)> {
        let trace = patients.trace(patient).unwrap();
        assert_eq!(trace.unknown, [(study(), Round(5))], "its records named nobody");
        let row = |(_, round, part): &(StudyId, RoundUse, Part)| {
            (round.round.0, round.version().map(|version| version.0), *part)
        };
        trace.rounds.iter().map(row).collect()
    };
    let (used, scored) = (Part { used: true, scored: false }, Part { used: false, scored: true });
    assert_eq!(rounds("ada-lovelace"), [(1, Some(1), used), (2, Some(2), used), (4, None, used)]);
    assert_eq!(rounds(" cy ").iter().filter(|row| row.2 == scored).count(), 4);
    assert_eq!(rounds("dan"), []);

    let names = super::names(&folder.join("patients"));
    let sets = names.iter().filter(|name| name.ends_with(".set")).count();
    assert_eq!((names.len(), sets), (5, 3), "rounds share what does not change: {names:?}");
    for name in names {
        let path = folder.join("patients").join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let bytes = fs::read(&path).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"lovelace"), "nobody is named");
    }
}

#[test]
fn a_trace_that_would_be_wrong_stops_the_start() {
    let (keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let census = left(&state, keep.path(), &["ada-lovelace"], &[]);
    state.patients.begin(&study(), round(1, TaskKind::Train), &census).unwrap();
    drop(state);
    let (key, rounds) = (folder.join("patients/key"), folder.join("patients/ward.rounds"));
    fs::rename(&key, folder.join("elsewhere")).unwrap();
    let told = StateFolder::open(&folder).unwrap_err().to_string();
    assert!(told.contains("no patient of a round is known"), "{told}");
    fs::rename(folder.join("elsewhere"), &key).unwrap();
    let set = super::names(&folder.join("patients")).into_iter().find(|n| n.ends_with(".set"));
    let set = folder.join("patients").join(set.unwrap());
    replace_private(&set, &PatientSet::default().to_bytes()).unwrap();
    let told = look_at_patients(&folder).unwrap().trace("ada-lovelace").unwrap_err().to_string();
    assert!(told.contains("the digest of its name"), "{told}");
    replace_private(&rounds, b"{}").unwrap();
    let told = StateFolder::open(&folder).unwrap_err().to_string();
    assert!(told.contains("ward.rounds was damaged"), "{told}");
}

#[test]
fn no_byte_of_a_patients_file_or_of_the_key_changes_unseen() {
    let (keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let census = left(&state, keep.path(), &["ada-lovelace"], &[]);
    state.patients.begin(&study(), round(1, TaskKind::Train), &census).unwrap();
    state.patients.settle(&study(), Round(1), true).unwrap();
    drop(state);
    assert_eq!(look_at_patients(&folder).unwrap().trace("ada-lovelace").unwrap().rounds.len(), 1);
    for name in ["ward.rounds", "key"] {
        let path = folder.join("patients").join(name);
        let good = fs::read(&path).unwrap();
        for byte in 0..good.len() {
            let (mut bad, bit) = (good.clone(), byte % 8);
            bad[byte] ^= 1 << bit;
            replace_private(&path, &bad).unwrap();
            let told = match look_at_patients(&folder) {
                Err(error) => error.to_string(),
                // The same digest in capital letters.
                Ok(same) => {
                    let trace = same.trace("ada-lovelace").unwrap();
                    assert_eq!(trace.rounds.len(), 1, "{name} byte {byte}");
                    continue;
                }
            };
            let words = ["damaged", "format"];
            assert!(words.iter().any(|word| told.contains(word)), "{name} byte {byte}: {told}");
        }
        replace_private(&path, &good).unwrap();
    }
    assert!(look_at_patients(&folder).is_ok());
}

#[test]
fn a_withdrawal_that_was_damaged_stops_the_start_and_says_where_it_still_stands() {
    use consilium_common::audit::withdrawal::{Remedy, ranges_of};
    use consilium_common::wire::messages::Withdrawal;

    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let versions = ranges_of([Version(1), Version(2), Version(3)]);
    let (id, remedy) = (Digest([7; 32]), Remedy::Retire);
    state.withdrawals.keep(Withdrawal { id, study: study(), versions, remedy }).unwrap();
    drop(state);
    let state = StateFolder::open(&folder).unwrap();
    assert_eq!(state.withdrawals.iter().count(), 1);
    drop(state);
    let path = folder.join("withdrawals").join(format!("{id}.withdrawal"));
    let text = fs::read_to_string(&path).unwrap();
    let changed = text.replace("\"last\":3", "\"last\":1");
    assert_ne!(changed, text);
    replace_private(&path, changed.as_bytes()).unwrap();
    let told = StateFolder::open(&folder).unwrap_err().to_string();
    assert!(told.contains("not what was written") && told.contains("data withdraw"), "{told}");
}
