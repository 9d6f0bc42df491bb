//! The best version, and the study that ends because of its age.

use consilium_common::audit::record::{Completion, StudySubmitted};
use consilium_common::audit::{Outcome, Record};
use consilium_common::ids::{Round, Version};
use consilium_common::update::words::Metrics;
use consilium_common::wire::messages::{RunState, TaskKind};

use super::super::*;
use super::world::{World, open};

const NAMES: [&str; 2] = ["a", "b"];

fn patient(toml: &str) -> String {
    let toml = toml.replace("rounds = 2", "rounds = 20\nearly_stopping = 2");
    toml + "[evaluation]\nmetric = \"loss\"\n"
}

/// Runs the open round, in which both sites measure this loss of its base (100 records each, 2^-16).
fn run_round(world: &mut World, loss: u64) {
    let plan = world.plan();
    world.accepts(&NAMES);
    for name in NAMES {
        let measured = Metrics(vec![100, loss]);
        let update =
            world.make_with(name, &plan, |_, _, words| words.metrics.clone_from(&measured));
        world.offers(name, plan.round, update);
        world.pushes(name, plan.round, update).unwrap();
    }
}

fn best(world: &World) -> Option<u64> {
    world.status().best.map(|best| best.version.0)
}

fn completion(world: &World) -> Option<Completion> {
    world.log.iter().rev().find_map(|record| match record {
        Record::StudyState(set) => Some(set.completion),
        _ => None,
    })?
}

#[test]
fn a_study_is_complete_once_its_best_version_is_old_and_the_record_says_why() {
    let mut world = World::with(&NAMES, patient);
    world.ready(&NAMES);
    for (loss, so_far) in [(90, 0), (50, 1), (60, 1)] {
        assert_eq!(world.plan().task, TaskKind::Train);
        run_round(&mut world, loss);
        assert_eq!(best(&world), Some(so_far));
    }
    // v1 is two versions old if v3 is no better: that is found out first.
    assert_eq!((world.plan().task, world.plan().base_version), (TaskKind::Evaluate, Version(3)));
    run_round(&mut world, 50);
    assert_eq!(world.state_in_log(), RunState::Complete);
    assert_eq!(completion(&world), Some(Completion::EarlyStopping));
    assert_eq!((best(&world), world.commits().len()), (Some(1), 3));
}

#[test]
fn rounds_go_on_if_the_newest_version_is_the_best_after_all() {
    let mut world = World::with(&NAMES, patient);
    world.ready(&NAMES);
    [90, 50, 60].into_iter().for_each(|loss| run_round(&mut world, loss));
    run_round(&mut world, 40);
    assert_eq!((best(&world), world.state_in_log()), (Some(3), RunState::Running));
    // It was scored, and is trained from: its last score holds.
    assert_eq!((world.plan().task, world.plan().base_version), (TaskKind::Train, Version(3)));
    run_round(&mut world, 55);
    assert_eq!(best(&world), Some(1));
    // The newest is none that was scored, so the study is not complete before it is.
    assert_eq!((world.plan().task, world.plan().base_version), (TaskKind::Evaluate, Version(4)));
    run_round(&mut world, 70);
    assert_eq!(completion(&world), Some(Completion::EarlyStopping));
}

#[test]
fn a_study_without_patience_is_complete_by_its_rounds() {
    let mut world = World::with(&NAMES, |toml| toml.to_owned());
    world.ready(&NAMES);
    [50, 60, 70].into_iter().for_each(|loss| run_round(&mut world, loss));
    assert_eq!(completion(&world), Some(Completion::Rounds));
}

#[test]
fn a_restart_after_any_record_decides_the_same() {
    let mut world = World::with(&NAMES, patient);
    world.ready(&NAMES);
    [90, 50, 60, 40, 55, 70].into_iter().for_each(|loss| run_round(&mut world, loss));
    assert_eq!(world.state_in_log(), RunState::Complete);
    let planned: Vec<TaskKind> = world.log.iter().filter_map(task).collect();
    let mut decided = Vec::new();
    for (at, record) in world.log.iter().enumerate() {
        let status = open(&world.log[..=at], &world.roster, world.now).status(world.now);
        if let Record::RollCall(_) | Record::StudyState(_) = record {
            decided.push(status.task);
        }
    }
    decided.truncate(planned.len());
    assert_eq!(decided, planned);
    let status = open(&world.log, &world.roster, world.now).status(world.now);
    assert_eq!(status.best, world.status().best);
}

fn task(record: &Record) -> Option<TaskKind> {
    match record {
        Record::Plan(plan) => Some(plan.task),
        _ => None,
    }
}

#[test]
fn a_changed_study_counts_the_age_anew_and_keeps_its_best_version_by_the_same_metric() {
    for (metric, kept) in [("loss", Some(1)), ("accuracy", None)] {
        let mut world = World::with(&NAMES, patient);
        world.ready(&NAMES);
        [90, 50, 60, 50].into_iter().for_each(|loss| run_round(&mut world, loss));
        assert_eq!(world.state_in_log(), RunState::Complete);
        let next = |toml: &str| {
            let toml = patient(toml).replace("seed = 7", "seed = 7\nversion = 2");
            let toml = toml.replace("\"loss\"", &format!("{metric:?}"));
            if metric == "loss" { toml } else { toml.replace("early_stopping = 2", "") }
        };
        let submitted = World::submitted(&[], next).log.into_iter().next();
        let Some(Record::StudySubmitted(StudySubmitted { signed, by })) = submitted else {
            panic!("the first record is the submission");
        };
        world.log.push(Record::StudySubmitted(StudySubmitted { signed, by }));
        world.engine = open(&world.log, &world.roster, world.now);
        world.command(Command::Start).unwrap();
        world.settle();
        world.ready(&NAMES);
        assert_eq!(best(&world), kept, "{metric}");
        assert_eq!((world.plan().round, world.plan().task), (Round(5), TaskKind::Train));
    }
}

#[test]
fn evaluations_that_come_to_nothing_are_counted_for_each_version_by_itself() {
    let mut world = World::with(&NAMES, patient);
    world.ready(&NAMES);
    [90, 50, 60].into_iter().for_each(|loss| run_round(&mut world, loss));
    let fail = |world: &mut World| {
        world.accepts(&NAMES);
        NAMES.iter().for_each(|name| {
            world.fails(name, consilium_common::wire::reject::Code::WorkerFailed);
        });
        world.wait(4_000);
    };
    fail(&mut world);
    fail(&mut world);
    run_round(&mut world, 40);
    [41, 42].into_iter().for_each(|loss| run_round(&mut world, loss));
    assert_eq!(world.plan().task, TaskKind::Evaluate);
    fail(&mut world);
    let last = world.roll_calls().pop().unwrap();
    assert!(matches!(last.outcome, Outcome::Abandoned { .. }));
    assert_eq!(world.state_in_log(), RunState::Running, "two more may be tried");
}
