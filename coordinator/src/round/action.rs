//! What the engine asks of its driver, and what the driver tells it.
//!
//! An action with an [`ActionId`] touches disk, network or CPU and comes back as
//! [`Engine::handle_done`](super::Engine::handle_done), once, in any order. `Send` is best effort:
//! whoever was not reached is told again when it comes back.

use consilium_common::audit::Record;
use consilium_common::ids::{Digest, Round, SiteId, StudyId, Version};
use consilium_common::update::control::Grid;
use consilium_common::update::words::Words;
use consilium_common::wire::messages::{Message, TaskKind};
use consilium_common::wire::reject::Code;

use crate::aggregate::Members;
use crate::aggregate::sum::Coordinates;

/// Names an action until it is done. Unique within one engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ActionId(pub u64);

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Append the record to the log and sync, in the order of asking. → [`Done::Persisted`]
    Persist {
        /// Comes back.
        id: ActionId,
        /// What to write.
        record: Box<Record>,
    },
    /// Send a control message if the site is connected.
    Send {
        /// To whom.
        site: SiteId,
        /// What.
        message: Box<Message>,
    },
    /// The site did what no agent does: it is to be put out for a time.
    Strike {
        /// Who.
        site: SiteId,
        /// What it did.
        code: Code,
        /// In a sentence.
        detail: String,
    },
    /// Send the roll call of a closed round from the log, or [`Code::WrongRound`] if there was no
    /// such round.
    SendRollCall {
        /// To whom.
        site: SiteId,
        /// Which round.
        round: Round,
        /// The digest that the site offered.
        update: Digest,
    },
    /// Is this update staged already? → [`Done::Staged`]
    Look {
        /// Comes back.
        id: ActionId,
        /// Whose.
        site: SiteId,
        /// Which bytes.
        update: Digest,
    },
    /// Read the staged update and hold it against the rules. → [`Done::Verified`]
    Verify {
        /// Comes back.
        id: ActionId,
        /// Whose.
        site: SiteId,
        /// Which bytes.
        update: Digest,
        /// What it must be.
        rules: Box<Rules>,
    },
    /// Add weight · update to the round's sum. → [`Done::Added`]
    Add {
        /// Comes back.
        id: ActionId,
        /// Whose.
        site: SiteId,
        /// Which bytes.
        update: Digest,
        /// n_i.
        weight: u64,
        /// Those of its sections, and of the sum.
        coordinates: Coordinates,
    },
    /// Make the next model and the strategy's next state from the base, its state and the round's
    /// sum, durably. → [`Done::Aggregated`]
    Aggregate {
        /// Comes back.
        id: ActionId,
        /// The base's digest.
        base: Digest,
        /// Of the strategy's state that was committed with the base; none before its first version.
        strategy_state: Option<Digest>,
        /// Σ n_i.
        weight: u64,
        /// The grid's step is 2^this.
        step_exponent: i32,
        /// Under SCAFFOLD: whose control variates c is the mean of.
        members: Option<Members>,
    },
    /// Make the preparation from the round's sum, durably. → [`Done::Prepared`]
    Prepare {
        /// Comes back.
        id: ActionId,
        /// Sites that counted.
        sites: u64,
    },
    /// The round is closed: staged updates and the sum are of no more use.
    Forget {
        /// Which round.
        round: Round,
    },
}

impl Action {
    /// The action's name in traces and fail points.
    #[must_use]
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the messages that end no waiting share a name"
    )]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Persist { record, .. } => match **record {
                Record::Plan(_) => "persist-plan",
                Record::Training(_) => "persist-training",
                Record::Receipt(_) => "persist-receipt",
                Record::RollCall(_) => "persist-roll-call",
                Record::StudyState(_) => "persist-study-state",
                Record::Roster(_)
                | Record::StudySubmitted(_)
                | Record::Command(_)
                | Record::Refusal(_)
                | Record::Invitation(_)
                | Record::EnrolRequest(_)
                | Record::Approval(_)
                | Record::Certificate(_)
                | Record::Revocation(_)
                | Record::RosterSignature(_)
                | Record::Withdrawal(_)
                | Record::Retrained(_)
                | Record::Proposal(_) => "persist-other",
            },
            Self::Send { message, .. } => match **message {
                Message::Plan(_) => "send-plan",
                Message::UpdateWanted(_) => "send-update-wanted",
                Message::Receipt(_) => "send-receipt",
                Message::RollCall(_) => "send-roll-call",
                Message::StudyState(_) => "send-study-state",
                _ => "send-other",
            },
            Self::Strike { .. } => "strike",
            Self::SendRollCall { .. } => "send-old-roll-call",
            Self::Look { .. } => "look",
            Self::Verify { .. } => "verify",
            Self::Add { .. } => "add",
            Self::Aggregate { .. } => "aggregate",
            Self::Prepare { .. } => "prepare",
            Self::Forget { .. } => "forget",
        }
    }
}

/// What an update must be to count.
#[derive(Debug, Clone, PartialEq)]
pub struct Rules {
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// The round.
    pub round: Round,
    /// What was asked: counts have no norm, and nothing is measured beside them.
    pub task: TaskKind,
    /// The base's digest.
    pub base: Digest,
    /// Digest of the layout.
    pub layout: Digest,
    /// Coordinates of `shared`: the layout's weights, 0 for an evaluation, or the study's counts.
    pub shared_len: usize,
    /// The grid of `control`, which has as many coordinates, if there is that section.
    pub control: Option<Grid>,
    /// Words by the study's schema.
    pub words_len: usize,
    /// The grid's step is 2^this.
    pub step_exponent: i32,
    /// The clip bound C.
    pub clip_norm: f64,
    /// 1 ..= this.
    pub max_examples: u64,
}

/// What came of an action.
#[derive(Debug, Clone, PartialEq)]
pub enum Done {
    /// The record is durable.
    Persisted,
    /// Whether the update is staged.
    Staged(bool),
    /// The update's words, or why it is refused.
    Verified(Result<Words, Fault>),
    /// The update is in the sum, or why not.
    Added(Result<(), Fault>),
    /// The next model.
    Aggregated(Result<Aggregated, Fault>),
    /// The preparation.
    Prepared(Result<Prepared, Fault>),
}

/// The next model and the strategy's next state, durable under their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Aggregated {
    /// The model's digest.
    pub model: Digest,
    /// The state's, if the strategy has one.
    pub strategy_state: Option<Digest>,
    /// BLAKE3 of the sum.
    pub sum: Digest,
}

/// The preparation, durable under its digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepared {
    /// Its digest.
    pub preparation: Digest,
    /// BLAKE3 of the sum.
    pub sum: Digest,
}

/// Why an action failed. A failed `Persist` is not among them: the process stops, and starts again
/// from what the log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Stable code; the site's fault, or [`Code::CoordinatorFault`].
    pub code: Code,
    /// In a sentence.
    pub detail: String,
}

/// What a study runs on: the newest version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Which study.
    pub study: StudyId,
    /// Its newest version.
    pub version: Version,
    /// Digest of its model.
    pub model: Digest,
    /// Digest of its strategy's state; none before the strategy's first version.
    pub strategy_state: Option<Digest>,
    /// Digest of the study's preparation, once its sites have counted.
    pub preparation: Option<Digest>,
}
