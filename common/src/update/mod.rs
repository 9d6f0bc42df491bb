//! What a site uploads for a round.
//!
//! [`delta`]: trained − base, its norm, the clip. [`grid`]: fixed point, so that sums are exact.
//! [`words`]: weight, flags and metric sums beside it. [`measures`]: what people
//! read from the sums. [`best`]: which version they make the best. [`sections`]: the bytes of all of it.

pub mod best;
pub mod delta;
pub mod grid;
pub mod measures;
pub mod sections;
pub mod words;
