//! The end of a study's approval, by the calendar that the driver tells.

use consilium_common::study::governance::Standing;
use consilium_common::time::{Date, WallMillis};

use super::super::status::PhaseName;
use super::world::World;

const UNTIL: &str = "2027-03-31";

fn end() -> WallMillis {
    UNTIL.parse::<Date>().unwrap().end()
}

fn approved() -> World {
    World::with(&["a", "b"], |toml| format!("{toml}\n[governance]\napproved_until = \"{UNTIL}\"\n"))
}

#[test]
fn no_round_begins_after_the_end_and_the_status_says_why() {
    let mut world = approved();
    world.engine.handle_wall(end());
    world.ready(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Idle);
    let status = world.status();
    assert_eq!(status.waiting_for.len(), 1, "{:?}", status.waiting_for);
    let said = &status.waiting_for[0];
    assert!(said.starts_with("approval-expired: ") && said.contains(UNTIL), "{said}");
    assert_eq!(status.approval.unwrap().standing, Standing::Expired);
    world.wait(3_600_000);
    assert_eq!(world.phase(), PhaseName::Idle, "waiting does not help");
    assert_eq!(world.engine.next_deadline(), None, "and wakes nobody");
}

#[test]
fn a_round_that_began_in_time_ends_and_the_next_does_not_begin() {
    let mut world = approved();
    world.engine.handle_wall(WallMillis(end().0 - 1));
    world.ready(&["a", "b"]);
    assert_eq!(world.status().approval.unwrap().standing, Standing::EndsSoon);
    world.accepts(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Training);
    world.engine.handle_wall(end());
    world.delivers(&["a", "b"]);
    assert_eq!(world.roll_calls().len(), 1);
    assert_eq!(world.phase(), PhaseName::Idle);

    // A clock that is set right again.
    world.engine.handle_wall(WallMillis(end().0 - 1));
    world.ready(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Inviting);
}
