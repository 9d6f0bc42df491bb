//! The studies of `tests/studies` on public data, and what a training on their records is worth.

pub mod alone;
pub mod case;
pub mod scored;
