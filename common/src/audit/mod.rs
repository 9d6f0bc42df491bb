//! What the log holds and auditors check.
//!
//! [`record`]: kinds and payloads. [`tree`]: the Merkle tree over them (RFC 6962). [`checkpoint`]:
//! its signed head. [`proof`]: that a record is in a tree, and that one tree goes on from another.
//! [`receipt`] and [`roll_call`]: what the coordinator signs for sites. [`withdrawal`]: which versions a
//! patient's withdrawal affects.

pub mod checkpoint;
pub mod proof;
pub mod receipt;
pub mod record;
pub mod roll_call;
pub mod tree;
pub mod withdrawal;

pub use checkpoint::Checkpoint;
pub use proof::{Blocks, ProofError, Prover};
pub use receipt::Receipt;
pub use record::Record;
pub use roll_call::{Entry, Outcome, RollCall, Status};
