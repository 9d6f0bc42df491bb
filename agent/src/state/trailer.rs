//! Files whose bytes come first, so that they are read by position, and what the site knows of them
//! last:
//!
//! ```text
//! bytes · record (JSON) · record length u32 · BLAKE3 of the record 32 · format u16 · magic
//!                                                                                  (little-endian)
//! ```

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;
use consilium_io::IoError;
use consilium_io::disk::open_file;
use consilium_io::disk::replace::{Access, replace_with};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::StateError;

/// Record length, its digest, format, magic.
const TAIL_BYTES: u64 = 4 + 32 + 2 + 4;
/// Names and metric sums; the largest schema has some 37,000 of them.
const RECORD_BYTES_MAX: u64 = 1 << 20;

/// One kind of file.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) magic: [u8; 4],
    pub(super) format: u16,
    /// What people call it.
    pub(super) name: &'static str,
}

/// Writes a file, whole and synced, or not at all: `bytes` writes what comes first and says what is
/// known of it.
pub(super) fn write<R: Serialize>(
    path: &Path,
    kind: &Kind,
    bytes: impl FnOnce(&mut dyn Write) -> io::Result<R>,
) -> Result<R, StateError> {
    let record = replace_with(path, Access::Private, |file| {
        let record = bytes(file)?;
        write_record(file, kind, &record)?;
        Ok(record)
    })?;
    Ok(record)
}

/// What follows the bytes.
pub(super) fn write_record<R: Serialize>(
    out: &mut dyn Write,
    kind: &Kind,
    record: &R,
) -> io::Result<()> {
    let text = serde_json::to_vec(record)?;
    let length = u32::try_from(text.len()).ok();
    let length = length.filter(|&length| u64::from(length) <= RECORD_BYTES_MAX);
    let length = length.ok_or_else(|| {
        let have = text.len();
        io::Error::other(format!("its record has {have} bytes, at most {RECORD_BYTES_MAX}"))
    })?;
    out.write_all(&text)?;
    out.write_all(&length.to_le_bytes())?;
    out.write_all(&Digest::of(&text).0)?;
    out.write_all(&kind.format.to_le_bytes())?;
    out.write_all(&kind.magic)
}

/// A file whose record was read and verified. What comes before it was not looked at.
#[derive(Debug)]
pub(super) struct Opened<R, F = File> {
    pub(super) file: F,
    pub(super) record: R,
    /// How many bytes come before the record.
    pub(super) bytes: u64,
}

/// Opens a file and reads its record.
///
/// # Errors
/// Not the file that was written, one of a newer release, or the disk refused.
pub(super) fn open<R: DeserializeOwned>(path: &Path, kind: &Kind) -> Result<Opened<R>, StateError> {
    let file = open_file(path).map_err(IoError::at("open", path))?;
    let total = file.metadata().map_err(IoError::at("inspect", path))?.len();
    open_from(path, kind, file, total)
}

/// The same over the `total` bytes of anything that reads as the file at `path` would.
///
/// # Errors
/// As [`open`].
pub(super) fn open_from<R: DeserializeOwned, F: Read + Seek>(
    path: &Path,
    kind: &Kind,
    mut file: F,
    total: u64,
) -> Result<Opened<R, F>, StateError> {
    let damaged = |reason: &str| damaged(path, reason);
    let Some(tail_at) = total.checked_sub(TAIL_BYTES) else {
        return Err(damaged(&format!("it is shorter than any {}", kind.name)));
    };
    let mut read_tail = || {
        file.seek(SeekFrom::Start(tail_at))?;
        let mut tail = [0; 4 + 32 + 2 + 4];
        file.read_exact(&mut tail).map(|()| Tail::parse(&tail))
    };
    let tail = read_tail().map_err(IoError::at("read", path))?;
    if tail.magic != kind.magic {
        return Err(damaged(&format!("it does not end as a {} does", kind.name)));
    }
    if tail.format != kind.format {
        return Err(StateError::NewerFormat {
            path: path.to_owned(),
            what: kind.name,
            have: tail.format,
            known: kind.format,
        });
    }
    let record_at = tail_at
        .checked_sub(tail.record_bytes)
        .filter(|_| tail.record_bytes <= RECORD_BYTES_MAX)
        .ok_or_else(|| damaged("its record is longer than the file"))?;
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(record_at))
        .and_then(|_| file.by_ref().take(tail.record_bytes).read_to_end(&mut text))
        .map_err(IoError::at("read", path))?;
    if Digest::of(&text) != tail.record_digest {
        return Err(damaged("its record does not have the digest beside it"));
    }
    let record = serde_json::from_slice(&text).map_err(|e| damaged(&e.to_string()))?;
    Ok(Opened { file, record, bytes: record_at })
}

impl<R, F: Read + Seek> Opened<R, F> {
    /// Passes `length` bytes from `first` on to `out`, a chunk in memory at a time; their digest.
    ///
    /// # Errors
    /// They end before, or either side refused.
    pub(super) fn pass(
        &mut self,
        first: u64,
        length: u64,
        out: &mut dyn Write,
    ) -> io::Result<Digest> {
        self.file.seek(SeekFrom::Start(first))?;
        let (passed, digest) = pass_on(self.file.by_ref().take(length), out)?;
        if passed == length { Ok(digest) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }
}

/// Passes everything on; how many bytes it was, and their digest.
pub(super) fn pass_on(mut from: impl Read, out: &mut dyn Write) -> io::Result<(u64, Digest)> {
    let mut hasher = blake3::Hasher::new();
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut passed = 0;
    loop {
        let read = from.read(&mut chunk)?;
        let bytes = chunk.get(..read).unwrap_or_default();
        if bytes.is_empty() {
            return Ok((passed, hasher.finalize().into()));
        }
        hasher.update(bytes);
        out.write_all(bytes)?;
        passed += bytes.len() as u64;
    }
}

/// The bytes on the disk are not those that were written.
pub(super) fn damaged(path: &Path, reason: &str) -> StateError {
    StateError::Damaged { path: path.to_owned(), reason: reason.to_owned() }
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
