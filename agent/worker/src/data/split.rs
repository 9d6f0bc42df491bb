//! Which records a part gets, and which of them are held out. All of it from labels and seeds, so
//! that every site computes the same deal without seeing another's records.
//!
//! A deal is *disjoint and complete*: each record of a file goes to exactly one of the parts.

use consilium_common::random::Generator;
use consilium_common::worker::{Part, Split};

/// The records of `part`, ascending. `file` names the file (train and test are shuffled apart, and
/// share the class shares); `labels` are all of its labels, each below `classes`.
pub(crate) fn deal(part: &Part, file: &str, labels: &[u8], classes: usize) -> Vec<u32> {
    let all = 0..u32::try_from(labels.len()).unwrap_or(u32::MAX);
    let mut dealt = match part.split {
        Split::Iid => share(part, file, all.collect(), &even(part.of)),
        Split::Dirichlet(alpha) => {
            let mut by_class = vec![Vec::new(); classes];
            for (record, label) in all.zip(labels) {
                if let Some(class) = by_class.get_mut(usize::from(*label)) {
                    class.push(record);
                }
            }
            let of_class = |(class, records)| {
                let cuts = dirichlet_cuts(part, alpha, class);
                share(part, &format!("{file}/{class}"), records, &cuts)
            };
            by_class.into_iter().enumerate().flat_map(of_class).collect()
        }
    };
    dealt.sort_unstable();
    dealt
}

/// Splits off the hold-out: `fraction` of `records`, rounded down, chosen by `seed`, which stays
/// the same over the rounds of a study: what was once held out is never trained on. Both ascending.
pub(crate) fn hold_out(records: Vec<u32>, fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    apart("holdout", records, fraction, seed)
}

/// The same for the validation part of what the hold-out leaves to train on.
pub(crate) fn validate(records: Vec<u32>, fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    apart("validation", records, fraction, seed)
}

fn apart(purpose: &str, mut records: Vec<u32>, fraction: f64, seed: u64) -> (Vec<u32>, Vec<u32>) {
    Generator::new(purpose, &seed.to_le_bytes()).shuffle(&mut records);
    let mut train = records.split_off(portion(records.len(), fraction, f64::floor));
    train.sort_unstable();
    records.sort_unstable();
    (train, records)
}

/// Shuffles `records` and takes what lies between the part's two cuts.
fn share(part: &Part, what: &str, mut records: Vec<u32>, cuts: &[f64]) -> Vec<u32> {
    let purpose = format!("split/{what}");
    Generator::new(&purpose, &part.seed.to_le_bytes()).shuffle(&mut records);
    let cut = |index: Option<usize>| {
        let at = index.and_then(|index| cuts.get(index)).copied();
        portion(records.len(), at.unwrap_or(0.0), f64::round)
    };
    let index = part.index as usize;
    let (from, to) = (cut(index.checked_sub(1)), cut(Some(index)));
    records.get(from..to).unwrap_or_default().to_vec()
}

/// Cumulative equal shares: 1/of, 2/of, …, exactly 1.
fn even(of: u32) -> Vec<f64> {
    (1..=of).map(|i| f64::from(i) / f64::from(of)).collect()
}

/// Cumulative shares of one class, drawn from a symmetric Dirichlet distribution: normalised
/// Gamma(α) variates (Devroye 1986, ch. XI, thm 4.1). Taken as logarithms, because for small α the
/// variates themselves underflow. The last is exactly 1.
fn dirichlet_cuts(part: &Part, alpha: f64, class: usize) -> Vec<f64> {
    let purpose = format!("split/shares/{class}");
    let mut generator = Generator::new(&purpose, &part.seed.to_le_bytes());
    let logs: Vec<f64> = (0..part.of).map(|_| log_gamma_variate(&mut generator, alpha)).collect();
    let largest = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let weights: Vec<f64> = logs.iter().map(|log| (log - largest).exp()).collect();
    let sum: f64 = weights.iter().sum();
    let mut cuts: Vec<f64> = weights
        .iter()
        .scan(0.0, |cumulative, weight| {
            *cumulative += weight;
            Some((*cumulative / sum).min(1.0))
        })
        .collect();
    if let Some(last) = cuts.last_mut() {
        *last = 1.0;
    }
    cuts
}

/// The logarithm of a Gamma(α, 1) variate. Marsaglia & Tsang 2000 for shape α + 1, brought down to
/// α by their boost: Gamma(α) = Gamma(α + 1) · U^(1/α).
fn log_gamma_variate(generator: &mut Generator, alpha: f64) -> f64 {
    let d = alpha + 1.0 - 1.0 / 3.0;
    let c = 1.0 / (9.0 * d).sqrt();
    let log_of_shape_plus_one = loop {
        let x = normal(generator);
        let v = (1.0 + c * x).powi(3);
        if v > 0.0 && open_unit(generator).ln() < 0.5 * x * x + d - d * v + d * v.ln() {
            break (d * v).ln();
        }
    };
    log_of_shape_plus_one + open_unit(generator).ln() / alpha
}

/// A standard normal variate (Box & Muller 1958).
fn normal(generator: &mut Generator) -> f64 {
    let radius = (-2.0 * open_unit(generator).ln()).sqrt();
    radius * (std::f64::consts::TAU * generator.unit()).cos()
}

/// Uniform in (0, 1): its logarithm is finite.
fn open_unit(generator: &mut Generator) -> f64 {
    generator.unit() + 0.5 / 4_294_967_296.0
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts below 2^32 are exact in f64, and share is within 0 and 1"
)]
fn portion(count: usize, share: f64, rounding: fn(f64) -> f64) -> usize {
    (rounding(count as f64 * share) as usize).min(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(of: u32, index: u32, split: Split, seed: u64) -> Part {
        Part { of, index, split, seed }
    }

    fn labels(count: usize) -> Vec<u8> {
        (0..count).map(|i| u8::try_from(i * 7 % 10).unwrap()).collect()
    }

    fn parts(of: u32, split: Split, seed: u64, labels: &[u8]) -> Vec<Vec<u32>> {
        let one = |index| deal(&part(of, index, split, seed), "train", labels, 10);
        (0..of).map(one).collect()
    }

    fn shares(part: &[u32], labels: &[u8]) -> Vec<usize> {
        let mut counts = vec![0; 10];
        for record in part {
            counts[usize::from(labels[*record as usize])] += 1;
        }
        counts
    }

    #[test]
    fn every_record_goes_to_exactly_one_part() {
        let splits = [0.01, 0.3, 1.0, 1e6].map(Split::Dirichlet);
        for split in splits.into_iter().chain([Split::Iid]) {
            for (of, count) in [(1, 10), (3, 1000), (4, 1001), (7, 5), (256, 2000)] {
                let labels = labels(count);
                let parts = parts(of, split, 11, &labels);
                assert!(parts.iter().all(|part| part.is_sorted()));
                let mut all = parts.concat();
                all.sort_unstable();
                let complete: Vec<u32> = (0..u32::try_from(count).unwrap()).collect();
                assert_eq!(all, complete, "{split} over {of}");
            }
        }
    }

    #[test]
    fn iid_parts_are_of_equal_size_and_a_seed_is_a_deal() {
        let labels = labels(1002);
        let dealt = parts(4, Split::Iid, 1, &labels);
        assert!(dealt.iter().all(|part| (250..=251).contains(&part.len())));
        assert_eq!(dealt, parts(4, Split::Iid, 1, &labels));
        assert_ne!(dealt, parts(4, Split::Iid, 2, &labels));
    }

    #[test]
    fn train_and_test_files_are_dealt_with_the_same_class_shares() {
        let (train, test) = (labels(60_000), labels(10_000));
        for index in 0..4 {
            let part = part(4, index, Split::Dirichlet(0.3), 5);
            let in_train = shares(&deal(&part, "train", &train, 10), &train);
            let in_test = shares(&deal(&part, "test", &test, 10), &test);
            for (train, test) in in_train.iter().zip(in_test) {
                assert!(train.abs_diff(6 * test) <= 6, "{train} {test}");
            }
        }
    }

    #[test]
    fn a_small_concentration_makes_parts_differ_and_a_large_one_does_not() {
        let labels = labels(40_000);
        // Mean over classes of the largest part's share: 1 where a part has a class to itself.
        let skew = |alpha| {
            let parts = parts(4, Split::Dirichlet(alpha), 3, &labels);
            let counts: Vec<_> = parts.iter().map(|part| shares(part, &labels)).collect();
            let largest = |class: usize| counts.iter().map(|c| c[class]).max().unwrap();
            (0..10).map(largest).sum::<usize>() as f64 / 40_000.0
        };
        let (tiny, small, large) = (skew(0.01), skew(0.3), skew(1e6));
        assert!(
            tiny > 0.9 && (0.4..0.9).contains(&small) && large < 0.26,
            "{tiny} {small} {large}"
        );
    }

    #[test]
    fn gamma_variates_have_the_mean_and_variance_of_their_shape() {
        for alpha in [0.3, 1.0, 4.5] {
            let mut generator = Generator::new("test", b"gamma");
            let draw = |_| log_gamma_variate(&mut generator, alpha).exp();
            let drawn: Vec<f64> = (0..100_000).map(draw).collect();
            let mean = drawn.iter().sum::<f64>() / 1e5;
            let variance = drawn.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 1e5;
            assert!((mean / alpha - 1.0).abs() < 0.03, "mean {mean} of {alpha}");
            assert!((variance / alpha - 1.0).abs() < 0.06, "variance {variance} of {alpha}");
        }
    }

    #[test]
    fn the_validation_part_is_another_choice_than_the_hold_outs() {
        let (train, part) = validate((0..101).collect(), 0.2, 9);
        assert_eq!((train.len(), part.len()), (81, 20));
        assert_ne!(part, hold_out((0..101).collect(), 0.2, 9).1);
    }

    #[test]
    fn the_hold_out_is_the_same_in_every_round() {
        let (train, held) = hold_out((0..101).collect(), 0.2, 9);
        assert_eq!((train.len(), held.len()), (81, 20));
        assert_eq!((train.clone(), held.clone()), hold_out((0..101).collect(), 0.2, 9));
        assert_ne!(held, hold_out((0..101).collect(), 0.2, 10).1);
        let mut all = [train, held].concat();
        all.sort_unstable();
        assert_eq!(all, (0..101).collect::<Vec<u32>>());
        assert_eq!(hold_out(vec![1, 2], 0.0, 9), (vec![1, 2], vec![]));
    }
}
