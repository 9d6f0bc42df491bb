//! What the sites count together: this site's units on their way out, the sums on their way in.

use std::fs::File;
use std::io::Read;

use consilium_common::le;
use consilium_common::study::counts::{self, Standard};
use consilium_common::study::preparation::PREPARATION_BYTES_MAX;
use consilium_common::study::{Preparation, Study};
use consilium_common::worker::{FailureCode, Task, Work};
use consilium_io::disk::replace::replace_private;

use crate::failure::Failure;
use crate::family::Job;
use crate::task::incomplete;

/// The preparation that the task names, checked against the study. A study that prepares is neither
/// trained nor scored without it.
pub(crate) fn read(task: &Task, study: &Study) -> Result<Option<Preparation>, Failure> {
    let needs = match task.work {
        Work::Train | Work::Evaluate | Work::Predict => study.preparation_len().is_some(),
        Work::Check | Work::Prepare => return Ok(None),
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

/// How the study's number columns are standardised, in their order, where the sites counted for that.
pub(crate) fn standards(job: &Job<'_>) -> Result<Option<Vec<Standard>>, Failure> {
    let Some(preparation) = job.preparation else { return Ok(None) };
    let told = |place: usize| {
        let column = job.study.data.numbers().nth(place);
        let name = column.map_or("", |(_, column)| column.name.as_str());
        let message =
            format!("the preparation's sums of column {name:?} cannot come from counting");
        Failure::new(FailureCode::ModelMismatch, message)
    };
    counts::standards(&preparation.sums).map(Some).map_err(told)
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
