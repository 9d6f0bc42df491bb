//! Sums of studies whose records have several labels at once, or none (`objective = "multilabel"`): of
//! each class how many records that have it were found (a probability of one half or more), how many
//! were missed, and how many others were mistaken for it. What is left of `total` has it not and was
//! said not to.

use super::measures::ratio;
use super::words::{Metrics, Schema, WordsError};

/// The sums of one class, in order.
pub(super) const LABEL_SUMS: [&str; 3] = ["found", "missed", "mistaken"];

/// The name of one of them.
pub(super) fn label_name(class: usize, what: &str) -> String {
    format!("labels.{class}.{what}")
}

/// What was said of one class.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LabelCounts {
    /// Records that have it and were said to.
    pub found: u64,
    /// Records that have it and were said not to.
    pub missed: u64,
    /// Records that have it not and were said to.
    pub mistaken: u64,
    /// All records.
    pub total: u64,
}

impl LabelCounts {
    /// Records that have the label.
    #[must_use]
    pub fn with(&self) -> u64 {
        self.found.saturating_add(self.missed)
    }

    /// Records that have it not.
    #[must_use]
    pub fn without(&self) -> u64 {
        self.total.saturating_sub(self.with())
    }

    /// Share of the records with the label that were found.
    #[must_use]
    pub fn sensitivity(&self) -> Option<f64> {
        ratio(self.found, self.with())
    }

    /// Share of the records without it that were not mistaken for such.
    #[must_use]
    pub fn specificity(&self) -> Option<f64> {
        ratio(self.without().saturating_sub(self.mistaken), self.without())
    }

    /// The mean of both.
    pub(super) fn balanced(&self) -> Option<f64> {
        Some(f64::midpoint(self.sensitivity()?, self.specificity()?))
    }

    /// 2·TP / (2·TP + FP + FN); `None` where the label is neither there nor said.
    pub(super) fn f1(&self) -> Option<f64> {
        let twice = self.found.saturating_mul(2);
        ratio(twice, twice.saturating_add(self.missed).saturating_add(self.mistaken))
    }

    fn wrong(&self) -> u64 {
        self.missed.saturating_add(self.mistaken)
    }
}

impl Schema {
    /// What was said of `class`, where records may have several labels.
    #[must_use]
    pub fn label_counts(&self, metrics: &Metrics, class: usize) -> Option<LabelCounts> {
        if !self.has_several_labels() {
            return None;
        }
        let [found, missed, mistaken] =
            LABEL_SUMS.map(|what| self.get(metrics, &label_name(class, what)));
        let total = self.get(metrics, "total")?;
        Some(LabelCounts { found: found?, missed: missed?, mistaken: mistaken?, total })
    }

    /// The same of every class, in order.
    #[must_use]
    pub fn every_label(&self, metrics: &Metrics) -> Option<Vec<LabelCounts>> {
        let counts = (0..self.classes()).map(|class| self.label_counts(metrics, class));
        counts.collect::<Option<Vec<_>>>().filter(|_| self.has_several_labels())
    }

    /// The mean over the classes of the share of right answers: one share, as each has all records.
    pub(super) fn label_accuracy(&self, metrics: &Metrics) -> Option<f64> {
        let counts = self.every_label(metrics)?;
        let answers = counts.iter().map(|of| of.total).fold(0, u64::saturating_add);
        let wrong = counts.iter().map(LabelCounts::wrong).fold(0, u64::saturating_add);
        ratio(answers.saturating_sub(wrong), answers)
    }

    /// Holds the sums of each class against the number of records and against its histograms.
    pub(super) fn check_labels(&self, metrics: &Metrics) -> Result<(), WordsError> {
        let torn = WordsError::Contradiction;
        for (class, of) in self.every_label(metrics).unwrap_or_default().into_iter().enumerate() {
            if of.wrong().saturating_add(of.found) > of.total {
                return Err(torn("more answers about a label than total"));
            }
            let own = self.bins(metrics, class, true);
            let own = own.map(|bins| bins.into_iter().fold(0, u64::saturating_add));
            if own.is_some_and(|own| own != of.with()) {
                return Err(torn("the scores of a label are not of the records that have it"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;
    use crate::update::intervals::Name;
    use crate::update::measures::{SCORE_BINS, score_bin, score_name};
    use crate::update::words::Words;

    fn schema(classes: &[&str], metric: &str) -> Schema {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nobjective = \"multilabel\"\n\
             classes = {classes:?}\n\
             [data]\nkind = \"table\"\ncolumns = [{{ name = \"x\", min = 0, max = 1 }}]\n\
             [evaluation]\nmetric = \"{metric}\"\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Schema::of(&Study::read(&text, "a.toml").unwrap())
    }

    /// Ten records. Edema: 4, of which 3 found, and 1 mistaken. Effusion: nobody, nobody said to.
    const SUMS: [u64; 8] = [10, 65_536, 3, 1, 1, 0, 0, 0];

    #[test]
    fn every_label_has_the_measures_of_a_test_for_it_and_the_whole_has_their_mean() {
        let schema = schema(&["edema", "effusion"], "accuracy");
        assert_eq!(schema.names()[..4], ["total", "loss", "labels.0.found", "labels.0.missed"]);
        assert_eq!(schema.names().len(), SUMS.len());
        let metrics = Metrics(SUMS.to_vec());
        let edema = schema.label_counts(&metrics, 0).unwrap();
        assert_eq!((edema.with(), edema.without()), (4, 6));
        assert_eq!(edema.sensitivity(), Some(0.75));
        assert_eq!(edema.specificity(), Some(5.0 / 6.0));
        let measured = |name: Name| {
            let all = schema.measures(&metrics);
            all.into_iter().find(|measure| measure.name == name).map(|measure| measure.value)
        };
        // Two answers of twenty are wrong.
        assert_eq!(measured(Name::Accuracy), Some(0.9));
        // Nobody has an effusion: what is said of it has no F1 and no balance.
        assert_eq!(measured(Name::MacroF1), Some(6.0 / 8.0));
        assert_eq!(measured(Name::BalancedAccuracy), Some(f64::midpoint(0.75, 5.0 / 6.0)));
        assert_eq!(measured(Name::LogLoss), Some(0.1));
        // Answers about one record are not independent: the accuracy has no interval.
        assert!(schema.measures(&metrics).iter().all(|measure| measure.interval.is_none()));
        assert!(schema.measures(&Metrics(vec![0; 8])).is_empty(), "nothing was held out");
    }

    #[test]
    fn the_area_is_the_mean_over_the_labels_and_of_two_both_are_counted() {
        let schema = schema(&["edema", "effusion"], "auc");
        assert_eq!(schema.names().len(), 8 + 2 * 2 * SCORE_BINS);
        let mut metrics = Metrics(SUMS.to_vec());
        metrics.0.resize(schema.names().len(), 0);
        let mut put = |class: usize, own: bool, log_odds: f64, count: u64| {
            let name = score_name(class, own, score_bin(log_odds));
            metrics.0[schema.position(&name).unwrap()] = count;
        };
        put(0, true, 2.0, 3);
        put(0, true, -1.0, 1);
        put(0, false, 2.0, 1);
        put(0, false, -1.0, 5);
        put(1, false, -3.0, 10);
        // 4 · 6 pairs, 3 · 5 of them in order, 3 + 5 tied; nobody has the other.
        assert_eq!(schema.auc(&metrics), Some(19.0 / 24.0));
        let words = |metrics: &Metrics| Words { weight: 1, clipped: 0, metrics: metrics.clone() };
        let whole = words(&metrics);
        assert_eq!(schema.decode(&schema.encode(&whole)), Ok(whole));
        let said = |at: usize, value: u64| {
            let mut torn = metrics.clone();
            torn.0[at] = value;
            schema.decode(&schema.encode(&words(&torn))).unwrap_err().to_string()
        };
        assert!(said(2, 9).contains("more answers about a label"));
        assert!(said(2, 4).contains("scores of a label"));
    }
}
