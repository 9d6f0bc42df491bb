//! The 32-bit words beside an update: weight, clipped-flag, and metrics as integer sums.
//!
//! A metric is a list of named u64 sums, so that it can be added over sites without rounding and,
//! in private mode, blindly. On the wire each sum is four 16-bit limbs, one a word: added over up
//! to [`SITES_MAX`](crate::limits::SITES_MAX) sites a limb stays below 2^32, so the ring of 32 bits
//! carries it. Floats are made at display.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::groups::Group;
use super::labels::{LABEL_SUMS, label_name};
use super::measures::{SCORE_BINS, ratio, score_name};
use crate::limits::LIMB_BITS;
use crate::study::sections::Metric;
use crate::study::{Objective, Study};

const LIMBS: usize = 4;
/// Words before the metrics: weight, clipped.
const FIXED: usize = 2;
/// Fixed point of a loss sum: 2^-16 nats.
pub const LOSS_ONE: f64 = 65_536.0;

/// Named integer sums in the order of the study's schema.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metrics(pub Vec<u64>);

/// The names of a study's metric sums, in order, and the metric that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Schema {
    names: Vec<String>,
    classes: usize,
    /// Whether a record may have several of the classes, or none.
    several: bool,
    /// Classes that have histograms of their scores.
    scored: std::ops::Range<usize>,
    metric: Metric,
    /// Sums of the whole hold-out, and of each group.
    each: usize,
    groups: Vec<Group>,
}

/// Why words were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WordsError {
    /// Another number than the schema's.
    #[error("{have} words, the study's schema has {need}")]
    Count {
        /// Words given.
        have: usize,
        /// Words of the schema.
        need: usize,
    },
    /// A limb of one site over 16 bits.
    #[error("metric word {index} is over 16 bits")]
    Limb {
        /// Which word.
        index: usize,
    },
    /// The clipped-flag of one site is neither 0 nor 1.
    #[error("the clipped-flag is neither 0 nor 1")]
    Flag,
    /// Sums over the limbs' range, or that contradict one another.
    #[error("the metric sums contradict one another: {0}")]
    Contradiction(&'static str),
}

/// One site's words, or their sum over sites.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Words {
    /// Training records n_i (capped), or their sum.
    pub weight: u64,
    /// Whether the delta was clipped, or how many were.
    pub clipped: u64,
    /// Metric sums of the base on the hold-out.
    pub metrics: Metrics,
}

impl Schema {
    /// The sums that this study measures. Classes: `correct`, `total`, `loss` (2^-16 nats), the
    /// confusion matrix (row = truth) and, where AUC decides, histograms of scores
    /// ([`super::measures`], 8 KiB a class); of two classes the second is enough. Several labels at
    /// once: `total`, `loss` (mean over the classes), counts of each class ([`super::labels`]) and such
    /// histograms of every class.
    /// Numbers: `total`, `loss` (squared error, 2^-16 of the label's unit²), `absolute` (2^-16).
    /// Ranks: `total`, `hits` (among the ten first) and `gain` ([`super::measures::GAINS`], 2^-16).
    /// The synthetic family: `total` and `loss`. Then all of these once more for each group
    /// (`study::groups`), under names such as `group.sex.F.total`.
    #[must_use]
    pub fn of(study: &Study) -> Self {
        let (classes, metric) = (study.model.classes().len(), study.evaluation.metric);
        let objective = study.model.objective();
        let is_scored = metric == Metric::Auc;
        let several = objective == Some(Objective::Multilabel);
        let first = usize::from(classes == 2 && !several);
        let scored = if is_scored { first..classes } else { 0..0 };
        let mut names: Vec<String> = Vec::new();
        if objective == Some(Objective::Classify) {
            names.push("correct".to_owned());
        }
        let rest: &[&str] = match objective {
            Some(Objective::Regress) => &["total", "loss", "absolute"],
            Some(Objective::Rank) => &["total", "hits", "gain"],
            Some(Objective::Classify | Objective::Multilabel) | None => &["total", "loss"],
        };
        names.extend(rest.iter().map(|&name| name.to_owned()));
        for class in 0..classes {
            match several {
                true => names.extend(LABEL_SUMS.map(|what| label_name(class, what))),
                false => {
                    names.extend((0..classes).map(|said| format!("confusion.{class}.{said}")));
                }
            }
        }
        for (class, own) in scored.clone().flat_map(|class| [(class, true), (class, false)]) {
            names.extend((0..SCORE_BINS).map(|bin| score_name(class, own, bin)));
        }
        let (each, mut groups) = (names.len(), Vec::new());
        for grouping in study.groupings() {
            let column = &grouping.column;
            let group = |name| Group { column: column.clone(), name };
            groups.extend(grouping.names().into_iter().map(group));
        }
        for Group { column, name } in &groups {
            let own = names.iter().take(each).map(|sum| format!("group.{column}.{name}.{sum}"));
            let own: Vec<String> = own.collect();
            names.extend(own);
        }
        Self { names, classes, several, scored, metric, each, groups }
    }

    /// Names in order.
    #[must_use]
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many words an update has.
    #[must_use]
    pub fn words_len(&self) -> usize {
        FIXED + LIMBS * self.names.len()
    }

    /// Names of the whole hold-out's sums, in order, without the histograms.
    pub fn plain_names(&self) -> impl Iterator<Item = &str> {
        let bins = 2 * SCORE_BINS * self.scored.len();
        self.names.iter().take(self.each.saturating_sub(bins)).map(String::as_str)
    }

    /// How many sums the whole hold-out has, and each group.
    #[must_use]
    pub fn sums_each(&self) -> usize {
        self.each
    }

    /// The study's groups.
    #[must_use]
    pub fn groups(&self) -> &[Group] {
        &self.groups
    }

    /// The sum called `name`, if this schema has it and it was measured.
    #[must_use]
    pub fn get(&self, metrics: &Metrics, name: &str) -> Option<u64> {
        metrics.0.get(self.position(name)?).copied()
    }

    /// The sums of this schema among those that a roll call names; 0 for what it does not name.
    #[must_use]
    pub fn pick(&self, sums: &BTreeMap<String, u64>) -> Metrics {
        Metrics(self.names.iter().map(|name| sums.get(name).copied().unwrap_or(0)).collect())
    }

    /// Where the sum called `name` stands.
    pub(super) fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known == name)
    }

    /// Classes that are told apart.
    #[must_use]
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// Whether a record may have several of the classes, or none.
    #[must_use]
    pub fn has_several_labels(&self) -> bool {
        self.several
    }

    /// Classes whose scores are counted.
    pub fn scored_classes(&self) -> impl Iterator<Item = usize> + use<> {
        self.scored.clone()
    }

    /// The metric that decides.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Correct ÷ total, if anything was measured; of several labels at once the mean over the classes.
    #[must_use]
    pub fn accuracy(&self, metrics: &Metrics) -> Option<f64> {
        if self.several {
            return self.label_accuracy(metrics);
        }
        ratio(self.get(metrics, "correct")?, self.get(metrics, "total")?)
    }

    /// Mean loss in nats, if anything was measured.
    #[must_use]
    pub fn loss(&self, metrics: &Metrics) -> Option<f64> {
        Some(ratio(self.get(metrics, "loss")?, self.get(metrics, "total")?)? / LOSS_ONE)
    }

    /// One site's words as they travel.
    #[must_use]
    pub fn encode(&self, words: &Words) -> Vec<u32> {
        let word = |x: u64| u32::try_from(x).unwrap_or(u32::MAX);
        let mut encoded = vec![word(words.weight), word(words.clipped)];
        for index in 0..self.names.len() {
            let sum = words.metrics.0.get(index).copied().unwrap_or(0);
            let limb = |i: usize| (sum >> (LIMB_BITS as usize * i)) & 0xffff;
            encoded.extend((0..LIMBS).map(|i| word(limb(i))));
        }
        encoded
    }

    /// Reads one site's words and holds them against each other.
    ///
    /// # Errors
    /// Another number of words, limbs over 16 bits, a flag that is none, contradictions.
    pub fn decode(&self, encoded: &[u32]) -> Result<Words, WordsError> {
        if encoded.len() != self.words_len() {
            return Err(WordsError::Count { have: encoded.len(), need: self.words_len() });
        }
        let (fixed, limbs) = encoded.split_at(FIXED);
        if let Some(at) = limbs.iter().position(|limb| limb >> LIMB_BITS != 0) {
            return Err(WordsError::Limb { index: FIXED + at });
        }
        let sum = |limbs: &[u32]| {
            limbs.iter().rev().fold(0_u64, |sum, &limb| (sum << LIMB_BITS) | u64::from(limb))
        };
        let words = Words {
            weight: fixed.first().copied().map_or(0, u64::from),
            clipped: fixed.get(1).copied().map_or(0, u64::from),
            metrics: Metrics(limbs.chunks(LIMBS).map(sum).collect()),
        };
        if words.clipped > 1 {
            return Err(WordsError::Flag);
        }
        self.check_part(&words.metrics)?;
        self.check_groups(&words.metrics)?;
        Ok(words)
    }

    /// Holds the sums of the whole hold-out, or of one group, against each other.
    pub(super) fn check_part(&self, metrics: &Metrics) -> Result<(), WordsError> {
        let total = self.get(metrics, "total").unwrap_or(0);
        if total >> 40 != 0 {
            return Err(WordsError::Contradiction("over 2^40 hold-out records"));
        }
        if self.get(metrics, "correct").is_some_and(|correct| correct > total) {
            return Err(WordsError::Contradiction("more correct than total"));
        }
        let hits = self.get(metrics, "hits").unwrap_or(0);
        if hits > total {
            return Err(WordsError::Contradiction("more hits than total"));
        }
        if self.get(metrics, "gain").is_some_and(|gain| gain > hits << LIMB_BITS) {
            return Err(WordsError::Contradiction("more gain than the hits can have"));
        }
        let own = self.names.iter().take(self.each);
        let cells = own.zip(&metrics.0).filter(|(name, _)| name.starts_with("confusion."));
        let mut cells = cells.map(|(_, cell)| *cell).peekable();
        if cells.peek().is_some() && cells.fold(0, u64::saturating_add) != total {
            return Err(WordsError::Contradiction("the confusion matrix does not add up to total"));
        }
        let every = |class| {
            let sums = [true, false].map(|own| self.bins(metrics, class, own).unwrap_or_default());
            sums.iter().flatten().copied().fold(0, u64::saturating_add)
        };
        if self.scored_classes().any(|class| every(class) != total) {
            return Err(WordsError::Contradiction("the scores do not add up to total"));
        }
        self.check_labels(metrics)
    }
}

impl Words {
    /// Adds another site's words; `None` if a sum overflows.
    #[must_use]
    pub fn checked_add(&self, other: &Self) -> Option<Self> {
        let len = self.metrics.0.len().max(other.metrics.0.len());
        let at = |metrics: &Metrics, i: usize| metrics.0.get(i).copied().unwrap_or(0);
        let metrics: Option<Vec<u64>> =
            (0..len).map(|i| at(&self.metrics, i).checked_add(at(&other.metrics, i))).collect();
        Some(Self {
            weight: self.weight.checked_add(other.weight)?,
            clipped: self.clipped.checked_add(other.clipped)?,
            metrics: Metrics(metrics?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(classes: usize) -> Schema {
        let mut names: Vec<String> = ["correct", "total", "loss"].map(String::from).to_vec();
        for truth in 0..classes {
            names.extend((0..classes).map(|said| format!("confusion.{truth}.{said}")));
        }
        let (each, metric) = (names.len(), Metric::Accuracy);
        Schema { names, classes, several: false, scored: 0..0, metric, each, groups: Vec::new() }
    }

    fn words(metrics: &[u64]) -> Words {
        Words { weight: 15_000, clipped: 1, metrics: Metrics(metrics.to_vec()) }
    }

    #[test]
    fn words_survive_their_limbs() {
        let schema = schema(2);
        let words = words(&[7, 10, 0x0123_4567_89ab_cdef, 4, 1, 2, 3]);
        assert_eq!(schema.decode(&schema.encode(&words)).unwrap(), words);
        assert_eq!(schema.accuracy(&words.metrics), Some(0.7));
    }

    #[test]
    fn sums_of_limbs_are_limbs_of_sums() {
        // What the ring of private mode will rely on: add the words, then carry.
        let schema = schema(0);
        let sites: Vec<Words> =
            (0..1000).map(|n| words(&[n, 1000 + n, n * 70_000_000_000])).collect();
        let mut columns = vec![0_u32; schema.words_len()];
        let mut sum = Words::default();
        for site in &sites {
            sum = sum.checked_add(site).unwrap();
            for (column, word) in columns.iter_mut().zip(schema.encode(site)) {
                *column = column.checked_add(word).unwrap();
            }
        }
        let carried = columns[FIXED..].chunks(LIMBS).map(|limbs| {
            limbs.iter().rev().fold(0_u64, |sum, &limb| (sum << LIMB_BITS) + u64::from(limb))
        });
        assert_eq!(carried.collect::<Vec<_>>(), sum.metrics.0);
    }

    #[test]
    fn words_that_contradict_one_another_are_refused() {
        let schema = schema(2);
        let encoded = |metrics: &[u64]| schema.encode(&words(metrics));
        let refused = |encoded: &[u32]| schema.decode(encoded).unwrap_err();
        let good = encoded(&[7, 10, 0, 4, 1, 2, 3]);
        assert_eq!(refused(&good[1..]), WordsError::Count { have: 29, need: 30 });
        let mut limb = good.clone();
        limb[5] = 1 << 16;
        assert_eq!(refused(&limb), WordsError::Limb { index: 5 });
        let mut flag = good;
        flag[1] = 2;
        assert_eq!(refused(&flag), WordsError::Flag);
        let more = encoded(&[11, 10, 0, 4, 1, 2, 3]);
        assert!(matches!(refused(&more), WordsError::Contradiction(_)));
        let matrix = encoded(&[7, 10, 0, 4, 1, 2, 2]);
        assert!(matches!(refused(&matrix), WordsError::Contradiction(_)));
    }

    #[test]
    fn an_overflowing_sum_is_told_not_wrapped() {
        let max = words(&[u64::MAX]);
        assert_eq!(max.checked_add(&words(&[1])), None);
    }
}
