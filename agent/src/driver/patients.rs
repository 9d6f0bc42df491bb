//! Whose records a round used, from the worker that read them into the state folder.

use consilium_common::wire::messages::Plan;
use consilium_common::worker::Census;

use super::shared::Shared;
use super::task::site_fault;
use crate::session::Fault;
use crate::state::RoundUse;
use crate::worker::TaskFolder;

/// Where a worker leaves whose records it used.
pub(super) fn census(shared: &Shared, folder: &TaskFolder) -> Census {
    let key = shared.state().patients.key_path();
    Census { key, used: folder.patients_used(), scored: folder.patients_scored() }
}

/// Keeps whose records this round used, before there is an update that could leave.
pub(super) fn remember(shared: &Shared, plan: &Plan, folder: &TaskFolder) -> Result<(), Fault> {
    let round = RoundUse {
        round: plan.round,
        study_digest: plan.study_digest,
        task: plan.task,
        base: plan.base_version,
        used: None,
        scored: None,
        counted: None,
    };
    let left = census(shared, folder);
    shared.state().patients.begin(&plan.study, round, &left).map_err(site_fault)
}
