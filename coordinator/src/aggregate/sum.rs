//! The exact sum of a round: Σ n_i·x_i, i64 per coordinate.
//!
//! Integer addition is associative and commutative, so neither the order of updates, nor the chunks
//! that they come in, nor the number of threads changes one bit (DESIGN.md §6).
//!
//! # It cannot overflow
//! A weight enters through [`Sum::admit`], which keeps Σ n_i below 2^32. A coordinate is an i32, so
//! |x_i| ≤ 2^31 even before validation bounds it by 2^30, and |Σ n_i·x_i| ≤ (2^32 − 1)·2^31 < 2^63.

use consilium_common::ids::Digest;
use consilium_common::limits::{GRID_MAX, WEIGHT_SUM_MAX};

const _: () = assert!(
    (WEIGHT_SUM_MAX as u128 - 1) * (1 << 31) < 1 << 63,
    "any i32 under any admitted weights fits an i64"
);
const _: () = assert!(
    GRID_MAX as u128 <= 1 << 31,
    "the grid is narrower than an i32"
);

/// Coordinates that are turned into bytes at a time for the digest.
const DIGEST_COORDINATES: usize = 8192;

/// Why something is not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SumError {
    /// The sum of weights would reach its bound.
    #[error("a weight of {weight} more than {sum} exceeds the bound of {WEIGHT_SUM_MAX}")]
    Weight {
        /// The weights so far.
        sum: u64,
        /// The one refused.
        weight: u64,
    },
    /// A chunk that does not lie within the sum.
    #[error("a chunk of {len} coordinates from {offset} does not lie within {coordinates}")]
    Range {
        /// First coordinate of the chunk.
        offset: usize,
        /// Its length.
        len: usize,
        /// Coordinates of the sum.
        coordinates: usize,
    },
    /// Sums of different lengths.
    #[error("a sum of {have} coordinates cannot be added to one of {need}")]
    Length {
        /// Coordinates of the other sum.
        have: usize,
        /// Coordinates of this one.
        need: usize,
    },
    /// Bytes that end within a coordinate.
    #[error("{0} bytes are not a whole number of 4-byte coordinates")]
    Ragged(usize),
}

/// An admitted weight: one update is added with it, each coordinate once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(i64);

/// The sum. 8 bytes a coordinate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    accumulator: Vec<i64>,
    weight: u64,
}

impl Sum {
    /// Zero in so many coordinates: `layout.weights_len()`.
    #[must_use]
    pub fn new(coordinates: usize) -> Self {
        Self {
            accumulator: vec![0; coordinates],
            weight: 0,
        }
    }

    /// Σ n_i of the admitted updates.
    #[must_use]
    pub fn weight(&self) -> u64 {
        self.weight
    }

    /// The coordinates.
    #[must_use]
    pub fn as_slice(&self) -> &[i64] {
        &self.accumulator
    }

    /// Admits an update of weight n_i; its chunks are added with the share that comes back.
    ///
    /// # Errors
    /// Σ n_i would reach [`WEIGHT_SUM_MAX`].
    pub fn admit(&mut self, weight: u64) -> Result<Share, SumError> {
        let sum = self.weight;
        let refused = SumError::Weight { sum, weight };
        let next = sum
            .checked_add(weight)
            .filter(|next| *next < WEIGHT_SUM_MAX);
        self.weight = next.ok_or(refused)?;
        i64::try_from(weight).map(Share).map_err(|_| refused)
    }

    /// Adds n_i · `units` to the coordinates from `offset` on.
    ///
    /// # Errors
    /// The chunk does not lie within the sum; nothing was added.
    pub fn add(&mut self, share: Share, offset: usize, units: &[i32]) -> Result<(), SumError> {
        let target = self.range(offset, units.len())?;
        for (sum, unit) in target.iter_mut().zip(units) {
            *sum += share.0 * i64::from(*unit);
        }
        Ok(())
    }

    /// Adds n_i times the little-endian i32 in `bytes` to the coordinates from `offset` on.
    ///
    /// # Errors
    /// The chunk is ragged or does not lie within the sum; nothing was added.
    pub fn add_bytes(&mut self, share: Share, offset: usize, bytes: &[u8]) -> Result<(), SumError> {
        let (units, ragged) = bytes.as_chunks::<4>();
        if !ragged.is_empty() {
            return Err(SumError::Ragged(bytes.len()));
        }
        let target = self.range(offset, units.len())?;
        for (sum, unit) in target.iter_mut().zip(units) {
            *sum += share.0 * i64::from(i32::from_le_bytes(*unit));
        }
        Ok(())
    }

    /// Adds another sum, such as the one of another thread.
    ///
    /// # Errors
    /// Another length, or Σ n_i would reach [`WEIGHT_SUM_MAX`]; nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), SumError> {
        let (have, need) = (other.accumulator.len(), self.accumulator.len());
        if have != need {
            return Err(SumError::Length { have, need });
        }
        self.admit(other.weight)?;
        for (sum, more) in self.accumulator.iter_mut().zip(&other.accumulator) {
            *sum += more;
        }
        Ok(())
    }

    /// BLAKE3 of the coordinates as little-endian i64, in the order of the update.
    #[must_use]
    pub fn digest(&self) -> Digest {
        let mut hasher = blake3::Hasher::new();
        let mut bytes = vec![0; 8 * DIGEST_COORDINATES];
        for chunk in self.accumulator.chunks(DIGEST_COORDINATES) {
            let (words, _) = bytes.as_chunks_mut::<8>();
            for (word, sum) in words.iter_mut().zip(chunk) {
                *word = sum.to_le_bytes();
            }
            hasher.update(bytes.get(..8 * chunk.len()).unwrap_or_default());
        }
        hasher.finalize().into()
    }

    fn range(&mut self, offset: usize, len: usize) -> Result<&mut [i64], SumError> {
        let coordinates = self.accumulator.len();
        let outside = SumError::Range {
            offset,
            len,
            coordinates,
        };
        let end = offset.checked_add(len).ok_or(outside)?;
        self.accumulator.get_mut(offset..end).ok_or(outside)
    }
}

#[cfg(test)]
mod tests;
