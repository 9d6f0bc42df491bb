//! Real programs under kills, freezes, bad networks and bad disks: a part of `cargo xtask chaos`.

#![expect(clippy::print_stdout, reason = "what happened, beside a failure")]

use std::time::Duration;

use consilium_tests::chaos::{Campaign, Trip, Weather};
use consilium_tests::seed;

fn campaign(default_seed: u64) {
    let tally = Campaign::start(seed(default_seed)).run(34);
    println!("{tally:#?}");
    assert_eq!(tally.verdict.lost, 0, "acknowledged updates are counted");
    assert!(tally.verdict.committed > 0 && tally.kills >= 34);
}

// A hundred kills, in three federations side by side.

#[test]
fn nothing_acknowledged_is_lost_first_campaign() {
    campaign(101);
}

#[test]
fn nothing_acknowledged_is_lost_second_campaign() {
    campaign(102);
}

#[test]
fn nothing_acknowledged_is_lost_third_campaign() {
    campaign(103);
}

#[test]
fn a_study_completes_over_a_line_that_loses_a_tenth() {
    let weather = Weather {
        loss: 0.1,
        reorder: 0.05,
        duplicate: 0.02,
        delay: Duration::from_millis(20),
        mtu: 1452,
        ..Weather::CALM
    };
    let trip = Trip { sites: 2, parameters: 20_000, rounds: 2, weather, seconds: 120 };
    let line = trip.go(seed(104));
    println!("{line:#?}");
    assert!(line.tally.lost > 0 && line.tally.reordered > 0);
    assert_eq!((line.verdict.committed, line.verdict.abandoned, line.verdict.lost), (3, 0, 0));
}
