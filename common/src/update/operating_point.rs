//! Where a model of two classes says the second: at a probability that the study fixes, and what the
//! best one would be.

use serde::{Deserialize, Serialize};

use super::measures::{bin_edge, probability};
use super::words::{Metrics, Schema};

/// What a threshold is worth.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct OperatingPoint {
    /// The second class is said from this probability on.
    pub threshold: f64,
    /// The share of the second class that is found.
    pub sensitivity: f64,
    /// The share of the first class that is left alone.
    pub specificity: f64,
}

impl Schema {
    /// The threshold with the most sensitivity + specificity (Youden 1950, Cancer 3, 32–35), out of the
    /// edges between the bins of the scores' histograms; of equal ones the middle. `None` unless AUC
    /// decides between two classes, one a record, that both have records.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    pub fn best_operating_point(&self, metrics: &Metrics) -> Option<OperatingPoint> {
        if self.classes() != 2 || self.has_several_labels() {
            return None;
        }
        let (of, others) = (self.bins(metrics, 1, true)?, self.bins(metrics, 1, false)?);
        let (all, all_others) = (of.iter().sum::<u64>() as f64, others.iter().sum::<u64>() as f64);
        if all == 0.0 || all_others == 0.0 {
            return None;
        }
        let (mut missed, mut left) = (0, 0);
        let mut points = Vec::new();
        for (bin, (of, others)) in of.iter().zip(&others).enumerate() {
            points.push(OperatingPoint {
                threshold: probability(bin_edge(bin)),
                sensitivity: 1.0 - missed as f64 / all,
                specificity: left as f64 / all_others,
            });
            (missed, left) = (missed + of, left + others);
        }
        let most = points.iter().map(OperatingPoint::worth).reduce(f64::max)?;
        let best: Vec<OperatingPoint> =
            points.into_iter().filter(|point| point.worth() >= most).collect();
        best.get(best.len() / 2).copied()
    }
}

impl OperatingPoint {
    fn worth(&self) -> f64 {
        self.sensitivity + self.specificity
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;
    use crate::update::measures::{score_bin, score_name};

    fn schema(metric: &str) -> Schema {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"no\", \"yes\"]\n\
             [data]\nkind = \"table\"\ncolumns = [{{ name = \"x\", min = 0, max = 1 }}]\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n\
             [evaluation]\nmetric = \"{metric}\"\n"
        );
        Schema::of(&Study::read(&text, "a.toml").unwrap())
    }

    #[test]
    fn the_best_threshold_parts_the_classes_where_most_of_both_are_right() {
        let schema = schema("auc");
        let mut metrics = Metrics(vec![0; schema.names().len()]);
        // Of the second class 3.0, 1.0 and −2.0; of the first 0.5, −1.0, −1.0 and −3.0.
        let scores = [(true, vec![3.0, 1.0, -2.0]), (false, vec![0.5, -1.0, -1.0, -3.0])];
        for (own, log_odds) in scores.iter().flat_map(|(own, all)| all.iter().map(|l| (*own, *l))) {
            metrics.0[schema.position(&score_name(1, own, score_bin(log_odds))).unwrap()] += 1;
        }
        let best = schema.best_operating_point(&metrics).unwrap();
        // Above the bin of 0.5 and up to 1.0: two of three are found, none of four is taken along.
        let log_odds = (best.threshold / (1.0 - best.threshold)).ln();
        assert!(log_odds > 0.5 && log_odds <= 1.0, "{best:?}");
        assert!((best.sensitivity - 2.0 / 3.0).abs() < 1e-12);
        assert!((best.specificity - 1.0).abs() < 1e-12);
    }

    #[test]
    fn without_scores_or_with_one_class_alone_there_is_none() {
        let plain = schema("accuracy");
        assert_eq!(plain.best_operating_point(&Metrics(vec![0; plain.names().len()])), None);
        let schema = schema("auc");
        let mut metrics = Metrics(vec![0; schema.names().len()]);
        metrics.0[schema.position(&score_name(1, true, 200)).unwrap()] = 9;
        assert_eq!(schema.best_operating_point(&metrics), None);
    }
}
