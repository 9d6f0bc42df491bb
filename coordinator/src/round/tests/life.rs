//! A round from plan to roll call, and the life of a study around it.

use consilium_common::audit::{Outcome, Record, Status as Counted};
use consilium_common::ids::{Round, Version};
use consilium_common::wire::messages::{Message, RunState, TaskKind};
use consilium_common::wire::reject::Code;

use super::super::status::PhaseName;
use super::super::*;
use super::world::{World, key, open, site};

/// Runs the open round with these sites.
fn run_round(world: &mut World, names: &[&str]) {
    world.accepts(names);
    world.delivers(names);
}

#[test]
fn a_study_goes_from_start_over_its_rounds_and_a_last_evaluation_to_complete() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    for round in 1..=2 {
        assert_eq!((world.plan().round, world.plan().task), (Round(round), TaskKind::Train));
        run_round(&mut world, &["a", "b"]);
    }
    assert_eq!(world.commits().len(), 2);
    assert_eq!(world.engine.head().version, Version(2));
    assert_eq!((world.plan().round, world.plan().task), (Round(3), TaskKind::Evaluate));
    assert_eq!(world.plan().base, world.engine.head().model);
    run_round(&mut world, &["a", "b"]);
    let last = world.roll_calls().pop().unwrap();
    assert!(matches!(last.outcome, Outcome::Evaluated { weight } if weight > 0));
    assert_eq!(last.metrics["total"], 200);
    assert_eq!(world.state_in_log(), RunState::Complete);
    assert_eq!(world.engine.next_deadline(), None);
    assert!(world.status().waiting_for.is_empty());
    let error = world.command(Command::Start).unwrap_err();
    assert_eq!(
        error.to_string(),
        "study demo is complete: submit its next version, with more rounds, to go on"
    );
}

#[test]
fn records_come_in_their_order_and_nothing_is_told_before_its_record() {
    let mut world = World::new(&["a", "b"]);
    world.hold.insert("persist-plan");
    world.ready(&["a", "b"]);
    assert_eq!(world.was_sent("a", "Plan"), 0);
    world.release();
    assert_eq!(world.was_sent("a", "Plan"), 1);

    world.accepts(&["a", "b"]);
    world.hold.insert("persist-receipt");
    world.delivers(&["a", "b"]);
    assert_eq!(world.was_sent("a", "Receipt"), 0);
    assert_eq!(world.phase(), PhaseName::Training);
    world.hold.insert("persist-roll-call");
    world.release();
    world.settle();
    assert_eq!(world.was_sent("a", "Receipt"), 1);
    let kinds: Vec<_> = world.log.iter().take(7).map(Record::name).collect();
    let expected =
        ["StudySubmitted", "StudyState", "Plan", "Training", "Receipt", "Receipt", "RollCall"];
    assert_eq!(kinds, expected);
}

#[test]
fn a_version_is_told_only_when_its_roll_call_is_durable() {
    let mut world = World::new(&["a", "b"]);
    world.hold.insert("persist-roll-call");
    world.ready(&["a", "b"]);
    run_round(&mut world, &["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Closing);
    assert_eq!(world.engine.head().version, Version(0));
    assert_eq!(world.was_sent("a", "RollCall"), 0);
    world.release();
    assert_eq!(world.engine.head().version, Version(1));
    assert_eq!(world.was_sent("a", "RollCall"), 1);
}

#[test]
fn an_update_that_comes_while_others_still_answer_is_receipted_once_training_begins() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    world.delivers(&["a"]);
    assert_eq!((world.phase(), world.state_of("a").as_str()), (PhaseName::Inviting, "adding"));
    assert!(!world.log.iter().any(|record| matches!(record, Record::Receipt(_))));
    world.accepts(&["b"]);
    assert_eq!((world.phase(), world.state_of("a").as_str()), (PhaseName::Training, "delivered"));
    assert_eq!(world.was_sent("a", "Receipt"), 1);
}

#[test]
fn pause_lets_the_round_finish_and_start_goes_on() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    assert!(matches!(world.command(Command::Start), Err(CommandError::Running(_))));
    world.command(Command::Pause).unwrap();
    world.settle();
    run_round(&mut world, &["a", "b"]);
    assert_eq!(world.commits().len(), 1);
    assert_eq!(world.phase(), PhaseName::Idle);
    assert_eq!(world.status().waiting_for, ["an operator to start the study again"]);
    assert!(matches!(world.command(Command::Pause), Err(CommandError::NotRunning(_))));
    assert_eq!(world.was_sent("a", "StudyState"), 2, "that it runs, that it rests");
    world.command(Command::Start).unwrap();
    world.settle();
    assert_eq!(world.plan().round, Round(2));
}

#[test]
fn of_two_commands_the_later_holds_whichever_answer_comes_first() {
    let mut world = World::new(&["a", "b"]);
    world.hold.insert("persist-study-state");
    world.command(Command::Pause).unwrap();
    world.ready(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Idle);
    world.command(Command::Start).unwrap();
    world.settle();
    world.release();
    assert_eq!(
        (world.engine.state(), world.state_in_log()),
        (RunState::Running, RunState::Running)
    );
    assert_eq!(world.phase(), PhaseName::Inviting);
}

#[test]
fn stop_abandons_the_round_names_who_and_is_for_good() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    world.accepts(&["a", "b"]);
    world.delivers(&["a"]);
    world.command(Command::Stop).unwrap();
    world.settle();
    let roll_call = world.roll_calls().pop().unwrap();
    let reason = "stopped by olga".to_owned();
    assert_eq!(roll_call.outcome, Outcome::Abandoned { reason });
    let abandoned = Counted::Excluded { code: Code::Abandoned };
    assert!(roll_call.sites.values().all(|entry| entry.status == abandoned));
    assert!(roll_call.sites[&site("a")].update.is_some());
    assert_eq!(world.was_sent("a", "RollCall"), 1);
    assert!(matches!(world.command(Command::Start), Err(CommandError::Stopped(_))));
    world.wait(600_000);
    assert_eq!(world.roll_calls().len(), 1);
}

#[test]
fn a_stop_before_the_plan_is_durable_tells_no_site_of_it() {
    let mut world = World::new(&["a", "b"]);
    world.hold.insert("persist-plan");
    world.ready(&["a", "b"]);
    world.command(Command::Stop).unwrap();
    world.settle();
    world.release();
    assert_eq!(world.was_sent("a", "Plan"), 0);
    assert_eq!(world.roll_calls().len(), 1);
    assert_eq!(world.phase(), PhaseName::Idle);
}

#[test]
fn a_stop_waits_for_the_work_under_way_before_it_forgets_the_round() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    world.accepts(&["a", "b"]);
    world.hold.insert("add");
    world.delivers(&["a"]);
    world.command(Command::Stop).unwrap();
    world.settle();
    assert_eq!(world.was_sent("a", "RollCall"), 1);
    assert!(!world.performed.contains(&"forget"));
    world.release();
    assert_eq!(world.performed.last(), Some(&"forget"));
}

#[test]
fn three_abandoned_evaluations_complete_the_study_and_the_roll_call_says_so() {
    let mut world = World::with(&["a", "b"], |toml| toml.replace("rounds = 2", "rounds = 1"));
    world.ready(&["a", "b"]);
    run_round(&mut world, &["a", "b"]);
    for _ in 0..3 {
        world.accepts(&["a", "b"]);
        world.fails("a", Code::WorkerFailed);
        world.fails("b", Code::WorkerFailed);
        world.wait(4_000);
    }
    assert_eq!(world.state_in_log(), RunState::Complete);
    let last = world.roll_calls().pop().unwrap();
    let Outcome::Abandoned { reason } = last.outcome else {
        panic!("{last:?}");
    };
    assert!(
        reason.ends_with("the study is complete without a score of its last version"),
        "{reason}"
    );
}

#[test]
fn a_sum_that_cannot_be_added_to_or_aggregated_abandons_the_round() {
    for broken in ["add", "aggregate"] {
        let mut world = World::new(&["a", "b"]);
        world.broken = broken;
        world.ready(&["a", "b"]);
        world.accepts(&["a", "b"]);
        let plan = world.plan();
        for name in ["a", "b"] {
            let update = world.make_update(name, &plan);
            world.offers(name, plan.round, update);
            let pushed = world.pushes(name, plan.round, update);
            assert!(pushed.is_ok() || (broken, name) == ("add", "b"), "{broken} {name}");
        }
        let [roll_call] = &world.roll_calls()[..] else {
            panic!("one round was abandoned");
        };
        assert!(
            matches!(&roll_call.outcome, Outcome::Abandoned { reason } if reason.contains("disk full")),
            "{roll_call:?}"
        );
        world.broken = "";
        world.wait(1_000);
        run_round(&mut world, &["a", "b"]);
        assert_eq!(world.commits().len(), 1);
    }
}

#[test]
fn the_next_version_of_a_study_goes_on_from_the_head() {
    use consilium_common::audit::record::StudySubmitted;
    let mut world = World::with(&["a", "b"], |toml| toml.replace("rounds = 2", "rounds = 1"));
    world.ready(&["a", "b"]);
    run_round(&mut world, &["a", "b"]);
    run_round(&mut world, &["a", "b"]);
    let head = world.engine.head();
    let next = World::submitted(&[], |toml| toml.replace("seed = 7", "seed = 7\nversion = 2"));
    let Some(Record::StudySubmitted(StudySubmitted { signed, by })) = next.log.into_iter().next()
    else {
        panic!("the first record is the submission");
    };
    world.log.push(Record::StudySubmitted(StudySubmitted { signed, by }));
    world.engine = open(&world.log, &world.roster, world.now);
    assert_eq!(world.engine.state(), RunState::Submitted);
    assert_eq!(world.status().waiting_for, ["an operator to start the study"]);
    world.command(Command::Start).unwrap();
    world.settle();
    world.ready(&["a", "b"]);
    let plan = world.plan();
    assert_eq!((plan.round, plan.base_version, plan.base), (Round(3), Version(1), head.model));
    let digest = world.engine.status(world.now).base_version;
    assert_eq!(digest, Version(1));
}

#[test]
fn receipts_and_roll_calls_are_signed_with_the_log_key() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    run_round(&mut world, &["a", "b"]);
    let mut receipts = 0;
    for (to, message) in &world.sent {
        if let Message::Receipt(receipt) = message {
            let document = receipt.signed.verify(&[key().public()], 1).unwrap();
            assert_eq!((&document.site, document.round), (to, Round(1)));
            assert_eq!(document.bytes, world.made[&document.update].len() as u64);
            receipts += 1;
        }
    }
    assert_eq!(receipts, 2);
}
