mod local;
mod patients;

use consilium_common::ids::{Digest, Round};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::time::WallMillis;
use consilium_common::update::words::Metrics;
use consilium_io::disk::replace;
use tempfile::TempDir;

use super::retained::write;
use super::*;
use crate::policy::{Decided, Person, Said};

/// An update and what is known of it.
struct Retention {
    record: Record,
    update: Vec<u8>,
}

fn retention(round: u64, update: &[u8]) -> Retention {
    Retention {
        record: Record {
            study: "x-ray".parse().unwrap(),
            study_digest: Digest([1; 32]),
            round: Round(round),
            digest: Digest::of(update),
            bytes: update.len() as u64,
            rounding_seed: Digest([2; 32]),
            weight: 10,
            norm: 0.5,
            control_norm: None,
            clipped: false,
            metrics: Metrics(vec![1, 2]),
            local: None,
        },
        update: update.to_vec(),
    }
}

fn keep(state: &mut StateFolder, retention: &Retention) {
    let path = state.retained.path_of(&retention.record.study, retention.record.round);
    let record = write(&path, |out| {
        out.write_all(&retention.update)?;
        Ok(retention.record.clone())
    });
    state.retained.insert(record.unwrap());
}

fn names(folder: &Path) -> Vec<String> {
    let name = |path: &PathBuf| path.file_name().unwrap().to_string_lossy().into_owned();
    entries(folder).unwrap().iter().map(name).collect()
}

fn signed_study(purpose: &str) -> Signed<Study> {
    let text = format!(
        "[study]\nname = \"x-ray\"\npurpose = {purpose:?}\n[model]\nfamily = \"synthetic\"\n\
         parameters = 4\n[aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
    );
    let study = Study::read(&text, "x").unwrap().resolve().unwrap();
    let text = study.to_text().unwrap();
    Signed::sign(text.into_bytes(), &SecretKey::from_seed(&[7; 32]))
}

fn accepted() -> Decided {
    let word = |text: &str| text.to_owned();
    let said = Said { by: word("ada"), reason: word("r"), account: word("a"), at: WallMillis(5) };
    Decided::default().with(Person::Accepted, said)
}

fn fresh() -> (TempDir, PathBuf) {
    let keep = tempfile::tempdir().unwrap();
    let folder = keep.path().join("state");
    (keep, folder)
}

#[test]
fn what_was_retained_and_decided_is_there_after_a_restart() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let (old, new) = (retention(7, b"old bytes"), retention(7, b"new"));
    keep(&mut state, &old);
    keep(&mut state, &new);
    keep(&mut state, &retention(8, b""));
    let digest = state.studies.keep(signed_study("a")).unwrap().digest;
    state.studies.decide(digest, accepted()).unwrap();
    drop(state);

    let mut state = StateFolder::open(&folder).unwrap();
    let records: Vec<_> = state.retained.iter().map(|record| (**record).clone()).collect();
    assert_eq!(records, [new.record.clone(), retention(8, b"").record]);
    let known = state.studies.get(&digest).unwrap();
    assert_eq!(known.decided, Some(accepted()));
    assert_eq!(known.signed, signed_study("a"));
    state.retained.erase(&new.record.study, Round(7)).unwrap();
    state.retained.erase(&new.record.study, Round(7)).unwrap();
    assert_eq!(names(&folder.join("retained")), ["x-ray-8.update"]);
}

#[test]
fn the_updates_bytes_come_first_so_that_a_push_reads_them_by_position() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let kept = retention(7, b"the update");
    keep(&mut state, &kept);
    let path = state.retained.path_of(&kept.record.study, Round(7));
    assert!(fs::read(&path).unwrap().starts_with(b"the update"));
    assert_eq!(retained::open(&path, &kept.record).unwrap().length(), 10);
}

#[test]
fn a_kill_at_any_byte_of_a_new_update_leaves_the_old_one() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let old = retention(7, b"old bytes");
    keep(&mut state, &old);
    let place = folder.join("retained");
    let whole = fs::read(place.join("x-ray-7.update")).unwrap();
    drop(state);
    for cut in 0..whole.len() {
        // What a killed writer leaves: a part of the temporary file, the old name untouched.
        replace(&place.join(".new-part"), &whole[..cut]).unwrap();
        let state = StateFolder::open(&folder).unwrap();
        assert_eq!(**state.retained.iter().next().unwrap(), old.record, "cut at {cut}");
        assert_eq!(names(&place), ["x-ray-7.update"]);
    }
    assert!(names(&folder.join("set-aside")).is_empty());
}

#[test]
fn a_torn_or_flipped_update_is_set_aside_and_never_offered() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    keep(&mut state, &retention(7, b"some bytes"));
    let place = folder.join("retained");
    let whole = fs::read(place.join("x-ray-7.update")).unwrap();
    drop(state);
    let seven = place.join("x-ray-7.update");
    let mut damaged: Vec<Vec<u8>> = (0..whole.len()).map(|cut| whole[..cut].to_vec()).collect();
    damaged.extend((0..whole.len()).map(|at| {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x80;
        flipped
    }));
    // The two bytes of the format number: another release's file is no damage.
    let format_at = whole.len() - 6;
    let count = damaged.len();
    for (index, bytes) in damaged.into_iter().enumerate() {
        if index >= whole.len() && (format_at..format_at + 2).contains(&(index - whole.len())) {
            continue;
        }
        replace(&seven, &bytes).unwrap();
        let state = StateFolder::open(&folder).unwrap();
        assert_eq!(state.retained.iter().count(), 0, "damage {index}");
    }
    assert_eq!(names(&folder.join("set-aside")).len(), count - 2, "nothing is deleted unread");
}

#[test]
fn an_update_of_a_newer_release_stops_the_start_and_names_the_file() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    keep(&mut state, &retention(7, b"some bytes"));
    drop(state);
    let path = folder.join("retained/x-ray-7.update");
    let mut bytes = fs::read(&path).unwrap();
    let at = bytes.len() - 6;
    bytes[at] = 9;
    replace(&path, &bytes).unwrap();
    let told = StateFolder::open(&folder).unwrap_err();
    assert!(matches!(told, StateError::NewerFormat { have: 9, known: 1, .. }), "{told}");
    assert!(told.to_string().contains("x-ray-7.update"), "{told}");
}

#[test]
fn an_update_under_another_name_is_not_taken_for_that_round() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    keep(&mut state, &retention(7, b"some bytes"));
    drop(state);
    let place = folder.join("retained");
    fs::rename(place.join("x-ray-7.update"), place.join("x-ray-9.update")).unwrap();
    let state = StateFolder::open(&folder).unwrap();
    assert_eq!(state.retained.iter().count(), 0);
    assert_eq!(names(&folder.join("set-aside")), ["x-ray-9.update.0"]);
}

#[test]
fn a_damaged_study_is_set_aside_and_an_unreadable_decision_is_none() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let (a, b) = (signed_study("a"), signed_study("b"));
    for signed in [&a, &b] {
        state.studies.keep(signed.clone()).unwrap();
        state.studies.decide(signed.digest(), accepted()).unwrap();
    }
    drop(state);
    let place = folder.join("studies");
    replace(&place.join(format!("{}.toml", a.digest())), b"[study]").unwrap();
    replace(&place.join(format!("{}.decision", b.digest())), b"{\"person\":").unwrap();
    replace(&place.join("notes.txt"), b"hello").unwrap();
    let mut state = StateFolder::open(&folder).unwrap();
    assert!(state.studies.get(&a.digest()).is_none());
    assert_eq!(state.studies.get(&b.digest()).unwrap().decided, None, "fail closed");
    assert_eq!(names(&folder.join("set-aside")).len(), 2);
    // Offered again, it is what the person accepted: the digest is the same.
    let known = state.studies.keep(a).unwrap();
    assert_eq!(known.decided, Some(accepted()));
}

#[test]
fn a_study_whose_signatures_a_crash_took_is_unknown_until_it_is_offered_again() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let digest = state.studies.keep(signed_study("a")).unwrap().digest;
    drop(state);
    fs::remove_file(folder.join(format!("studies/{digest}.sig"))).unwrap();
    assert_eq!(look_at_studies(&folder).unwrap().iter().count(), 0);
    let mut state = StateFolder::open(&folder).unwrap();
    assert!(state.studies.get(&digest).is_none());
    state.studies.keep(signed_study("a")).unwrap();
}

#[test]
fn only_the_last_bases_are_kept_and_a_damaged_one_is_had_again() {
    let (_keep, folder) = fresh();
    let state = StateFolder::open(&folder).unwrap();
    let blobs = state.cache.blobs();
    let digests: Vec<Digest> = (0..12_u8)
        .map(|n| {
            let digest = blobs.put_bytes(&[n; 100], consilium_io::disk::Durability::Cache).unwrap();
            assert!(state.cache.holds(digest).unwrap());
            digest
        })
        .collect();
    let held: Vec<bool> = digests.iter().map(|d| blobs.contains(*d)).collect();
    assert_eq!(held.iter().filter(|held| **held).count(), cache::CACHED_MAX);
    assert!(held[11] && !held[0]);
    replace(&blobs.path_of(digests[11]), &[9; 100]).unwrap();
    assert!(!state.cache.holds(digests[11]).unwrap());
    assert!(!blobs.contains(digests[11]));
}

#[test]
fn one_process_a_folder_and_workers_folders_do_not_outlive_it() {
    let (_keep, folder) = fresh();
    let state = StateFolder::open(&folder).unwrap();
    fs::create_dir(state.tasks().join("task-left")).unwrap();
    let told = StateFolder::open(&folder).unwrap_err().to_string();
    assert!(told.contains(&format!("process {}", std::process::id())), "{told}");
    drop(state);
    let state = StateFolder::open(&folder).unwrap();
    assert!(names(&state.tasks()).is_empty());
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(&folder).unwrap().permissions().mode();
    assert_eq!(mode & 0o077, 0, "for this user alone");
}
