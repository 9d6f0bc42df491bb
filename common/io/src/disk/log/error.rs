//! Why a log was not opened, read or written. Damage never repairs itself silently: it stops the
//! start and says where it is.

use std::path::{Path, PathBuf};

use crate::error::IoError;

/// Why a log was refused.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The file does not start as a log does.
    #[error(
        "{} is not a Consilium log, or its first bytes are damaged or gone. Nothing was changed. \
         Bring the state folder back from a copy",
        path.display()
    )]
    NotALog {
        /// The file.
        path: PathBuf,
    },
    /// Another version of the program wrote the file.
    #[error(
        "{} has log format {found}, this program reads format {known}: start the version that \
         wrote it. If none but this one ever ran here, the file's first bytes are damaged: bring the \
         state folder back from a copy. Nothing was changed",
        path.display()
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Its format.
        found: u16,
        /// What this program reads.
        known: u16,
    },
    /// A record is there but is not what was written.
    #[error(
        "record {index} at byte {offset} of {} is damaged: {what}. Nothing was changed. Bring \
         the state folder back from a copy; keep what is here aside, it may hold newer records",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which record, counted from 0.
        index: u64,
        /// Where it starts in the file.
        offset: u64,
        /// What is wrong, in a few words.
        what: String,
    },
    /// There is no file, although records are known to have been in it.
    #[error(
        "{} is missing, but {known} records were synced to it: all of them were lost. Nothing was \
         changed. Bring the state folder back from a copy",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
        /// Records that are known to have been synced.
        known: u64,
    },
    /// Records that are known to have been synced are missing from the end.
    #[error(
        "{} ends after {records} whole records (byte {offset}), but {known} were synced to it: \
         records were lost. Nothing was changed. Keep what is here aside (it may hold what no copy \
         does), and bring the state folder back from a copy",
        path.display()
    )]
    Short {
        /// The file.
        path: PathBuf,
        /// Whole records in the file.
        records: u64,
        /// Where they end.
        offset: u64,
        /// Records that are known to have been synced.
        known: u64,
    },
    /// The caller's visitor refused a record.
    #[error("record {index} at byte {offset} of {} cannot be used: {reason}", path.display())]
    Visit {
        /// The file.
        path: PathBuf,
        /// Which record, counted from 0.
        index: u64,
        /// Where it starts in the file.
        offset: u64,
        /// The visitor's words.
        reason: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A payload longer than any record may be.
    #[error("a record of {have} bytes for {}: at most {max} are written", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// The payload's size in bytes.
        have: usize,
        /// The bound.
        max: usize,
    },
    /// No record starts at the offset that was asked for.
    #[error("{} has no record at byte {offset}", path.display())]
    NoRecord {
        /// The file.
        path: PathBuf,
        /// The offset.
        offset: u64,
    },
    /// An earlier write or sync failed.
    #[error(
        "an earlier write to {} failed, so what it holds is known only after a restart: see to \
         the disk, then restart this program, and the machine first if the disk itself failed",
        path.display()
    )]
    Poisoned {
        /// The file.
        path: PathBuf,
    },
}

impl LogError {
    pub(super) fn damaged(path: &Path, index: u64, offset: u64, what: String) -> Self {
        Self::Damaged { path: path.to_owned(), index, offset, what }
    }

    pub(super) fn visit(
        path: &Path,
        index: u64,
        offset: u64,
        reason: Box<dyn std::error::Error + Send + Sync>,
    ) -> Self {
        Self::Visit { path: path.to_owned(), index, offset, reason }
    }
}
