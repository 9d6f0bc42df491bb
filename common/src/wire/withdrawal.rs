//! The messages of a withdrawal: an agent's report, and the coordinator's word that its log has it.

use serde::{Deserialize, Serialize};

use crate::audit::withdrawal::{Remedy, VersionRange};
use crate::ids::{Digest, StudyId};

/// A patient withdrew: which versions the records went into. Sent at each connection until it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawal {
    /// The report's name: random, so that it says nothing of the patient.
    pub id: Digest,
    /// Which study.
    pub study: StudyId,
    /// Versions that the records went into, in order.
    pub versions: Vec<VersionRange>,
    /// What the site asks for.
    pub remedy: Remedy,
}

/// A withdrawal stands in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WithdrawalKept {
    /// The report's name.
    pub id: Digest,
}
