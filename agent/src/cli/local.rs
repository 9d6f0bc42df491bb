//! `train --local`: the study's training on this site's records with no coordinator, one "round" an
//! epoch. What the study prepares is counted on these records alone. For trying a study out, for
//! choosing `clip_norm`, and as the yardstick of a federation.
//! The family's local state goes on from epoch to epoch, each of which counts, and ends with the
//! command; the daemon's own is not touched.

use std::collections::HashMap;
use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::study::sections::Metric;
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::file::{from_safetensors, to_safetensors};
use consilium_common::tensor::flat::encode_model;
use consilium_common::time::Clock;
use consilium_common::update::groups::GroupRow;
use consilium_common::update::words::Schema;
use consilium_common::worker::{Outcome, Source, Work};
use consilium_io::SystemClock;
use consilium_io::disk::{Access, replace_with};
use serde::Serialize;

use super::progress::Bar;
use super::workbench::{Job, Workbench, programs, read_study};
use super::{Common, Failure, output, source};
use crate::update::{delta_norm, read_counts, task_seed};

/// Room above the largest norm that was seen: later rounds and other sites differ.
const CLIP_ROOM: f64 = 1.2;

/// Options of `train`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Train here alone, with no coordinator (the daemon trains for a federation)
    #[arg(long, required = true)]
    local: bool,
    /// The study's file, draft or signed
    #[arg(long, value_name = "STUDY.toml")]
    study: PathBuf,
    #[command(flatten)]
    source: source::Options,
    /// Passes over the records; by default as many as the study has rounds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    epochs: Option<u64>,
    /// Print the L2 norm of each epoch's delta, and a `clip_norm` to start with
    #[arg(long)]
    report_norms: bool,
    /// Write the trained model here
    #[arg(long, value_name = "MODEL.safetensors")]
    out: Option<PathBuf>,
    /// Write what the study prepares, counted on these records, here: `evaluate` and `predict` read it
    #[arg(long, value_name = "FILE")]
    out_preparation: Option<PathBuf>,
    /// `auto`, `cpu` or `cuda:N`
    #[arg(long, default_value = "auto")]
    device: String,
    /// Threads of the tensor library
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    threads: u32,
    /// The worker's program; by default the one beside this one, or on the path
    #[arg(long, value_name = "PROGRAM")]
    worker: Option<PathBuf>,
}

/// One epoch, as printed and as JSON.
#[derive(Debug, Serialize)]
struct Epoch {
    epoch: u64,
    /// The value of the study's own metric.
    score: Option<f64>,
    accuracy: Option<f64>,
    loss: Option<f64>,
    train_loss: Option<f64>,
    examples: u64,
    holdout: u64,
    seconds: f64,
    /// L2 norm of this epoch's delta.
    #[serde(skip_serializing_if = "Option::is_none")]
    norm: Option<f64>,
    /// The study's own measure for each group.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    groups: Vec<GroupRow>,
}

#[derive(Debug, Serialize)]
struct Report {
    epochs: Vec<Epoch>,
    #[serde(rename = "final")]
    last: Last,
    #[serde(skip_serializing_if = "Option::is_none")]
    suggested_clip_norm: Option<f64>,
}

#[derive(Debug, Serialize)]
struct Last {
    score: Option<f64>,
    accuracy: Option<f64>,
    loss: Option<f64>,
    model_digest: Digest,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let mut study = read_study(&options.study)?;
    let epochs = options.epochs.unwrap_or(study.training.rounds);
    // An epoch is a round: a schedule of the learning rate goes over those of this command.
    (study.training.local_epochs, study.training.rounds) = (1, epochs);
    let source = options.source.resolve(common, study.id())?;
    let programs = programs(options.worker.clone())?;
    let bench = Workbench::new(programs, options.device.clone(), options.threads)?;
    let mut training = Training::new(&study, &source, &bench)?;
    training.prepare().await?;
    if let Some(path) = &options.out_preparation {
        training.write_preparation(path)?;
    }
    let mut rows = Vec::new();
    for epoch in 1..=epochs {
        let mut row = training.epoch(epoch).await?;
        if !options.report_norms {
            row.norm = None;
        } else if !common.json {
            output::line(format!(
                "epoch {epoch}: norm of the delta {:.4}",
                row.norm.unwrap_or(0.0)
            ));
        }
        if !common.json {
            show(&row, epochs, study.evaluation.metric);
        }
        rows.push(row);
    }
    let report = training.report(rows)?;
    if let Some(path) = &options.out {
        training.write(path)?;
    }
    if common.json {
        return output::json(&report);
    }
    if let Some(last) = report.epochs.last().filter(|last| !last.groups.is_empty()) {
        output::line(output::group_table(&last.groups));
    }
    output::line(format!("model {}", report.last.model_digest));
    if let Some(clip) = report.suggested_clip_norm {
        output::line(format!(
            "suggested: `clip_norm = {clip}` in [aggregation] (a fifth above the largest norm)"
        ));
    }
    Ok(())
}

fn show(row: &Epoch, epochs: u64, metric: Metric) {
    let score = match metric {
        Metric::Auc => format!("AUC {}, ", output::decimal(row.score)),
        Metric::Rmse => format!("RMSE {}, ", output::decimal(row.score)),
        Metric::Hr => format!("HR@10 {}, ", output::decimal(row.score)),
        Metric::Ndcg => format!("NDCG@10 {}, ", output::decimal(row.score)),
        // They stand in the line as it is.
        Metric::Accuracy | Metric::Loss => String::new(),
    };
    output::line(format!(
        "epoch {}/{epochs}: {score}accuracy {}, loss {}, training loss {}, {} records, {:.1} s",
        row.epoch,
        output::percent(row.accuracy),
        output::decimal(row.loss),
        output::decimal(row.train_loss),
        row.examples,
        row.seconds
    ));
}

/// The model on its way through the epochs.
struct Training<'a> {
    study: &'a Study,
    source: &'a Source,
    bench: &'a Workbench,
    schema: Schema,
    site: SiteId,
    clock: SystemClock,
    vector: Vec<f32>,
    /// The local state, once an epoch has left one; gone with the command.
    local: Option<PathBuf>,
    /// What the study prepares, counted on these records alone.
    preparation: Option<Vec<u8>>,
}

impl<'a> Training<'a> {
    fn new(study: &'a Study, source: &'a Source, bench: &'a Workbench) -> Result<Self, Failure> {
        Ok(Self {
            schema: Schema::of(study),
            site: "local".parse().map_err(Failure::failed)?,
            clock: SystemClock::open(),
            vector: study.initial_vector().map_err(Failure::failed)?,
            local: None,
            preparation: None,
            study,
            source,
            bench,
        })
    }

    /// Counts what the study prepares, as the one site that there is.
    async fn prepare(&mut self) -> Result<(), Failure> {
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
    async fn epoch(&mut self, epoch: u64) -> Result<Epoch, Failure> {
        let began = self.clock.now();
        let title = format!("epoch {epoch}");
        let (trained, files) = self.work(Work::Train, epoch, &title).await?;
        let layout = self.study.layout().map_err(Failure::failed)?;
        let result = files.read_result().map_err(Failure::failed)?;
        let next = from_safetensors(&result, &layout).map_err(Failure::failed)?;
        let norm = delta_norm(self.study, &self.vector, &next).map_err(Failure::failed)?;
        self.vector = next;
        if let Some(left) = self.bench.keep_local(&files).map_err(Failure::failed)? {
            self.local = Some(left);
        }
        let (scored, _) = self.work(Work::Evaluate, epoch, &title).await?;
        Ok(Epoch {
            epoch,
            score: self.schema.score(&scored.metrics),
            accuracy: self.schema.accuracy(&scored.metrics),
            loss: self.schema.loss(&scored.metrics),
            train_loss: trained.train_loss,
            examples: trained.examples,
            holdout: scored.holdout,
            seconds: self.clock.now().since(began).as_secs_f64(),
            norm: Some(norm),
            groups: self.schema.group_rows(&scored.metrics),
        })
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
        };
        let bar = Bar::new(title.to_owned());
        let done = self.bench.run(job, &mut |moved| bar.moved(&moved)).await;
        done.map_err(Failure::failed)
    }

    fn report(&self, epochs: Vec<Epoch>) -> Result<Report, Failure> {
        let layout = self.study.layout().map_err(Failure::failed)?;
        let model_digest = Digest::of(&encode_model(&layout, &self.vector));
        let norms = epochs.iter().filter_map(|epoch| epoch.norm);
        let suggested_clip_norm = norms.reduce(f64::max).map(|norm| round_up(norm * CLIP_ROOM));
        let last = epochs.last();
        let last = Last {
            score: last.and_then(|epoch| epoch.score),
            accuracy: last.and_then(|epoch| epoch.accuracy),
            loss: last.and_then(|epoch| epoch.loss),
            model_digest,
        };
        Ok(Report { epochs, last, suggested_clip_norm })
    }

    fn write_preparation(&self, path: &std::path::Path) -> Result<(), Failure> {
        let none = || Failure::Usage(format!("study {} prepares nothing", self.study.id()));
        let bytes = self.preparation.as_deref().ok_or_else(none)?;
        replace_with(path, Access::Umask, |file| file.write_all(bytes)).map_err(Failure::failed)
    }

    fn write(&self, path: &std::path::Path) -> Result<(), Failure> {
        let layout = self.study.layout().map_err(Failure::failed)?;
        let metadata = HashMap::from([("study".to_owned(), self.study.id().to_string())]);
        let bytes = to_safetensors(&layout, &self.vector, metadata).map_err(Failure::failed)?;
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
