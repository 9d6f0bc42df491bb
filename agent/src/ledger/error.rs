//! Why the ledger cannot be used. Whatever it is, nothing is sent meanwhile.

use std::path::PathBuf;

use consilium_common::ids::StudyId;
use consilium_io::IoError;
use consilium_io::disk::LogError;
use consilium_io::disk::checkpoint::CheckpointFileError;

/// Why the ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Its file.
    #[error("the site's ledger: {0}")]
    Log(#[from] LogError),
    /// A folder, or a file beside it.
    #[error("the site's ledger: {0}")]
    Io(#[from] IoError),
    /// Its signed head.
    #[error(
        "the site's ledger: {0}. Put back the site's own key, or bring the folder back from a copy. If the \
         site was enrolled anew under another key: keep this state folder as an archive, and begin an empty one"
    )]
    Head(#[from] CheckpointFileError),
    /// The head is gone.
    #[error(
        "the site's ledger has {records} records and no signed head ({} is missing), so nothing \
         tells whether records are missing from its end. Nothing was changed. Bring the folder back \
         from a copy; to begin a new ledger, move the whole folder aside and keep it", path.display()
    )]
    NoHead {
        /// Where it should be.
        path: PathBuf,
        /// Records in the ledger.
        records: u64,
    },
    /// The records are others than those that the head was signed over.
    #[error(
        "the first {size} records of the site's ledger are not those that its head was signed over: \
         the ledger was changed or exchanged. Nothing was changed now. Bring the folder back from a \
         copy; keep what is here aside"
    )]
    OtherLedger {
        /// Records that the head covers.
        size: u64,
    },
    /// A record did not become durable.
    #[error("the site's ledger cannot be written, and nothing leaves that is not in it: {0}")]
    Unwritten(LogError),
    /// A value that JSON cannot hold.
    #[error("a record of the site's ledger cannot be written as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// Nobody has accepted the study, as far as the ledger goes.
    #[error("the site's ledger holds no acceptance of study {0} that is in force: nothing is sent")]
    NotAccepted(StudyId),
    /// There is none.
    #[error(
        "there is no ledger in {} yet: it begins when `consilium-agent run` first runs on this \
         state folder", .0.display()
    )]
    Absent(PathBuf),
    /// The mark beside it.
    #[error(
        "{} does not fit the site's ledger: {what}. It holds nothing of its own: remove it, and the next \
         start makes it again", path.display()
    )]
    Mark {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// An exported ledger that cannot be used.
    #[error("line {line} of {}: {what}", path.display())]
    Export {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: u64,
        /// What is wrong.
        what: String,
    },
}
