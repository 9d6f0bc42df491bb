//! A place where commands run single tasks in a worker, as the daemon would, with no daemon.

use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::study::Study;
use consilium_common::worker::{Census, Outcome, Source, Task, WORKER_PROTOCOL, Work};
use consilium_io::disk::read_text;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::Failure;
use crate::state::local::left_at;
use crate::worker::{Moved, Programs, TaskFolder, Watch, WorkerFault, run_task};

/// Programs, device and a folder that goes when the command ends.
#[derive(Debug)]
pub(super) struct Workbench {
    folder: TempDir,
    programs: Programs,
    device: String,
    threads: u32,
    stop: CancellationToken,
}

/// One task for the workbench.
#[derive(Debug)]
pub(super) struct Job<'a> {
    pub(super) work: Work,
    pub(super) study: &'a Study,
    pub(super) source: &'a Source,
    pub(super) seed: u64,
    /// Counted from 1; 0 where nothing trains.
    pub(super) round: u64,
    /// The vector to start from, where the work has one.
    pub(super) base: Option<&'a [f32]>,
    /// What [`Workbench::keep_local`] kept, where the work has one.
    pub(super) local: Option<&'a Path>,
    /// The study's preparation, where it has one and the work needs it.
    pub(super) preparation: Option<&'a [u8]>,
    /// The file with the key of prints, where the work takes them.
    pub(super) key: Option<&'a Path>,
}

impl Workbench {
    /// Sets the bench up; from now on an interrupt stops the worker first.
    pub(super) fn new(programs: Programs, device: String, threads: u32) -> Result<Self, Failure> {
        let folder = tempfile::Builder::new()
            .prefix("consilium-agent-")
            .tempdir()
            .map_err(|error| Failure::Failed(format!("no temporary folder: {error}")))?;
        let stop = CancellationToken::new();
        let told = stop.clone();
        tokio::spawn(async move {
            if tokio::signal::ctrl_c().await.is_ok() {
                told.cancel();
            }
        });
        Ok(Self { folder, programs, device, threads, stop })
    }

    /// Runs a job; the folder holds the result of a training, the counts, or the predictions.
    pub(super) async fn run(
        &self,
        job: Job<'_>,
        moved: &mut (dyn FnMut(Moved) + Send),
    ) -> Result<(Outcome, TaskFolder), WorkerFault> {
        let unwritable = |error: &dyn std::fmt::Display| WorkerFault::Folder {
            place: "study.toml".to_owned(),
            reason: error.to_string(),
        };
        let text = job.study.to_text().map_err(|error| unwritable(&error))?;
        let files = TaskFolder::create(self.folder.path(), text.as_bytes())?;
        if let Some(base) = job.base {
            let layout = job.study.layout().map_err(|error| unwritable(&error))?;
            files.write_vector(&layout, base)?;
        }
        if let Some(preparation) = job.preparation {
            files.write_preparation(preparation)?;
        }
        let task = Task {
            protocol: WORKER_PROTOCOL,
            work: job.work,
            study: files.study(),
            source: job.source.clone(),
            device: self.device.clone(),
            threads: self.threads,
            seed: job.seed,
            round: job.round,
            base: job.base.map(|_| files.base()),
            out: match job.work {
                Work::Train | Work::TrainAlone => Some(files.result()),
                Work::Prepare => Some(files.counts()),
                Work::Predict => Some(files.predictions()),
                Work::Pin => Some(files.prints()),
                Work::Evaluate | Work::Check => None,
            },
            local: job.local.map(Path::to_owned),
            local_out: job.work.trains().then(|| files.local_out()),
            preparation: job.preparation.map(|_| files.preparation()),
            // One site alone: c is its own variate.
            correction: None,
            // What is tried out here goes into no version.
            census: job.key.map(|key| Census {
                key: key.to_owned(),
                used: files.patients_used(),
                scored: files.patients_scored(),
            }),
        };
        let watch = Watch {
            idle: Duration::from_millis(job.study.cohort.idle_timeout.0),
            stop: self.stop.clone(),
            moved,
        };
        let outcome = run_task(&self.programs.for_study(job.study), &task, watch).await?;
        Ok((outcome, files))
    }

    /// Where a local state for the jobs to come lies, or is put.
    pub(super) fn local_copy(&self) -> PathBuf {
        self.folder.path().join("local.state")
    }

    /// Whether an interrupt has stopped it.
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.is_cancelled()
    }

    /// Keeps the local state that a training left for the jobs after it; none if it left none.
    pub(super) fn keep_local(&self, files: &TaskFolder) -> std::io::Result<Option<PathBuf>> {
        let left = files.local_out();
        if left_at(&left)?.is_none() {
            return Ok(None);
        }
        let kept = self.local_copy();
        std::fs::rename(left, &kept)?;
        Ok(Some(kept))
    }
}

/// Reads a study from a file, draft or resolved.
pub(super) fn read_study(path: &Path) -> Result<Study, Failure> {
    let text = read_text(path, STUDY_BYTES_MAX).map_err(Failure::usage)?;
    let study = Study::read(&text, &path.display().to_string()).map_err(Failure::usage)?;
    if study.initial.is_some() {
        return Ok(study);
    }
    study.resolve().map_err(Failure::usage)
}

/// The programs that train: one that is named, or found as the daemon does.
pub(super) fn programs(worker: Option<PathBuf>) -> Result<Programs, Failure> {
    Programs::find(worker.as_deref()).map_err(Failure::failed)
}
