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
fn next(layout: &Layout, step: FedAvg, base: &[f32], sum: &[i64]) -> Result<Vec<f32>, FedAvgError> {
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
    let parts: Vec<_> = segments(&layout)
        .map(|part| (part.vector, part.sum))
        .collect();
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
    let layout = layout(&[
        ("a", 2, Kind::Weight),
        ("mean", 2, Kind::Frozen),
        ("b", 1, Kind::Weight),
    ]);
    let step = FedAvg::new(4, -2).unwrap();
    let made = next(
        &layout,
        step,
        &[1.0, -1.0, f32::NAN, 7.0, 0.5],
        &[16, -32, 8],
    )
    .unwrap();
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
    let short = |what, have| {
        Err(FedAvgError::Length {
            what,
            have,
            need: 2,
        })
    };
    let mut out = Vec::new();
    assert_eq!(
        step.next_segment(&segment, &[0; 4], &[0, 0], &mut out),
        short("base", 1)
    );
    assert_eq!(
        step.next_segment(&segment, &[0; 8], &[0], &mut out),
        short("sum", 1)
    );
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
