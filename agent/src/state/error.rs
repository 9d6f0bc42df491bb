//! Why the state folder cannot be used.

use std::path::PathBuf;

use consilium_certs::signed_file::SignedFileError;
use consilium_io::IoError;
use consilium_io::disk::{BlobError, LockError};

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another process has it.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The cache.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A study or its signatures.
    #[error(transparent)]
    Signed(#[from] SignedFileError),
    /// Written by a newer release.
    #[error(
        "{path} is a {what} in format {have}, this release reads format {known}: start the \
         release that wrote it, what this file holds is nowhere else"
    )]
    NewerFormat {
        /// The file.
        path: PathBuf,
        /// What kind of file it is.
        what: &'static str,
        /// Its format.
        have: u16,
        /// The one that is read here.
        known: u16,
    },
    /// The record cannot be written as JSON.
    #[error("cannot write {path}: {reason}")]
    Unwritable {
        /// The file.
        path: PathBuf,
        /// What the serialiser said.
        reason: String,
    },
    /// The bytes on the disk are not those that were written.
    #[error("{path} was damaged on the disk: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        reason: String,
    },
}
