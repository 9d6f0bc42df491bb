//! Engines on a simulated clock, with a scripted driver and sites.
#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "tests look for one kind of record or message among all"
)]

mod approval;
mod audit;
mod best;
mod crash;
mod delivery;
mod golden;
mod life;
mod members;
mod prepare;
mod random;
mod scaffold;
mod sites;
mod waiting;
mod world;
