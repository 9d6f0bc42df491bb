//! The roll call and the status, as text that auditors and scripts rely on.

use consilium_common::audit::Record;
use consilium_common::time::Millis;
use consilium_common::wire::reject::Code;

use super::world::{World, site};

/// For diffs that a person reviews.
fn pretty(document: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(document).unwrap() + "\n"
}

/// Two that count, one of them clipped, one that declines, one that is idle, one quarantined.
fn eventful() -> World {
    let mut world = World::new(&["a", "b", "c", "d", "e"]);
    world.hold.insert("persist-plan");
    world.command(super::super::Command::Pause).unwrap();
    world.settle();
    world.ready(&["a", "b", "c", "d", "e"]);
    world.command(super::super::Command::Start).unwrap();
    world.settle();
    world.release();
    world.accepts(&["a", "b", "d", "e"]);
    world.declines("c", Code::OutsideHours, Some(Millis(60_000)));
    world.wait(1_500);
    world.delivers(&["a", "b"]);
    let plan = world.plan();
    let bad = world.make_with("e", &plan, |_, units, _| units[0] = i32::MAX);
    world.offers("e", plan.round, bad);
    world.pushes("e", plan.round, bad).unwrap();
    world.engine.handle_transfer(&site("a"), plan.round, 0, 69, world.now);
    world
}

#[test]
fn the_roll_call_is_this_text() {
    let mut world = eventful();
    world.wait(10_000);
    let [roll_call] = &world.roll_calls()[..] else {
        panic!("one round has ended");
    };
    assert_eq!(pretty(roll_call), include_str!("roll_call.json"));
    assert_eq!(world.commits().len(), 1);
    let signed = world.log.iter().find_map(|record| match record {
        Record::RollCall(ended) => Some(&ended.signed),
        _ => None,
    });
    assert_eq!(signed.unwrap().bytes, roll_call.to_bytes().unwrap());
}

#[test]
fn the_status_has_these_fields() {
    let world = eventful();
    let status = world.status();
    assert_eq!(pretty(&status), include_str!("status.json"));
    let back: super::super::Status = serde_json::from_str(&pretty(&status)).unwrap();
    assert_eq!(back, status);
}
