//! The bytes of an update: a fixed header, a table of sections, the sections. All little-endian.
//!
//! ```text
//! magic "CUPD" · format u16 = 1 · sections u16 · round u64 · step exponent i32 · reserved u32 = 0
//! study digest 32 · base model digest 32 · layout digest 32                        (120 bytes)
//! per section: kind u16 · encoding u16 · step exponent i32 · length in bytes u64   (16 bytes)
//! the sections in the order of the table
//! ```
//! Kinds: 1 `shared` (encoding 1: i32 grid units; of a `prepare` round whole counts, step 2^0), 3 `control`
//! (encoding 1; SCAFFOLD's Δc, [`super::control`]), in updates of a training under that strategy alone,
//! 4 `words` (encoding 2: u32). 2 `buffers` is reserved for what DESIGN.md §6 names. The step of `shared`
//! stands in the header; in the table `control` alone has one, the others 0.

use crate::ids::{Digest, Round};
use crate::le;
use crate::limits::{PARAMETERS_MAX, WORDS_MAX};

const MAGIC: &[u8; 4] = b"CUPD";
const FORMAT: u16 = 1;
const FIXED_BYTES: usize = 120;
const ENTRY_BYTES: usize = 16;
const SHARED: (u16, u16) = (1, 1);
const CONTROL: (u16, u16) = (3, 1);
const WORDS: (u16, u16) = (4, 2);
/// Bytes before the first section of an update with `shared` and `words`.
pub const HEADER_BYTES: usize = FIXED_BYTES + 2 * ENTRY_BYTES;
/// The same of an update with `control` too.
pub const HEADER_BYTES_MAX: usize = HEADER_BYTES + ENTRY_BYTES;

/// The `control` section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ControlSection {
    /// Its grid's step is 2^this.
    pub step_exponent: i32,
    /// Its coordinates.
    pub len: usize,
}

/// What an update says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The round it was trained for.
    pub round: Round,
    /// The grid's step is 2^this.
    pub step_exponent: i32,
    /// Digest of the signed study.
    pub study: Digest,
    /// Digest of the model that it is a delta to.
    pub base: Digest,
    /// Digest of the layout.
    pub layout: Digest,
    /// Coordinates of the `shared` section.
    pub shared_len: usize,
    /// The `control` section, if there is one.
    pub control: Option<ControlSection>,
    /// Words of the `words` section.
    pub words_len: usize,
}

/// Why bytes are not an update.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// Shorter than a header.
    #[error("an update has at least {HEADER_BYTES} bytes, this has {0}")]
    Short(usize),
    /// Other first bytes.
    #[error("not an update: it does not start with CUPD")]
    Magic,
    /// A format of another release.
    #[error("update format {0} is not known here (this version reads format {FORMAT})")]
    Format(u16),
    /// Sections other than `shared`, perhaps `control`, and `words`, each once, in this order.
    #[error("section {index}: kind {kind}, encoding {encoding} is not expected here")]
    Section {
        /// Position in the table.
        index: usize,
        /// Kind in the table.
        kind: u16,
        /// Encoding in the table.
        encoding: u16,
    },
    /// A reserved field that is not zero.
    #[error("a reserved field of the update's header is not zero")]
    Reserved,
    /// A length over its bound or not a multiple of 4.
    #[error("the {section} section claims {bytes} bytes, which no update has")]
    Claim {
        /// Which section.
        section: &'static str,
        /// Claimed length.
        bytes: u64,
    },
    /// Sections and bytes do not add up.
    #[error("the update has {have} bytes, its header speaks of {need}")]
    Length {
        /// Bytes given.
        have: u64,
        /// Bytes by the header.
        need: u64,
    },
}

impl Header {
    /// Bytes before the first section.
    #[must_use]
    pub fn header_bytes_len(&self) -> usize {
        if self.control.is_some() { HEADER_BYTES_MAX } else { HEADER_BYTES }
    }

    /// Grid units of `shared` and `control`, which follow one another.
    #[must_use]
    pub fn units_len(&self) -> usize {
        self.shared_len + self.control.map_or(0, |control| control.len)
    }

    /// Bytes of the whole update.
    #[must_use]
    pub fn update_bytes_len(&self) -> u64 {
        self.words_offset() + 4 * self.words_len as u64
    }

    /// Where the `words` section starts.
    #[must_use]
    pub fn words_offset(&self) -> u64 {
        self.header_bytes_len() as u64 + 4 * self.units_len() as u64
    }

    /// The header's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let control = self.control.map(|section| (CONTROL, section.step_exponent, section.len));
        let (shared, words) = ((SHARED, 0, self.shared_len), (WORDS, 0, self.words_len));
        let sections = [Some(shared), control, Some(words)].into_iter().flatten();
        let mut out = Vec::with_capacity(self.header_bytes_len());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&if control.is_some() { 3_u16 } else { 2 }.to_le_bytes());
        out.extend_from_slice(&self.round.0.to_le_bytes());
        out.extend_from_slice(&self.step_exponent.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        for digest in [self.study, self.base, self.layout] {
            out.extend_from_slice(&digest.0);
        }
        for ((kind, encoding), step_exponent, len) in sections {
            out.extend_from_slice(&kind.to_le_bytes());
            out.extend_from_slice(&encoding.to_le_bytes());
            out.extend_from_slice(&i32::to_le_bytes(step_exponent));
            out.extend_from_slice(&(4 * len as u64).to_le_bytes());
        }
        out
    }

    /// Reads a header from the first bytes of an update of `total` bytes: as many as it has, or more.
    ///
    /// # Errors
    /// One variant per way of being malformed.
    pub fn decode(bytes: &[u8], total: u64) -> Result<Self, UpdateError> {
        let short = || UpdateError::Short(bytes.len());
        let mut reader = Reader(bytes.get(..HEADER_BYTES).ok_or_else(short)?);
        if &reader.array::<4>() != MAGIC {
            return Err(UpdateError::Magic);
        }
        let format = u16::from_le_bytes(reader.array());
        if format != FORMAT {
            return Err(UpdateError::Format(format));
        }
        let sections = u16::from_le_bytes(reader.array());
        if sections == 3 {
            let all = bytes.get(..HEADER_BYTES_MAX).ok_or_else(short)?;
            reader.0 = all.get(8..).unwrap_or_default();
        }
        let round = Round(u64::from_le_bytes(reader.array()));
        let step_exponent = i32::from_le_bytes(reader.array());
        reader.reserved()?;
        let [study, base, layout] = [(); 3].map(|()| Digest(reader.array()));
        if !matches!(sections, 2 | 3) {
            return Err(UpdateError::Section { index: sections.into(), kind: 0, encoding: 0 });
        }
        let shared_len = reader.plain_entry(0, SHARED, "shared", PARAMETERS_MAX)?;
        let control = if sections == 3 {
            let (len, step_exponent) = reader.entry(1, CONTROL, "control", PARAMETERS_MAX)?;
            Some(ControlSection { step_exponent, len })
        } else {
            None
        };
        let last = usize::from(sections) - 1;
        let words_len = reader.plain_entry(last, WORDS, "words", WORDS_MAX as u64)?;
        let header =
            Self { round, step_exponent, study, base, layout, shared_len, control, words_len };
        let need = header.update_bytes_len();
        if need == total { Ok(header) } else { Err(UpdateError::Length { have: total, need }) }
    }
}

/// The whole update as bytes; `units` are those of `shared`, then those of `control`.
#[must_use]
pub fn encode_update(header: &Header, units: &[i32], words: &[u32]) -> Vec<u8> {
    debug_assert_eq!((units.len(), words.len()), (header.units_len(), header.words_len));
    let mut out = header.encode();
    out.reserve_exact(4 * (units.len() + words.len()));
    le::extend_i32(&mut out, units);
    le::extend_u32(&mut out, words);
    out
}

/// Little-endian grid units; a ragged end is left out.
pub fn decode_i32(bytes: &[u8]) -> impl Iterator<Item = i32> + '_ {
    bytes.as_chunks::<4>().0.iter().map(|word| i32::from_le_bytes(*word))
}

/// Little-endian words; a ragged end is left out.
#[must_use]
pub fn decode_words(bytes: &[u8]) -> Vec<u32> {
    bytes.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect()
}

/// Takes fixed-size pieces off the front. The caller has checked that the header is whole.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> [u8; N] {
        match self.0.split_first_chunk::<N>() {
            Some((piece, rest)) => {
                self.0 = rest;
                *piece
            }
            None => [0; N],
        }
    }

    fn reserved(&mut self) -> Result<(), UpdateError> {
        if self.array::<4>() == [0; 4] { Ok(()) } else { Err(UpdateError::Reserved) }
    }

    /// An entry without a step.
    fn plain_entry(
        &mut self,
        index: usize,
        expected: (u16, u16),
        section: &'static str,
        len_max: u64,
    ) -> Result<usize, UpdateError> {
        match self.entry(index, expected, section, len_max)? {
            (len, 0) => Ok(len),
            _ => Err(UpdateError::Reserved),
        }
    }

    /// The section's coordinates and its step's exponent.
    fn entry(
        &mut self,
        index: usize,
        expected: (u16, u16),
        section: &'static str,
        len_max: u64,
    ) -> Result<(usize, i32), UpdateError> {
        let kind = u16::from_le_bytes(self.array());
        let encoding = u16::from_le_bytes(self.array());
        if (kind, encoding) != expected {
            return Err(UpdateError::Section { index, kind, encoding });
        }
        let step_exponent = i32::from_le_bytes(self.array());
        let bytes = u64::from_le_bytes(self.array());
        if !bytes.is_multiple_of(4) || bytes / 4 > len_max {
            return Err(UpdateError::Claim { section, bytes });
        }
        let len = usize::try_from(bytes / 4).map_err(|_| UpdateError::Claim { section, bytes })?;
        Ok((len, step_exponent))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            round: Round(1),
            step_exponent: -26,
            study: Digest([1; 32]),
            base: Digest([2; 32]),
            layout: Digest([3; 32]),
            shared_len: 2,
            control: None,
            words_len: 1,
        }
    }

    fn with_control() -> Header {
        Header { control: Some(ControlSection { step_exponent: -31, len: 2 }), ..header() }
    }

    #[test]
    fn a_control_section_has_a_place_and_a_step_of_its_own() {
        let good = encode_update(&with_control(), &[1, 2, -3, 4], &[5]);
        let total = good.len() as u64;
        assert_eq!(total, with_control().update_bytes_len());
        assert_eq!(Header::decode(&good, total), Ok(with_control()));
        assert_eq!(Header::decode(&good[..HEADER_BYTES_MAX], total), Ok(with_control()));
        let units: Vec<i32> = decode_i32(&good[HEADER_BYTES_MAX..]).take(4).collect();
        assert_eq!(units, [1, 2, -3, 4]);
        let words = usize::try_from(with_control().words_offset()).unwrap();
        assert_eq!(decode_words(&good[words..]), [5]);
        assert_eq!(Header::decode(&good[..160], total), Err(UpdateError::Short(160)));
        let mut twice = good;
        twice[136] = 1;
        let again = UpdateError::Section { index: 1, kind: 1, encoding: 1 };
        assert_eq!(Header::decode(&twice, total), Err(again));
    }

    #[test]
    fn one_error_for_every_way_of_being_malformed() {
        let good = encode_update(&header(), &[1, 2], &[3]);
        let total = good.len() as u64;
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Header::decode(&bytes, total)
        };
        assert_eq!(Header::decode(&good, total), Ok(header()));
        assert_eq!(Header::decode(&good[..150], 150), Err(UpdateError::Short(150)));
        assert_eq!(with(0, b'X'), Err(UpdateError::Magic));
        assert_eq!(with(4, 9), Err(UpdateError::Format(9)));
        assert!(matches!(with(6, 4), Err(UpdateError::Section { index: 4, .. })));
        assert_eq!(with(6, 3), Err(UpdateError::Short(164)));
        assert_eq!(with(20, 1), Err(UpdateError::Reserved));
        assert!(matches!(with(120, 2), Err(UpdateError::Section { index: 0, kind: 2, .. })));
        assert!(matches!(with(138, 1), Err(UpdateError::Section { index: 1, encoding: 1, .. })));
        assert_eq!(with(124, 1), Err(UpdateError::Reserved));
        assert!(matches!(with(128, 9), Err(UpdateError::Claim { section: "shared", bytes: 9 })));
        assert!(matches!(with(150, 1), Err(UpdateError::Claim { section: "words", .. })));
        assert!(matches!(with(128, 16), Err(UpdateError::Length { .. })));
        let short = Header::decode(&good, total - 1);
        assert_eq!(short, Err(UpdateError::Length { have: total - 1, need: total }));
    }
}
