//! Federations in simulated time: fresh seeds at every run, and the bugs that must be found.
//!
//! `CONSILIUM_SEED=n` replays one federation, `CONSILIUM_SEEDS=n` goes through n of them;
//! `cargo xtask sim` goes through many.

use std::time::{SystemTime, UNIX_EPOCH};

use consilium_common::planted::{self, BUGS, Bug};
use consilium_tests::simulation::{Coverage, run, shrink};

/// Federations that each run of the tests goes through.
const SEEDS: u64 = 2_000;
/// Seeds in which each planted bug must be found.
const BUG_SEEDS: u64 = 5_000;

#[test]
fn disturbed_federations_commit_exact_sums_and_lose_nothing() {
    let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
    let seeds = number("CONSILIUM_SEEDS").unwrap_or(SEEDS);
    let one = number("CONSILIUM_SEED");
    #[expect(clippy::disallowed_methods, reason = "fresh seeds: printed, so that they replay")]
    let fresh = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() * SEEDS;
    let range = one.map_or(fresh..fresh + seeds, |seed| seed..seed + 1);
    println!("seeds {range:?}");
    let mut total = Coverage::default();
    for seed in range {
        match run(seed) {
            Ok(coverage) => total.add(&coverage),
            Err(violation) => {
                let least = shrink(*violation);
                panic!("replay with CONSILIUM_SEED={seed}: {least}");
            }
        }
    }
    println!("{}", total.table());
    if one.is_none() && seeds >= SEEDS {
        let [sites, rounds, faults] = total.medians();
        assert!(sites >= 3 && rounds >= 5 && faults >= 10, "{:?}", total.medians());
        assert!(total.abandoned > 0 && total.excluded > 0 && total.resumed > 0);
        assert!(total.prepared > seeds / 10, "{} preparations", total.prepared);
    }
}

#[test]
fn a_seed_means_the_same_federation() {
    assert_eq!(run(7).unwrap(), run(7).unwrap());
}

/// The seed that finds a planted bug, if one of the first [`BUG_SEEDS`] does.
fn finds(bug: Bug) -> Option<u64> {
    planted::plant(Some(bug));
    let found = (0..BUG_SEEDS).find(|seed| run(*seed).is_err());
    planted::plant(None);
    found
}

#[test]
fn a_local_state_that_is_promoted_on_abandon_is_seen_in_what_it_says() {
    planted::plant(Some(Bug::ResidualOnAbandon));
    // Where the first round prepares there is no local state yet, and other promises break first.
    let mut found = (0..BUG_SEEDS).filter_map(|seed| run(seed).err());
    let seen = found.any(|violation| violation.what.contains("local state"));
    planted::plant(None);
    assert!(seen, "no federation shows it in a local state");
}

#[test]
fn every_planted_bug_is_found_and_none_is_seen_where_none_is() {
    let mut missed = Vec::new();
    for bug in BUGS {
        match finds(bug) {
            Some(seed) => {
                println!("{bug:?} is found by seed {seed}");
                run(seed).unwrap();
            }
            None => missed.push(bug),
        }
    }
    assert!(missed.is_empty(), "not found in {BUG_SEEDS} seeds: {missed:?}");
}
