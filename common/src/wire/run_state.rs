//! Whether rounds of a study run, as sites and operators hear it.

use serde::{Deserialize, Serialize};

/// Whether rounds of a study run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RunState {
    /// Submitted, not started.
    Submitted,
    /// Rounds run.
    Running,
    /// No new rounds until started again.
    Paused,
    /// Ended by an operator.
    Stopped,
    /// All rounds of the study are done.
    Complete,
}

impl std::fmt::Display for RunState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(match self {
            Self::Submitted => "submitted",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Complete => "complete",
        })
    }
}
