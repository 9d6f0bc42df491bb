//! What a preparation counts, and what follows from the sums (DESIGN.md §10): pure, so that every
//! site and whoever predicts later gets the same constants from the same sums.
//!
//! A site contributes *units*, i32 within ±2^30 each; over sites they are added in i64. A sum that
//! may need more bits goes as four limbs of 16 bits, as the metrics of an update do.

use crate::limits::LIMB_BITS;

/// Units of a sum in limbs.
pub const LIMBS: usize = 4;
/// Units of one [`Moments`].
pub const MOMENTS_UNITS: usize = 3 * LIMBS;
/// Fixed point of a share: 2^-30.
const SHARE_ONE: f64 = 1_073_741_824.0;
/// A variance below this counts as none: the column is constant, and is only centred. The shares and
/// squares are rounded to 2^-30, so that of a constant may come out as 3 · 2^-31.
const VARIANCE_MIN: f64 = 2.0 / SHARE_ONE;

/// Count, sum and sum of squares of shares: numbers of a column scaled to 0–1 by its range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Moments {
    count: u128,
    sum: u128,
    squares: u128,
}

impl Moments {
    /// Takes one number, as a share of its column's range; clamped to 0–1, NaN is left out.
    pub fn add(&mut self, share: f64) {
        self.add_times(share, 1);
    }

    /// The same number so many times.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 to 2^30, rounded"
    )]
    pub fn add_times(&mut self, share: f64, times: u64) {
        if share.is_nan() {
            return;
        }
        let share = share.clamp(0.0, 1.0);
        let (times, fixed) = (u128::from(times), |x: f64| (x * SHARE_ONE).round() as u128);
        self.count += times;
        self.sum += times * fixed(share);
        self.squares += times * fixed(share * share);
    }

    /// A site's units.
    #[must_use]
    pub fn units(&self) -> [i32; MOMENTS_UNITS] {
        let mut units = [0; MOMENTS_UNITS];
        let sums = [self.count, self.sum, self.squares];
        for (units, sum) in units.chunks_mut(LIMBS).zip(sums) {
            units.copy_from_slice(&limbs(sum));
        }
        units
    }

    /// From sums of units; `None` if there are too few, or one is negative.
    #[must_use]
    pub fn of(sums: &[i64]) -> Option<Self> {
        let sums = sums.get(..MOMENTS_UNITS)?;
        let mut chunks = sums.chunks(LIMBS).map(carried);
        Some(Self { count: chunks.next()??, sum: chunks.next()??, squares: chunks.next()?? })
    }

    /// How many numbers there were.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.count
    }

    /// Their mean and standard deviation (of the population), as shares of the range; (0, 1), which
    /// changes nothing, where there was none, and a deviation of 1 for a constant.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "sums below 2^76, rounded once each")]
    pub fn mean_and_deviation(&self) -> (f64, f64) {
        if self.count == 0 {
            return (0.0, 1.0);
        }
        let count = self.count as f64;
        let mean = self.sum as f64 / SHARE_ONE / count;
        let variance = self.squares as f64 / SHARE_ONE / count - mean * mean;
        (mean, if variance < VARIANCE_MIN { 1.0 } else { variance.sqrt() })
    }
}

/// How the numbers of a column are standardised: (share − mean) ÷ deviation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standard {
    mean: f64,
    deviation: f64,
}

impl Standard {
    /// A share of the column's range, standardised in f64 and rounded once; 0, the mean, for NaN.
    #[must_use]
    pub fn apply(&self, share: f32) -> f32 {
        if share.is_nan() {
            return 0.0;
        }
        #[expect(clippy::cast_possible_truncation, reason = "rounded once; deviation ≥ 4e-5")]
        let standardised = ((f64::from(share) - self.mean) / self.deviation) as f32;
        standardised
    }

    /// (factor, shift) of what standardises a number that `before` has standardised already, or none
    /// has: factor · x + shift.
    #[must_use]
    pub fn after(&self, before: Option<&Self>) -> (f64, f64) {
        let (mean, deviation) = before.map_or((0.0, 1.0), |before| (before.mean, before.deviation));
        (deviation / self.deviation, (mean - self.mean) / self.deviation)
    }
}

/// The constants of consecutive columns from the sums of their [`Moments`], in the same order.
///
/// # Errors
/// The place of the first column whose sums cannot come from counting.
pub fn standards(sums: &[i64]) -> Result<Vec<Standard>, usize> {
    let one = |(place, sums): (usize, &[i64])| {
        let (mean, deviation) = Moments::of(sums).ok_or(place)?.mean_and_deviation();
        Ok(Standard { mean, deviation })
    };
    sums.chunks(MOMENTS_UNITS).enumerate().map(one).collect()
}

/// A sum as a site's units: its low 64 bits, 16 in each, the lowest first.
#[must_use]
pub fn limbs(sum: u128) -> [i32; LIMBS] {
    let mut limbs = [0; LIMBS];
    for (i, limb) in limbs.iter_mut().enumerate() {
        *limb = i32::try_from((sum >> (LIMB_BITS as usize * i)) & 0xffff).unwrap_or(i32::MAX);
    }
    limbs
}

/// The sum that limbs, each added over sites, stand for; `None` if one is negative.
#[must_use]
pub fn carried(limbs: &[i64]) -> Option<u128> {
    limbs.iter().rev().try_fold(0_u128, |sum, &limb| {
        Some((sum << LIMB_BITS) + u128::from(u64::try_from(limb).ok()?))
    })
}

/// The natural logarithm of a positive, finite, normal number, to 1e-15 of its size or of 1, by
/// + − × ÷ alone: the same bits on every machine, where those of a C library differ. NaN for others.
///
/// x = m·2^e with m within √½ and √2, and ln m = 2·artanh((m − 1) / (m + 1)) by its series
/// (Abramowitz & Stegun 1964, 4.1.27).
#[must_use]
pub fn ln(x: f64) -> f64 {
    const TERMS: i32 = 12;
    if !(x.is_normal() && x > 0.0) {
        return f64::NAN;
    }
    let bits = x.to_bits();
    let mut exponent = i32::try_from(bits >> 52).unwrap_or(0) - 1023;
    let mut m = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if m > std::f64::consts::SQRT_2 {
        m *= 0.5;
        exponent += 1;
    }
    let z = (m - 1.0) / (m + 1.0);
    let square = z * z;
    let series =
        (0..TERMS).rev().fold(0.0, |series, i| series * square + 1.0 / f64::from(2 * i + 1));
    2.0 * z * series + f64::from(exponent) * std::f64::consts::LN_2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn moments(shares: &[f64]) -> Moments {
        let mut moments = Moments::default();
        shares.iter().for_each(|share| moments.add(*share));
        moments
    }

    #[test]
    fn sums_over_sites_are_the_moments_of_all_records() {
        let (a, b) = ([0.1, 0.9, 0.25], [0.5, f64::NAN, 1.0]);
        let mut sums = [0_i64; MOMENTS_UNITS];
        for site in [moments(&a), moments(&b)] {
            sums.iter_mut().zip(site.units()).for_each(|(sum, unit)| *sum += i64::from(unit));
        }
        let of_all = moments(&[0.1, 0.9, 0.25, 0.5, 1.0]);
        assert_eq!(Moments::of(&sums), Some(of_all));
        let (mean, deviation) = of_all.mean_and_deviation();
        assert!((mean - 0.55).abs() < 1e-8 && (deviation - 0.352_136).abs() < 1e-5);
    }

    #[test]
    fn a_number_that_comes_often_counts_as_often() {
        let mut often = moments(&[0.3]);
        often.add_times(0.7, 3);
        often.add_times(f64::NAN, 2);
        assert_eq!(often, moments(&[0.3, 0.7, 0.7, 0.7]));
    }

    #[test]
    fn the_logarithm_is_that_of_the_library() {
        let mut x = 1e-300_f64;
        while x < 1e300 {
            let need = x.ln();
            let error = (ln(x) - need).abs() / need.abs().max(1.0);
            assert!(error < 1e-12, "ln {x}: {} {need}", ln(x));
            x *= 1.0371;
        }
        assert_eq!(ln(1.0).to_bits(), 0.0_f64.to_bits());
        for none in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e-310] {
            assert!(ln(none).is_nan(), "{none}");
        }
    }

    #[test]
    fn a_constant_is_centred_and_nothing_at_all_stays_as_it_is() {
        // Shares of steps, and others: whatever their rounding, they do not vary.
        let shares = (1..=48).map(|steps| f64::from(steps) / 48.0);
        for constant in shares.chain((0..=1000).map(|n| f64::from(n) / 1000.0)) {
            let (mean, deviation) = moments(&[constant; 7]).mean_and_deviation();
            assert!((mean - constant).abs() < 1e-9, "{constant}: {mean}");
            assert!((deviation - 1.0).abs() < 1e-12, "{constant}: {deviation}");
        }
        // One record of a thousand with one step more than the others varies.
        let mut nearly = vec![1.0 / 48.0; 999];
        nearly.push(2.0 / 48.0);
        let (_, deviation) = moments(&nearly).mean_and_deviation();
        assert!((deviation * 48.0 - 0.031_607).abs() < 1e-3, "{deviation}");
        assert_eq!(Moments::default().mean_and_deviation(), (0.0, 1.0));
    }

    #[test]
    fn the_most_that_sites_may_send_is_carried_and_nonsense_is_told() {
        let most = [i64::from(u16::MAX) * 1024; MOMENTS_UNITS];
        assert!(Moments::of(&most).is_some_and(|moments| moments.count() > 1 << 70));
        assert_eq!(Moments::of(&most[1..]), None);
        assert_eq!(Moments::of(&[-1; MOMENTS_UNITS]), None);
    }

    #[test]
    fn numbers_are_standardised_column_by_column_and_a_missing_one_is_the_mean() {
        let columns = [[0.0, 1.0], [0.25, 0.75]].map(|shares| moments(&shares).units());
        let mut sums: Vec<i64> = columns.as_flattened().iter().copied().map(i64::from).collect();
        let [wide, narrow] = standards(&sums).unwrap()[..] else { panic!("two columns") };
        assert_eq!((wide.apply(1.0), wide.apply(0.5), narrow.apply(0.25)), (1.0, 0.0, -1.0));
        assert_eq!(wide.apply(f32::NAN).to_bits(), 0.0_f32.to_bits());
        sums[MOMENTS_UNITS] = -1;
        assert_eq!(standards(&sums), Err(1), "no site counts below 0");
    }
}
