//! The session on a simulated clock.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests look for one action or message among many"
)]

mod bench;
mod faults;
mod link;
mod plans;
mod policy;
mod status;
mod studies;
mod updates;
mod withdrawals;
mod world;
