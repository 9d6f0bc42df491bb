//! The fold over records, and each way in which a record does not fit.

use consilium_common::audit::record::{Retrained, RoundEnded, StudyStateSet};
use consilium_common::audit::{Entry, Status};
use consilium_common::time::Millis;
use consilium_common::wire::reject::Code;

use super::*;
use crate::limits::RETRAININGS_MAX;

const TOML: &str = r#"
[study]
name = "demo"
[model]
family = "synthetic"
parameters = 5
[aggregation]
clip_norm = 10.0
[privacy]
mode = "inspectable"
"#;

fn key() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

fn submission(change: impl Fn(&str) -> String) -> Record {
    let study = Study::read(&change(TOML), "demo.toml").unwrap().resolve().unwrap();
    Record::StudySubmitted(StudySubmitted {
        signed: Signed::sign(study.to_text().unwrap().into_bytes(), &key()),
        by: "olga".to_owned(),
    })
}

fn demo() -> StudyId {
    "demo".parse().unwrap()
}

fn plan(round: u64) -> Record {
    Record::Plan(PlanMade {
        study: demo(),
        study_digest: Digest([1; 32]),
        round: Round(round),
        task: TaskKind::Train,
        base_version: Version(0),
        base: Digest([2; 32]),
        preparation: None,
        control: None,
        invited: vec!["a".parse().unwrap()],
        remaining: Millis(100),
    })
}

fn receipt(round: u64, update: u8) -> Record {
    let receipt = Receipt {
        format: 1,
        study: demo(),
        study_digest: Digest([1; 32]),
        round: Round(round),
        site: "a".parse().unwrap(),
        update: Digest([update; 32]),
        bytes: 100,
    };
    let signed = Signed::sign(receipt.to_bytes().unwrap(), &key());
    Record::Receipt(consilium_common::audit::record::ReceiptGiven { signed })
}

fn roll_call(round: u64, task: TaskKind, outcome: Outcome) -> Record {
    let entry = Entry { status: Status::Excluded { code: Code::Idle }, update: None };
    let roll_call = RollCall {
        format: 1,
        study: demo(),
        study_digest: Digest([1; 32]),
        round: Round(round),
        task,
        base_version: Version(0),
        base: Digest([2; 32]),
        outcome,
        sites: BTreeMap::from([("a".parse().unwrap(), entry)]),
        clipped: 0,
        metrics: BTreeMap::new(),
        bytes_up: 0,
        bytes_down: 0,
        duration: Millis(1),
    };
    Record::RollCall(RoundEnded { signed: Signed::sign(roll_call.to_bytes().unwrap(), &key()) })
}

fn committed(version: u64) -> Outcome {
    Outcome::Committed {
        version: Version(version),
        model: Digest([8; 32]),
        strategy_state: None,
        sum: Digest([7; 32]),
        weight: 1,
    }
}

fn abandoned() -> Outcome {
    Outcome::Abandoned { reason: "x".to_owned() }
}

fn history(records: &[Record]) -> History {
    let mut history = History::new();
    for record in records {
        history.apply(record).unwrap();
    }
    history
}

fn error(records: &[Record], bad: &Record) -> HistoryError {
    let mut history = history(records);
    let before = format!("{history:?}");
    let error = history.apply(bad).unwrap_err();
    assert_eq!(format!("{history:?}"), before, "nothing changes on an error");
    error
}

#[test]
fn a_submitted_study_stands_at_v0_and_waits() {
    let history = history(&[submission(str::to_owned)]);
    let study = history.study(&demo()).unwrap();
    assert_eq!(study.head.version, Version(0));
    assert_eq!(Some(study.head.model), study.study.initial.map(|initial| initial.model));
    assert_eq!((study.state, study.next_round), (RunState::Submitted, Round(1)));
    assert_eq!(history.studies().count(), 1);
    assert!(history.roster().is_none());
}

#[test]
fn an_open_round_is_interrupted_with_its_receipts_until_its_roll_call() {
    let training = Record::Training(TrainingBegun {
        excluded: Vec::new(),
        study: demo(),
        round: Round(1),
        accepted: vec![],
        remaining: Millis(7),
    });
    let running = state(RunState::Running);
    let open =
        [submission(str::to_owned), running, plan(1), training, receipt(1, 4), receipt(1, 4)];
    let study = history(&open).study(&demo()).unwrap().clone();
    let setup = study.setup(BTreeSet::new(), key());
    let interrupted = setup.interrupted.unwrap();
    assert_eq!((setup.state, setup.next_round), (RunState::Running, Round(2)));
    assert_eq!(
        (interrupted.training.unwrap().remaining, interrupted.receipts.len()),
        (Millis(7), 1)
    );

    let mut ended = open.to_vec();
    ended.push(roll_call(1, TaskKind::Train, committed(1)));
    let history = history(&ended);
    let study = history.study(&demo()).unwrap();
    assert!(study.interrupted.is_none());
    assert_eq!((study.head.version, study.head.model), (Version(1), Digest([8; 32])));
}

#[test]
fn evaluations_are_remembered() {
    let mut records = vec![submission(str::to_owned)];
    for round in 1..=2 {
        records.push(plan(round));
        records.push(roll_call(round, TaskKind::Evaluate, abandoned()));
    }
    assert_eq!(history(&records).study(&demo()).unwrap().evaluations_abandoned, 2);
    records.push(plan(3));
    records.push(roll_call(3, TaskKind::Evaluate, Outcome::Evaluated { weight: 1 }));
    assert!(history(&records).study(&demo()).unwrap().evaluated);
}

fn preparing(toml: &str) -> String {
    toml.replace("parameters = 5", "parameters = 5\nprepare = 7")
}

fn prepared() -> Outcome {
    Outcome::Prepared { preparation: Digest([5; 32]), sum: Digest([6; 32]) }
}

/// The plan of a round that works with the preparation of [`prepared`].
fn plan_with(round: u64, preparation: Option<u8>) -> Record {
    let Record::Plan(plan) = plan(round) else {
        unreachable!("it is a plan");
    };
    let preparation = preparation.map(|n| Digest([n; 32]));
    Record::Plan(PlanMade { preparation, ..plan })
}

#[test]
fn a_preparation_is_in_force_from_its_roll_call_on() {
    let mut records = vec![submission(preparing), plan(1)];
    records.push(roll_call(1, TaskKind::Prepare, abandoned()));
    assert_eq!(history(&records).study(&demo()).unwrap().head.preparation, None);
    records.extend([plan(2), roll_call(2, TaskKind::Prepare, prepared())]);
    let study = history(&records).study(&demo()).unwrap().clone();
    assert_eq!(study.setup(BTreeSet::new(), key()).preparation, Some(Digest([5; 32])));
    assert_eq!(study.head.version, Version(0));
    for other in [None, Some(4)] {
        let bad = error(&records, &plan_with(3, other));
        assert!(matches!(bad, HistoryError::Preparation { round: Round(3), .. }), "{bad}");
    }
    records.push(plan_with(3, Some(5)));
    assert!(history(&records).study(&demo()).unwrap().interrupted.is_some());
}

#[test]
fn a_changed_study_keeps_its_preparation_if_it_would_count_the_same() {
    let start = [submission(preparing), plan(1), roll_call(1, TaskKind::Prepare, prepared())];
    let second = |toml: &str| preparing(toml).replace("\"demo\"", "\"demo\"\nversion = 2");
    let head = |next: Record| {
        let mut history = history(&start);
        history.apply(&next).unwrap();
        history.study(&demo()).unwrap().head.preparation
    };
    let same = submission(|toml| second(toml).replace("clip_norm = 10.0", "clip_norm = 5.0"));
    assert_eq!(head(same), Some(Digest([5; 32])));
    let more = submission(|toml| second(toml).replace("prepare = 7", "prepare = 8"));
    assert_eq!(head(more), None);
    let seed = submission(|toml| second(toml).replace("version = 2", "version = 2\nseed = 1"));
    assert_eq!(head(seed), None);
}

#[test]
fn records_of_rounds_that_cannot_be_there_are_told() {
    let submitted = submission(str::to_owned);
    assert!(matches!(error(&[], &plan(1)), HistoryError::UnknownStudy { record: "Plan", .. }));
    let start = [submitted.clone(), plan(4)];
    assert!(matches!(error(&start, &plan(5)), HistoryError::Round { .. }));
    assert!(matches!(error(&start, &receipt(3, 1)), HistoryError::Round { .. }));
    let early = roll_call(5, TaskKind::Train, abandoned());
    assert!(matches!(error(&start, &early), HistoryError::Round { .. }));
    let ended = [submitted, plan(4), roll_call(4, TaskKind::Train, abandoned())];
    assert!(matches!(error(&ended, &plan(4)), HistoryError::Round { have: Round(4), .. }));
    assert!(matches!(error(&ended, &receipt(4, 1)), HistoryError::Round { .. }));
}

#[test]
fn a_second_receipt_for_other_bytes_and_a_version_that_does_not_follow_are_told() {
    let start = [submission(str::to_owned), plan(1), receipt(1, 4)];
    assert!(matches!(error(&start, &receipt(1, 5)), HistoryError::SecondReceipt { .. }));
    let jump = roll_call(1, TaskKind::Train, committed(2));
    assert!(matches!(error(&start, &jump), HistoryError::Version { need: Version(1), .. }));
}

#[test]
fn a_changed_study_counts_up_and_keeps_its_model() {
    let start = [submission(str::to_owned), plan(1), roll_call(1, TaskKind::Train, committed(1))];
    let second = |toml: &str| toml.replace("name = \"demo\"", "name = \"demo\"\nversion = 2");
    let mut history = history(&start);
    history.apply(&submission(second)).unwrap();
    let study = history.study(&demo()).unwrap();
    assert_eq!((study.study.header.version, study.head.version), (2, Version(1)));
    assert_eq!((study.state, study.next_round), (RunState::Submitted, Round(2)));

    let again = error(&start, &submission(str::to_owned));
    assert_eq!(
        again.to_string(),
        "study demo is known in version 1: give the changed file `version = 2`"
    );
    let other = submission(|toml| second(toml).replace("parameters = 5", "parameters = 6"));
    assert_eq!(error(&start, &other), HistoryError::LayoutChanged(demo()));
}

#[test]
fn a_strategy_goes_on_from_its_state_and_another_one_begins_anew() {
    let version = |n: u64, strategy: &'static str| {
        submission(move |toml| {
            let name = format!("name = \"demo\"\nversion = {n}");
            let strategy = format!("clip_norm = 10.0\nstrategy = \"{strategy}\"");
            toml.replace("name = \"demo\"", &name).replace("clip_norm = 10.0", &strategy)
        })
    };
    let mut outcome = committed(1);
    if let Outcome::Committed { strategy_state, .. } = &mut outcome {
        *strategy_state = Some(Digest([6; 32]));
    }
    let ended = [version(1, "fedadam"), plan(1), roll_call(1, TaskKind::Train, outcome)];
    let mut history = history(&ended);
    let state = |history: &History| {
        let study = history.study(&demo()).unwrap();
        let setup = study.setup(BTreeSet::new(), key());
        assert_eq!(setup.strategy_state, study.head.strategy_state);
        setup.strategy_state
    };
    assert_eq!(state(&history), Some(Digest([6; 32])));
    history.apply(&version(2, "fedadam")).unwrap();
    assert_eq!(state(&history), Some(Digest([6; 32])));
    history.apply(&version(3, "fedyogi")).unwrap();
    assert_eq!(state(&history), None);
}

fn state(state: RunState) -> Record {
    let by = "olga".to_owned();
    Record::StudyState(StudyStateSet { study: demo(), state, by, completion: None })
}

fn retrained(version: u64, from: u64) -> Record {
    let (version, from) = (Version(version), Version(from));
    let (model, by) = (Digest([4; 32]), "olga".to_owned());
    Record::Retrained(Retrained { study: demo(), from, version, model, by })
}

/// Three versions of a study that prepares, complete.
fn three_versions() -> Vec<Record> {
    let mut records = vec![submission(preparing), state(RunState::Running), plan(1)];
    records.push(roll_call(1, TaskKind::Prepare, prepared()));
    for version in 1..=3 {
        records.push(plan_with(version + 1, Some(5)));
        records.push(roll_call(version + 1, TaskKind::Train, committed(version)));
    }
    records.push(state(RunState::Complete));
    records
}

#[test]
fn training_goes_back_to_an_earlier_version_under_the_next_number() {
    let mut history = history(&three_versions());
    history.apply(&retrained(4, 1)).unwrap();
    let study = history.study(&demo()).unwrap();
    let head = (study.head.version, study.head.model, study.head.strategy_state);
    assert_eq!(head, (Version(4), Digest([4; 32]), None));
    assert_eq!((study.state, study.begun, study.best.get()), (RunState::Paused, Version(4), None));
    assert_eq!(study.head.preparation, Some(Digest([5; 32])), "v1 was trained on it");
    assert_eq!(study.setup(BTreeSet::new(), key()).trained, 1);
    let rounds = [plan_with(5, Some(5)), roll_call(5, TaskKind::Train, committed(5))];
    rounds.iter().for_each(|record| history.apply(record).unwrap());
    history.apply(&state(RunState::Paused)).unwrap();
    history.apply(&retrained(6, 0)).unwrap();
    let study = history.study(&demo()).unwrap();
    assert_eq!(study.head.preparation, None, "the sites count anew");
    assert_eq!(study.setup(BTreeSet::new(), key()).trained, 0);
}

#[test]
fn training_that_cannot_go_back_is_told_why() {
    let records = three_versions();
    let why = |more: &[Record], bad: &Record| {
        let told = error(&[&records[..], more].concat(), bad).to_string();
        assert!(told.starts_with("study demo cannot go back to v"), "{told}");
        told
    };
    assert!(why(&[], &retrained(4, 3)).contains("from which it goes on in any case"));
    assert!(why(&[], &retrained(4, 4)).contains("its newest version is v3"));
    assert!(why(&[], &retrained(5, 1)).contains("its newest version is v3"));
    assert!(why(&[state(RunState::Running)], &retrained(4, 1)).contains("pause it first"));
    assert!(why(&[state(RunState::Stopped)], &retrained(4, 1)).contains("stopped for good"));
    let open = [state(RunState::Paused), plan_with(5, Some(5))];
    assert!(why(&open, &retrained(4, 1)).contains("round 5 is open"));
    let mut full = records.clone();
    full.extend((0..RETRAININGS_MAX as u64).map(|n| retrained(4 + n, 1)));
    let told = error(&full, &retrained(4 + RETRAININGS_MAX as u64, 1)).to_string();
    assert!(told.contains("which is the most"), "{told}");
}

#[test]
fn what_cannot_be_read_and_what_is_too_much_is_told() {
    let torn = Record::RollCall(RoundEnded { signed: Signed::sign(b"{".to_vec(), &key()) });
    assert!(matches!(error(&[], &torn), HistoryError::Unreadable { record: "RollCall", .. }));
    let named =
        |n: usize| submission(move |toml| toml.replace("\"demo\"", &format!("\"demo-{n}\"")));
    let full: Vec<Record> = (0..STUDIES_MAX).map(named).collect();
    assert_eq!(error(&full, &named(STUDIES_MAX)), HistoryError::TooManyStudies);
}
