//! A blob on its way in: a file under `partial/` that survives the process, so that a transfer
//! goes on where it stopped.
//!
//! What is there is a prefix of what was received, whatever happened: bytes are only appended. It
//! is not trusted: the digest over the whole decides at the end, and a wrong one deletes the file.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::Digest;
use consilium_common::limits::BLOB_BYTES_MAX;

use super::{BlobError, Blobs, Durability, grown, hash_file, remove_file};
use crate::error::IoError;

/// One blob being received. Dropping it keeps what was received.
#[derive(Debug)]
pub struct Partial {
    blobs: Blobs,
    digest: Digest,
    path: PathBuf,
    file: File,
    hasher: blake3::Hasher,
    length: u64,
    bytes_max: u64,
    /// A write failed half-way: file and hasher no longer agree.
    broken: bool,
    _claim: Claim,
}

impl Partial {
    pub(super) fn resume(blobs: &Blobs, digest: Digest, bytes_max: u64) -> Result<Self, BlobError> {
        if bytes_max > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge { have: bytes_max, max: BLOB_BYTES_MAX });
        }
        let claim = blobs.in_use.claim(digest)?;
        let path = blobs.partial_path(digest);
        let file = open_private(&path)?;
        let mut partial = Self {
            blobs: blobs.clone(),
            digest,
            path,
            file,
            hasher: blake3::Hasher::new(),
            length: 0,
            bytes_max,
            broken: false,
            _claim: claim,
        };
        partial.hash_what_is_there()?;
        Ok(partial)
    }

    fn hash_what_is_there(&mut self) -> Result<(), BlobError> {
        let there = self.file.try_clone().map_err(IoError::at("open", &self.path))?;
        self.length = hash_file(&mut self.hasher, there, &mut std::io::sink())
            .map_err(IoError::at("read", &self.path))?;
        if self.length > self.bytes_max {
            return self.restart();
        }
        Ok(())
    }

    /// Forgets what was received, to begin again at byte 0.
    ///
    /// # Errors
    /// The file cannot be cut.
    pub fn restart(&mut self) -> Result<(), BlobError> {
        self.broken = true;
        self.file.set_len(0).map_err(IoError::at("cut", &self.path))?;
        self.file.seek(SeekFrom::Start(0)).map_err(IoError::at("seek in", &self.path))?;
        self.hasher.reset();
        self.length = 0;
        self.broken = false;
        Ok(())
    }

    /// Which blob this is to become.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.digest
    }

    /// Bytes received so far: the offset to ask for.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.length
    }

    /// The most bytes it may become.
    #[must_use]
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// Appends `bytes`.
    ///
    /// # Errors
    /// More than was announced, or the disk refused: then this handle is of no more use, and
    /// another [`Blobs::resume`] finds what did arrive.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        if self.broken {
            return Err(BlobError::Broken(self.digest));
        }
        let length = grown(self.length, bytes.len(), self.bytes_max)?;
        if let Err(e) = self.file.write_all(bytes) {
            self.broken = true;
            return Err(IoError::at("write", &self.path)(e).into());
        }
        self.hasher.update(bytes);
        self.length = length;
        Ok(())
    }

    /// Checks the digest and gives the blob its name.
    ///
    /// # Errors
    /// [`BlobError::Digest`]: what was received is something else, and was deleted.
    pub fn complete(self, durability: Durability) -> Result<(), BlobError> {
        if self.broken {
            return Err(BlobError::Broken(self.digest));
        }
        let found = Digest::from(self.hasher.finalize());
        if found != self.digest {
            remove_file(&self.path)?;
            return Err(BlobError::Digest { expected: self.digest, found });
        }
        self.blobs.place(&self.file, self.digest, durability, |path| fs::rename(&self.path, path))
    }
}

fn open_private(path: &Path) -> Result<File, IoError> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(IoError::at("open", path))
}

/// Which partial files this process is writing. Clones share the list.
#[derive(Debug, Clone, Default)]
pub(super) struct InUse(Arc<Mutex<HashSet<Digest>>>);

impl InUse {
    /// Reserves the partial file of `digest` for one user.
    pub(super) fn claim(&self, digest: Digest) -> Result<Claim, BlobError> {
        if !self.digests().insert(digest) {
            return Err(BlobError::Busy(digest));
        }
        Ok(Claim { digest, in_use: self.clone() })
    }

    /// A set stays a set if a thread died while it held the lock.
    fn digests(&self) -> MutexGuard<'_, HashSet<Digest>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to write one partial file; given back when dropped.
#[derive(Debug)]
pub(super) struct Claim {
    digest: Digest,
    in_use: InUse,
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.in_use.digests().remove(&self.digest);
    }
}
