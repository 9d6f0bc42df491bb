//! The session itself: events in, actions out. Each part keeps its own state (`link`, `studies`,
//! `queue`, `task`, `shelf`); this file is how they play together.

use std::collections::BTreeMap;

use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{
    Answer, Message, Plan, PlanAnswer, Receipt, RollCall, SitePhase, TaskFailed, UpdateRefused,
    Welcome,
};
use consilium_common::wire::reject::Code;

use super::Setup;
use super::action::{Action, ActionId, Decision, Done, Fault};
use super::link::Link;
use super::outbox::Outbox;
use super::queue::Queue;
use super::shelf::Shelf;
use super::status::{Memory, Status, TaskStatus};
use super::studies::Studies;
use super::task::{Next, Task};
use super::throttle::Report;

/// The agent's half of the protocol, for all studies of one daemon. See the [module](super).
#[derive(Debug)]
pub struct Session {
    site: SiteId,
    agent: String,
    slots: usize,
    out: Outbox,
    link: Link,
    studies: Studies,
    queue: Queue,
    tasks: Vec<Task>,
    shelf: Shelf,
    /// The last round of a study that this site cannot deliver for, and why: a plan sent again is
    /// not taken on again.
    failed: BTreeMap<StudyId, (Round, Code)>,
    memory: Memory,
}

impl Session {
    /// Starts from what is durable at the site; asks for a connection at once.
    #[must_use]
    pub fn open(setup: Setup, now: Millis) -> Self {
        let mut out = Outbox::default();
        Self {
            site: setup.site,
            agent: setup.agent,
            slots: setup.slots.max(1),
            link: Link::open(now, &mut out),
            out,
            studies: Studies::new(setup.studies, setup.data),
            queue: Queue::default(),
            tasks: Vec::new(),
            shelf: Shelf::new(setup.retained),
            failed: BTreeMap::new(),
            memory: Memory::default(),
        }
    }

    /// The control stream that [`Action::Connect`] asked for is open. `wall` is this machine's
    /// calendar clock.
    pub fn handle_connected(&mut self, wall: WallMillis, now: Millis) {
        let accepted = self.studies.accepted();
        self.link
            .connected(&self.agent, accepted, wall, now, &mut self.out);
    }

    /// The connection is lost, was closed, or did not come about. `jitter` is uniform over all u32.
    pub fn handle_disconnected(&mut self, jitter: u32, now: Millis) {
        self.link.disconnected(jitter, now, &mut self.out);
        self.studies.disconnected();
        self.shelf.disconnected();
        self.tasks.iter_mut().for_each(Task::disconnected);
        let studies = &self.studies;
        self.failed.retain(|study, _| studies.knows(study));
        self.memory.forget(|study| studies.knows(study));
    }

    /// A control message came. Receipts and roll calls were verified by the caller against the
    /// pinned log key; nothing else is trusted.
    pub fn handle_message(&mut self, message: Message, now: Millis) {
        if !self.out.is_open() {
            return self.handle_greeting(message, now);
        }
        let (kind, out) = (message.kind(), &mut self.out);
        match message {
            Message::StudyOffer(offer) => self.studies.offered(offer, now, out),
            Message::StudyState(told) => self.studies.told_state(&told),
            Message::Plan(plan) => self.handle_plan(plan, now),
            Message::UpdateWanted(wanted) => {
                if !self.shelf.wanted(&wanted, out) {
                    let detail = "no such update is retained here";
                    out.refuse(kind, Code::Unexpected, detail, now);
                }
            }
            Message::UpdateRefused(refused) => self.handle_update_refused(&refused),
            Message::Receipt(receipt) => self.handle_receipt(kind, &receipt, now),
            Message::RollCall(roll_call) => self.handle_roll_call(kind, &roll_call, now),
            Message::Refused(refused) => self.link.refused(&refused),
            Message::Refusal(refusal) => {
                let text = format!(
                    "the coordinator refused message {} ({}): {}",
                    refusal.kind, refusal.code, refusal.detail
                );
                self.memory.last_objection = Some(text);
            }
            Message::Heartbeat(_) => {}
            Message::Welcome(_)
            | Message::Hello(_)
            | Message::StudyAnswer(_)
            | Message::PlanAnswer(_)
            | Message::Progress(_)
            | Message::UpdateOffer(_)
            | Message::TaskFailed(_) => {
                out.refuse(kind, Code::Unexpected, "not expected by an agent", now);
            }
        }
        self.advance(now);
    }

    /// Before Welcome only Welcome and Refused mean anything.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "all others are out of place"
    )]
    fn handle_greeting(&mut self, message: Message, now: Millis) {
        match message {
            Message::Welcome(welcome) => self.handle_welcome(welcome, now),
            Message::Refused(refused) => self.link.refused(&refused),
            _ => {}
        }
    }

    fn handle_welcome(&mut self, welcome: Welcome, now: Millis) {
        if !self.link.welcomed(welcome, now, &mut self.out) {
            return;
        }
        self.shelf.offer_all(now, &mut self.out);
        for task in &mut self.tasks {
            task.welcomed(&mut self.out);
        }
    }

    /// A fetch, a worker or a push moved.
    pub fn handle_progress(
        &mut self,
        id: ActionId,
        phase: SitePhase,
        done: u64,
        total: u64,
        now: Millis,
    ) {
        if let Some(task) = self.tasks.iter_mut().find(|task| task.runs(id)) {
            let report = Report { phase, done, total };
            task.moved(report, now, &mut self.out);
            self.queue.ticked(now, &mut self.out);
        } else {
            self.shelf.progress(id, done, total, now, &mut self.out);
        }
    }

    /// An action came to its end. Unknown ids are passed over.
    pub fn handle_done(&mut self, id: ActionId, done: Done, now: Millis) {
        match done {
            Done::Judged(result) => self.studies.judged(id, result, now, &mut self.out),
            Done::Pushed(result) => self.shelf.pushed(id, result, now),
            Done::Settled => self.shelf.settled(id),
            Done::Fetched(_) | Done::Trained(_) | Done::Encoded(_) => {
                if let Some(at) = self.tasks.iter().position(|task| task.runs(id)) {
                    self.handle_task_done(at, done, now);
                }
            }
        }
        self.advance(now);
    }

    /// A person accepted or refused a study; the edge has made it durable. What the policy or the
    /// signatures refuse stays refused.
    pub fn handle_decision(&mut self, digest: Digest, decision: Decision, now: Millis) {
        let refused = self.studies.decided(&digest, decision, now, &mut self.out);
        if let (Some(study), Some(code)) = (refused, decision.code()) {
            self.withdraw(&study, code, now);
        }
        self.advance(now);
    }

    /// Time passed; call when [`Session::next_deadline`] is reached.
    pub fn handle_timeout(&mut self, now: Millis) {
        let out = &mut self.out;
        self.studies.handle_timeout(now, out);
        self.queue.handle_timeout(now, out);
        for task in &mut self.tasks {
            task.handle_timeout(now, out);
        }
        self.shelf.handle_timeout(now, out);
        self.link.handle_timeout(now, out);
    }

    /// What to do next. Call until `None` after every `handle_*`.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.out.poll()
    }

    /// When [`Session::handle_timeout`] is due, if nothing else happens.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        let parts = [
            self.link.next_deadline(&self.out),
            self.studies.next_deadline(),
            self.queue.next_deadline(),
            self.shelf.next_deadline(),
        ];
        let tasks = self.tasks.iter().filter_map(Task::next_deadline);
        parts.into_iter().flatten().chain(tasks).min()
    }

    /// The session for people and scripts.
    #[must_use]
    pub fn status(&self, now: Millis) -> Status {
        let queued = self.queue.plans().iter().map(TaskStatus::queued);
        Status {
            site: self.site.clone(),
            agent: self.agent.clone(),
            connection: self.link.status(now),
            studies: self.studies.status(),
            tasks: self.tasks.iter().map(Task::status).chain(queued).collect(),
            retained: self.shelf.status(),
            roll_calls: self.memory.roll_calls(),
            scores: self.memory.scores(),
            last_objection: self.memory.last_objection.clone(),
        }
    }

    fn handle_plan(&mut self, plan: Plan, now: Millis) {
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
        self.answer_plan(study.clone(), round, Answer::Accepted, now);
        if self.shelf.has(&study, round) {
            return self.shelf.offer(&study, round, now, &mut self.out);
        }
        if let Some(at) = self
            .tasks
            .iter()
            .position(|task| task.plan().study == study)
        {
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

    fn handle_receipt(&mut self, kind: u16, receipt: &Receipt, now: Millis) {
        match receipt.signed.parse_unverified() {
            Ok(receipt) => self.shelf.receipt(&receipt),
            Err(error) => self
                .out
                .refuse(kind, Code::Malformed, &error.to_string(), now),
        }
    }

    fn handle_roll_call(&mut self, kind: u16, roll_call: &RollCall, now: Millis) {
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

    fn handle_update_refused(&mut self, refused: &UpdateRefused) {
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

    fn handle_task_done(&mut self, at: usize, done: Done, now: Millis) {
        let Some(task) = self.tasks.get_mut(at) else {
            return;
        };
        match task.done(done, now, &mut self.out) {
            Next::Goes => {}
            Next::Trained(trained) => {
                let plan = task.plan();
                let schema = self.studies.schema(&plan.study_digest);
                self.memory.scored(plan, &trained, schema);
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
            self.failed
                .insert(plan.study.clone(), (plan.round, fault.code));
        }
        self.tell_failed(plan.study, plan.round, fault.code, now);
    }

    /// The study is no longer accepted here: nothing of it runs, and nothing more of it leaves.
    fn withdraw(&mut self, study: &StudyId, code: Code, now: Millis) {
        let queued = self.queue.drop_study(study);
        let at = self
            .tasks
            .iter()
            .position(|task| task.plan().study == *study);
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
        let answer = PlanAnswer {
            study,
            round,
            answer,
        };
        self.out.send(answer, now);
    }

    fn tell_failed(&mut self, study: StudyId, round: Round, code: Code, now: Millis) {
        self.out.send(TaskFailed { study, round, code }, now);
    }

    /// Starts whatever can start: training whose earlier update is settled, plans with a free slot.
    fn advance(&mut self, now: Millis) {
        for task in self.tasks.iter_mut().filter(|task| task.is_ready()) {
            let (study, round) = (&task.plan().study, task.plan().round);
            if !self.shelf.blocks(study, round) {
                task.train(now, &mut self.out);
            }
        }
        while self.tasks.len() < self.slots {
            let tasks = &self.tasks;
            let idle = |plan: &Plan| tasks.iter().all(|task| task.plan().study != plan.study);
            let Some(plan) = self.queue.take(idle) else {
                break;
            };
            self.tasks.push(Task::start(plan, now, &mut self.out));
        }
    }
}
