//! The end of an update's stay at the site: pushed when wanted; when its round is over, its local
//! state promoted or dropped, and erased.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::{Round, StudyId};
use consilium_common::wire::messages::{SitePhase, UpdateContext};
use consilium_common::wire::reject::Code;
use consilium_io::net::Carrier;
use consilium_io::net::transfer::{Pace, Source};

use super::gate::Recorded;
use super::local;
use super::shared::blocking;
use super::task::{Context, site_fault};
use crate::ledger::entry::Settled;
use crate::link::transfer;
use crate::session::{Fault, Retained};
use crate::state::{Record, retained};

/// For an update whose study is gone from the state folder.
const IDLE_DEFAULT: Duration = Duration::from_secs(60);
/// A promotion that failed is tried again after this, doubled each time up to [`PROMOTE_AGAIN_MAX`].
const PROMOTE_AGAIN: Duration = Duration::from_secs(1);
const PROMOTE_AGAIN_MAX: Duration = Duration::from_secs(10);

/// Pushes a retained update.
pub(super) async fn push(
    context: &Context,
    carrier: Option<Arc<dyn Carrier>>,
    wanted: &Retained,
) -> Result<(), Fault> {
    let carrier =
        carrier.ok_or_else(|| Fault::passing(Code::Idle, "there is no connection to push over"))?;
    let (record, source, idle) = open(context, wanted).await?;
    let total = wanted.bytes;
    let what = UpdateContext { study: wanted.study.clone(), round: wanted.round };
    let mut gate = Recorded::new(Arc::clone(&context.shared), record);
    let mut through = 0;
    let progress = &mut |bytes| {
        through = bytes;
        context.moved(SitePhase::Uploading, bytes, total);
    };
    let mut pace = Pace { idle, progress };
    let blob = (wanted.digest, &source);
    let pushing = transfer::push_update(&*carrier, blob, &what, &mut gate, &mut pace);
    let sent = tokio::select! {
        () = context.stop.cancelled() => {
            Err(Fault::passing(Code::Abandoned, "the agent is stopping"))
        }
        sent = pushing => sent.map_err(|error| transfer::fault(&error)),
    };
    gate.ended(through, sent.as_ref().err()).await;
    let bytes = sent?;
    tracing::info!(study = %wanted.study, round = %wanted.round, bytes, "update pushed");
    Ok(())
}

async fn open(
    context: &Context,
    wanted: &Retained,
) -> Result<(Arc<Record>, Source, Duration), Fault> {
    let shared = Arc::clone(&context.shared);
    let wanted = wanted.clone();
    blocking(move || {
        let state = shared.state();
        let record = state.retained.get(&wanted.study, wanted.round).cloned();
        let record = record.filter(|record| record.digest == wanted.digest);
        let record = record.ok_or_else(|| site_fault("this update is not retained any more"))?;
        let path = state.retained.path_of(&wanted.study, wanted.round);
        let kept = state.studies.get(&record.study_digest);
        let idle = kept
            .map_or(IDLE_DEFAULT, |kept| Duration::from_millis(kept.study.cohort.idle_timeout.0));
        drop(state);
        let source = retained::open(&path, &record).map_err(site_fault)?;
        Ok((record, source, idle))
    })
    .await?
}

/// The round is over: what the update carries becomes current if it counted, and the update is
/// erased.
pub(super) async fn settle(context: &Context, study: StudyId, round: Round, counted: bool) {
    if counted && !promote(context, &study, round).await {
        return;
    }
    tracing::info!(%study, %round, counted, "round settled, its update is erased");
    let shared = Arc::clone(&context.shared);
    let erased = blocking(move || {
        let settled = Settled { study: study.clone(), round, counted };
        if let Err(error) = shared.ledger.record(settled, shared.clock.wall()) {
            tracing::warn!(%study, %round, %error, "the end of this update's round is not in the ledger");
        }
        let mut state = shared.state();
        state.patients.settle(&study, round, counted)?;
        state.retained.erase(&study, round)
    })
    .await;
    match erased {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            tracing::warn!(%error, "the update could not be erased: at the next start")
        }
        Err(fault) => tracing::warn!("{}", fault.detail),
    }
}

/// Tries until the disk takes the local state: the next training starts from it. False if the agent
/// stops before; then the update stays, and is settled after the next start.
async fn promote(context: &Context, study: &StudyId, round: Round) -> bool {
    let mut wait = PROMOTE_AGAIN;
    loop {
        let Err(fault) = local::promote(&context.shared, study, round).await else {
            return true;
        };
        tracing::warn!(
            %study, %round,
            "the local state of an update that counted cannot be kept: {}; training waits, tried \
             again in {} s", fault.detail, wait.as_secs()
        );
        tokio::select! {
            () = context.stop.cancelled() => return false,
            () = tokio::time::sleep(wait) => {}
        }
        wait = PROMOTE_AGAIN_MAX.min(2 * wait);
    }
}
