//! Sites that come into the roster, and sites that are put out of it, while a study runs.

use std::collections::BTreeSet;

use consilium_common::audit::Status as Counted;
use consilium_common::ids::SiteId;
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;

use super::super::status::PhaseName;
use super::world::{World, site};

fn members(world: &mut World, names: &[&str]) {
    let members: BTreeSet<SiteId> = names.iter().map(|name| site(name)).collect();
    world.engine.handle_members(members, world.now);
    world.settle();
}

/// Who was sent the newest plan.
fn invited(world: &World) -> BTreeSet<SiteId> {
    let newest = world.plan().round;
    let sent = world.sent.iter().filter(|(_, message)| match message {
        Message::Plan(plan) => plan.round == newest,
        _ => false,
    });
    sent.map(|(site, _)| site.clone()).collect()
}

/// Two sites are enough; all three work for a round.
fn training() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    world.ready(&["a", "b"]);
    world.accepts(&["a", "b"]);
    world.ready(&["c"]);
    world.delivers(&["a", "b"]);
    world.accepts(&["a", "b", "c"]);
    assert_eq!(world.phase(), PhaseName::Training);
    world
}

#[test]
fn a_site_that_is_put_out_is_not_waited_for_and_the_roll_call_says_why() {
    let mut world = training();
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 1, "the second round waits for a");
    members(&mut world, &["b", "c"]);
    assert_eq!(world.commits().len(), 2);
    let call = world.roll_calls().pop().unwrap();
    let status = &call.sites[&site("a")].status;
    assert!(matches!(status, Counted::Excluded { code: Code::Revoked }), "{status:?}");
    // It is nobody to the rounds that follow, whatever it says.
    world.engine.handle_site_ready(&site("a"), world.now);
    world.settle();
    world.accepts(&["b", "c"]);
    assert!(!invited(&world).contains(&site("a")));
}

#[test]
fn what_was_receipted_before_counts() {
    let mut world = training();
    world.delivers(&["a"]);
    members(&mut world, &["b", "c"]);
    world.delivers(&["b", "c"]);
    assert!(world.roll_calls()[1].counted(&site("a")));
}

#[test]
fn a_site_that_comes_in_takes_part_from_the_next_round_on() {
    let mut world = training();
    world.ready(&["d"]);
    assert_eq!(world.status().sites.len(), 3, "a stranger");
    members(&mut world, &["a", "b", "c", "d"]);
    world.ready(&["d"]);
    assert!(!invited(&world).contains(&site("d")), "the open round has its sites");
    world.delivers(&["a", "b", "c"]);
    assert!(invited(&world).contains(&site("d")));
}
