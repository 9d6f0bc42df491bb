use consilium_common::wire::messages::{Message, Plan, Progress, SitePhase};
use consilium_common::wire::reject::Code;

use super::bench::*;
use crate::session::{Action, Decision, Done, Session};

fn progress(actions: &[Action]) -> Vec<Progress> {
    let of = |action: &Action| match action {
        Action::Send { message } => match &**message {
            Message::Progress(progress) => Some(progress.clone()),
            _ => None,
        },
        _ => None,
    };
    actions.iter().filter_map(of).collect()
}

#[test]
fn a_plan_is_answered_at_once_and_goes_its_way() {
    let mut bench = Bench::welcomed(setup());
    bench.say(plan("mnist", 1));
    let actions = bench.take();
    let names: Vec<_> = actions.iter().map(Action::name).collect();
    assert_eq!(names, ["send-plan-answer", "send-progress", "fetch"]);
    assert_eq!(declined(&actions), None);
    bench.done(id_of(&actions, "fetch"), Done::Fetched(Ok(())));
    let actions = bench.take();
    bench.done(id_of(&actions, "train"), Done::Trained(Ok(trained())));
    let actions = bench.take();
    bench.done(id_of(&actions, "encode"), Done::Encoded(Ok(retained("mnist", 1))));
    assert_eq!(bench.names(), ["send-update-offer"]);
    bench.say(wanted(&retained("mnist", 1)));
    let push = id_of(&bench.take(), "push");
    bench.done(push, Done::Pushed(Ok(())));
    bench.say(receipt(&retained("mnist", 1)));
    assert!(bench.take().is_empty());
    bench.say(roll_call("mnist", 1, Some(retained("mnist", 1).digest)));
    let actions = bench.take();
    assert_eq!(settles(&actions), [("mnist".to_owned(), 1, true)]);
    bench.done(id_of(&actions, "settle"), Done::Settled);
    assert!(bench.session.status(bench.now).retained.is_empty());
}

#[test]
fn a_plan_that_asks_to_count_fetches_nothing_and_scores_nothing() {
    let mut bench = Bench::welcomed(setup());
    bench.say(prepare_plan("mnist", 1));
    let actions = bench.take();
    let names: Vec<_> = actions.iter().map(Action::name).collect();
    assert_eq!(names, ["send-plan-answer", "send-progress", "train"]);
    assert_eq!(progress(&actions)[0].phase, SitePhase::Loading);
    bench.done(id_of(&actions, "train"), Done::Trained(Ok(trained())));
    let encode = id_of(&bench.take(), "encode");
    assert!(bench.session.status(bench.now).scores.is_empty());
    let update = retained("mnist", 1);
    bench.done(encode, Done::Encoded(Ok(update.clone())));
    assert_eq!(bench.names(), ["send-update-offer"]);
    // The next round's plan waits for the roll call of this one, as after every update.
    bench.say(prepared_plan("mnist", 2));
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Ok(())));
    assert!(bench.take().is_empty());
    bench.say(roll_call("mnist", 1, Some(update.digest)));
    assert_eq!(settles(&bench.take()), [("mnist".to_owned(), 1, true)]);
}

#[test]
fn a_plan_that_asks_to_count_waits_for_the_fate_of_an_earlier_update() {
    let mut bench = Bench::welcomed(setup());
    let update = bench.deliver("mnist", 1);
    bench.say(prepare_plan("mnist", 2));
    assert!(!bench.names().contains(&"train"));
    bench.say(roll_call("mnist", 1, None));
    let settle = id_of(&bench.take(), "settle");
    bench.done(settle, Done::Settled);
    assert_eq!(bench.names(), ["train"], "after {update:?}");
}

#[test]
fn a_plan_that_the_site_cannot_take_is_declined_with_its_code() {
    let mut setup = setup();
    let refused = |code| Decision::Refused { code };
    setup.studies.extend([
        known("asked", 3, Decision::NeedsPerson),
        known("denied", 4, refused(Code::Policy)),
        known("person", 5, refused(Code::RefusedBySite)),
        known("empty", 6, Decision::Accepted),
    ]);
    setup.data.extend(["asked", "denied", "person"].map(name));
    let mut bench = Bench::welcomed(setup);
    let named =
        |study: &str, n| Plan { study: name(study), study_digest: digest(n), ..plan("mnist", 1) };
    for (plan, code) in [
        (named("nowhere", 99), Code::UnknownStudy),
        (named("mnist", 99), Code::StudyMismatch),
        (named("ward", 1), Code::StudyMismatch),
        (named("asked", 3), Code::NotAccepted),
        (named("denied", 4), Code::Policy),
        (named("person", 5), Code::RefusedBySite),
        (named("empty", 6), Code::NoData),
    ] {
        bench.say(plan.clone());
        let actions = bench.take();
        assert_eq!(declined(&actions), Some(code), "{plan:?}");
        assert_eq!(actions.len(), 1, "and nothing starts");
    }
}

#[test]
fn a_study_that_is_still_being_judged_declines_its_plans() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("other", 3);
    let study_digest = digest(3);
    bench.take();
    bench.say(Plan { study: name("other"), study_digest, ..plan("mnist", 1) });
    assert_eq!(declined(&bench.take()), Some(Code::NotAccepted));
}

#[test]
fn a_plan_sent_again_does_not_start_again() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    let now = bench.now;
    bench.session.handle_progress(train, SitePhase::Training, 3, 10, now);
    bench.take();
    bench.lose_connection();
    bench.reconnect();
    bench.say(plan("mnist", 1));
    let actions = bench.take();
    assert_eq!(declined(&actions), None);
    let told = progress(&actions);
    assert_eq!((told.len(), told[0].phase, told[0].done), (1, SitePhase::Training, 3));
    assert_eq!(actions.len(), 2, "answer and progress: {actions:?}");
}

#[test]
fn a_newer_plan_replaces_the_running_one_and_an_older_one_is_declined() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 4));
    bench.say(plan("mnist", 3));
    assert_eq!(declined(&bench.take()), Some(Code::WrongRound));
    bench.say(plan("mnist", 5));
    let actions = bench.take();
    assert_eq!(declined(&actions), None);
    assert_eq!(id_of(&actions, "stop"), train);
    assert!(!actions.iter().any(|a| a.name() == "fetch"), "one worker at a time");
    bench.say(plan("mnist", 6));
    assert_eq!(bench.names(), ["send-plan-answer"], "stopped once");
    bench.done(train, Done::Trained(Ok(trained())));
    let actions = bench.take();
    let fetched = actions.iter().find_map(|action| match action {
        Action::Fetch { plan, .. } => Some(plan.round.0),
        _ => None,
    });
    assert_eq!(fetched, Some(6));
    assert!(bench.session.status(bench.now).scores.is_empty(), "what was stopped is no score");
}

#[test]
fn two_studies_share_one_slot_and_the_second_shows_that_it_waits() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.say(plan("ward", 1));
    let actions = bench.take();
    assert_eq!((actions.len(), declined(&actions)), (1, None), "accepted, queued");
    for batch in 1..=10 {
        bench.pass(100);
        let now = bench.now;
        bench.session.handle_progress(train, SitePhase::Training, batch, 10, now);
    }
    let told = progress(&bench.take());
    let of = |study: &str| told.iter().filter(|p| p.study == name(study)).count();
    assert!((2..=4).contains(&of("mnist")), "twice a second: {told:?}");
    assert!((2..=4).contains(&of("ward")), "and so does who waits: {told:?}");
    assert!(told.iter().any(|p| p.phase == SitePhase::Queued && p.study == name("ward")));
    let status = bench.session.status(bench.now);
    assert_eq!(status.tasks[1].waits_for.as_deref(), Some("the task ahead"));

    bench.done(train, Done::Trained(Ok(trained())));
    let encode = id_of(&bench.take(), "encode");
    bench.done(encode, Done::Encoded(Ok(retained("mnist", 1))));
    let actions = bench.take();
    assert!(
        matches!(&actions[..], [Action::Send { .. }, Action::Send { .. }, Action::Fetch { plan, .. }]
        if plan.study == name("ward"))
    );
}

#[test]
fn two_slots_run_two_studies_and_never_one_twice() {
    let mut setup = setup();
    setup.moment.slots = Some(2);
    let mut bench = Bench::welcomed(setup);
    bench.begin(plan("mnist", 1));
    bench.begin(plan("ward", 1));
    bench.say(plan("mnist", 2));
    let names = bench.names();
    assert_eq!(names, ["send-plan-answer", "stop"]);
}

#[test]
fn a_roll_call_ends_the_running_and_the_queued_plan_of_its_round() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    bench.say(plan("ward", 1));
    bench.take();
    bench.say(roll_call("ward", 1, None));
    assert!(bench.take().is_empty());
    assert_eq!(bench.session.status(bench.now).tasks.len(), 1);
    bench.say(roll_call("mnist", 1, None));
    assert_eq!(id_of(&bench.take(), "stop"), train);
    bench.say(plan("mnist", 1));
    assert_eq!(declined(&bench.take()), Some(Code::WrongRound), "a round ends once");
    bench.done(train, Done::Trained(Ok(trained())));
    assert!(bench.take().is_empty());
    assert!(bench.session.status(bench.now).tasks.is_empty());
}

#[test]
fn a_round_is_taken_on_again_once_a_person_accepts_a_history_without_its_end() {
    let mut bench = Bench::welcomed(setup());
    bench.say(roll_call("mnist", 7, None));
    bench.say(plan("mnist", 5));
    assert_eq!(declined(&bench.take()), Some(Code::WrongRound));
    bench.session.handle_other_history();
    bench.say(plan("mnist", 5));
    assert_eq!(declined(&bench.take()), None);
}

#[test]
fn a_roll_call_of_a_round_never_seen_is_remembered_and_changes_nothing() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 9));
    bench.say(roll_call("mnist", 7, None));
    bench.say(roll_call("unheard-of", 7, None));
    assert!(bench.take().is_empty());
    let calls = bench.session.status(bench.now).roll_calls;
    assert_eq!((calls.len(), calls[0].round.0, calls[0].code), (1, 7, Some(Code::Late)));
    bench.done(train, Done::Trained(Ok(trained())));
    assert!(bench.names().contains(&"encode"), "the newer round goes on");
}

#[test]
fn the_last_report_of_a_burst_goes_out_when_its_interval_is_over() {
    let mut bench = Bench::welcomed(setup());
    let train = bench.begin(plan("mnist", 1));
    for batch in 1..=5 {
        let now = bench.now;
        bench.session.handle_progress(train, SitePhase::Training, batch, 5, now);
    }
    assert_eq!(progress(&bench.take()).len(), 1);
    bench.pass(500);
    let told = progress(&bench.take());
    assert_eq!((told.len(), told[0].done), (1, 5));
}

#[test]
fn a_flood_of_plans_and_messages_leaves_one_plan_a_study() {
    let mut bench = Bench::welcomed(setup());
    let mut asked = 0;
    for round in 1..5_000 {
        for study in ["mnist", "ward"] {
            bench.say(plan(study, round));
            bench.say(roll_call("unheard-of", round, None));
            bench.say(wanted(&retained(study, round)));
            let actions = bench.take();
            asked += actions.iter().filter(|a| !matches!(a, Action::Send { .. })).count();
            assert!(actions.len() <= 5, "{actions:?}");
        }
    }
    let status = bench.session.status(bench.now);
    assert!(status.tasks.len() <= 3 && status.roll_calls.is_empty());
    assert!(asked <= 3, "one fetch and its stop: {asked}");
    assert!(size(&bench.session) < 16_384);
}

/// Characters of the whole state, as Debug prints it.
fn size(session: &Session) -> usize {
    format!("{session:?}").len()
}
