//! One record's bytes, and the file's head. Everything is little-endian.
//!
//! ```text
//! file    0  14  "consilium log\n"
//!        14   2  format of the file, 2
//!        16   …  records, one after the other, nothing between them
//!
//! record  0   4  magic "CREC"
//!         4   2  format of the record, 2
//!         6   2  kind
//!         8   4  length of the payload in bytes, at most limits::RECORD_BYTES_MAX
//!        12   8  wall, milliseconds since 1970-01-01T00:00Z
//!        20   4  CRC-32C (RFC 3720 §12.1) over bytes 0..20
//!        24   4  CRC-32C over bytes 0..20 and the payload
//!        28   …  payload
//! ```
//!
//! The header has a checksum of its own because its length says where the log's last record ends.
//! Without it, damage to that length could not be told from a record that was never written whole,
//! and a start would drop what had been synced.

use consilium_common::limits::RECORD_BYTES_MAX;
use consilium_common::time::WallMillis;

/// First bytes of a log file.
pub(super) const FILE_MAGIC: &[u8; 14] = b"consilium log\n";
/// Bytes before the first record.
pub(super) const FILE_HEADER_BYTES: u64 = 16;
/// The one format that this code reads and writes, of files and of records.
pub(super) const FORMAT: u16 = 2;
/// First bytes of a record.
pub(super) const MAGIC: [u8; 4] = *b"CREC";
/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 28;
/// How many of those the checksums cover: all but the checksums themselves.
const CHECKED_BYTES: usize = HEADER_BYTES - 8;

/// The first bytes of every log file.
#[must_use]
pub fn file_header() -> Vec<u8> {
    let mut bytes = FILE_MAGIC.to_vec();
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes
}

/// What precedes a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) kind: u16,
    pub(super) length: u32,
    pub(super) wall: WallMillis,
    /// Over the header's checked bytes and the payload.
    pub(super) checksum: u32,
}

impl Header {
    /// The header of a payload. `None` if the payload is too long for a record.
    pub(super) fn of(kind: u16, wall: WallMillis, payload: &[u8]) -> Option<Self> {
        if payload.len() > RECORD_BYTES_MAX {
            return None;
        }
        let length = u32::try_from(payload.len()).ok()?;
        let header = Self { kind, length, wall, checksum: 0 };
        Some(Self { checksum: header.checksum_over(payload), ..header })
    }

    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let checked = self.checked();
        let fields = checked
            .into_iter()
            .chain(crc32c::crc32c(&checked).to_le_bytes())
            .chain(self.checksum.to_le_bytes());
        filled(fields)
    }

    /// Reads a header. `Err` says in a few words what is wrong with it.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let (checked, _) = bytes.split_at(CHECKED_BYTES);
        let [m0, m1, m2, m3, f0, f1, k0, k1, l0, l1, l2, l3, rest @ ..] = *bytes;
        let [w0, w1, w2, w3, w4, w5, w6, w7, h0, h1, h2, h3, c0, c1, c2, c3] = rest;
        if [m0, m1, m2, m3] != MAGIC {
            return Err("no record starts here".to_owned());
        }
        // First of all: nothing that a header says counts before it is known to be what was written.
        if crc32c::crc32c(checked) != u32::from_le_bytes([h0, h1, h2, h3]) {
            return Err("its header's checksum does not fit".to_owned());
        }
        let format = u16::from_le_bytes([f0, f1]);
        if format != FORMAT {
            return Err(format!("record format {format}, this program knows {FORMAT}"));
        }
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if usize::try_from(length).map_or(true, |length| length > RECORD_BYTES_MAX) {
            return Err(format!("a length of {length} bytes, at most {RECORD_BYTES_MAX} exist"));
        }
        Ok(Self {
            kind: u16::from_le_bytes([k0, k1]),
            length,
            wall: WallMillis(u64::from_le_bytes([w0, w1, w2, w3, w4, w5, w6, w7])),
            checksum: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// True if the checksum fits the header and this payload.
    pub(super) fn fits(&self, payload: &[u8]) -> bool {
        self.checksum == self.checksum_over(payload)
    }

    /// Header and payload in bytes.
    pub(super) fn record_bytes(&self) -> u64 {
        HEADER_BYTES as u64 + u64::from(self.length)
    }

    /// The bytes that both checksums begin with.
    fn checked(&self) -> [u8; CHECKED_BYTES] {
        let fields = MAGIC
            .into_iter()
            .chain(FORMAT.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.length.to_le_bytes())
            .chain(self.wall.0.to_le_bytes());
        filled(fields)
    }

    fn checksum_over(&self, payload: &[u8]) -> u32 {
        crc32c::crc32c_append(crc32c::crc32c(&self.checked()), payload)
    }
}

fn filled<const N: usize>(fields: impl Iterator<Item = u8>) -> [u8; N] {
    let mut bytes = [0; N];
    for (to, from) in bytes.iter_mut().zip(fields) {
        *to = from;
    }
    bytes
}

/// True if `bytes` could be the beginning of a record that a killed process was writing.
pub(super) fn starts_like_a_record(bytes: &[u8]) -> bool {
    bytes.iter().zip(&MAGIC).all(|(have, want)| have == want)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_of_a_record_are_these() {
        let header = Header::of(0x0102, WallMillis(0x0304_0506_0708), b"payload").unwrap();
        assert_eq!(
            header.encode()[..20],
            [
                b'C', b'R', b'E', b'C', // magic
                2, 0, // format
                0x02, 0x01, // kind
                7, 0, 0, 0, // length
                0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0, 0, // wall
            ]
        );
        // Computed apart, bit by bit.
        assert_eq!(header.encode()[20..24], 0x258f_4723_u32.to_le_bytes());
        assert_eq!(header.encode()[24..], 0x8b01_679a_u32.to_le_bytes());
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(file_header().len() as u64, FILE_HEADER_BYTES);
    }

    #[test]
    fn a_payload_over_the_limit_has_no_header() {
        assert!(Header::of(0, WallMillis(0), &vec![0; RECORD_BYTES_MAX]).is_some());
        assert!(Header::of(0, WallMillis(0), &vec![0; RECORD_BYTES_MAX + 1]).is_none());
    }
}
