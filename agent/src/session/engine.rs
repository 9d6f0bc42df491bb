//! The session itself: events in, actions out. Each part keeps its own state (`link`, `studies`,
//! `queue`, `task`, `shelf`); this file hands each event to the part that it concerns, `rounds` is
//! how they play together.

use std::collections::BTreeMap;

use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::{
    Hello, Message, Published, PublishedHours, SitePhase, Welcome, Withdrawal,
};
use consilium_common::wire::reject::Code;

use super::action::{Action, ActionId, Done, Judged};
use super::link::Link;
use super::outbox::Outbox;
use super::queue::Queue;
use super::shelf::Shelf;
use super::status::{DeclinedStatus, Memory, Status, TaskStatus};
use super::studies::Studies;
use super::task::Task;
use super::throttle::Report;
use super::withdrawals::Withdrawals;
use super::{KnownStudy, Setup};
use crate::policy::Moment;

/// The agent's half of the protocol, for all studies of one daemon. See the [module](super).
#[derive(Debug)]
pub struct Session {
    pub(super) site: SiteId,
    agent: String,
    pub(super) moment: Moment,
    pub(super) out: Outbox,
    link: Link,
    pub(super) studies: Studies,
    pub(super) queue: Queue,
    pub(super) tasks: Vec<Task>,
    pub(super) shelf: Shelf,
    /// The last round of a study that this site cannot deliver for, and why: a plan sent again is
    /// not taken on again.
    pub(super) failed: BTreeMap<StudyId, (Round, Code)>,
    pub(super) memory: Memory,
    withdrawals: Withdrawals,
}

impl Session {
    /// Starts from what is durable at the site; asks for a connection at once. What is retained of a
    /// study that is not accepted any more does not leave.
    #[must_use]
    pub fn open(setup: Setup, now: Millis) -> Self {
        let mut out = Outbox::default();
        let mut session = Self {
            site: setup.site,
            agent: setup.agent,
            moment: setup.moment,
            link: Link::open(now, &mut out),
            out,
            studies: Studies::new(setup.studies, setup.data),
            queue: Queue::default(),
            tasks: Vec::new(),
            shelf: Shelf::new(setup.retained),
            failed: BTreeMap::new(),
            memory: Memory::default(),
            withdrawals: Withdrawals::new(setup.withdrawals),
        };
        for study in session.studies.not_accepted() {
            session.shelf.withdraw(&study, &mut session.out);
        }
        session
    }

    /// The control stream that [`Action::Connect`] asked for is open. `wall` is this machine's
    /// calendar clock, `witnessed` the number of records of the coordinator's log under the head that this
    /// site keeps.
    pub fn handle_connected(&mut self, witnessed: u64, wall: WallMillis, now: Millis) {
        let (agent, accepted) = (self.agent.clone(), self.studies.accepted());
        let hello = Hello { agent, wall, accepted, witnessed };
        self.link.connected(hello, now, &mut self.out);
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

    /// A control message came. Receipts, roll calls and the log's head in Welcome were verified by the
    /// caller against the pinned log key, the head also against the one that the site keeps; nothing else
    /// is trusted. `wall` is this machine's calendar clock.
    pub fn handle_message(&mut self, message: Message, wall: WallMillis, now: Millis) {
        if !self.out.is_open() {
            return self.handle_greeting(message, now);
        }
        let (kind, out) = (message.kind(), &mut self.out);
        match message {
            Message::StudyOffer(offer) => self.studies.offered(offer, now, out),
            Message::StudyState(told) => self.studies.told_state(&told),
            Message::Plan(plan) => self.handle_plan(plan, wall, now),
            Message::UpdateWanted(wanted) => {
                if !self.shelf.wanted(&wanted, out) {
                    let detail = "no such update is retained here";
                    out.refuse(kind, Code::Unexpected, detail, now);
                }
            }
            Message::UpdateRefused(refused) => self.handle_update_refused(&refused),
            Message::Receipt(receipt) => self.handle_receipt(kind, &receipt, now),
            Message::RollCall(roll_call) => self.handle_roll_call(kind, &roll_call, now),
            Message::Refused(refused) => self.link.refused(&refused, now),
            Message::Refusal(refusal) => {
                let text = format!(
                    "the coordinator refused message {} ({}): {}",
                    refusal.kind, refusal.code, refusal.detail
                );
                self.memory.last_objection = Some(text);
            }
            Message::WithdrawalKept(kept) => self.withdrawals.kept(kept.id, out),
            // Other heads, rosters, and when to renew, are the driver's alone.
            Message::Heartbeat(_)
            | Message::LogHead(_)
            | Message::RosterOffer(_)
            | Message::RenewCertificate(_) => {}
            Message::Welcome(_)
            | Message::HeadWanted(_)
            | Message::PublishedHours(_)
            | Message::Hello(_)
            | Message::StudyAnswer(_)
            | Message::PlanAnswer(_)
            | Message::Progress(_)
            | Message::UpdateOffer(_)
            | Message::TaskFailed(_)
            | Message::Withdrawal(_) => {
                out.refuse(kind, Code::Unexpected, "not expected by an agent", now);
            }
        }
        self.advance(now);
    }

    /// Before Welcome only Welcome and Refused mean anything.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all others are out of place")]
    fn handle_greeting(&mut self, message: Message, now: Millis) {
        match message {
            Message::Welcome(welcome) => self.handle_welcome(welcome, now),
            Message::Refused(refused) => self.link.refused(&refused, now),
            _ => {}
        }
    }

    fn handle_welcome(&mut self, welcome: Welcome, now: Millis) {
        if !self.link.welcomed(welcome, now, &mut self.out) {
            return;
        }
        self.shelf.offer_all(now, &mut self.out);
        self.withdrawals.say_all(now, &mut self.out);
        if self.moment.published != Published::Nothing {
            self.publish_hours(now);
        }
        for task in &mut self.tasks {
            task.welcomed(&mut self.out);
        }
    }

    fn publish_hours(&mut self, now: Millis) {
        let hours = self.moment.published.clone();
        self.out.send(PublishedHours { hours }, now);
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

    /// A person accepted or refused a study; the edge has made it durable, and judged it anew. What
    /// the policy or the signatures refuse stays refused.
    pub fn handle_decision(&mut self, digest: Digest, judged: Judged, now: Millis) {
        let decision = judged.decision;
        let refused = self.studies.decided(&digest, judged, now, &mut self.out);
        if let (Some(study), Some(code)) = (refused, decision.code()) {
            self.withdraw(&study, code, now);
        }
        self.advance(now);
    }

    /// A person reported a withdrawal; the edge has made it durable. It is said until the coordinator's log
    /// has it.
    pub fn handle_withdrawal(&mut self, withdrawal: Withdrawal, now: Millis) {
        self.withdrawals.add(withdrawal, now, &mut self.out);
    }

    /// The site's policy was read again: what plans are held against, and what the edge says of the
    /// studies that are kept. What is no longer accepted stops; what is under way otherwise goes on.
    pub fn handle_policy(&mut self, moment: Moment, known: Vec<KnownStudy>, now: Millis) {
        let before = std::mem::replace(&mut self.moment, moment).published;
        if before != self.moment.published {
            self.publish_hours(now);
        }
        let declined = self.memory.forget_declines();
        let withdrawn = self.studies.rejudged(known, &declined, now, &mut self.out);
        for (study, code) in withdrawn {
            self.withdraw(&study, code, now);
        }
        self.advance(now);
    }

    /// The coordinator was brought back to an earlier history, which a person accepted: its rounds have numbers
    /// again that were over before.
    pub fn handle_other_history(&mut self) {
        self.failed.clear();
        self.memory.forget(|_| false);
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

    /// Why the study's newest plan was not taken on, if it was not for a rule of the moment.
    #[must_use]
    pub fn declined(&self, study: &StudyId, now: Millis) -> Option<DeclinedStatus> {
        self.memory.declined(now).into_iter().find(|declined| declined.study == *study)
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
            declined: self.memory.declined(now),
            last_objection: self.memory.last_objection.clone(),
            withdrawals: self.withdrawals.len(),
        }
    }
}
