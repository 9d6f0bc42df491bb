//! Two clocks, and nothing else is waited for: idle timeouts, the deadline, declines, missing sites.

use consilium_common::audit::{Outcome, Status as Counted};
use consilium_common::ids::Round;
use consilium_common::time::Millis;
use consilium_common::wire::reject::Code;

use super::super::status::PhaseName;
use super::super::*;
use super::world::{World, site};

fn codes(world: &World) -> Vec<(String, Option<Code>)> {
    let roll_call = world.roll_calls().pop().unwrap();
    let code = |status| match status {
        Counted::Excluded { code } => Some(code),
        Counted::Counted { .. } => None,
    };
    let sites = roll_call.sites.iter();
    sites.map(|(id, entry)| (id.to_string(), code(entry.status))).collect()
}

fn three() -> World {
    let mut world = World::with(&["a", "b", "c"], |toml| {
        toml.replace("min_sites = 2", "min_sites = 2\nrequired = [\"c\"]")
    });
    world.ready(&["a", "b", "c"]);
    world
}

#[test]
fn too_few_sites_is_never_a_silent_hang() {
    let mut world = World::with(&["a", "b", "c"], |toml| {
        toml.replace("min_sites = 2", "min_sites = 2\nrequired = [\"c\"]")
    });
    assert_eq!(
        world.status().waiting_for,
        [
            "0 of at least 2 sites ready",
            "required site c not ready",
            "a to connect and accept the study",
            "b to connect and accept the study",
            "c to connect and accept the study",
        ]
    );
    world.ready(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Idle);
    assert_eq!(
        world.status().waiting_for,
        ["required site c not ready", "c to connect and accept the study"]
    );
    world.ready(&["c"]);
    assert_eq!(world.phase(), PhaseName::Inviting);
    assert_eq!(world.status().waiting_for[0], "a: its answer to the plan");
    let mut submitted = World::submitted(&["a", "b"], str::to_owned);
    submitted.ready(&["a", "b"]);
    assert_eq!(submitted.status().waiting_for, ["an operator to start the study"]);
}

#[test]
fn a_site_that_does_not_answer_is_let_go_after_the_idle_timeout() {
    let mut world = three();
    world.accepts(&["a", "c"]);
    world.wait(9_999);
    assert_eq!(world.phase(), PhaseName::Inviting);
    world.progresses("a");
    world.progresses("c");
    world.wait(1);
    assert_eq!((world.phase(), world.state_of("b").as_str()), (PhaseName::Training, "no-answer"));
    world.delivers(&["a", "c"]);
    assert_eq!(
        codes(&world),
        [("a".to_owned(), None), ("b".to_owned(), Some(Code::NoAnswer)), ("c".to_owned(), None)]
    );
}

#[test]
fn progress_keeps_a_site_in_and_silence_lets_it_go() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    world.delivers(&["a", "c"]);
    for _ in 0..4 {
        world.wait(9_000);
        world.progresses("b");
    }
    world.wait(9_000);
    world.engine.handle_transfer(&site("b"), Round(1), 0, 100, world.now);
    world.wait(9_000);
    assert_eq!(world.state_of("b"), "working");
    world.wait(1_000);
    assert_eq!(world.commits().len(), 1);
    assert_eq!(codes(&world)[1], ("b".to_owned(), Some(Code::Idle)));
    assert_eq!(world.roll_calls()[0].bytes_down, 100);
}

#[test]
fn an_idle_site_that_is_back_before_the_close_is_taken_again() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    world.gone("b");
    world.wait(6_000);
    world.progresses("a");
    world.wait(6_000);
    world.progresses("c");
    assert_eq!((world.state_of("b").as_str(), world.phase()), ("idle", PhaseName::Training));
    let plans = world.was_sent("b", "Plan");
    world.ready(&["b"]);
    assert_eq!(world.was_sent("b", "Plan"), plans + 1);
    world.delivers(&["b", "a", "c"]);
    assert_eq!(world.commits().len(), 1);
    assert!(codes(&world).iter().all(|(_, code)| code.is_none()));
}

#[test]
fn bytes_that_arrive_bring_an_idle_site_back() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    let update = world.make_update("b", &world.plan());
    world.offers("b", Round(1), update);
    world.wait(6_000);
    world.progresses("a");
    world.wait(4_000);
    assert_eq!(world.state_of("b"), "idle");
    world.pushes("b", Round(1), update).unwrap();
    assert_eq!(world.state_of("b"), "delivered");
}

#[test]
fn a_lost_connection_is_idleness_not_failure() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    for name in ["a", "b", "c"] {
        world.gone(name);
    }
    assert_eq!(world.phase(), PhaseName::Training);
    assert!(world.status().sites.iter().all(|site| !site.connected && site.state == "working"));
    world.ready(&["a", "b", "c"]);
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.commits().len(), 1);
}

#[test]
fn the_deadline_closes_uploads_and_the_round_goes_on_with_who_delivered() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    world.delivers(&["a", "c"]);
    for _ in 0..12 {
        world.wait(4_999);
        world.progresses("b");
    }
    assert_eq!(world.status().remaining_ms, Some(12));
    let update = world.make_update("b", &world.plan());
    world.wait(12);
    assert_eq!(world.commits().len(), 1);
    assert_eq!(codes(&world)[1], ("b".to_owned(), Some(Code::Late)));
    assert_eq!(world.roll_calls()[0].duration, Millis(60_000));
    let told = world.was_sent("b", "RollCall");
    world.offers("b", Round(1), update);
    assert_eq!(world.was_sent("b", "RollCall"), told + 1);
}

#[test]
fn work_on_an_update_that_came_in_time_is_waited_for_at_the_close() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    world.delivers(&["a", "c"]);
    world.hold.insert("verify");
    world.delivers(&["b"]);
    world.wait(100_000);
    assert_eq!(world.phase(), PhaseName::Training);
    let update = world.make_update("a", &world.plan());
    assert_eq!(world.pushes("a", Round(1), update), Err(Code::Late));
    world.release();
    assert!(codes(&world).iter().all(|(_, code)| code.is_none()));
}

#[test]
fn a_round_without_enough_updates_is_abandoned_and_tried_again_later() {
    let mut world = three();
    let mut attempts = Vec::new();
    let mut start = world.now;
    for _ in 0..6 {
        attempts.push((world.now - start).0);
        world.accepts(&["a", "b", "c"]);
        for name in ["a", "b", "c"] {
            world.fails(name, Code::WorkerFailed);
        }
        start = world.now;
        assert_eq!(world.phase(), PhaseName::Idle);
        assert!(world.status().waiting_for[0].starts_with("the next attempt in"));
        while world.phase() == PhaseName::Idle {
            world.wait(100);
        }
    }
    assert_eq!(attempts, [0, 1_000, 2_000, 4_000, 8_000, 10_000]);
    let Outcome::Abandoned { reason } = world.roll_calls()[0].outcome.clone() else {
        panic!("abandoned");
    };
    assert_eq!(reason, "0 of at least 2 sites delivered; required site c not delivered");
    assert_eq!(codes(&world)[0].1, Some(Code::WorkerFailed));
    assert_eq!(world.plan().round, Round(7), "rounds never repeat");
}

#[test]
fn a_site_that_becomes_ready_ends_the_wait() {
    let mut world = three();
    world.accepts(&["a", "c"]);
    world.declines("b", Code::NoData, None);
    world.fails("a", Code::WorkerFailed);
    world.fails("c", Code::WorkerFailed);
    assert_eq!(world.phase(), PhaseName::Idle);
    world.gone("b");
    world.ready(&["b"]);
    assert_eq!((world.phase(), world.plan().round), (PhaseName::Inviting, Round(2)));
}

#[test]
fn a_decline_with_a_time_is_not_asked_again_before_it() {
    let mut world = three();
    world.accepts(&["a", "b"]);
    world.declines("c", Code::OutsideHours, Some(Millis(30_000)));
    let reason = "required site c not accepted".to_owned();
    assert_eq!(world.roll_calls()[0].outcome, Outcome::Abandoned { reason });
    assert_eq!(codes(&world)[2].1, Some(Code::OutsideHours));
    assert_eq!(world.status().waiting_for[1], "c: outside-hours, asked again in 30.0 s");
    assert_eq!(world.state_of("c"), "declined");
    world.wait(29_999);
    assert_eq!(world.phase(), PhaseName::Idle);
    world.wait(1);
    assert_eq!((world.phase(), world.plan().round), (PhaseName::Inviting, Round(2)));
}

#[test]
fn a_site_that_accepts_once_more_is_asked_before_the_time_that_it_named() {
    let mut world = three();
    world.accepts(&["a", "b"]);
    world.declines("c", Code::OutsideHours, Some(Millis(30_000)));
    world.accepts_study_again("a");
    assert_eq!(world.phase(), PhaseName::Idle, "nothing held that one back");
    world.accepts_study_again("stranger");
    world.accepts_study_again("c");
    assert_eq!((world.phase(), world.plan().round), (PhaseName::Inviting, Round(2)));
}

#[test]
fn a_site_that_accepts_once_more_while_the_round_is_open_is_told_its_plan() {
    let mut world = three();
    world.accepts(&["a", "c"]);
    world.declines("b", Code::OutsideHours, Some(Millis(30_000)));
    assert_eq!(world.was_sent("b", "Plan"), 1);
    world.accepts_study_again("b");
    assert_eq!(world.was_sent("b", "Plan"), 2);
    world.accepts(&["b"]);
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.roll_calls()[0].sites.len(), 3);
    assert!(codes(&world).iter().all(|(_, code)| code.is_none()), "and it counts");
}

#[test]
fn others_do_not_wait_for_a_site_outside_its_hours() {
    let mut world = three();
    world.accepts(&["a", "c"]);
    world.declines("b", Code::OutsideHours, Some(Millis(1 << 50)));
    world.delivers(&["a", "c"]);
    assert_eq!(world.commits().len(), 1);
    assert_eq!(world.was_sent("b", "Plan"), 1);
    world.accepts(&["a", "c"]);
    world.delivers(&["a", "c"]);
    assert_eq!(world.commits().len(), 2);
    world.declines("b", Code::OutsideHours, Some(Millis(u64::MAX)));
    assert!(world.engine.next_deadline().is_none_or(|at| at > world.now));
}

#[test]
fn an_absent_site_misses_rounds_and_returns() {
    let mut world = World::new(&["a", "b", "c"]);
    world.ready(&["a", "b"]);
    world.accepts(&["a", "b"]);
    world.delivers(&["a", "b"]);
    world.ready(&["c"]);
    world.accepts(&["a", "b"]);
    world.delivers(&["a", "b"]);
    assert_eq!(world.plan().round, Round(3));
    let invited: Vec<usize> = world.roll_calls().iter().map(|call| call.sites.len()).collect();
    assert_eq!(invited, [2, 2]);
    assert_eq!(world.was_sent("c", "Plan"), 1);
}

#[test]
fn the_deadline_is_remaining_time_across_a_restart() {
    let mut world = three();
    world.accepts(&["a", "b"]);
    world.wait(5_000);
    world.accepts(&["c"]);
    assert_eq!(world.status().remaining_ms, Some(55_000));
    world.wait(5_000);
    world.crash(true);
    world.settle();
    // From the record of the last phase; the time that the coordinator was down does not count.
    assert_eq!(world.status().remaining_ms, Some(55_000));
    assert_eq!(world.phase(), PhaseName::Training);
    world.ready(&["a", "b", "c"]);
    assert_eq!(world.plan().remaining, Millis(55_000));
    world.wait(2_000);
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.roll_calls()[0].duration, Millis(7_000));
}

#[test]
fn a_stop_that_was_durable_before_a_crash_abandons_the_round_after_it() {
    let mut world = three();
    world.accepts(&["a", "b", "c"]);
    world.command(Command::Stop).unwrap();
    while world.perform_one() {}
    world.crash(true);
    world.settle();
    let reason = "stopped by olga".to_owned();
    assert_eq!(world.roll_calls()[0].outcome, Outcome::Abandoned { reason });
}

#[test]
fn the_clock_of_a_round_starts_when_its_plan_is_durable() {
    let mut world = World::new(&["a", "b"]);
    world.hold.insert("persist-plan");
    world.ready(&["a", "b"]);
    world.now = world.now + Millis(20_000);
    world.release();
    assert_eq!(world.status().remaining_ms, Some(60_000));
    world.accepts(&["a", "b"]);
    world.wait(1_000);
    world.delivers(&["a", "b"]);
    assert_eq!(world.roll_calls()[0].duration, Millis(1_000));
}

#[test]
fn a_deadline_before_all_have_answered_ends_the_round_too() {
    let mut world =
        World::with(&["a", "b"], |toml| toml.replace("deadline = \"60s\"", "deadline = \"2s\""));
    world.ready(&["a", "b"]);
    world.accepts(&["a"]);
    world.wait(2_000);
    let reason = "0 of at least 2 sites accepted".to_owned();
    assert_eq!(world.roll_calls()[0].outcome, Outcome::Abandoned { reason });
    assert_eq!(codes(&world)[0].1, Some(Code::Late));
    assert_eq!(codes(&world)[1].1, Some(Code::NoAnswer));
}

#[test]
fn a_round_that_died_while_inviting_goes_on_in_training_with_its_record() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    world.wait(3_000);
    world.crash(true);
    world.settle();
    assert_eq!((world.phase(), world.status().remaining_ms), (PhaseName::Training, Some(60_000)));
    assert_eq!(world.log.last().map(|record| record.name()), Some("Training"));
    assert_eq!(world.status().waiting_for, ["a: its update", "b: its update"]);
    world.crash(true);
    world.ready(&["a", "b"]);
    assert_eq!(world.log.last().map(|record| record.name()), Some("Training"));
    world.accepts(&["a", "b"]);
    world.delivers(&["a", "b"]);
    let trainings = world.log.iter().filter(|record| record.name() == "Training");
    assert_eq!((trainings.count(), world.commits().len()), (1, 1));
}
