//! The registry of control frames and the struct of each kind.
//!
//! Numbers are never reused; a kind that goes leaves its number behind. Agents send kinds below 64,
//! coordinators 64 to 127, both 128 and up.

use serde::{Deserialize, Serialize};

use super::codec::{self, CodecError};
use super::frame::{FLAG_MUST_KNOW, Frame};
pub use super::hours::{Published, PublishedHours};
use super::reject::Code;
pub use super::roster::RosterOffer;
pub use super::run_state::RunState;
pub use super::withdrawal::{Withdrawal, WithdrawalKept};
pub use super::witness::{HeadWanted, LogHead};
use crate::audit::{Receipt as ReceiptDocument, RollCall as RollCallDocument};
use crate::ids::{Digest, Round, StudyId, Version};
use crate::signed::{Signature, Signed};
use crate::time::{Millis, WallMillis};

macro_rules! registry {
    ($($number:literal $must_know:literal $kind:ident,)*) => {
        /// Any control message.
        #[derive(Debug, Clone, PartialEq, Eq)]
        #[expect(missing_docs, reason = "each variant is the struct of its name")]
        pub enum Message { $($kind($kind),)* }

        impl Message {
            /// The kind's number.
            #[must_use]
            pub fn kind(&self) -> u16 {
                match self { $(Self::$kind(_) => $number,)* }
            }

            /// The kind's name, for logs.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self { $(Self::$kind(_) => stringify!($kind),)* }
            }

            /// The message as a frame.
            ///
            /// # Errors
            /// The body is over its limit.
            pub fn to_frame(&self) -> Result<Frame, CodecError> {
                let (flags, body) = match self {
                    $(Self::$kind(body) => (if $must_know { FLAG_MUST_KNOW } else { 0 }, codec::encode(body)?),)*
                };
                Ok(Frame { kind: self.kind(), flags, body })
            }

            /// Reads a frame; `None` for a kind that is not known here.
            ///
            /// # Errors
            /// The body is not that of its kind.
            pub fn from_frame(frame: &Frame) -> Result<Option<Self>, CodecError> {
                match frame.kind {
                    $($number => codec::decode(&frame.body).map(Self::$kind).map(Some),)*
                    _ => Ok(None),
                }
            }
        }

        $(impl From<$kind> for Message {
            fn from(body: $kind) -> Self {
                Self::$kind(body)
            }
        })*
    };
}

registry! {
    1 true Hello,
    2 true StudyAnswer,
    3 true PlanAnswer,
    4 false Progress,
    5 true UpdateOffer,
    6 true TaskFailed,
    7 true HeadWanted,
    8 false PublishedHours,
    60 false Withdrawal,
    64 true Welcome,
    65 true Refused,
    66 true StudyOffer,
    67 false StudyState,
    68 true Plan,
    69 true UpdateWanted,
    70 true UpdateRefused,
    71 true Receipt,
    72 true RollCall,
    73 true LogHead,
    74 false RosterOffer,
    80 false RenewCertificate,
    120 false WithdrawalKept,
    128 false Heartbeat,
    129 false Refusal,
}

/// The issuing CA that made the site's certificate is over: ask for the next one now, whatever time the
/// old one has left. A site that does not know this asks at two thirds of its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewCertificate {
    /// Until when the old one works.
    pub until: WallMillis,
}

/// First message of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Program and version, such as `consilium-agent 0.1.0`.
    pub agent: String,
    /// The site's calendar clock.
    pub wall: WallMillis,
    /// Studies that the site accepted, by digest.
    pub accepted: Vec<Digest>,
    /// How many records of the coordinator's log are under the head that this site keeps; 0 if it
    /// keeps none. Welcome has to go on from there.
    pub witnessed: u64,
}

/// The site's word on a study.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyAnswer {
    /// Digest of the signed study.
    pub digest: Digest,
    /// Accepted, or the code why not (yet).
    pub answer: Answer,
}

/// Yes, or a code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// Yes.
    Accepted,
    /// No.
    Declined {
        /// Why.
        code: Code,
        /// How long from now until it may be asked again, if the site knows.
        retry_after: Option<Millis>,
    },
}

/// The site's word on a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanAnswer {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Yes or a code.
    pub answer: Answer,
}

/// Something moved at the site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// What is going on.
    pub phase: SitePhase,
    /// Units done in this phase.
    pub done: u64,
    /// Of how many; 0 if unknown.
    pub total: u64,
}

/// What a site is doing for a round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SitePhase {
    /// Waiting behind another study's task, which moves (its units).
    Queued,
    /// Fetching the base (bytes).
    Fetching,
    /// Reading records.
    Loading,
    /// Scoring the base (batches).
    Scoring,
    /// Training (batches).
    Training,
    /// Making and keeping the update.
    Encoding,
    /// Uploading it (bytes).
    Uploading,
}

/// The site retains an update and can push it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateOffer {
    /// Which study.
    pub study: StudyId,
    /// The round it was trained for.
    pub round: Round,
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

/// The site cannot deliver for this round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskFailed {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Why, and no more than that.
    pub code: Code,
}

/// The coordinator accepts the connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// Program and version.
    pub coordinator: String,
    /// The coordinator's calendar clock.
    pub wall: WallMillis,
    /// Its log, as it stands: the site goes on only if it goes on from the one that it knows.
    pub head: LogHead,
}

/// The coordinator refuses the connection and closes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    /// Why.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
    /// How long from now until it may come back, if the coordinator knows.
    pub retry_after: Option<Millis>,
}

/// A study that the site may take part in. Its bytes are a blob of this digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyOffer {
    /// Name.
    pub study: StudyId,
    /// Version of the study file.
    pub version: u64,
    /// BLAKE3 of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// The operators' signatures.
    pub signatures: Vec<Signature>,
}

/// A study's state changed, or is told after Welcome.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyState {
    /// Which study.
    pub study: StudyId,
    /// Its state.
    pub state: RunState,
}

/// What the coordinator asks of a site for a round.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// What to do.
    pub task: TaskKind,
    /// The version to start from.
    pub base_version: Version,
    /// Its digest; also the name of its blob.
    pub base: Digest,
    /// Bytes of the base.
    pub base_bytes: u64,
    /// What the sites counted before, where the study has something to prepare; none in the plan
    /// that asks for it.
    pub preparation: Option<NamedBlob>,
    /// What the site's steps are corrected by; in a training under SCAFFOLD alone.
    pub control: Option<ControlPlan>,
    /// Uploads close so long from now.
    pub remaining: Millis,
}

/// What SCAFFOLD needs of a round beside the base (`update::control`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlPlan {
    /// c, the state that the strategy keeps beside the base; none before its first version, where c
    /// is zero.
    pub common: Option<NamedBlob>,
    /// The round in which the site made the cᵢ that c holds; none if c holds none of this site, whose
    /// cᵢ is zero then, whatever it keeps.
    pub own: Option<Round>,
}

/// Another blob of a round to fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedBlob {
    /// Its digest, which names the blob.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

/// What a plan asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TaskKind {
    /// Score the base, train from it, upload the delta.
    Train,
    /// Score the base, upload the metrics.
    Evaluate,
    /// Count what the study prepares, upload the counts.
    Prepare,
}

/// Push the offered update now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateWanted {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Which bytes.
    pub digest: Digest,
}

/// An offered or pushed update is not taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateRefused {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Which bytes.
    pub digest: Digest,
    /// Why.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
}

/// *Received*: durable at the coordinator's word, not yet counted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// Signed by the coordinator's log key.
    pub signed: Signed<ReceiptDocument>,
}

/// How a round ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollCall {
    /// Signed by the coordinator's log key.
    pub signed: Signed<RollCallDocument>,
}

/// Alive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// The sender's calendar clock.
    pub wall: WallMillis,
}

/// An answer to a message that changed nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusal {
    /// Kind of the refused message.
    pub kind: u16,
    /// Why.
    pub code: Code,
    /// In a sentence.
    pub detail: String,
}

/// What a pushed blob is: the context of the transfer, in the wire encoding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpdateContext {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
}
