//! A model in parts of at most 1 MiB: what is read, made and written in one go.

use std::ops::Range;

use consilium_common::limits::CHUNK_BYTES;
use consilium_common::tensor::layout::Layout;

/// Coordinates of a model that are made at a time.
const CHUNK_COORDINATES: usize = CHUNK_BYTES / 4;

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

#[cfg(test)]
mod tests {
    use consilium_common::tensor::layout::Kind;

    use super::*;

    fn layout(tensors: &[(&str, u32, Kind)]) -> Layout {
        let specs = tensors.iter();
        Layout::new(specs.map(|(name, len, kind)| ((*name).to_owned(), vec![*len], *kind))).unwrap()
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
}
