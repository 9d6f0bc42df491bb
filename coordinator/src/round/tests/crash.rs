//! The process dies after every single action, and the models are those of the undisturbed run.

use std::collections::BTreeSet;

use consilium_common::audit::Status;
use consilium_common::ids::SiteId;
use consilium_common::time::Millis;
use consilium_common::wire::messages::RunState;
use consilium_common::wire::reject::Code;

use super::super::Command;
use super::super::status::PhaseName;
use super::world::{World, site};

const SITES: [&str; 3] = ["a", "b", "c"];

/// All three sites must count, so that every run has the same cohorts; and a version needs the
/// strategy's state of the one before. They prepare first.
fn world() -> World {
    let all = |toml: &str| {
        let toml = toml.replace("min_sites = 2", "min_sites = 3");
        let toml = toml.replace("parameters = 5", "parameters = 5\nprepare = 7");
        toml.replace("clip_norm = 10.0", "clip_norm = 10.0\nstrategy = \"fedadam\"")
    };
    let mut world = World::submitted(&SITES, all);
    world.populate();
    world
}

fn connect_all(world: &mut World) {
    let sites: Vec<SiteId> = world.sites.keys().cloned().collect();
    for id in &sites {
        world.connect(id);
    }
}

/// One step: an action, else a message read by a site, else an event for the engine, else time.
/// False when the study is complete.
fn step(world: &mut World) -> bool {
    if world.perform_one() {
        return true;
    }
    let sites: Vec<SiteId> = world.sites.keys().cloned().collect();
    if sites.iter().any(|id| world.react(id)) {
        return true;
    }
    if let Some(event) = world.queue.pop_front() {
        world.handle(event);
        return true;
    }
    if world.state_in_log() == RunState::Complete {
        return false;
    }
    if world.state_in_log() == RunState::Submitted {
        world.command(Command::Start).unwrap();
        return true;
    }
    let at = world.engine.next_deadline();
    let at = at.unwrap_or_else(|| panic!("hangs: {:?}", world.status()));
    world.now = world.now.max(at);
    world.engine.handle_timeout(world.now);
    true
}

/// Runs to the end, dying right after each of these actions.
fn run(crashes: &BTreeSet<usize>, staged_survive: bool) -> World {
    let mut world = world();
    connect_all(&mut world);
    let mut died = 0;
    for _ in 0..10_000 {
        let alive = step(&mut world);
        if crashes.contains(&world.performed.len()) && died != world.performed.len() {
            died = world.performed.len();
            world.crash(staged_survive);
            connect_all(&mut world);
        } else if !alive {
            return world;
        }
    }
    panic!("no end after 10000 steps: {:?}", world.status());
}

fn check(world: &World, undisturbed: &World, what: &str) {
    assert_eq!(world.prepared(), undisturbed.prepared(), "{what}");
    assert_eq!(world.commits(), undisturbed.commits(), "{what}");
    for fake in world.sites.values() {
        for (round, digest) in &fake.receipts {
            let roll_call = world.roll_calls().into_iter().find(|call| call.round == *round);
            let counted = roll_call.unwrap().sites.into_values();
            assert_eq!(counted.filter(|entry| entry.update == Some(*digest)).count(), 1, "{what}");
        }
    }
}

#[test]
fn a_death_after_any_action_loses_nothing_and_counts_nothing_twice() {
    let undisturbed = run(&BTreeSet::new(), true);
    let actions = undisturbed.performed.len();
    assert_eq!((undisturbed.prepared().len(), undisturbed.commits().len()), (1, 2));
    assert_eq!(undisturbed.roll_calls().len(), 4, "a preparation, two rounds and an evaluation");
    assert!(actions > 80, "{actions}");
    for k in 1..=actions {
        for staged_survive in [true, false] {
            let world = run(&BTreeSet::from([k]), staged_survive);
            let action = undisturbed.performed[k - 1];
            let what = format!("died after action {k} ({action}), staged: {staged_survive}");
            check(&world, &undisturbed, &what);
            assert_eq!(world.roll_calls().len(), 4, "{what}: no round was lost");
        }
    }
}

#[test]
fn two_deaths_in_one_round_lose_nothing_either() {
    let undisturbed = run(&BTreeSet::new(), true);
    for k in 1..=60 {
        for further in [1, 2, 3, 5, 8, 13] {
            let world = run(&BTreeSet::from([k, k + further]), further % 2 == 0);
            check(&world, &undisturbed, &format!("died after {k} and {further} more"));
        }
    }
}

/// Found by the simulation: the reasons are in the record that begins the training.
#[test]
fn a_death_in_training_keeps_the_reasons_of_refused_and_declined_sites() {
    let all = ["a", "b", "c", "d"];
    let mut world = World::new(&all);
    world.hold.insert("persist-plan");
    world.command(Command::Pause).unwrap();
    world.settle();
    world.ready(&all);
    world.command(Command::Start).unwrap();
    world.settle();
    world.release();
    world.accepts(&["d"]);
    let plan = world.plan();
    let bad = world.make_with("d", &plan, |_, units, _| units[0] = i32::MAX);
    world.offers("d", plan.round, bad);
    world.pushes("d", plan.round, bad).unwrap();
    world.declines("c", Code::OutsideHours, Some(Millis(60_000)));
    world.accepts(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Training);
    world.crash(true);
    world.ready(&["a", "b"]);
    world.delivers(&["a", "b"]);
    let roll_call = world.roll_calls().remove(0);
    let status = |name| roll_call.sites[&site(name)].status;
    assert!(roll_call.counted(&site("a")) && roll_call.counted(&site("b")));
    assert_eq!(status("c"), Status::Excluded { code: Code::OutsideHours });
    assert_eq!(status("d"), Status::Excluded { code: Code::OutOfGrid });
}
