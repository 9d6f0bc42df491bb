//! Which local state of a study is current: the next one moves with the update that carries it.

use consilium_common::ids::{Digest, Round};
use serde::{Deserialize, Serialize};

/// Names one local state of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamp {
    /// The round whose update counted.
    pub round: Round,
    /// Digest of the worker's bytes.
    pub digest: Digest,
}

/// The next local state, as the retained update that carries it knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextLocal {
    /// Digest of the worker's bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
    /// Digest of the signed `[model]` section that it was trained for.
    pub spec: Digest,
    /// Which state was current when it was trained.
    pub from: Option<Stamp>,
    /// The site's next control variate, which follows the worker's bytes (SCAFFOLD).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control: Option<ControlBytes>,
}

impl NextLocal {
    /// Bytes of all of it.
    #[must_use]
    pub fn all_bytes(&self) -> Option<u64> {
        self.bytes.checked_add(self.control.map_or(0, |control| control.bytes))
    }
}

/// A control variate in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlBytes {
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many.
    pub bytes: u64,
}

/// Whether a next state whose update counted has to become current.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promotion {
    /// It has.
    Due,
    /// It is current already: a crash came before the update was erased.
    Done,
    /// It does not follow from the current one, which stays: the update's erasure was lost in a power
    /// cut, and later rounds have counted since.
    Stale,
}

/// What a counted update of `round` means for the current state.
#[must_use]
pub fn promotion(current: Option<Stamp>, round: Round, next: &NextLocal) -> Promotion {
    let promoted = Some(Stamp { round, digest: next.digest });
    if current == promoted {
        Promotion::Done
    } else if current.is_none() || current == next.from {
        Promotion::Due
    } else {
        Promotion::Stale
    }
}
