//! Plans that wait for a slot. At most one of each study: a newer round replaces an older one.

use consilium_common::ids::{Round, StudyId};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{Plan, Progress, SitePhase};

use super::outbox::Outbox;
use super::throttle::{Report, Throttle};

#[derive(Debug, Default)]
pub(super) struct Queue {
    plans: Vec<Plan>,
    /// Reports of the running task, counted, as the sign that the queue is alive.
    ticks: u64,
    throttle: Throttle,
}

impl Queue {
    /// Puts a plan at the end, or in the place of an older one of its study.
    pub(super) fn put(&mut self, plan: Plan) {
        match self.plans.iter_mut().find(|old| old.study == plan.study) {
            Some(old) => *old = plan,
            None => self.plans.push(plan),
        }
    }

    /// The round that waits, of a study.
    pub(super) fn round_of(&self, study: &StudyId) -> Option<Round> {
        let plan = self.plans.iter().find(|plan| plan.study == *study)?;
        Some(plan.round)
    }

    /// Takes the first plan whose study may start.
    pub(super) fn take(&mut self, may_start: impl Fn(&Plan) -> bool) -> Option<Plan> {
        let at = self.plans.iter().position(may_start)?;
        Some(self.plans.remove(at))
    }

    /// Rounds of the study up to this one are over.
    pub(super) fn drop_through(&mut self, study: &StudyId, round: Round) {
        self.plans.retain(|plan| plan.study != *study || plan.round > round);
    }

    /// Drops what waits of a study; its round.
    pub(super) fn drop_study(&mut self, study: &StudyId) -> Option<Round> {
        let plan = self.take(|plan| plan.study == *study)?;
        Some(plan.round)
    }

    pub(super) fn plans(&self) -> &[Plan] {
        &self.plans
    }

    /// The task ahead moves, and with it everyone who waits.
    pub(super) fn ticked(&mut self, now: Millis, out: &mut Outbox) {
        if self.plans.is_empty() {
            return;
        }
        self.ticks += 1;
        let report = Report { phase: SitePhase::Queued, done: self.ticks, total: 0 };
        if let Some(report) = self.throttle.moved(report, now) {
            self.tell(report, now, out);
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Millis, out: &mut Outbox) {
        if let Some(report) = self.throttle.due(now) {
            self.tell(report, now, out);
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        self.throttle.next_deadline()
    }

    fn tell(&self, report: Report, now: Millis, out: &mut Outbox) {
        for plan in &self.plans {
            out.send(progress(plan, report), now);
        }
    }
}

/// A report about a plan, as it travels.
pub(super) fn progress(plan: &Plan, report: Report) -> Progress {
    Progress {
        study: plan.study.clone(),
        round: plan.round,
        phase: report.phase,
        done: report.done,
        total: report.total,
    }
}
