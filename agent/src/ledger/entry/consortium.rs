//! What the site saw and decided of the consortium: the coordinator's log and the roster.

use consilium_common::ids::Digest;
use serde::{Deserialize, Serialize};

use crate::roster::Change;
use crate::witness::HeadRow;

/// The coordinator's log is not the one that this site witnessed. Both heads lie in `STATE/witness`, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contradicted {
    /// What this site keeps.
    pub kept: HeadRow,
    /// What it was shown.
    pub told: HeadRow,
    /// What does not fit.
    pub why: String,
}

/// A person's word that this site goes on with another history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryAccepted {
    /// What this site kept.
    pub before: Option<HeadRow>,
    /// What it goes on from.
    pub now: HeadRow,
    /// Who says so, by their own word.
    pub by: String,
    /// Why.
    pub reason: String,
    /// The account on this machine: its name by its own word, its number as the kernel says.
    pub account: String,
}

/// The site goes by another roster of the consortium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterAccepted {
    /// Its version.
    pub version: u64,
    /// Digest of the signed roster.
    pub digest: Digest,
    /// What is another than before.
    pub change: Change,
    /// Who accepts it, by their own word; `policy` where the operators' signatures are enough.
    pub by: String,
    /// Why, where a person does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The account on this machine, where a person does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<String>,
}
