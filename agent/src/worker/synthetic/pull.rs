//! What the synthetic trainer does to a model: half of the way towards the site's optimum, or steps down
//! a quadratic, a piece at a time, so that a hundred trainers of large models fit one machine.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::Path;

use consilium_common::le;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::random::Generator;
use consilium_common::study::model::Synthetic;
use consilium_common::study::{ModelSpec, Study};
use consilium_common::tensor::file::safetensors_head;
use consilium_common::tensor::layout::Layout;
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

/// The curvature of the site's quadratic: U(0.1, 1.9) per coordinate.
pub(super) fn curvatures(study_seed: u64, source: &Source) -> impl Iterator<Item = f32> {
    let mut generator = Generator::new("synthetic/curvature", &site_seed(study_seed, source));
    std::iter::repeat_with(move || narrow(0.1 + 1.8 * generator.unit()))
}

/// Steps down the quadratics ½·h·(w − optimum)², each coordinate by itself.
#[derive(Debug, Clone, Copy)]
pub struct Descent {
    /// K.
    pub steps: u32,
    /// η.
    pub rate: f32,
}

impl Descent {
    /// K steps w − η·(h·(w − optimum) + correction) from `base`, in f32, from the left.
    #[must_use]
    pub fn run(&self, base: f32, optimum: f32, curvature: f32, correction: f32) -> f32 {
        (0..self.steps).fold(base, |w, _| w - self.rate * (curvature * (w - optimum) + correction))
    }

    /// Of a study's round; none if it goes half of the way instead.
    #[must_use]
    pub fn of(study: &Study, round: u64) -> Option<Self> {
        let ModelSpec::Synthetic(Synthetic { steps: steps @ 1.., .. }) = study.model else {
            return None;
        };
        Some(Self { steps, rate: narrow(study.training.learning_rate_of(round)) })
    }

    /// Σ of the step sizes.
    #[must_use]
    pub fn length(&self) -> f64 {
        f64::from(self.steps) * f64::from(self.rate)
    }
}

/// What is pulled, and how.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pull<'a> {
    pub(super) base: &'a Path,
    /// What the local state says.
    pub(super) rounds: u32,
    pub(super) descent: Option<Descent>,
    pub(super) correction: Option<&'a Path>,
}

/// Scores the base, a safetensors file, and writes the pulled model as another if `out` is given.
/// Returns half the mean squared distance of the base to the shifted optimum, each weighed by its
/// curvature where there is one.
pub(super) fn pull(
    study: &Study,
    source: &Source,
    pull: Pull<'_>,
    mut out: Option<&File>,
) -> Result<f64, Failure> {
    let unwritten = |error: &dyn std::fmt::Display| {
        (FailureCode::Internal, format!("the result cannot be written: {error}"))
    };
    let layout = study.layout().map_err(|error| misfit(&error))?;
    let base = Tensors::open(pull.base, &layout)?;
    let correction = pull.correction.map(|path| Tensors::open(path, &layout)).transpose()?;
    if let Some(out) = &mut out {
        let metadata = HashMap::<String, String>::new();
        let head = safetensors_head(&layout, metadata).map_err(|error| unwritten(&error))?;
        out.write_all(&head).map_err(|error| unwritten(&error))?;
    }
    let (seed, rounds) = (study.header.seed, pull.rounds);
    let mut optima = optima(seed, source).map(|optimum| shifted(optimum, rounds));
    let mut curvatures = curvatures(seed, source);
    let (mut bytes, mut squares) = (Vec::new(), 0.0);
    for (at, tensor) in layout.tensors().iter().enumerate() {
        for first in (0..tensor.len).step_by(CHUNK_BYTES / 4) {
            let len = (CHUNK_BYTES / 4).min(tensor.len - first);
            let piece = base.piece(at, first, len)?;
            let goal: Vec<f32> = optima.by_ref().take(len).collect();
            let curved: Vec<f32> = match pull.descent {
                None => vec![1.0; len],
                Some(_) => curvatures.by_ref().take(len).collect(),
            };
            for ((base, optimum), curvature) in piece.iter().zip(&goal).zip(&curved) {
                squares += f64::from(*curvature) * f64::from(base - optimum).powi(2);
            }
            let Some(out) = &mut out else {
                continue;
            };
            let pulled = match pull.descent {
                None => half_way(&piece, &goal),
                Some(descent) => {
                    let correction =
                        correction.as_ref().map(|tensors| tensors.piece(at, first, len));
                    let correction = correction.unwrap_or_else(|| Ok(vec![0.0; len]))?;
                    let ways = piece.iter().zip(&goal).zip(curved.iter().zip(&correction));
                    ways.map(|((w, goal), (h, d))| descent.run(*w, *goal, *h, *d)).collect()
                }
            };
            bytes.clear();
            le::extend_f32(&mut bytes, &pulled);
            out.write_all(&bytes).map_err(|error| unwritten(&error))?;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "a model has fewer than 2^31 parameters")]
    let len = layout.len().max(1) as f64;
    Ok(0.5 * squares / len)
}

/// A safetensors file of a layout, read a piece at a time.
struct Tensors {
    file: File,
    places: Vec<u64>,
}

impl Tensors {
    fn open(path: &Path, layout: &Layout) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| {
            (FailureCode::Internal, format!("cannot read {}: {error}", path.display()))
        })?;
        let places = places(layout, &file).map_err(|error| misfit(&error))?.iter().collect();
        Ok(Self { file, places })
    }

    /// `len` numbers of a tensor from `first` on.
    fn piece(&self, tensor: usize, first: usize, len: usize) -> Result<Vec<f32>, Failure> {
        let place = self.places.get(tensor).copied().unwrap_or_default();
        let mut bytes = vec![0; 4 * len];
        let read = self.file.read_exact_at(&mut bytes, place + 4 * first as u64);
        read.map_err(|error| misfit(&error))?;
        Ok(le::f32s(&bytes).collect())
    }
}

fn misfit(error: &dyn std::fmt::Display) -> Failure {
    (FailureCode::ModelMismatch, format!("the base does not fit the study: {error}"))
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
