//! What the end-to-end tests share, and the targets of the fuzzer.

#![forbid(unsafe_code)]

pub mod chaos;
pub mod enrol_samples;
pub mod fuzz;
pub mod harness;
pub mod samples;
pub mod simulation;
mod strategies;

/// The seed of a randomised test: `CONSILIUM_SEED`, or `default`. Printed, so that a failure can be
/// replayed.
#[must_use]
pub fn seed(default: u64) -> u64 {
    let seed = std::env::var("CONSILIUM_SEED").ok().and_then(|text| text.parse().ok());
    let seed = seed.unwrap_or(default);
    #[expect(clippy::print_stdout, reason = "a failing seed must be seen")]
    {
        println!("replay with CONSILIUM_SEED={seed}");
    }
    seed
}
