//! What the demonstration found: one table for people, one document for programs.

use anyhow::Context as _;
use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::{Baseline, DemoArgs};

/// What the federation trained.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Outcome {
    /// One row a committed version.
    pub(super) rounds: Vec<Row>,
    /// The last version.
    #[serde(rename = "final")]
    pub(super) last: Last,
}

/// The round that made a version, and how that version scores.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Row {
    pub(super) round: u64,
    pub(super) version: u64,
    /// Σ correct ÷ Σ total over the sites' hold-outs.
    pub(super) accuracy: Option<f64>,
    /// Mean cross-entropy, nats.
    pub(super) loss: Option<f64>,
    pub(super) seconds: f64,
    pub(super) bytes_up: u64,
    pub(super) bytes_down: u64,
    /// Updates whose norm was over `clip_norm`.
    pub(super) clipped: u64,
    pub(super) sites: Vec<Score>,
}

/// A version on one site's hold-out; read from that site's own agent.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Score {
    pub(super) site: String,
    pub(super) holdout: u64,
    pub(super) accuracy: Option<f64>,
    pub(super) loss: Option<f64>,
}

/// The last version.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Last {
    pub(super) accuracy: Option<f64>,
    pub(super) loss: Option<f64>,
    pub(super) version: u64,
    pub(super) model_digest: String,
    pub(super) seconds: f64,
}

/// What was trained beside it with the same number of epochs.
#[derive(Debug, Clone, Default, Serialize)]
pub(super) struct Baselines {
    /// One process with all records.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pooled: Option<Trained>,
    /// Each site alone, scored on its own hold-out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) alone: Vec<Trained>,
}

/// One local training.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Trained {
    pub(super) name: String,
    pub(super) examples: u64,
    pub(super) accuracy: Option<f64>,
    pub(super) loss: Option<f64>,
    pub(super) seconds: f64,
}

#[derive(Serialize)]
struct Document<'a> {
    #[serde(flatten)]
    outcome: &'a Outcome,
    baseline: &'a Baselines,
}

/// Prints the table, or the document with `--json`.
#[expect(clippy::print_stdout, reason = "the result of the command")]
pub(super) fn print(
    args: &DemoArgs,
    outcome: &Outcome,
    baselines: &Baselines,
) -> anyhow::Result<()> {
    if args.json {
        let document = Document { outcome, baseline: baselines };
        println!("{}", serde_json::to_string(&document).context("writing JSON")?);
        return Ok(());
    }
    println!("{}\n\n{}", rounds(outcome), comparison(args, outcome, baselines));
    let last = &outcome.last;
    println!("\nmodel v{} {}", last.version, last.model_digest);
    Ok(())
}

fn rounds(outcome: &Outcome) -> Table {
    let mut table =
        table(&["round", "version", "accuracy", "loss", "seconds", "up", "down", "clipped"]);
    for row in &outcome.rounds {
        table.add_row([
            row.round.to_string(),
            format!("v{}", row.version),
            percent(row.accuracy),
            decimal(row.loss),
            format!("{:.1}", row.seconds),
            bytes(row.bytes_up),
            bytes(row.bytes_down),
            row.clipped.to_string(),
        ]);
    }
    table
}

fn comparison(args: &DemoArgs, outcome: &Outcome, baselines: &Baselines) -> Table {
    let mut table = table(&["", "examples", "scored on", "accuracy", "loss", "seconds"]);
    let last = &outcome.last;
    let rows = outcome.rounds.last().map(|row| row.sites.as_slice()).unwrap_or_default();
    let total: u64 = rows.iter().map(|score| score.holdout).sum();
    table.add_row([
        format!("federated, {} sites", args.sites),
        String::new(),
        format!("all {total}"),
        percent(last.accuracy),
        decimal(last.loss),
        format!("{:.0}", last.seconds),
    ]);
    if let Some(pooled) = &baselines.pooled {
        table.add_row(trained(pooled, format!("all {total}")));
    }
    for score in rows {
        table.add_row([
            format!("federated at {}", score.site),
            String::new(),
            format!("its own {}", score.holdout),
            percent(score.accuracy),
            decimal(score.loss),
            String::new(),
        ]);
    }
    for (alone, score) in baselines.alone.iter().zip(rows) {
        table.add_row(trained(alone, format!("its own {}", score.holdout)));
    }
    if args.baseline == Baseline::None {
        table.add_row(["(--baseline=all adds pooled and lone training)".to_owned()]);
    }
    table
}

fn trained(trained: &Trained, scored_on: String) -> [String; 6] {
    [
        trained.name.clone(),
        trained.examples.to_string(),
        scored_on,
        percent(trained.accuracy),
        decimal(trained.loss),
        format!("{:.0}", trained.seconds),
    ]
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(head.to_vec());
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// `98.72 %`, or a dash.
pub(super) fn percent(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{:.2} %", 100.0 * value))
}

fn decimal(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    indicatif::DecimalBytes(count).to_string()
}
