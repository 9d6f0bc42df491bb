//! Training: who still owes something, and what happens when nobody does.

use consilium_common::audit::Outcome;
use consilium_common::ids::SiteId;
use consilium_common::wire::messages::{Progress, TaskKind};
use consilium_common::wire::reject::Code;

use super::action::Action;
use super::cohort;
use super::engine::Engine;
use super::open_round::Phase;
use super::outbox::Awaited;
use super::site::{SiteState, Why};
use crate::aggregate::Members;

impl Engine {
    /// A site of the live round says how far it is.
    pub(super) fn take_progress(&mut self, site: &SiteId, progress: &Progress) {
        self.site_moves(site, progress.round);
        if let Some(part) = self.open.as_mut().and_then(|open| open.sites.get_mut(site)) {
            part.progress = Some((progress.phase, progress.done, progress.total));
        }
    }

    /// A site of the live round cannot deliver.
    pub(super) fn take_failure(&mut self, site: &SiteId, code: Code) {
        let Some(open) = self.open.as_mut().filter(|open| !open.uploads_closed) else {
            return;
        };
        let Some(part) = open.sites.get_mut(site) else {
            return;
        };
        let silent = matches!(part.state, SiteState::Out(Why::NoAnswer | Why::Idle));
        if part.state.owes() || silent {
            part.state = SiteState::Out(Why::Failed(code));
        }
    }

    /// Ends training once no site owes anything and no update is being worked on: the sum is made
    /// into the next version or the preparation, or the round is abandoned for want of updates.
    pub(super) fn end_training(&mut self) {
        self.abandon_if_asked();
        let Some(open) = self.open.as_mut() else {
            return;
        };
        let busy = |state: SiteState| state.owes() || state.is_worked_on();
        if open.phase != Phase::Training || open.sites.values().any(|site| busy(site.state)) {
            return;
        }
        open.close_uploads();
        let delivered = open.sites_where(|state| state == SiteState::Delivered);
        let lacking = cohort::missing(&self.terms.study.cohort, &delivered, "delivered");
        if !lacking.is_empty() {
            self.abandon(&lacking);
            return;
        }
        let weight = open.words.weight;
        let control = self.terms.control(open.plan.task);
        match open.plan.task {
            TaskKind::Train => {
                open.phase = Phase::Aggregating;
                let (base, step_exponent) = (open.plan.base, self.terms.shape.step_exponent());
                // The plan's base is the newest version, and this its state.
                let strategy_state = self.strategy_state;
                let members = control.map(|grid| Members {
                    before: self.controls.len(),
                    after: self.controls.len_with(delivered.iter()),
                    step_exponent: grid.step_exponent,
                });
                self.outbox.request(Awaited::Aggregate, |id| Action::Aggregate {
                    id,
                    base,
                    strategy_state,
                    weight,
                    step_exponent,
                    members,
                });
            }
            TaskKind::Prepare => {
                open.phase = Phase::Aggregating;
                // Every site counts with weight 1.
                let sites = weight;
                self.outbox.request(Awaited::Prepare, |id| Action::Prepare { id, sites });
            }
            TaskKind::Evaluate => self.close(Outcome::Evaluated { weight }),
        }
    }
}
