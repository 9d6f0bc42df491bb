//! `tabular`: rows of numbers and words, with a class or a number to predict.

use consilium_common::study::Data;
use consilium_common::study::counts::{MOMENTS_UNITS, Moments, Standard};
use consilium_common::study::model::Tabular;
use consilium_common::worker::Outcome;
use tch::{Device, TchError, Tensor};

use super::{Family, Job, prepares_nothing};
use crate::data::Role;
use crate::data::asked::Questions;
use crate::data::check::{Seen, enough, support};
use crate::data::contract::{Field, Labelled, Repairs, Trouble, push_inputs};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::groups::shown;
use crate::data::label::Label;
use crate::data::rows::{Parsed, Rows, ask, read};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::tabular::Perceptron;
use crate::preparation::standards;
use crate::protocol::Link;

/// The family with its spec.
pub(super) struct Table<'a>(pub(super) &'a Tabular);

/// One row.
struct Record {
    /// Shares of ranges (NaN: to be imputed) and 0s and 1s.
    inputs: Vec<f32>,
    label: Label,
}

impl Table<'_> {
    fn read(&self, job: &Job<'_>, link: &mut Link) -> Result<(Rows<Record>, Repairs), Failure> {
        let data = &job.study.data;
        let names: Vec<&str> = data.columns.iter().map(|column| column.name.as_str()).collect();
        let names: Vec<&str> = names.into_iter().chain([data.label.as_str()]).collect();
        let (labelled, mut repairs) = (Labelled::of(job.study, job.source), Repairs::default());
        let rows = read(job, &names, link, |fields| {
            let (label, fields) = fields.split_last().ok_or(Trouble::Dropped)?;
            let inputs = inputs(data, fields, &mut repairs)?;
            let label = labelled.read(*label)?;
            let key = label.key(labelled.classes.len());
            Ok(Parsed { record: Record { inputs, label }, class: key })
        })?;
        Ok((rows, repairs))
    }
}

/// The inputs of the study's columns, in their order.
fn inputs(data: &Data, fields: &[Field<'_>], repairs: &mut Repairs) -> Result<Vec<f32>, Trouble> {
    let mut inputs = Vec::with_capacity(data.inputs());
    for (column, field) in data.columns.iter().zip(fields) {
        push_inputs(column, *field, &mut inputs, repairs)?;
    }
    Ok(inputs)
}

impl Family for Table<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let (rows, repairs) = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let mut findings = rows.findings;
        if self.0.objective.has_classes() {
            findings.extend(support(&self.0.classes, labels(&rows.train), labels(&rows.holdout)));
        }
        findings.extend(repairs.findings("rows"));
        findings.extend(seen(&rows.train, &rows.holdout).findings("rows"));
        let (examples, holdout) = (rows.train.len() as u64, rows.holdout.len() as u64);
        Ok(Outcome { examples, holdout, findings, ..Outcome::default() })
    }

    /// The moments of every number column, over the rows to train on.
    fn prepare(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<i32>, Failure> {
        if job.study.family_sums().is_none() {
            return Err(prepares_nothing(job.study));
        }
        let (rows, _) = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let moments = job.study.data.numbers().map(|(place, _)| {
            let mut moments = Moments::default();
            let shares = rows.train.iter().filter_map(|record| record.inputs.get(place));
            shares.for_each(|share| moments.add(f64::from(*share)));
            moments.units()
        });
        let units: Vec<[i32; MOMENTS_UNITS]> = moments.collect();
        Ok(units.into_flattened())
    }

    fn labels(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<Label>, Failure> {
        let (rows, _) = self.read(job, link)?;
        Ok(labels(&rows.train).collect())
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let (mut rows, _) = self.read(job, link)?;
        if with_train {
            enough(job.study, rows.train.len())?;
        }
        let data = &job.study.data;
        if let Some(standards) = standards(job)? {
            for record in rows.train.iter_mut().chain(&mut rows.holdout) {
                standardise(data, &standards, &mut record.inputs);
            }
        }
        let classes = self.0.classes.len();
        let dataset = |records: &[Record]| dataset(records, (data, classes), job.device);
        let train = with_train.then(|| dataset(&rows.train)).transpose()?;
        let apart = shown(job.study, rows.members.iter());
        Ok(Loaded { train, holdout: dataset(&rows.holdout)?.grouped(apart) })
    }

    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure> {
        let (data, mut repairs) = (&job.study.data, Repairs::default());
        let names: Vec<&str> = data.columns.iter().map(|column| column.name.as_str()).collect();
        let mut asked = ask(job, &names, link, |fields| inputs(data, fields, &mut repairs))?;
        if let Some(standards) = standards(job)? {
            asked.read.iter_mut().for_each(|row| standardise(data, &standards, row));
        }
        let dataset = |rows: Vec<Vec<f32>>| {
            let inputs = on_device(rows.into_iter().flatten().collect(), data, job.device)?;
            Dataset::unlabelled(vec![inputs])
        };
        Ok(asked.map(dataset)?)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        Ok(Box::new(Perceptron::new(self.0, &job.study.data, job.device)?))
    }
}

fn labels(records: &[Record]) -> impl Iterator<Item = Label> + Clone {
    records.iter().map(|record| record.label)
}

fn seen(train: &[Record], holdout: &[Record]) -> Seen {
    let mut seen = Seen::default();
    for (role, records) in [(Role::Train, train), (Role::Holdout, holdout)] {
        for record in records {
            let bits: Vec<u32> = record.inputs.iter().map(|input| input.to_bits()).collect();
            seen.note(role, (bits, record.label.bits()));
        }
    }
    seen
}

/// Brings the numbers of a record to the mean 0 and deviation 1 that they have over all sites; what is
/// to be imputed becomes the mean.
fn standardise(data: &Data, standards: &[Standard], inputs: &mut [f32]) {
    for ((place, _), standard) in data.numbers().zip(standards) {
        if let Some(input) = inputs.get_mut(place) {
            *input = standard.apply(*input);
        }
    }
}

/// Inputs (f32, records × inputs) and labels of so many classes on the device.
fn dataset(
    records: &[Record],
    (data, classes): (&Data, usize),
    device: Device,
) -> Result<Dataset, TchError> {
    let inputs: Vec<f32> = records.iter().flat_map(|record| record.inputs.clone()).collect();
    let inputs = on_device(inputs, data, device)?;
    let labels = Label::tensor(labels(records), classes)?;
    Ok(Dataset::new(vec![inputs], labels.f_to_device(device)?))
}

fn on_device(inputs: Vec<f32>, data: &Data, device: Device) -> Result<Tensor, TchError> {
    let width = i64::try_from(data.inputs()).unwrap_or(i64::MAX);
    Tensor::f_from_slice(&inputs)?.f_view([-1, width])?.f_to_device(device)
}
