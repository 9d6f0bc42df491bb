//! The exact sum of a round: Σ n_i·x_i, i64 per coordinate.
//!
//! Integer addition is associative and commutative, so neither the order of updates, nor the chunks
//! that they come in, nor the number of threads changes one bit (DESIGN.md §6).
//!
//! # It cannot overflow
//! A weight enters through [`Sum::admit`], which keeps Σ n_i below 2^32. A coordinate is an i32, so
//! |x_i| ≤ 2^31 even before validation bounds it by 2^30, and |Σ n_i·x_i| ≤ (2^32 − 1)·2^31 < 2^63.
//! A `control` section, which follows, is added with weight 1: a sum of as many coordinates again.

use consilium_common::ids::Digest;
use consilium_common::limits::{GRID_MAX, WEIGHT_SUM_MAX};

const _: () = assert!(
    (WEIGHT_SUM_MAX as u128 - 1) * (1 << 31) < 1 << 63,
    "any i32 under any admitted weights fits an i64"
);
const _: () = assert!(GRID_MAX as u128 <= 1 << 31, "the grid is narrower than an i32");

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
    /// Sums of different lengths, or of other sections.
    #[error(
        "a sum of {have} coordinates cannot be added to one of {need}, or is weighed otherwise"
    )]
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

/// An admitted weight: one update is added with it (its `control` section with 1), each coordinate once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share(i64);

/// How many coordinates of an update are added up: the sections follow one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coordinates {
    /// Of `shared`.
    pub shared: usize,
    /// Of `control`, 0 without it.
    pub control: usize,
}

impl Coordinates {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> usize {
        self.shared + self.control
    }
}

/// The sum. 8 bytes a coordinate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sum {
    accumulator: Vec<i64>,
    /// From here on coordinates are not weighed.
    weighed: usize,
    weight: u64,
}

impl Sum {
    /// Zero in so many coordinates: `layout.weights_len()`.
    #[must_use]
    pub fn new(coordinates: usize) -> Self {
        Self::of(Coordinates { shared: coordinates, control: 0 })
    }

    /// Zero in these coordinates.
    #[must_use]
    pub fn of(coordinates: Coordinates) -> Self {
        let accumulator = vec![0; coordinates.all()];
        Self { accumulator, weighed: coordinates.shared, weight: 0 }
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
        let next = sum.checked_add(weight).filter(|next| *next < WEIGHT_SUM_MAX);
        self.weight = next.ok_or(refused)?;
        i64::try_from(weight).map(Share).map_err(|_| refused)
    }

    /// Adds n_i · `units` to the coordinates from `offset` on.
    ///
    /// # Errors
    /// The chunk does not lie within the sum; nothing was added.
    pub fn add(&mut self, share: Share, offset: usize, units: &[i32]) -> Result<(), SumError> {
        self.add_each(share, offset, units.iter().copied())
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
        self.add_each(share, offset, units.iter().map(|unit| i32::from_le_bytes(*unit)))
    }

    fn add_each(
        &mut self,
        share: Share,
        offset: usize,
        mut units: impl ExactSizeIterator<Item = i32>,
    ) -> Result<(), SumError> {
        let weighed = self.weighed.saturating_sub(offset);
        let target = self.range(offset, units.len())?;
        let (shared, control) = target.split_at_mut(weighed.min(target.len()));
        for (sum, unit) in shared.iter_mut().zip(units.by_ref()) {
            *sum += share.0 * i64::from(unit);
        }
        for (sum, unit) in control.iter_mut().zip(units) {
            *sum += i64::from(unit);
        }
        Ok(())
    }

    /// Adds another sum, such as the one of another thread.
    ///
    /// # Errors
    /// Another length, or Σ n_i would reach [`WEIGHT_SUM_MAX`]; nothing was added.
    pub fn merge(&mut self, other: &Self) -> Result<(), SumError> {
        let (have, need) = (other.accumulator.len(), self.accumulator.len());
        if have != need || other.weighed != self.weighed {
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
        let outside = SumError::Range { offset, len, coordinates };
        let end = offset.checked_add(len).ok_or(outside)?;
        self.accumulator.get_mut(offset..end).ok_or(outside)
    }
}

#[cfg(test)]
mod tests {
    //! One digest, whatever the order, the chunks and the number of threads.

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_control_section_is_added_with_weight_one_wherever_its_chunks_begin() {
        let units: Vec<i32> = vec![5, -7, 11, 100, -200, 300];
        let bytes: Vec<u8> = units.iter().flat_map(|unit| unit.to_le_bytes()).collect();
        for size in 1..=6 {
            let mut sum = Sum::of(Coordinates { shared: 3, control: 3 });
            for weight in [3, 4] {
                let share = sum.admit(weight).unwrap();
                for (at, chunk) in bytes.chunks(4 * size).enumerate() {
                    sum.add_bytes(share, at * size, chunk).unwrap();
                }
            }
            assert_eq!(sum.as_slice(), [35, -49, 77, 200, -400, 600], "chunks of {size}");
            assert_eq!(sum.weight(), 7);
            assert_eq!(
                sum.merge(&Sum::new(6)),
                Err(SumError::Length { have: 6, need: 6 }),
                "weighed otherwise"
            );
        }
    }

    /// Cuts 0..len at the given places.
    fn ranges(len: usize, cuts: &[usize]) -> Vec<(usize, usize)> {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut % (len + 1)).collect();
        at.extend([0, len]);
        at.sort_unstable();
        at.windows(2).map(|pair| (pair[0], pair[1])).collect()
    }

    fn bytes(units: &[i32]) -> Vec<u8> {
        units.iter().flat_map(|unit| unit.to_le_bytes()).collect()
    }

    fn reference(updates: &[(u64, Vec<i32>)], len: usize) -> Vec<i64> {
        let at = |i: usize| {
            let terms = updates.iter().map(|(n, units)| i128::from(*n) * i128::from(units[i]));
            i64::try_from(terms.sum::<i128>()).unwrap()
        };
        (0..len).map(at).collect()
    }

    fn updates(len: usize) -> impl Strategy<Value = Vec<(u64, Vec<i32>)>> {
        let unit = -GRID_MAX..=GRID_MAX;
        proptest::collection::vec((1_u64..1 << 26, proptest::collection::vec(unit, len)), 1..12)
    }

    proptest! {
        #[test]
        fn any_order_any_chunks_any_threads_one_digest(
            updates in updates(37),
            order in any::<u64>(),
            cuts in proptest::collection::vec(any::<usize>(), 0..6),
            threads in 1_usize..5,
        ) {
            let mut plain = Sum::new(37);
            for (weight, units) in &updates {
                let share = plain.admit(*weight).unwrap();
                plain.add(share, 0, units).unwrap();
            }
            prop_assert_eq!(plain.as_slice(), reference(&updates, 37));

            let mut shuffled: Vec<_> = updates.iter().collect();
            let turn = usize::try_from(order % updates.len() as u64).unwrap();
            shuffled.rotate_left(turn);
            if order % 2 == 0 {
                shuffled.reverse();
            }
            let per_thread = shuffled.len().div_ceil(threads);
            let parts: Vec<Sum> = std::thread::scope(|scope| {
                let work = |share: &[&(u64, Vec<i32>)]| {
                    let mut sum = Sum::new(37);
                    for (weight, units) in share {
                        let share = sum.admit(*weight).unwrap();
                        for (from, to) in ranges(37, &cuts).into_iter().rev() {
                            sum.add_bytes(share, from, &bytes(&units[from..to])).unwrap();
                        }
                    }
                    sum
                };
                let handles: Vec<_> = shuffled.chunks(per_thread).map(|share| scope.spawn(move || work(share))).collect();
                handles.into_iter().map(|handle| handle.join().unwrap()).collect()
            });
            let mut merged = Sum::new(37);
            for part in &parts {
                merged.merge(part).unwrap();
            }
            prop_assert_eq!(merged.digest(), plain.digest());
            prop_assert_eq!(merged.weight(), plain.weight());
        }
    }

    #[test]
    fn the_largest_sum_that_is_admitted_fits() {
        let mut sum = Sum::new(2);
        let share = sum.admit(WEIGHT_SUM_MAX - 1).unwrap();
        sum.add(share, 0, &[i32::MIN, i32::MAX]).unwrap();
        let most = i64::try_from(WEIGHT_SUM_MAX - 1).unwrap();
        assert_eq!(sum.as_slice(), [most * i64::from(i32::MIN), most * i64::from(i32::MAX)]);
        let refused = SumError::Weight { sum: WEIGHT_SUM_MAX - 1, weight: 1 };
        assert_eq!(sum.admit(1), Err(refused));
        assert_eq!(
            Sum::new(1).admit(u64::MAX).unwrap_err(),
            SumError::Weight { sum: 0, weight: u64::MAX }
        );
    }

    #[test]
    fn a_chunk_that_does_not_fit_adds_nothing() {
        let mut sum = Sum::new(3);
        let share = sum.admit(1).unwrap();
        let outside = |offset, len| Err(SumError::Range { offset, len, coordinates: 3 });
        assert_eq!(sum.add(share, 2, &[1, 1]), outside(2, 2));
        assert_eq!(sum.add(share, usize::MAX, &[1]), outside(usize::MAX, 1));
        assert_eq!(sum.add_bytes(share, 0, &[0; 7]), Err(SumError::Ragged(7)));
        assert_eq!(sum.merge(&Sum::new(2)), Err(SumError::Length { have: 2, need: 3 }));
        assert_eq!(sum.as_slice(), [0, 0, 0]);
    }

    #[test]
    fn the_digest_is_that_of_the_little_endian_bytes() {
        let mut sum = Sum::new(DIGEST_COORDINATES + 3);
        let units: Vec<i32> =
            (0..i32::try_from(sum.as_slice().len()).unwrap()).map(|i| i - 99).collect();
        let share = sum.admit(7).unwrap();
        sum.add(share, 0, &units).unwrap();
        let bytes: Vec<u8> =
            units.iter().flat_map(|unit| (7 * i64::from(*unit)).to_le_bytes()).collect();
        assert_eq!(sum.digest(), Digest::of(&bytes));
    }
}
