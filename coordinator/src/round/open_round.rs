//! The round that is open: its plan, its sites, its clock.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::PlanMade;
use consilium_common::audit::{Outcome, RollCall};
use consilium_common::ids::SiteId;
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::update::words::Words;
use consilium_common::wire::reject::Code;

use super::site::{Site, SiteState, Why};

/// How far a round is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The plan is on its way to the log; no site has heard of it.
    Planning,
    /// Sites answer the plan.
    Inviting,
    /// Sites work and deliver.
    Training,
    /// The next model is being made.
    Aggregating,
    /// The roll call is on its way to the log, or work of the round is still under way.
    Closing,
}

/// How a round ended.
#[derive(Debug, Clone)]
pub(super) struct Ending {
    pub(super) signed: Signed<RollCall>,
    pub(super) outcome: Outcome,
    /// The roll call is in the log and told.
    pub(super) told: bool,
}

/// The open round.
#[derive(Debug)]
pub(super) struct OpenRound {
    pub(super) plan: PlanMade,
    pub(super) phase: Phase,
    /// Every invited site.
    pub(super) sites: BTreeMap<SiteId, Site>,
    /// Uploads close at this time.
    pub(super) deadline: Millis,
    /// They are closed.
    pub(super) uploads_closed: bool,
    /// Sum of the words of the accepted updates.
    pub(super) words: Words,
    /// When this process opened the round, and the time that an earlier one had spent on it.
    pub(super) opened: Millis,
    pub(super) spent: Millis,
    /// Bytes of updates and bases that passed since then.
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// The round is to be abandoned for this reason.
    pub(super) abandon: Option<String>,
    pub(super) ending: Option<Ending>,
}

impl OpenRound {
    pub(super) fn new(plan: PlanMade, phase: Phase, remaining: Millis, now: Millis) -> Self {
        let invited = plan.invited.iter().cloned();
        Self {
            sites: invited.map(|site| (site, Site::new(SiteState::Invited, now))).collect(),
            phase,
            deadline: now + remaining,
            uploads_closed: false,
            words: Words::default(),
            opened: now,
            spent: plan.remaining.since(remaining),
            bytes_up: 0,
            bytes_down: 0,
            abandon: None,
            ending: None,
            plan,
        }
    }

    /// Sites hear of the round and are heard: not while only the log knows of it, nor once it ends.
    pub(super) fn is_live(&self) -> bool {
        match self.phase {
            Phase::Inviting | Phase::Training | Phase::Aggregating => true,
            Phase::Planning | Phase::Closing => false,
        }
    }

    pub(super) fn remaining(&self, now: Millis) -> Millis {
        self.deadline.since(now)
    }

    /// From the plan until now, without downtime.
    pub(super) fn duration(&self, now: Millis) -> Millis {
        self.spent + now.since(self.opened)
    }

    /// The sites in a state.
    pub(super) fn sites_where(&self, wanted: impl Fn(SiteState) -> bool) -> BTreeSet<SiteId> {
        let of = self.sites.iter().filter(|(_, site)| wanted(site.state));
        of.map(|(id, _)| id.clone()).collect()
    }

    /// Who is not part of the sum, and why.
    pub(super) fn excluded(&self) -> Vec<(SiteId, Code)> {
        let code = |(id, site): (&SiteId, &Site)| match site.state {
            SiteState::Out(why) => Some((id.clone(), why.code())),
            SiteState::Invited
            | SiteState::Working
            | SiteState::Looking
            | SiteState::Wanted
            | SiteState::Verifying
            | SiteState::Adding { .. }
            | SiteState::Delivered => None,
        };
        self.sites.iter().filter_map(code).collect()
    }

    /// The deadline: from here on no site owes anything.
    pub(super) fn close_uploads(&mut self) {
        self.uploads_closed = true;
        for site in self.sites.values_mut() {
            if site.state == SiteState::Invited {
                site.state = SiteState::Out(Why::NoAnswer);
            } else if site.state.owes() {
                site.state = SiteState::Out(Why::Late);
            }
        }
    }

    /// Lets go of the sites that have shown no progress for the idle timeout.
    pub(super) fn drop_idle(&mut self, idle_timeout: Millis, now: Millis) {
        for site in self.sites.values_mut() {
            if site.idle_at(idle_timeout).is_none_or(|at| at > now) {
                continue;
            }
            site.state = SiteState::Out(if site.state == SiteState::Invited {
                Why::NoAnswer
            } else {
                Why::Idle
            });
        }
    }

    /// When something happens by itself: the deadline, or the first site that becomes idle.
    pub(super) fn next_deadline(&self, idle_timeout: Millis) -> Option<Millis> {
        if !self.is_live() {
            return None;
        }
        let idle = self.sites.values();
        let idle = idle.filter_map(|site| site.idle_at(idle_timeout)).min();
        let deadline = (!self.uploads_closed).then_some(self.deadline);
        idle.into_iter().chain(deadline).min()
    }
}
