//! A whole federation on one machine, as real processes: what `consilium demo`, the end-to-end
//! tests and the benches run.
//!
//! [`Programs`] finds the binaries, [`Process`] starts one and waits until it says that it is ready
//! (sd_notify), [`Federation`] lays out the folders that people would (CA, bundles, consilium.toml,
//! an agent.toml a site), and runs the commands that people would. Nothing in here is a short cut
//! past the product: what works here works on ten machines.
//!
//! [`made`] is the exception: a history without processes, for measurements and tests of audits.

mod federation;
pub mod made;
mod ports;
mod process;
mod programs;

pub use federation::{Federation, Policy, SiteSpec};
pub use process::{Process, Starting};
pub use programs::Programs;

use std::io;
use std::path::PathBuf;

/// Why a local federation cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// A program is not where it should be.
    #[error("{program} is not at {path}: build it (cargo build) or say where it is")]
    NoProgram {
        /// Which.
        program: &'static str,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// A file or folder.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// The system's word.
        source: io::Error,
    },
    /// A command failed.
    #[error("`{command}` ended with {status}: {output}")]
    Command {
        /// As a person would type it.
        command: String,
        /// Exit code or signal.
        status: String,
        /// What it said.
        output: String,
    },
    /// A daemon went, or never got ready.
    #[error("{name} {what}; its log {log} ends with:\n{tail}")]
    NotReady {
        /// Which daemon.
        name: String,
        /// What happened.
        what: String,
        /// Its log.
        log: PathBuf,
        /// The last lines.
        tail: String,
    },
    /// Something did not come in time.
    #[error("waited {seconds} s for {what}")]
    Late {
        /// What.
        what: String,
        /// How long.
        seconds: u64,
    },
    /// An answer that is not the JSON it should be.
    #[error("`{command}` answered {output:?}, which is not the JSON that was expected")]
    Answer {
        /// The command.
        command: String,
        /// Its output.
        output: String,
    },
}

impl LocalError {
    fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
