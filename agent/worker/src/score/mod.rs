//! Metric sums of a model on the hold-out, as integers in the order of the study's schema
//! (`consilium_common::update::words`).
//!
//! Each record's loss is computed in f64 from the model's f32 outputs and rounded by itself to
//! 2^-16; from there on everything is integer addition. So the sums depend on neither the size of a
//! batch nor the order of additions; a mean is off by at most 2^-17.

mod bins;
mod classes;
mod labels;
mod numbers;
mod rank;

use consilium_common::study::{ModelSpec, Objective, Study};
use consilium_common::update::words::{LOSS_ONE, Metrics, Schema};
use consilium_common::worker::{FailureCode, Phase};
use tch::{Device, Kind, Reduction, TchError, Tensor, no_grad};

use self::classes::Classes;
use self::labels::Labels;
use self::numbers::Numbers;
use self::rank::Ranks;
use crate::data::dataset::Dataset;
use crate::failure::Failure;
use crate::model::{Mode, Network};
use crate::protocol::Link;

/// Records scored at once.
const BATCH: i64 = 512;
/// A single record counts at most so many units of loss: 2^22. 2^26 records fit a u64.
const UNITS_MAX: f64 = 274_877_906_944.0;

/// What training goes down.
pub(crate) struct Loss {
    objective: Objective,
    /// Choices are held against all items at once.
    multinomial: bool,
    /// How much a record of each class counts (f32, classes).
    class_weights: Option<Tensor>,
}

impl Loss {
    pub(crate) fn new(study: &Study, class_weights: Option<Tensor>) -> Self {
        let multinomial =
            matches!(&study.model, ModelSpec::Recommender(spec) if spec.is_multinomial());
        let objective = study.model.objective().unwrap_or_default();
        Self { objective, multinomial, class_weights }
    }

    /// The mean loss of a batch: cross-entropy over logits, the mean over the classes of the binary one,
    /// squared error, or, of margins m by which what was chosen scores above others, −ln σ(m) (Rendle et
    /// al. 2009, section 4.1) or ln Σ exp(−m) over all items (Liang et al. 2018, section 2.1: −ln of a
    /// softmax). With class weights each record's cross-entropy (of several labels each label's) counts so
    /// many times, and the divisor is the number of records all the same: a batch of one class would else
    /// weigh nothing.
    pub(crate) fn of(&self, outputs: &Tensor, labels: &Tensor) -> Result<Tensor, TchError> {
        match (self.objective, &self.class_weights) {
            (Objective::Classify, None) => {
                outputs.f_cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0)
            }
            (Objective::Classify, Some(weights)) => {
                let records = labels.size().first().copied().unwrap_or(0).max(1);
                outputs
                    .f_cross_entropy_loss(labels, Some(weights), Reduction::Sum, -100, 0.0)?
                    .f_div_scalar(records)
            }
            (Objective::Multilabel, weights) => outputs.f_binary_cross_entropy_with_logits(
                &labels.f_to_kind(outputs.kind())?,
                None,
                weights.as_ref(),
                Reduction::Mean,
            ),
            (Objective::Regress, _) => outputs.f_mse_loss(labels, Reduction::Mean),
            (Objective::Rank, _) if self.multinomial => {
                let away = outputs.f_neg()?.f_logsumexp([1_i64].as_slice(), false)?;
                away.f_mean(Kind::Float)
            }
            (Objective::Rank, _) => outputs.f_log_sigmoid()?.f_mean(Kind::Float)?.f_neg(),
        }
    }
}

/// Scores `network` on every record.
pub(crate) fn score(
    network: &dyn Network,
    study: &Study,
    holdout: &Dataset,
    link: &mut Link,
) -> Result<Metrics, Failure> {
    let device = network.store().device();
    let schema = Schema::of(study);
    let new = || Sums::new(study, &schema, device);
    let mut sums = new()?;
    let mut apart: Vec<Sums> = schema.groups().iter().map(|_| new()).collect::<Result<_, _>>()?;
    let records = i64::try_from(holdout.len()).unwrap_or(i64::MAX);
    let mut start = 0;
    while start < records {
        let len = BATCH.min(records - start);
        no_grad(|| -> Result<(), TchError> {
            let batch = holdout.range(start, len)?;
            let outputs = network.forward(&batch.inputs, Mode::Score)?.f_to_kind(Kind::Double)?;
            for (sums, rows) in apart.iter_mut().zip(holdout.groups_within(start, len)) {
                if !rows.is_empty() {
                    let rows = Tensor::f_from_slice(&rows)?.f_to_device(device)?;
                    let labels = batch.labels.f_index_select(0, &rows)?;
                    sums.add(&outputs.f_index_select(0, &rows)?, &labels)?;
                }
            }
            sums.add(&outputs, &batch.labels)
        })?;
        start += len;
        let done = u64::try_from(start).unwrap_or(0);
        link.moved(Phase::Scoring, done, holdout.len() as u64, || Ok(None))?;
    }
    let Metrics(mut all) = sums.finish()?;
    for sums in apart {
        all.extend(sums.finish()?.0);
    }
    Ok(Metrics(all))
}

/// Sums on the device: read once, at the end.
enum Sums {
    Classes(Classes),
    Labels(Labels),
    Numbers(Numbers),
    Ranks(Ranks),
}

impl Sums {
    fn new(study: &Study, schema: &Schema, device: Device) -> Result<Self, TchError> {
        let threshold = study.evaluation.threshold;
        Ok(match study.model.objective() {
            Some(Objective::Classify) => Self::Classes(Classes::new(schema, threshold, device)?),
            Some(Objective::Multilabel) => Self::Labels(Labels::new(schema, device)?),
            Some(Objective::Rank) => Self::Ranks(Ranks::new(device)?),
            Some(Objective::Regress) | None => Self::Numbers(Numbers::new(device)?),
        })
    }

    fn add(&mut self, outputs: &Tensor, labels: &Tensor) -> Result<(), TchError> {
        match self {
            Self::Classes(sums) => sums.add(outputs, labels),
            Self::Labels(sums) => sums.add(outputs, labels),
            Self::Numbers(sums) => sums.add(outputs, labels),
            Self::Ranks(sums) => sums.add(outputs),
        }
    }

    fn finish(self) -> Result<Metrics, Failure> {
        match self {
            Self::Classes(sums) => sums.finish(),
            Self::Labels(sums) => sums.finish(),
            Self::Numbers(sums) => sums.finish(),
            Self::Ranks(sums) => sums.finish(),
        }
    }
}

/// One value a record, rounded and added up.
struct Fixed {
    sum: Tensor,
    /// Whether every value was a number.
    finite: Tensor,
}

impl Fixed {
    fn new(device: Device) -> Result<Self, TchError> {
        Ok(Self {
            sum: Tensor::f_zeros([1], (Kind::Int64, device))?,
            finite: Tensor::f_ones([1], (Kind::Bool, device))?,
        })
    }

    /// `values`: f64, 0 or above, one a record.
    fn add(&mut self, values: &Tensor) -> Result<(), TchError> {
        self.finite = self.finite.f_logical_and(&values.f_isfinite()?.f_all()?)?;
        let units = values.f_mul_scalar(LOSS_ONE)?.f_round()?.f_clamp(0.0, UNITS_MAX)?;
        let _ = self.sum.f_add_(&units.f_to_kind(Kind::Int64)?.f_sum(Kind::Int64)?)?;
        Ok(())
    }

    fn finish(&self) -> Result<Vec<u64>, Failure> {
        if self.finite.f_int64_value(&[0])? == 0 {
            let message = "the base gives NaN or infinite loss on the hold-out";
            return Err(Failure::new(FailureCode::Diverged, message));
        }
        Ok(whole(&self.sum)?)
    }
}

/// Counts on the device as counts here.
fn whole(counts: &Tensor) -> Result<Vec<u64>, TchError> {
    let mut read = vec![0_i64; counts.numel()];
    let len = read.len();
    counts.f_to_device(Device::Cpu)?.f_copy_data(&mut read, len)?;
    Ok(read.into_iter().map(|count| u64::try_from(count).unwrap_or(0)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two classes, told apart by one number.
    pub(crate) fn study() -> Study {
        let text = "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"no\", \"yes\"]\n\
                    [data]\nkind = \"table\"\ncolumns = [{ name = \"x\", min = 0, max = 1 }]\n\
                    [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        Study::read(text, "a.toml").unwrap()
    }

    #[test]
    fn a_record_counts_as_often_as_its_class_weighs_and_batches_add_up() {
        let logits = Tensor::from_slice(&[0.3_f32, -1.0, 2.0, 0.5, -0.7, 0.1]).view([3, 2]);
        let labels = Tensor::from_slice(&[0_i64, 1, 1]);
        let loss = |weights: Option<[f32; 2]>, from: i64, len: i64| {
            let class_weights = weights.map(|weights| Tensor::from_slice(&weights));
            let loss = Loss { objective: Objective::Classify, multinomial: false, class_weights };
            let (logits, labels) = (logits.narrow(0, from, len), labels.narrow(0, from, len));
            loss.of(&logits, &labels).unwrap().double_value(&[])
        };
        let single: Vec<f64> = (0..3).map(|record| loss(None, record, 1)).collect();
        let need = (0.5 * single[0] + 3.0 * single[1] + 3.0 * single[2]) / 3.0;
        let weights = Some([0.5, 3.0]);
        assert!((loss(weights, 0, 3) - need).abs() < 1e-6);
        let parts = (2.0 * loss(weights, 0, 2) + loss(weights, 2, 1)) / 3.0;
        assert!((parts - need).abs() < 1e-6, "one class alone in a batch weighs as much");
    }

    #[test]
    fn of_several_labels_the_loss_is_the_mean_over_all_answers_and_weights_are_of_those_who_have_it()
     {
        let logits = Tensor::from_slice(&[0.3_f32, -1.0, 2.0, 0.5]).view([2, 2]);
        let labels = Tensor::from_slice(&[1_u8, 0, 1, 1]).view([2, 2]);
        let loss = |weights: Option<[f32; 2]>| {
            let class_weights = weights.map(|weights| Tensor::from_slice(&weights));
            let loss = Loss { objective: Objective::Multilabel, multinomial: false, class_weights };
            loss.of(&logits, &labels).unwrap().double_value(&[])
        };
        let softplus = |x: f64| x.exp().ln_1p();
        let answers = [softplus(-0.3), softplus(-1.0), softplus(-2.0), softplus(-0.5)];
        let mean = |of: [f64; 4]| of.iter().sum::<f64>() / 4.0;
        assert!((loss(None) - mean(answers)).abs() < 1e-6);
        let [a, b, c, d] = answers;
        assert!((loss(Some([3.0, 0.5])) - mean([3.0 * a, b, 3.0 * c, 0.5 * d])).abs() < 1e-6);
    }
}
