//! What the synthetic trainer counts: small numbers that follow from the study's seed and the site's
//! own, so that a test can add them up.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use consilium_common::le;
use consilium_common::random::Generator;
use consilium_common::study::preparation::PREPARATION_BYTES_MAX;
use consilium_common::study::{Preparation, Study};
use consilium_common::worker::{FailureCode, Source};

use super::pull::site_seed;
use super::{Failure, missing, read_file};

/// A count lies within ± this.
const COUNT_MAX: i32 = 1 << 20;

/// The site's first `len` counts: uniform within ±2^20, from the study's seed and what sets the site's
/// data apart.
#[must_use]
pub fn counts(study_seed: u64, source: &Source, len: usize) -> Vec<i32> {
    let mut generator = Generator::new("synthetic/counts", &site_seed(study_seed, source));
    let one = || {
        let above = generator.below(2 * COUNT_MAX.unsigned_abs() + 1);
        above.cast_signed() - COUNT_MAX
    };
    std::iter::repeat_with(one).take(len).collect()
}

/// Writes counts as little-endian i32.
pub(super) fn write(counts: &[i32], mut out: &File) -> Result<(), Failure> {
    let mut bytes = Vec::new();
    le::extend_i32(&mut bytes, counts);
    out.write_all(&bytes)
        .map_err(|error| (FailureCode::Internal, format!("the counts cannot be written: {error}")))
}

/// A study that prepares is not trained or scored without its preparation.
pub(super) fn check(study: &Study, preparation: Option<&Path>) -> Result<(), Failure> {
    if study.preparation_len().is_none() {
        return Ok(());
    }
    let bytes =
        read_file(preparation.ok_or_else(|| missing("preparation"))?, PREPARATION_BYTES_MAX)?;
    Preparation::read(&bytes, study)
        .map(drop)
        .map_err(|error| (FailureCode::ModelMismatch, error.to_string()))
}
