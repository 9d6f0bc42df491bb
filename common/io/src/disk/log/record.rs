//! One record's bytes, and the file's head. Everything is little-endian.
//!
//! ```text
//! file    0  14  "consilium log\n"
//!        14   2  format of the file, 1
//!        16   …  records, one after the other, nothing between them
//!
//! record  0   4  magic "CREC"
//!         4   2  format of the record, 1
//!         6   2  kind
//!         8   4  length of the payload in bytes, at most limits::RECORD_BYTES_MAX
//!        12   8  wall, milliseconds since 1970-01-01T00:00Z
//!        20   4  CRC-32C (RFC 3720 §12.1) over bytes 0..20 and the payload
//!        24   …  payload
//! ```

use consilium_common::limits::RECORD_BYTES_MAX;
use consilium_common::time::WallMillis;

/// First bytes of a log file.
pub(super) const FILE_MAGIC: &[u8; 14] = b"consilium log\n";
/// Bytes before the first record.
pub(super) const FILE_HEADER_BYTES: u64 = 16;
/// The one format that this code reads and writes, of files and of records.
pub(super) const FORMAT: u16 = 1;
/// First bytes of a record.
pub(super) const MAGIC: [u8; 4] = *b"CREC";
/// Bytes of a record before its payload.
pub(super) const HEADER_BYTES: usize = 24;
/// How many of those the checksum covers: all but the checksum itself.
const CHECKED_BYTES: usize = HEADER_BYTES - 4;

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
        let mut bytes = [0; HEADER_BYTES];
        let fields = MAGIC
            .into_iter()
            .chain(FORMAT.to_le_bytes())
            .chain(self.kind.to_le_bytes())
            .chain(self.length.to_le_bytes())
            .chain(self.wall.0.to_le_bytes())
            .chain(self.checksum.to_le_bytes());
        for (to, from) in bytes.iter_mut().zip(fields) {
            *to = from;
        }
        bytes
    }

    /// Reads a header. `Err` says in a few words what is wrong with it.
    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let [m0, m1, m2, m3, f0, f1, k0, k1, l0, l1, l2, l3, rest @ ..] = *bytes;
        let [w0, w1, w2, w3, w4, w5, w6, w7, c0, c1, c2, c3] = rest;
        if [m0, m1, m2, m3] != MAGIC {
            return Err("no record starts here".to_owned());
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

    fn checksum_over(&self, payload: &[u8]) -> u32 {
        let encoded = self.encode();
        let (checked, _) = encoded.split_at(CHECKED_BYTES);
        crc32c::crc32c_append(crc32c::crc32c(checked), payload)
    }
}

/// True if `bytes` could be the beginning of a record that a killed process was writing.
pub(super) fn starts_like_a_record(bytes: &[u8]) -> bool {
    bytes.iter().zip(&MAGIC).all(|(have, want)| have == want)
}

/// True if a whole, intact record stands at the start of `bytes`.
fn holds_a_record(bytes: &[u8]) -> bool {
    let Some((header, rest)) = bytes.split_first_chunk() else {
        return false;
    };
    let Ok(header) = Header::decode(header) else {
        return false;
    };
    rest.get(..header.length as usize).is_some_and(|payload| header.fits(payload))
}

/// A record whose payload should be longer than the `rest` of the file was either never written to
/// its end, or its length field is damaged. True if it is the latter: the checksum holds for a
/// shorter payload, or an intact record stands in what should be the payload.
///
/// A payload may hold what peers wrote: its bytes are summed only up to where a whole header stands
/// (no text of ours has such bytes), not at every word that looks like its first four.
pub(super) fn length_is_damaged(header: &Header, rest: &[u8]) -> bool {
    (0..=rest.len()).any(|end| {
        let (payload, after) = rest.split_at(end);
        let begins = match after.first_chunk() {
            Some(header) => Header::decode(header).is_ok(),
            None => starts_like_a_record(after),
        };
        if !begins {
            return false;
        }
        let shorter = u32::try_from(end).map(|length| Header { length, ..*header });
        shorter.is_ok_and(|header| header.fits(payload)) || holds_a_record(after)
    })
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
                1, 0, // format
                0x02, 0x01, // kind
                7, 0, 0, 0, // length
                0x08, 0x07, 0x06, 0x05, 0x04, 0x03, 0, 0, // wall
            ]
        );
        assert_eq!(header.checksum, 0x1575_77d2, "computed apart, bit by bit");
        assert_eq!(Header::decode(&header.encode()), Ok(header));
        assert_eq!(file_header().len() as u64, FILE_HEADER_BYTES);
    }

    #[test]
    fn a_payload_full_of_magic_words_is_not_summed_at_each_of_them() {
        // At each of the 262,144 words this would be 15 seconds of a start.
        let payload = MAGIC.repeat(RECORD_BYTES_MAX / MAGIC.len());
        let header = Header::of(2, WallMillis(7), &payload).unwrap();
        let torn = payload.split_last().unwrap().1;
        assert!(!length_is_damaged(&header, torn));
        // A length that was made longer is still found out, whatever the payload holds.
        let honest = Header::of(2, WallMillis(7), torn).unwrap();
        let longer = Header { length: header.length, ..honest };
        let next = Header::of(1, WallMillis(8), b"").unwrap().encode();
        assert!(length_is_damaged(&longer, torn));
        assert!(length_is_damaged(&longer, &[torn, &next].concat()));
    }

    #[test]
    fn a_payload_over_the_limit_has_no_header() {
        assert!(Header::of(0, WallMillis(0), &vec![0; RECORD_BYTES_MAX]).is_some());
        assert!(Header::of(0, WallMillis(0), &vec![0; RECORD_BYTES_MAX + 1]).is_none());
    }
}
