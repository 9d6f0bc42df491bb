//! Kinds and payloads of the coordinator's log. Payloads are in the wire encoding; what was signed
//! is inside as kept bytes.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::withdrawal::{Remedy, VersionRange};
use super::{Receipt, RollCall};
use crate::enrol::{Approval, EnrolRequest, Revocation};
use crate::ids::{Digest, OperatorId, Round, SiteId, StudyId, Version};
use crate::signed::{Signature, Signed};
use crate::study::Study;
use crate::time::{Millis, WallMillis};
use crate::wire::codec::{self, CodecError};
use crate::wire::messages::{RunState, TaskKind};
use crate::wire::reject::Code;

macro_rules! records {
    ($($number:literal $kind:ident($body:ty), $doc:literal;)*) => {
        /// One record of the log.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Record { $(#[doc = $doc] $kind($body),)* }

        impl Record {
            /// The kind's number in the log.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Self::$kind(_) => $number,)* }
            }

            /// The kind's name, for people.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => stringify!($kind),)* }
            }

            /// The payload.
            ///
            /// # Errors
            /// A record over its limit.
            pub fn payload(&self) -> Result<Vec<u8>, CodecError> {
                match self { $(Self::$kind(body) => codec::encode(body),)* }
            }

            /// Reads a record; `None` for a kind of a later release.
            ///
            /// # Errors
            /// The payload is not that of its kind.
            pub fn decode(kind: u16, payload: &[u8]) -> Result<Option<Self>, CodecError> {
                match kind {
                    $($number => codec::decode(payload).map(Self::$kind).map(Some),)*
                    _ => Ok(None),
                }
            }
        }
    };
}

records! {
    1 Roster(RosterSet), "A roster came into force.";
    2 StudySubmitted(StudySubmitted), "An operator submitted a signed study.";
    3 StudyState(StudyStateSet), "A study was started, paused, stopped, or is complete.";
    4 Plan(PlanMade), "A round began: written before any site is invited.";
    5 Training(TrainingBegun), "Inviting ended: who accepted, and the deadline that remains.";
    6 Receipt(ReceiptGiven), "A receipt, written before it is sent; binds the site for the round.";
    7 RollCall(RoundEnded), "How a round ended; a version exists from here on.";
    8 Command(Command), "An operator's command and what came of it.";
    9 Refusal(Refusal), "A connection or an update was refused.";
    10 Invitation(Invited), "An operator invited a site.";
    11 EnrolRequest(EnrolAsked), "A site asked for its first certificate, with a token.";
    12 Approval(Approved), "An operator approved a site's request.";
    13 Certificate(Certified), "The issuing CA made a certificate for a site.";
    14 Revocation(Revoked), "An operator put a site out for good.";
    15 RosterSignature(RosterSigned), "An operator signed the next roster, and others have to.";
    60 Withdrawal(Withdrawn), "A site reported which versions a withdrawal of consent affects.";
    61 Proposal(Proposed), "A researcher proposed a study, which nobody has signed.";
    62 Retrained(Retrained), "Training goes on from an earlier version, which is the newest again.";
}

/// Kept bytes of the roster and its signatures (the document type lives with the certificates).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSet {
    /// The signed bytes.
    pub bytes: Vec<u8>,
    /// Beside it.
    pub signatures: Vec<Signature>,
}

/// A signed study.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudySubmitted {
    /// Kept bytes and signatures.
    pub signed: Signed<Study>,
    /// Who sent it.
    pub by: String,
}

/// A study's new state.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyStateSet {
    /// Which study.
    pub study: StudyId,
    /// Its state.
    pub state: RunState,
    /// Who asked for it; `coordinator` for its own doing.
    pub by: String,
    /// Why it is complete; none in any other state.
    pub completion: Option<Completion>,
}

/// Why a study is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Completion {
    /// It has as many versions as it was to have.
    Rounds,
    /// Its best version is as old as `training.early_stopping` lets it be.
    EarlyStopping,
}

impl fmt::Display for Completion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Rounds => "rounds",
            Self::EarlyStopping => "early-stopping",
        })
    }
}

/// A round's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanMade {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// What is asked.
    pub task: TaskKind,
    /// The version to start from.
    pub base_version: Version,
    /// Its digest.
    pub base: Digest,
    /// Digest of the preparation that the sites work with.
    pub preparation: Option<Digest>,
    /// Digest of c, by which the sites' steps are corrected (SCAFFOLD).
    pub control: Option<Digest>,
    /// Who is invited.
    pub invited: Vec<SiteId>,
    /// The deadline, as time that remains.
    pub remaining: Millis,
}

/// Inviting ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrainingBegun {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Who accepted.
    pub accepted: Vec<SiteId>,
    /// Who did not, and why: a roll call after a crash says the same.
    pub excluded: Vec<(SiteId, Code)>,
    /// The deadline, as time that remains.
    pub remaining: Millis,
}

/// A receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptGiven {
    /// As it is sent.
    pub signed: Signed<Receipt>,
}

/// A roll call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoundEnded {
    /// As it is sent.
    pub signed: Signed<RollCall>,
}

/// An operator's command.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Who.
    pub by: String,
    /// What, in words.
    pub command: String,
    /// `done`, or why not.
    pub outcome: String,
}

/// A refused peer or update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Site, operator or address.
    pub peer: String,
    /// Stable code as text.
    pub code: String,
    /// In a sentence.
    pub detail: String,
}
/// An invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Invited {
    /// Which site.
    pub site: SiteId,
    /// Hash of the token's secret.
    pub token: Digest,
    /// When the token ends.
    pub until: WallMillis,
    /// The operator.
    pub by: String,
}
/// A request that a token was spent on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolAsked {
    /// Hash of the token's secret.
    pub token: Digest,
    /// As the site sent it.
    pub signed: Signed<EnrolRequest>,
}
/// An approval.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approved {
    /// As the operator signed it.
    pub signed: Signed<Approval>,
    /// Who sent it.
    pub by: String,
}
/// A certificate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Certified {
    /// Whose.
    pub site: SiteId,
    /// The certificate and the issuing CA's: PEM.
    pub chain: String,
    /// When it ends.
    pub until: WallMillis,
}
/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// As the operator signed it.
    pub signed: Signed<Revocation>,
    /// Who sent it.
    pub by: String,
}
/// One signature of k.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSigned {
    /// BLAKE3 of the roster's text.
    pub roster: Digest,
    /// By an operator.
    pub signature: Signature,
    /// Who sent it.
    pub by: String,
}
/// A withdrawal of consent, without a word of whose.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withdrawn {
    /// The site that reports it.
    pub site: SiteId,
    /// The report's name, random, by which it is taken once.
    pub id: Digest,
    /// Which study.
    pub study: StudyId,
    /// Versions that the records went into.
    pub versions: Vec<VersionRange>,
    /// What the site asks for.
    pub remedy: Remedy,
}
/// Training goes on from an earlier version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retrained {
    /// Which study.
    pub study: StudyId,
    /// The earlier version.
    pub from: Version,
    /// The number under which it is the newest.
    pub version: Version,
    /// Its model's digest.
    pub model: Digest,
    /// The operator.
    pub by: String,
}
/// A study that a researcher proposed, as the coordinator checked it. Its name and version stand beside the
/// text, so that an old proposal is no riddle to a later release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposed {
    /// The researcher.
    pub by: OperatorId,
    /// Name of the study.
    pub study: StudyId,
    /// Version of its file.
    pub version: u64,
    /// The resolved text, without signatures.
    pub text: Vec<u8>,
    /// When it came, by the coordinator's clock.
    pub at: WallMillis,
}
