//! sled as an index over the log: offsets only, small values, a small cache.
//!
//! sled's own promises are weaker than a hospital's (DEPENDENCIES.md), and a broken file may make
//! it panic. So nothing rests on it: whatever goes wrong here deletes the folder, and the log is
//! read once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use consilium_common::audit::tree::Hash;
use consilium_io::IoError;

use super::schema::{INDEX_FORMAT, KEY_FORMAT, KEY_INDEXED, Key};
use crate::limits::INDEX_CACHE_BYTES;

const INDEXED_BYTES: usize = 48;

/// Why the index failed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    /// sled said so.
    #[error("sled: {0}")]
    Sled(#[from] sled::Error),
    /// sled panicked.
    #[error("sled gave up: {0}")]
    Panicked(String),
    /// A value of another length than this version writes.
    #[error("an entry is malformed")]
    Malformed,
    /// Another format.
    #[error("it has format {0}")]
    Format(u32),
    /// Its folder cannot be removed or made.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// How much of the log the index covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Indexed {
    /// Records.
    pub(super) records: u64,
    /// Bytes of the log that hold them.
    pub(super) bytes: u64,
    /// Root of the tree over them: says that it was this log.
    pub(super) root: Hash,
}

impl Indexed {
    fn encode(&self) -> Vec<u8> {
        let numbers = [self.records.to_le_bytes(), self.bytes.to_le_bytes()];
        numbers.into_iter().flatten().chain(self.root).collect()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; INDEXED_BYTES] = bytes.try_into().ok()?;
        let (records, rest) = bytes.split_first_chunk::<8>()?;
        let (covered, rest) = rest.split_first_chunk::<8>()?;
        Some(Self {
            records: u64::from_le_bytes(*records),
            bytes: u64::from_le_bytes(*covered),
            root: rest.try_into().ok()?,
        })
    }
}

/// An open index.
#[derive(Debug)]
pub(super) struct Index {
    folder: PathBuf,
    db: sled::Db,
}

impl Index {
    /// Opens an index and reads it through; says how much of the log it covers, `None` if it is new.
    ///
    /// # Errors
    /// It is broken: [`Index::anew`] is the way out.
    pub(super) fn open(folder: &Path) -> Result<(Self, Option<Indexed>), IndexError> {
        let index = guarded(|| {
            let db = sled::Config::new()
                .path(folder)
                .cache_capacity(INDEX_CACHE_BYTES)
                // What a kill loses is read from the log again; waking sled's threads twice a second
                // costs more than that.
                .flush_every_ms(None)
                .open()?;
            Ok(Self { folder: folder.to_owned(), db })
        })?;
        let indexed = guarded(|| {
            if index.db.is_empty() {
                index.db.insert(KEY_FORMAT, &INDEX_FORMAT.to_le_bytes())?;
                return Ok(None);
            }
            index.check()
        })?;
        Ok((index, indexed))
    }

    fn check(&self) -> Result<Option<Indexed>, IndexError> {
        let format = self.db.get(KEY_FORMAT)?.ok_or(IndexError::Malformed)?;
        match <[u8; 4]>::try_from(format.as_ref()).map(u32::from_le_bytes) {
            Ok(INDEX_FORMAT) => {}
            Ok(other) => return Err(IndexError::Format(other)),
            Err(_) => return Err(IndexError::Malformed),
        }
        for entry in self.db.iter() {
            let (key, value) = entry?;
            if value.len() != 8 && key != KEY_FORMAT && key != KEY_INDEXED {
                return Err(IndexError::Malformed);
            }
        }
        let Some(value) = self.db.get(KEY_INDEXED)? else {
            return Ok(None);
        };
        Indexed::decode(&value).map(Some).ok_or(IndexError::Malformed)
    }

    /// Deletes whatever is in `folder` and makes an empty index there.
    ///
    /// # Errors
    /// The folder cannot be removed or made.
    pub(super) fn anew(folder: &Path) -> Result<Self, IndexError> {
        remove(folder)?;
        Ok(Self::open(folder)?.0)
    }

    /// Adds entries and moves the mark, both or neither.
    ///
    /// # Errors
    /// sled failed; the index is deleted, so that the next start makes it anew.
    pub(super) fn apply(
        &self,
        entries: impl IntoIterator<Item = (Key, u64)>,
        indexed: Indexed,
    ) -> Result<(), IndexError> {
        let mut batch = sled::Batch::default();
        for (key, offset) in entries {
            batch.insert(key, &offset.to_le_bytes());
        }
        batch.insert(KEY_INDEXED, indexed.encode());
        self.or_delete(|| Ok(self.db.apply_batch(batch)?))
    }

    /// The offset under `key`.
    ///
    /// # Errors
    /// sled failed; the index is deleted, so that the next start makes it anew.
    pub(super) fn get(&self, key: &[u8]) -> Result<Option<u64>, IndexError> {
        self.or_delete(|| {
            let Some(value) = self.db.get(key)? else {
                return Ok(None);
            };
            let bytes = <[u8; 8]>::try_from(value.as_ref()).map_err(|_| IndexError::Malformed)?;
            Ok(Some(u64::from_le_bytes(bytes)))
        })
    }

    /// Deletes the index: the next start makes it anew.
    pub(super) fn discard(&self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!(%error, "the index is wrong and was not deleted: delete it by hand");
        }
    }

    /// Hands what is in memory to the disk: a later start has less to read.
    pub(super) fn flush(&self) {
        if let Err(error) = guarded(|| Ok(self.db.flush()?)) {
            tracing::warn!(%error, "the index was not flushed: the next start rebuilds it");
        }
    }

    fn or_delete<T>(&self, work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
        let result = guarded(work);
        if result.is_err() {
            remove(&self.folder)?;
        }
        result
    }
}

fn remove(folder: &Path) -> Result<(), IndexError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            // A file where the folder should be is no index either.
            Ok(std::fs::remove_file(folder).map_err(IoError::at("remove", folder))?)
        }
        _ => Ok(()),
    }
}

/// A panic of sled is one more way of being broken.
fn guarded<T>(work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let told = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied())
            .unwrap_or("it did not say why");
        let line = told.lines().next().unwrap_or_default();
        Err(IndexError::Panicked(line.to_owned()))
    })
}
