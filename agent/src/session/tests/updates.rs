use consilium_common::wire::messages::UpdateRefused;
use consilium_common::wire::reject::Code;

use super::bench::*;
use crate::session::{Action, Done, Fault};

fn offered(actions: &[Action]) -> usize {
    let offers = actions.iter().filter(|a| a.name() == "send-update-offer");
    offers.count()
}

#[test]
fn what_was_retained_before_a_restart_is_offered_after_welcome() {
    let mut setup = setup();
    setup.retained = vec![retained("mnist", 3), retained("ward", 8)];
    let mut bench = Bench::new(setup);
    bench.take();
    assert_eq!(offered(&bench.connect()), 2);
    bench.say(plan("mnist", 3));
    let actions = bench.take();
    assert_eq!((declined(&actions), offered(&actions)), (None, 1));
    assert_eq!(actions.len(), 2, "accepted and offered, not trained again");
}

#[test]
fn an_update_is_offered_at_every_reconnect_until_its_roll_call() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    for _ in 0..2 {
        bench.lose_connection();
        assert_eq!(offered(&bench.reconnect()), 1);
    }
    bench.say(receipt(&update));
    bench.lose_connection();
    assert_eq!(offered(&bench.reconnect()), 1, "a receipt is not a roll call");
    bench.say(roll_call("mnist", 1, Some(update.digest)));
    bench.lose_connection();
    assert_eq!(offered(&bench.reconnect()), 0);
}

#[test]
fn a_push_is_asked_for_once_and_offered_again_when_it_failed() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    bench.say(wanted(&update));
    bench.say(wanted(&update));
    let push = id_of(&bench.take(), "push");
    let fault = Fault::passing(Code::SiteFault, "stream reset");
    for wait in [1_000, 2_000, 4_000] {
        assert!(bench.session.status(bench.now).retained[0].uploading || wait > 1_000);
        let again = if wait == 1_000 {
            push
        } else {
            bench.say(wanted(&update));
            id_of(&bench.take(), "push")
        };
        bench.done(again, Done::Pushed(Err(fault.clone())));
        bench.pass(wait - 1);
        assert_eq!(offered(&bench.take()), 0);
        bench.pass(1);
        assert_eq!(offered(&bench.take()), 1);
    }
}

#[test]
fn a_push_over_a_lost_connection_is_begun_anew() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    bench.say(wanted(&update));
    let lost = id_of(&bench.take(), "push");
    bench.lose_connection();
    bench.reconnect();
    bench.say(wanted(&update));
    let push = id_of(&bench.take(), "push");
    assert_ne!(push, lost);
    bench.done(lost, Done::Pushed(Err(Fault::passing(Code::SiteFault, "late news"))));
    assert!(bench.session.status(bench.now).retained[0].uploading);
}

#[test]
fn bytes_that_are_not_here_are_refused() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    for other in [retained("mnist", 2), retained("ward", 1)] {
        bench.say(wanted(&other));
        assert_eq!(bench.names(), ["send-other"]);
    }
    let mut wrong = wanted(&update);
    wrong.digest = digest(77);
    bench.say(wrong);
    assert_eq!(bench.names(), ["send-other"]);
}

#[test]
fn a_receipt_for_these_bytes_is_shown() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    let mut other = update.clone();
    other.digest = digest(77);
    bench.say(receipt(&other));
    assert!(!bench.session.status(bench.now).retained[0].receipted);
    bench.say(receipt(&update));
    assert!(bench.session.status(bench.now).retained[0].receipted);
}

#[test]
fn an_update_counts_only_if_the_roll_call_counted_these_bytes() {
    for (counted, expected) in
        [(Some(retained("mnist", 1).digest), true), (Some(digest(77)), false), (None, false)]
    {
        let mut bench = Bench::welcomed(setup());
        bench.deliver("mnist", 1);
        bench.say(roll_call("mnist", 1, counted));
        bench.say(roll_call("mnist", 1, counted));
        assert_eq!(settles(&bench.take()), [("mnist".to_owned(), 1, expected)], "once");
    }
}

#[test]
fn a_refused_update_is_dropped_and_its_round_is_not_tried_again() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    let refused = UpdateRefused {
        study: update.study.clone(),
        round: update.round,
        digest: update.digest,
        code: Code::NormTooLarge,
        detail: "norm 12 over 10".to_owned(),
    };
    bench.say(UpdateRefused { digest: digest(77), ..refused.clone() });
    assert!(bench.take().is_empty(), "other bytes than ours");
    bench.say(refused);
    let actions = bench.take();
    assert_eq!(settles(&actions), [("mnist".to_owned(), 1, false)]);
    bench.done(id_of(&actions, "settle"), Done::Settled);
    let said = bench.session.status(bench.now).last_objection.unwrap();
    assert!(said.contains("norm-too-large"), "{said}");
    bench.say(plan("mnist", 1));
    let actions = bench.take();
    assert_eq!((failed(&actions), actions.len()), (Some(Code::NormTooLarge), 1));
    bench.say(roll_call("mnist", 1, None));
    assert!(bench.take().is_empty(), "settled already");
    bench.begin(plan("mnist", 2));
}

#[test]
fn an_update_that_became_durable_after_its_round_is_dropped_without_an_offer() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.done(train, Done::Trained(Ok(trained())));
    let encode = id_of(&bench.take(), "encode");
    bench.say(roll_call("mnist", 1, None));
    assert!(bench.take().is_empty(), "a write is not stopped halfway");
    bench.done(encode, Done::Encoded(Ok(retained("mnist", 1))));
    let actions = bench.take();
    assert_eq!(settles(&actions), [("mnist".to_owned(), 1, false)]);
    assert_eq!(actions.len(), 1);
}

#[test]
fn training_waits_until_the_earlier_update_is_settled() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    bench.say(plan("mnist", 2));
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Ok(())));
    assert!(bench.take().is_empty(), "its fate is not known");
    let waits = bench.session.status(bench.now).tasks[0].waits_for.clone();
    assert_eq!(waits.as_deref(), Some("the roll call of an earlier round"));
    bench.say(roll_call("mnist", 1, Some(update.digest)));
    let actions = bench.take();
    assert_eq!(actions.len(), 1, "its site state is not current yet");
    bench.done(id_of(&actions, "settle"), Done::Settled);
    id_of(&bench.take(), "train");
}

/// Found by the simulation: the coordinator's log was brought back from a copy.
#[test]
fn training_waits_for_an_update_of_a_later_round_that_the_coordinator_forgot() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 2);
    bench.say(plan("mnist", 1));
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Ok(())));
    assert!(bench.take().is_empty(), "the later update may have counted");
    let (study, round, digest) = (update.study, update.round, update.digest);
    let detail = "no such round".to_owned();
    bench.say(UpdateRefused { study, round, digest, code: Code::WrongRound, detail });
    let settle = id_of(&bench.take(), "settle");
    bench.done(settle, Done::Settled);
    id_of(&bench.take(), "train");
}

#[test]
fn another_study_does_not_wait() {
    let mut bench = Bench::welcomed(setup());
    bench.deliver("mnist", 1);
    bench.begin(plan("ward", 2));
}
