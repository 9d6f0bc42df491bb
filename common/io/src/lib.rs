//! What both programs do with disks and networks, in one place, so that each rule about loss and
//! trust is written once.
//!
//! ```text
//!  disk/            synchronous; callers wrap it in spawn_blocking
//!    replace        one small file, whole or not at all          ← keys, checkpoints, site state
//!    log            append-only records: the truth               ← coordinator, ledger
//!    blobs          files named by digest, partial files         ← models, updates
//!    lock           one process per state folder
//!    text           files that people write, bounded
//!  net/             asynchronous, on tokio
//!    carrier        one connection to an authenticated peer      ← agent link, coordinator server
//!      └ quic       the carrier over quinn; tuning.rs holds its numbers
//!    frames         whole control frames on a stream
//!    transfer       blobs by digest, resumable at an offset
//!  failpoints       where tests kill both programs; without the feature nothing
//!  memory           the allocator's settings of a daemon
//!  clock            the one place that reads the system's clocks
//! ```
//!
//! Reading order: `error`, `disk::replace`, `disk::log`, `disk::blobs`, `net::carrier`,
//! `net::transfer`, `net::quic`.

#![deny(unsafe_code)]

pub mod clock;
pub mod disk;
pub mod error;
pub mod failpoints;
pub mod lossy;
pub mod memory;
pub mod net;

pub use clock::SystemClock;
pub use error::IoError;
