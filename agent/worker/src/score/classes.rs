//! `classify`: correct, total, loss, confusion matrix by rows of truth, histograms of scores.

use consilium_common::update::words::{Metrics, Schema};
use tch::{Device, Kind, Reduction, TchError, Tensor};

use super::bins::{BINS, bin, count};
use super::{Fixed, whole};
use crate::failure::Failure;

/// Sums over logits and labels.
pub(super) struct Classes {
    classes: i64,
    /// How far the second of two classes must be above the first to be said, in log-odds.
    threshold: f64,
    /// classes², row = truth.
    confusion: Tensor,
    loss: Fixed,
    /// Per scored class 2 × bins: its own records, then the others.
    scores: Vec<(i64, Tensor)>,
}

impl Classes {
    /// `threshold` is the study's, a probability.
    pub(super) fn new(
        schema: &Schema,
        threshold: Option<f64>,
        device: Device,
    ) -> Result<Self, TchError> {
        let classes = i64::try_from(schema.classes()).unwrap_or(i64::MAX);
        let zeros = |len: i64| Tensor::f_zeros([len], (Kind::Int64, device));
        let scored = schema.scored_classes().filter_map(|class| i64::try_from(class).ok());
        let scores = scored.map(|class| Ok((class, zeros(2 * BINS)?)));
        Ok(Self {
            classes,
            threshold: threshold.map_or(0.0, |share| (share / (1.0 - share)).ln()),
            confusion: zeros(classes * classes)?,
            loss: Fixed::new(device)?,
            scores: scores.collect::<Result<_, TchError>>()?,
        })
    }

    /// `logits` (f64, records × classes) and `labels` (i64, records).
    pub(super) fn add(&mut self, logits: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        let losses =
            logits.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::None, -100, 0.0)?;
        self.loss.add(&losses)?;
        let said = self.said(logits)?;
        let cell = labels.f_mul_scalar(self.classes)?.f_add(&said)?;
        count(&mut self.confusion, &cell)?;
        for (class, sums) in &mut self.scores {
            let others = labels.f_ne(*class)?.f_to_kind(Kind::Int64)?.f_mul_scalar(BINS)?;
            count(sums, &bins(logits, *class, self.classes)?.f_add(&others)?)?;
        }
        Ok(())
    }

    /// The class that is said of each record.
    fn said(&self, logits: &Tensor) -> Result<Tensor, TchError> {
        if self.threshold == 0.0 {
            return logits.f_argmax(1, false);
        }
        let log_odds = logits.f_select(1, 1)?.f_sub(&logits.f_select(1, 0)?)?;
        log_odds.f_ge(self.threshold)?.f_to_kind(Kind::Int64)
    }

    pub(super) fn finish(self) -> Result<Metrics, Failure> {
        let loss = self.loss.finish()?;
        let confusion = whole(&self.confusion)?;
        let diagonal = usize::try_from(self.classes).unwrap_or(usize::MAX).saturating_add(1);
        let correct = confusion.iter().step_by(diagonal).sum();
        let total = confusion.iter().sum();
        let mut sums = vec![correct, total];
        sums.extend(loss);
        sums.extend(confusion);
        for (_, scores) in &self.scores {
            sums.extend(whole(scores)?);
        }
        Ok(Metrics(sums))
    }
}

/// `measures::score_bin` of each record's log-odds for `class`: its logit less the log of the sum
/// of the others' exponentials.
fn bins(logits: &Tensor, class: i64, classes: i64) -> Result<Tensor, TchError> {
    let others: Vec<i64> = (0..classes).filter(|other| *other != class).collect();
    let others = Tensor::f_from_slice(&others)?.f_to_device(logits.device())?;
    let others = logits.f_index_select(1, &others)?.f_logsumexp([1_i64].as_slice(), false)?;
    bin(&logits.f_select(1, class)?.f_sub(&others)?)
}

#[cfg(test)]
mod tests {
    use consilium_common::update::measures::score_bin;

    use super::*;

    #[test]
    fn the_second_class_is_said_from_the_threshold_on() {
        let schema = Schema::of(&crate::score::tests::study());
        let odds = [0.2_f64, 0.69, 0.71, 0.9].map(|share| (share / (1.0 - share)).ln());
        let logits: Vec<f64> = odds.iter().flat_map(|odds| [1.0, 1.0 + odds]).collect();
        let logits = Tensor::from_slice(&logits).view([4, 2]);
        let said = |threshold| {
            let sums = Classes::new(&schema, threshold, Device::Cpu).unwrap();
            let said: Vec<i64> = sums.said(&logits).unwrap().try_into().unwrap();
            said
        };
        assert_eq!(said(None), [0, 1, 1, 1]);
        assert_eq!(said(Some(0.7)), [0, 0, 1, 1]);
        assert_eq!(said(Some(0.1)), [1, 1, 1, 1]);
    }

    #[test]
    fn a_bin_on_the_device_is_the_bin_of_the_schema() {
        let scores = [-40.0, -16.0, -1.01, -0.125, 0.0, 0.124, 3.3, 15.9, 99.0];
        let logits: Vec<f64> = scores.iter().flat_map(|score| [0.5, score + 0.5]).collect();
        let logits = Tensor::from_slice(&logits).view([9, 2]);
        let have: Vec<i64> = bins(&logits, 1, 2).unwrap().try_into().unwrap();
        let need: Vec<i64> = scores.iter().map(|s| i64::try_from(score_bin(*s)).unwrap()).collect();
        assert_eq!(have, need);
        // Of three classes: p = e² / (e² + 1 + e), so the odds are e² / (1 + e).
        let three = Tensor::from_slice(&[0.0, 1.0, 2.0]).view([1, 3]);
        let log_odds = (2.0_f64.exp() / (1.0 + 1.0_f64.exp())).ln();
        let have = bins(&three, 2, 3).unwrap().int64_value(&[0]);
        assert_eq!(usize::try_from(have), Ok(score_bin(log_odds)));
    }
}
