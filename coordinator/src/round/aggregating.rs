//! From the sum to the next version, and from there to the roll call that every round ends with.

use consilium_common::audit::record::RoundEnded;
use consilium_common::audit::{Outcome, Record};
use consilium_common::wire::messages::{RollCall, RunState, TaskKind};

use super::action::{Action, Aggregated, Fault, Prepared};
use super::cohort;
use super::engine::Engine;
use super::idle::EVALUATIONS_MAX;
use super::open_round::{Ending, Phase};
use super::outbox::Awaited;
use super::roll_call;

impl Engine {
    /// The next model is durable, or cannot be made.
    pub(super) fn aggregated(&mut self, outcome: Result<Aggregated, Fault>) {
        let open = self.open.as_mut();
        let Some(open) = open.filter(|open| open.phase == Phase::Aggregating) else {
            return;
        };
        match outcome {
            Ok(Aggregated { model, strategy_state, sum }) => {
                let outcome = Outcome::Committed {
                    version: open.plan.base_version.next(),
                    model,
                    strategy_state,
                    sum,
                    weight: open.words.weight,
                };
                self.close(outcome);
            }
            Err(fault) => open.abandon = Some(format!("{}: {}", fault.code, fault.detail)),
        }
    }

    /// The preparation is durable, or cannot be made.
    pub(super) fn prepared(&mut self, outcome: Result<Prepared, Fault>) {
        let open = self.open.as_mut();
        let Some(open) = open.filter(|open| open.phase == Phase::Aggregating) else {
            return;
        };
        match outcome {
            Ok(Prepared { preparation, sum }) => self.close(Outcome::Prepared { preparation, sum }),
            Err(fault) => open.abandon = Some(format!("{}: {}", fault.code, fault.detail)),
        }
    }

    /// Abandons the round if an operator stopped it or its sum is lost.
    pub(super) fn abandon_if_asked(&mut self) {
        let open = self.open.as_mut().filter(|open| open.is_live());
        if let Some(reason) = open.and_then(|open| open.abandon.take()) {
            self.abandon(&[reason]);
        }
    }

    /// Ends the round without a version.
    pub(super) fn abandon(&mut self, reasons: &[String]) {
        let mut reason = reasons.join("; ");
        let task = self.open.as_ref().map(|open| open.plan.task);
        let was_last = self.attempts.evaluations_abandoned + 1 >= EVALUATIONS_MAX;
        if task == Some(TaskKind::Evaluate) && was_last && self.target != RunState::Stopped {
            reason.push_str("; the study is complete without a score of its last version");
        }
        let reason = roll_call::cut(reason);
        self.close(Outcome::Abandoned { reason });
    }

    /// Signs the roll call and gives it to the log. From here on no message is heard.
    pub(super) fn close(&mut self, outcome: Outcome) {
        let Some(open) = &mut self.open else {
            return;
        };
        let signed = roll_call::signed(open, &self.terms, &outcome, self.now);
        open.phase = Phase::Closing;
        let record = RoundEnded { signed: signed.clone() };
        open.ending = Some(Ending { signed, outcome, told: false });
        self.outbox.persist(Awaited::RollCall, Record::RollCall(record));
    }

    /// The roll call is durable: the head moves, and the sites hear of it.
    pub(super) fn tell_ending(&mut self) {
        let Some(open) = &mut self.open else {
            return;
        };
        let Some(ending) = &mut open.ending else {
            return;
        };
        ending.told = true;
        let begins_anew = match ending.signed.parse_unverified() {
            Ok(call) if self.terms.control(TaskKind::Train).is_some() => {
                self.controls.follow(&call)
            }
            // No state of this kind; or our own roll call cannot be read, which no start could either.
            _ => false,
        };
        let score = || self.terms.schema.score(&open.words.metrics);
        match &ending.outcome {
            Outcome::Committed { version, model, strategy_state, .. } => {
                self.best.note(self.version, score());
                (self.version, self.model) = (*version, *model);
                self.strategy_state = *strategy_state;
                self.attempts.made_a_version();
                self.attempts.try_again(self.now);
            }
            Outcome::Evaluated { .. } => {
                self.best.note(self.version, score());
                self.attempts.evaluated = true;
                self.attempts.try_again(self.now);
            }
            Outcome::Prepared { preparation, .. } => {
                self.preparation = Some(*preparation);
                self.attempts.try_again(self.now);
            }
            Outcome::Abandoned { .. } => {
                let evaluates = open.plan.task == TaskKind::Evaluate;
                self.attempts.evaluations_abandoned += u32::from(evaluates);
                self.attempts.abandoned = self.attempts.abandoned.saturating_add(1);
                let idle_timeout = self.terms.study.cohort.idle_timeout;
                let wait = cohort::backoff(self.attempts.abandoned, idle_timeout);
                self.attempts.not_before = self.now + wait;
            }
        }
        if begins_anew {
            self.strategy_state = None;
        }
        let message = RollCall { signed: ending.signed.clone() };
        for site in open.sites.keys() {
            self.outbox.send(site, message.clone());
        }
    }

    /// The round is over once its roll call is told and no work of it is under way.
    pub(super) fn forget_round(&mut self) {
        let told = |ending: &Ending| ending.told;
        let over = self.open.as_ref().filter(|open| {
            let ending = open.ending.as_ref();
            ending.is_some_and(told) && !self.outbox.works()
        });
        if let Some(round) = over.map(|open| open.plan.round) {
            self.outbox.push(Action::Forget { round });
            self.open = None;
        }
    }
}
