//! The entry points: what happened, what to do, when to wake.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::planted::{self, Bug};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::update::best::Best;
use consilium_common::wire::messages::{
    Message, PlanAnswer, Progress, RunState, TaskFailed, UpdateOffer,
};
use consilium_common::wire::reject::Code;

use super::action::{Action, ActionId, Done, Head};
use super::controls::Controls;
use super::idle::Attempts;
use super::open_round::{OpenRound, Phase};
use super::outbox::{Awaited, Outbox};
use super::site::{Session, SiteState, Why};
use super::terms::Terms;

/// What a site says about a round.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the message of its name")]
pub enum SiteMessage {
    PlanAnswer(PlanAnswer),
    Progress(Progress),
    UpdateOffer(UpdateOffer),
    TaskFailed(TaskFailed),
}

impl SiteMessage {
    /// Takes the messages that an engine handles; gives any other back.
    ///
    /// # Errors
    /// The message is none of a round.
    #[expect(
        clippy::wildcard_enum_match_arm,
        clippy::result_large_err,
        reason = "whatever else the protocol has goes back to whom it came from"
    )]
    pub fn from_message(message: Message) -> Result<Self, Message> {
        match message {
            Message::PlanAnswer(body) => Ok(Self::PlanAnswer(body)),
            Message::Progress(body) => Ok(Self::Progress(body)),
            Message::UpdateOffer(body) => Ok(Self::UpdateOffer(body)),
            Message::TaskFailed(body) => Ok(Self::TaskFailed(body)),
            other => Err(other),
        }
    }

    fn round(&self) -> Round {
        match self {
            Self::PlanAnswer(body) => body.round,
            Self::Progress(body) => body.round,
            Self::UpdateOffer(body) => body.round,
            Self::TaskFailed(body) => body.round,
        }
    }
}

/// The rounds of one study. See the module's documentation for the order of calls.
#[derive(Debug)]
pub struct Engine {
    pub(super) terms: Terms,
    pub(super) roster: BTreeSet<SiteId>,
    pub(super) sessions: BTreeMap<SiteId, Session>,
    /// As it is in the log.
    pub(super) state: RunState,
    /// As it will be once what was asked for is in the log.
    pub(super) target: RunState,
    /// The record that made it so: answers come in any order.
    pub(super) state_since: Option<ActionId>,
    pub(super) version: Version,
    pub(super) model: Digest,
    /// The newest version's.
    pub(super) strategy_state: Option<Digest>,
    /// Under SCAFFOLD: what that state is made of.
    pub(super) controls: Controls,
    /// What the scores in the log say.
    pub(super) best: Best,
    /// The newest version when this file of the study was submitted, or training went back: early stopping
    /// counts from here.
    pub(super) begun: Version,
    /// Of the numbers of its versions: those on which the newest is not built.
    pub(super) beside: u64,
    /// What the sites counted before the first round, once they have.
    pub(super) preparation: Option<Digest>,
    pub(super) next_round: Round,
    pub(super) attempts: Attempts,
    pub(super) open: Option<OpenRound>,
    pub(super) outbox: Outbox,
    pub(super) now: Millis,
    /// The calendar's time, for the end of the study's approval and nothing else.
    pub(super) wall: WallMillis,
}

impl Engine {
    /// The calendar's time, told before every other call: no round begins after the study's approval
    /// has ended.
    pub fn handle_wall(&mut self, wall: WallMillis) {
        self.wall = wall;
    }

    /// The site has a live session and has accepted this study's digest; said after each reconnect.
    pub fn handle_site_ready(&mut self, site: &SiteId, now: Millis) {
        self.now = now;
        if !self.roster.contains(site) {
            return;
        }
        let session = self.sessions.entry(site.clone()).or_default();
        if !session.connected {
            *session = Session { connected: true, declined: None };
            self.attempts.try_again(now);
        }
        if !planted::has(Bug::LostWakeUp) {
            self.tell_again(site);
        }
        self.advance();
    }

    /// The connection is lost: idleness, not failure.
    pub fn handle_site_gone(&mut self, site: &SiteId, now: Millis) {
        self.now = now;
        if let Some(session) = self.sessions.get_mut(site) {
            session.connected = false;
        }
        self.advance();
    }

    /// The site was put out for a time: it is gone, and nothing that it owes is waited for.
    pub fn handle_site_quarantined(&mut self, site: &SiteId, now: Millis) {
        let live = self.open.as_mut().filter(|open| open.is_live() && !open.uploads_closed);
        if let Some(part) = live.and_then(|open| open.sites.get_mut(site)) {
            part.put_out(Code::Quarantined);
        }
        self.handle_site_gone(site, now);
    }

    /// Who may take part from now on. Whoever may not any more is gone, and nothing that it owes is
    /// waited for: the round goes on with the others, and its roll call says why.
    pub fn handle_members(&mut self, members: BTreeSet<SiteId>, now: Millis) {
        self.now = now;
        let out: Vec<SiteId> = self.roster.difference(&members).cloned().collect();
        let mut live = self.open.as_mut().filter(|open| open.is_live() && !open.uploads_closed);
        for site in out {
            if let Some(part) = live.as_mut().and_then(|open| open.sites.get_mut(&site)) {
                part.put_out(Code::Revoked);
            }
            self.sessions.remove(&site);
        }
        self.roster = members;
        self.advance();
    }

    /// A site's word. Messages of other studies, of rounds that are over (but for offers) and of
    /// sites that were not invited change nothing.
    pub fn handle_message(&mut self, site: &SiteId, message: SiteMessage, now: Millis) {
        self.now = now;
        if !self.roster.contains(site) {
            return;
        }
        let is_current =
            self.live_round() == Some(message.round()) || planted::has(Bug::StaleRound);
        match message {
            SiteMessage::UpdateOffer(offer) => self.take_offer(site, &offer),
            SiteMessage::PlanAnswer(answer) if is_current => self.take_answer(site, answer.answer),
            SiteMessage::Progress(progress) if is_current => self.take_progress(site, &progress),
            SiteMessage::TaskFailed(failed) if is_current => self.take_failure(site, failed.code),
            SiteMessage::PlanAnswer(_) | SiteMessage::Progress(_) | SiteMessage::TaskFailed(_) => {}
        }
        self.advance();
    }

    /// Whether the site may push these bytes now; asked before any of them is read.
    ///
    /// # Errors
    /// The code to refuse the push with.
    pub fn wants_push(
        &self,
        site: &SiteId,
        round: Round,
        digest: Digest,
        bytes: u64,
    ) -> Result<(), Code> {
        let open = self.open.as_ref().filter(|open| open.is_live());
        let open = open.filter(|open| open.plan.round == round).ok_or(Code::WrongRound)?;
        let part = open.sites.get(site).ok_or(Code::NotInvited)?;
        if let SiteState::Out(Why::Refused(code)) = part.state {
            return Err(code);
        }
        if open.uploads_closed {
            return Err(Code::Late);
        }
        if part.bound.is_some_and(|bound| bound != digest) {
            return Err(Code::Equivocation);
        }
        self.check_size(open, bytes)?;
        // Idle and working: it was let go while its bytes came, and is back, or will be, by them.
        let waits = matches!(
            part.state,
            SiteState::Wanted | SiteState::Working | SiteState::Out(Why::Idle)
        );
        if waits && part.offered == Some(digest) { Ok(()) } else { Err(Code::Unexpected) }
    }

    /// Bytes of an update (`up`) or a base (`down`) moved for a round: progress of the site, and
    /// counted in the roll call. Both are increments since the last call.
    pub fn handle_transfer(
        &mut self,
        site: &SiteId,
        round: Round,
        up: u64,
        down: u64,
        now: Millis,
    ) {
        self.now = now;
        if let Some(open) = self.open.as_mut().filter(|open| open.plan.round == round) {
            open.bytes_up = open.bytes_up.saturating_add(up);
            open.bytes_down = open.bytes_down.saturating_add(down);
        }
        self.site_moves(site, round);
        self.advance();
    }

    /// An update was pushed whole, and its bytes have this digest.
    pub fn handle_staged(&mut self, site: &SiteId, round: Round, digest: Digest, now: Millis) {
        self.now = now;
        self.site_moves(site, round);
        if self.live_round() == Some(round) {
            self.verify_staged(site, digest);
        }
        self.advance();
    }

    /// An action with this id is done. An id that was answered before is passed over.
    pub fn handle_done(&mut self, id: ActionId, done: Done, now: Millis) {
        self.now = now;
        match (self.outbox.answered(id), done) {
            (Some(Awaited::Plan), Done::Persisted) => self.invite(),
            (Some(Awaited::RollCall), Done::Persisted) => self.tell_ending(),
            (Some(Awaited::StudyState(state, by)), Done::Persisted) => {
                self.enter_state(id, state, &by);
            }
            (Some(Awaited::Receipt(site)), Done::Persisted) => self.receipt_is_durable(&site),
            (Some(Awaited::Look(site, update)), Done::Staged(staged)) => {
                self.looked(&site, update, staged);
            }
            (Some(Awaited::Verify(site, update)), Done::Verified(verdict)) => {
                self.verified(&site, update, verdict);
            }
            (Some(Awaited::Add(site)), Done::Added(outcome)) => self.added(&site, outcome),
            (Some(Awaited::Aggregate), Done::Aggregated(outcome)) => self.aggregated(outcome),
            (Some(Awaited::Prepare), Done::Prepared(outcome)) => self.prepared(outcome),
            // Answered before, or with the answer to another kind of action: nothing hangs on it.
            _ => {}
        }
        self.advance();
    }

    /// `now` has reached [`Engine::next_deadline`].
    pub fn handle_timeout(&mut self, now: Millis) {
        self.now = now;
        let idle_timeout = self.terms.study.cohort.idle_timeout;
        if let Some(open) = self.open.as_mut().filter(|open| open.is_live()) {
            open.drop_idle(idle_timeout, now);
            if open.deadline <= now {
                open.close_uploads();
            }
        }
        self.advance();
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<Action> {
        self.outbox.pop()
    }

    /// When [`Engine::handle_timeout`] is to be called if nothing happens before. Right after a call
    /// of it, this lies ahead.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Millis> {
        match &self.open {
            Some(open) => open.next_deadline(self.terms.study.cohort.idle_timeout),
            None => self.next_attempt(),
        }
    }

    /// The newest version.
    #[must_use]
    pub fn head(&self) -> Head {
        Head {
            study: self.terms.study.id().clone(),
            version: self.version,
            model: self.model,
            strategy_state: self.strategy_state,
            preparation: self.preparation,
        }
    }

    /// The study's state, as it is in the log.
    #[must_use]
    pub fn state(&self) -> RunState {
        self.state
    }

    /// Takes every step that what has happened allows. Each step but the last of a round ends in
    /// waiting for an answer, so this ends.
    pub(super) fn advance(&mut self) {
        loop {
            let phase = self.open.as_ref().map(|open| open.phase);
            match phase {
                None => self.open_round(),
                Some(Phase::Planning) => {}
                Some(Phase::Inviting) => self.end_inviting(),
                Some(Phase::Training) => self.end_training(),
                Some(Phase::Aggregating) => self.abandon_if_asked(),
                Some(Phase::Closing) => self.forget_round(),
            }
            if phase == self.open.as_ref().map(|open| open.phase) {
                return;
            }
        }
    }

    /// The round whose messages are heard.
    pub(super) fn live_round(&self) -> Option<Round> {
        let open = self.open.as_ref().filter(|open| open.is_live())?;
        Some(open.plan.round)
    }

    /// Something moved for a round at a site.
    pub(super) fn site_moves(&mut self, site: &SiteId, round: Round) {
        let now = self.now;
        let live = self.open.as_mut().filter(|open| open.is_live());
        let Some(open) = live.filter(|open| open.plan.round == round && !open.uploads_closed)
        else {
            return;
        };
        if let Some(part) = open.sites.get_mut(site) {
            part.moves(now);
        }
    }

    /// A site with a new session hears again what it may have missed: the receipt, or the plan.
    pub(super) fn tell_again(&mut self, site: &SiteId) {
        let Some(open) = self.open.as_ref().filter(|open| open.is_live()) else {
            return;
        };
        let Some(part) = open.sites.get(site) else {
            return;
        };
        let refused = matches!(part.state, SiteState::Out(Why::Refused(_)));
        if part.state == SiteState::Delivered {
            self.send_receipt(site);
        } else if !refused && !open.uploads_closed {
            let (own, remaining) = (self.controls.of(site), open.remaining(self.now));
            let plan = self.terms.plan_message(&open.plan, own, remaining);
            self.outbox.send(site, plan);
        }
    }
}
