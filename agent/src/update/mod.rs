//! From a worker's result to the bytes that the site retains and uploads: delta, clip, stochastic
//! rounding, words (DESIGN.md §6). Pure: the same inputs give the same bytes, so a task that a
//! crash made the site redo ends in the identical update.
//!
//! Base, trained model and delta are in memory together while this runs, and gone after it.

use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::random::Generator;
use consilium_common::study::{Study, StudyError};
use consilium_common::tensor::file::{FileError, from_safetensors};
use consilium_common::tensor::flat::{ModelError, decode_model};
use consilium_common::update::delta::{DeltaError, clip_scale, delta, l2_norm};
use consilium_common::update::grid::{quantise, step_exponent};
use consilium_common::update::sections::{Header, encode_update};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::{Plan, TaskKind};
use consilium_common::worker::Outcome;

use crate::state::{Record, Retention};

/// Why a worker's result gives no update.
#[derive(Debug, thiserror::Error)]
pub enum UpdateError {
    /// The study's spec gives no layout.
    #[error(transparent)]
    Study(#[from] StudyError),
    /// The base is not a model of this study.
    #[error("the base model cannot be used: {0}")]
    Base(#[from] ModelError),
    /// The worker's file is not a model of this study.
    #[error("the worker's result cannot be used: {0}")]
    Result(#[from] FileError),
    /// Training diverged.
    #[error(transparent)]
    Delta(#[from] DeltaError),
    /// Nothing was trained on.
    #[error("the worker trained on no records at all: there is nothing to weigh the update by")]
    NoExamples,
    /// Sums of another study.
    #[error("the worker measured {have} metric sums, the study has {need}")]
    Metrics {
        /// Sums given.
        have: usize,
        /// Sums of the schema.
        need: usize,
    },
}

/// BLAKE3(study seed ‖ round ‖ site), numbers as little-endian u64, the site's name in UTF-8: where
/// all of a task's randomness starts. Whoever redoes the task gets the same.
#[must_use]
pub fn task_root(study_seed: u64, round: Round, site: &SiteId) -> Digest {
    let mut hasher = blake3::Hasher::new();
    hasher
        .update(&study_seed.to_le_bytes())
        .update(&round.0.to_le_bytes())
        .update(site.as_str().as_bytes());
    hasher.finalize().into()
}

/// The worker's seed: the first 8 bytes of [`task_root`], little-endian.
#[must_use]
pub fn task_seed(study_seed: u64, round: Round, site: &SiteId) -> u64 {
    let [b0, b1, b2, b3, b4, b5, b6, b7, ..] = task_root(study_seed, round, site).0;
    u64::from_le_bytes([b0, b1, b2, b3, b4, b5, b6, b7])
}

/// What an update is made for.
#[derive(Debug, Clone, Copy)]
pub struct Purpose<'a> {
    /// The signed study.
    pub study: &'a Study,
    /// What the coordinator asked.
    pub plan: &'a Plan,
    /// Whose update it is.
    pub site: &'a SiteId,
}

/// Encodes the update of a training: `base` is the model's bytes, `trained` the worker's
/// safetensors.
///
/// # Errors
/// One variant of [`UpdateError`] per cause.
pub fn encode_training(
    purpose: Purpose<'_>,
    base: &[u8],
    trained: &[u8],
    outcome: &Outcome,
) -> Result<Retention, UpdateError> {
    let Purpose { study, plan, site } = purpose;
    if outcome.examples == 0 {
        return Err(UpdateError::NoExamples);
    }
    let layout = study.layout()?;
    let delta = {
        let base = decode_model(base, &layout)?;
        let trained = from_safetensors(trained, &layout)?;
        delta(&layout, &base, &trained)?
    };
    let norm = l2_norm(&delta);
    let scale = clip_scale(norm, study.aggregation.clip_norm);
    let exponent = step_exponent(study.aggregation.clip_norm);
    let seed = task_root(study.header.seed, plan.round, site);
    let shared = quantise(&delta, scale, exponent, &mut Generator::new("rounding", &seed.0));
    drop(delta);
    finish(purpose, &shared, norm, scale < 1.0, outcome.examples, outcome)
}

/// Encodes the update of an evaluation: words alone. Its weight is the number of hold-out records,
/// or 1 where the metrics count none.
///
/// # Errors
/// One variant of [`UpdateError`] per cause.
pub fn encode_evaluation(
    purpose: Purpose<'_>,
    outcome: &Outcome,
) -> Result<Retention, UpdateError> {
    finish(purpose, &[], 0.0, false, outcome.holdout.max(1), outcome)
}

fn finish(
    purpose: Purpose<'_>,
    shared: &[i32],
    norm: f64,
    clipped: bool,
    examples: u64,
    outcome: &Outcome,
) -> Result<Retention, UpdateError> {
    let Purpose { study, plan, site } = purpose;
    let weight = examples.min(study.cohort.max_examples);
    let words = words(study, weight, clipped, &outcome.metrics)?;
    let header = Header {
        round: plan.round,
        step_exponent: step_exponent(study.aggregation.clip_norm),
        study: plan.study_digest,
        base: plan.base,
        layout: study.layout()?.digest(),
        shared_len: shared.len(),
        words_len: words.len(),
    };
    let update = encode_update(&header, shared, &words);
    let record = Record {
        study: plan.study.clone(),
        study_digest: plan.study_digest,
        round: plan.round,
        digest: Digest::of(&update),
        bytes: update.len() as u64,
        rounding_seed: task_root(study.header.seed, plan.round, site),
        weight,
        norm,
        clipped,
        metrics: outcome.metrics.clone(),
    };
    Ok(Retention { record, update })
}

fn words(
    study: &Study,
    weight: u64,
    clipped: bool,
    metrics: &Metrics,
) -> Result<Vec<u32>, UpdateError> {
    let schema = Schema::of(study);
    let (have, need) = (metrics.0.len(), schema.names().len());
    if have != need {
        return Err(UpdateError::Metrics { have, need });
    }
    Ok(schema.encode(&Words { weight, clipped: clipped.into(), metrics: metrics.clone() }))
}

/// The L2 norm of a round's delta, for choosing `clip_norm`.
///
/// # Errors
/// The vectors do not fit the study, or are not finite.
pub fn delta_norm(study: &Study, base: &[f32], trained: &[f32]) -> Result<f64, UpdateError> {
    Ok(l2_norm(&delta(&study.layout()?, base, trained)?))
}

/// Whether the plan asks for a delta.
#[must_use]
pub fn trains(plan: &Plan) -> bool {
    plan.task == TaskKind::Train
}

#[cfg(test)]
mod tests;
