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
        (0..vector.len())
            .step_by(CHUNK_COORDINATES)
            .map(move |from| {
                let to = vector.len().min(from + CHUNK_COORDINATES);
                let within = |range: &Range<usize>| range.start + from..range.start + to;
                Self {
                    vector: within(&vector),
                    sum: sum.as_ref().map(within),
                }
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
            Some(Segment {
                vector,
                sum: Some(before),
            }) if vector.end == range.start => (vector.end, before.end) = (range.end, sum.end),
            _ => whole.push(Segment {
                vector: range,
                sum: Some(sum),
            }),
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
mod tests;
