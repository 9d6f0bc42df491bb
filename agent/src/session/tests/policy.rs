//! The policy's rules of the moment, and a policy that is read again.

use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{Answer, Message, Published, SitePhase};
use consilium_common::wire::reject::Code;
use jiff::tz::TimeZone;

use super::bench::*;
use crate::policy::{Hours, Moment, Window};
use crate::session::{Action, Decision, Done, Setup};

const HOUR: u64 = 3_600_000;

/// From 20:00 to 06:00 UTC, by day or by night.
fn nightly() -> Moment {
    let hours: Hours = "20:00-06:00 UTC".parse().unwrap();
    let window = Some(Window::new(hours, TimeZone::UTC));
    Moment { window, ..Moment::default() }
}

fn with(moment: Moment) -> Setup {
    Setup { moment, ..setup() }
}

/// `hour` of the day of [`WALL`].
fn at(hour: u64) -> WallMillis {
    WallMillis(WALL.0 - WALL.0 % (24 * HOUR) + hour * HOUR)
}

/// What the plan's answer says of the time to come.
fn retry_after(actions: &[Action]) -> Option<Millis> {
    actions.iter().find_map(|action| match action {
        Action::Send { message } => match &**message {
            Message::PlanAnswer(said) => match said.answer {
                Answer::Declined { retry_after, .. } => retry_after,
                Answer::Accepted => None,
            },
            _ => None,
        },
        _ => None,
    })
}

#[test]
fn a_plan_outside_the_hours_is_declined_with_the_next_opening() {
    let mut bench = Bench::welcomed(with(nightly()));
    bench.offer("mnist", 1);
    bench.take();
    let plan = plan("mnist", 1);
    bench.session.handle_message(plan.clone().into(), at(12), bench.now);
    let actions = bench.take();
    assert_eq!((actions.len(), declined(&actions)), (1, Some(Code::OutsideHours)));
    assert_eq!(retry_after(&actions), Some(Millis(8 * HOUR)));
    bench.pass(1_000);
    let status = bench.session.status(bench.now);
    let shown = &status.declined[0];
    assert_eq!(
        (shown.study.clone(), shown.round, shown.code),
        (plan.study.clone(), plan.round, Code::OutsideHours)
    );
    assert!(shown.why.contains("hours = \"20:00-06:00 UTC\""), "{}", shown.why);
    assert_eq!(shown.again_in_ms, Millis(8 * HOUR - 1_000));
    assert_eq!(bench.session.declined(&plan.study, bench.now).as_ref(), Some(shown));

    bench.session.handle_message(plan.into(), at(20), bench.now);
    let actions = bench.take();
    assert_eq!(declined(&actions), None);
    assert!(actions.iter().any(|action| action.name() == "fetch"), "it is taken on");
    assert!(bench.session.status(bench.now).declined.is_empty());
}

#[test]
fn hours_that_are_taken_back_are_told_by_accepting_once_more() {
    let mut bench = Bench::welcomed(with(nightly()));
    bench.offer("mnist", 1);
    bench.offer("ward", 2);
    bench.take();
    bench.session.handle_message(plan("mnist", 1).into(), at(12), bench.now);
    bench.take();
    let accepted = |study, n| known(study, n, Decision::Accepted);
    let all = vec![accepted("mnist", 1), accepted("ward", 2)];
    bench.session.handle_policy(Moment::default(), all.clone(), bench.now);
    let actions = bench.take();
    assert_eq!((actions.len(), actions[0].name()), (1, "send-study-answer"), "of mnist alone");
    assert_eq!(declined(&actions), None);
    bench.session.handle_policy(Moment::default(), all, bench.now);
    assert!(bench.take().is_empty(), "once");
    bench.session.handle_message(plan("mnist", 1).into(), at(12), bench.now);
    assert_eq!(declined(&bench.take()), None);
}

#[test]
fn what_is_under_way_when_the_hours_end_is_carried_to_its_end() {
    let mut bench = Bench::welcomed(with(nightly()));
    let now = bench.now;
    bench.session.handle_message(plan("mnist", 1).into(), at(5), now);
    bench.session.handle_message(plan("ward", 1).into(), at(5), now);
    let fetch = id_of(&bench.take(), "fetch");
    bench.done(fetch, Done::Fetched(Ok(())));
    let train = id_of(&bench.take(), "train");
    // The coordinator says it again after a restart: running and queued plans are still taken.
    for study in ["mnist", "ward"] {
        bench.session.handle_message(plan(study, 1).into(), at(7), now);
        assert_eq!(declined(&bench.take()), None, "{study}");
    }
    bench.done(train, Done::Trained(Ok(trained())));
    let encode = id_of(&bench.take(), "encode");
    bench.done(encode, Done::Encoded(Ok(retained("mnist", 1))));
    bench.take();
    bench.session.handle_message(plan("mnist", 1).into(), at(7), now);
    assert!(bench.names().contains(&"send-update-offer"), "what is retained is offered");
    bench.session.handle_message(plan("mnist", 2).into(), at(7), now);
    assert_eq!(declined(&bench.take()), Some(Code::OutsideHours), "a new round is not begun");
}

/// What is told of the hours, in order.
fn published(actions: &[Action]) -> Vec<Published> {
    let told = actions.iter().filter_map(|action| match action {
        Action::Send { message } => match &**message {
            Message::PublishedHours(told) => Some(told.hours.clone()),
            _ => None,
        },
        _ => None,
    });
    told.collect()
}

#[test]
fn hours_are_published_at_each_connection_and_when_they_change_and_taken_back() {
    let mut bench = Bench::welcomed(with(nightly()));
    bench.lose_connection();
    assert_eq!(published(&bench.reconnect()), [], "nobody said that they may be told");
    let daily = Published::Daily("20:00-06:00 UTC".to_owned());
    let telling = Moment { published: daily.clone(), ..nightly() };
    let judged = |bench: &mut Bench, moment: &Moment| {
        bench.session.handle_policy(moment.clone(), Vec::new(), bench.now);
        published(&bench.take())
    };
    assert_eq!(judged(&mut bench, &telling), std::slice::from_ref(&daily));
    assert_eq!(judged(&mut bench, &telling), [], "they are the same");
    bench.lose_connection();
    assert_eq!(published(&bench.reconnect()), [daily]);
    assert_eq!(judged(&mut bench, &nightly()), [Published::Nothing]);
    bench.lose_connection();
    assert_eq!(published(&bench.reconnect()), []);
}

#[test]
fn a_plan_that_finds_no_slot_is_declined_with_the_time_that_training_has_left() {
    let slots = Moment { slots: Some(1), ..Moment::default() };
    let mut bench = Bench::welcomed(with(slots));
    let train = bench.begin(plan("mnist", 1));
    bench.say(plan("ward", 1));
    let actions = bench.take();
    assert_eq!((actions.len(), declined(&actions)), (1, Some(Code::Busy)));
    assert_eq!(retry_after(&actions), Some(Millis::from_secs(60)), "nothing tells yet");
    bench.session.handle_progress(train, SitePhase::Training, 1, 100, bench.now);
    bench.pass(30_000);
    bench.session.handle_progress(train, SitePhase::Training, 25, 100, bench.now);
    bench.take();
    bench.say(plan("ward", 1));
    let actions = bench.take();
    assert_eq!(declined(&actions), Some(Code::Busy));
    assert_eq!(retry_after(&actions), Some(Millis(90_000)), "a quarter took 30 s");
    assert!(bench.session.status(bench.now).declined[0].why.contains("slots = 1"));
    // A newer round of the study that has the slot takes its place.
    bench.say(plan("mnist", 2));
    assert_eq!(declined(&bench.take()), None);
}

#[test]
fn a_stricter_policy_withdraws_what_it_refuses_and_leaves_the_rest() {
    let mut bench = Bench::welcomed(setup());
    bench.offer("mnist", 1);
    bench.offer("ward", 2);
    let train = bench.begin(plan("mnist", 1));
    bench.say(plan("ward", 1));
    bench.take();
    let code = Code::PolicyColumns;
    let known =
        vec![known("mnist", 1, Decision::Refused { code }), known("ward", 2, Decision::Accepted)];
    bench.session.handle_policy(Moment::default(), known, bench.now);
    let actions = bench.take();
    assert!(actions.contains(&Action::Stop { id: train }));
    assert_eq!(failed(&actions), Some(code));
    let judge = id_of(&actions, "judge-study");
    let rows = bench.session.status(bench.now).studies;
    let of = |study: &str| rows.iter().find(|row| row.study == name(study)).unwrap().decision;
    assert_eq!(of("mnist"), Some(Decision::Refused { code }));
    assert_eq!(of("ward"), Some(Decision::Accepted));
    bench.say(plan("mnist", 2));
    assert_eq!(declined(&bench.take()), Some(code));
    bench.done(judge, Done::Judged(Ok(judged(Decision::Refused { code }))));
    assert_eq!(declined(&bench.take()), Some(code), "and the coordinator hears of it");
    bench.done(train, Done::Trained(Ok(trained())));
    let actions = bench.take();
    assert!(
        matches!(&actions[..], [Action::Send { .. }, Action::Fetch { plan, .. }] if plan.study == name("ward")),
        "the other study goes on: {actions:?}"
    );
}

#[test]
fn what_is_retained_of_a_study_that_is_refused_at_the_next_start_does_not_leave() {
    let mut setup = setup();
    let code = Code::PolicyModes;
    setup.studies = vec![
        known("mnist", 1, Decision::Refused { code }),
        known("ward", 2, Decision::Refused { code }),
        known("ward", 3, Decision::Accepted),
    ];
    setup.retained = vec![retained("mnist", 4), retained("ward", 4)];
    let mut bench = Bench::new(setup);
    let actions = bench.take();
    assert_eq!(
        settles(&actions),
        [("mnist".to_owned(), 4, false)],
        "a version of ward is accepted"
    );
    let offered = bench.connect();
    let names: Vec<_> = offered.iter().map(Action::name).collect();
    assert_eq!(names, ["send-update-offer"], "of ward alone");
}

#[test]
fn a_study_that_a_wider_policy_allows_is_accepted_at_once() {
    let mut setup = setup();
    let code = Code::PolicyStudies;
    setup.studies.push(known("other", 3, Decision::Refused { code }));
    let mut bench = Bench::welcomed(setup);
    bench.offer("other", 3);
    let judge = id_of(&bench.take(), "judge-study");
    // Not kept here: its signatures were too few.
    bench.offer("signed", 4);
    let early = id_of(&bench.take(), "judge-study");
    let accepted = |study, n| known(study, n, Decision::Accepted);
    let all = vec![accepted("mnist", 1), accepted("ward", 2), accepted("other", 3)];
    bench.session.handle_policy(nightly(), all, bench.now);
    let actions = bench.take();
    assert_eq!(actions[0].name(), "send-study-answer");
    assert_eq!(declined(&actions), None);
    let again = id_of(&actions, "judge-study");
    // What was asked of the old policy is no answer any more.
    for old in [judge, early] {
        bench.done(old, Done::Judged(Ok(judged(Decision::Refused { code }))));
        assert!(bench.take().is_empty());
    }
    bench.done(again, Done::Judged(Ok(judged(Decision::NeedsPerson))));
    assert_eq!(declined(&bench.take()), Some(Code::NotAccepted));
    bench.session.handle_message(plan("mnist", 1).into(), at(12), bench.now);
    assert_eq!(declined(&bench.take()), Some(Code::OutsideHours), "and its hours hold");
}
