//! `rnn`: irregular series with a class or a number to predict.

use consilium_common::study::counts::{Moments, Standard};
use consilium_common::study::model::Rnn;
use consilium_common::study::model::rnn::SUMMARY;
use consilium_common::study::{Data, Objective};
use consilium_common::worker::Outcome;
use tch::{TchError, Tensor, no_grad};

use super::{Family, Job, prepares_nothing};
use crate::data::Role;
use crate::data::asked::Questions;
use crate::data::check::{Seen, Tally, enough, support};
use crate::data::contract::Repairs;
use crate::data::dataset::{Dataset, Loaded};
use crate::data::groups::shown;
use crate::data::label::Label;
use crate::data::picking::Records;
use crate::data::series::{Series, ask, read};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::rnn::{Recurrent, Scale};
use crate::preparation::standards;
use crate::protocol::Link;

/// The family with its spec.
pub(super) struct OverTime<'a>(pub(super) &'a Rnn);

impl OverTime<'_> {
    fn read(&self, job: &Job<'_>, link: &mut Link) -> Result<(Records<Series>, Repairs), Failure> {
        read(job, self.0.steps, link)
    }

    fn dataset(&self, series: &[Series], job: &Job<'_>) -> Result<Dataset, TchError> {
        let values = self.values(series.iter().map(|one| one.values.as_slice()), job)?;
        let labels = Label::tensor(labels(series), self.0.classes.len())?;
        Ok(Dataset::new(vec![values], labels.f_to_device(job.device)?))
    }

    /// Values on the device: f32, records × steps × variables, NaN for none.
    fn values<'s>(
        &self,
        series: impl ExactSizeIterator<Item = &'s [f32]>,
        job: &Job<'_>,
    ) -> Result<Tensor, TchError> {
        let shape = [series.len(), self.0.steps as usize, job.study.data.columns.len()];
        let shape = shape.map(|size| i64::try_from(size).unwrap_or(i64::MAX));
        let values: Vec<f32> = series.flatten().copied().collect();
        Tensor::f_from_slice(&values)?.f_view(shape)?.f_to_device(job.device)
    }
}

impl Family for OverTime<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let (records, repairs) = self.read(job, link)?;
        enough(job.study, records.train.len())?;
        let mut findings = records.findings;
        if self.0.objective.has_classes() {
            let (train, held) = (labels(&records.train), labels(&records.holdout));
            findings.extend(support(&self.0.classes, train, held));
        }
        findings.extend(repairs.findings("values"));
        findings.extend(never_observed(&records.train, &job.study.data));
        findings.extend(seen(&records.train, &records.holdout).findings("records"));
        let (examples, holdout) = (records.train.len() as u64, records.holdout.len() as u64);
        Ok(Outcome { examples, holdout, findings, ..Outcome::default() })
    }

    /// The moments of every variable, over what was observed in the records to train on; then those of
    /// their summary.
    fn prepare(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<i32>, Failure> {
        if job.study.family_sums().is_none() {
            return Err(prepares_nothing(job.study));
        }
        let (records, _) = self.read(job, link)?;
        enough(job.study, records.train.len())?;
        Ok(moments(&records.train, job.study.data.columns.len(), self.0.summary))
    }

    fn labels(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<Label>, Failure> {
        Ok(labels(&self.read(job, link)?.0.train).collect())
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let (mut records, _) = self.read(job, link)?;
        if with_train {
            enough(job.study, records.train.len())?;
        }
        if let Some(constants) = constants(job)? {
            for one in records.train.iter_mut().chain(&mut records.holdout) {
                standardise(&mut one.values, &constants.values);
            }
        }
        let train = with_train.then(|| self.dataset(&records.train, job)).transpose()?;
        let apart = shown(job.study, records.members.iter());
        Ok(Loaded { train, holdout: self.dataset(&records.holdout, job)?.grouped(apart) })
    }

    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure> {
        let mut asked = ask(job, self.0.steps, link)?;
        if let Some(constants) = constants(job)? {
            asked.read.iter_mut().for_each(|values| standardise(values, &constants.values));
        }
        let dataset = |series: Vec<Vec<f32>>| {
            let values = self.values(series.iter().map(Vec::as_slice), job)?;
            Dataset::unlabelled(vec![values])
        };
        Ok(asked.map(dataset)?)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        let network = Recurrent::new(self.0, &job.study.data, job.device)?;
        Ok(match constants(job)? {
            Some(Constants { values, summary }) if self.0.summary => {
                Box::new(network.scaled(Scale::new(&values, &summary, job.device)?))
            }
            _ => Box::new(network),
        })
    }

    /// The output's bias starts at the classes' shares, or each class's log-odds, among the site's own
    /// training records.
    fn start_local(
        &self,
        job: &Job<'_>,
        network: &dyn Network,
        link: &mut Link,
    ) -> Result<(), Failure> {
        let (records, _) = self.read(job, link)?;
        let tally = Tally::of(labels(&records.train), self.0.classes.len());
        let start = match self.0.objective {
            Objective::Multilabel => log_odds(&tally),
            Objective::Classify | Objective::Regress | Objective::Rank => log_shares(&tally),
        };
        let start = Tensor::f_from_slice(&start)?;
        for mut bias in
            network.local().into_iter().flat_map(|local| local.variables().into_values())
        {
            no_grad(|| bias.f_copy_(&start))?;
        }
        Ok(())
    }
}

/// How numbers are standardised.
struct Constants {
    values: Vec<Standard>,
    /// Of each number of the summary those of each variable; none without one.
    summary: Vec<Standard>,
}

/// What the sites counted for that.
fn constants(job: &Job<'_>) -> Result<Option<Constants>, Failure> {
    Ok(standards(job)?.map(|mut values| {
        let summary = values.split_off(values.len().min(job.study.data.columns.len()));
        Constants { values, summary }
    }))
}

/// Units of each variable's moments, one after another; then of each number of the summary those of
/// each variable. A gap counts as nothing.
fn moments(series: &[Series], variables: usize, summary: bool) -> Vec<i32> {
    let mut moments = vec![Moments::default(); variables];
    for step in series.iter().flat_map(|one| one.values.chunks_exact(variables.max(1))) {
        for (moments, share) in moments.iter_mut().zip(step) {
            moments.add(f64::from(*share));
        }
    }
    if summary {
        let mut of_summary = vec![vec![Moments::default(); variables]; SUMMARY as usize];
        for one in series {
            for variable in 0..variables {
                let column = one.values.iter().skip(variable).step_by(variables);
                for (moments, number) in of_summary.iter_mut().zip(summed_up(column)) {
                    moments.get_mut(variable).into_iter().for_each(|moments| moments.add(number));
                }
            }
        }
        moments.extend(of_summary.into_iter().flatten());
    }
    moments.iter().flat_map(Moments::units).collect()
}

/// Mean, minimum, maximum, share of steps with a value, and last value of a variable's steps, as the
/// network has them; NaN for those that a variable without any does not have.
#[expect(clippy::cast_precision_loss, reason = "counts of steps")]
fn summed_up<'v>(column: impl ExactSizeIterator<Item = &'v f32>) -> [f64; SUMMARY as usize] {
    let steps = column.len();
    let seen: Vec<f64> = column.filter(|value| !value.is_nan()).copied().map(f64::from).collect();
    let share = seen.len() as f64 / steps.max(1) as f64;
    let Some(last) = seen.last() else {
        return [f64::NAN, f64::NAN, f64::NAN, share, f64::NAN];
    };
    let mean = seen.iter().sum::<f64>() / seen.len() as f64;
    let least = seen.iter().copied().fold(f64::INFINITY, f64::min);
    let most = seen.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    [mean, least, most, share, *last]
}

/// Brings what was observed to the mean 0 and deviation 1 that it has over all sites; gaps stay gaps.
fn standardise(values: &mut [f32], standards: &[Standard]) {
    for step in values.chunks_exact_mut(standards.len().max(1)) {
        for (value, standard) in step.iter_mut().zip(standards) {
            if !value.is_nan() {
                *value = standard.apply(*value);
            }
        }
    }
}

fn labels(series: &[Series]) -> impl Iterator<Item = Label> + Clone {
    series.iter().map(|series| series.label)
}

/// The logarithm of each class's share, one half of a record more of each so that none is infinite.
/// Of two classes the difference is the log-odds of the second.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts of records, for a bias of f32"
)]
fn log_shares(tally: &Tally) -> Vec<f32> {
    let all = tally.all as f64 + 0.5 * tally.classes.len() as f64;
    tally.classes.iter().map(|count| ((*count as f64 + 0.5) / all).ln() as f32).collect()
}

/// The log-odds of each class, one half of a record more with it and without.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "counts of records, for a bias of f32"
)]
fn log_odds(tally: &Tally) -> Vec<f32> {
    let others = |count: u64| tally.all.saturating_sub(count) as f64 + 0.5;
    let odds = |count: &u64| ((*count as f64 + 0.5) / others(*count)).ln() as f32;
    tally.classes.iter().map(odds).collect()
}

/// A line for each variable that no record has.
fn never_observed(series: &[Series], data: &Data) -> Vec<String> {
    let width = data.columns.len().max(1);
    let mut there = vec![false; width];
    for step in series.iter().flat_map(|series| series.values.chunks_exact(width)) {
        for (there, value) in there.iter_mut().zip(step) {
            *there |= !value.is_nan();
        }
    }
    let never = data.columns.iter().zip(there).filter(|(_, there)| !there);
    never.map(|(column, _)| format!("variable {:?}: never observed", column.name)).collect()
}

fn seen(train: &[Series], holdout: &[Series]) -> Seen {
    let mut seen = Seen::default();
    for (role, series) in [(Role::Train, train), (Role::Holdout, holdout)] {
        for one in series {
            let bits: Vec<u32> = one.values.iter().map(|value| value.to_bits()).collect();
            seen.note(role, (bits, one.label.bits()));
        }
    }
    seen
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_standardised_has_mean_0_and_deviation_1_and_its_gaps() {
        let label = Label::Class(0);
        let mut series = [
            Series { values: vec![0.2, f32::NAN, 0.4, 0.5], label },
            Series { values: vec![f32::NAN, f32::NAN, 0.9, 0.7], label },
        ];
        let sums: Vec<i64> = moments(&series, 2, false).into_iter().map(i64::from).collect();
        let standards = consilium_common::study::counts::standards(&sums).unwrap();
        series.iter_mut().for_each(|one| standardise(&mut one.values, &standards));
        for variable in 0..2 {
            let all =
                series.iter().flat_map(|one| one.values.iter().skip(variable).step_by(2).copied());
            let (seen, gaps): (Vec<f32>, Vec<f32>) = all.partition(|value| !value.is_nan());
            assert_eq!((seen.len(), gaps.len()), [(3, 1), (2, 2)][variable]);
            let squares: f32 = seen.iter().map(|x| x * x).sum();
            assert!(seen.iter().sum::<f32>().abs() < 1e-4, "{seen:?}");
            assert!((squares / seen.len() as f32 - 1.0).abs() < 1e-4, "{seen:?}");
        }
    }

    /// What the network makes of standardised values has mean 0 and deviation 1 over the records too, and
    /// is 0 where a variable was never observed.
    #[test]
    fn a_summary_is_standardised_over_the_records_that_have_it() {
        let label = Label::Class(0);
        let nan = f32::NAN;
        let values = [[0.2, nan, 0.4, 0.5], [nan, nan, 0.9, 0.7], [0.1, nan, nan, nan]];
        let mut series = values.map(|values| Series { values: values.to_vec(), label });
        let sums: Vec<i64> = moments(&series, 2, true).into_iter().map(i64::from).collect();
        let mut values = consilium_common::study::counts::standards(&sums).unwrap();
        let summary = values.split_off(2);
        assert_eq!(summary.len(), 10);
        series.iter_mut().for_each(|one| standardise(&mut one.values, &values));
        let flat: Vec<f32> = series.iter().flat_map(|one| one.values.clone()).collect();
        let input = Tensor::from_slice(&flat).view([3, 2, 2]);
        let scale = Scale::new(&values, &summary, tch::Device::Cpu).unwrap();
        let made = crate::model::rnn::summary_of(&input, Some(&scale)).unwrap();
        assert_eq!(made.size(), [3, 10]);
        for number in 0..10 {
            let column = Vec::<f32>::try_from(made.select(1, number)).unwrap();
            // The second variable was observed in two records, its share of steps in all.
            let observed = if number % 2 == 0 || number == 7 { 3 } else { 2 };
            assert!(column[observed..].iter().all(|x| *x == 0.0), "{number}: {column:?}");
            let squares: f32 = column.iter().map(|x| x * x).sum();
            assert!(column.iter().sum::<f32>().abs() < 1e-4, "{number}: {column:?}");
            assert!((squares / observed as f32 - 1.0).abs() < 1e-3, "{number}: {column:?}");
        }
    }

    #[test]
    fn a_bias_starts_at_the_log_odds_of_the_labels_and_is_finite_without_any() {
        let of = |counts: [usize; 2]| {
            let each = counts.into_iter().enumerate();
            let labels = each.flat_map(|(class, count)| vec![Label::Class(class); count]);
            Tally::of(labels, 2)
        };
        let shares = log_shares(&of([30, 10]));
        assert!((shares[1] - shares[0] - (10.5_f32 / 30.5).ln()).abs() < 1e-6, "{shares:?}");
        assert!([[5, 0], [0, 0]].iter().flat_map(|n| log_shares(&of(*n))).all(f32::is_finite));
        // Of sets each class has odds of its own: 10 of 40, and 40 of 40.
        let sets = (0..40).map(|record| Label::Set(if record < 10 { 3 } else { 2 }));
        let odds = log_odds(&Tally::of(sets, 2));
        assert!((odds[0] - (10.5_f32 / 30.5).ln()).abs() < 1e-6, "{odds:?}");
        assert!((odds[1] - 81.0_f32.ln()).abs() < 1e-6, "{odds:?}");
    }
}
