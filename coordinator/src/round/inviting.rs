//! Inviting: the plan is told, and every invited site answers or is let go.

use consilium_common::audit::Record;
use consilium_common::audit::record::TrainingBegun;
use consilium_common::ids::SiteId;
use consilium_common::time::Millis;
use consilium_common::wire::messages::Answer;
use consilium_common::wire::reject::Code;

use super::cohort;
use super::engine::Engine;
use super::open_round::Phase;
use super::outbox::Awaited;
use super::site::{SiteState, Why};

/// A site that declines is asked again after a week at the latest, whatever time it names.
const RETRY_AFTER_MAX: Millis = Millis::from_secs(7 * 24 * 3600);

impl Engine {
    /// The plan is durable: the round's clock starts, and the sites hear of it (unless the study was
    /// stopped meanwhile).
    pub(super) fn invite(&mut self) {
        let now = self.now;
        let Some(open) = &mut self.open else {
            return;
        };
        open.phase = Phase::Inviting;
        if open.abandon.is_some() {
            return;
        }
        open.opened = now;
        open.deadline = now + open.plan.remaining;
        for (site, part) in &mut open.sites {
            part.moved = now;
            let (own, remaining) = (self.controls.of(site), open.plan.remaining);
            self.outbox.send(site, self.terms.plan_message(&open.plan, own, remaining));
        }
    }

    /// A site's word on the plan of the live round.
    pub(super) fn take_answer(&mut self, site: &SiteId, answer: Answer) {
        let now = self.now;
        let Some(open) = self.open.as_mut().filter(|open| !open.uploads_closed) else {
            return;
        };
        let Some(part) = open.sites.get_mut(site) else {
            return;
        };
        match answer {
            Answer::Accepted => part.accepts(now),
            Answer::Declined { code, retry_after } => {
                let may_decline = part.state.owes() || part.state == SiteState::Out(Why::NoAnswer);
                if may_decline || part.state == SiteState::Out(Why::Idle) {
                    part.state = SiteState::Out(Why::Declined(code));
                }
                self.hold_back(site, code, retry_after);
            }
        }
    }

    /// A site that says when to ask again is not asked before.
    fn hold_back(&mut self, site: &SiteId, code: Code, retry_after: Option<Millis>) {
        let until = retry_after.map(|wait| (self.now + wait.min(RETRY_AFTER_MAX), code));
        if let Some(session) = self.sessions.get_mut(site) {
            session.declined = until;
        }
    }

    /// A site that has accepted the study accepts it once more: what it had declined for is over before
    /// the time that it named (its policy is another), so it is asked again at once.
    pub fn handle_accepted_again(&mut self, site: &SiteId, now: Millis) {
        self.now = now;
        let session = self.sessions.get_mut(site).filter(|session| session.connected);
        if session.and_then(|session| session.declined.take()).is_none() {
            return;
        }
        self.attempts.try_again(now);
        self.tell_again(site);
        self.advance();
    }

    /// Ends inviting once every site has answered or was let go: training begins, or the round is
    /// abandoned for want of sites.
    pub(super) fn end_inviting(&mut self) {
        self.abandon_if_asked();
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let answered = |state: SiteState| state != SiteState::Invited;
        if open.phase != Phase::Inviting || !open.sites.values().all(|site| answered(site.state)) {
            return;
        }
        let accepted = open.sites_where(SiteState::has_accepted);
        let lacking = cohort::missing(&self.terms.study.cohort, &accepted, "accepted");
        if !lacking.is_empty() {
            self.abandon(&lacking);
            return;
        }
        open.phase = Phase::Training;
        let record = TrainingBegun {
            study: open.plan.study.clone(),
            round: open.plan.round,
            accepted: accepted.into_iter().collect(),
            excluded: open.excluded(),
            remaining: open.deadline.since(self.now),
        };
        self.outbox.persist(Awaited::Record, Record::Training(record));
        self.give_held_receipts();
    }
}
