//! What the session asks of the daemon's edges, and what they tell it.
//!
//! An action with an [`ActionId`] touches disk, network or a worker and comes back as
//! [`Session::handle_done`](super::Session::handle_done), once, in any order. `Send` is best effort:
//! what a lost connection swallowed is said again after the next Welcome.

use std::path::PathBuf;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{Answer, Message, Plan, StudyOffer};
use consilium_common::wire::reject::Code;
use consilium_common::worker::{FailureCode, Outcome};
use serde::{Deserialize, Serialize};

/// Names an action until it is done. Unique within one session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId(pub u64);

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Connect to the coordinator and open the control stream. →
    /// [`handle_connected`](super::Session::handle_connected) or
    /// [`handle_disconnected`](super::Session::handle_disconnected)
    Connect,
    /// Close the connection. → [`handle_disconnected`](super::Session::handle_disconnected)
    Close {
        /// Why, for the log.
        reason: String,
    },
    /// Send a control message on the open connection.
    Send {
        /// What.
        message: Box<Message>,
    },
    /// Fetch the study by digest, check the operators' signatures and the policy, and keep study
    /// and judgement durably. → [`Done::Judged`]
    JudgeStudy {
        /// Comes back.
        id: ActionId,
        /// What is offered.
        offer: StudyOffer,
    },
    /// Fetch the plan's base and preparation into the cache, by digest; at once what is there. →
    /// [`Done::Fetched`]
    Fetch {
        /// Comes back.
        id: ActionId,
        /// Whose.
        plan: Plan,
    },
    /// Start a worker for the plan's task. → [`Done::Trained`]. The seed follows from study, round
    /// and site alone, so that a second start gives the same update.
    Train {
        /// Comes back.
        id: ActionId,
        /// What to do.
        plan: Plan,
    },
    /// Delta, clip, grid, words, or counts and words: the update, kept durably with its site state. → [`Done::Encoded`]
    Encode {
        /// Comes back.
        id: ActionId,
        /// For which round.
        plan: Plan,
        /// From what.
        trained: Box<Trained>,
    },
    /// Push the retained update on a blob stream. → [`Done::Pushed`]
    Push {
        /// Comes back.
        id: ActionId,
        /// Which update.
        retained: Retained,
    },
    /// Stop that Fetch or Train: its round is over. The action still comes back as done.
    Stop {
        /// Which action.
        id: ActionId,
    },
    /// The coordinator's log has that withdrawal: it need not be kept any more.
    Reported {
        /// The report's name.
        withdrawal: Digest,
    },
    /// The round's fate is known: promote the site state if it counted, drop it if not, and erase
    /// the retained update; durably. → [`Done::Settled`]
    Settle {
        /// Comes back.
        id: ActionId,
        /// Which study.
        study: StudyId,
        /// Which round.
        round: Round,
        /// Whether the update is in the sum.
        counted: bool,
    },
}

impl Action {
    /// The action's name in traces and fail points.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Close { .. } => "close",
            Self::Send { message } => sent_name(message),
            Self::JudgeStudy { .. } => "judge-study",
            Self::Fetch { .. } => "fetch",
            Self::Train { .. } => "train",
            Self::Encode { .. } => "encode",
            Self::Push { .. } => "push",
            Self::Stop { .. } => "stop",
            Self::Settle { .. } => "settle",
            Self::Reported { .. } => "reported",
        }
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "an agent sends no other kind")]
fn sent_name(message: &Message) -> &'static str {
    match message {
        Message::Hello(_) => "send-hello",
        Message::StudyAnswer(_) => "send-study-answer",
        Message::PlanAnswer(_) => "send-plan-answer",
        Message::Progress(_) => "send-progress",
        Message::UpdateOffer(_) => "send-update-offer",
        Message::TaskFailed(_) => "send-task-failed",
        Message::Withdrawal(_) => "send-withdrawal",
        Message::Heartbeat(_) => "send-heartbeat",
        _ => "send-other",
    }
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// The study was judged, and the judgement is durable; or it could not be fetched or kept.
    Judged(Result<Judged, Fault>),
    /// Base and preparation are in the cache.
    Fetched(Result<(), Fault>),
    /// The worker finished.
    Trained(Result<Trained, Fault>),
    /// The update is durable at the site.
    Encoded(Result<Retained, Fault>),
    /// The coordinator took every byte; the receipt comes on its own.
    Pushed(Result<(), Fault>),
    /// The retained update is erased.
    Settled,
}

/// What policy, signatures and people say of a study at this site.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judged {
    /// Accepted, waiting for a person, or refused.
    pub decision: Decision,
    /// In a sentence, for people at the site. Never sent.
    pub why: String,
    /// Names of the study's metric sums; none if the study could not be read.
    pub schema: Option<Schema>,
}

/// Whether this site takes part in a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decision {
    /// It does.
    Accepted,
    /// The policy allows it, a person has to accept it: `consilium-agent study accept`.
    NeedsPerson,
    /// It does not.
    Refused {
        /// Why: `refused-by-site` if a person said so, else what the policy or a check says.
        code: Code,
    },
}

impl Decision {
    /// The decision as the coordinator hears it.
    #[must_use]
    pub fn answer(self) -> Answer {
        self.code().map_or(Answer::Accepted, |code| Answer::Declined { code, retry_after: None })
    }

    /// Why the site does not take part, unless it does.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::Accepted => None,
            Self::NeedsPerson => Some(Code::NotAccepted),
            Self::Refused { code } => Some(code),
        }
    }
}

/// What a worker gave.
#[derive(Debug, Clone, PartialEq)]
pub struct Trained {
    /// Counts and metric sums.
    pub outcome: Outcome,
    /// The trained model (safetensors) or the counts (i32); none after an evaluation.
    pub path: Option<PathBuf>,
}

/// An update that is durable at the site, until its roll call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retained {
    /// Which study.
    pub study: StudyId,
    /// The round it was trained for.
    pub round: Round,
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
}

/// Why an action failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable code; it alone leaves the site.
    pub code: Code,
    /// In a sentence, for people at the site.
    pub detail: String,
    /// Whether the same action may succeed when tried again: a worker that crashed, hung or ran out
    /// of memory, a connection that broke.
    pub retryable: bool,
}

impl Fault {
    /// A fault that stays when tried again.
    pub fn lasting(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail, retryable: false }
    }

    /// A fault that may be gone when tried again.
    pub fn passing(code: Code, detail: impl Into<String>) -> Self {
        let detail = detail.into();
        Self { code, detail, retryable: true }
    }

    /// What a worker's own report of failure means for the round.
    #[must_use]
    pub fn of_worker(code: FailureCode, message: &str) -> Self {
        match code {
            FailureCode::DataMissing | FailureCode::DataInvalid => {
                Self::lasting(Code::DataNotReady, message)
            }
            FailureCode::OptOutUnreadable => Self::lasting(Code::OptOutUnreadable, message),
            FailureCode::TooFewExamples => Self::lasting(Code::TooFewExamples, message),
            FailureCode::ModelMismatch => Self::lasting(Code::NotSupported, message),
            FailureCode::DeviceMissing => Self::lasting(Code::SiteFault, message),
            FailureCode::Diverged => Self::lasting(Code::Diverged, message),
            FailureCode::Internal | FailureCode::Stopped => {
                Self::passing(Code::WorkerFailed, message)
            }
        }
    }
}
