//! `train --local --grid`: every combination of some fields' values, trained like any study and scored
//! on a part of the training records that it is not trained on. The hold-out is not looked at: what it
//! says of the combination that is chosen is news.

use std::collections::BTreeMap;
use std::path::Path;

use consilium_common::ids::Digest;
use consilium_common::le;
use consilium_common::limits::{CONFIG_BYTES_MAX, STUDY_BYTES_MAX};
use consilium_common::study::Study;
use consilium_common::study::variants::{Axes, Variant};
use consilium_common::time::Clock;
use consilium_common::worker::Source;
use consilium_io::SystemClock;
use consilium_io::disk::read_text;
use serde::{Deserialize, Serialize};

use super::epochs::{Training, rounds, start};
use super::local::Options;
use super::results::Results;
use super::workbench::{Workbench, programs};
use super::{Common, Failure, output};

/// The part of the training records that combinations are scored on, where nobody says.
const VALIDATION_DEFAULT: f64 = 0.2;

/// One combination, as printed and as JSON.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Row {
    /// Fields with their values, as TOML writes them.
    values: BTreeMap<String, String>,
    /// The study's metric after its best epoch, on the validation part.
    score: Option<f64>,
    /// The best epoch.
    best_epoch: Option<u64>,
    /// Epochs that were trained.
    epochs: u64,
    /// Records of the validation part.
    validation: u64,
    seconds: f64,
    /// Why it was not trained to its end.
    pub(super) failure: Option<String>,
}

#[derive(Debug, Serialize)]
struct Report {
    metric: String,
    /// The best first; those that failed last.
    combinations: Vec<Row>,
}

pub(super) async fn run(common: &Common, options: &Options) -> Result<(), Failure> {
    let axes = axes(options)?;
    let text = read_text(&options.study, STUDY_BYTES_MAX).map_err(Failure::usage)?;
    let origin = options.study.display().to_string();
    let study = Study::read(&text, &origin).map_err(Failure::usage)?;
    let variants = axes.variants(&text, &origin).map_err(Failure::usage)?;
    let mut source = options.records(common, study.id())?;
    source.validation = source.validation.or(Some(VALIDATION_DEFAULT));
    let programs = programs(options.worker.clone())?;
    let bench = Workbench::new(programs, options.device.clone(), options.threads)?;
    let mut results = Results::open(options.results.clone())?;
    let mut rows = Vec::new();
    for (number, variant) in (1..).zip(&variants) {
        let row = one(variant, &source, &bench, options, &mut results).await?;
        if !common.json {
            output::line(format!("{number}/{}: {}", variants.len(), sentence(&row)));
        }
        rows.push(row);
    }
    let metric = study.evaluation.metric;
    rows.sort_by(|a, b| match (a.score, b.score) {
        (Some(a), Some(b)) if metric.is_better(a, b) => std::cmp::Ordering::Less,
        (Some(a), Some(b)) if metric.is_better(b, a) => std::cmp::Ordering::Greater,
        (a, b) => b.is_some().cmp(&a.is_some()),
    });
    let report = Report { metric: metric.to_string(), combinations: rows };
    if common.json {
        output::json(&report)?;
    } else {
        output::line(table(&axes, &report));
    }
    let trained = report.combinations.iter().any(|row| row.failure.is_none());
    match report.combinations.into_iter().find_map(|row| row.failure) {
        Some(failure) if !trained => {
            Err(Failure::Failed(format!("no combination was trained: {failure}")))
        }
        _ => Ok(()),
    }
}

/// Each word is a field with its values, or names a file of them.
fn axes(options: &Options) -> Result<Axes, Failure> {
    let mut axes = Axes::default();
    for word in &options.grid {
        if word.contains('=') {
            axes.add(word).map_err(Failure::usage)?;
        } else {
            let text = read_text(Path::new(word), CONFIG_BYTES_MAX).map_err(Failure::usage)?;
            axes.add_file(&text, word).map_err(Failure::usage)?;
        }
    }
    let of_a_round = ["training.local_epochs", "training.local_steps"];
    let told = axes.fields().find(|field| options.epochs.is_some() && of_a_round.contains(field));
    if let Some(field) = told {
        return Err(Failure::Usage(format!(
            "`{field}` has no say beside --epochs: an epoch is a round of its own"
        )));
    }
    Ok(axes)
}

/// Trains one combination. That it cannot be trained (it diverges, or its model is too large) is a
/// result; an interrupt ends the command.
async fn one(
    variant: &Variant,
    source: &Source,
    bench: &Workbench,
    options: &Options,
    results: &mut Results,
) -> Result<Row, Failure> {
    let clock = SystemClock::open();
    let began = clock.now();
    let mut study = variant.study.clone();
    let epochs = rounds(&mut study, options.epochs);
    let start = start(&study, options.start.as_deref())?;
    let of = follows_from(&study, source, &start)?;
    if let Some(known) = results.get(of) {
        return Ok(known.clone());
    }
    let mut training = Training::new(&study, source, bench, start)?;
    let mut row = Row {
        values: variant.values.clone(),
        score: None,
        best_epoch: None,
        epochs: 0,
        validation: 0,
        seconds: 0.0,
        failure: None,
    };
    let ended = train(&mut training, epochs, &mut row).await;
    if bench.is_stopped() {
        return ended.map(|()| row);
    }
    row.failure = ended.err().map(|failure| failure.to_string());
    if row.failure.is_none()
        && let Some(best) = training.best()
    {
        (row.score, row.best_epoch) = (Some(best.score), Some(best.version.0));
    }
    row.seconds = clock.now().since(began).as_secs_f64();
    results.keep(of, &row)?;
    Ok(row)
}

/// Digest of all that a combination's worth follows from, but the machine.
fn follows_from(study: &Study, source: &Source, start: &[f32]) -> Result<Digest, Failure> {
    let mut text = study.to_text().map_err(Failure::failed)?;
    text += &serde_json::to_string(source).map_err(Failure::failed)?;
    text += &study.training.rounds.to_string();
    let mut bytes = text.into_bytes();
    le::extend_f32(&mut bytes, start);
    Ok(Digest::of(&bytes))
}

async fn train(training: &mut Training<'_>, epochs: u64, row: &mut Row) -> Result<(), Failure> {
    training.prepare().await?;
    for epoch in 1..=epochs {
        row.validation = training.epoch(epoch).await?.holdout;
        row.epochs = epoch;
        if training.is_over(epoch) {
            break;
        }
    }
    Ok(())
}

fn sentence(row: &Row) -> String {
    let values = row.values.iter().map(|(field, value)| format!("{field} = {value}"));
    let values = values.collect::<Vec<_>>().join(", ");
    match (&row.failure, row.best_epoch) {
        (Some(failure), _) => format!("{values}: {failure}"),
        (None, None) => format!("{values}: not scored"),
        (None, Some(epoch)) => {
            format!("{values}: {} after epoch {epoch}", output::decimal(row.score))
        }
    }
}

fn table(axes: &Axes, report: &Report) -> String {
    let last = [report.metric.as_str(), "best epoch", "epochs", "seconds", "failure"];
    let header: Vec<&str> = axes.fields().chain(last).collect();
    let mut table = output::table(&header);
    for row in &report.combinations {
        let mut cells: Vec<String> = row.values.values().cloned().collect();
        cells.extend([
            output::decimal(row.score),
            row.best_epoch.map_or_else(|| "–".to_owned(), |epoch| epoch.to_string()),
            row.epochs.to_string(),
            format!("{:.1}", row.seconds),
            row.failure.clone().unwrap_or_default(),
        ]);
        table.add_row(cells);
    }
    table.to_string()
}
