//! Where a blob's bytes come from when this side sends.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use consilium_common::ids::Digest;
use consilium_common::limits::TRANSFER_CHUNK_BYTES;

use super::TransferError;
use crate::disk::{BlobError, Blobs};
use crate::error::IoError;

/// A blob to be sent. Cheap to clone.
#[derive(Debug, Clone)]
pub enum Source {
    /// In memory.
    Bytes(Bytes),
    /// A file, read by position.
    File {
        /// The open file: it stays readable if the blob is removed meanwhile.
        file: Arc<File>,
        /// Its path, for errors.
        path: PathBuf,
        /// Its length in bytes.
        length: u64,
    },
}

impl Source {
    /// The blob `digest` of a folder.
    ///
    /// # Errors
    /// It is not there, or the system refused.
    pub async fn blob(blobs: &Blobs, digest: Digest) -> Result<Self, TransferError> {
        let blobs = blobs.clone();
        let path = blobs.path_of(digest);
        let opened = blocking(move || {
            let file = blobs.open_file(digest)?;
            let length = file.metadata().map_err(IoError::at("inspect", &path))?.len();
            Ok::<_, BlobError>(Self::File { file: Arc::new(file), path, length })
        });
        Ok(opened.await??)
    }

    /// Bytes of the blob.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// The next bytes from `offset` on, at most a chunk, in `buffer`.
    pub(super) async fn read(
        &self,
        offset: u64,
        mut buffer: Vec<u8>,
    ) -> Result<Vec<u8>, TransferError> {
        let left = usize::try_from(self.length().saturating_sub(offset)).unwrap_or(usize::MAX);
        let want = left.min(TRANSFER_CHUNK_BYTES);
        match self {
            Self::Bytes(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(want);
                buffer.clear();
                buffer.extend_from_slice(bytes.get(start..end).unwrap_or_default());
                Ok(buffer)
            }
            Self::File { file, path, .. } => {
                let (file, path) = (Arc::clone(file), path.clone());
                let read = blocking(move || {
                    buffer.resize(want, 0);
                    file.read_exact_at(&mut buffer, offset).map_err(IoError::at("read", &path))?;
                    Ok::<_, IoError>(buffer)
                });
                Ok(read.await??)
            }
        }
    }
}

/// Runs disk work off the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, TransferError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| TransferError::Stream(std::io::Error::other(error)))
}
