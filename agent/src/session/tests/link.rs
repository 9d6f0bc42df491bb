use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{Heartbeat, Hello, Message, Refused, Welcome};
use consilium_common::wire::reject::Code;

use super::bench::*;
use crate::session::{Action, ConnectionState, Decision};

fn welcome(wall: u64) -> Welcome {
    let coordinator = "consilium 0.1.0".to_owned();
    Welcome { coordinator, wall: WallMillis(wall), head: head() }
}

#[test]
fn hello_names_the_accepted_studies_and_nothing_else_is_said_before_welcome() {
    let mut setup = setup();
    setup.studies.push(known("other", 3, Decision::NeedsPerson));
    setup.retained.push(retained("mnist", 3));
    let mut bench = Bench::new(setup);
    assert_eq!(bench.names(), ["connect"]);
    bench.session.handle_connected(42, WALL, bench.now);
    let hello = Hello {
        agent: "consilium-agent 0.1.0".to_owned(),
        wall: WALL,
        accepted: vec![digest(1), digest(2)],
        witnessed: 42,
    };
    let message = Box::new(Message::Hello(hello));
    assert_eq!(bench.take(), [Action::Send { message }]);
    bench.say(plan("ward", 1));
    bench.say(roll_call("mnist", 3, None));
    bench.say(Heartbeat { wall: WALL });
    assert!(bench.take().is_empty(), "nothing counts before Welcome");
    bench.say(welcome(WALL.0));
    assert_eq!(bench.names(), ["send-update-offer"]);
}

#[test]
fn a_lost_connection_is_sought_again_with_growing_waits_until_welcome() {
    let mut bench = Bench::new(setup());
    bench.take();
    for ceiling in [500, 1_000, 2_000] {
        bench.lose_connection();
        assert_eq!(bench.session.next_deadline(), Some(bench.now + Millis(ceiling)));
        bench.pass(ceiling - 1);
        assert!(bench.take().is_empty());
        bench.pass(1);
        assert_eq!(bench.names(), ["connect"]);
    }
    bench.connect();
    bench.lose_connection();
    assert_eq!(bench.session.next_deadline(), Some(bench.now + Millis(500)));
    bench.lose_connection();
    assert_eq!(bench.session.next_deadline(), Some(bench.now + Millis(500)), "lost once");
}

#[test]
fn a_connection_that_is_accepted_and_refused_without_welcome_counts_as_failed() {
    let mut bench = Bench::new(setup());
    bench.take();
    bench.session.handle_connected(0, WALL, bench.now);
    let detail = "ask the operator".to_owned();
    bench.say(Refused { code: Code::NotInRoster, detail, retry_after: None });
    bench.lose_connection();
    let connection = bench.session.status(bench.now).connection;
    assert_eq!(connection.failed_attempts, 1);
    assert!(connection.trouble.unwrap().contains("not-in-roster"));
    assert_eq!(connection.state, ConnectionState::Waiting);
}

#[test]
fn a_site_in_quarantine_does_not_knock_before_its_time() {
    for (told, held_off) in [(40_000, 40_000), (u64::MAX, 3_600_000), (0, 0)] {
        let mut bench = Bench::new(setup());
        bench.take();
        bench.session.handle_connected(0, WALL, bench.now);
        bench.take();
        let detail = "malformed: no frame".to_owned();
        let retry_after = Some(Millis(told));
        bench.say(Refused { code: Code::Quarantined, detail, retry_after });
        bench.lose_connection();
        let until = bench.now + Millis(held_off) + Millis(500);
        assert_eq!(bench.session.next_deadline(), Some(until));
        let connection = bench.session.status(bench.now).connection;
        assert!(connection.trouble.unwrap().contains("(quarantined): malformed"));
        bench.pass(held_off + 500);
        assert_eq!(bench.names(), ["connect"]);
        bench.connect();
        bench.lose_connection();
        assert_eq!(bench.session.next_deadline(), Some(bench.now + Millis(500)), "forgotten");
    }
}

#[test]
fn clocks_more_than_five_minutes_apart_close_the_connection() {
    for (skew, closes) in [(300_000, false), (300_001, true)] {
        for wall in [WALL.0 + skew, WALL.0 - skew] {
            let mut bench = Bench::new(setup());
            bench.take();
            bench.session.handle_connected(0, WALL, bench.now);
            bench.take();
            bench.say(welcome(wall));
            let names = bench.names();
            assert_eq!(names.contains(&"close"), closes, "{skew} {names:?}");
            let trouble = bench.session.status(bench.now).connection.trouble;
            assert_eq!(trouble.is_some_and(|text| text.contains("set the clock")), closes);
        }
    }
}

#[test]
fn time_between_hello_and_welcome_is_no_skew() {
    let mut bench = Bench::new(setup());
    bench.take();
    bench.session.handle_connected(0, WALL, bench.now);
    bench.pass(29_000);
    bench.say(welcome(WALL.0 + 29_000 + 300_000));
    assert!(!bench.names().contains(&"close"));
}

#[test]
fn a_coordinator_that_never_says_welcome_is_left() {
    let mut bench = Bench::new(setup());
    bench.take();
    bench.session.handle_connected(0, WALL, bench.now);
    bench.take();
    bench.pass(30_000);
    assert_eq!(bench.names(), ["close"]);
    bench.lose_connection();
    assert!(bench.session.next_deadline().is_some());
}

#[test]
fn heartbeats_fill_silence_alone() {
    let mut bench = Bench::welcomed(setup());
    bench.pass(4_999);
    assert!(bench.take().is_empty());
    bench.offer("mnist", 1);
    assert_eq!(bench.names(), ["send-study-answer"]);
    bench.pass(4_999);
    assert!(bench.take().is_empty());
    bench.pass(1);
    let wall = WallMillis(WALL.0 + 9_999);
    let message = Box::new(Message::Heartbeat(Heartbeat { wall }));
    assert_eq!(bench.take(), [Action::Send { message }]);
}

#[test]
fn what_was_meant_for_a_lost_connection_is_not_sent_on_the_next() {
    let mut bench = Bench::welcomed(setup());
    bench.say(plan("mnist", 1));
    bench.lose_connection();
    assert_eq!(bench.names(), ["fetch"], "the work goes on, the answers are gone");
}
