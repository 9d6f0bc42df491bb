//! The site's data against what a person approved of it (`data pin`), before each task of a study whose section
//! says `on_change`: a worker looks at every file once more, and what differs is refused, or noted in the ledger.

use std::sync::Arc;

use consilium_common::wire::messages::Plan;
use consilium_common::wire::reject::Code;
use consilium_common::worker::prints::{Difference, Prints};
use consilium_common::worker::source::OnChange;
use consilium_common::worker::{Source, Task, Work};

use super::shared::{Shared, blocking};
use super::task::{Context, idle_timeout, phase, site_fault};
use crate::ledger::entry::DataChanged;
use crate::session::Fault;
use crate::state::{KeptStudy, pins};
use crate::worker::{Moved, TaskFolder, Watch, run_task};

/// Holds the files of `task` against the pin, if its source says so. Fails where they differ and the site
/// refuses that, and where there is nothing to hold them against.
pub(super) async fn hold(
    context: &Context,
    plan: &Plan,
    kept: &KeptStudy,
    (task, folder): (&Task, &TaskFolder),
) -> Result<(), Fault> {
    let Some(on_change) = task.source.on_change else { return Ok(()) };
    let shared = &context.shared;
    let (state, study) = (shared.config.site.state.clone(), plan.study.clone());
    let pin = blocking(move || pins::read(&state, &study)).await?.map_err(site_fault)?;
    let Some((_, pinned)) = pin else {
        let study = &plan.study;
        let detail = format!(
            "[data.{study}] says `on_change`, and nobody has approved its data: `consilium-agent data pin {study}`"
        );
        return Err(Fault::lasting(Code::DataChanged, detail));
    };
    let now = prints(context, kept, (task, folder)).await?;
    let difference = pinned.difference(&now);
    if difference.is_none() {
        return Ok(());
    }
    let study = &plan.study;
    match on_change {
        OnChange::Refuse => {
            let detail = format!(
                "the data of {study} is not what was approved: {difference}; if that is meant, approve it: \
                 `consilium-agent data pin {study}`"
            );
            Err(Fault::lasting(Code::DataChanged, detail))
        }
        OnChange::Note => {
            tracing::warn!(%study, round = %plan.round, "not the data that was approved: {difference}");
            note(shared, plan, difference).await
        }
    }
}

/// A worker's look at every file that is not an excluded patient's.
async fn prints(
    context: &Context,
    kept: &KeptStudy,
    (task, folder): (&Task, &TaskFolder),
) -> Result<Prints, Fault> {
    let look = Task {
        work: Work::Pin,
        base: None,
        out: Some(folder.prints()),
        local: None,
        local_out: None,
        preparation: None,
        correction: None,
        source: Source::clone(&task.source),
        ..task.clone()
    };
    let moved = &mut |moved: Moved| context.moved(phase(moved.phase), moved.done, moved.total);
    let watch = Watch { idle: idle_timeout(kept), stop: context.stop.clone(), moved };
    run_task(&context.shared.programs.for_study(&kept.study), &look, watch).await?;
    let path = folder.prints();
    blocking(move || {
        let bytes = std::fs::read(&path).map_err(site_fault)?;
        Prints::read(&bytes).map_err(|error| Fault::lasting(Code::WorkerFailed, error.to_string()))
    })
    .await?
}

async fn note(shared: &Arc<Shared>, plan: &Plan, difference: Difference) -> Result<(), Fault> {
    let Difference { changed, added, missing } = difference;
    let (study, round) = (plan.study.clone(), plan.round);
    let entry = DataChanged { study, round, changed, added, missing };
    let shared = Arc::clone(shared);
    let recorded = blocking(move || shared.ledger.record(entry, shared.clock.wall())).await?;
    recorded.map(drop).map_err(|error| Fault::passing(Code::SiteFault, error.to_string()))
}
