//! The log's signed head beside it (`consilium_io::disk::checkpoint`), and the thread that writes it
//! off everyone's way.

use std::path::{Path, PathBuf};

use consilium_common::audit::Checkpoint;
use consilium_common::signed::{PublicKey, SecretKey};
use consilium_io::IoError;
use consilium_io::disk::Latest;
use consilium_io::disk::checkpoint::{self, CheckpointFileError};

use super::StoreError;
use crate::limits::CHECKPOINT_INTERVAL;

/// Writes the newest checkpoint from time to time, and the last one when closed. The records that a
/// checkpoint covers must be durable.
pub type Writer = Latest<Checkpoint>;

/// Reads the checkpoint at `path`; `None` if there is none.
///
/// # Errors
/// It is not a checkpoint of `origin` signed by `key`, or cannot be read.
pub fn read(path: &Path, origin: &str, key: &PublicKey) -> Result<Option<Checkpoint>, StoreError> {
    checkpoint::read(path, origin, key).map_err(|error| match error {
        CheckpointFileError::Io(error) => error.into(),
        CheckpointFileError::Refused { path, reason } => StoreError::Checkpoint { path, reason },
    })
}

/// Starts the thread that writes checkpoints to `path`, signed by `key`.
///
/// # Errors
/// The system gives no thread.
pub fn writer(path: PathBuf, key: SecretKey) -> Result<Writer, IoError> {
    let at = path.clone();
    Latest::start("checkpoint", &at, CHECKPOINT_INTERVAL, move |head: Checkpoint| {
        checkpoint::write(&path, &head, &key)
    })
}
