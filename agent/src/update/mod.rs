//! From a worker's result to the bytes that the site retains and uploads: delta, clip, stochastic
//! rounding, words (DESIGN.md §6). The same inputs give the same bytes, so a task that a crash made
//! the site redo ends in the identical update.
//!
//! In two passes over base and trained model, a megabyte of each in memory: the first finds what is
//! wrong with them and the delta's norm ([`training`]), the second writes ([`Encoding::write`]).
//! Counts ([`preparation`]) go the same way; they are whole already. Under SCAFFOLD the change of the
//! site's control variate goes beside the delta ([`control`]); what the variate becomes is written by a
//! third pass ([`Encoding::write_next_control`]).

pub mod control;
mod counts;
mod error;
mod pair;

use std::io::{self, Write};

use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::le;
use consilium_common::random::Generator;
use consilium_common::study::Study;
use consilium_common::tensor::layout::Layout;
use consilium_common::update::delta::{Norm, clip_scale, delta, l2_norm};
use consilium_common::update::grid::{COUNT_STEP_EXPONENT, quantise_into, step, step_exponent};
use consilium_common::update::sections::{ControlSection, Header, decode_i32};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::{Plan, TaskKind};
use consilium_common::worker::Outcome;

pub use error::UpdateError;
pub use pair::ReadAt;
pub(crate) use pair::places;

use crate::state::Record;
use control::{Change, Variates};
use counts::Counts;
use pair::Pair;

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

/// An update on its way to the disk: all is known of it but its bytes.
#[derive(Debug)]
pub struct Encoding<'a> {
    purpose: Purpose<'a>,
    header: Header,
    shared: Shared<'a>,
    control: Option<Change<'a>>,
    norm: f64,
    weight: u64,
    words: Vec<u32>,
    metrics: Metrics,
}

/// All of a worker's counts, for whoever adds them up at the site itself.
///
/// # Errors
/// Another number of them, one out of bounds, or the file cannot be read.
pub fn read_counts(sums: usize, file: &dyn ReadAt) -> Result<Vec<i32>, UpdateError> {
    let mut counts = Vec::with_capacity(sums);
    Counts::open(sums, file)?.pieces(|piece| {
        counts.extend(decode_i32(piece));
        Ok(())
    })?;
    Ok(counts)
}

/// Where the `shared` section comes from.
#[derive(Debug)]
enum Shared<'a> {
    /// An evaluation has words alone.
    None,
    Delta(Pair<'a>),
    Counts(Counts<'a>),
}

/// The update of a training: `base` is the model's file, `trained` the worker's safetensors,
/// `layout` the study's, `variates` what the training was corrected by, where the strategy corrects.
///
/// # Errors
/// One variant of [`UpdateError`] per cause.
pub fn training<'a>(
    purpose: Purpose<'a>,
    layout: &'a Layout,
    base: &'a dyn ReadAt,
    trained: &'a dyn ReadAt,
    variates: Variates<'a>,
    outcome: &Outcome,
) -> Result<Encoding<'a>, UpdateError> {
    if outcome.examples == 0 {
        return Err(UpdateError::NoExamples);
    }
    let pair = Pair::open(layout, base, trained)?;
    let mut control = change(purpose.study, layout, variates, outcome)?;
    let mut measure = control.as_ref().map(Change::measure);
    let (mut norm, mut measured) = (Norm::default(), Ok(()));
    let have = pair.read_through(|delta| {
        norm.add(delta);
        if let (Some(measure), Ok(())) = (&mut measure, &measured) {
            measured = measure.add(delta);
        }
    })?;
    measured?;
    let need = purpose.plan.base;
    if have != need {
        return Err(UpdateError::OtherBase { have, need });
    }
    if let (Some(control), Some(measure)) = (&mut control, measure) {
        control.norm =
            Some(measure.norm()).filter(|norm| norm.is_finite()).ok_or(UpdateError::Change)?;
    }
    let weight = outcome.examples.min(purpose.study.cohort.max_examples);
    let shared = (Shared::Delta(pair), control);
    Encoding::new(purpose, layout, shared, norm.l2(), weight, &outcome.metrics)
}

/// What the control variate changes by, not measured yet, if the strategy has one.
fn change<'a>(
    study: &Study,
    layout: &Layout,
    variates: Variates<'a>,
    outcome: &Outcome,
) -> Result<Option<Change<'a>>, UpdateError> {
    let Some(grid) = study.aggregation.control_grid() else {
        return Ok(None);
    };
    variates.check(layout)?;
    let sound = outcome.steps.filter(|steps| steps.is_finite() && *steps > 0.0);
    let steps = sound.ok_or(UpdateError::Steps(outcome.steps))?;
    Ok(Some(Change { variates, grid, steps, norm: 0.0 }))
}

/// The update of an evaluation: words alone. Its weight is the number of hold-out records, or 1
/// where the metrics count none.
///
/// # Errors
/// One variant of [`UpdateError`] per cause.
pub fn evaluation<'a>(
    purpose: Purpose<'a>,
    layout: &Layout,
    outcome: &Outcome,
) -> Result<Encoding<'a>, UpdateError> {
    let weight = outcome.holdout.max(1).min(purpose.study.cohort.max_examples);
    Encoding::new(purpose, layout, (Shared::None, None), 0.0, weight, &outcome.metrics)
}

/// The update of a preparation: `counts` are the worker's, little-endian i32. Every site counts with
/// weight 1, and nothing is measured.
///
/// # Errors
/// One variant of [`UpdateError`] per cause.
pub fn preparation<'a>(
    purpose: Purpose<'a>,
    layout: &Layout,
    counts: &'a dyn ReadAt,
) -> Result<Encoding<'a>, UpdateError> {
    let nothing = || UpdateError::Nothing(purpose.study.id().clone());
    let sums = purpose.study.preparation_len().ok_or_else(nothing)?;
    let shared = (Shared::Counts(Counts::open(sums, counts)?), None);
    let metrics = Metrics(vec![0; Schema::of(purpose.study).names().len()]);
    Encoding::new(purpose, layout, shared, 0.0, 1, &metrics)
}

impl<'a> Encoding<'a> {
    fn new(
        purpose: Purpose<'a>,
        layout: &Layout,
        (shared, control): (Shared<'a>, Option<Change<'a>>),
        norm: f64,
        weight: u64,
        metrics: &Metrics,
    ) -> Result<Self, UpdateError> {
        let Purpose { study, plan, .. } = purpose;
        let clip_norm = study.aggregation.clip_norm;
        let clipped = norm > clip_norm || control.as_ref().is_some_and(Change::is_clipped);
        let words = words(study, weight, clipped, metrics)?;
        let header = Header {
            round: plan.round,
            step_exponent: match shared {
                Shared::None | Shared::Delta(_) => step_exponent(clip_norm),
                Shared::Counts(_) => COUNT_STEP_EXPONENT,
            },
            study: plan.study_digest,
            base: plan.base,
            layout: layout.digest(),
            shared_len: match &shared {
                Shared::None => 0,
                Shared::Delta(_) => layout.weights_len(),
                Shared::Counts(counts) => counts.len(),
            },
            control: control.map(|change| ControlSection {
                step_exponent: change.grid.step_exponent,
                len: layout.weights_len(),
            }),
            words_len: words.len(),
        };
        let metrics = metrics.clone();
        Ok(Self { purpose, header, shared, control, norm, weight, words, metrics })
    }

    /// Writes the update's bytes; what the site remembers of it. The next local state, which is no
    /// part of an update, is for the caller to add.
    ///
    /// # Errors
    /// `out` takes no more, or base or trained model cannot be read again.
    pub fn write(&self, out: &mut dyn Write) -> io::Result<Record> {
        let Purpose { study, plan, site } = self.purpose;
        let clip_norm = study.aggregation.clip_norm;
        let root = task_root(study.header.seed, plan.round, site);
        let mut out = Hashing { out, hasher: blake3::Hasher::new() };
        out.write(&self.header.encode())?;
        match &self.shared {
            Shared::None => {}
            Shared::Delta(pair) => {
                let factor = clip_scale(self.norm, clip_norm) * step(-self.header.step_exponent);
                let mut generator = Generator::new("rounding", &root.0);
                let (mut units, mut bytes) = (Vec::new(), Vec::new());
                let mut written = Ok(());
                pair.deltas(|delta| {
                    units.resize(delta.len(), 0);
                    quantise_into(&mut units, delta, factor, &mut generator);
                    bytes.clear();
                    le::extend_i32(&mut bytes, &units);
                    if written.is_ok() {
                        written = out.write(&bytes);
                    }
                })
                .map_err(io::Error::other)?;
                written?;
            }
            Shared::Counts(counts) => counts.pieces(|piece| out.write(piece))?,
        }
        self.walk_change(|encode, moved, bytes| {
            le::extend_i32(bytes, encode.units(moved)?);
            out.write(bytes)
        })?;
        let mut words = Vec::new();
        le::extend_u32(&mut words, &self.words);
        out.write(&words)?;
        Ok(Record {
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            digest: out.hasher.finalize().into(),
            bytes: self.header.update_bytes_len(),
            rounding_seed: root,
            weight: self.weight,
            norm: self.norm,
            control_norm: self.control.map(|change| change.norm),
            clipped: self.norm > clip_norm
                || self.control.is_some_and(|change| change.is_clipped()),
            metrics: self.metrics.clone(),
            local: None,
        })
    }

    /// Whether the site's control variate moves with this update.
    #[must_use]
    pub fn moves_control(&self) -> bool {
        self.control.is_some()
    }

    /// Writes what the site's control variate is once this update has counted: little-endian f32.
    ///
    /// # Errors
    /// `out` takes no more, or a file cannot be read again.
    pub fn write_next_control(&self, out: &mut dyn Write) -> io::Result<()> {
        self.walk_change(|encode, moved, bytes| {
            le::extend_f32(bytes, &encode.next(moved)?);
            out.write_all(bytes)
        })
    }

    /// Hands each piece of the delta to `take`, with what makes units of the variate's change, if it
    /// has one, and an empty buffer.
    fn walk_change(
        &self,
        mut take: impl FnMut(&mut control::Encode<'_>, &[f32], &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        let (Some(change), Shared::Delta(pair)) = (&self.control, &self.shared) else {
            return Ok(());
        };
        let Purpose { study, plan, site } = self.purpose;
        let mut encode = change.encode(&task_root(study.header.seed, plan.round, site).0);
        let (mut bytes, mut taken) = (Vec::new(), Ok(()));
        pair.deltas(|moved| {
            bytes.clear();
            if taken.is_ok() {
                taken = take(&mut encode, moved, &mut bytes);
            }
        })
        .map_err(io::Error::other)?;
        taken
    }
}

/// Writes and hashes.
struct Hashing<'a> {
    out: &'a mut dyn Write,
    hasher: blake3::Hasher,
}

impl Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hasher.update(bytes);
        self.out.write_all(bytes)
    }
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
