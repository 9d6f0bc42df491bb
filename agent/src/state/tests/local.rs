//! Local states: with their update until it counts, then in its place, and never half.

use std::sync::Arc;

use consilium_common::ids::{Digest, Round};
use consilium_common::limits::LOCAL_BYTES_MAX;
use consilium_io::disk::replace;

use super::*;
use crate::session::{NextLocal, Promotion, Stamp, promotion};
use crate::state::local::{append, append_with_control, copy, left_at, open_control};

/// The next local state of a study whose `[model]` section has digest 3.
fn next(bytes: &[u8], from: Option<Stamp>) -> NextLocal {
    let (digest, bytes) = (Digest::of(bytes), bytes.len() as u64);
    NextLocal { digest, bytes, spec: Digest([3; 32]), from, control: None }
}

/// Retains an update of a round that carries a local state.
fn keep_with_local(
    state: &mut StateFolder,
    round: u64,
    update: &[u8],
    local: &[u8],
) -> Arc<Record> {
    let mut retention = retention(round, update);
    // JSON does not bring this one back to the last bit.
    retention.record.norm = 7.595_815_488_496_703_5;
    let from = state.local.get(&retention.record.study).map(|current| current.stamp());
    let left = state.tasks().join("left");
    replace(&left, local).unwrap();
    let path = state.retained.path_of(&retention.record.study, Round(round));
    let record = write(&path, |out| {
        out.write_all(&retention.update)?;
        retention.record.local = append(&left, Digest([3; 32]), from, out)?;
        Ok(retention.record.clone())
    });
    assert_eq!(retention.record.local, Some(next(local, from)));
    state.retained.insert(record.unwrap())
}

fn promote(state: &mut StateFolder, record: &Record) -> Result<(), StateError> {
    let update = state.retained.path_of(&record.study, record.round);
    let to = state.local.path_of(&record.study);
    crate::state::local::promote(&update, record, &to).map(|current| state.local.insert(current))
}

/// What a worker of the study would be given.
fn given(state: &StateFolder) -> Result<Vec<u8>, StateError> {
    let study = "x-ray".parse().unwrap();
    let to = state.tasks().join("given");
    let current = state.local.get(&study).unwrap();
    copy(&state.local.path_of(&study), current, &to)?;
    Ok(fs::read(to).unwrap())
}

#[test]
fn a_local_state_comes_with_its_update_and_outlives_it_once_promoted() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    for round in 7..9 {
        let local = vec![u8::try_from(round).unwrap(); 3_000_000];
        keep_with_local(&mut state, round, b"update", &local);
        drop(state);
        state = StateFolder::open(&folder).unwrap();
        let record = Arc::clone(state.retained.iter().next().unwrap());
        let path = state.retained.path_of(&record.study, Round(round));
        assert_eq!(retained::open(&path, &record).unwrap().length(), 6, "pushed without it");
        promote(&mut state, &record).unwrap();
        state.retained.erase(&record.study, Round(round)).unwrap();
        drop(state);
        state = StateFolder::open(&folder).unwrap();
        assert_eq!(given(&state).unwrap(), local);
        let current = state.local.get(&record.study).unwrap();
        assert_eq!((current.round, current.study_digest), (Round(round), Digest([1; 32])));
    }
    use std::os::unix::fs::PermissionsExt;
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let study = "x-ray".parse().unwrap();
    assert_eq!(mode(state.local.path_of(&study)), 0o600);
    assert_eq!(mode(state.tasks().join("given")), 0o600);
}

/// Retains an update that carries a control variate, beside what the worker left, if it left something;
/// `given` is what it was given.
fn keep_with_control(
    state: &mut StateFolder,
    round: u64,
    (left, given): (Option<&[u8]>, Option<&[u8]>),
    variate: &[u8],
) -> Arc<Record> {
    let mut retention = retention(round, b"update");
    let from = state.local.get(&retention.record.study).map(|current| current.stamp());
    let places = ["left", "given"].map(|name| state.tasks().join(name));
    for (place, bytes) in places.iter().zip([left, given]) {
        let _none = fs::remove_file(place);
        if let Some(bytes) = bytes {
            replace(place, bytes).unwrap();
        }
    }
    let places = places.each_ref().map(PathBuf::as_path);
    let path = state.retained.path_of(&retention.record.study, Round(round));
    let record = write(&path, |out| {
        out.write_all(&retention.update)?;
        let control = |out: &mut dyn std::io::Write| out.write_all(variate);
        let next = append_with_control(places, Digest([3; 32]), from, control, out)?;
        retention.record.local = Some(next);
        Ok(retention.record.clone())
    });
    state.retained.insert(record.unwrap())
}

/// The control variate of the current state.
fn variate(state: &StateFolder) -> Result<Vec<u8>, StateError> {
    let study = "x-ray".parse().unwrap();
    let current = state.local.get(&study).unwrap();
    let (mut file, first) = open_control(&state.local.path_of(&study), current)?;
    let mut bytes = vec![0; usize::try_from(current.control.unwrap().bytes).unwrap()];
    std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(first)).unwrap();
    std::io::Read::read_exact(&mut file, &mut bytes).unwrap();
    Ok(bytes)
}

#[test]
fn a_control_variate_moves_with_its_update_beside_what_the_worker_left() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let study = "x-ray".parse().unwrap();
    let heads = Some(b"heads".as_slice());
    let rounds = [(None, None), (heads, None), (None, heads)];
    for (round, (left, worker)) in (7..).zip(rounds) {
        let of_worker = left.or(worker).unwrap_or_default();
        let variate_of = vec![u8::try_from(round).unwrap(); 2_000_000];
        keep_with_control(&mut state, round, (left, worker), &variate_of);
        if round > 7 {
            assert_ne!(variate(&state).unwrap(), variate_of, "not before it counts");
        }
        drop(state);
        state = StateFolder::open(&folder).unwrap();
        let record = Arc::clone(state.retained.iter().next().unwrap());
        promote(&mut state, &record).unwrap();
        state.retained.erase(&record.study, Round(round)).unwrap();
        drop(state);
        state = StateFolder::open(&folder).unwrap();
        assert_eq!(variate(&state).unwrap(), variate_of);
        assert_eq!(given(&state).unwrap(), of_worker, "without the variate");
        let current = state.local.get(&study).unwrap();
        assert_eq!((current.round, current.is_of_worker()), (Round(round), round > 7));
    }
}

#[test]
fn a_damaged_control_variate_is_never_used() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let record = keep_with_control(&mut state, 7, (Some(b"heads"), None), b"variate");
    promote(&mut state, &record).unwrap();
    let path = state.local.path_of(&record.study);
    let whole = fs::read(&path).unwrap();
    for at in 5..12 {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        replace(&path, &bytes).unwrap();
        let why = variate(&state).unwrap_err();
        assert!(matches!(why, StateError::Damaged { .. }), "{at}: {why}");
        assert_eq!(given(&state).unwrap(), b"heads");
    }
    let record = keep_with_control(&mut state, 8, (None, None), b"variate");
    let update = state.retained.path_of(&record.study, Round(8));
    let mut bytes = fs::read(&update).unwrap();
    bytes[b"update".len() + 3] ^= 1;
    replace(&update, &bytes).unwrap();
    let why = promote(&mut state, &record).unwrap_err();
    assert!(matches!(why, StateError::Damaged { .. }), "{why}");
}

#[test]
fn a_promotion_is_due_once_and_an_update_that_comes_back_turns_nothing_back() {
    let stamp =
        |round, bytes: &[u8]| Some(Stamp { round: Round(round), digest: Digest::of(bytes) });
    let (first, second) = (next(b"1", None), next(b"2", stamp(5, b"1")));
    let says = |current, round, next| promotion(current, Round(round), next);
    assert_eq!(says(None, 5, &first), Promotion::Due);
    assert_eq!(says(stamp(5, b"1"), 5, &first), Promotion::Done, "a crash before the erasure");
    assert_eq!(says(stamp(5, b"1"), 8, &second), Promotion::Due);
    assert_eq!(says(stamp(8, b"2"), 8, &second), Promotion::Done);
    assert_eq!(says(stamp(8, b"2"), 5, &first), Promotion::Stale, "an erasure that was lost");
    assert_eq!(says(None, 8, &second), Promotion::Due, "the current one was set aside");
    let same = next(b"1", stamp(5, b"1"));
    assert_eq!(says(stamp(5, b"1"), 8, &same), Promotion::Due, "equal bytes of a later round");
}

#[test]
fn a_kill_at_any_byte_of_a_promotion_leaves_the_old_state() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let old = keep_with_local(&mut state, 7, b"update", b"old state");
    promote(&mut state, &old).unwrap();
    let place = folder.join("local");
    let whole = fs::read(place.join("x-ray.local")).unwrap();
    drop(state);
    for cut in (0..whole.len()).step_by(7) {
        replace(&place.join(".new-part"), &whole[..cut]).unwrap();
        let state = StateFolder::open(&folder).unwrap();
        assert_eq!(given(&state).unwrap(), b"old state", "cut at {cut}");
        assert_eq!(names(&place), ["x-ray.local"]);
    }
}

#[test]
fn a_damaged_local_state_is_never_given_to_a_worker() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let record = keep_with_local(&mut state, 7, b"update", b"some state");
    promote(&mut state, &record).unwrap();
    let path = folder.join("local/x-ray.local");
    let whole = fs::read(&path).unwrap();
    drop(state);
    let format_at = whole.len() - 6;
    let places = (0..whole.len()).step_by(3);
    for at in places.filter(|at| !(format_at..format_at + 2).contains(at)) {
        let mut flipped = whole.clone();
        flipped[at] ^= 0x80;
        for bytes in [&flipped[..], &whole[..at]] {
            replace(&path, bytes).unwrap();
            let mut state = StateFolder::open(&folder).unwrap();
            if state.local.get(&record.study).is_some() {
                // The record is sound: its bytes are looked at when they are needed.
                let why = given(&state).unwrap_err();
                assert!(matches!(why, StateError::Damaged { .. }), "{at}: {why}");
                state.local.set_aside(&record.study, &why).unwrap();
            }
            assert!(state.local.get(&record.study).is_none() && !path.exists(), "{at}");
        }
    }
    let mut newer = whole.clone();
    newer[format_at] = 9;
    replace(&path, &newer).unwrap();
    let told = StateFolder::open(&folder).unwrap_err();
    assert!(matches!(told, StateError::NewerFormat { what: "local state", .. }), "{told}");
    fs::rename(&path, folder.join("local/retina.local")).unwrap();
    replace(&folder.join("local/retina.local"), &whole).unwrap();
    let state = StateFolder::open(&folder).unwrap();
    assert!(state.local.get(&"retina".parse().unwrap()).is_none(), "another study's");
}

#[test]
fn a_local_state_that_rots_in_its_update_is_not_promoted() {
    let (_keep, folder) = fresh();
    let mut state = StateFolder::open(&folder).unwrap();
    let old = keep_with_local(&mut state, 7, b"update", b"old state");
    promote(&mut state, &old).unwrap();
    let record = keep_with_local(&mut state, 8, b"update", b"new state");
    let path = state.retained.path_of(&record.study, Round(8));
    let mut bytes = fs::read(&path).unwrap();
    bytes[b"update".len()] ^= 1;
    replace(&path, &bytes).unwrap();
    let why = promote(&mut state, &record).unwrap_err();
    assert!(matches!(why, StateError::Damaged { .. }), "{why}");
    assert_eq!(given(&state).unwrap(), b"old state");
}

#[test]
fn what_a_worker_left_is_a_bounded_plain_file_or_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let left = |name: &str| left_at(&folder.path().join(name));
    assert_eq!(left("none").unwrap(), None);
    replace(&folder.path().join("some"), b"abc").unwrap();
    assert_eq!(left("some").unwrap(), Some(3));
    std::os::unix::fs::symlink("/etc/passwd", folder.path().join("link")).unwrap();
    let large = fs::File::create(folder.path().join("large")).unwrap();
    large.set_len(LOCAL_BYTES_MAX + 1).unwrap();
    for (name, said) in [("link", "not a plain file"), ("large", "1073741825 bytes, at most")] {
        let told = left(name).unwrap_err().to_string();
        assert!(told.contains(said), "{told}");
    }
}
