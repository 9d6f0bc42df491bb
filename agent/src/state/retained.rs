//! The updates that no roll call has closed yet: one file per (study, round), replaced atomically
//! and synced before the coordinator hears of it (DESIGN.md §5, §6).
//!
//! `STUDY-ROUND.update` is the update's bytes, so that a push reads the file by position, and after
//! them what the site knows of the update:
//!
//! ```text
//! update bytes · record (JSON) · record length u32 · BLAKE3 of the record 32 · format u16 = 1
//! · magic "CRET"                                                   (little-endian)
//! ```

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::ids::{Digest, Round, StudyId};
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::update::words::Metrics;
use consilium_io::IoError;
use consilium_io::disk::replace::{Access, replace_with};
use consilium_io::net::transfer::Source;
use serde::{Deserialize, Serialize};

use super::{SetAside, StateError, entries};

const MAGIC: [u8; 4] = *b"CRET";
const FORMAT: u16 = 1;
/// Record length, its digest, format, magic.
const TAIL_BYTES: u64 = 4 + 32 + 2 + 4;
/// Names and metric sums; the largest schema has some 37,000 of them.
const RECORD_BYTES_MAX: u64 = 1 << 20;
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
    /// Whether it was clipped.
    pub clipped: bool,
    /// Metric sums of the base on the hold-out.
    pub metrics: Metrics,
}

/// The folder of retained updates.
#[derive(Debug)]
pub struct RetainedFolder {
    folder: PathBuf,
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
        Ok(Self { folder: folder.to_owned(), records })
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

/// Writes an update to `path`, whole and synced, or not at all: `update` writes its bytes and says
/// what they are.
///
/// # Errors
/// The disk or `update` refused.
pub fn write(
    path: &Path,
    update: impl FnOnce(&mut dyn Write) -> io::Result<Record>,
) -> Result<Record, StateError> {
    let record = replace_with(path, Access::Private, |file| {
        let record = update(file)?;
        let bytes = serde_json::to_vec(&record)?;
        let length = u32::try_from(bytes.len()).ok();
        let length = length.filter(|&length| u64::from(length) <= RECORD_BYTES_MAX);
        let length = length.ok_or_else(|| {
            let have = bytes.len();
            io::Error::other(format!("its record has {have} bytes, at most {RECORD_BYTES_MAX}"))
        })?;
        file.write_all(&bytes)?;
        file.write_all(&length.to_le_bytes())?;
        file.write_all(&Digest::of(&bytes).0)?;
        file.write_all(&FORMAT.to_le_bytes())?;
        file.write_all(&MAGIC)?;
        Ok(record)
    })?;
    Ok(record)
}

/// Opens a retained update for a push: its bytes alone.
///
/// # Errors
/// The file cannot be opened.
pub fn open(path: &Path, record: &Record) -> Result<Source, StateError> {
    let file = File::open(path).map_err(IoError::at("open", path))?;
    Ok(Source::File { file: Arc::new(file), path: path.to_owned(), length: record.bytes })
}

/// Reads and verifies one file, a chunk of the update in memory at a time.
///
/// # Errors
/// Not the file that was written, one of a newer release, or the disk refused.
pub fn read(path: &Path) -> Result<Record, StateError> {
    let damaged =
        |reason: &str| StateError::Damaged { path: path.to_owned(), reason: reason.to_owned() };
    let mut file = File::open(path).map_err(IoError::at("open", path))?;
    let total = file.metadata().map_err(IoError::at("inspect", path))?.len();
    let unread = IoError::at("read", path);
    let Some(tail_at) = total.checked_sub(TAIL_BYTES) else {
        return Err(damaged("it is shorter than any retained update"));
    };
    let mut read_tail = || {
        file.seek(SeekFrom::Start(tail_at))?;
        let mut tail = [0; 4 + 32 + 2 + 4];
        file.read_exact(&mut tail).map(|()| Tail::parse(&tail))
    };
    let tail = read_tail().map_err(unread)?;
    if tail.magic != MAGIC {
        return Err(damaged("it does not end as a retained update does"));
    }
    if tail.format != FORMAT {
        return Err(StateError::NewerFormat {
            path: path.to_owned(),
            have: tail.format,
            known: FORMAT,
        });
    }
    let record_at = tail_at
        .checked_sub(tail.record_bytes)
        .filter(|_| tail.record_bytes <= RECORD_BYTES_MAX)
        .ok_or_else(|| damaged("its record is longer than the file"))?;
    let record =
        read_at(&mut file, record_at, tail.record_bytes).map_err(IoError::at("read", path))?;
    if Digest::of(&record) != tail.record_digest {
        return Err(damaged("its record does not have the digest beside it"));
    }
    let record: Record = serde_json::from_slice(&record).map_err(|e| damaged(&e.to_string()))?;
    let name = format!("{}-{}.{EXTENSION}", record.study, record.round);
    if path.file_name().is_none_or(|have| *have != *name) {
        return Err(damaged("its record names another study or round"));
    }
    if record.bytes != record_at {
        return Err(damaged("the update is not as long as its record says"));
    }
    let digest = digest_of(&mut file, record_at).map_err(IoError::at("read", path))?;
    if digest == record.digest {
        Ok(record)
    } else {
        Err(damaged("the update does not have the digest of its record"))
    }
}

/// The last bytes of a file.
struct Tail {
    record_bytes: u64,
    record_digest: Digest,
    format: u16,
    magic: [u8; 4],
}

impl Tail {
    fn parse(tail: &[u8; 42]) -> Self {
        let [l0, l1, l2, l3, digest @ .., f0, f1, m0, m1, m2, m3] = *tail;
        Self {
            record_bytes: u32::from_le_bytes([l0, l1, l2, l3]).into(),
            record_digest: Digest(digest),
            format: u16::from_le_bytes([f0, f1]),
            magic: [m0, m1, m2, m3],
        }
    }
}

fn read_at(file: &mut File, offset: u64, length: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(offset))?;
    let mut bytes = Vec::new();
    file.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// BLAKE3 of the first `length` bytes.
fn digest_of(file: &mut File, length: u64) -> io::Result<Digest> {
    file.seek(SeekFrom::Start(0))?;
    let mut hasher = blake3::Hasher::new();
    let mut left = file.take(length);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match left.read(&mut chunk)? {
            0 => return Ok(hasher.finalize().into()),
            read => drop(hasher.update(chunk.get(..read).unwrap_or_default())),
        }
    }
}
