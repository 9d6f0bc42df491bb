//! What a site uploads for a round.
//!
//! [`delta`]: trained − base, its norm, the clip. [`grid`]: fixed point, so that sums are exact.
//! [`control`]: SCAFFOLD's correction of the sites' steps. [`words`]: weight, flags and metric sums beside
//! it. [`measures`]: what the sums say. [`labels`]: the sums of several labels at once. [`intervals`]: how
//! people read it. [`groups`]: the same for groups of records. [`best`]: which version they make the best.
//! [`operating_point`]: from which probability on a class is said. [`sections`]: the bytes of all of it.

pub mod best;
pub mod control;
pub mod delta;
pub mod grid;
pub mod groups;
pub mod intervals;
pub mod labels;
pub mod measures;
pub mod operating_point;
pub mod sections;
pub mod words;
