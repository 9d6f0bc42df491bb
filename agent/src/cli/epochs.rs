//! A model on its way at this site alone, through the study's rounds or so many epochs, and the best of
//! them.

use std::collections::HashMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::tensor::flat::encode_model;
use consilium_common::time::Clock;
use consilium_common::update::best::{Best, Scored};
use consilium_common::update::groups::GroupRow;
use consilium_common::update::intervals::Measure;
use consilium_common::update::operating_point::OperatingPoint;
use consilium_common::update::words::Schema;
use consilium_common::worker::{Outcome, Source, Work};
use consilium_io::SystemClock;
use consilium_io::disk::{Access, read_safetensors, replace_with};
use serde::Serialize;

use super::Failure;
use super::progress::Bar;
use super::workbench::{Job, Workbench};
use crate::update::{delta_norm, read_counts, task_seed};

/// Room above the largest norm that was seen: later rounds and other sites differ.
const CLIP_ROOM: f64 = 1.2;

/// One epoch, as printed and as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Epoch {
    pub(super) epoch: u64,
    /// The value of the study's own metric.
    pub(super) score: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) loss: Option<f64>,
    pub(super) train_loss: Option<f64>,
    pub(super) examples: u64,
    pub(super) holdout: u64,
    pub(super) seconds: f64,
    /// Of them those that the passes over the records took.
    train_seconds: Option<f64>,
    /// L2 norm of this epoch's delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) norm: Option<f64>,
    /// The same by the sizes of its steps: what a site's control variate changes by in its first round
    /// under SCAFFOLD.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) control_norm: Option<f64>,
    /// The study's own measure for each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) groups: Vec<GroupRow>,
    #[serde(skip)]
    measures: Vec<Measure>,
    #[serde(skip)]
    operating_point: Option<OperatingPoint>,
}

#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) epochs: Vec<Epoch>,
    #[serde(rename = "final")]
    pub(super) last: Last,
    /// The epoch with the best score by the study's metric; of equals the earlier.
    pub(super) best: Option<BestEpoch>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suggested_clip_norm: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) suggested_control_clip_norm: Option<f64>,
}

#[derive(Debug, Serialize)]
pub(super) struct Last {
    pub(super) score: Option<f64>,
    pub(super) accuracy: Option<f64>,
    pub(super) loss: Option<f64>,
    /// All that its sums say.
    pub(super) measures: Vec<Measure>,
    /// Of two classes where AUC decides: the best threshold.
    #[serde(skip_serializing_if = "Option::is_none")]
    operating_point: Option<OperatingPoint>,
    pub(super) model_digest: Digest,
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct BestEpoch {
    pub(super) epoch: u64,
    pub(super) score: f64,
    pub(super) model_digest: Digest,
}

/// How many times is trained and scored: the study's rounds, each of its own local epochs, as a federation
/// of this site alone would; or so many epochs, each a round of its own. A schedule of the learning rate
/// goes over them.
pub(super) fn rounds(study: &mut Study, epochs: Option<u64>) -> u64 {
    if let Some(epochs) = epochs {
        let training = &mut study.training;
        (training.local_epochs, training.local_steps, training.rounds) = (Some(1), None, epochs);
    }
    study.training.rounds
}

/// The vector that training starts from.
pub(super) fn start(study: &Study, file: Option<&Path>) -> Result<Vec<f32>, Failure> {
    let given = study.initial.filter(|initial| initial.given);
    let Some(file) = file else {
        return match given {
            None => study.initial_vector().map_err(Failure::failed),
            Some(initial) => Err(Failure::usage(format!(
                "the study starts from model {}: name its file with --start",
                initial.model
            ))),
        };
    };
    let layout = study.layout().map_err(Failure::failed)?;
    let vector = read_safetensors(file, &layout).map_err(Failure::usage)?;
    let have = Digest::of(&encode_model(&layout, &vector));
    match given {
        Some(initial) if initial.model != have => Err(Failure::usage(format!(
            "{} is model {have}, the study starts from {}",
            file.display(),
            initial.model
        ))),
        _ => Ok(vector),
    }
}

/// The model on its way through the epochs.
pub(super) struct Training<'a> {
    study: &'a Study,
    source: &'a Source,
    bench: &'a Workbench,
    schema: Schema,
    site: SiteId,
    clock: SystemClock,
    vector: Vec<f32>,
    /// Epochs count as versions do.
    best: Best,
    /// What the best epoch left; `None` while that is `vector`, or nothing was scored.
    best_vector: Option<Vec<f32>>,
    /// The local state, once an epoch has left one; gone with the command.
    local: Option<PathBuf>,
    /// What the study prepares, counted on these records alone.
    preparation: Option<Vec<u8>>,
}

impl<'a> Training<'a> {
    pub(super) fn new(
        study: &'a Study,
        source: &'a Source,
        bench: &'a Workbench,
        vector: Vec<f32>,
    ) -> Result<Self, Failure> {
        Ok(Self {
            schema: Schema::of(study),
            site: "local".parse().map_err(Failure::failed)?,
            clock: SystemClock::open(),
            vector,
            best: Best::new(study.evaluation.metric),
            best_vector: None,
            local: None,
            preparation: None,
            study,
            source,
            bench,
        })
    }

    /// Counts what the study prepares, as the one site that there is.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        let (Some(sums), Some(terms)) =
            (self.study.preparation_len(), self.study.preparation_terms())
        else {
            return Ok(());
        };
        let (_, files) = self.work(Work::Prepare, 0, "preparation").await?;
        let file = files.open_counts().map_err(Failure::failed)?;
        let counts = read_counts(sums, &file).map_err(Failure::failed)?;
        let sums = counts.into_iter().map(i64::from).collect();
        self.preparation = Some(Preparation { terms, sites: 1, sums }.encode());
        Ok(())
    }

    /// Trains one epoch and scores what came of it.
    pub(super) async fn epoch(&mut self, epoch: u64) -> Result<Epoch, Failure> {
        let began = self.clock.now();
        let title = format!("epoch {epoch}");
        let (trained, files) = self.work(Work::TrainAlone, epoch, &title).await?;
        let layout = self.study.layout().map_err(Failure::failed)?;
        let result = files.read_result().map_err(Failure::failed)?;
        let next = from_safetensors(&result, &layout).map_err(Failure::failed)?;
        let norm = delta_norm(self.study, &self.vector, &next).map_err(Failure::failed)?;
        let before = std::mem::replace(&mut self.vector, next);
        if let Some(left) = self.bench.keep_local(&files).map_err(Failure::failed)? {
            self.local = Some(left);
        }
        let score = self.schema.score(&trained.metrics);
        self.keep_best(epoch, score, before);
        Ok(Epoch {
            epoch,
            score,
            accuracy: self.schema.accuracy(&trained.metrics),
            loss: self.schema.loss(&trained.metrics),
            train_loss: trained.train_loss,
            train_seconds: trained.train_seconds,
            examples: trained.examples,
            holdout: trained.holdout,
            seconds: self.clock.now().since(began).as_secs_f64(),
            norm: Some(norm),
            control_norm: trained.steps.map(|steps| norm / steps),
            groups: self.schema.group_rows(&trained.metrics),
            measures: self.schema.measures(&trained.metrics),
            operating_point: self.schema.best_operating_point(&trained.metrics),
        })
    }

    /// `before` is what the epoch started from.
    fn keep_best(&mut self, epoch: u64, score: Option<f64>, before: Vec<f32>) {
        let best_before = self.best.get();
        self.best.note(Version(epoch), score);
        if self.best.get() != best_before {
            self.best_vector = None;
        } else if best_before.is_some_and(|best| best.version.0 + 1 == epoch) {
            self.best_vector = Some(before);
        }
    }

    /// The best epoch.
    pub(super) fn best(&self) -> Option<Scored> {
        self.best.get()
    }

    /// The best epoch is as old as the study lets it be.
    pub(super) fn is_over(&self, epoch: u64) -> bool {
        let most = self.study.training.early_stopping;
        let age = self.best.get().map(|best| epoch - best.version.0);
        age.zip(most).is_some_and(|(age, most)| age >= most)
    }

    async fn work(
        &self,
        work: Work,
        epoch: u64,
        title: &str,
    ) -> Result<(Outcome, crate::worker::TaskFolder), Failure> {
        let job = Job {
            work,
            study: self.study,
            source: self.source,
            seed: task_seed(self.study.header.seed, Round(epoch), &self.site),
            round: epoch,
            base: (work != Work::Prepare).then_some(self.vector.as_slice()),
            local: self.local.as_deref(),
            preparation: self.preparation.as_deref(),
            key: None,
        };
        let bar = Bar::new(title.to_owned());
        let done = self.bench.run(job, &mut |moved| bar.moved(&moved)).await;
        done.map_err(Failure::failed)
    }

    pub(super) fn report(&self, epochs: Vec<Epoch>) -> Result<Report, Failure> {
        let layout = self.study.layout().map_err(Failure::failed)?;
        let digest = |vector: &[f32]| Digest::of(&encode_model(&layout, vector));
        let model_digest = digest(&self.vector);
        let best = self.best.get().map(|best| BestEpoch {
            epoch: best.version.0,
            score: best.score,
            model_digest: self.best_vector.as_deref().map_or(model_digest, digest),
        });
        let suggested = |norm: fn(&Epoch) -> Option<f64>| {
            let largest = epochs.iter().filter_map(norm).reduce(f64::max);
            largest.map(|norm| round_up(norm * CLIP_ROOM))
        };
        let suggested_clip_norm = suggested(|epoch| epoch.norm);
        let suggested_control_clip_norm = suggested(|epoch| epoch.control_norm);
        let last = epochs.last();
        let last = Last {
            score: last.and_then(|epoch| epoch.score),
            accuracy: last.and_then(|epoch| epoch.accuracy),
            loss: last.and_then(|epoch| epoch.loss),
            measures: last.map(|epoch| epoch.measures.clone()).unwrap_or_default(),
            operating_point: last.and_then(|epoch| epoch.operating_point),
            model_digest,
        };
        Ok(Report { epochs, last, best, suggested_clip_norm, suggested_control_clip_norm })
    }

    pub(super) fn write_preparation(&self, path: &Path) -> Result<(), Failure> {
        let none = || Failure::Usage(format!("study {} prepares nothing", self.study.id()));
        let bytes = self.preparation.as_deref().ok_or_else(none)?;
        replace_with(path, Access::Umask, |file| file.write_all(bytes)).map_err(Failure::failed)
    }

    pub(super) fn write(&self, path: &Path, best: bool) -> Result<(), Failure> {
        let vector = self.best_vector.as_ref().filter(|_| best).unwrap_or(&self.vector);
        let layout = self.study.layout().map_err(Failure::failed)?;
        let metadata = HashMap::from([("study".to_owned(), self.study.id().to_string())]);
        let bytes = to_safetensors(&layout, vector, metadata).map_err(Failure::failed)?;
        replace_with(path, Access::Umask, |file| file.write_all(&bytes)).map_err(Failure::failed)
    }
}

/// The next number with two digits that count, so that people can read and write it.
fn round_up(value: f64) -> f64 {
    if !(value.is_finite() && value > 0.0) {
        return 1.0;
    }
    let unit = 10_f64.powf(value.log10().floor() - 1.0);
    let rounded = (value / unit).ceil() * unit;
    // 0.30000000000000004 would be what a person has to copy.
    format!("{rounded:.12}").parse().unwrap_or(rounded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_suggested_clip_norm_is_short_and_not_below_the_norm() {
        for (norm, clip) in [(3.1234, 3.2), (0.2345, 0.24), (187.0, 190.0), (10.0, 10.0)] {
            assert!((round_up(norm) - clip).abs() < 1e-9, "{norm}: {}", round_up(norm));
        }
        assert!(round_up(0.0) > 0.0 && round_up(f64::NAN) > 0.0);
    }
}
