//! The agent as processes: workers that the test starts, the daemon against a coordinator that the
//! test plays, and the commands that people type.
#![deny(unsafe_code)]
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests; what fails here fails the test"
)]

mod control_socket;
mod coordinator;
mod daemon;
mod ledger;
mod local;
mod policy;
mod support;
mod versions;
mod worker;
