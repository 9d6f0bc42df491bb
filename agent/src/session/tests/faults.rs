use consilium_common::wire::reject::Code;
use consilium_common::worker::FailureCode;

use super::bench::*;
use crate::session::{Action, Done, Fault};

fn crash() -> Done {
    Done::Trained(Err(Fault::passing(Code::WorkerFailed, "killed by signal 9")))
}

fn trains(actions: &[Action]) -> usize {
    actions.iter().filter(|a| a.name() == "train").count()
}

#[test]
fn a_worker_that_crashed_once_is_started_again_for_the_same_plan() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.done(train, crash());
    let actions = bench.take();
    assert!(actions.iter().any(|action| matches!(action,
        Action::Train { plan: again, .. } if *again == plan("mnist", 1))));
    let task = bench.session.status(bench.now).tasks[0].clone();
    assert_eq!(task.worker_starts, 2);
    assert_eq!(task.last_fault.as_deref(), Some("killed by signal 9"));
    bench.done(id_of(&actions, "train"), Done::Trained(Ok(trained())));
    assert!(bench.names().contains(&"encode"));
}

#[test]
fn a_worker_that_crashed_three_times_is_given_up_and_the_next_round_is_taken() {
    let mut bench = Bench::welcomed(setup());
    let mut train = bench.begin(plan("mnist", 1));
    for _ in 0..2 {
        bench.done(train, crash());
        train = id_of(&bench.take(), "train");
    }
    bench.done(train, crash());
    let actions = bench.take();
    assert_eq!((trains(&actions), failed(&actions)), (0, Some(Code::WorkerFailed)));

    bench.lose_connection();
    bench.reconnect();
    bench.say(plan("mnist", 1));
    let actions = bench.take();
    assert_eq!((actions.len(), failed(&actions)), (1, Some(Code::WorkerFailed)), "not again");
    bench.begin(plan("mnist", 2));
}

#[test]
fn a_fault_that_stays_is_not_tried_again() {
    for (reported, code) in [
        (FailureCode::DataMissing, Code::DataNotReady),
        (FailureCode::DataInvalid, Code::DataNotReady),
        (FailureCode::OptOutUnreadable, Code::OptOutUnreadable),
        (FailureCode::TooFewExamples, Code::TooFewExamples),
        (FailureCode::ModelMismatch, Code::NotSupported),
        (FailureCode::DeviceMissing, Code::SiteFault),
        (FailureCode::Diverged, Code::Diverged),
    ] {
        let mut bench = Bench::welcomed(setup());
        let train = bench.begin(plan("mnist", 1));
        bench.done(train, Done::Trained(Err(Fault::of_worker(reported, "see the log"))));
        let actions = bench.take();
        assert_eq!((trains(&actions), failed(&actions)), (0, Some(code)));
    }
    for passing in [FailureCode::Internal, FailureCode::Stopped] {
        assert!(Fault::of_worker(passing, "").retryable);
    }
}

#[test]
fn an_update_that_cannot_be_kept_is_a_failed_task() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.done(train, Done::Trained(Ok(trained())));
    let encode = id_of(&bench.take(), "encode");
    bench.done(encode, Done::Encoded(Err(Fault::lasting(Code::Diverged, "NaN"))));
    assert_eq!(failed(&bench.take()), Some(Code::Diverged));
    assert!(bench.session.status(bench.now).tasks.is_empty());
}

#[test]
fn a_failed_task_makes_room_for_the_next() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.say(plan("ward", 1));
    bench.take();
    bench.done(train, Done::Trained(Err(Fault::lasting(Code::Diverged, "NaN"))));
    id_of(&bench.take(), "fetch");
}

#[test]
fn a_fetch_without_a_connection_waits_for_the_next() {
    let mut bench = Bench::welcomed(setup());
    bench.say(plan("mnist", 1));
    let mut fetch = id_of(&bench.take(), "fetch");
    let fault = || Done::Fetched(Err(Fault::passing(Code::SiteFault, "connection lost")));
    for _ in 0..5 {
        bench.lose_connection();
        bench.done(fetch, fault());
        bench.pass(100);
        assert!(bench.take().is_empty());
        fetch = id_of(&bench.reconnect(), "fetch");
    }
    bench.done(fetch, Done::Fetched(Ok(())));
    id_of(&bench.take(), "train");
}

#[test]
fn a_fetch_that_failed_before_the_loss_was_noticed_goes_on_at_the_next_connection() {
    let mut bench = Bench::welcomed(setup());
    bench.say(plan("mnist", 1));
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Err(Fault::passing(Code::SiteFault, "reset"))));
    bench.lose_connection();
    id_of(&bench.reconnect(), "fetch");
}

#[test]
fn a_fetch_that_fails_three_times_over_a_live_connection_fails_the_task_but_not_for_good() {
    let mut bench = Bench::welcomed(setup());
    bench.say(plan("mnist", 1));
    for _ in 0..2 {
        let fetch = id_of(&bench.take(), "fetch");
        bench.done(fetch, Done::Fetched(Err(Fault::passing(Code::SiteFault, "digest"))));
        bench.pass(2_000);
    }
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Err(Fault::passing(Code::SiteFault, "digest"))));
    assert_eq!(failed(&bench.take()), Some(Code::SiteFault));
    bench.say(plan("mnist", 1));
    id_of(&bench.take(), "fetch");
}

#[test]
fn what_comes_back_under_an_unknown_id_changes_nothing() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.done(train, crash());
    bench.take();
    for done in [crash(), Done::Settled, Done::Pushed(Ok(())), Done::Fetched(Ok(()))] {
        bench.done(train, done);
    }
    bench.done(train, Done::Encoded(Ok(retained("mnist", 1))));
    assert!(bench.take().is_empty());
}
