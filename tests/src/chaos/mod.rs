//! Real programs, real QUIC, real disks, and everything that goes wrong with them: what the
//! simulation (`crate::simulation`) does to the cores, this does to the processes.
//!
//! ```text
//!  proxy     a network between one agent and the coordinator, with bad weather
//!  disk      a state folder that runs full or refuses
//!  strike    what can happen, and how often
//!  campaign  one federation under many strikes, then healed and judged
//!  judge     what its log must say
//!  line      whole studies over one kind of bad line, timed
//! ```
//!
//! What counts as failure: a committed model that is not the exact sum of its roll call (computed
//! apart), a receipt for an update that its round's roll call does not count although it committed,
//! two receipts for one site and round, a study that goes nowhere once everything is healed.
//!
//! What does not: rounds that take longer or are abandoned with their reason. The idle timeout is
//! longer than any strike, so a site that is struck is waited for, never passed over.
//!
//! Not modelled: power loss and bit rot (the simulation; the tests of consilium-io flip every bit of a
//! log); clocks (the simulation).

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::print_stderr,
    reason = "only tests run this: a panic is a failed test"
)]

pub mod campaign;
pub mod disk;
pub mod judge;
pub mod line;
pub mod proxy;
pub mod strike;

pub use campaign::{Campaign, Tally};
pub use line::{Line, Trip};
pub use proxy::{Proxy, Weather};
pub use strike::Strike;
