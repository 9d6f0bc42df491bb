//! The two state machines against each other: a real `Engine` and real `Session`s on a simulated
//! clock, over links that are cut and processes that die at any action, all from one seed.
//!
//! `CONSILIUM_SEED=n cargo nextest run -p consilium-tests --test pair` replays one federation,
//! `CONSILIUM_SEEDS=n` goes through the first n.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a test looks for one record or message among many"
)]
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "what the simulation itself put there, it finds; what it does not is a failed test"
)]

#[path = "pair/coordinator.rs"]
mod coordinator;
#[path = "pair/events.rs"]
mod events;
#[path = "pair/links.rs"]
mod links;
#[path = "pair/oracle.rs"]
mod oracle;
#[path = "pair/sim.rs"]
mod sim;
#[path = "pair/site.rs"]
mod site;
#[path = "pair/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::World;

/// Federations that each run of the tests goes through.
const SEEDS: u64 = 600;

/// Runs one federation to its end and holds it against the promises.
fn federation(seed: u64) -> oracle::Summary {
    let mut world = World::new(seed);
    world.run();
    oracle::check(&world)
}

#[test]
fn a_disturbed_federation_commits_exact_sums_and_loses_nothing() {
    let number = |name| std::env::var(name).ok()?.parse().ok();
    let one: Option<u64> = number("CONSILIUM_SEED");
    let many = number("CONSILIUM_SEEDS").unwrap_or(SEEDS);
    let seeds = one.map_or(0..many, |seed| seed..seed + 1);
    let mut total = oracle::Summary::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| federation(seed))) {
            Ok(summary) => total.add(&summary),
            Err(failure) => {
                println!("replay with CONSILIUM_SEED={seed}");
                resume_unwind(failure);
            }
        }
    }
    println!("{total:?}");
    if one.is_none() && many >= SEEDS {
        // The disturbances reach what they are there for.
        assert!(total.crashes > SEEDS && total.cuts > SEEDS, "{total:?}");
        assert!(total.abandoned > 0 && total.excluded > 0, "{total:?}");
        assert!(total.resumed > 50, "{total:?}");
    }
}

#[test]
fn a_seed_means_the_same_federation() {
    assert_eq!(federation(7), federation(7));
}
