//! What `consilium-agent status` shows: the session in words and numbers, for people, scripts and
//! screens. Field names are stable. Nothing here is sent to the coordinator.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consilium_common::audit::{Outcome, RollCall, Status as SiteStatus};
use consilium_common::ids::{Digest, Round, SiteId, StudyId, Version};
use consilium_common::time::Millis;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{Plan, RunState, SitePhase, TaskKind};
use consilium_common::wire::reject::Code;
use serde::{Deserialize, Serialize};

use super::action::{Decision, Trained};
use crate::policy::Decline;

/// Scores kept in mind.
pub const SCORES_MAX: usize = 64;

/// The whole session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// This site.
    pub site: SiteId,
    /// Program and version.
    pub agent: String,
    /// To the coordinator.
    pub connection: Connection,
    /// On offer, or decided before.
    pub studies: Vec<StudyStatus>,
    /// Running and queued.
    pub tasks: Vec<TaskStatus>,
    /// Updates that wait for their roll call.
    pub retained: Vec<RetainedStatus>,
    /// The last roll call of each study.
    pub roll_calls: Vec<RollCallStatus>,
    /// This site's own hold-out results, the newest last, at most [`SCORES_MAX`].
    pub scores: Vec<Score>,
    /// Plans that were not taken on for a rule of the moment, the newest of each study.
    #[serde(default)]
    pub declined: Vec<DeclinedStatus>,
    /// What the coordinator or a check last objected to, in a sentence.
    pub last_objection: Option<String>,
    /// Withdrawals that the coordinator's log does not have yet.
    #[serde(default)]
    pub withdrawals: usize,
}

/// The connection to the coordinator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// Where it stands.
    pub state: ConnectionState,
    /// For so long.
    pub for_ms: Millis,
    /// Losses since the last Welcome.
    pub failed_attempts: u32,
    /// While waiting: until the next attempt.
    pub next_attempt_in_ms: Option<Millis>,
    /// The coordinator's program and version, once it said Welcome.
    pub coordinator: Option<String>,
    /// Why there is no connection, if somebody said so.
    pub trouble: Option<String>,
}

/// Where the connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConnectionState {
    /// Until the next attempt.
    Waiting,
    /// Handshake, or Hello sent.
    Connecting,
    /// Welcome came.
    Connected,
    /// On its way down.
    Closing,
}

/// A study as this site sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StudyStatus {
    /// Name.
    pub study: StudyId,
    /// Version of the study file.
    pub version: u64,
    /// Digest of the signed study.
    pub digest: Digest,
    /// None while it is being judged.
    pub decision: Option<Decision>,
    /// In a sentence.
    pub why: Option<String>,
    /// Whether agent.toml has `[data.NAME]` for it.
    pub has_data: bool,
    /// Whether the coordinator offers it now.
    pub offered: bool,
    /// Whether its rounds run, as last told.
    pub state: Option<RunState>,
}

/// A task, running or queued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskStatus {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// What is asked.
    pub task: TaskKind,
    /// From which version.
    pub base_version: Version,
    /// What is going on.
    pub phase: SitePhase,
    /// Units done in this phase.
    pub done: u64,
    /// Of how many; 0 if unknown.
    pub total: u64,
    /// How often a worker was started for it.
    pub worker_starts: u32,
    /// What it waits for, if it does.
    pub waits_for: Option<String>,
    /// Why something was tried again.
    pub last_fault: Option<String>,
}

impl TaskStatus {
    /// A plan that waits for a slot.
    pub(super) fn queued(plan: &Plan) -> Self {
        Self {
            study: plan.study.clone(),
            round: plan.round,
            task: plan.task,
            base_version: plan.base_version,
            phase: SitePhase::Queued,
            done: 0,
            total: 0,
            worker_starts: 0,
            waits_for: Some("the task ahead".to_owned()),
            last_fault: None,
        }
    }
}

/// A plan that was not taken on when it came.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeclinedStatus {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// What the coordinator heard.
    pub code: Code,
    /// In a sentence.
    pub why: String,
    /// When the coordinator may ask again.
    pub again_in_ms: Millis,
}

/// A retained update.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetainedStatus {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// Digest of its bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// Whether the coordinator has signed that it received it.
    pub receipted: bool,
    /// Whether it is being pushed.
    pub uploading: bool,
    /// Why the last push failed.
    pub last_fault: Option<String>,
}

/// How a round ended, for this site.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollCallStatus {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
    /// What was asked.
    pub task: TaskKind,
    /// What came of it.
    pub outcome: Outcome,
    /// Whether this site counted.
    pub counted: bool,
    /// Why not, if it was invited and did not.
    pub code: Option<Code>,
}

/// A version scored on this site's hold-out, before training from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// Which study.
    pub study: StudyId,
    /// The version that was scored.
    pub version: Version,
    /// In which round.
    pub round: Round,
    /// Training records.
    pub examples: u64,
    /// Hold-out records.
    pub holdout: u64,
    /// Integer sums by name; those of classes and histograms are left out for their size.
    pub metrics: BTreeMap<String, u64>,
    /// Correct ÷ total, where the study has classes.
    pub accuracy: Option<f64>,
    /// Mean loss in nats, or squared error.
    pub loss: Option<f64>,
    /// The study's own metric.
    pub score: Option<f64>,
}

/// What the session remembers for its status alone.
#[derive(Debug, Default)]
pub(super) struct Memory {
    roll_calls: BTreeMap<StudyId, RollCallStatus>,
    scores: VecDeque<Score>,
    /// With the time until which nothing more is said.
    declined: BTreeMap<StudyId, (Millis, DeclinedStatus)>,
    pub(super) last_objection: Option<String>,
}

impl Memory {
    pub(super) fn roll_call(&mut self, roll_call: &RollCall, site: &SiteId) {
        let code = roll_call.sites.get(site).and_then(|entry| match entry.status {
            SiteStatus::Counted { .. } => None,
            SiteStatus::Excluded { code } => Some(code),
        });
        let row = RollCallStatus {
            study: roll_call.study.clone(),
            round: roll_call.round,
            task: roll_call.task,
            outcome: roll_call.outcome.clone(),
            counted: roll_call.counted(site),
            code,
        };
        let known = self.roll_calls.get(&roll_call.study);
        if known.is_none_or(|known| known.round < row.round) {
            self.roll_calls.insert(roll_call.study.clone(), row);
        }
    }

    /// Whether the round is known to have ended.
    pub(super) fn ended(&self, study: &StudyId, round: Round) -> bool {
        self.roll_calls.get(study).is_some_and(|last| round <= last.round)
    }

    pub(super) fn scored(&mut self, plan: &Plan, trained: &Trained, schema: Option<&Schema>) {
        let outcome = &trained.outcome;
        let of_classes = ["confusion.", "labels.", "scores."];
        let is_plain = |name: &str| !of_classes.iter().any(|prefix| name.starts_with(prefix));
        let named = |schema: &Schema| {
            let names = schema.names().iter().cloned();
            let sums = names.zip(outcome.metrics.0.iter().copied());
            sums.filter(|(name, _)| is_plain(name)).collect()
        };
        if self.scores.len() >= SCORES_MAX {
            self.scores.pop_front();
        }
        self.scores.push_back(Score {
            study: plan.study.clone(),
            version: plan.base_version,
            round: plan.round,
            examples: outcome.examples,
            holdout: outcome.holdout,
            metrics: schema.map(named).unwrap_or_default(),
            accuracy: schema.and_then(|schema| schema.accuracy(&outcome.metrics)),
            loss: schema.and_then(|schema| schema.loss(&outcome.metrics)),
            score: schema.and_then(|schema| schema.score(&outcome.metrics)),
        });
    }

    /// A plan was not taken on.
    pub(super) fn declines(&mut self, plan: &Plan, decline: Decline, now: Millis) {
        let again = now + decline.retry_after;
        let row = DeclinedStatus {
            study: plan.study.clone(),
            round: plan.round,
            code: decline.code,
            why: decline.sentence,
            again_in_ms: decline.retry_after,
        };
        self.declined.insert(plan.study.clone(), (again, row));
    }

    /// A plan of the study was taken on.
    pub(super) fn takes_on(&mut self, study: &StudyId) {
        self.declined.remove(study);
    }

    /// The rules of the moment are others: of which studies plans were declined by those before.
    pub(super) fn forget_declines(&mut self) -> BTreeSet<StudyId> {
        std::mem::take(&mut self.declined).into_keys().collect()
    }

    pub(super) fn declined(&self, now: Millis) -> Vec<DeclinedStatus> {
        let row = |(again, row): &(Millis, DeclinedStatus)| DeclinedStatus {
            again_in_ms: again.since(now),
            ..row.clone()
        };
        self.declined.values().map(row).collect()
    }

    /// Forgets the rounds of studies that are no longer known.
    pub(super) fn forget(&mut self, knows: impl Fn(&StudyId) -> bool) {
        self.roll_calls.retain(|study, _| knows(study));
        self.declined.retain(|study, _| knows(study));
    }

    pub(super) fn roll_calls(&self) -> Vec<RollCallStatus> {
        self.roll_calls.values().cloned().collect()
    }

    pub(super) fn scores(&self) -> Vec<Score> {
        self.scores.iter().cloned().collect()
    }
}
