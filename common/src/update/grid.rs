//! Fixed point: a delta becomes i32 grid units, so that sums are exact in any order.
//!
//! The step is a power of two, 2^e with e = ⌈log2 C⌉ − 30, so that |x| ≤ ‖Δ‖₂/step ≤ C/step ≤ 2^30
//! after clipping to C: no coordinate can saturate. Rounding is stochastic (up with the probability
//! of the fraction), so that the mean over sites has no bias.

use crate::limits::GRID_MAX;
use crate::random::Generator;

/// The step's exponent e for the clip bound C: the step is 2^e.
///
/// `clip_norm` must be finite and above 0, as every checked study's is.
#[must_use]
pub fn step_exponent(clip_norm: f64) -> i32 {
    // Exact: from the bits, not from a logarithm that rounds.
    let bits = clip_norm.to_bits();
    let exponent = i32::try_from((bits >> 52) & 0x7ff).unwrap_or(0) - 1023;
    let is_power_of_two = bits & ((1 << 52) - 1) == 0;
    let ceil_log2 = if is_power_of_two { exponent } else { exponent + 1 };
    ceil_log2 - 30
}

/// The exponent of counts: whole numbers have a step of 1.
pub const COUNT_STEP_EXPONENT: i32 = 0;

/// 2^e, exact for every e of [`step_exponent`].
#[must_use]
pub fn step(exponent: i32) -> f64 {
    let biased = u64::try_from(exponent.clamp(-1022, 1023) + 1023).unwrap_or(0);
    f64::from_bits(biased << 52)
}

/// Encodes `delta · scale` (all finite) as grid units.
#[must_use]
pub fn quantise(delta: &[f32], scale: f64, exponent: i32, generator: &mut Generator) -> Vec<i32> {
    let mut units = vec![0; delta.len()];
    quantise_into(&mut units, delta, scale * step(-exponent), generator);
    units
}

/// Writes the grid units of `delta · factor` to `units`, which is as long; `factor` is scale / step.
pub fn quantise_into(units: &mut [i32], delta: &[f32], factor: f64, generator: &mut Generator) {
    let mut words = [0; 256];
    for (units, delta) in units.chunks_mut(words.len()).zip(delta.chunks(words.len())) {
        let words = words.get_mut(..units.len()).unwrap_or_default();
        generator.fill(words);
        for ((unit, &x), &word) in units.iter_mut().zip(delta).zip(&*words) {
            *unit = round_stochastically(f64::from(x) * factor, word);
        }
    }
}

/// Up with the probability of the fraction: `word` / 2^32 is uniform in [0, 1).
#[inline]
fn round_stochastically(value: f64, word: u32) -> i32 {
    /// 1.5 · 2^52: a sum with it has no bits left for a fraction, and the integer in its low bits.
    const SHIFT: f64 = 6_755_399_441_055_744.0;
    let max = f64::from(GRID_MAX);
    // Without a branch or a call, so that the loop becomes vector code.
    let value = value.clamp(-max, max);
    let shifted = value + SHIFT;
    let nearest = shifted - SHIFT;
    let over = nearest > value;
    let floor = nearest - f64::from(u8::from(over));
    let up = f64::from(word) < (value - floor) * 4_294_967_296.0;
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_possible_wrap,
        reason = "the low 32 bits are the integer, in two's complement"
    )]
    let nearest = shifted.to_bits() as u32 as i32;
    nearest - i32::from(over) + i32::from(up)
}

/// Largest ‖x‖₂ in grid units that an update clipped to C can have: C/step, plus what rounding adds
/// (less than one unit a coordinate).
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "a bound; d < 2^31 is exact in f64")]
pub fn norm_bound_units(clip_norm: f64, exponent: i32, coordinates: usize) -> f64 {
    clip_norm * step(-exponent) * (1.0 + 1e-9) + (coordinates as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::update::delta::{clip_scale, l2_norm};

    #[test]
    fn the_step_is_the_power_of_two_that_just_fits() {
        for (clip, exponent) in
            [(1.0, -30), (10.0, -26), (16.0, -26), (16.000_001, -25), (0.3, -31)]
        {
            assert_eq!(step_exponent(clip), exponent, "{clip}");
            let units = clip / step(exponent);
            assert!((f64::from(GRID_MAX) / 2.0..=f64::from(GRID_MAX)).contains(&units), "{clip}");
        }
        assert!((step(-30) - 2_f64.powi(-30)).abs() < f64::EPSILON * 1e-9);
    }

    #[test]
    fn a_clipped_delta_never_saturates_and_comes_back_within_a_step() {
        let mut generator = Generator::new("test", b"grid");
        let delta: Vec<f32> = (0..1000).map(|i| (i as f32 - 500.0) * 0.01).collect();
        let (norm, clip) = (l2_norm(&delta), 10.0);
        let (scale, exponent) = (clip_scale(norm, clip), step_exponent(clip));
        let units = quantise(&delta, scale, exponent, &mut generator);
        for (&x, &unit) in delta.iter().zip(&units) {
            assert!(unit.abs() <= GRID_MAX);
            let back = f64::from(unit) * step(exponent);
            assert!((back - f64::from(x) * scale).abs() < step(exponent));
        }
        let units_norm = units.iter().map(|&u| f64::from(u) * f64::from(u)).sum::<f64>().sqrt();
        assert!(units_norm <= norm_bound_units(clip, exponent, units.len()));
    }

    #[test]
    #[expect(clippy::cast_possible_truncation, reason = "integral and small")]
    fn rounding_goes_to_one_of_the_two_neighbours_by_the_word() {
        for value in [0.0_f64, 0.25, -0.25, 1.5, -1.5, 2.5, 7.0, -7.0, 1e9 + 0.75, -1e9 - 0.75] {
            let (down, up) = (value.floor() as i64, value.ceil() as i64);
            assert_eq!(i64::from(round_stochastically(value, u32::MAX)), down, "{value}");
            assert_eq!(i64::from(round_stochastically(value, 0)), up, "{value}");
        }
        for value in [f64::from(GRID_MAX), 2e9, f64::INFINITY] {
            assert_eq!(round_stochastically(value, 0), GRID_MAX);
            assert_eq!(round_stochastically(-value, 0), -GRID_MAX);
        }
    }

    #[test]
    fn stochastic_rounding_has_no_bias() {
        let mut generator = Generator::new("test", b"bias");
        let delta = vec![0.3_f32; 100_000];
        let units = quantise(&delta, 1.0, 0, &mut generator);
        assert!(units.iter().all(|&u| u == 0 || u == 1));
        let mean = f64::from(units.iter().sum::<i32>()) / 100_000.0;
        assert!((mean - 0.3).abs() < 0.006, "{mean}");
    }
}
