//! The protocol between the agent's daemon and its worker, version 1: JSON lines over a socket pair.
//!
//! The daemon starts a worker with its end of the pair as file descriptor 0 (read and written).
//! The daemon sends one [`Request::Task`] and may send [`Request::Stop`]. The worker answers with
//! [`Reply::Hello`], any number of [`Reply::Progress`], and one of [`Reply::Done`] or
//! [`Reply::Failed`]; then it exits. A closed socket means stop, on both sides. Tensors travel as
//! safetensors files by path, in a folder that the two alone share. Its standard error is log text.
//!
//! *Local state* is what a family keeps at the site (DESIGN.md §6: user embeddings, personal heads):
//! one file of the worker's own format, at most [`LOCAL_BYTES_MAX`](crate::limits::LOCAL_BYTES_MAX)
//! bytes, which the daemon stores unread and which never leaves the site. `train` starts from `local`
//! and writes the next one to `local_out`, whole or not at all; if it writes none, the present one
//! stays. The next becomes current when the roll call says that this round's update counted.
//! `evaluate` reads `local` and changes nothing. A worker that cannot use the file it is given answers
//! `model-mismatch`.
//!
//! `prepare` counts what the study prepares (`study::preparation`). Its result is not safetensors but
//! little-endian i32, one a sum, in the study's order, each within ±2^30. For `train` and `evaluate`
//! of such a study the task names the file of the preparation, verified: `consilium/preparation/1`,
//! the 32 bytes of its terms' digest, the number of sites as little-endian u32, then the sums as
//! little-endian i64.
//!
//! Under SCAFFOLD (`update::control`) a step is w − η·(g + d), g being the batch's gradient, shortened if
//! the study says so, and d the numbers of the task's `correction`, or 0 without it. Tensors that stay at
//! the site have none. The answer then has Σ η of all steps in `steps`.
//!
//! A source with `exclude` names patients who do not take part. The worker reads that file at each task but
//! `predict`, opens no file of their records and takes none of them on; where it cannot know who they are it
//! answers `opt-out-unreadable` and does nothing else. With `census` it leaves whose records it used
//! ([`patients`]): for `train` and `train-alone` those trained on and those that scored, for `evaluate` those
//! that scored, for `prepare` those counted.
//!
//! `pin` takes the prints of the source's files under the key of `census`, to `out` ([`prints::Prints`]).
//!
//! `predict` reads `source.path` without labels, picks and hold-outs, and writes to `out` a line of JSON
//! for each record ([`Prediction`]).
//!
//! The same protocol is the door for a hospital's own trainer, so it is documented to be spoken
//! from any language: unknown fields are ignored by both sides, unknown kinds are an error.

pub mod patients;
pub mod prediction;
pub mod prints;
pub mod source;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use patients::Census;
pub use prediction::Prediction;
pub use source::{Encoding, Format, Holdout, Part, Source, SourceKind, Split, Where};

use crate::limits::WORKER_LINE_BYTES_MAX;
use crate::update::words::Metrics;

/// The version of this protocol.
pub const WORKER_PROTOCOL: u32 = 1;

/// Daemon → worker.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Request {
    /// Do this.
    Task(Box<Task>),
    /// Stop between two batches and exit.
    Stop,
}

/// One piece of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// [`WORKER_PROTOCOL`] of the daemon.
    pub protocol: u32,
    /// What to do.
    pub work: Work,
    /// The resolved study (TOML), as a file.
    pub study: PathBuf,
    /// The site's data for it.
    pub source: Source,
    /// `auto`, `cpu` or `cuda:N`.
    pub device: String,
    /// Threads of the tensor library.
    pub threads: u32,
    /// Seed of this task: order of batches, rounding, and whatever else is random.
    pub seed: u64,
    /// Round of the study that this task is part of, from 1: one more than the versions that were
    /// committed. 0 outside of a study's rounds.
    #[serde(default)]
    pub round: u64,
    /// The model to start from or to score (safetensors). Absent for `check` and `prepare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<PathBuf>,
    /// Where the trained model goes (safetensors), the counts of `prepare` (little-endian i32), the lines of
    /// `predict`, or the prints of `pin`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out: Option<PathBuf>,
    /// The site's local state of this study: what a worker wrote to `local_out` in the last of this
    /// site's rounds that counted. Absent before the first, and for `check` and `prepare`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<PathBuf>,
    /// Where the next local state goes. Present where a model comes of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local_out: Option<PathBuf>,
    /// The study's preparation, where it has one and the task trains, scores or predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preparation: Option<PathBuf>,
    /// What SCAFFOLD adds to every gradient of this training: safetensors like the base, zero in frozen
    /// tensors. Absent where it is zero everywhere, and under any other strategy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub correction: Option<PathBuf>,
    /// Where to leave whose records were used, where the site wants to know. Absent for `check` and
    /// `predict`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub census: Option<Census>,
}

/// What a task asks of the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Work {
    /// Score the base on the hold-out, then train from it.
    Train,
    /// Train from the base, then score what came of it: where nobody averages, that is the next version.
    TrainAlone,
    /// Score the base on the hold-out.
    Evaluate,
    /// Hold the data against the study's contract; nothing trains.
    Check,
    /// Count what the study prepares; nothing trains.
    Prepare,
    /// Say what the base makes of each record; nothing trains.
    Predict,
    /// Take the prints of the source's files ([`prints`]); no record is looked at.
    Pin,
}

impl Work {
    /// Whether a model comes of it.
    #[must_use]
    pub fn trains(self) -> bool {
        matches!(self, Self::Train | Self::TrainAlone)
    }
}

/// Worker → daemon.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Reply {
    /// First line: who this is.
    Hello {
        /// [`WORKER_PROTOCOL`] of the worker.
        protocol: u32,
        /// Name and version, such as `consilium-worker 0.1.0`.
        worker: String,
        /// Where it computes, such as `cpu` or `cuda:0`.
        device: String,
    },
    /// Something moved; also sent while loading and warming up.
    Progress {
        /// What is going on.
        phase: Phase,
        /// Batches (or records) done in this phase.
        done: u64,
        /// Of how many; 0 if unknown.
        total: u64,
        /// Mean training loss since the last line, where training.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        loss: Option<f64>,
    },
    /// The task is finished.
    Done(Outcome),
    /// The task cannot be finished.
    Failed {
        /// Stable code, such as `data-missing`.
        code: FailureCode,
        /// One sentence for hospital IT. Stays at the site.
        message: String,
    },
}

/// What a finished task found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// Training records used (train), found (check) or counted (prepare); records that were read
    /// (predict); files (pin).
    pub examples: u64,
    /// Hold-out records.
    pub holdout: u64,
    /// Metric sums of the base on the hold-out (train, evaluate).
    #[serde(default)]
    pub metrics: Metrics,
    /// Mean training loss of the last epoch (train).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_loss: Option<f64>,
    /// Seconds that the passes over the records took (train).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub train_seconds: Option<f64>,
    /// The sizes of all steps that were taken, added up (train, under SCAFFOLD).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<f64>,
    /// What `check` found, a line each; stays at the site.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<String>,
}

/// What a worker is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Reading records.
    Loading,
    /// Scoring the base on the hold-out, or predicting.
    Scoring,
    /// Training.
    Training,
    /// Writing the result.
    Saving,
}

/// Why a task cannot be finished. The code alone may leave the site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureCode {
    /// The path of the data does not exist or cannot be read.
    DataMissing,
    /// The data is there but damaged or not of the study's contract.
    DataInvalid,
    /// Fewer records than the study asks for.
    TooFewExamples,
    /// It cannot be known whose records must not be read: the list of excluded patients is not there or is
    /// none, or the records do not say whose they are.
    OptOutUnreadable,
    /// The base or the study does not fit this worker.
    ModelMismatch,
    /// The device asked for is not there.
    DeviceMissing,
    /// Training gave NaN or infinity.
    Diverged,
    /// The tensor library failed, or memory ran out.
    Internal,
    /// A stop was asked for.
    Stopped,
}

impl FailureCode {
    /// Whether starting the task again may help.
    #[must_use]
    pub fn retry_may_help(self) -> bool {
        matches!(self, Self::Internal)
    }

    /// The stable code as text.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DataMissing => "data-missing",
            Self::DataInvalid => "data-invalid",
            Self::TooFewExamples => "too-few-examples",
            Self::OptOutUnreadable => "opt-out-unreadable",
            Self::ModelMismatch => "model-mismatch",
            Self::DeviceMissing => "device-missing",
            Self::Diverged => "diverged",
            Self::Internal => "internal",
            Self::Stopped => "stopped",
        }
    }
}

/// Why a line was refused.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// Longer than any honest line.
    #[error("a line of the worker protocol has over {WORKER_LINE_BYTES_MAX} bytes")]
    TooLong,
    /// Not a message.
    #[error("not a line of the worker protocol: {0}")]
    Json(#[from] serde_json::Error),
}

/// One message as a line with its line feed.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn to_line<T: Serialize>(message: &T) -> Result<Vec<u8>, LineError> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    if line.len() > WORKER_LINE_BYTES_MAX { Err(LineError::TooLong) } else { Ok(line) }
}

/// Reads one line.
///
/// # Errors
/// Too long, or not a message.
pub fn from_line<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, LineError> {
    if line.len() > WORKER_LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    Ok(serde_json::from_slice(line)?)
}
