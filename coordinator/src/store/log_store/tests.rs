//! What a killed process, a bad disk or another program can leave in a state folder, and what the
//! next start makes of it.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;

use consilium_common::audit::record::{Command, RoundEnded};
use consilium_common::audit::{Entry, Outcome, Status};
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::wire::messages::TaskKind;
use consilium_io::SystemClock;
use tempfile::TempDir;

use super::*;

const ORIGIN: &str = "thorax";

fn key() -> SecretKey {
    SecretKey::from_seed(&[7; 32])
}

fn note(n: usize) -> Record {
    Record::Command(Command {
        by: "ada".into(),
        command: format!("note {n}"),
        outcome: "done".into(),
    })
}

fn roll_call(round: u64) -> Record {
    let site = "st-mary".parse().unwrap();
    let status = Status::Counted { weight: Some(3) };
    let call = RollCall {
        format: 1,
        study: "demo".parse().unwrap(),
        study_digest: Digest([1; 32]),
        round: Round(round),
        task: TaskKind::Train,
        base_version: Version(round - 1),
        base: Digest([2; 32]),
        outcome: Outcome::Committed {
            version: Version(round),
            model: Digest([3; 32]),
            strategy_state: None,
            sum: Digest([4; 32]),
            weight: 3,
        },
        sites: [(site, Entry { status, update: None })].into(),
        clipped: 0,
        metrics: [].into(),
        bytes_up: 1,
        bytes_down: 2,
        duration: Millis(3),
    };
    let signed = Signed::sign(call.to_bytes().unwrap(), &key());
    Record::RollCall(RoundEnded { signed })
}

fn open(folder: &Path) -> Result<(LogStore, Report, Vec<Record>), StoreError> {
    let key = key();
    let clock = Arc::new(SystemClock::open());
    let setup = Setup { folder, origin: ORIGIN, key: &key, clock };
    let mut seen = Vec::new();
    let (store, report) = LogStore::open(&setup, &mut |record, _| {
        seen.push(record.clone());
        Ok(())
    })?;
    Ok((store, report, seen))
}

/// A folder that was closed in good order with these records.
async fn folder_with(records: &[Record]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    for record in records {
        store.append(record).await.unwrap();
    }
    store.close().await;
    folder
}

/// What a kill leaves: the files as they are now, without the lock of the process.
fn copy(from: &Path) -> TempDir {
    fn walk(from: &Path, to: &Path) {
        for entry in fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let target = to.join(entry.file_name());
            if entry.file_type().unwrap().is_dir() {
                fs::create_dir(&target).unwrap();
                walk(&entry.path(), &target);
            } else {
                match fs::copy(entry.path(), target) {
                    // A temporary file that has just become the checkpoint.
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    copied => drop(copied.unwrap()),
                }
            }
        }
    }
    let to = tempfile::tempdir().unwrap();
    walk(from, to.path());
    to
}

async fn finds(store: &LogStore, round: u64) -> bool {
    let study = "demo".parse().unwrap();
    let by_round = store.roll_call(&study, Round(round)).await.unwrap();
    let by_version = store.version(&study, Version(round)).await.unwrap();
    assert_eq!(by_round, by_version);
    by_round.is_some_and(|signed| signed.parse_unverified().unwrap().round == Round(round))
}

#[tokio::test]
async fn what_was_appended_is_read_back_in_order_and_found_by_its_keys() {
    let records = [note(0), roll_call(1), note(1), roll_call(2)];
    let folder = folder_with(&records).await;
    let (store, report, seen) = open(folder.path()).unwrap();
    assert_eq!(seen, records);
    assert_eq!((report.records, report.dropped_bytes, report.index_rebuilt), (4, 0, None));
    assert!(finds(&store, 1).await && finds(&store, 2).await && !finds(&store, 3).await);
    store.append(&roll_call(3)).await.unwrap();
    assert!(finds(&store, 3).await);
    assert_eq!(store.records(), 5);
}

#[tokio::test]
async fn records_that_wait_together_are_written_in_their_order_and_each_is_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    let mut pending = Vec::new();
    for n in 0..100 {
        pending.push(store.submit(&note(n)).await.unwrap());
    }
    // The last one durable means that all before it are.
    pending.pop().unwrap().durable().await.unwrap();
    let killed = copy(folder.path());
    let (_, report, seen) = open(killed.path()).unwrap();
    assert_eq!(report.records, 100);
    assert_eq!(seen, (0..100).map(note).collect::<Vec<_>>());
    for record in pending {
        record.durable().await.unwrap();
    }
}

#[tokio::test]
async fn a_kill_at_any_byte_of_the_tail_loses_nothing_that_was_answered() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    store.append(&note(0)).await.unwrap();
    let acknowledged = fs::metadata(folder.path().join("log")).unwrap().len();
    store.append(&note(1)).await.unwrap();
    let whole = fs::metadata(folder.path().join("log")).unwrap().len();
    for cut in acknowledged..whole {
        let killed = copy(folder.path());
        // Checkpoint and index may cover more than this cut leaves: those are other tests.
        let _none_yet = fs::remove_file(killed.path().join("checkpoint"));
        fs::remove_dir_all(killed.path().join("index")).unwrap();
        let log = fs::File::options().write(true).open(killed.path().join("log")).unwrap();
        log.set_len(cut).unwrap();
        let (store, report, seen) = open(killed.path()).unwrap();
        assert_eq!(seen, [note(0)], "cut at {cut}");
        assert_eq!(report.dropped_bytes, cut - acknowledged);
        store.append(&note(2)).await.unwrap();
        store.close().await;
        assert_eq!(open(killed.path()).unwrap().2, [note(0), note(2)]);
    }
}

#[tokio::test]
async fn a_torn_tail_is_dropped_only_past_the_last_checkpoint() {
    let folder = folder_with(&[note(0), note(1)]).await;
    let log = fs::File::options().write(true).open(folder.path().join("log")).unwrap();
    log.set_len(log.metadata().unwrap().len() - 1).unwrap();
    let told = open(folder.path()).unwrap_err().to_string();
    assert!(told.contains("2 were synced") && told.contains("back from a copy"), "{told}");
}

#[tokio::test]
async fn damage_in_the_middle_stops_the_start_and_names_the_record() {
    let folder = folder_with(&[note(0), note(1), note(2)]).await;
    let path = folder.path().join("log");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.windows(6).position(|w| w == b"note 1").unwrap();
    bytes[at] ^= 1;
    consilium_io::disk::replace(&path, &bytes).unwrap();
    let told = open(folder.path()).unwrap_err().to_string();
    assert!(told.contains("record 1 at byte") && told.contains("damaged"), "{told}");
    assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
}

#[tokio::test]
async fn an_exchanged_log_or_a_forged_checkpoint_stops_the_start() {
    let folder = folder_with(&[note(0), note(1)]).await;
    let other = folder_with(&[note(0), note(7)]).await;
    fs::copy(other.path().join("log"), folder.path().join("log")).unwrap();
    assert!(matches!(open(folder.path()), Err(StoreError::OtherLog { size: 2 })));

    let checkpoint = other.path().join("checkpoint");
    let text = fs::read_to_string(&checkpoint).unwrap();
    for forged in [
        text.replace("thorax\n2\n", "thorax\n1\n"),
        text.replace("thorax", "cardio"),
        "thorax\n".to_owned(),
        String::new(),
    ] {
        consilium_io::disk::replace(&checkpoint, forged.as_bytes()).unwrap();
        let told = open(other.path()).unwrap_err();
        assert!(matches!(told, StoreError::Checkpoint { .. }), "{told}");
    }
}

#[tokio::test]
async fn a_record_that_the_history_refuses_is_named() {
    let folder = folder_with(&[note(0), note(1)]).await;
    let key = key();
    let clock = Arc::new(SystemClock::open());
    let setup = Setup { folder: folder.path(), origin: ORIGIN, key: &key, clock };
    let refused = LogStore::open(&setup, &mut |record, _| {
        if *record == note(1) { Err("it does not fit".into()) } else { Ok(()) }
    });
    let told = refused.unwrap_err().to_string();
    assert!(told.contains("record 1") && told.contains("it does not fit"), "{told}");
}

#[tokio::test]
async fn one_process_has_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    let told = open(folder.path()).unwrap_err();
    assert!(matches!(told, StoreError::Lock(_)), "{told}");
    assert!(told.to_string().contains(&std::process::id().to_string()), "{told}");
    store.close().await;
    open(folder.path()).unwrap();
}

#[tokio::test]
async fn an_index_that_is_missing_or_broken_or_foreign_is_made_anew() {
    let records = [note(0), roll_call(1), roll_call(2)];
    let whole = folder_with(&records).await;
    let other = folder_with(&[roll_call(5), note(1)]).await;
    type Harm = fn(&Path, &Path);
    let harms: [(&str, Harm); 5] = [
        ("missing", |index, _| fs::remove_dir_all(index).unwrap()),
        ("db of noise", |index, _| {
            consilium_io::disk::replace(&index.join("db"), &[0xa5; 100_000]).unwrap();
        }),
        ("db cut short", |index, _| {
            let db = fs::File::options().write(true).open(index.join("db")).unwrap();
            db.set_len(100).unwrap();
        }),
        ("a file in its place", |index, _| {
            fs::remove_dir_all(index).unwrap();
            consilium_io::disk::replace(index, b"noise").unwrap();
        }),
        ("of another log", |index, other| {
            fs::remove_dir_all(index).unwrap();
            fs::rename(copy(&other.join("index")).keep(), index).unwrap();
        }),
    ];
    for (name, harm) in harms {
        let folder = copy(whole.path());
        harm(&folder.path().join("index"), other.path());
        let (store, report, seen) = open(folder.path()).unwrap();
        assert_eq!(seen, records, "{name}");
        assert!(report.index_rebuilt.is_some(), "{name}: {report:?}");
        assert!(finds(&store, 1).await && finds(&store, 2).await, "{name}");
        assert!(!finds(&store, 5).await, "{name}");
        store.close().await;
        let (_, again, _) = open(folder.path()).unwrap();
        assert_eq!(again.index_rebuilt, None, "{name}");
    }
}

#[tokio::test]
async fn an_index_that_is_behind_catches_up() {
    let folder = folder_with(&[note(0), roll_call(1)]).await;
    let behind = copy(&folder.path().join("index"));
    let (store, _, _) = open(folder.path()).unwrap();
    store.append(&roll_call(2)).await.unwrap();
    store.close().await;
    let index = folder.path().join("index");
    fs::remove_dir_all(&index).unwrap();
    fs::rename(behind.keep(), &index).unwrap();
    let (store, report, _) = open(folder.path()).unwrap();
    assert_eq!(report.index_rebuilt, None);
    assert!(finds(&store, 1).await && finds(&store, 2).await);
}

#[tokio::test]
async fn an_index_that_has_seen_more_than_the_log_holds_stops_the_start() {
    let folder = folder_with(&[note(0), roll_call(1), note(2)]).await;
    let (log, index) = (folder.path().join("log"), folder.path().join("index"));
    let whole = fs::read(&log).unwrap();
    fs::remove_file(folder.path().join("checkpoint")).unwrap();
    let last = whole.windows(4).rposition(|bytes| bytes == b"CREC").unwrap();
    // Within the last record, exactly before it, and the head alone: a shorter log is whole.
    for cut in [whole.len() - 1, last, 16] {
        consilium_io::disk::replace(&log, &whole[..cut]).unwrap();
        let refused = open(folder.path()).unwrap_err();
        assert!(matches!(refused, StoreError::IndexAhead { .. }), "cut at {cut}: {refused}");
        let told = refused.to_string();
        assert!(told.contains("3 were synced") && told.contains("leave it where it is"), "{told}");
        assert_eq!(fs::read(&log).unwrap(), &whole[..cut], "nothing was changed");
    }
    fs::remove_file(&log).unwrap();
    let told = open(folder.path()).unwrap_err().to_string();
    assert!(told.contains("is missing, but 3 records"), "{told}");
    assert!(told.contains("leave it where it is") && !log.exists(), "nothing was created: {told}");

    // Whoever knows better says so.
    consilium_io::disk::replace(&log, &whole[..last]).unwrap();
    fs::remove_dir_all(&index).unwrap();
    let (store, report, seen) = open(folder.path()).unwrap();
    assert_eq!((report.records, seen), (2, vec![note(0), roll_call(1)]));
    assert!(finds(&store, 1).await);
}

#[tokio::test]
async fn an_older_log_with_its_checkpoint_may_go_on_without_the_newer_index() {
    let folder = folder_with(&[note(0)]).await;
    let older = copy(folder.path());
    let (store, _, _) = open(folder.path()).unwrap();
    store.append(&note(1)).await.unwrap();
    store.close().await;
    for file in ["log", "checkpoint"] {
        fs::copy(older.path().join(file), folder.path().join(file)).unwrap();
    }
    let told = open(folder.path()).unwrap_err().to_string();
    assert!(told.contains("2 were synced") && told.contains("delete that folder"), "{told}");
    fs::remove_dir_all(folder.path().join("index")).unwrap();
    assert_eq!(open(folder.path()).unwrap().2, [note(0)]);
}

#[tokio::test]
async fn an_index_of_other_records_counts_until_a_checkpoint_says_which_are_right() {
    let folder = folder_with(&[note(0), note(1)]).await;
    let other = folder_with(&[note(0), note(7)]).await;
    fs::copy(other.path().join("log"), folder.path().join("log")).unwrap();
    fs::remove_file(folder.path().join("checkpoint")).unwrap();
    let refused = open(folder.path()).unwrap_err();
    assert!(matches!(refused, StoreError::OtherIndex { records: 2, .. }), "{refused}");
    fs::copy(other.path().join("checkpoint"), folder.path().join("checkpoint")).unwrap();
    let (_, report, seen) = open(folder.path()).unwrap();
    assert_eq!(seen, [note(0), note(7)]);
    assert_eq!(report.index_rebuilt.as_deref(), Some("it was of another log"));
}

#[tokio::test]
async fn a_missing_log_beside_a_checkpoint_is_a_loss() {
    let folder = folder_with(&[note(0), note(1)]).await;
    fs::remove_file(folder.path().join("log")).unwrap();
    let told = open(folder.path()).unwrap_err().to_string();
    assert!(told.contains("is missing, but 2 records were synced"), "{told}");
    assert!(!folder.path().join("log").exists());
}

#[tokio::test]
async fn a_start_leaves_a_checkpoint_over_all_that_it_read() {
    let folder = folder_with(&[note(0), note(1)]).await;
    let checkpoint = folder.path().join("checkpoint");
    let whole = fs::read(&checkpoint).unwrap();
    fs::remove_file(&checkpoint).unwrap();
    open(folder.path()).unwrap().0.close().await;
    assert_eq!(fs::read(&checkpoint).unwrap(), whole);
}

#[tokio::test]
async fn a_record_over_the_limit_is_refused_and_the_store_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    let huge = Record::Command(Command {
        by: "x".repeat(2 << 20),
        command: String::new(),
        outcome: String::new(),
    });
    assert!(matches!(store.append(&huge).await, Err(StoreError::Record(_))));
    store.append(&note(0)).await.unwrap();
}

#[tokio::test]
async fn a_closed_store_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _, _) = open(folder.path()).unwrap();
    store.close().await;
    assert!(matches!(store.append(&note(0)).await, Err(StoreError::Closed)));
}
