//! From updates to the next model: exact integer sums, then one rounding. Pure.
//!
//! [`validate`]: an update is held against its rules before anything is added. [`sum`]: Σ n_i·x_i in
//! i64, equal in any order. [`fedavg`]: base + step·Σ/W, by chunks.

pub mod fedavg;
pub mod sum;
pub mod validate;

pub use fedavg::{FedAvg, FedAvgError, Segment};
pub use sum::{Share, Sum, SumError};
pub use validate::{Validator, validate};
