//! Base models and preparations by digest, as the coordinator sent them. A cache: nothing here is synced, everything
//! is verified before use, and only the last few are kept.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::Digest;
use consilium_common::study::preparation::preparation_bytes_len;
use consilium_common::study::{Preparation, Study};
use consilium_io::disk::{BlobError, Blobs};

use super::StateError;

/// Blobs kept: the base in use, the next, a preparation, SCAFFOLD's c, and a few for studies side by side.
pub const CACHED_MAX: usize = 8;

/// The newest preparation of `study` among the blobs of a state folder that another process may hold:
/// the one that the site's rounds use. `None` where no blob is one.
///
/// # Errors
/// The folder cannot be read.
pub fn look_for_preparation(state: &Path, study: &Study) -> Result<Option<Vec<u8>>, StateError> {
    let folder = state.join(super::CACHE);
    let Some(sums) = study.preparation_len().filter(|_| folder.is_dir()) else {
        return Ok(None);
    };
    let (blobs, bytes) = (Blobs::look_at(&folder), preparation_bytes_len(sums));
    let mut found = Vec::new();
    for (digest, have) in blobs.list()? {
        // A blob that is gone or damaged by now is none.
        if have == bytes
            && let Ok(read) = blobs.read_verified(digest, bytes)
            && Preparation::read(&read, study).is_ok()
        {
            let written = std::fs::metadata(blobs.path_of(digest)).and_then(|m| m.modified());
            found.push((written.ok(), read));
        }
    }
    found.sort_unstable();
    Ok(found.pop().map(|(_, bytes)| bytes))
}

/// A bounded blob folder. Clones share it.
#[derive(Debug, Clone)]
pub struct Cache {
    blobs: Blobs,
    /// The oldest use first; digests beyond [`CACHED_MAX`] are removed.
    used: Arc<Mutex<VecDeque<Digest>>>,
}

impl Cache {
    /// Opens the folder. What an earlier process left stays, up to the bound.
    ///
    /// # Errors
    /// The folder cannot be created or read, or has an unknown format.
    pub(super) fn open(folder: &Path) -> Result<Self, StateError> {
        let blobs = Blobs::open(folder)?;
        let mut found = Vec::new();
        for (digest, _) in blobs.list()? {
            let modified = std::fs::metadata(blobs.path_of(digest)).and_then(|m| m.modified());
            found.push((modified.ok(), digest));
        }
        found.sort_unstable();
        let used = found.into_iter().map(|(_, digest)| digest).collect();
        let cache = Self { blobs, used: Arc::new(Mutex::new(used)) };
        cache.drop_oldest()?;
        cache.drop_partials()?;
        Ok(cache)
    }

    /// The folder, for transfers into it.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Whether `digest` is here with the bytes that its name says. A damaged one is removed.
    ///
    /// # Errors
    /// The system refused.
    pub fn holds(&self, digest: Digest) -> Result<bool, StateError> {
        match self.blobs.verify(digest) {
            Ok(()) => {
                self.touch(digest)?;
                Ok(true)
            }
            Err(BlobError::Missing(_)) => Ok(false),
            Err(BlobError::Digest { .. }) => {
                tracing::warn!(%digest, "a cached blob was damaged on the disk: removed");
                self.blobs.remove(digest)?;
                Ok(false)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Marks `digest` as just used and removes what is beyond the bound.
    ///
    /// # Errors
    /// The system refused.
    pub fn touch(&self, digest: Digest) -> Result<(), StateError> {
        {
            let mut used = self.lock();
            used.retain(|other| *other != digest);
            used.push_back(digest);
        }
        self.drop_oldest()
    }

    fn drop_oldest(&self) -> Result<(), StateError> {
        let surplus: Vec<Digest> = {
            let mut used = self.lock();
            let surplus = used.len().saturating_sub(CACHED_MAX);
            used.drain(..surplus).collect()
        };
        for digest in surplus {
            self.blobs.remove(digest)?;
        }
        Ok(())
    }

    /// Half-received bases of rounds long past. The digests do not say how old they are, so all go
    /// when there are too many: each costs one transfer at most.
    fn drop_partials(&self) -> Result<(), StateError> {
        let partials = self.blobs.partials()?;
        if partials.len() > CACHED_MAX {
            for (digest, _) in partials {
                self.blobs.discard_partial(digest)?;
            }
        }
        Ok(())
    }

    /// A list stays a list if a thread died while it held the lock.
    fn lock(&self) -> MutexGuard<'_, VecDeque<Digest>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
