//! `train --local`: the study's training on this site's records with no coordinator: its rounds, as a
//! federation of this site alone would, or so many epochs. What the study prepares is counted on these records alone. For trying a study out, for
//! choosing `clip_norm`, and as the yardstick of a federation.
//! The best epoch is kept, and the training ends early, as a federation's versions would.
//! The family's local state goes on from epoch to epoch, each of which counts, and ends with the
//! command; the daemon's own is not touched. SCAFFOLD is plain descent here: of one site, c is its own
//! control variate, and nothing is corrected.

use std::path::PathBuf;

use clap::Args;
use consilium_common::ids::StudyId;
use consilium_common::study::sections::Metric;
use consilium_common::worker::Source;

use super::epochs::{BestEpoch, Epoch, Training, rounds, start};
use super::workbench::{Workbench, programs, read_study};
use super::{Common, Failure, grid, output, source};

/// Options of `train`.
#[derive(Debug, Args)]
pub(super) struct Options {
    /// Train here alone, with no coordinator (the daemon trains for a federation)
    #[arg(long, required = true)]
    local: bool,
    /// The study's file, draft or signed
    #[arg(long, value_name = "STUDY.toml")]
    pub(super) study: PathBuf,
    #[command(flatten)]
    pub(super) source: source::Options,
    /// The model to start from, where the study was signed with one, or in place of the seeded one
    #[arg(long, value_name = "MODEL.safetensors")]
    pub(super) start: Option<PathBuf>,
    /// Passes over the records, each scored; by default the study's rounds, each of its local epochs
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    pub(super) epochs: Option<u64>,
    /// Print the L2 norm of each epoch's delta, and a `clip_norm` to start with; under SCAFFOLD a
    /// `control_clip_norm` too
    #[arg(long)]
    report_norms: bool,
    /// Try every combination of these values, by turns with `FIELD=VALUE,VALUE` or in a TOML file with an
    /// array of values for each field, and show what each is worth on a part of the training records;
    /// the hold-out is not looked at
    #[arg(long, value_name = "FIELD=VALUES|FILE", conflicts_with_all = ["out", "report_norms"])]
    pub(super) grid: Vec<String>,
    /// Leave the hold-out to `evaluate`: score on this part of the training records, which is not trained
    /// on [default: as [data.NAME] says; 0.2 with `--grid`]
    #[arg(long, value_name = "SHARE", value_parser = share)]
    validation: Option<f64>,
    /// Keep what the combinations of a `--grid` are worth in this file, and try only those that it lacks
    #[arg(long, value_name = "FILE.jsonl", requires = "grid")]
    pub(super) results: Option<PathBuf>,
    /// Write the trained model here
    #[arg(long, value_name = "MODEL.safetensors")]
    out: Option<PathBuf>,
    /// Write what the study prepares, counted on these records, here: `evaluate` and `predict` read it
    #[arg(long, value_name = "FILE")]
    out_preparation: Option<PathBuf>,
    /// Write the model of the best epoch, not of the last
    #[arg(long, requires = "out")]
    best: bool,
    /// `auto`, `cpu` or `cuda:N`
    #[arg(long, default_value = "auto")]
    pub(super) device: String,
    /// Threads of the tensor library
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub(super) threads: u32,
    /// The worker's program; by default the one beside this one, or on the path
    #[arg(long, value_name = "PROGRAM")]
    pub(super) worker: Option<PathBuf>,
}

fn share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| *share > 0.0 && *share < 1.0);
    share.ok_or_else(|| "write a share above 0 and below 1, such as 0.2".to_owned())
}

impl Options {
    /// The records that are meant, and which of them score.
    pub(super) fn records(&self, common: &Common, study: &StudyId) -> Result<Source, Failure> {
        let source = self.source.resolve(common, study)?;
        Ok(Source { validation: self.validation.or(source.validation), ..source })
    }
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    if !options.grid.is_empty() {
        return grid::run(common, options).await;
    }
    let mut study = read_study(&options.study)?;
    let epochs = rounds(&mut study, options.epochs);
    let source = options.records(common, study.id())?;
    let programs = programs(options.worker.clone())?;
    let bench = Workbench::new(programs, options.device.clone(), options.threads)?;
    let start = start(&study, options.start.as_deref())?;
    let mut training = Training::new(&study, &source, &bench, start)?;
    training.prepare().await?;
    if let Some(path) = &options.out_preparation {
        training.write_preparation(path)?;
    }
    let word = if study.training.is_epoch() { "epoch" } else { "round" };
    let mut rows = Vec::new();
    for epoch in 1..=epochs {
        let mut row = training.epoch(epoch).await?;
        if !options.report_norms {
            (row.norm, row.control_norm) = (None, None);
        } else if !common.json {
            let control = row.control_norm.map(|norm| format!(", by its steps {norm:.4}"));
            output::line(format!(
                "{word} {epoch}: norm of the delta {:.4}{}",
                row.norm.unwrap_or(0.0),
                control.unwrap_or_default()
            ));
        }
        if !common.json {
            show(&row, (word, epochs), study.evaluation.metric);
        }
        rows.push(row);
        if training.is_over(epoch) {
            break;
        }
    }
    let report = training.report(rows)?;
    if let Some(path) = &options.out {
        training.write(path, options.best)?;
    }
    if common.json {
        return output::json(&report);
    }
    if let Some(last) = report.epochs.last().filter(|last| !last.groups.is_empty()) {
        output::line(output::group_table(&last.groups));
    }
    output::line(format!("model {}", report.last.model_digest));
    if let Some(BestEpoch { epoch, score, model_digest }) = &report.best {
        let metric = study.evaluation.metric;
        output::line(format!("best {word} {epoch}: {metric} {score:.4}, model {model_digest}"));
    }
    if let Some(clip) = report.suggested_clip_norm {
        output::line(format!(
            "suggested: `clip_norm = {clip}` in [aggregation] (a fifth above the largest norm)"
        ));
    }
    if let Some(clip) = report.suggested_control_clip_norm {
        output::line(format!(
            "suggested: `control_clip_norm = {clip}` (a fifth above the largest norm by its steps)"
        ));
    }
    Ok(())
}

fn show(row: &Epoch, (word, epochs): (&str, u64), metric: Metric) {
    let score = match metric {
        Metric::Auc | Metric::Rmse | Metric::Hr | Metric::Ndcg => {
            format!("{} {}, ", metric.title(), output::decimal(row.score))
        }
        // They stand in the line as it is.
        Metric::Accuracy | Metric::Loss => String::new(),
    };
    output::line(format!(
        "{word} {}/{epochs}: {score}accuracy {}, loss {}, training loss {}, {} records, {:.1} s",
        row.epoch,
        output::percent(row.accuracy),
        output::decimal(row.loss),
        output::decimal(row.train_loss),
        row.examples,
        row.seconds
    ));
}
