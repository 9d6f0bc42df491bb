//! Reading a log from its start: the only way in, as what cannot be read whole must not be
//! appended to.

use std::io::{ErrorKind, Read};
use std::path::Path;

use consilium_common::planted::{self, Bug};
use consilium_common::time::WallMillis;

use super::error::LogError;
use super::record::{
    FILE_HEADER_BYTES, FILE_MAGIC, FORMAT, HEADER_BYTES, Header, starts_like_a_record,
};
use crate::error::IoError;

/// One record as a scan meets it.
#[derive(Debug, Clone, Copy)]
pub struct RecordRef<'a> {
    /// Position in the log: the leaf index of its Merkle tree.
    pub index: u64,
    /// Where it starts, in bytes from the start of the file.
    pub offset: u64,
    /// What the payload is (consilium_common::audit numbers them).
    pub kind: u16,
    /// The writer's calendar time.
    pub wall: WallMillis,
    /// The payload, checked.
    pub payload: &'a [u8],
}

/// What a caller's visitor may return: any error, kept as the source of [`LogError::Visit`].
pub type VisitResult = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A place between two records: so many before it, in so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    /// Records before it.
    pub records: u64,
    /// Where it lies, in bytes from the start of the file.
    pub bytes: u64,
}

impl LogMark {
    /// Before the first record.
    pub const START: Self = Self { records: 0, bytes: FILE_HEADER_BYTES };
}

/// Where the whole records end.
#[derive(Debug)]
pub(super) struct Scanned {
    pub(super) records: u64,
    pub(super) end: u64,
    /// Bytes of an incomplete record after `end`.
    pub(super) torn_bytes: u64,
}

/// Walks over the records of a log of so many bytes, from a mark on, where the reader stands.
pub(super) fn scan(
    path: &Path,
    (mut reader, file_bytes): (impl Read, u64),
    from: LogMark,
    mut visit: impl FnMut(RecordRef<'_>) -> VisitResult,
) -> Result<Scanned, LogError> {
    let mut payload = Vec::new();
    let mut at = Scanned { records: from.records, end: from.bytes, torn_bytes: 0 };
    while at.end < file_bytes {
        let left = file_bytes - at.end;
        let damaged = |what: String| LogError::damaged(path, at.records, at.end, what);
        let Some(header) = next_header(path, &mut reader, left)? else {
            at.torn_bytes = left;
            break;
        };
        let header = header.map_err(damaged)?;
        // The header is as it was written, so its length is: the rest was not written.
        if left < header.record_bytes() {
            if planted::has(Bug::TornTail) {
                at.end += left;
            } else {
                at.torn_bytes = left;
            }
            break;
        }
        // At most RECORD_BYTES_MAX: this fits memory.
        payload.resize(header.length as usize, 0);
        reader.read_exact(&mut payload).map_err(IoError::at("read", path))?;
        if !header.fits(&payload) {
            return Err(damaged("its checksum does not fit".to_owned()));
        }
        let (index, offset) = (at.records, at.end);
        let Header { kind, wall, .. } = header;
        visit(RecordRef { index, offset, kind, wall, payload: &payload })
            .map_err(|source| LogError::visit(path, index, offset, source))?;
        at.records += 1;
        at.end += header.record_bytes();
    }
    Ok(at)
}

/// The next header: `None` if the file ends within it, `Some(Err)` if it is not one.
fn next_header(
    path: &Path,
    reader: &mut impl Read,
    left: u64,
) -> Result<Option<Result<Header, String>>, LogError> {
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    let want = left.min(HEADER_BYTES as u64);
    reader.take(want).read_to_end(&mut bytes).map_err(IoError::at("read", path))?;
    Ok(match <&[u8; HEADER_BYTES]>::try_from(bytes.as_slice()) {
        Ok(whole) => Some(Header::decode(whole)),
        Err(_) if starts_like_a_record(&bytes) => None,
        Err(_) => Some(Err("no record starts here".to_owned())),
    })
}

/// Reads what every log begins with.
pub(super) fn check_file_header(path: &Path, reader: &mut impl Read) -> Result<(), LogError> {
    let mut magic = [0; FILE_MAGIC.len()];
    let mut format = [0; 2];
    match reader.read_exact(&mut magic).and_then(|()| reader.read_exact(&mut format)) {
        Ok(()) => {}
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => {
            return Err(LogError::NotALog { path: path.to_owned() });
        }
        Err(e) => return Err(IoError::at("read", path)(e).into()),
    }
    if &magic != FILE_MAGIC {
        return Err(LogError::NotALog { path: path.to_owned() });
    }
    match u16::from_le_bytes(format) {
        FORMAT => Ok(()),
        found => Err(LogError::Format { path: path.to_owned(), found, known: FORMAT }),
    }
}
