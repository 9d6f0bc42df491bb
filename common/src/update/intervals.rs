//! The measures that people read, made of one set of sums, each with its 95 % interval where the sums
//! alone tell one. At display only.
//!
//! A share (accuracy, HR@10) has the score interval of Wilson 1927 (J. Am. Stat. Assoc. 22, 209–212);
//! the area under a ROC curve that of its standard error by Hanley & McNeil 1982 (Radiology 143,
//! 29–36, eq. 1 and 2). Both take records for independent: many records of one patient make the true
//! interval wider. The other measures have none here: their spread does not follow from sums.

use serde::{Deserialize, Serialize};

use super::measures::area;
use super::words::{Metrics, Schema};
use crate::study::sections::Metric;

/// The 97.5 % quantile of the standard normal distribution.
const QUANTILE: f64 = 1.959_963_984_540_054;

/// A measure by its name; in JSON `accuracy`, `balanced-accuracy`, `macro-f1`, …
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[expect(missing_docs, reason = "the methods of `Schema` with these names say what they are")]
pub enum Name {
    Accuracy,
    BalancedAccuracy,
    #[serde(rename = "macro-f1")]
    MacroF1,
    Auc,
    LogLoss,
    /// The expected calibration error.
    Ece,
    Rmse,
    Mae,
    Hr,
    Ndcg,
    /// Of the synthetic trainer, which predicts nothing.
    Loss,
}

impl Name {
    /// As people write it.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Accuracy => "accuracy",
            Self::BalancedAccuracy => "balanced accuracy",
            Self::MacroF1 => "macro F1",
            Self::Auc => "AUC",
            Self::LogLoss => "log-loss",
            Self::Ece => "ECE",
            Self::Rmse => "RMSE",
            Self::Mae => "MAE",
            Self::Hr => "HR@10",
            Self::Ndcg => "NDCG@10",
            Self::Loss => "loss",
        }
    }
}

/// What one measure says.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Measure {
    /// Which.
    pub name: Name,
    /// A share from 0 to 1, nats, or units of the label.
    pub value: f64,
    /// Where the true value lies with 95 % confidence, if the sums tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<Interval>,
}

/// A 95 % confidence interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Interval {
    /// Its lower end.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
    /// Where it comes from.
    pub method: Method,
}

/// How an interval was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// [`wilson`].
    #[serde(rename = "wilson-1927")]
    Wilson,
    /// [`hanley_mcneil`].
    #[serde(rename = "hanley-mcneil-1982")]
    HanleyMcneil,
}

impl Method {
    /// The paper, as people cite it.
    #[must_use]
    pub fn source(self) -> &'static str {
        match self {
            Self::Wilson => "Wilson 1927",
            Self::HanleyMcneil => "Hanley & McNeil 1982",
        }
    }
}

/// The score interval of a share: those p for which `part` of `whole` is within 1.96 standard errors of
/// p (Wilson 1927). `None` without records.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "display only")]
pub fn wilson(part: u64, whole: u64) -> Option<Interval> {
    if whole == 0 {
        return None;
    }
    let (n, share) = (whole as f64, part.min(whole) as f64 / whole as f64);
    let square = QUANTILE * QUANTILE;
    let middle = (share + square / (2.0 * n)) / (1.0 + square / n);
    let spread = (share * (1.0 - share) / n + square / (4.0 * n * n)).sqrt();
    Some(within_one(middle, QUANTILE * spread / (1.0 + square / n), Method::Wilson))
}

/// The interval of an area under a ROC curve over so many records of the class and others: area ± 1.96
/// standard errors (Hanley & McNeil 1982, eq. 2, with Q₁ and Q₂ of the negative exponential model).
/// `None` where one of both is missing.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "display only")]
pub fn hanley_mcneil(area: f64, of_class: u64, others: u64) -> Option<Interval> {
    if of_class == 0 || others == 0 {
        return None;
    }
    let (n, m, square) = (of_class as f64, others as f64, area * area);
    let (q1, q2) = (area / (2.0 - area), 2.0 * square / (1.0 + area));
    let sum = area * (1.0 - area) + (n - 1.0) * (q1 - square) + (m - 1.0) * (q2 - square);
    let error = (sum.max(0.0) / (n * m)).sqrt();
    Some(within_one(area, QUANTILE * error, Method::HanleyMcneil))
}

fn within_one(middle: f64, reach: f64, method: Method) -> Interval {
    Interval { low: (middle - reach).max(0.0), high: (middle + reach).min(1.0), method }
}

impl Schema {
    /// Every measure that these sums give.
    #[must_use]
    pub fn measures(&self, metrics: &Metrics) -> Vec<Measure> {
        let share = |part: &str| wilson(self.get(metrics, part)?, self.get(metrics, "total")?);
        let regresses = self.get(metrics, "absolute").is_some();
        let loss_name = if self.classes() > 0 { Name::LogLoss } else { Name::Loss };
        [
            (Name::Accuracy, self.accuracy(metrics), share("correct")),
            (Name::BalancedAccuracy, self.balanced_accuracy(metrics), None),
            (Name::MacroF1, self.macro_f1(metrics), None),
            (Name::Auc, self.auc(metrics), self.auc_interval(metrics)),
            (loss_name, self.loss(metrics).filter(|_| !regresses), None),
            (Name::Ece, self.calibration_error(metrics), None),
            (Name::Rmse, self.rmse(metrics), None),
            (Name::Mae, self.mae(metrics), None),
            (Name::Hr, self.hit_rate(metrics), share("hits")),
            (Name::Ndcg, self.ndcg(metrics), None),
        ]
        .into_iter()
        .filter_map(|(name, value, interval)| Some(Measure { name, value: value?, interval }))
        .collect()
    }

    /// The measure that decides, if it was measured; the mean squared error counts by its root.
    #[must_use]
    pub fn decisive(&self, metrics: &Metrics) -> Option<Measure> {
        let is_it = |name: Name| match self.metric() {
            Metric::Accuracy => name == Name::Accuracy,
            Metric::Loss => matches!(name, Name::LogLoss | Name::Loss | Name::Rmse),
            Metric::Auc => name == Name::Auc,
            Metric::Rmse => name == Name::Rmse,
            Metric::Hr => name == Name::Hr,
            Metric::Ndcg => name == Name::Ndcg,
        };
        self.measures(metrics).into_iter().find(|measure| is_it(measure.name))
    }

    /// The area of each class whose scores were counted, with its interval.
    #[must_use]
    pub fn class_areas(&self, metrics: &Metrics) -> Vec<(usize, Measure)> {
        let measure = |class: usize| {
            let (of, others) = self.both_bins(metrics, class)?;
            let value = area(&of, &others)?;
            let interval = hanley_mcneil(value, of.iter().sum(), others.iter().sum());
            Some((class, Measure { name: Name::Auc, value, interval }))
        };
        self.scored_classes().filter_map(measure).collect()
    }

    /// The ROC curve of a class from its histograms: shares of the others and of the class whose scores
    /// are at or above each bin, from (0, 0) to (1, 1). `None` where one of both has no records.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    pub fn roc(&self, metrics: &Metrics, class: usize) -> Option<Vec<(f64, f64)>> {
        let (of, others) = self.both_bins(metrics, class)?;
        let (all, all_others): (u64, u64) = (of.iter().sum(), others.iter().sum());
        if all == 0 || all_others == 0 {
            return None;
        }
        let (mut found, mut taken) = (0, 0);
        let mut points = vec![(0.0, 0.0)];
        for (of, others) in of.iter().zip(&others).rev().filter(|(of, others)| **of + **others > 0)
        {
            (found, taken) = (found + of, taken + others);
            points.push((taken as f64 / all_others as f64, found as f64 / all as f64));
        }
        Some(points)
    }

    fn both_bins(&self, metrics: &Metrics, class: usize) -> Option<(Vec<u64>, Vec<u64>)> {
        Some((self.bins(metrics, class, true)?, self.bins(metrics, class, false)?))
    }

    /// A mean over several classes' areas has no interval of its own.
    fn auc_interval(&self, metrics: &Metrics) -> Option<Interval> {
        let areas = self.class_areas(metrics);
        let [(_, area)] = areas.as_slice() else {
            return None;
        };
        area.interval.filter(|_| self.scored_classes().count() == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;

    fn near(interval: Option<Interval>, low: f64, high: f64) -> bool {
        interval
            .is_some_and(|have| (have.low - low).abs() < 5e-4 && (have.high - high).abs() < 5e-4)
    }

    #[test]
    fn a_share_has_the_interval_of_the_textbooks_and_never_leaves_zero_to_one() {
        // Newcombe 1998 (Stat. Med. 17, 857–872), table I, method 3.
        assert!(near(wilson(81, 263), 0.2553, 0.3662));
        assert!(near(wilson(15, 148), 0.0624, 0.1605));
        assert!(near(wilson(0, 20), 0.0, 0.1611));
        assert!(near(wilson(1, 29), 0.0061, 0.1718));
        assert!(near(wilson(20, 20), 0.8389, 1.0));
        assert_eq!(wilson(0, 0), None);
    }

    #[test]
    fn an_area_has_the_standard_error_of_hanley_and_mcneil() {
        // By hand for A = 0.8, 50 and 50: Q₁ = 0.8/1.2, Q₂ = 1.28/1.8, SE = 0.04450.
        let interval = hanley_mcneil(0.8, 50, 50);
        assert!(near(interval, 0.8 - 1.96 * 0.044_5, 0.8 + 1.96 * 0.044_5), "{interval:?}");
        assert!(near(hanley_mcneil(1.0, 9, 9), 1.0, 1.0));
        assert_eq!(hanley_mcneil(0.8, 50, 0), None);
    }

    fn schema(model: &str, data: &str, metric: &str) -> Schema {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\n{model}\n[data]\n{data}\n[evaluation]\n\
             metric = \"{metric}\"\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n"
        );
        Schema::of(&Study::read(&text, "a.toml").unwrap())
    }

    #[test]
    fn each_objective_has_the_measures_that_people_know_it_by() {
        let table = "kind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]";
        let names = |schema: &Schema, metrics: &[u64]| -> Vec<Name> {
            let measures = schema.measures(&Metrics(metrics.to_vec()));
            measures.into_iter().map(|measure| measure.name).collect()
        };
        let tabular = "family = \"tabular\"\nclasses = [\"no\", \"yes\"]";
        let classes = schema(tabular, table, "accuracy");
        let sums = [7, 10, 65_536, 4, 1, 2, 3];
        let of_classes = [Name::Accuracy, Name::BalancedAccuracy, Name::MacroF1, Name::LogLoss];
        assert_eq!(names(&classes, &sums), of_classes);
        let accuracy = classes.decisive(&Metrics(sums.to_vec())).unwrap();
        assert_eq!((accuracy.value, accuracy.interval), (0.7, wilson(7, 10)));
        let numbers = schema("family = \"tabular\"\nobjective = \"regress\"", table, "loss");
        assert_eq!(names(&numbers, &[1, 4 << 16, 2 << 16]), [Name::Rmse, Name::Mae]);
        let rmse = numbers.decisive(&Metrics(vec![1, 4 << 16, 2 << 16])).unwrap();
        assert_eq!((rmse.name, rmse.value), (Name::Rmse, 2.0));
        let ranks = "family = \"recommender\"\nobjective = \"rank\"\nitems = 9";
        let ranks = schema(ranks, "kind = \"ratings\"", "hr");
        assert_eq!(names(&ranks, &[10, 5, 65_536]), [Name::Hr, Name::Ndcg]);
        assert!(names(&ranks, &[0, 0, 0]).is_empty(), "nothing was measured");
    }

    #[test]
    fn a_roc_curve_encloses_its_area() {
        let table = "kind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]";
        let schema = schema("family = \"tabular\"\nclasses = [\"a\", \"b\"]", table, "auc");
        let mut generator = crate::random::Generator::new("roc", b"sums");
        let sums = (0..schema.names().len()).map(|_| u64::from(generator.below(7))).collect();
        let metrics = Metrics(sums);
        let points = schema.roc(&metrics, 1).unwrap();
        assert_eq!((points.first(), points.last()), (Some(&(0.0, 0.0)), Some(&(1.0, 1.0))));
        let under: f64 = points
            .windows(2)
            .map(|pair| (pair[1].0 - pair[0].0) * f64::midpoint(pair[0].1, pair[1].1))
            .sum();
        assert!((under - schema.auc(&metrics).unwrap()).abs() < 1e-12);
        assert!(schema.roc(&Metrics(vec![0; schema.names().len()]), 1).is_none());
    }

    #[test]
    fn the_area_of_two_classes_has_an_interval_and_the_mean_over_three_has_none() {
        let table = "kind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]";
        for (classes, has_interval) in [("\"a\", \"b\"", true), ("\"a\", \"b\", \"c\"", false)] {
            let tabular = format!("family = \"tabular\"\nclasses = [{classes}]");
            let schema = schema(&tabular, table, "auc");
            let metrics = Metrics(vec![3; schema.names().len()]);
            let area = schema.decisive(&metrics).unwrap();
            assert_eq!(area.interval.is_some(), has_interval, "{area:?}");
        }
    }
}
