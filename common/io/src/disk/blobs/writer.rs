//! Writing a blob whose digest is known only at its end.

use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;

use consilium_common::ids::Digest;
use consilium_common::limits::BLOB_BYTES_MAX;
use tempfile::NamedTempFile;

use super::{BlobError, Blobs, Durability, grown};
use crate::error::IoError;

/// Writes one blob, hashing as it goes. Dropped before [`BlobWriter::finish`], it leaves nothing.
#[derive(Debug)]
pub struct BlobWriter {
    blobs: Blobs,
    file: NamedTempFile,
    hasher: blake3::Hasher,
    written: u64,
}

impl BlobWriter {
    pub(super) fn begin(blobs: &Blobs) -> Result<Self, BlobError> {
        let folder = blobs.temporary_folder();
        let file = tempfile::Builder::new()
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&folder)
            .map_err(IoError::at("create a temporary file in", &folder))?;
        Ok(Self { blobs: blobs.clone(), file, hasher: blake3::Hasher::new(), written: 0 })
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// The blob would pass `limits::BLOB_BYTES_MAX`, or the disk refused.
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        let have = grown(self.written, bytes.len(), BLOB_BYTES_MAX)?;
        self.file.write_all(bytes).map_err(IoError::at("write", self.file.path()))?;
        self.hasher.update(bytes);
        self.written = have;
        Ok(())
    }

    /// Bytes so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Gives the blob its name and returns it. A blob of that name is replaced by the same bytes,
    /// so that `Lasting` holds even if the earlier one was a cache.
    ///
    /// # Errors
    /// The digest is not the `expected` one, or the disk refused; nothing is left then.
    pub fn finish(
        self,
        expected: Option<Digest>,
        durability: Durability,
    ) -> Result<Digest, BlobError> {
        let found = Digest::from(self.hasher.finalize());
        if let Some(expected) = expected.filter(|&expected| expected != found) {
            return Err(BlobError::Digest { expected, found });
        }
        let (file, temporary) = self.file.into_parts();
        self.blobs
            .place(&file, found, durability, |path| temporary.persist(path).map_err(|e| e.error))?;
        Ok(found)
    }
}
