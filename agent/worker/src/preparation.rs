//! What the sites count together: this site's units on their way out, the sums on their way in. The
//! family's own come first, then the records of each class where the loss weighs them.

use std::fs::File;
use std::io::Read;

use consilium_common::le;
use consilium_common::study::counts::{self, Standard};
use consilium_common::study::preparation::PREPARATION_BYTES_MAX;
use consilium_common::study::{Preparation, Study};
use consilium_common::worker::{FailureCode, Task, Work};
use consilium_io::disk::replace::replace_private;
use tch::{Kind, Tensor};

use crate::data::check::{Tally, enough};
use crate::failure::Failure;
use crate::family::{Family, Job};
use crate::protocol::Link;
use crate::task::incomplete;

/// The preparation that the task names, checked against the study. A study that prepares is neither
/// trained nor scored without it.
pub(crate) fn read(task: &Task, study: &Study) -> Result<Option<Preparation>, Failure> {
    let needs = match task.work {
        Work::Check | Work::Prepare | Work::Pin => return Ok(None),
        Work::Train | Work::TrainAlone | Work::Evaluate | Work::Predict => {
            study.preparation_len().is_some()
        }
    };
    let path = match &task.preparation {
        Some(path) => path,
        None if needs => return Err(incomplete("names no preparation, which the study has")),
        None => return Ok(None),
    };
    let at = |error: &dyn std::fmt::Display| format!("the preparation {}: {error}", path.display());
    let broken = |error: std::io::Error| Failure::new(FailureCode::Internal, at(&error));
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(broken)?;
    // One byte more than any has: a longer file is refused for its length.
    file.take(PREPARATION_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(broken)?;
    let mismatch = |error| Failure::new(FailureCode::ModelMismatch, at(&error));
    Preparation::read(&bytes, study).map(Some).map_err(mismatch)
}

/// How the study's number columns are standardised, in their order, where the sites counted for that;
/// then, as often as it has them, what a family derives from each.
pub(crate) fn standards(job: &Job<'_>) -> Result<Option<Vec<Standard>>, Failure> {
    let Some(preparation) = job.preparation else { return Ok(None) };
    let (sums, _) = preparation.parts(job.study);
    if sums.is_empty() {
        return Ok(None);
    }
    let told = |place: usize| {
        let columns = job.study.data.numbers().count().max(1);
        let column = job.study.data.numbers().nth(place % columns);
        let name = column.map_or("", |(_, column)| column.name.as_str());
        let message =
            format!("the preparation's sums of column {name:?} cannot come from counting");
        Failure::new(FailureCode::ModelMismatch, message)
    };
    counts::standards(sums).map(Some).map_err(told)
}

/// This site's units.
pub(crate) fn count(
    family: &dyn Family,
    job: &Job<'_>,
    link: &mut Link,
) -> Result<Vec<i32>, Failure> {
    let classes = job.study.class_sums();
    if classes == 0 {
        return family.prepare(job, link);
    }
    let mut units = match job.study.family_sums() {
        Some(_) => family.prepare(job, link)?,
        None => Vec::new(),
    };
    let labels = family.labels(job, link)?;
    enough(job.study, labels.len())?;
    let tally = Tally::of(labels.into_iter(), job.study.model.classes().len());
    let counts = tally.classes.into_iter().chain([tally.all]).take(classes);
    // A site has at most 2^26 records.
    units.extend(counts.map(|count| i32::try_from(count).unwrap_or(i32::MAX)));
    Ok(units)
}

/// How much a record of each class counts in the loss (f32, classes), where the study says so; of several
/// labels at once against a record without it.
pub(crate) fn class_weights(job: &Job<'_>) -> Result<Option<Tensor>, Failure> {
    let Some(weights) = &job.study.training.class_weights else { return Ok(None) };
    let counts = job.preparation.map_or(&[][..], |preparation| preparation.parts(job.study).1);
    let objective = job.study.model.objective().unwrap_or_default();
    let weights = weights.of(objective, counts).ok_or_else(|| {
        let message = "the preparation's counts of classes cannot come from counting";
        Failure::new(FailureCode::ModelMismatch, message)
    })?;
    let weights = Tensor::f_from_slice(&weights)?.f_to_kind(Kind::Float)?;
    Ok(Some(weights.f_to_device(job.device)?))
}

/// Writes the units as little-endian i32, readable by their owner alone.
pub(crate) fn write(task: &Task, study: &Study, units: &[i32]) -> Result<(), Failure> {
    let internal = |message: String| Failure::new(FailureCode::Internal, message);
    let need = study.preparation_len().unwrap_or(0);
    if units.len() != need {
        let message = format!("{} units were counted, the study has {need} sums", units.len());
        return Err(internal(message));
    }
    let out = task.out.as_ref().ok_or_else(|| incomplete("names no place for the counts"))?;
    let mut bytes = Vec::new();
    le::extend_i32(&mut bytes, units);
    replace_private(out, &bytes).map_err(|error| internal(format!("saving the counts: {error}")))
}
