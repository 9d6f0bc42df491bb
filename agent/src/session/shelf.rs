//! Retained updates, each from the moment it is durable until its roll call: offer → push →
//! receipt → settle. After every Welcome all of them are offered again, receipted or not: the
//! coordinator answers with whatever this site has missed.

use std::collections::BTreeMap;

use consilium_common::audit::{Receipt, RollCall};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::planted::{self, Bug};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{
    Progress, SitePhase, UpdateOffer, UpdateRefused, UpdateWanted,
};

use super::action::{Action, ActionId, Fault, Retained};
use super::outbox::Outbox;
use super::status::RetainedStatus;
use super::throttle::{Report, Throttle};

/// An update whose push failed over a live connection is offered again after this, doubled each
/// time up to [`OFFER_AGAIN_MAX`].
const OFFER_AGAIN: Millis = Millis::from_secs(1);
const OFFER_AGAIN_MAX: Millis = Millis::from_secs(60);

#[derive(Debug)]
struct Held {
    retained: Retained,
    receipted: bool,
    push: Option<ActionId>,
    failed_pushes: u32,
    offer_again: Option<Millis>,
    settling: Option<ActionId>,
    last_fault: Option<String>,
    throttle: Throttle,
}

impl Held {
    fn new(retained: Retained) -> Self {
        Self {
            retained,
            receipted: false,
            push: None,
            failed_pushes: 0,
            offer_again: None,
            settling: None,
            last_fault: None,
            throttle: Throttle::default(),
        }
    }

    fn offer(&mut self, now: Millis, out: &mut Outbox) {
        self.offer_again = None;
        if self.settling.is_some() {
            return;
        }
        let Retained { study, round, digest, bytes } = self.retained.clone();
        let offer = UpdateOffer { study, round, digest, bytes };
        out.send(offer, now);
    }

    fn settle(&mut self, counted: bool, out: &mut Outbox) {
        if self.settling.is_some() {
            return;
        }
        let (study, round) = (self.retained.study.clone(), self.retained.round);
        self.offer_again = None;
        self.settling = Some(out.ask(|id| Action::Settle { id, study, round, counted }));
    }

    fn moved(&self, report: Report) -> Progress {
        Progress {
            study: self.retained.study.clone(),
            round: self.retained.round,
            phase: report.phase,
            done: report.done,
            total: report.total,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Shelf {
    held: BTreeMap<(StudyId, Round), Held>,
}

impl Shelf {
    pub(super) fn new(retained: Vec<Retained>) -> Self {
        let held = |retained: Retained| {
            let key = (retained.study.clone(), retained.round);
            (key, Held::new(retained))
        };
        Self { held: retained.into_iter().map(held).collect() }
    }

    fn get(&mut self, study: &StudyId, round: Round) -> Option<&mut Held> {
        self.held.get_mut(&(study.clone(), round))
    }

    pub(super) fn has(&self, study: &StudyId, round: Round) -> bool {
        self.held.contains_key(&(study.clone(), round))
    }

    /// An update became durable.
    pub(super) fn keep(&mut self, retained: Retained, now: Millis, out: &mut Outbox) {
        let mut held = Held::new(retained.clone());
        held.offer(now, out);
        self.held.insert((retained.study, retained.round), held);
    }

    /// An update became durable after its round had ended: it cannot have counted.
    pub(super) fn discard(&mut self, retained: Retained, out: &mut Outbox) {
        let mut held = Held::new(retained.clone());
        held.settle(false, out);
        self.held.insert((retained.study, retained.round), held);
    }

    pub(super) fn offer_all(&mut self, now: Millis, out: &mut Outbox) {
        for held in self.held.values_mut() {
            held.failed_pushes = 0;
            held.offer(now, out);
        }
    }

    pub(super) fn offer(&mut self, study: &StudyId, round: Round, now: Millis, out: &mut Outbox) {
        if let Some(held) = self.get(study, round) {
            held.offer(now, out);
        }
    }

    /// Whether the bytes are here to be pushed.
    pub(super) fn wanted(&mut self, wanted: &UpdateWanted, out: &mut Outbox) -> bool {
        let Some(held) = self.get(&wanted.study, wanted.round) else {
            return false;
        };
        if held.retained.digest != wanted.digest || held.settling.is_some() {
            return false;
        }
        if held.push.is_none() {
            let retained = held.retained.clone();
            held.offer_again = None;
            held.push = Some(out.ask(|id| Action::Push { id, retained }));
        }
        true
    }

    /// A push came to its end.
    pub(super) fn pushed(&mut self, id: ActionId, result: Result<(), Fault>, now: Millis) {
        let found = self.held.values_mut().find(|held| held.push == Some(id));
        let Some(held) = found else {
            return;
        };
        held.push = None;
        let Err(fault) = result else {
            held.failed_pushes = 0;
            return;
        };
        let doubled = OFFER_AGAIN.0 << held.failed_pushes.min(8);
        held.failed_pushes = held.failed_pushes.saturating_add(1);
        held.last_fault = Some(fault.detail);
        if held.settling.is_none() {
            held.offer_again = Some(now + Millis(doubled.min(OFFER_AGAIN_MAX.0)));
        }
    }

    pub(super) fn progress(
        &mut self,
        id: ActionId,
        done: u64,
        total: u64,
        now: Millis,
        out: &mut Outbox,
    ) {
        let found = self.held.values_mut().find(|held| held.push == Some(id));
        let Some(held) = found else {
            return;
        };
        let report = Report { phase: SitePhase::Uploading, done, total };
        if let Some(report) = held.throttle.moved(report, now) {
            out.send(held.moved(report), now);
        }
    }

    pub(super) fn receipt(&mut self, receipt: &Receipt) {
        if let Some(held) = self.get(&receipt.study, receipt.round)
            && held.retained.digest == receipt.update
        {
            held.receipted = true;
        }
    }

    /// The round ended: the update counted if the roll call says so of these very bytes.
    pub(super) fn roll_call(&mut self, roll_call: &RollCall, site: &SiteId, out: &mut Outbox) {
        if let Some(held) = self.get(&roll_call.study, roll_call.round) {
            let entry = roll_call.sites.get(site);
            let update: Option<Digest> = entry.and_then(|entry| entry.update);
            let same = update == Some(held.retained.digest);
            let counted = roll_call.counted(site) || planted::has(Bug::ResidualOnAbandon);
            held.settle(same && counted, out);
        }
    }

    /// The coordinator does not take the update: it will not count. True if it was ours.
    pub(super) fn refused(&mut self, refused: &UpdateRefused, out: &mut Outbox) -> bool {
        let Some(held) = self.get(&refused.study, refused.round) else {
            return false;
        };
        let ours = held.retained.digest == refused.digest;
        if ours {
            held.settle(false, out);
        }
        ours
    }

    /// A person refused the study: what has not reached the coordinator stays here.
    pub(super) fn withdraw(&mut self, study: &StudyId, out: &mut Outbox) {
        for held in self.held.values_mut() {
            if held.retained.study == *study && !held.receipted {
                held.settle(false, out);
            }
        }
    }

    pub(super) fn settled(&mut self, id: ActionId) {
        self.held.retain(|_, held| held.settling != Some(id));
    }

    /// Whether training for `round` has to wait: the site state that it starts from is not known
    /// until every other update of the study is settled, also one of a later round that the
    /// coordinator has forgotten and refuses. This also bounds what is retained.
    pub(super) fn blocks(&self, study: &StudyId, round: Round) -> bool {
        let mut keys = self.held.keys();
        keys.any(|(of, other)| of == study && *other != round)
    }

    /// Whoever pushed over the lost connection reports a failure; the next Welcome offers anew.
    pub(super) fn disconnected(&mut self) {
        for held in self.held.values_mut() {
            held.push = None;
            held.offer_again = None;
        }
    }

    pub(super) fn handle_timeout(&mut self, now: Millis, out: &mut Outbox) {
        for held in self.held.values_mut() {
            if held.offer_again.is_some_and(|at| now >= at) {
                held.offer(now, out);
            }
            if let Some(report) = held.throttle.due(now)
                && held.push.is_some()
            {
                out.send(held.moved(report), now);
            }
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Millis> {
        let deadlines = |held: &Held| [held.offer_again, held.throttle.next_deadline()];
        self.held.values().flat_map(deadlines).flatten().min()
    }

    pub(super) fn status(&self) -> Vec<RetainedStatus> {
        let row = |held: &Held| RetainedStatus {
            study: held.retained.study.clone(),
            round: held.retained.round,
            digest: held.retained.digest,
            bytes: held.retained.bytes,
            receipted: held.receipted,
            uploading: held.push.is_some(),
            last_fault: held.last_fault.clone(),
        };
        self.held.values().map(row).collect()
    }
}
