//! Whose control variates c is the mean of (SCAFFOLD, `consilium_common::update::control`): a fold of
//! roll calls, beside the newest version.
//!
//! c is worth something only as long as it is the mean of what the sites keep. So each plan says from
//! which round the site's variate has to be; a site that does not have that one (its disk was damaged,
//! its state folder came from an old copy) says `control-lost`. Then the roll call leaves it out with
//! that code, and c begins anew: zero, with no members, and every site begins with zero too, because the
//! next plans say so. This costs the rounds that it takes to learn the variates again; to go on would
//! move the optimum for good. A site that says so without need sets the others back to FedAvg, no more.

use std::collections::BTreeMap;

use consilium_common::audit::{Outcome, RollCall, Status};
use consilium_common::ids::{Round, SiteId};
use consilium_common::wire::messages::TaskKind;
use consilium_common::wire::reject::Code;

/// The sites whose variate is part of c, each with the round that it is from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Controls(BTreeMap<SiteId, Round>);

impl Controls {
    /// The round that a site's variate is from; none if it is no part of c.
    #[must_use]
    pub fn of(&self, site: &SiteId) -> Option<Round> {
        self.0.get(site).copied()
    }

    /// N.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// c is zero.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// N⁺, once these have counted.
    #[must_use]
    pub fn len_with<'a>(&self, counted: impl Iterator<Item = &'a SiteId>) -> usize {
        self.len() + counted.filter(|site| !self.0.contains_key(site)).count()
    }

    /// Nobody's.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the next roll call of a study under SCAFFOLD. Says whether c begins anew after it,
    /// whatever version it committed.
    #[must_use]
    pub fn follow(&mut self, call: &RollCall) -> bool {
        if call.task != TaskKind::Train {
            return false;
        }
        let lost = Status::Excluded { code: Code::ControlLost };
        let is_lost = |site: &SiteId| call.sites.get(site).is_some_and(|own| own.status == lost);
        if self.0.keys().any(is_lost) {
            self.clear();
            return true;
        }
        if matches!(call.outcome, Outcome::Committed { .. }) {
            let counted = call.sites.keys().filter(|site| call.counted(site));
            self.0.extend(counted.map(|site| (site.clone(), call.round)));
        }
        false
    }
}
