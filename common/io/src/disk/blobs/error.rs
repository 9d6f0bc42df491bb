//! Why a blob was not read or written.

use std::path::PathBuf;

use consilium_common::ids::Digest;

use crate::error::IoError;

/// Why a blob was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The folder's format file is not one this program knows.
    #[error(
        "{} is not a blob folder of format 1 ({found}): start the version that wrote it, or a \
         newer one",
        path.display()
    )]
    Format {
        /// The folder.
        path: PathBuf,
        /// What stands there instead.
        found: String,
    },
    /// No such blob.
    #[error("blob {0} is not here")]
    Missing(Digest),
    /// The content is not what its name says.
    #[error("blob {expected} has other content (digest {found}): it must be had again")]
    Digest {
        /// Its name.
        expected: Digest,
        /// The digest of its bytes.
        found: Digest,
    },
    /// Larger than its reader allows.
    #[error("a blob of {have} bytes: at most {max} are taken here")]
    TooLarge {
        /// Its size, or how much of it was offered so far.
        have: u64,
        /// The bound.
        max: u64,
    },
    /// Two receivers of one blob at the same time.
    #[error("blob {0} is being received already")]
    Busy(Digest),
    /// An earlier write of this blob failed.
    #[error("an earlier write of blob {0} failed: begin again")]
    Broken(Digest),
}
