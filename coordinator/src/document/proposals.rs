//! Studies that researchers propose, as they and operators are told.

use consilium_common::ids::{Digest, OperatorId, StudyId};
use consilium_common::time::WallMillis;
use serde::{Deserialize, Serialize};

/// Answer to `study proposals`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyProposalsDocument {
    /// A line each.
    pub proposals: Vec<StudyProposalLine>,
}

/// Answer to `study propose`; one open proposal in a line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyProposalLine {
    /// Which study.
    pub study: StudyId,
    /// Version of the study file.
    pub study_version: u64,
    /// Digest of the resolved text: the study's own, once it is signed as it is.
    pub digest: Digest,
    /// The researcher.
    pub by: OperatorId,
    /// When it came.
    pub at: WallMillis,
    /// When it is over, if nobody submits it.
    pub until: WallMillis,
}

/// Answer to `study proposals NAME`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyProposalDocument {
    /// Which it is.
    pub proposal: StudyProposalLine,
    /// The resolved text, without signatures.
    pub text: String,
}
