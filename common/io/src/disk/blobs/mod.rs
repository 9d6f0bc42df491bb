//! Content-addressed files: models, updates, studies, and whatever else is named by its BLAKE3
//! digest.
//!
//! ```text
//! DIR/format              "consilium blobs 1\n"
//! DIR/ab/ab…64 hex digits  a blob, in the folder of its first byte (256 of them, made at open)
//! DIR/temporary/          blobs being written; swept at open
//! DIR/partial/            blobs being received; kept, see `partial`
//! ```
//!
//! A name appears only when the content is whole: it is moved into place after its digest was
//! computed. Written as [`Durability::Lasting`] it also survives the machine's death. One written
//! as [`Durability::Cache`] may then be torn, and a disk may rot, so bytes are trusted only once
//! their digest verifies: [`Blobs::read_verified`], [`Blobs::verify`].

mod error;
mod partial;
mod setup;
mod writer;

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;

pub use error::BlobError;
pub use partial::Partial;
pub use writer::BlobWriter;

use self::partial::InUse;
use super::folder::sync_folder;
use crate::error::IoError;

const TEMPORARY: &str = "temporary";
const PARTIAL: &str = "partial";

/// Whether a blob must survive the machine's death. Every blob survives the process's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Synced with its folder before the call returns.
    Lasting,
    /// Not synced: it can be had again, and is verified before use.
    Cache,
}

/// A folder of blobs. Cheap to clone; clones share the folder.
#[derive(Debug, Clone)]
pub struct Blobs {
    folder: Arc<Path>,
    /// Partial files in use: two writers would interleave.
    in_use: InUse,
}

impl Blobs {
    /// Opens or creates the folder and sweeps what a killed process was writing. Partial files
    /// stay.
    ///
    /// # Errors
    /// The folder cannot be created or read, or has an unknown format.
    pub fn open(folder: &Path) -> Result<Self, BlobError> {
        setup::set_up(folder)?;
        Ok(Self { folder: folder.into(), in_use: InUse::default() })
    }

    /// A folder that another process may own: nothing is created and nothing is swept. For reading.
    #[must_use]
    pub fn look_at(folder: &Path) -> Self {
        Self { folder: folder.into(), in_use: InUse::default() }
    }

    /// True if the blob is here. Says nothing about its content: see the module's promises.
    #[must_use]
    pub fn contains(&self, digest: Digest) -> bool {
        self.path_of(digest).is_file()
    }

    /// The blob's size in bytes, or `None` if it is not here.
    ///
    /// # Errors
    /// The system refused.
    pub fn len(&self, digest: Digest) -> Result<Option<u64>, BlobError> {
        let path = self.path_of(digest);
        match fs::metadata(&path) {
            Ok(data) => Ok(Some(data.len())),
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
            Err(e) => Err(IoError::at("inspect", &path)(e).into()),
        }
    }

    /// Opens the blob for reading. Removing it later leaves this handle readable.
    ///
    /// # Errors
    /// [`BlobError::Missing`], or the system refused.
    pub fn open_file(&self, digest: Digest) -> Result<File, BlobError> {
        let path = self.path_of(digest);
        super::open_file(&path).map_err(|e| {
            if e.kind() == ErrorKind::NotFound {
                return BlobError::Missing(digest);
            }
            IoError::at("open", &path)(e).into()
        })
    }

    /// The whole blob, at most `bytes_max` bytes, its digest checked.
    ///
    /// # Errors
    /// Missing, too large, or [`BlobError::Digest`]: then the caller removes it and has it again.
    pub fn read_verified(&self, digest: Digest, bytes_max: u64) -> Result<Vec<u8>, BlobError> {
        let file = self.open_file(digest)?;
        let path = self.path_of(digest);
        let have = file.metadata().map_err(IoError::at("inspect", &path))?.len();
        if have > bytes_max {
            return Err(BlobError::TooLarge { have, max: bytes_max });
        }
        let mut bytes = Vec::with_capacity(usize::try_from(have).unwrap_or(0));
        file.take(have).read_to_end(&mut bytes).map_err(IoError::at("read", &path))?;
        let found = Digest::of(&bytes);
        if found == digest { Ok(bytes) } else { Err(BlobError::Digest { expected: digest, found }) }
    }

    /// Reads the blob through and checks its digest, one chunk in memory at a time.
    ///
    /// # Errors
    /// As [`Blobs::read_verified`].
    pub fn verify(&self, digest: Digest) -> Result<(), BlobError> {
        self.copy_verified(digest, &mut io::sink())
    }

    /// Copies the blob to `out`, one chunk in memory at a time, and checks its digest on the way:
    /// after an error what `out` has is of no use.
    ///
    /// # Errors
    /// As [`Blobs::read_verified`]; `out` takes no more.
    pub fn copy_verified(&self, digest: Digest, out: &mut dyn Write) -> Result<(), BlobError> {
        let file = self.open_file(digest)?;
        let mut hasher = blake3::Hasher::new();
        hash_file(&mut hasher, file, out).map_err(IoError::at("copy", &self.path_of(digest)))?;
        match Digest::from(hasher.finalize()) {
            found if found == digest => Ok(()),
            found => Err(BlobError::Digest { expected: digest, found }),
        }
    }

    /// Writes a blob that is in memory and returns its digest.
    ///
    /// # Errors
    /// As [`BlobWriter::finish`].
    pub fn put_bytes(&self, bytes: &[u8], durability: Durability) -> Result<Digest, BlobError> {
        let mut writer = self.writer()?;
        writer.write(bytes)?;
        writer.finish(None, durability)
    }

    /// Begins a blob whose digest is not known yet.
    ///
    /// # Errors
    /// No temporary file could be created.
    pub fn writer(&self) -> Result<BlobWriter, BlobError> {
        BlobWriter::begin(self)
    }

    /// Begins or goes on receiving the blob `digest`, of at most `bytes_max` bytes: what an
    /// earlier process received is kept and hashed again.
    ///
    /// # Errors
    /// Too large, or being received already.
    pub fn resume(&self, digest: Digest, bytes_max: u64) -> Result<Partial, BlobError> {
        Partial::resume(self, digest, bytes_max)
    }

    /// The blobs that were begun and not finished, with the bytes received of each. For a caller
    /// that decides which are still worth having.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn partials(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        list_folder(&self.folder.join(PARTIAL))
    }

    /// Drops what was received of `digest`.
    ///
    /// # Errors
    /// It is being received just now, or cannot be removed.
    pub fn discard_partial(&self, digest: Digest) -> Result<(), BlobError> {
        let _claim = self.in_use.claim(digest)?;
        remove_file(&self.partial_path(digest)).map(|_| ())
    }

    /// Removes a blob; false if it was not here.
    ///
    /// # Errors
    /// The system refused.
    pub fn remove(&self, digest: Digest) -> Result<bool, BlobError> {
        remove_file(&self.path_of(digest))
    }

    /// All blobs with their sizes in bytes, in the order of their digests.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<Vec<(Digest, u64)>, BlobError> {
        let mut all = Vec::new();
        for shard in 0..=u8::MAX {
            all.append(&mut list_folder(&self.shard(shard))?);
        }
        all.sort_unstable_by_key(|(digest, _)| *digest);
        Ok(all)
    }

    /// Bytes of all blobs together.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn total_bytes(&self) -> Result<u64, BlobError> {
        Ok(self.list()?.iter().map(|(_, bytes)| bytes).sum())
    }

    /// Where a blob lies, or would lie.
    #[must_use]
    pub fn path_of(&self, digest: Digest) -> PathBuf {
        let [first, ..] = digest.0;
        self.shard(first).join(digest.to_string())
    }

    fn temporary_folder(&self) -> PathBuf {
        self.folder.join(TEMPORARY)
    }

    fn shard(&self, first: u8) -> PathBuf {
        self.folder.join(format!("{first:02x}"))
    }

    fn partial_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(PARTIAL).join(digest.to_string())
    }

    /// Syncs what [`Durability`] asks for around `rename`, which gives the file its name.
    fn place(
        &self,
        file: &File,
        digest: Digest,
        durability: Durability,
        rename: impl FnOnce(&Path) -> io::Result<()>,
    ) -> Result<(), BlobError> {
        let path = self.path_of(digest);
        if durability == Durability::Lasting {
            file.sync_data().map_err(IoError::at("sync", &path))?;
        }
        rename(&path).map_err(IoError::at("rename a new blob to", &path))?;
        if durability == Durability::Lasting {
            let [first, ..] = digest.0;
            sync_folder(&self.shard(first))?;
        }
        Ok(())
    }
}

/// `have + more`, if that is at most `max`.
fn grown(have: u64, more: usize, max: u64) -> Result<u64, BlobError> {
    match u64::try_from(more).ok().and_then(|more| have.checked_add(more)) {
        Some(sum) if sum <= max => Ok(sum),
        sum => Err(BlobError::TooLarge { have: sum.unwrap_or(u64::MAX), max }),
    }
}

/// Feeds the rest of `file` to `hasher` and `out`; says how many bytes that were.
fn hash_file(hasher: &mut blake3::Hasher, mut file: File, out: &mut dyn Write) -> io::Result<u64> {
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0;
    loop {
        let read = match file.read(&mut chunk) {
            Ok(0) => return Ok(total),
            Ok(read) => read,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        hasher.update(bytes);
        out.write_all(bytes)?;
        total += read as u64;
    }
}

fn remove_file(path: &Path) -> Result<bool, BlobError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(false),
        Err(e) => Err(IoError::at("remove", path)(e).into()),
    }
}

/// The files in `folder` that are named by a digest; others are not ours and stay unseen.
fn list_folder(folder: &Path) -> Result<Vec<(Digest, u64)>, BlobError> {
    let error = || IoError::at("read the folder", folder);
    let mut blobs = Vec::new();
    for entry in folder.read_dir().map_err(error())? {
        let entry = entry.map_err(error())?;
        let digest = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let (Some(digest), Ok(data)) = (digest, entry.metadata()) else {
            continue;
        };
        blobs.push((digest, data.len()));
    }
    Ok(blobs)
}

#[cfg(test)]
mod tests;
