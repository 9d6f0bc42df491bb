//! What `study plan` is told.

use std::collections::BTreeSet;

use consilium_common::ids::{SiteId, StudyId};
use consilium_common::time::WallMillis;
use consilium_common::wire::reject::Code;
use serde::{Deserialize, Serialize};

/// Answer to `study plan`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanDocument {
    /// Which study.
    pub study: StudyId,
    /// Sites that a round needs.
    pub min_sites: u32,
    /// Sites without which none begins.
    pub required: BTreeSet<SiteId>,
    /// The coordinator's calendar clock.
    pub wall: WallMillis,
    /// Sites that may take part, by name.
    pub sites: Vec<PlanSite>,
}

/// A site in a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlanSite {
    /// Its name.
    pub site: SiteId,
    /// Whether it is connected.
    pub connected: bool,
    /// Why it does not take part in the study, if it said so.
    pub declined: Option<Code>,
    /// Its hours as it writes them, `any time`, or absent where it publishes none.
    pub hours: Option<String>,
}
