//! Idle: waiting for the rule to be met, then making the plan.

use std::collections::BTreeSet;

use consilium_common::audit::Record;
use consilium_common::audit::record::{Completion, PlanMade};
use consilium_common::ids::SiteId;
use consilium_common::time::Millis;
use consilium_common::wire::messages::{RunState, TaskKind};

use super::cohort;
use super::engine::Engine;
use super::open_round::{OpenRound, Phase};
use super::outbox::Awaited;

/// Abandoned evaluate rounds in a row after which the study is complete without a last score.
pub(super) const EVALUATIONS_MAX: u32 = 3;

/// What became of the rounds before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attempts {
    /// Abandoned in a row; sets the wait before the next.
    pub(super) abandoned: u32,
    /// No round before this.
    pub(super) not_before: Millis,
    /// Abandoned evaluate rounds in a row.
    pub(super) evaluations_abandoned: u32,
    /// The newest version was scored.
    pub(super) evaluated: bool,
}

impl Attempts {
    /// Something changed for the better: no reason to wait.
    pub(super) fn try_again(&mut self, now: Millis) {
        self.abandoned = 0;
        self.not_before = now;
    }

    /// There is a newest version that nobody has scored yet.
    pub(super) fn made_a_version(&mut self) {
        (self.evaluated, self.evaluations_abandoned) = (false, 0);
    }

    /// The last version was scored, or could not be, often enough.
    fn evaluation_is_over(&self) -> bool {
        self.evaluated || self.evaluations_abandoned >= EVALUATIONS_MAX
    }
}

impl Engine {
    /// The sites that would be invited now.
    pub(super) fn ready_sites(&self) -> BTreeSet<SiteId> {
        let ready = self.sessions.iter();
        let ready = ready.filter(|(_, session)| session.is_ready(self.now));
        ready.map(|(site, _)| site.clone()).collect()
    }

    /// What the next round asks: to prepare if nobody has, else training, or scoring the last
    /// version.
    pub(super) fn next_task(&self) -> TaskKind {
        if self.terms.prepares() && self.preparation.is_none() {
            TaskKind::Prepare
        } else if self.completion().is_some() {
            TaskKind::Evaluate
        } else {
            TaskKind::Train
        }
    }

    /// Why no more versions are made, as far as the scores in the log go. The newest version has none
    /// yet when it is made: it is scored before the study is complete, and if it is the best after all,
    /// rounds go on.
    fn completion(&self) -> Option<Completion> {
        let training = &self.terms.study.training;
        if self.version.0.saturating_sub(self.beside) >= training.rounds {
            return Some(Completion::Rounds);
        }
        let (most, best) = (training.early_stopping?, self.best.get()?);
        let age = self.version.0.saturating_sub(best.version.max(self.begun).0);
        (age >= most).then_some(Completion::EarlyStopping)
    }

    /// Rounds run, and no operator has asked otherwise meanwhile.
    pub(super) fn is_running(&self) -> bool {
        self.state == RunState::Running && self.target == RunState::Running
    }

    /// Opens a round if the study runs and the rule is met; ends the study if all is done.
    pub(super) fn open_round(&mut self) {
        if !self.is_running() {
            return;
        }
        let task = self.next_task();
        if let Some(why) = self.completion()
            && task == TaskKind::Evaluate
            && self.attempts.evaluation_is_over()
        {
            self.complete(why);
            return;
        }
        if self.terms.study.governance.has_expired(self.wall) {
            return;
        }
        let ready = self.ready_sites();
        let rule = &self.terms.study.cohort;
        let waits = self.attempts.not_before > self.now;
        if waits || !cohort::missing(rule, &ready, "ready").is_empty() {
            return;
        }
        let plan = PlanMade {
            study: self.terms.study.id().clone(),
            study_digest: self.terms.digest,
            round: self.next_round,
            task,
            base_version: self.version,
            base: self.model,
            preparation: self.preparation,
            control: self.strategy_state.filter(|_| self.terms.control(task).is_some()),
            invited: cohort::invited(rule, self.terms.weight_max(task), &ready, self.next_round),
            remaining: rule.deadline,
        };
        self.next_round = plan.round.next();
        let record = Record::Plan(plan.clone());
        self.outbox.persist(Awaited::Plan, record);
        let remaining = plan.remaining;
        let round = OpenRound::new(plan, Phase::Planning, remaining, self.now);
        self.open = Some(round);
    }

    /// When an idle study might go on by itself: after a wait, or when a site that declined may be
    /// asked again.
    pub(super) fn next_attempt(&self) -> Option<Millis> {
        if !self.is_running() {
            return None;
        }
        let sessions = self.sessions.values().filter(|session| session.connected);
        let again = sessions.filter_map(|session| session.declined.map(|(until, _)| until));
        let times = again.chain([self.attempts.not_before]);
        times.filter(|time| *time > self.now).min()
    }
}
