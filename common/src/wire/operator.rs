//! Requests of operators, auditors and researchers, ALPN `consilium-op/1`: one stream a request, one frame
//! up; down come `Part` frames (a JSON document in pieces) and one `End`. Model files and the log are
//! fetched by digest on blob streams, as agents do, and the v0 that a study was given is pushed on one.

use serde::{Deserialize, Serialize};

use crate::enrol::{Approval, Revocation};
use crate::ids::{Digest, OperatorId, SiteId, StudyId, Version};
use crate::signed::{Signature, Signed};
use crate::study::Study;

/// Kind of a request frame.
pub const KIND_REQUEST: u16 = 256;
/// Kind of a piece of the answer's JSON.
pub const KIND_PART: u16 = 257;
/// Kind of the last frame.
pub const KIND_END: u16 = 258;
/// JSON bytes in one `Part`.
pub const PART_BYTES: usize = 256 << 10;

/// What an operator, auditor or researcher asks. A variant's position is its number: new ones go last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// The state of everything, or of one study.
    Status {
        /// Only this one.
        study: Option<StudyId>,
    },
    /// A signed study.
    StudySubmit {
        /// Kept bytes and signatures.
        signed: Signed<Study>,
    },
    /// Run rounds.
    StudyStart {
        /// Which.
        study: StudyId,
    },
    /// No new rounds.
    StudyPause {
        /// Which.
        study: StudyId,
    },
    /// No more rounds.
    StudyStop {
        /// Which.
        study: StudyId,
    },
    /// Every study in a line.
    StudyList,
    /// One study with its text and last roll calls.
    StudyShow {
        /// Which.
        study: StudyId,
    },
    /// Versions of a study.
    ModelList {
        /// Which.
        study: StudyId,
    },
    /// Digest and lineage of one version.
    ModelShow {
        /// Which study.
        study: StudyId,
        /// Which version; the latest if absent.
        version: Option<Version>,
    },
    /// All that a report shows of one study.
    Report {
        /// Which.
        study: StudyId,
    },
    /// Is the v0 that this study was given at the coordinator? If not, it is taken from now on.
    InitialOffer {
        /// Kept bytes and signatures.
        signed: Signed<Study>,
    },
    /// Who belongs, who asks to, who was put out, and the next roster.
    Members,
    /// A site may ask for a certificate with the token of this hash.
    SiteInvite {
        /// Which.
        site: SiteId,
        /// Of the token's secret.
        token: Digest,
    },
    /// A site's request is its own.
    SiteApprove {
        /// By the operator.
        signed: Signed<Approval>,
    },
    /// A site is out for good.
    SiteRevoke {
        /// By the operator.
        signed: Signed<Revocation>,
    },
    /// A signature of the next roster.
    RosterSign {
        /// Its text.
        text: Vec<u8>,
        /// By the operator.
        signature: Signature,
    },
    /// The signed head of the log, and the name under which the log up to it can be fetched.
    AuditExport,
    /// Make an earlier version of a study the newest again, from which training goes on.
    StudyRetrain {
        /// Which study.
        study: StudyId,
        /// Which version.
        from: Version,
    },
    /// When the sites of a study take plans on, as far as they publish it.
    StudyPlan {
        /// Which study.
        study: StudyId,
    },
    /// A researcher's study, for operators to sign and submit.
    StudyPropose {
        /// The resolved study, unsigned.
        text: Vec<u8>,
    },
    /// Every open proposal in a line.
    StudyProposals,
    /// One open proposal with its text.
    StudyProposal {
        /// Of which study.
        study: StudyId,
        /// By which researcher; may be absent where only one has proposed it.
        by: Option<OperatorId>,
    },
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum End {
    /// Done; the JSON is whole.
    Done,
    /// Failed on the coordinator's side (exit code 1).
    Failed {
        /// In a sentence.
        message: String,
    },
    /// Refused: role, state or signatures (exit code 4).
    Refused {
        /// In a sentence.
        message: String,
    },
}
