//! Metric sums of a model on the hold-out, as integers in the order of the study's schema: correct,
//! total, loss, confusion matrix by rows of truth.
//!
//! Each record's cross-entropy is computed in f64 from the model's f32 outputs and rounded by
//! itself to 2^-16 nats; from there on everything is integer addition. So the sums depend on
//! neither the size of a batch nor the order of additions; the mean is off by at most 2^-17 nats.

use consilium_common::update::words::{LOSS_ONE, Metrics};
use consilium_common::worker::{FailureCode, Phase};
use tch::{Device, Kind, Reduction, TchError, Tensor, no_grad};

use crate::data::dataset::{Batch, Dataset};
use crate::failure::Failure;
use crate::model::cnn::Network;
use crate::protocol::Link;

/// Records scored at once.
const BATCH: i64 = 512;
/// A single record counts at most so many units of loss: 2^22 nats. 2^26 records fit a u64.
const LOSS_UNITS_MAX: f64 = 274_877_906_944.0;

/// Scores `network` on every record.
pub(crate) fn score(
    network: &Network,
    holdout: &Dataset,
    classes: usize,
    link: &mut Link,
) -> Result<Metrics, Failure> {
    let classes = i64::try_from(classes).unwrap_or(i64::MAX);
    let mut sums = Sums::new(classes, network.store().device())?;
    let records = i64::try_from(holdout.len()).unwrap_or(i64::MAX);
    let mut start = 0;
    while start < records {
        let len = BATCH.min(records - start);
        no_grad(|| sums.add(network, &holdout.range(start, len)?))?;
        start += len;
        let done = u64::try_from(start).unwrap_or(0);
        link.moved(Phase::Scoring, done, holdout.len() as u64, || Ok(None))?;
    }
    sums.finish()
}

/// Sums on the device: read once, at the end.
struct Sums {
    classes: i64,
    /// classes², row = truth.
    confusion: Tensor,
    loss: Tensor,
    /// Whether every loss was a number.
    finite: Tensor,
}

impl Sums {
    fn new(classes: i64, device: Device) -> Result<Self, TchError> {
        Ok(Self {
            classes,
            confusion: Tensor::f_zeros([classes * classes], (Kind::Int64, device))?,
            loss: Tensor::f_zeros([1], (Kind::Int64, device))?,
            finite: Tensor::f_ones([1], (Kind::Bool, device))?,
        })
    }

    fn add(&mut self, network: &Network, batch: &Batch) -> Result<(), TchError> {
        let logits = network.forward(&batch.images)?.f_to_kind(Kind::Double)?;
        let losses = logits.f_cross_entropy_loss::<Tensor>(
            &batch.labels,
            None,
            Reduction::None,
            -100,
            0.0,
        )?;
        self.finite = self.finite.f_logical_and(&losses.f_isfinite()?.f_all()?)?;
        let units = losses.f_mul_scalar(LOSS_ONE)?.f_round()?.f_clamp(0.0, LOSS_UNITS_MAX)?;
        let _ = self.loss.f_add_(&units.f_to_kind(Kind::Int64)?.f_sum(Kind::Int64)?)?;
        let said = logits.f_argmax(1, false)?;
        let cell = batch.labels.f_mul_scalar(self.classes)?.f_add(&said)?;
        let cells = cell.f_bincount::<Tensor>(None, self.classes * self.classes)?;
        let _ = self.confusion.f_add_(&cells)?;
        Ok(())
    }

    fn finish(self) -> Result<Metrics, Failure> {
        if self.finite.f_int64_value(&[0])? == 0 {
            let message = "the base gives NaN or infinite loss on the hold-out";
            return Err(Failure::new(FailureCode::Diverged, message));
        }
        let confusion = whole(&self.confusion)?;
        let diagonal = usize::try_from(self.classes).unwrap_or(usize::MAX).saturating_add(1);
        let correct = confusion.iter().step_by(diagonal).sum();
        let total = confusion.iter().sum();
        let mut sums = vec![correct, total];
        sums.extend(whole(&self.loss)?);
        sums.extend(confusion);
        Ok(Metrics(sums))
    }
}

/// Counts on the device as counts here.
fn whole(counts: &Tensor) -> Result<Vec<u64>, TchError> {
    let mut read = vec![0_i64; counts.numel()];
    let len = read.len();
    counts.f_to_device(Device::Cpu)?.f_copy_data(&mut read, len)?;
    Ok(read.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect())
}
