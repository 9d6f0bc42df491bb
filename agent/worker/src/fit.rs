//! Training: `local_epochs` passes over the site's records, or `local_steps` steps, in an order from our own
//! generator.

use consilium_common::random::Generator;
use consilium_common::study::Study;
use consilium_common::worker::{FailureCode, Phase};
use tch::{Device, Kind, TchError, Tensor};

use crate::data::dataset::{Batch, Dataset};
use crate::failure::Failure;
use crate::model::{Mode, Network};
use crate::optimizer::Optimizer;
use crate::protocol::Link;
use crate::score::Loss;

/// How a batch becomes a step.
pub(crate) struct Descent {
    pub(crate) loss: Loss,
    pub(crate) optimizer: Optimizer,
}

/// Trains `network` in place; returns the mean loss of the last pass, whole or not, without a proximal term or a
/// penalty. `seed` is the task's: with the same base, correction, records, device and number of threads
/// on a CPU the same bits come out.
pub(crate) fn train(
    network: &dyn Network,
    records: &Dataset,
    study: &Study,
    seed: u64,
    descent: &mut Descent,
    link: &mut Link,
) -> Result<f64, Failure> {
    let training = &study.training;
    let batch_size = usize::try_from(training.batch_size).unwrap_or(usize::MAX).max(1);
    let batches = (records.len().div_ceil(batch_size) as u64).max(1);
    let total = training.steps_of_round(batches);
    let mut order: Vec<i64> = (0..).take(records.len()).collect();
    let (mut done, mut last_epoch) = (0, 0.0);
    let passes = u32::try_from(total.div_ceil(batches)).unwrap_or(u32::MAX);
    for epoch in 0..passes {
        shuffle(&mut order, seed, epoch);
        let mut draws = generator("draws", seed, epoch);
        let mut epoch_loss = MeanLoss::new(network.store().device())?;
        let mut since_told = MeanLoss::new(network.store().device())?;
        let left = usize::try_from(total - done).unwrap_or(usize::MAX);
        for batch in order.chunks(batch_size).take(left) {
            let loss = step(network, records.pick(batch)?, &mut draws, descent)?;
            since_told.add(&loss, batch.len())?;
            epoch_loss.add(&loss, batch.len())?;
            done += 1;
            link.moved(Phase::Training, done, total, || since_told.take().map(Some))?;
        }
        last_epoch = epoch_loss.take()?;
    }
    Ok(last_epoch)
}

/// One batch down. The graph dies here; what is returned is a number on the device.
fn step(
    network: &dyn Network,
    batch: Batch,
    draws: &mut Generator,
    Descent { loss, optimizer }: &mut Descent,
) -> Result<Tensor, TchError> {
    let inputs = network.draw(batch.inputs, draws)?;
    let outputs = network.forward(&inputs, Mode::Train)?;
    let loss = loss.of(&outputs, &batch.labels)?;
    match network.penalty(&inputs)? {
        Some(penalty) => optimizer.step(&loss.f_add(&penalty)?)?,
        None => optimizer.step(&loss)?,
    }
    loss.f_detach()
}

/// A new order for each epoch: that of the first `order.len()` records, shuffled.
fn shuffle(order: &mut [i64], seed: u64, epoch: u32) {
    order.sort_unstable();
    generator("batches", seed, epoch).shuffle(order);
}

/// The numbers of one epoch for one purpose.
fn generator(purpose: &str, seed: u64, epoch: u32) -> Generator {
    let mut key = [0; 12];
    let (first, second) = key.split_at_mut(8);
    first.copy_from_slice(&seed.to_le_bytes());
    second.copy_from_slice(&epoch.to_le_bytes());
    Generator::new(purpose, &key)
}

/// A mean over records that stays on the device until it is asked for. NaN and infinity stay in it.
struct MeanLoss {
    sum: Tensor,
    records: usize,
}

impl MeanLoss {
    fn new(device: Device) -> Result<Self, TchError> {
        let sum = Tensor::f_zeros([1], (Kind::Double, device))?;
        Ok(Self { sum, records: 0 })
    }

    /// `loss` is the mean over `records`.
    fn add(&mut self, loss: &Tensor, records: usize) -> Result<(), TchError> {
        let weight = i64::try_from(records).unwrap_or(i64::MAX);
        let _ = self.sum.f_add_(&loss.f_to_kind(Kind::Double)?.f_mul_scalar(weight)?)?;
        self.records += records;
        Ok(())
    }

    /// The mean since the last call.
    fn take(&mut self) -> Result<f64, Failure> {
        let sum = self.sum.f_double_value(&[0])?;
        #[expect(clippy::cast_precision_loss, reason = "a count of records, for a mean")]
        let mean = sum / self.records.max(1) as f64;
        let _ = self.sum.f_zero_()?;
        self.records = 0;
        if mean.is_finite() {
            Ok(mean)
        } else {
            let message = "the training loss became NaN or infinite: lower training.learning_rate";
            Err(Failure::new(FailureCode::Diverged, message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_has_an_order_of_its_own_that_does_not_depend_on_the_one_before() {
        let order = |epochs: &[u32]| {
            let mut order: Vec<i64> = (0..100).collect();
            for epoch in epochs {
                shuffle(&mut order, 7, *epoch);
            }
            order
        };
        assert_eq!(order(&[1]), order(&[0, 1]));
        assert_ne!(order(&[0]), order(&[1]));
        let mut sorted = order(&[0]);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn a_mean_loss_weighs_by_records_starts_again_and_reports_nan() {
        let mut mean = MeanLoss::new(Device::Cpu).unwrap();
        mean.add(&Tensor::from(1.0_f32), 3).unwrap();
        mean.add(&Tensor::from(5.0_f32), 1).unwrap();
        assert!((mean.take().unwrap() - 2.0).abs() < 1e-12);
        mean.add(&Tensor::from(4.0_f32), 2).unwrap();
        assert!((mean.take().unwrap() - 4.0).abs() < 1e-12);
        mean.add(&Tensor::from(f32::NAN), 2).unwrap();
        assert_eq!(mean.take().unwrap_err().code, FailureCode::Diverged);
    }
}
