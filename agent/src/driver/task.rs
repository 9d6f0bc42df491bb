//! One task of a round: what the plan names comes, a worker trains, scores or counts, its result
//! becomes an update that lasts. Each step can be stopped, and each can be done again with the same
//! outcome.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::{Digest, Round};
use consilium_common::study::preparation::{PREPARATION_BYTES_MAX, preparation_bytes_len};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::flat::{MODEL_HEADER_BYTES, check_model_header, model_bytes_len};
use consilium_common::wire::messages::{Plan, SitePhase, TaskKind};
use consilium_common::wire::reject::Code;
use consilium_common::worker::{Phase, Source, Task, WORKER_PROTOCOL, Work};
use consilium_io::net::Carrier;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::shared::{Shared, blocking};
use super::study::made;
use super::{Event, control, local, patients, pinned};
use crate::ledger::LedgerError;
use crate::ledger::entry::{Fetched, Part};
use crate::link::transfer;
use crate::session::{ActionId, Fault, Retained, Trained};
use crate::state::{KeptStudy, Record, retained};
use crate::update::{self, Purpose, UpdateError};
use crate::worker::{Moved, TaskFolder, Watch, run_task};

/// What a piece of work is given.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) shared: Arc<Shared>,
    pub(super) id: ActionId,
    pub(super) stop: CancellationToken,
    pub(super) events: mpsc::Sender<Event>,
}

impl Context {
    /// Reports progress. A report that finds the queue full is dropped: the next one says more.
    pub(super) fn moved(&self, phase: SitePhase, done: u64, total: u64) {
        let id = self.id;
        let _full = self.events.try_send(Event::Moved { id, phase, done, total });
    }

    fn kept(&self, plan: &Plan) -> Result<KeptStudy, Fault> {
        kept(&self.shared, plan)
    }
}

fn kept(shared: &Shared, plan: &Plan) -> Result<KeptStudy, Fault> {
    shared.kept(&plan.study_digest).ok_or_else(|| {
        let detail = format!("study {} is not kept at this site", plan.study);
        Fault::lasting(Code::UnknownStudy, detail)
    })
}

pub(super) fn idle_timeout(kept: &KeptStudy) -> Duration {
    Duration::from_millis(kept.study.cohort.idle_timeout.0)
}

/// Gets the blobs that the plan names into the cache.
pub(super) async fn fetch(
    context: &Context,
    carrier: Option<Arc<dyn Carrier>>,
    plan: &Plan,
) -> Result<(), Fault> {
    let kept = context.kept(plan)?;
    let layout = kept.study.layout();
    let layout = layout.map_err(|e| Fault::lasting(Code::NotSupported, e.to_string()))?;
    let (need, have) = (model_bytes_len(&layout), plan.base_bytes);
    if need != have {
        let detail = format!("the plan's base has {have} bytes, the study's model {need}");
        return Err(Fault::lasting(Code::WrongShape, detail));
    }
    preparation_fits(plan, &kept.study)?;
    control::fits(plan, &kept.study, &layout)?;
    let common = plan.control.and_then(|control| control.common);
    let more = [plan.preparation, common].into_iter().flatten();
    let base = [(plan.base, plan.base_bytes)];
    let blobs: Vec<_> =
        base.into_iter().chain(more.map(|blob| (blob.digest, blob.bytes))).collect();
    let all = blobs.iter().fold(0_u64, |all, (_, bytes)| all.saturating_add(*bytes));
    let mut before = 0;
    for (digest, bytes) in blobs {
        let progress = &mut |through| context.moved(SitePhase::Fetching, before + through, all);
        let blob = (digest, bytes);
        if fetch_blob(context, carrier.as_deref(), blob, &kept, progress).await? {
            enter_fetched(context, plan, blob).await?;
        }
        before += bytes;
    }
    Ok(())
}

/// Writes into the ledger what came in for a plan.
async fn enter_fetched(
    context: &Context,
    plan: &Plan,
    (digest, bytes): (Digest, u64),
) -> Result<(), Fault> {
    let part = match plan.preparation {
        _ if digest == plan.base => Part::Base,
        Some(blob) if blob.digest == digest => Part::Preparation,
        Some(_) | None => Part::Control,
    };
    let (study, round) = (plan.study.clone(), Some(plan.round));
    let fetched = Fetched { study, round, part, digest, bytes };
    let shared = Arc::clone(&context.shared);
    let recorded = blocking(move || shared.ledger.record(fetched, shared.clock.wall())).await?;
    recorded.map(drop).map_err(unrecorded)
}

/// The ledger cannot be written now: the same may go when tried again.
fn unrecorded(error: LedgerError) -> Fault {
    Fault::passing(Code::SiteFault, error.to_string())
}

/// A plan names a preparation where the study has one, of the length that it has.
fn preparation_fits(plan: &Plan, study: &Study) -> Result<(), Fault> {
    let need = study.preparation_len().map(preparation_bytes_len);
    let have = plan.preparation.map(|blob| blob.bytes);
    if have == need {
        return Ok(());
    }
    let (have, need) = (have.unwrap_or(0), need.unwrap_or(0));
    let detail = format!("the plan's preparation has {have} bytes, the study's {need}");
    Err(Fault::lasting(Code::WrongShape, detail))
}

/// Gets one blob into the cache, unless it is there; whether it had to be fetched.
async fn fetch_blob(
    context: &Context,
    carrier: Option<&dyn Carrier>,
    (digest, bytes): (Digest, u64),
    kept: &KeptStudy,
    progress: transfer::Through<'_>,
) -> Result<bool, Fault> {
    let cache = context.shared.cache.clone();
    if blocking(move || cache.holds(digest)).await?.map_err(site_fault)? {
        return Ok(false);
    }
    let carrier = carrier.ok_or_else(|| {
        Fault::passing(Code::Idle, "there is no connection to fetch what the plan names over")
    })?;
    let cache = &context.shared.cache;
    let fetching =
        transfer::fetch_blob(carrier, cache, (digest, bytes), idle_timeout(kept), progress);
    tokio::select! {
        () = context.stop.cancelled() => {
            return Err(Fault::lasting(Code::Abandoned, "the round is over"));
        }
        fetched = fetching => fetched.map_err(|error| transfer::fault(&error))?,
    }
    let cache = context.shared.cache.clone();
    blocking(move || cache.touch(digest)).await?.map_err(site_fault)?;
    Ok(true)
}

/// Runs a worker for the plan; its files come back beside what it found.
pub(super) async fn train(
    context: &Context,
    plan: &Plan,
) -> (Result<Trained, Fault>, Option<TaskFolder>) {
    match try_train(context, plan).await {
        Ok((trained, folder)) => (Ok(trained), Some(folder)),
        Err(fault) => (Err(fault), None),
    }
}

async fn try_train(context: &Context, plan: &Plan) -> Result<(Trained, TaskFolder), Fault> {
    let shared = &context.shared;
    let kept = context.kept(plan)?;
    let source = source(shared, plan)?;
    let (folder, corrected) = prepare(context, plan, &kept).await?;
    let (work, out) = match plan.task {
        TaskKind::Train => (Work::Train, Some(folder.result())),
        TaskKind::Evaluate => (Work::Evaluate, None),
        TaskKind::Prepare => (Work::Prepare, Some(folder.counts())),
    };
    let local = match work {
        Work::Prepare | Work::Check | Work::Predict | Work::Pin => None,
        Work::Train | Work::TrainAlone | Work::Evaluate => {
            local::give(shared, &kept, folder.local()).await?
        }
    };
    let task = Task {
        protocol: WORKER_PROTOCOL,
        work,
        study: folder.study(),
        source,
        device: shared.config.site.device.clone(),
        threads: shared.config.site.threads,
        seed: update::task_seed(kept.study.header.seed, plan.round, shared.site()),
        round: plan.base_version.0.saturating_add(1),
        base: (work != Work::Prepare).then(|| folder.base()),
        out,
        local,
        local_out: work.trains().then(|| folder.local_out()),
        preparation: plan.preparation.map(|_| folder.preparation()),
        correction: corrected.then(|| folder.correction()),
        census: Some(patients::census(shared, &folder)),
    };
    pinned::hold(context, plan, &kept, (&task, &folder)).await?;
    let moved = &mut |moved: Moved| context.moved(phase(moved.phase), moved.done, moved.total);
    let watch = Watch { idle: idle_timeout(&kept), stop: context.stop.clone(), moved };
    let launch = shared.programs.for_study(&kept.study);
    let outcome = run_task(&launch, &task, watch).await?;
    let path = task.out;
    Ok((Trained { outcome, path }, folder))
}

fn source(shared: &Shared, plan: &Plan) -> Result<Source, Fault> {
    shared.config.data.get(&plan.study).cloned().ok_or_else(|| {
        let detail = format!("agent.toml has no [data.{}]", plan.study);
        Fault::lasting(Code::NoData, detail)
    })
}

/// Makes the worker's folder: the study, and what the plan names; and whether steps are corrected.
async fn prepare(
    context: &Context,
    plan: &Plan,
    kept: &KeptStudy,
) -> Result<(TaskFolder, bool), Fault> {
    let shared = Arc::clone(&context.shared);
    let (base, kept, plan) = (plan.base, kept.clone(), plan.clone());
    let counts = plan.task == TaskKind::Prepare;
    let preparation = plan.preparation.map(|blob| blob.digest);
    blocking(move || {
        let layout = kept.study.layout().map_err(site_fault)?;
        let folder = TaskFolder::create(&shared.tasks, &kept.signed.bytes)?;
        if counts {
            return Ok((folder, false));
        }
        let control = control::Files::open(&shared, &plan, &layout)?;
        let variates = control.variates();
        if !variates.are_zero() {
            variates.check(&layout).map_err(update_fault)?;
            folder.write_correction(&layout, |out| variates.write_correction(&layout, out))?;
        }
        if let Some(digest) = preparation {
            let blobs = shared.cache.blobs();
            let bytes = blobs.read_verified(digest, PREPARATION_BYTES_MAX).map_err(site_fault)?;
            Preparation::read(&bytes, &kept.study)
                .map_err(|error| Fault::lasting(Code::WrongShape, error.to_string()))?;
            folder.write_preparation(&bytes)?;
        }
        let mut header = Vec::new();
        folder.write_base(&layout, |out| {
            let mut vector = AfterHeader { header: &mut header, out };
            shared.cache.blobs().copy_verified(base, &mut vector).map_err(io::Error::other)
        })?;
        check_model_header(&header, &layout)
            .map_err(|error| Fault::lasting(Code::WrongShape, error.to_string()))?;
        Ok((folder, !variates.are_zero()))
    })
    .await?
}

/// Makes the update and keeps it, synced.
pub(super) async fn encode(
    shared: Arc<Shared>,
    plan: Plan,
    trained: Trained,
    files: Option<(Round, TaskFolder)>,
) -> Result<Retained, Fault> {
    blocking(move || {
        let record = make_update(&shared, &plan, &trained, files)?;
        // An offer tells digest and size: in the ledger first.
        if let Err(error) = shared.ledger.record(made(&record, Some(&plan)), shared.clock.wall()) {
            shared.state().retained.erase(&plan.study, plan.round).map_err(site_fault)?;
            return Err(unrecorded(error));
        }
        let record = shared.state().retained.insert(record);
        tracing::info!(
            study = %plan.study, round = %plan.round, bytes = record.bytes, norm = record.norm,
            control_norm = record.control_norm, clipped = record.clipped, "update retained"
        );
        Ok(Retained {
            study: plan.study,
            round: plan.round,
            digest: record.digest,
            bytes: record.bytes,
        })
    })
    .await?
}

fn make_update(
    shared: &Shared,
    plan: &Plan,
    trained: &Trained,
    files: Option<(Round, TaskFolder)>,
) -> Result<Record, Fault> {
    let kept = kept(shared, plan)?;
    let layout = kept.study.layout().map_err(site_fault)?;
    let purpose = Purpose { study: &kept.study, plan, site: shared.site() };
    let path = shared.state().retained.path_of(&plan.study, plan.round);
    let write = |update: update::Encoding<'_>| {
        retained::write(&path, |out| update.write(out)).map_err(site_fault)
    };
    let folder = files
        .filter(|(round, _)| *round == plan.round)
        .map(|(_, folder)| folder)
        .ok_or_else(|| Fault::lasting(Code::SiteFault, "the worker's result is gone"))?;
    patients::remember(shared, plan, &folder)?;
    if plan.task == TaskKind::Evaluate {
        let update = update::evaluation(purpose, &layout, &trained.outcome);
        return write(update.map_err(update_fault)?);
    }
    if plan.task == TaskKind::Prepare {
        let counts = folder.open_counts()?;
        let update = update::preparation(purpose, &layout, &counts);
        return write(update.map_err(update_fault)?);
    }
    let base = shared.cache.blobs().open_file(plan.base).map_err(site_fault)?;
    let result = folder.open_result()?;
    let control = control::Files::open(shared, plan, &layout)?;
    let (variates, outcome) = (control.variates(), &trained.outcome);
    let update = update::training(purpose, &layout, &base, &result, variates, outcome);
    let update = update.map_err(update_fault)?;
    let left = local::Left::find(shared, &kept, &folder)?;
    let with_local = |out: &mut dyn Write| {
        let record = update.write(out)?;
        Ok(Record { local: left.append(&update, out)?, ..record })
    };
    retained::write(&path, with_local).map_err(site_fault)
}

/// Passes a model's vector on and keeps what comes before it.
struct AfterHeader<'a> {
    header: &'a mut Vec<u8>,
    out: &'a mut dyn Write,
}

impl Write for AfterHeader<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let missing = MODEL_HEADER_BYTES.saturating_sub(self.header.len());
        let (header, vector) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend_from_slice(header);
        self.out.write_all(vector)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

fn update_fault(error: UpdateError) -> Fault {
    let code = match error {
        UpdateError::Delta(consilium_common::update::delta::DeltaError::NotFinite(_)) => {
            Code::Diverged
        }
        UpdateError::Change => Code::Diverged,
        UpdateError::NoExamples => Code::TooFewExamples,
        UpdateError::Common => Code::WrongShape,
        UpdateError::OtherBase { .. } | UpdateError::Own { .. } | UpdateError::Io(_) => {
            Code::SiteFault
        }
        UpdateError::Delta(_)
        | UpdateError::Study(_)
        | UpdateError::Base(_)
        | UpdateError::Result(_)
        | UpdateError::Counts { .. }
        | UpdateError::Count { .. }
        | UpdateError::Nothing(_)
        | UpdateError::Steps(_)
        | UpdateError::Metrics { .. } => Code::WorkerFailed,
    };
    Fault::lasting(code, error.to_string())
}

pub(super) fn site_fault(error: impl std::fmt::Display) -> Fault {
    Fault::lasting(Code::SiteFault, error.to_string())
}

/// A worker's phase as the coordinator hears it.
pub(super) fn phase(phase: Phase) -> SitePhase {
    match phase {
        Phase::Loading => SitePhase::Loading,
        Phase::Scoring => SitePhase::Scoring,
        Phase::Training => SitePhase::Training,
        Phase::Saving => SitePhase::Encoding,
    }
}
