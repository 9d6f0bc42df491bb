//! The best version: a fold of scores, in the order in which versions are scored.

use serde::{Deserialize, Serialize};

use crate::ids::Version;
use crate::study::sections::Metric;

/// A version and the value that the study's metric gave it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scored {
    /// Which version.
    pub version: Version,
    /// Over the hold-outs of the sites that counted.
    pub score: f64,
}

/// The best of the versions that were scored, in memory of two of them. A version that is scored again
/// before the next one has its last score; of two with equal scores the earlier is better.
///
/// Scores are made of integer sums with + − × ÷ sqrt, so everybody who reads the same roll calls finds
/// the same version best.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Best {
    metric: Metric,
    /// The best of those before `newest`.
    before: Option<Scored>,
    /// The last that was scored.
    newest: Option<Scored>,
}

impl Best {
    /// Nothing was scored yet.
    #[must_use]
    pub fn new(metric: Metric) -> Self {
        Self { metric, before: None, newest: None }
    }

    /// The metric that decides.
    #[must_use]
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// A version was scored: one that was scored last, or a later one. `None` if no site held out a
    /// record to score it with.
    pub fn note(&mut self, version: Version, score: Option<f64>) {
        let Some(score) = score.filter(|score| score.is_finite()) else {
            return;
        };
        if self.newest.is_some_and(|newest| newest.version != version) {
            self.before = self.get();
        }
        self.newest = Some(Scored { version, score });
    }

    /// The best version.
    #[must_use]
    pub fn get(&self) -> Option<Scored> {
        match (self.before, self.newest) {
            (Some(before), Some(newest)) => {
                let better = self.metric.is_better(newest.score, before.score);
                Some(if better { newest } else { before })
            }
            (before, newest) => newest.or(before),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(metric: Metric, scores: &[(u64, Option<f64>)]) -> Option<u64> {
        let mut best = Best::new(metric);
        scores.iter().for_each(|(version, score)| best.note(Version(*version), *score));
        best.get().map(|scored| scored.version.0)
    }

    #[test]
    fn the_direction_is_the_metrics_and_of_equals_the_earlier_is_best() {
        let scores = [(0, Some(0.5)), (1, Some(0.8)), (2, Some(0.8)), (3, Some(0.2))];
        for metric in [Metric::Accuracy, Metric::Auc, Metric::Hr, Metric::Ndcg] {
            assert_eq!(best(metric, &scores), Some(1), "{metric}");
        }
        for metric in [Metric::Loss, Metric::Rmse] {
            assert_eq!(best(metric, &scores), Some(3), "{metric}");
        }
    }

    #[test]
    fn a_version_that_is_scored_again_has_its_last_score() {
        let again = [(0, Some(0.5)), (1, Some(0.9)), (1, Some(0.4)), (2, Some(0.45))];
        assert_eq!(best(Metric::Accuracy, &again), Some(0));
        let up = [(0, Some(0.5)), (1, Some(0.4)), (1, Some(0.9)), (2, Some(0.8))];
        assert_eq!(best(Metric::Accuracy, &up), Some(1));
    }

    #[test]
    fn a_version_without_a_score_is_passed_over() {
        assert_eq!(best(Metric::Loss, &[(0, None), (1, Some(f64::NAN))]), None);
        assert_eq!(best(Metric::Loss, &[(0, Some(2.0)), (1, None), (2, Some(1.0))]), Some(2));
    }
}
