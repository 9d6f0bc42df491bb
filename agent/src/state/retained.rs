//! The updates that no roll call has closed yet: one file per (study, round), replaced atomically
//! and synced before the coordinator hears of it (DESIGN.md §5, §6).
//!
//! `STUDY-ROUND.update` is the update's bytes, then the next local state if the training left one,
//! then what the site knows of both, as [`super::trailer`] writes it (format 1, magic "CRET"). So the
//! update and the site state that belongs to it are there together or not at all.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::update::words::Metrics;
use consilium_io::IoError;
use consilium_io::disk::open_file;
use consilium_io::net::transfer::Source;
use serde::{Deserialize, Serialize};

use super::trailer::{self, Kind, Opened, damaged};
use super::{SetAside, StateError, entries};
use crate::session::NextLocal;

const KIND: Kind = Kind { magic: *b"CRET", format: 1, name: "retained update" };
const EXTENSION: &str = "update";

/// What the site knows of an update it retains.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Which study.
    pub study: StudyId,
    /// Digest of the signed study.
    pub study_digest: Digest,
    /// Which round.
    pub round: Round,
    /// Digest of the update's bytes.
    pub digest: Digest,
    /// How many bytes.
    pub bytes: u64,
    /// What stochastic rounding started from.
    pub rounding_seed: Digest,
    /// n_i as it was sent.
    pub weight: u64,
    /// The delta's L2 norm before clipping; 0 for an evaluation. Stays at the site.
    pub norm: f64,
    /// L2 norm of the change of the site's control variate before clipping (SCAFFOLD). Stays at the
    /// site.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub control_norm: Option<f64>,
    /// Whether one of the two was clipped.
    pub clipped: bool,
    /// Metric sums of the base on the hold-out.
    pub metrics: Metrics,
    /// The local state that becomes current if this update counts; its bytes follow the update's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<NextLocal>,
}

/// The folder of retained updates.
#[derive(Debug)]
pub struct RetainedFolder {
    folder: PathBuf,
    aside: SetAside,
    records: BTreeMap<(StudyId, Round), Arc<Record>>,
}

impl RetainedFolder {
    pub(super) fn load(folder: &Path, aside: &SetAside) -> Result<Self, StateError> {
        let mut records = BTreeMap::new();
        for path in entries(folder)? {
            match read(&path) {
                Ok(record) => {
                    drop(records.insert((record.study.clone(), record.round), Arc::new(record)))
                }
                Err(StateError::Damaged { reason, .. }) => aside.take(&path, &reason)?,
                Err(error) => return Err(error),
            }
        }
        Ok(Self { folder: folder.to_owned(), aside: aside.clone(), records })
    }

    /// All of them, in the order of study and round.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.records.values()
    }

    /// The update of this study and round.
    #[must_use]
    pub fn get(&self, study: &StudyId, round: Round) -> Option<&Arc<Record>> {
        self.records.get(&(study.clone(), round))
    }

    /// Where the update of this study and round lies.
    #[must_use]
    pub fn path_of(&self, study: &StudyId, round: Round) -> PathBuf {
        self.folder.join(format!("{study}-{round}.{EXTENSION}"))
    }

    /// Remembers a record that [`write`] has written.
    pub fn insert(&mut self, record: Record) -> Arc<Record> {
        let record = Arc::new(record);
        let key = (record.study.clone(), record.round);
        self.records.insert(key, Arc::clone(&record));
        record
    }

    /// Moves a file that turned out to be damaged out of the way.
    ///
    /// # Errors
    /// The file cannot be moved.
    pub fn set_aside(
        &mut self,
        study: &StudyId,
        round: Round,
        why: &StateError,
    ) -> Result<(), StateError> {
        self.records.remove(&(study.clone(), round));
        self.aside.take(&self.path_of(study, round), why)
    }

    /// Erases an update whose round is over. Not synced: one that a power cut brings back is
    /// offered, answered with its roll call, and erased again.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn erase(&mut self, study: &StudyId, round: Round) -> Result<(), StateError> {
        let path = self.path_of(study, round);
        self.records.remove(&(study.clone(), round));
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.map_err(IoError::at("remove", &path))?),
        }
    }
}

/// Writes an update to `path`, whole and synced, or not at all: `update` writes its bytes, and those
/// of the next local state, and says what they are.
///
/// # Errors
/// The disk or `update` refused.
pub fn write(
    path: &Path,
    update: impl FnOnce(&mut dyn Write) -> io::Result<Record>,
) -> Result<Record, StateError> {
    trailer::write(path, &KIND, update)
}

/// What follows the bytes of the update and of the next local state.
///
/// # Errors
/// The record is larger than any may be, or `out` refused.
pub fn write_record(out: &mut dyn Write, record: &Record) -> io::Result<()> {
    trailer::write_record(out, &KIND, record)
}

/// Opens a retained update for a push: its bytes alone.
///
/// # Errors
/// The file cannot be opened.
pub fn open(path: &Path, record: &Record) -> Result<Source, StateError> {
    let file = open_file(path).map_err(IoError::at("open", path))?;
    Ok(Source::File { file: Arc::new(file), path: path.to_owned(), length: record.bytes })
}

/// Reads and verifies one file, a chunk in memory at a time.
///
/// # Errors
/// Not the file that was written, one of a newer release, or the disk refused.
pub fn read(path: &Path) -> Result<Record, StateError> {
    verify_opened(path, open_record(path)?)
}

/// The same over the `total` bytes of anything that reads as the file at `path` would.
///
/// # Errors
/// As [`read`].
pub fn verify(path: &Path, file: impl Read + Seek, total: u64) -> Result<Record, StateError> {
    let opened = fitting(path, trailer::open_from(path, &KIND, file, total)?)?;
    verify_opened(path, opened)
}

fn verify_opened<F: Read + Seek>(
    path: &Path,
    mut opened: Opened<Record, F>,
) -> Result<Record, StateError> {
    let (update, digest) = (opened.record.bytes, opened.record.digest);
    let local = opened.record.local.clone();
    let mut digest_of = |first, length| {
        opened.pass(first, length, &mut io::sink()).map_err(IoError::at("read", path))
    };
    if digest_of(0, update)? != digest {
        return Err(damaged(path, "the update does not have the digest of its record"));
    }
    if let Some(next) = local {
        let control = next.control.map(|control| (control.bytes, control.digest));
        let mut at = update;
        for (bytes, digest) in [Some((next.bytes, next.digest)), control].into_iter().flatten() {
            if digest_of(at, bytes)? != digest {
                let why = "the local state in it does not have the digest of its record";
                return Err(damaged(path, why));
            }
            at += bytes;
        }
    }
    Ok(opened.record)
}

/// Opens one file whose record fits its name and its length; the bytes are not looked at.
pub(super) fn open_record(path: &Path) -> Result<Opened<Record>, StateError> {
    fitting(path, trailer::open(path, &KIND)?)
}

/// Holds the record against the file's name and length.
fn fitting<F>(path: &Path, opened: Opened<Record, F>) -> Result<Opened<Record, F>, StateError> {
    let record = &opened.record;
    let name = format!("{}-{}.{EXTENSION}", record.study, record.round);
    if path.file_name().is_none_or(|have| *have != *name) {
        return Err(damaged(path, "its record names another study or round"));
    }
    let local = record.local.as_ref().map_or(Some(0), NextLocal::all_bytes);
    if local.and_then(|local| record.bytes.checked_add(local)) != Some(opened.bytes) {
        return Err(damaged(path, "the update is not as long as its record says"));
    }
    Ok(opened)
}
