//! The append-only log: the truth of a state folder (DESIGN.md §9). Everything else that lasts is
//! a blob named in it or an index rebuilt from it.
//!
//! Promises: a record that was appended and synced is read back at every later start, whole and in
//! order, or the start stops and says which record is missing. An incomplete tail (what a killed
//! process was writing) is dropped, but never a record of which anything tells that it was synced.
//!
//! A log alone cannot tell that its end is gone: a file cut between two records is a whole, shorter
//! log. So whoever opens it says how many records are known to have been synced; the coordinator
//! knows it by its signed checkpoint, at most a second old, and by its index.

mod error;
mod record;
mod scan;

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use consilium_common::limits::RECORD_BYTES_MAX;
use consilium_common::time::WallMillis;

pub use error::LogError;
pub use record::file_header;
pub use scan::{LogMark, RecordRef, VisitResult};

use self::record::{FILE_HEADER_BYTES, HEADER_BYTES, Header};
use super::folder::parent_of;
use super::replace::{Access, replace_with};
use crate::error::IoError;

const READ_BYTES: usize = 1 << 20;

/// What opening a log found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogReport {
    /// Whole records.
    pub records: u64,
    /// Bytes of the file that hold them, its head included.
    pub bytes: u64,
    /// Bytes of an incomplete tail that were dropped (by [`Log::read`]: that would be).
    pub dropped_bytes: u64,
}

/// One record, read back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// What the payload is.
    pub kind: u16,
    /// The writer's calendar time.
    pub wall: WallMillis,
    /// The payload, checked.
    pub payload: Vec<u8>,
}

/// An open log. One writer: the folder's lock sees to it.
#[derive(Debug)]
pub struct Log {
    path: PathBuf,
    file: File,
    /// Whole records.
    records: u64,
    /// Where the next record goes.
    end: u64,
    /// A write or sync failed: what the file holds is unknown until it is read again.
    poisoned: bool,
    /// Header and payload of one append, kept for its allocation.
    buffer: Vec<u8>,
}

impl Log {
    /// Opens the log, creating it if there is none, and shows every record to `visit`.
    ///
    /// `known` is the number of records that are known to have been synced (0 for a new log). All
    /// that `visit` sees is on the disk, not only in the system's memory: the caller may act on it
    /// once this has returned.
    ///
    /// # Errors
    /// Fewer whole records than `known`, or damage anywhere but in an incomplete tail; the file is
    /// then left as it is.
    pub fn open(
        path: &Path,
        known: u64,
        visit: impl FnMut(RecordRef<'_>) -> VisitResult,
    ) -> Result<(Self, LogReport), LogError> {
        Self::open_from(path, LogMark::START, known, visit)
    }

    /// The same for whoever kept in mind what stands before `mark`: only what follows is read and
    /// shown to `visit`. A file that ends before the mark is read from its start, so that the error
    /// says where it ends.
    ///
    /// # Errors
    /// As [`Log::open`]; damage before the mark is not noticed.
    pub fn open_from(
        path: &Path,
        mark: LogMark,
        known: u64,
        visit: impl FnMut(RecordRef<'_>) -> VisitResult,
    ) -> Result<(Self, LogReport), LogError> {
        let known = known.max(mark.records);
        match std::fs::symlink_metadata(path) {
            Ok(_) => {}
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(IoError::at("look for", path)(error).into());
            }
            Err(_) if known > 0 => return Err(LogError::Missing { path: path.to_owned(), known }),
            Err(_) => {
                let head = file_header();
                replace_with(path, Access::Private, |w| std::io::Write::write_all(w, &head))?;
            }
        }
        super::open_file(path).map_err(IoError::at("open", path))?;
        let file =
            File::options().read(true).write(true).open(path).map_err(IoError::at("open", path))?;
        // What a killed process wrote may be in the system's memory alone.
        file.sync_all().map_err(IoError::at("sync", path))?;
        super::folder::sync_folder(parent_of(path))?;
        let report = read_file(path, &file, (mark, known), visit)?;
        if report.dropped_bytes > 0 {
            file.set_len(report.bytes).map_err(IoError::at("cut the tail of", path))?;
            file.sync_all().map_err(IoError::at("sync", path))?;
        }
        let (path, records, end) = (path.to_owned(), report.records, report.bytes);
        let log = Self { path, file, records, end, poisoned: false, buffer: Vec::new() };
        Ok((log, report))
    }

    /// Reads a log without changing it: for audits and copies. An incomplete tail is reported and
    /// not cut.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn read(
        path: &Path,
        known: u64,
        visit: impl FnMut(RecordRef<'_>) -> VisitResult,
    ) -> Result<LogReport, LogError> {
        let file = super::open_file(path).map_err(IoError::at("open", path))?;
        read_file(path, &file, (LogMark::START, known), visit)
    }

    /// The same over the `length` bytes of any reader; `path` is what errors name. For whoever keeps
    /// a log elsewhere than in a file, as simulated disks do.
    ///
    /// # Errors
    /// As [`Log::open`].
    pub fn read_from(
        path: &Path,
        (mut bytes, length): (impl Read, u64),
        known: u64,
        visit: impl FnMut(RecordRef<'_>) -> VisitResult,
    ) -> Result<LogReport, LogError> {
        scan::check_file_header(path, &mut bytes)?;
        report(path, scan::scan(path, (bytes, length), LogMark::START, visit)?, known)
    }

    /// Adds a record and returns its offset. It survives the process's death from here on, and
    /// the machine's once [`Log::sync`] has returned.
    ///
    /// # Errors
    /// The payload is too long (nothing is written, the log stays usable), or the write failed:
    /// then every later call fails.
    pub fn append(&mut self, kind: u16, wall: WallMillis, payload: &[u8]) -> Result<u64, LogError> {
        self.check()?;
        let Some(header) = Header::of(kind, wall, payload) else {
            let (path, have) = (self.path.clone(), payload.len());
            return Err(LogError::TooLarge { path, have, max: RECORD_BYTES_MAX });
        };
        self.buffer.clear();
        self.buffer.extend_from_slice(&header.encode());
        self.buffer.extend_from_slice(payload);
        if let Err(e) = self.file.write_all_at(&self.buffer, self.end) {
            self.poisoned = true;
            return Err(IoError::at("append to", &self.path)(e).into());
        }
        let offset = self.end;
        self.end += header.record_bytes();
        self.records += 1;
        Ok(offset)
    }

    /// Makes all records so far last (fdatasync).
    ///
    /// # Errors
    /// The sync failed: the system may have forgotten the bytes, so every later call fails.
    pub fn sync(&mut self) -> Result<(), LogError> {
        self.check()?;
        self.file.sync_data().map_err(|e| {
            self.poisoned = true;
            IoError::at("sync", &self.path)(e).into()
        })
    }

    /// Reads back the record that starts at `offset`, as [`Log::append`] or a visit named it.
    ///
    /// # Errors
    /// No record starts there, or it no longer fits its checksum.
    pub fn read_at(&self, offset: u64) -> Result<Record, LogError> {
        self.read_on(offset).map(|(record, _)| record)
    }

    /// The same, and where the record ends: the next one, if there is one, starts there.
    ///
    /// # Errors
    /// As [`Log::read_at`].
    pub fn read_on(&self, offset: u64) -> Result<(Record, u64), LogError> {
        self.check()?;
        let absent = || LogError::NoRecord { path: self.path.clone(), offset };
        let left = self.end.checked_sub(offset).ok_or_else(absent)?;
        if offset < FILE_HEADER_BYTES || left < HEADER_BYTES as u64 {
            return Err(absent());
        }
        let mut bytes = [0; HEADER_BYTES];
        self.file.read_exact_at(&mut bytes, offset).map_err(IoError::at("read", &self.path))?;
        let header = Header::decode(&bytes).map_err(|_| absent())?;
        if left < header.record_bytes() {
            return Err(absent());
        }
        let mut payload = vec![0; header.length as usize];
        self.file
            .read_exact_at(&mut payload, offset + HEADER_BYTES as u64)
            .map_err(IoError::at("read", &self.path))?;
        if !header.fits(&payload) {
            return Err(absent());
        }
        let record = Record { kind: header.kind, wall: header.wall, payload };
        Ok((record, offset + header.record_bytes()))
    }

    /// How many records there are; the next one's index.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of the file.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.end
    }

    fn check(&self) -> Result<(), LogError> {
        if self.poisoned {
            return Err(LogError::Poisoned { path: self.path.clone() });
        }
        Ok(())
    }
}

/// A record's bytes as a log holds them; `None` if the payload is longer than any may be.
#[must_use]
pub fn framed(kind: u16, wall: WallMillis, payload: &[u8]) -> Option<Vec<u8>> {
    let header = Header::of(kind, wall, payload)?;
    Some([&header.encode(), payload].concat())
}

fn read_file(
    path: &Path,
    file: &File,
    (mark, known): (LogMark, u64),
    visit: impl FnMut(RecordRef<'_>) -> VisitResult,
) -> Result<LogReport, LogError> {
    let length = file.metadata().map_err(IoError::at("inspect", path))?.len();
    let mut reader = BufReader::with_capacity(READ_BYTES, file);
    scan::check_file_header(path, &mut reader)?;
    let from = if mark.bytes <= length { mark } else { LogMark::START };
    reader.seek(SeekFrom::Start(from.bytes)).map_err(IoError::at("read", path))?;
    report(path, scan::scan(path, (reader, length), from, visit)?, known)
}

fn report(path: &Path, found: scan::Scanned, known: u64) -> Result<LogReport, LogError> {
    let scan::Scanned { records, end, torn_bytes } = found;
    if records < known {
        return Err(LogError::Short { path: path.to_owned(), records, offset: end, known });
    }
    Ok(LogReport { records, bytes: end, dropped_bytes: torn_bytes })
}

#[cfg(test)]
mod tests;
