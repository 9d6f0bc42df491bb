//! Why a task failed at the site. The code may leave the site, the sentence stays.

use std::process::ExitStatus;
use std::time::Duration;

use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::wire::reject::Code;
use consilium_common::worker::{FailureCode, WORKER_PROTOCOL};

use super::process::describe_exit;
use crate::session::Fault;

/// Why a task failed.
#[derive(Debug, thiserror::Error)]
pub enum WorkerFault {
    /// The program is not there, or the system refused.
    #[error("the worker {program} cannot be started: {source}")]
    Start {
        /// Which program.
        program: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// Crash, kill, or an exit without an answer.
    #[error("the worker ended before its task did: {}{}", describe_exit(status), last_words(said))]
    Died {
        /// How it ended.
        status: ExitStatus,
        /// The last line of its log.
        said: Option<String>,
    },
    /// It closed its socket and hangs on.
    #[error("the worker closed its connection without an answer")]
    Closed,
    /// No line for the study's idle timeout.
    #[error("the worker showed no progress for {} s and was killed", .0.as_secs_f64())]
    Hung(Duration),
    /// A line longer than any honest one.
    #[error("the worker wrote a line of over {WORKER_LINE_BYTES_MAX} bytes and was killed")]
    LongLine,
    /// Not a message.
    #[error("the worker broke its protocol and was killed: {0}")]
    Protocol(String),
    /// Another release.
    #[error(
        "the worker {worker} speaks protocol {theirs}, this agent speaks {WORKER_PROTOCOL}: install \
         both from the same release"
    )]
    Version {
        /// Its name.
        worker: String,
        /// What it speaks.
        theirs: u32,
    },
    /// It said so itself.
    #[error("{message} ({})", code.as_str())]
    Failed {
        /// Its code.
        code: FailureCode,
        /// Its sentence for hospital IT.
        message: String,
    },
    /// It was told to stop.
    #[error("the task was stopped")]
    Stopped,
    /// The files that the two share.
    #[error("the worker's folder {place} failed: {reason}")]
    Folder {
        /// Which file or folder.
        place: String,
        /// Why.
        reason: String,
    },
}

impl From<WorkerFault> for Fault {
    /// The code may leave the site; a crash, a hang or an end without an answer may not come again.
    fn from(fault: WorkerFault) -> Self {
        let detail = fault.to_string();
        match fault {
            WorkerFault::Died { .. } | WorkerFault::Closed | WorkerFault::Hung(_) => {
                Self::passing(Code::WorkerFailed, detail)
            }
            WorkerFault::Failed { code, .. } => Self::of_worker(code, &detail),
            WorkerFault::Version { .. } => Self::lasting(Code::NotSupported, detail),
            WorkerFault::Start { .. } | WorkerFault::Folder { .. } => {
                Self::lasting(Code::SiteFault, detail)
            }
            WorkerFault::LongLine | WorkerFault::Protocol(_) | WorkerFault::Stopped => {
                Self::lasting(Code::WorkerFailed, detail)
            }
        }
    }
}

fn last_words(said: &Option<String>) -> String {
    said.as_ref().map(|line| format!("; its last words: {line}")).unwrap_or_default()
}
