//! What the synthetic trainer does to a model: half of the way towards the site's optimum, a piece at
//! a time, so that a hundred trainers of large models fit one machine.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use consilium_common::le;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::random::Generator;
use consilium_common::study::Study;
use consilium_common::tensor::file::safetensors_head;
use consilium_common::worker::{FailureCode, Source};

use super::{EXAMPLES_DEFAULT, Failure, shifted};
use crate::update::places;

/// Where a site's own numbers start: the study's seed, and what sets this site's data apart (which
/// part of how many under which seed, and how many records).
pub(super) fn site_seed(study_seed: u64, source: &Source) -> Vec<u8> {
    let mut seed = study_seed.to_le_bytes().to_vec();
    if let Some(part) = &source.part {
        seed.extend(part.seed.to_le_bytes());
        seed.extend(part.of.to_le_bytes());
        seed.extend(part.index.to_le_bytes());
    }
    seed.extend(source.examples.unwrap_or(EXAMPLES_DEFAULT).to_le_bytes());
    seed
}

/// The site's optimum: U(−1, 1) per coordinate.
pub(super) fn optima(study_seed: u64, source: &Source) -> impl Iterator<Item = f32> {
    let mut generator = Generator::new("synthetic/optimum", &site_seed(study_seed, source));
    std::iter::repeat_with(move || narrow(2.0 * generator.unit() - 1.0))
}

/// Scores `base`, a safetensors file, and writes the pulled model as another if `out` is given.
/// `rounds` is what the local state says. Returns half the mean squared distance of the base to the
/// shifted optimum.
pub(super) fn pull(
    study: &Study,
    source: &Source,
    base: &Path,
    rounds: u32,
    mut out: Option<&File>,
) -> Result<f64, Failure> {
    let misfit = |error: &dyn std::fmt::Display| {
        (FailureCode::ModelMismatch, format!("the base does not fit the study: {error}"))
    };
    let unwritten = |error: &dyn std::fmt::Display| {
        (FailureCode::Internal, format!("the result cannot be written: {error}"))
    };
    let file = File::open(base).map_err(|error| {
        (FailureCode::Internal, format!("cannot read {}: {error}", base.display()))
    })?;
    let layout = study.layout().map_err(|error| misfit(&error))?;
    let places = places(&layout, &file).map_err(|error| misfit(&error))?;
    if let Some(out) = &mut out {
        let metadata = HashMap::<String, String>::new();
        let head = safetensors_head(&layout, metadata).map_err(|error| unwritten(&error))?;
        out.write_all(&head).map_err(|error| unwritten(&error))?;
    }
    let mut optima = optima(study.header.seed, source).map(|optimum| shifted(optimum, rounds));
    let (mut bytes, mut squares) = (Vec::new(), 0.0);
    for (tensor, place) in layout.tensors().iter().zip(places.iter()) {
        for first in (0..4 * tensor.len).step_by(CHUNK_BYTES) {
            bytes.resize(CHUNK_BYTES.min(4 * tensor.len - first), 0);
            file.read_exact_at(&mut bytes, place + first as u64).map_err(|e| misfit(&e))?;
            let piece: Vec<f32> = le::f32s(&bytes).collect();
            let goal: Vec<f32> = optima.by_ref().take(piece.len()).collect();
            for (base, optimum) in piece.iter().zip(&goal) {
                squares += f64::from(base - optimum).powi(2);
            }
            if let Some(out) = &mut out {
                bytes.clear();
                le::extend_f32(&mut bytes, &half_way(&piece, &goal));
                out.write_all(&bytes).map_err(|error| unwritten(&error))?;
            }
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a model has fewer than 2^31 parameters")]
    let len = layout.len().max(1) as f64;
    Ok(0.5 * squares / len)
}

/// One round of training: half of the way from `base` to `optimum`.
#[must_use]
pub fn half_way(base: &[f32], optimum: &[f32]) -> Vec<f32> {
    base.iter().zip(optimum).map(|(b, o)| b + 0.5 * (o - b)).collect()
}

#[expect(clippy::cast_possible_truncation, reason = "one rounding, to nearest")]
fn narrow(value: f64) -> f32 {
    value as f32
}
