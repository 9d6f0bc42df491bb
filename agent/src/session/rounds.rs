//! What a session does with a study's rounds: take a plan on, let its task run, keep what it leaves
//! until the round is over, and make room for the next.

use consilium_common::ids::{Round, StudyId};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{
    Answer, Plan, PlanAnswer, Receipt, RollCall, TaskFailed, TaskKind, UpdateRefused,
};
use consilium_common::wire::reject::Code;

use super::action::{Done, Fault};
use super::engine::Session;
use super::task::{Next, Task};
use crate::policy::Decline;

impl Session {
    pub(super) fn handle_plan(&mut self, plan: Plan, wall: WallMillis, now: Millis) {
        let (study, round) = (plan.study.clone(), plan.round);
        let verdict = self.admit(&plan);
        if let Err(code) = verdict {
            let retry_after = None;
            let answer = Answer::Declined { code, retry_after };
            return self.answer_plan(study, round, answer, now);
        }
        let failed = self.failed.get(&study).filter(|failed| failed.0 == round);
        if let Some(&(_, code)) = failed {
            return self.tell_failed(study, round, code, now);
        }
        if let Err(decline) = self.check_moment(&plan, wall, now) {
            let (code, retry_after) = (decline.code, Some(decline.retry_after));
            self.memory.declines(&plan, decline, now);
            let answer = Answer::Declined { code, retry_after };
            return self.answer_plan(study, round, answer, now);
        }
        self.memory.takes_on(&study);
        self.answer_plan(study.clone(), round, Answer::Accepted, now);
        if self.shelf.has(&study, round) {
            return self.shelf.offer(&study, round, now, &mut self.out);
        }
        if let Some(at) = self.tasks.iter().position(|task| task.plan().study == study) {
            let task = self.tasks.get(at).filter(|task| !task.is_over());
            if let Some(same) = task.filter(|task| task.plan().round == round) {
                return same.tell(now, &mut self.out);
            }
            self.end_task(at);
        }
        self.queue.put(plan);
    }

    /// Whether the plan fits the site and what it knows of the study's rounds.
    fn admit(&self, plan: &Plan) -> Result<(), Code> {
        self.studies.check(plan)?;
        let running = self.tasks.iter().filter(|task| !task.is_over());
        let newest = running
            .map(Task::plan)
            .filter(|running| running.study == plan.study)
            .map(|running| running.round)
            .chain(self.queue.round_of(&plan.study))
            .max();
        let stale = newest.is_some_and(|newest| plan.round < newest)
            || self.memory.ended(&plan.study, plan.round);
        if stale { Err(Code::WrongRound) } else { Ok(()) }
    }

    /// The rules of the moment bind a plan that comes; one that is under way here goes on.
    fn check_moment(&self, plan: &Plan, wall: WallMillis, now: Millis) -> Result<(), Decline> {
        let (study, round) = (&plan.study, plan.round);
        let same = |task: &&Task| task.plan().study == *study && task.plan().round == round;
        let is_under_way = self.shelf.has(study, round)
            || self.queue.round_of(study) == Some(round)
            || self.tasks.iter().any(|task| same(&task) && !task.is_over());
        if is_under_way {
            return Ok(());
        }
        self.moment.check_roster()?;
        self.moment.check_hours(wall)?;
        let running = self.tasks.iter().filter(|task| task.plan().study != *study);
        let queued = self.queue.plans().iter().filter(|plan| plan.study != *study);
        let free_after = running.clone().filter_map(|task| task.left(now)).min();
        self.moment.check_slots(running.count() + queued.count(), free_after)
    }

    pub(super) fn handle_receipt(&mut self, kind: u16, receipt: &Receipt, now: Millis) {
        match receipt.signed.parse_unverified() {
            Ok(receipt) => self.shelf.receipt(&receipt),
            Err(error) => self.out.refuse(kind, Code::Malformed, &error.to_string(), now),
        }
    }

    pub(super) fn handle_roll_call(&mut self, kind: u16, roll_call: &RollCall, now: Millis) {
        let roll_call = match roll_call.signed.parse_unverified() {
            Ok(roll_call) => roll_call,
            Err(error) => {
                let detail = error.to_string();
                return self.out.refuse(kind, Code::Malformed, &detail, now);
            }
        };
        let (study, round) = (&roll_call.study, roll_call.round);
        if self.studies.knows(study) {
            self.memory.roll_call(&roll_call, &self.site);
        }
        self.queue.drop_through(study, round);
        let over = |task: &Task| task.plan().study == *study && task.plan().round <= round;
        if let Some(at) = self.tasks.iter().position(over) {
            self.end_task(at);
        }
        self.shelf.roll_call(&roll_call, &self.site, &mut self.out);
    }

    pub(super) fn handle_update_refused(&mut self, refused: &UpdateRefused) {
        if !self.shelf.refused(refused, &mut self.out) {
            return;
        }
        let (study, round) = (refused.study.clone(), refused.round);
        self.memory.last_objection = Some(format!(
            "the update of {study} round {round} was refused ({}): {}",
            refused.code, refused.detail
        ));
        self.failed.insert(study, (round, refused.code));
    }

    pub(super) fn handle_task_done(&mut self, at: usize, done: Done, now: Millis) {
        let Some(task) = self.tasks.get_mut(at) else {
            return;
        };
        match task.done(done, now, &mut self.out) {
            Next::Goes => {}
            Next::Trained(trained) => {
                let plan = task.plan();
                let schema = self.studies.schema(&plan.study_digest);
                if plan.task != TaskKind::Prepare {
                    self.memory.scored(plan, &trained, schema);
                }
                self.queue.ticked(now, &mut self.out);
            }
            Next::Retained(retained) => {
                let over = task.is_over();
                self.tasks.remove(at);
                if over {
                    self.shelf.discard(retained, &mut self.out);
                } else {
                    self.shelf.keep(retained, now, &mut self.out);
                }
            }
            Next::Failed { fault, lasting } => {
                let plan = self.tasks.remove(at).plan().clone();
                self.fail(plan, &fault, lasting, now);
            }
            Next::Over => {
                self.tasks.remove(at);
            }
        }
    }

    fn fail(&mut self, plan: Plan, fault: &Fault, lasting: bool, now: Millis) {
        self.memory.last_objection = Some(format!(
            "{} round {} could not be done ({}): {}",
            plan.study, plan.round, fault.code, fault.detail
        ));
        if lasting {
            self.failed.insert(plan.study.clone(), (plan.round, fault.code));
        }
        self.tell_failed(plan.study, plan.round, fault.code, now);
    }

    /// The study is no longer accepted here: nothing of it runs, and nothing more of it leaves.
    pub(super) fn withdraw(&mut self, study: &StudyId, code: Code, now: Millis) {
        let queued = self.queue.drop_study(study);
        let at = self.tasks.iter().position(|task| task.plan().study == *study);
        let running = at.and_then(|at| {
            let task = self.tasks.get(at).filter(|task| !task.is_over())?;
            Some(task.plan().round)
        });
        if let Some(at) = at {
            self.end_task(at);
        }
        for round in queued.into_iter().chain(running) {
            self.tell_failed(study.clone(), round, code, now);
        }
        self.shelf.withdraw(study, &mut self.out);
    }

    fn end_task(&mut self, at: usize) {
        let ended = self.tasks.get_mut(at).map(|task| task.end(&mut self.out));
        if ended == Some(true) {
            self.tasks.remove(at);
        }
    }

    fn answer_plan(&mut self, study: StudyId, round: Round, answer: Answer, now: Millis) {
        let answer = PlanAnswer { study, round, answer };
        self.out.send(answer, now);
    }

    fn tell_failed(&mut self, study: StudyId, round: Round, code: Code, now: Millis) {
        self.out.send(TaskFailed { study, round, code }, now);
    }

    /// Starts whatever can start: plans with a free slot, workers whose earlier update is settled.
    pub(super) fn advance(&mut self, now: Millis) {
        while self.tasks.len() < self.moment.slots() {
            let tasks = &self.tasks;
            let idle = |plan: &Plan| tasks.iter().all(|task| task.plan().study != plan.study);
            let Some(plan) = self.queue.take(idle) else {
                break;
            };
            self.tasks.push(Task::start(plan, now, &mut self.out));
        }
        for task in self.tasks.iter_mut().filter(|task| task.is_ready()) {
            let (study, round) = (&task.plan().study, task.plan().round);
            if !self.shelf.blocks(study, round) {
                task.train(now, &mut self.out);
            }
        }
    }
}
