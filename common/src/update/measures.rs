//! From integer sums to the measures that people know. Floats are made here, at display; what is
//! added over sites stays whole.
//!
//! The ranking measures come from a histogram: each record's score for a class is its log-odds
//! ln p/(1−p), put into one of [`SCORE_BINS`] bins of 1⁄[`BINS_PER_NAT`] nats, once among the
//! records of the class and once among the others. Records in one bin count as tied.

use super::labels::LabelCounts;
use super::words::{LOSS_ONE, Metrics, Schema};
use crate::study::sections::Metric;

/// Bins of a score.
pub const SCORE_BINS: usize = 256;
/// Bins per unit of log-odds; the middle bin starts at 0, scores beyond ±16 are at the ends.
pub const BINS_PER_NAT: f64 = 8.0;

/// Places that count as a hit: HR@10 and NDCG@10.
pub const RANKS: usize = GAINS.len();
/// What a hit at each place is worth: 1 / log2(place + 2), places from 0, in 2^-16 (Järvelin &
/// Kekäläinen 2002 with one relevant item). Whole numbers, so that every site has the same.
pub const GAINS: [u64; 10] =
    [65_536, 41_349, 32_768, 28_225, 25_353, 23_344, 21_845, 20_674, 19_728, 18_944];

/// The bin of a score given as log-odds; NaN goes to the first.
#[must_use]
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "clamped to 0..256 before; NaN becomes 0"
)]
pub fn score_bin(log_odds: f64) -> usize {
    let middle = SCORE_BINS as f64 / 2.0;
    ((log_odds * BINS_PER_NAT).floor() + middle).clamp(0.0, SCORE_BINS as f64 - 1.0) as usize
}

/// Where a bin starts, as log-odds.
#[expect(clippy::cast_precision_loss, reason = "256 is exact")]
pub(super) fn bin_edge(bin: usize) -> f64 {
    (bin as f64 - SCORE_BINS as f64 / 2.0) / BINS_PER_NAT
}

/// The probability in the middle of a bin.
fn bin_probability(bin: usize) -> f64 {
    probability(bin_edge(bin) + 0.5 / BINS_PER_NAT)
}

/// Log-odds → probability.
pub(super) fn probability(log_odds: f64) -> f64 {
    1.0 / (1.0 + (-log_odds).exp())
}

impl Schema {
    /// The value of the study's own metric, if it was measured.
    #[must_use]
    pub fn score(&self, metrics: &Metrics) -> Option<f64> {
        match self.metric() {
            Metric::Accuracy => self.accuracy(metrics),
            Metric::Loss => self.loss(metrics),
            Metric::Auc => self.auc(metrics),
            Metric::Rmse => self.rmse(metrics),
            Metric::Hr => self.hit_rate(metrics),
            Metric::Ndcg => self.ndcg(metrics),
        }
    }

    /// Area under the ROC curve (Mann & Whitney 1947: ties count one half): of the second of two
    /// classes, else the mean over the classes that have records and are not all of them.
    #[must_use]
    pub fn auc(&self, metrics: &Metrics) -> Option<f64> {
        mean(self.scored_classes().filter_map(|class| {
            area(&self.bins(metrics, class, true)?, &self.bins(metrics, class, false)?)
        }))
    }

    /// Mean of the classes' recalls, over the classes that have records; of several labels at once that of
    /// each class and its absence, over the classes that have both.
    #[must_use]
    pub fn balanced_accuracy(&self, metrics: &Metrics) -> Option<f64> {
        if let Some(counts) = self.every_label(metrics) {
            return mean(counts.iter().filter_map(LabelCounts::balanced));
        }
        let recall = |class: usize| {
            let row = self.confusion(metrics, class)?;
            ratio(row.get(class).copied()?, row.iter().sum())
        };
        mean((0..self.classes()).filter_map(recall))
    }

    /// Mean over the classes of 2·TP / (2·TP + FP + FN); a class that is neither there nor said
    /// counts as nothing.
    #[must_use]
    pub fn macro_f1(&self, metrics: &Metrics) -> Option<f64> {
        if let Some(counts) = self.every_label(metrics) {
            return mean(counts.iter().filter_map(LabelCounts::f1));
        }
        let rows: Option<Vec<Vec<u64>>> =
            (0..self.classes()).map(|class| self.confusion(metrics, class)).collect();
        let rows = rows?;
        let cell = |truth: usize, said: usize| {
            rows.get(truth).and_then(|row| row.get(said)).copied().unwrap_or(0)
        };
        let all = 0..rows.len();
        mean(all.clone().filter_map(|class| {
            let truth: u64 = all.clone().map(|said| cell(class, said)).sum();
            let said: u64 = all.clone().map(|truth| cell(truth, class)).sum();
            ratio(2 * cell(class, class), truth + said)
        }))
    }

    /// Expected calibration error (Naeini et al. 2015) of the last scored class: Σ over bins of
    /// |records of the class − records · p| ÷ all records, p the probability in the bin's middle. Of
    /// several labels at once the mean over the classes.
    #[must_use]
    pub fn calibration_error(&self, metrics: &Metrics) -> Option<f64> {
        if self.has_several_labels() {
            return mean(self.scored_classes().filter_map(|class| self.gap(metrics, class)));
        }
        self.gap(metrics, self.scored_classes().last()?)
    }

    /// How far the probabilities for one class are from its shares.
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    fn gap(&self, metrics: &Metrics, class: usize) -> Option<f64> {
        let (of, others) = (self.bins(metrics, class, true)?, self.bins(metrics, class, false)?);
        let all: u64 = of.iter().chain(&others).sum();
        let gap = |(bin, (of, others)): (usize, (&u64, &u64))| {
            (*of as f64 - (of + others) as f64 * bin_probability(bin)).abs()
        };
        let gaps: f64 = of.iter().zip(&others).enumerate().map(gap).sum();
        (all > 0).then(|| gaps / all as f64)
    }

    /// Root of the mean squared error, in units of the label.
    #[must_use]
    pub fn rmse(&self, metrics: &Metrics) -> Option<f64> {
        self.get(metrics, "absolute")?;
        self.loss(metrics).map(f64::sqrt)
    }

    /// Mean absolute error, in units of the label.
    #[must_use]
    pub fn mae(&self, metrics: &Metrics) -> Option<f64> {
        Some(ratio(self.get(metrics, "absolute")?, self.get(metrics, "total")?)? / LOSS_ONE)
    }

    /// Share of held-out choices that came among the first ten (HR@10).
    #[must_use]
    pub fn hit_rate(&self, metrics: &Metrics) -> Option<f64> {
        ratio(self.get(metrics, "hits")?, self.get(metrics, "total")?)
    }

    /// Normalised discounted cumulative gain of the first ten (NDCG@10), one relevant item a record.
    #[must_use]
    pub fn ndcg(&self, metrics: &Metrics) -> Option<f64> {
        Some(ratio(self.get(metrics, "gain")?, self.get(metrics, "total")?)? / LOSS_ONE)
    }

    /// One row of the confusion matrix: what records of class `truth` were said to be.
    #[must_use]
    pub fn confusion(&self, metrics: &Metrics, truth: usize) -> Option<Vec<u64>> {
        let said = 0..self.classes();
        said.map(|said| self.get(metrics, &format!("confusion.{truth}.{said}"))).collect()
    }

    /// The histogram of the scores for `class`, among its own records or the others.
    #[must_use]
    pub fn bins(&self, metrics: &Metrics, class: usize, own: bool) -> Option<Vec<u64>> {
        let first = self.position(&score_name(class, own, 0))?;
        metrics.0.get(first..first + SCORE_BINS).map(<[u64]>::to_vec)
    }
}

/// The name of one bin's sum.
pub(super) fn score_name(class: usize, own: bool, bin: usize) -> String {
    format!("scores.{class}.{}.{bin}", if own { "own" } else { "other" })
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
pub(super) fn area(own: &[u64], others: &[u64]) -> Option<f64> {
    let (mut below, mut pairs) = (0_u128, 0_u128);
    for (own, others) in own.iter().zip(others) {
        let (own, others) = (u128::from(*own), u128::from(*others));
        pairs += own * (2 * below + others);
        below += others;
    }
    let all = 2 * below * own.iter().map(|&count| u128::from(count)).sum::<u128>();
    (all > 0).then(|| pairs as f64 / all as f64)
}

/// In the order of the values: sites that read the same sums find the same mean.
fn mean(values: impl Iterator<Item = f64>) -> Option<f64> {
    let (sum, count) = values.fold((0.0, 0.0), |(sum, count), value| (sum + value, count + 1.0));
    (count > 0.0).then(|| sum / count)
}

#[expect(clippy::cast_precision_loss, reason = "display only")]
pub(super) fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;
    use crate::update::words::Words;

    fn schema(classes: &str) -> Schema {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\n{classes}\n\
             [data]\nkind = \"table\"\ncolumns = [{{ name = \"x\", min = 0, max = 1 }}]\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Schema::of(&Study::read(&text, "a.toml").unwrap())
    }

    fn put(schema: &Schema, metrics: &mut Metrics, name: &str, value: u64) {
        metrics.0.resize(schema.names().len(), 0);
        metrics.0[schema.position(name).unwrap()] = value;
    }

    #[test]
    fn the_area_counts_pairs_in_order_and_half_of_the_ties() {
        let schema = schema("classes = [\"no\", \"yes\"]\n[evaluation]\nmetric = \"auc\"");
        let mut metrics = Metrics::default();
        // Positives score 2 and 1; negatives 1 and −3: three pairs in order, one tied.
        for (own, log_odds) in [(true, 2.0), (true, 1.0), (false, 1.0), (false, -3.0)] {
            put(&schema, &mut metrics, &score_name(1, own, score_bin(log_odds)), 1);
        }
        assert_eq!(schema.auc(&metrics), Some(3.5 / 4.0));
        assert_eq!(schema.auc(&Metrics(vec![0; schema.names().len()])), None);
    }

    #[test]
    fn bins_cover_every_score() {
        let bins: Vec<usize> =
            [f64::NEG_INFINITY, -16.0, -0.001, 0.0, 15.99, 16.0, 1e300, f64::NAN]
                .map(score_bin)
                .to_vec();
        assert_eq!(bins, [0, 0, 127, 128, 255, 255, 255, 0]);
        assert!((bin_probability(128) - 0.5156).abs() < 1e-4);
    }

    #[test]
    fn measures_of_a_confusion_matrix_are_the_textbooks() {
        let schema = schema("classes = [\"no\", \"yes\"]\n[evaluation]\nmetric = \"auc\"");
        let mut metrics = Metrics::default();
        let cells = [("0.0", 50), ("0.1", 10), ("1.0", 5), ("1.1", 35)];
        for (cell, count) in cells {
            put(&schema, &mut metrics, &format!("confusion.{cell}"), count);
        }
        let balanced = f64::midpoint(50.0 / 60.0, 35.0 / 40.0);
        assert!((schema.balanced_accuracy(&metrics).unwrap() - balanced).abs() < 1e-12);
        let f1 = f64::midpoint(100.0 / 115.0, 70.0 / 85.0);
        assert!((schema.macro_f1(&metrics).unwrap() - f1).abs() < 1e-12);
    }

    #[test]
    fn a_model_that_says_what_is_true_is_calibrated() {
        let schema = schema("classes = [\"no\", \"yes\"]\n[evaluation]\nmetric = \"auc\"");
        let mut metrics = Metrics::default();
        let bin = score_bin(1.0);
        // The bin's middle is 1.0625: of 1,000,000 records 743,168 are of the class.
        put(&schema, &mut metrics, &score_name(1, true, bin), 743_168);
        put(&schema, &mut metrics, &score_name(1, false, bin), 256_832);
        assert!(schema.calibration_error(&metrics).unwrap() < 1e-5);
        put(&schema, &mut metrics, &score_name(1, false, bin), 0);
        let sure = schema.calibration_error(&metrics).unwrap();
        assert!((sure - (1.0 - bin_probability(bin))).abs() < 1e-9);
    }

    #[test]
    fn a_hit_is_worth_less_further_down() {
        for (place, gain) in (0_u32..).zip(GAINS) {
            let exact = LOSS_ONE / (f64::from(place) + 2.0).log2();
            #[expect(clippy::cast_precision_loss, reason = "below 2^17")]
            let off = (gain as f64 - exact).abs();
            assert!(off <= 0.5, "place {place}: {gain}, {exact}");
        }
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"recommender\"\nitems = 3\n\
                    objective = \"rank\"\n[data]\nkind = \"ratings\"\n[aggregation]\n\
                    clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n\
                    [evaluation]\nmetric = \"ndcg\"\n";
        let schema = Schema::of(&Study::read(text, "a.toml").unwrap());
        // Four records: first, third, and two beyond the tenth place.
        let metrics = Metrics(vec![4, 2, GAINS[0] + GAINS[2]]);
        assert_eq!(schema.hit_rate(&metrics), Some(0.5));
        assert_eq!(schema.score(&metrics), Some(0.375));
        let word = |metrics: &[u64]| {
            let metrics = Metrics(metrics.to_vec());
            schema.decode(&schema.encode(&Words { weight: 1, clipped: 0, metrics }))
        };
        assert!(word(&metrics.0).is_ok());
        for (metrics, said) in [([1, 2, 0], "more hits"), ([2, 1, 65_537], "more gain")] {
            let error = word(&metrics).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }

    #[test]
    fn errors_of_a_regression_are_in_units_of_the_label() {
        let schema = schema("objective = \"regress\"\n\n[evaluation]\nmetric = \"rmse\"");
        let mut metrics = Metrics::default();
        for (name, value) in [("total", 4), ("loss", 16 << 16), ("absolute", 6 << 16)] {
            put(&schema, &mut metrics, name, value);
        }
        assert_eq!(schema.score(&metrics), Some(2.0));
        assert_eq!(schema.mae(&metrics), Some(1.5));
        assert_eq!((schema.accuracy(&metrics), schema.auc(&metrics)), (None, None));
    }
}
