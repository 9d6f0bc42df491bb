use super::judge::tests::{ORIGIN, key, told};
use super::*;

const WHOLE: u64 = u64::MAX;

fn open(state: &Path) -> Witness {
    Witness::open(state, ORIGIN, key().public()).unwrap()
}

#[test]
fn a_restart_goes_on_from_what_was_written() {
    let state = tempfile::tempdir().unwrap();
    let witness = open(state.path());
    assert_eq!((witness.records(), witness.status().kept), (0, None));
    assert_eq!(witness.take(&told(WHOLE, 40, 0)), Ok(News::Further));
    assert_eq!(witness.take(&told(WHOLE, 40, 40)), Ok(News::None));
    witness.write().unwrap();
    let again = open(state.path());
    assert_eq!(again.records(), 40);
    assert!(again.take(&told(7, 50, 40)).is_err());
}

#[test]
fn a_contradiction_is_kept_until_a_person_accepts_it_or_the_log_is_right_again() {
    let state = tempfile::tempdir().unwrap();
    let witness = open(state.path());
    assert!(matches!(witness.accept(), Err(WitnessError::Agrees)));
    witness.take(&told(WHOLE, 40, 0)).unwrap();
    let doubt = witness.take(&told(7, 50, 40)).unwrap_err();
    assert!(matches!(doubt, Doubt::History { .. }), "{doubt}");
    // The first one stays: a log goes on growing while nobody is there.
    assert!(witness.take(&told(7, 60, 40)).is_err());
    assert_eq!(witness.status().contradiction.unwrap().records, 50);
    witness.write().unwrap();
    assert_eq!(witness.take(&told(WHOLE, 60, 40)), Ok(News::Agrees));
    assert_eq!(witness.status().contradiction, None);

    witness.take(&told(7, 50, 60)).unwrap_err();
    witness.write().unwrap();
    witness.accept().unwrap();
    assert_eq!(witness.records(), 50);
    assert_eq!(witness.take(&told(7, 90, 50)), Ok(News::Further));
    witness.write().unwrap();
    assert_eq!(open(state.path()).records(), 90);
    let mut names: Vec<String> = std::fs::read_dir(state.path().join(WITNESS))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(names[0] == "checkpoint" && names[1].starts_with("checkpoint-60-"), "{names:?}");
    assert!(names[2].starts_with("contradiction-50-"), "{names:?}");
}

#[test]
fn a_damaged_memory_stops_the_start_and_says_what_to_do() {
    let state = tempfile::tempdir().unwrap();
    let witness = open(state.path());
    witness.take(&told(WHOLE, 40, 0)).unwrap();
    witness.write().unwrap();
    let path = state.path().join(WITNESS).join(KEPT);
    let text = std::fs::read_to_string(&path).unwrap().replace("40", "41");
    consilium_io::disk::replace(&path, text.as_bytes()).unwrap();
    let told = Witness::open(state.path(), ORIGIN, key().public()).unwrap_err().to_string();
    assert!(told.contains("witness/checkpoint") && told.contains("begins anew"), "{told}");
}
