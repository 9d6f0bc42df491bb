//! The site as a witness of the coordinator's log (PRIVACY.md §5): it keeps the last signed head that it was
//! shown, and the next one must go on from there, at every contact. A log that was rewritten, cut, brought
//! back from an old copy, or is told otherwise to others cannot then be shown to this site any more: nothing
//! more is said to that coordinator, and both heads, each under its signature, are kept as evidence.
//!
//! ```text
//! STATE/witness/checkpoint                    the head that this site keeps
//! STATE/witness/contradiction-RECORDS-ROOT    evidence: a head that did not go on from it
//! STATE/witness/checkpoint-RECORDS-ROOT       one that was kept until a person accepted another history
//! ```
//!
//! [`judge`](judge::judge) decides; here is what is kept. A head that a kill loses before it is on the disk
//! leaves the older one, which the log goes on from all the same; a contradiction shows again at the next
//! contact.

mod judge;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use consilium_common::signed::PublicKey;
use consilium_common::wire::messages::LogHead;
use consilium_io::IoError;
use consilium_io::disk::checkpoint::{self, CheckpointFileError};
use consilium_io::disk::create_folder;
use serde::{Deserialize, Serialize};

pub use judge::{Doubt, Head, HeadRow};

/// The folder in the state folder.
pub const WITNESS: &str = "witness";
const KEPT: &str = "checkpoint";
const CONTRADICTION: &str = "contradiction";

/// Why the witness cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file is not what was written.
    #[error(
        "{0}. This site's memory of the coordinator's log is damaged, or of another consortium. If you \
         move the file away, the site begins anew as a witness and will not notice what was rewritten before"
    )]
    File(CheckpointFileError),
    /// There is no other history to accept.
    #[error(
        "the coordinator has shown no history but the one that this site witnessed: nothing to accept"
    )]
    Agrees,
}

impl From<CheckpointFileError> for WitnessError {
    fn from(error: CheckpointFileError) -> Self {
        match error {
            CheckpointFileError::Io(error) => Self::Io(error),
            refused @ CheckpointFileError::Refused { .. } => Self::File(refused),
        }
    }
}

/// What this site keeps of the coordinator's log.
#[derive(Debug)]
pub struct Witness {
    folder: PathBuf,
    origin: String,
    log_key: PublicKey,
    heads: Mutex<Heads>,
    /// Held while files are written, so that an older head never replaces a newer one.
    files: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Heads {
    kept: Option<Head>,
    contradiction: Option<Head>,
}

/// How the site stands as a witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessStatus {
    /// The newest head that was shown and went on; absent before the first contact.
    pub kept: Option<HeadRow>,
    /// What the coordinator shows instead of a log that goes on from it; absent if all is well.
    pub contradiction: Option<HeadRow>,
    /// Where both are kept.
    pub folder: PathBuf,
}

/// What a head that was taken changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// Nothing: it is the one that is kept.
    None,
    /// The log went on; to be written.
    Further,
    /// The log is again the one that was witnessed, after it was not; to be written.
    Agrees,
}

impl Witness {
    /// Reads what is kept in `state` of the log `origin`, whose heads `log_key` signs. Blocks.
    ///
    /// # Errors
    /// A file is not such a head, or cannot be read.
    pub fn open(state: &Path, origin: &str, log_key: PublicKey) -> Result<Self, WitnessError> {
        let folder = state.join(WITNESS);
        create_folder(&folder)?;
        let loaded = checkpoint::load(&folder.join(KEPT), origin, &log_key)?;
        let kept = loaded.map(|(signed, checkpoint)| Head { signed, checkpoint });
        let heads = Mutex::new(Heads { kept, contradiction: None });
        Ok(Self { folder, origin: origin.to_owned(), log_key, heads, files: Mutex::default() })
    }

    /// How many records are under the head that is kept.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.heads().kept.as_ref().map_or(0, |kept| kept.checkpoint.size)
    }

    /// Takes a head that the coordinator shows, if it goes on from the one that is kept; remembers the
    /// first that does not.
    ///
    /// # Errors
    /// [`Doubt`]: nothing is to be said to this coordinator.
    pub fn take(&self, told: &LogHead) -> Result<News, Doubt> {
        let mut heads = self.heads();
        match judge::judge(heads.kept.as_ref(), told, (&self.origin, &self.log_key)) {
            Ok(head) => {
                let agrees = heads.contradiction.take().is_some();
                let same = heads.kept.as_ref() == Some(&head);
                heads.kept = Some(head);
                Ok(match (agrees, same) {
                    (true, _) => News::Agrees,
                    (false, true) => News::None,
                    (false, false) => News::Further,
                })
            }
            Err(doubt) => {
                if let Doubt::History { told, .. } = &doubt
                    && heads.contradiction.is_none()
                {
                    heads.contradiction = Some((**told).clone());
                }
                Err(doubt)
            }
        }
    }

    /// Brings the files up to what is remembered. Blocks.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write(&self) -> Result<(), IoError> {
        let _one_at_a_time = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Heads { kept, contradiction } = self.heads().clone();
        if let Some(kept) = &kept {
            checkpoint::keep(&self.folder.join(KEPT), &kept.signed)?;
        }
        contradiction.map_or(Ok(()), |told| self.keep_aside(CONTRADICTION, &told))
    }

    /// Goes on with the history that the coordinator shows, although it is another one; both heads stay.
    /// Blocks. Say so in the ledger first.
    ///
    /// # Errors
    /// There is none, or the disk refused.
    pub fn accept(&self) -> Result<(), WitnessError> {
        let _one_at_a_time = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let Heads { kept, contradiction } = self.heads().clone();
        let now = contradiction.ok_or(WitnessError::Agrees)?;
        if let Some(before) = &kept {
            self.keep_aside(KEPT, before)?;
        }
        checkpoint::keep(&self.folder.join(KEPT), &now.signed)?;
        *self.heads() = Heads { kept: Some(now), contradiction: None };
        Ok(())
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> WitnessStatus {
        let Heads { kept, contradiction } = &*self.heads();
        let row = |head: &Option<Head>| head.as_ref().map(|head| HeadRow::of(&head.checkpoint));
        WitnessStatus {
            kept: row(kept),
            contradiction: row(contradiction),
            folder: self.folder.clone(),
        }
    }

    /// Keeps a head under a name that says which it is.
    fn keep_aside(&self, name: &str, head: &Head) -> Result<(), IoError> {
        let HeadRow { records, root } = HeadRow::of(&head.checkpoint);
        let name = format!("{name}-{records}-{}", root.short());
        checkpoint::keep(&self.folder.join(name), &head.signed)
    }

    fn heads(&self) -> MutexGuard<'_, Heads> {
        self.heads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
