//! What a worker counted, read a piece at a time by position. A count that the sums have no room for
//! never leaves the site.

use std::io;

use consilium_common::limits::{CHUNK_BYTES, GRID_MAX};
use consilium_common::update::sections::decode_i32;

use super::{ReadAt, UpdateError};

/// A file of little-endian i32.
pub(super) struct Counts<'a> {
    file: &'a dyn ReadAt,
    len: usize,
}

impl std::fmt::Debug for Counts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Counts").field("len", &self.len).finish_non_exhaustive()
    }
}

impl<'a> Counts<'a> {
    /// A file that must hold `len` counts, each within ±[`GRID_MAX`].
    ///
    /// # Errors
    /// Another length, a count out of bounds, or the system refused.
    pub(super) fn open(len: usize, file: &'a dyn ReadAt) -> Result<Self, UpdateError> {
        let (have, need) = (file.bytes()?, 4 * len as u64);
        if have != need {
            return Err(UpdateError::Counts { have, need });
        }
        let counts = Self { file, len };
        let (mut before, mut outside) = (0, None);
        counts.pieces(|piece| {
            let wrong = |count: &i32| count.unsigned_abs() > GRID_MAX.unsigned_abs();
            let found = decode_i32(piece).enumerate().find(|(_, count)| wrong(count));
            if outside.is_none() {
                outside = found.map(|(at, have)| (before + at, have));
            }
            before += piece.len() / 4;
            Ok(())
        })?;
        match outside {
            Some((index, have)) => Err(UpdateError::Count { index, have }),
            None => Ok(counts),
        }
    }

    /// How many.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Gives `take` the bytes of one piece after the other.
    ///
    /// # Errors
    /// The file cannot be read, or `take` refused.
    pub(super) fn pieces(&self, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
        let mut bytes = Vec::new();
        for first in (0..4 * self.len).step_by(CHUNK_BYTES) {
            bytes.resize(CHUNK_BYTES.min(4 * self.len - first), 0);
            self.file.read_at(&mut bytes, first as u64)?;
            take(&bytes)?;
        }
        Ok(())
    }
}
