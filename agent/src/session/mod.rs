//! The agent's half of the protocol, without a socket, a disk, a clock or a worker: all of them are
//! edges that tell the session what happened and do what it asks.
//!
//! ```text
//!   link ─ connected, disconnected, message ─┐                  ┌─ Connect, Close, Send ─► link
//!   worker, disk ─ progress, done ───────────┤► handle_* ──►    ├─ JudgeStudy ─► policy, disk
//!   people ─ decision, policy ───────────────┤   Session        ├─ Fetch, Push ─► link, disk
//!   clock ─ timeout ─────────────────────────┘   poll_action ──►├─ Train, Stop ─► worker
//!                                                               └─ Encode, Settle ─► disk
//! ```
//!
//! Order of calls: [`Session::open`] with what is durable; then forever: one `handle_*`,
//! [`Session::poll_action`] until `None`, sleep until [`Session::next_deadline`] at most. `now` never
//! goes back.
//!
//! The way of one plan: answer it → `queue` (one plan a study) → `task` (Fetch → Train → Encode) →
//! `shelf` (offer → Push → receipt → roll call → Settle); `rounds` leads it there.
//!
//! What holds:
//! * An update is offered only after it is durable, and stays until its roll call or refusal; both
//!   are followed by exactly one Settle a run, and a run that died before it was durable settles
//!   again.
//! * A plan for a round whose update is retained never trains again: one digest a site and round.
//! * Training starts only when every earlier update of the study is settled, so that it starts from
//!   site state whose fate is known.
//! * A lost connection stops nothing but what needs it.
//! * Memory: one queued plan and one retained update a study, as many tasks as there are slots, bounded
//!   studies and scores. A message of the coordinator adds a bounded number of actions.

mod action;
mod backoff;
mod engine;
mod link;
mod local;
mod outbox;
mod queue;
mod rounds;
mod shelf;
mod status;
mod studies;
mod task;
mod throttle;
mod withdrawals;

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use consilium_common::ids::{Digest, SiteId, StudyId};
use consilium_common::wire::messages::Withdrawal;

use crate::policy::Moment;

pub use action::{Action, ActionId, Decision, Done, Fault, Judged, Retained, Trained};
pub use backoff::Backoff;
pub use engine::Session;
pub use local::{ControlBytes, NextLocal, Promotion, Stamp, promotion};
pub use status::{
    Connection, ConnectionState, DeclinedStatus, RetainedStatus, RollCallStatus, SCORES_MAX, Score,
    Status, StudyStatus, TaskStatus,
};

/// What a daemon reads from its disk and configuration before it starts.
#[derive(Debug, Clone)]
pub struct Setup {
    /// This site's name, as roll calls know it.
    pub site: SiteId,
    /// Program and version, such as `consilium-agent 0.1.0`.
    pub agent: String,
    /// Studies judged in earlier runs, judged again under the present policy.
    pub studies: Vec<KnownStudy>,
    /// Studies for which agent.toml has `[data.NAME]`.
    pub data: BTreeSet<StudyId>,
    /// Updates that are durable here and not settled.
    pub retained: Vec<Retained>,
    /// What plans are held against when they come.
    pub moment: Moment,
    /// Withdrawals that the coordinator's log does not have yet.
    pub withdrawals: Vec<Withdrawal>,
}

/// A study that was offered once and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownStudy {
    /// Digest of the signed study.
    pub digest: Digest,
    /// Name.
    pub study: StudyId,
    /// Version of the study file.
    pub version: u64,
    /// What this site says of it.
    pub judged: Judged,
}
