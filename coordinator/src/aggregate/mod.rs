//! From updates to the next model: exact integer sums, then one rounding. Pure.
//!
//! [`validate`]: an update is held against its rules before anything is added. [`sum`]: Σ n_i·x_i in
//! i64, equal in any order. [`server_opt`]: from base, sum and the strategy's state to the next
//! model and state, by [`segments`]; [`scaffold`]: the state of that strategy.

pub mod scaffold;
pub mod segments;
pub mod server_opt;
pub mod sum;
pub mod validate;

pub use scaffold::Members;
pub use segments::{Segment, segments};
pub use server_opt::{Before, Next, ServerStep, StepError};
pub use sum::{Share, Sum, SumError};
pub use validate::{Validator, validate};
