//! FedAvg (McMahan et al. 2017, alg. 1): next = base + 2^e · Σ n_i·x_i / Σ n_i.
//!
//! In f64, in this order: the sum to f64, ÷ W, × step (exact, a power of two), + base; then one
//! rounding to f32. Rust contracts nothing into an FMA, so every machine gets the same bytes.
//! Coordinates outside of the layout's weights are copied from the base.

use std::ops::Range;

use consilium_common::limits::{CHUNK_BYTES, WEIGHT_SUM_MAX};
use consilium_common::tensor::layout::Layout;
use consilium_common::update::grid::step;

/// Coordinates of a model that are made at a time.
const CHUNK_COORDINATES: usize = CHUNK_BYTES / 4;

/// Why there is no next model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FedAvgError {
    /// Nothing to divide by, or more than a sum holds.
    #[error("a sum of weights of {0} is none: it must lie within 1 and {WEIGHT_SUM_MAX}")]
    Weight(u64),
    /// Bytes or sums that are not those of the segment.
    #[error("the segment has {need} coordinates, {have} were given in the {what}")]
    Length {
        /// Base or sum.
        what: &'static str,
        /// Coordinates given.
        have: usize,
        /// Coordinates of the segment.
        need: usize,
    },
    /// The next model is not finite.
    #[error("the next model is not finite at parameter {0}")]
    NotFinite(usize),
}

/// A part of the model that is made in one go: at most 1 MiB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Its coordinates in the model's flat vector.
    pub vector: Range<usize>,
    /// The same coordinates in the sum; `None` for a frozen part, which is copied from the base.
    pub sum: Option<Range<usize>>,
}

impl Segment {
    fn split(self) -> impl Iterator<Item = Self> {
        let Self { vector, sum } = self;
        (0..vector.len()).step_by(CHUNK_COORDINATES).map(move |from| {
            let to = vector.len().min(from + CHUNK_COORDINATES);
            let within = |range: &Range<usize>| range.start + from..range.start + to;
            Self { vector: within(&vector), sum: sum.as_ref().map(within) }
        })
    }
}

/// The parts of a model in order, without a gap: what to read of the base, and where its sum lies.
pub fn segments(layout: &Layout) -> impl Iterator<Item = Segment> + use<> {
    let mut whole: Vec<Segment> = Vec::new();
    let (mut at, mut summed) = (0, 0);
    let frozen = |vector: Range<usize>| Segment { vector, sum: None };
    for range in layout.weights() {
        if at < range.start {
            whole.push(frozen(at..range.start));
        }
        let sum = summed..summed + range.len();
        (at, summed) = (range.end, sum.end);
        // Neighbouring tensors are one segment: small ones do not cost a read each.
        match whole.last_mut() {
            Some(Segment { vector, sum: Some(before) }) if vector.end == range.start => {
                (vector.end, before.end) = (range.end, sum.end)
            }
            _ => whole.push(Segment { vector: range, sum: Some(sum) }),
        }
    }
    if at < layout.len() {
        whole.push(frozen(at..layout.len()));
    }
    whole.into_iter().flat_map(Segment::split)
}

/// One round's step from base to next.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FedAvg {
    weight: f64,
    step: f64,
}

impl FedAvg {
    /// For a sum of weights W = Σ n_i and a grid step of 2^`step_exponent`.
    ///
    /// # Errors
    /// W is 0, or no sum has it.
    pub fn new(weight: u64, step_exponent: i32) -> Result<Self, FedAvgError> {
        let within = (1..WEIGHT_SUM_MAX).contains(&weight);
        let exact = u32::try_from(weight).ok().filter(|_| within);
        Ok(Self {
            weight: exact.map(f64::from).ok_or(FedAvgError::Weight(weight))?,
            step: step(step_exponent),
        })
    }

    /// Appends the next model's bytes of one segment. `base`: the segment's coordinates of the base
    /// as little-endian f32. `sum`: the whole sum of the round.
    ///
    /// # Errors
    /// `base` or `sum` do not fit the segment, or the next model is not finite; `out` is then of no
    /// use.
    pub fn next_segment(
        &self,
        segment: &Segment,
        base: &[u8],
        sum: &[i64],
        out: &mut Vec<u8>,
    ) -> Result<(), FedAvgError> {
        let need = segment.vector.len();
        if base.len() != 4 * need {
            let (what, have) = ("base", base.len() / 4);
            return Err(FedAvgError::Length { what, have, need });
        }
        let Some(range) = &segment.sum else {
            out.extend_from_slice(base);
            return Ok(());
        };
        let (what, have) = ("sum", sum.len().saturating_sub(range.start));
        let short = FedAvgError::Length { what, have, need };
        let sum = sum.get(range.clone()).ok_or(short)?;
        let finite = self.next_chunk(base, sum, out);
        finite.map_err(|at| FedAvgError::NotFinite(segment.vector.start + at))
    }

    /// Appends base + step·Σ/W; the error is the first coordinate that is not finite.
    fn next_chunk(&self, base: &[u8], sum: &[i64], out: &mut Vec<u8>) -> Result<(), usize> {
        let start = out.len();
        out.resize(start + base.len(), 0);
        let made = out.get_mut(start..).unwrap_or_default();
        let (made, base) = (made.as_chunks_mut::<4>().0, base.as_chunks::<4>().0);
        for ((made, base), sum) in made.iter_mut().zip(base).zip(sum) {
            *made = self.next(f32::from_le_bytes(*base), *sum).to_le_bytes();
        }
        let not_finite = |bytes: &[u8; 4]| !f32::from_le_bytes(*bytes).is_finite();
        made.iter().position(not_finite).map_or(Ok(()), Err)
    }

    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "the two roundings of the formula: the sum to f64, the result to f32"
    )]
    fn next(&self, base: f32, sum: i64) -> f32 {
        (f64::from(base) + sum as f64 / self.weight * self.step) as f32
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::tensor::flat::decode_f32;
    use consilium_common::tensor::layout::Kind;
    use proptest::prelude::*;

    use super::*;

    fn layout(tensors: &[(&str, u32, Kind)]) -> Layout {
        let specs = tensors.iter();
        Layout::new(specs.map(|(name, len, kind)| ((*name).to_owned(), vec![*len], *kind))).unwrap()
    }

    fn le(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    /// The next model made segment by segment.
    fn next(
        layout: &Layout,
        step: FedAvg,
        base: &[f32],
        sum: &[i64],
    ) -> Result<Vec<f32>, FedAvgError> {
        let (base, mut out) = (le(base), Vec::new());
        for segment in segments(layout) {
            let piece = &base[4 * segment.vector.start..4 * segment.vector.end];
            step.next_segment(&segment, piece, sum, &mut out)?;
        }
        Ok(decode_f32(&out))
    }

    #[test]
    fn neighbours_are_one_segment_frozen_parts_are_copied_and_long_parts_are_cut() {
        let long = u32::try_from(CHUNK_COORDINATES).unwrap() + 10;
        let layout = layout(&[
            ("mean", 3, Kind::Frozen),
            ("a", 2, Kind::Weight),
            ("b", long, Kind::Weight),
            ("std", 3, Kind::Frozen),
            ("c", 1, Kind::Weight),
            ("last", 2, Kind::Frozen),
        ]);
        let chunk = CHUNK_COORDINATES;
        let parts: Vec<_> = segments(&layout).map(|part| (part.vector, part.sum)).collect();
        assert_eq!(
            parts,
            [
                (0..3, None),
                (3..3 + chunk, Some(0..chunk)),
                (3 + chunk..15 + chunk, Some(chunk..12 + chunk)),
                (15 + chunk..18 + chunk, None),
                (18 + chunk..19 + chunk, Some(12 + chunk..13 + chunk)),
                (19 + chunk..21 + chunk, None),
            ]
        );
    }

    #[test]
    fn the_mean_is_added_to_the_weights_and_to_nothing_else() {
        let layout =
            layout(&[("a", 2, Kind::Weight), ("mean", 2, Kind::Frozen), ("b", 1, Kind::Weight)]);
        let step = FedAvg::new(4, -2).unwrap();
        let made = next(&layout, step, &[1.0, -1.0, f32::NAN, 7.0, 0.5], &[16, -32, 8]).unwrap();
        assert_eq!(made[..2], [2.0, -3.0]);
        assert!(made[2].is_nan());
        assert_eq!(made[3..], [7.0, 1.0]);
    }

    #[test]
    fn the_result_is_rounded_once() {
        // 1 + 2^-24 + 2^-50 lies above the middle of two f32; rounding the mean first would lose that.
        let layout = layout(&[("a", 1, Kind::Weight)]);
        let step = FedAvg::new(1, -50).unwrap();
        let made = next(&layout, step, &[1.0], &[(1 << 26) + 1]).unwrap();
        assert_eq!(made, [1.0 + f32::EPSILON]);
    }

    /// Computed once more by hand, with Python's floats.
    #[test]
    fn golden_bits_that_every_machine_must_give() {
        let layout = layout(&[("a", 3, Kind::Weight)]);
        let step = FedAvg::new(59_999, -26).unwrap();
        let sum = [1_234_567_890_123, -987_654_321_098_765, 3];
        let made = next(&layout, step, &[0.1, -2.5, 1e-30], &sum).unwrap();
        let bits: Vec<u32> = made.iter().map(|x| x.to_bits()).collect();
        assert_eq!(bits, [0x3ed0_2fa0, 0xc377_ca6b, 0x2b51_b7fc]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        let layout = layout(&[("a", 2, Kind::Weight)]);
        assert_eq!(FedAvg::new(0, 0), Err(FedAvgError::Weight(0)));
        assert_eq!(FedAvg::new(1 << 32, 0), Err(FedAvgError::Weight(1 << 32)));
        let step = FedAvg::new(1, 0).unwrap();
        let segment = segments(&layout).next().unwrap();
        let short = |what, have| Err(FedAvgError::Length { what, have, need: 2 });
        let mut out = Vec::new();
        assert_eq!(step.next_segment(&segment, &[0; 4], &[0, 0], &mut out), short("base", 1));
        assert_eq!(step.next_segment(&segment, &[0; 8], &[0], &mut out), short("sum", 1));
        let huge = FedAvg::new(1, 100).unwrap();
        let made = next(&layout, huge, &[0.0, 0.0], &[0, 1 << 60]);
        assert_eq!(made, Err(FedAvgError::NotFinite(1)));
    }

    proptest! {
        #[test]
        fn the_formula_holds(base in -1e6_f32..1e6, sum in -(1_i64 << 61)..1 << 61, weight in 1_u64..1 << 32) {
            let layout = layout(&[("a", 1, Kind::Weight)]);
            let made = next(&layout, FedAvg::new(weight, -30).unwrap(), &[base], &[sum]).unwrap();
            let exact = f64::from(base) + sum as f64 / weight as f64 / f64::from(1 << 30);
            prop_assert!((f64::from(made[0]) - exact).abs() <= exact.abs() * 1.2e-7 + 1e-30);
        }
    }
}
