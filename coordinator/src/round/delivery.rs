//! The way of one update: offer → look → push → verify → add and receipt → delivered.

use consilium_common::audit::Record;
use consilium_common::audit::record::{ReceiptGiven, Refusal};
use consilium_common::ids::{Digest, SiteId};
use consilium_common::limits::WEIGHT_SUM_MAX;
use consilium_common::planted::{self, Bug};
use consilium_common::update::words::Words;
use consilium_common::wire::messages::{
    Receipt, TaskKind, UpdateOffer, UpdateRefused, UpdateWanted,
};
use consilium_common::wire::reject::Code;

use super::action::{Action, Fault};
use super::engine::Engine;
use super::open_round::{OpenRound, Phase};
use super::outbox::Awaited;
use super::site::{Site, SiteState, Why};

impl Engine {
    /// A site offers an update, of the live round or an older one.
    pub(super) fn take_offer(&mut self, site: &SiteId, offer: &UpdateOffer) {
        if offer.study != *self.terms.study.id() {
            return;
        }
        let open = self.open.as_ref().filter(|open| open.plan.round == offer.round);
        match open {
            Some(open) if open.is_live() => self.take_live_offer(site, offer),
            // Its roll call is on the way to the log, and then to those who were invited.
            Some(open) if open.ending.as_ref().is_some_and(|ending| !ending.told) => {
                if !open.sites.contains_key(site) {
                    self.refuse_uninvited(site, offer);
                }
            }
            Some(open) if open.phase == Phase::Planning => {
                let detail = format!("round {} has not begun", offer.round);
                self.refuse(site, offer, Code::WrongRound, detail);
            }
            _ if offer.round < self.next_round => self.outbox.push(Action::SendRollCall {
                site: site.clone(),
                round: offer.round,
                update: offer.digest,
            }),
            _ => {
                let detail = format!("there was no round {} yet", offer.round);
                self.refuse(site, offer, Code::WrongRound, detail);
            }
        }
    }

    fn take_live_offer(&mut self, site: &SiteId, offer: &UpdateOffer) {
        let now = self.now;
        let Some(open) = &self.open else {
            return;
        };
        let size = self.check_size(open, offer.bytes);
        let need = self.terms.rules(&open.plan).update_bytes_len();
        let closed = open.uploads_closed;
        let Some(part) = self.part(site) else {
            return self.refuse_uninvited(site, offer);
        };
        if let SiteState::Out(Why::Refused(code)) = part.state {
            let detail = "an update of this site was refused in this round".to_owned();
            self.refuse(site, offer, code, detail);
        } else if let Some(bound) = part.bound.filter(|bound| *bound != offer.digest) {
            let detail = format!(
                "{site} delivered {bound:?} in round {} and now offers {:?}: the first counts",
                offer.round, offer.digest
            );
            self.log_refusal(site, Code::Equivocation, &detail);
            self.strike(site, Code::Equivocation, &detail);
            self.refuse(site, offer, Code::Equivocation, detail);
        } else if part.state == SiteState::Delivered && !planted::has(Bug::DoubleCount) {
            self.send_receipt(site);
        } else if closed {
            // Too late for the sum: the roll call says so when the round ends.
        } else if let Err(code) = size {
            let detail = format!("the update has {} bytes, {need} expected", offer.bytes);
            self.strike(site, code, &detail);
            self.exclude(site, offer.digest, code, detail);
        } else if !part.may_offer(offer.digest) {
            let detail = format!("{site} offers one update after the other in one round");
            self.strike(site, Code::Flood, &detail);
            self.exclude(site, offer.digest, Code::Flood, detail);
        } else {
            part.moved = now;
            self.look_for(site, offer.digest);
        }
    }

    /// Asks whether the update is staged, unless it is being worked on already.
    pub(super) fn look_for(&mut self, site: &SiteId, update: Digest) {
        let Some(part) = self.part(site) else {
            return;
        };
        let same = part.offered == Some(update);
        if part.state.is_worked_on() && same {
            return;
        }
        part.offered = Some(update);
        part.state = SiteState::Looking;
        let awaited = Awaited::Look(site.clone(), update);
        let site = site.clone();
        self.outbox.request(awaited, |id| Action::Look { id, site, update });
    }

    /// Answer to a look: the update is verified, or asked for.
    pub(super) fn looked(&mut self, site: &SiteId, update: Digest, staged: bool) {
        let closed = self.open.as_ref().is_none_or(|open| open.uploads_closed);
        let now = self.now;
        let Some(part) = self.part(site) else {
            return;
        };
        if part.state != SiteState::Looking || part.offered != Some(update) {
            return;
        }
        if staged {
            part.state = SiteState::Wanted;
            self.verify_staged(site, update);
        } else if closed {
            part.state = SiteState::Out(Why::Late);
        } else {
            part.state = SiteState::Wanted;
            part.moved = now;
            self.want(site, update);
        }
    }

    fn want(&mut self, site: &SiteId, digest: Digest) {
        if let Some(open) = &self.open {
            let (study, round) = (open.plan.study.clone(), open.plan.round);
            self.outbox.send(site, UpdateWanted { study, round, digest });
        }
    }

    /// The update that was wanted is here: it is held against the rules.
    pub(super) fn verify_staged(&mut self, site: &SiteId, update: Digest) {
        let Some(open) = &mut self.open else {
            return;
        };
        let rules = Box::new(self.terms.rules(&open.plan));
        let Some(part) = open.sites.get_mut(site) else {
            return;
        };
        // Working: it was let go as idle while the last bytes came, and is back by them.
        let waits = matches!(part.state, SiteState::Wanted | SiteState::Working);
        if !waits || part.offered != Some(update) {
            return;
        }
        part.state = SiteState::Verifying;
        let awaited = Awaited::Verify(site.clone(), update);
        let site = site.clone();
        self.outbox.request(awaited, |id| Action::Verify { id, site, update, rules });
    }

    /// The verdict on an update: refused, and its site excluded, or accepted: it binds the site, is added,
    /// and its receipt is written.
    pub(super) fn verified(
        &mut self,
        site: &SiteId,
        update: Digest,
        verdict: Result<Words, Fault>,
    ) {
        let Some(open) = self.open.as_mut().filter(|open| open.is_live()) else {
            return;
        };
        let Some(part) = open.sites.get_mut(site) else {
            return;
        };
        if part.state != SiteState::Verifying || part.offered != Some(update) {
            return;
        }
        let words = match verdict {
            Ok(words) => words,
            // A disk of ours that fails is not the site's doing.
            Err(fault) if fault.code == Code::CoordinatorFault => {
                return self.exclude(site, update, fault.code, fault.detail);
            }
            Err(fault) => {
                self.strike(site, fault.code, &fault.detail);
                return self.exclude(site, update, fault.code, fault.detail);
            }
        };
        let (sum, weight) = match sum_of_words(&open.words, &words) {
            Ok(sum) => (sum, words.weight),
            // Nor is what the others delivered.
            Err(fault) => return self.exclude(site, update, fault.code, fault.detail),
        };
        open.words = sum;
        part.bound = Some(update);
        part.weight = Some(weight);
        let coordinates = self.terms.rules(&open.plan).coordinates();
        let is_sum = open.plan.task != TaskKind::Evaluate;
        part.state = SiteState::Adding { added: !is_sum };
        if is_sum {
            let awaited = Awaited::Add(site.clone());
            let site = site.clone();
            self.outbox.request(awaited, |id| Action::Add {
                id,
                site,
                update,
                weight,
                coordinates,
            });
        }
        self.give_receipt(site);
        self.deliver(site);
    }

    /// The update is in the sum. If it is only in part, the sum is lost, and the round with it.
    pub(super) fn added(&mut self, site: &SiteId, outcome: Result<(), Fault>) {
        let Some(open) = self.open.as_mut().filter(|open| open.is_live()) else {
            return;
        };
        if let Err(fault) = outcome {
            let reason = format!("the update of {site} could not be added: {}", fault.detail);
            open.abandon = Some(reason);
            return;
        }
        if let Some(part) = open.sites.get_mut(site) {
            part.state = SiteState::Adding { added: true };
        }
        self.deliver(site);
    }

    /// Writes the receipt of an accepted update, once training has begun and if the log has none.
    fn give_receipt(&mut self, site: &SiteId) {
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let Some(part) = open.sites.get_mut(site) else {
            return;
        };
        if open.phase != Phase::Training || part.receipt.is_some() {
            return;
        }
        if let Some(update) = part.bound {
            let signed = self.terms.receipt(&open.plan, site, update);
            part.receipt = Some(signed.clone());
            let record = Record::Receipt(ReceiptGiven { signed });
            self.outbox.persist(Awaited::Receipt(site.clone()), record);
        }
    }

    /// Training has begun: updates that came before are receipted now.
    pub(super) fn give_held_receipts(&mut self) {
        let Some(open) = &self.open else {
            return;
        };
        for site in open.sites_where(|state| matches!(state, SiteState::Adding { .. })) {
            self.give_receipt(&site);
        }
    }

    pub(super) fn receipt_is_durable(&mut self, site: &SiteId) {
        if let Some(part) = self.part(site) {
            part.receipt_durable = true;
        }
        self.deliver(site);
    }

    /// Delivered, if the update is in the sum and its receipt in the log.
    fn deliver(&mut self, site: &SiteId) {
        let Some(part) = self.part(site) else {
            return;
        };
        let durable = part.receipt_durable || planted::has(Bug::ReceiptBeforeDurable);
        if durable && part.state == (SiteState::Adding { added: true }) {
            part.state = SiteState::Delivered;
            self.send_receipt(site);
        }
    }

    pub(super) fn send_receipt(&mut self, site: &SiteId) {
        let part = self.open.as_ref().and_then(|open| open.sites.get(site));
        if let Some(signed) = part.and_then(|part| part.receipt.clone()) {
            self.outbox.send(site, Receipt { signed });
        }
    }

    /// The size that every update of this round has.
    pub(super) fn check_size(&self, open: &OpenRound, bytes: u64) -> Result<(), Code> {
        let need = self.terms.rules(&open.plan).update_bytes_len();
        match bytes.cmp(&need) {
            std::cmp::Ordering::Equal => Ok(()),
            std::cmp::Ordering::Greater => Err(Code::TooLarge),
            std::cmp::Ordering::Less => Err(Code::WrongShape),
        }
    }

    /// The update breaks a rule: told, logged, and the site is out for this round.
    fn exclude(&mut self, site: &SiteId, digest: Digest, code: Code, detail: String) {
        self.log_refusal(site, code, &detail);
        let Some(open) = &mut self.open else {
            return;
        };
        let (study, round) = (open.plan.study.clone(), open.plan.round);
        if let Some(part) = open.sites.get_mut(site) {
            part.state = SiteState::Out(Why::Refused(code));
        }
        let refused = UpdateRefused { study, round, digest, code, detail };
        self.outbox.send(site, refused);
    }

    /// Agents do not do this: the site is to be put out.
    fn strike(&mut self, site: &SiteId, code: Code, detail: &str) {
        let (site, detail) = (site.clone(), detail.to_owned());
        self.outbox.push(Action::Strike { site, code, detail });
    }

    /// Nobody retains an update of a round that it was not invited to, unless the log was brought back
    /// from a copy and gave the round's number again.
    fn refuse_uninvited(&mut self, site: &SiteId, offer: &UpdateOffer) {
        let detail = format!("{site} was not invited to round {}", offer.round);
        self.refuse(site, offer, Code::NotInvited, detail);
    }

    fn refuse(&mut self, site: &SiteId, offer: &UpdateOffer, code: Code, detail: String) {
        let refused = UpdateRefused {
            study: offer.study.clone(),
            round: offer.round,
            digest: offer.digest,
            code,
            detail,
        };
        self.outbox.send(site, refused);
    }

    /// Writes the first refusal of a site in a round to the log.
    fn log_refusal(&mut self, site: &SiteId, code: Code, detail: &str) {
        let Some(part) = self.part(site) else {
            return;
        };
        if !std::mem::replace(&mut part.refusal_logged, true) {
            let record = Refusal {
                peer: site.to_string(),
                code: code.to_string(),
                detail: detail.to_owned(),
            };
            self.outbox.persist(Awaited::Record, Record::Refusal(record));
        }
    }

    /// The site's part in the open round while the round is live.
    fn part(&mut self, site: &SiteId) -> Option<&mut Site> {
        let open = self.open.as_mut().filter(|open| open.is_live())?;
        open.sites.get_mut(site)
    }
}

/// The sum with one site's words more, held against the bounds of exact sums.
fn sum_of_words(sum: &Words, words: &Words) -> Result<Words, Fault> {
    let next = sum.checked_add(words).ok_or_else(|| Fault {
        code: Code::BadMetrics,
        detail: "the metric sums of the round would overflow".to_owned(),
    })?;
    if next.weight < WEIGHT_SUM_MAX {
        return Ok(next);
    }
    Err(Fault {
        code: Code::WeightOutOfRange,
        detail: format!("the round's weights would add up to {WEIGHT_SUM_MAX} or more"),
    })
}
