//! What a federation learns on public data: the score of the last version over all hold-outs, beside
//! one process with all records and each site alone. Every process is a real one; the cases are TOML
//! files below `tests/studies`, hyper-parameters and all.
//!
//! Pooled and local trainings take the same number of passes over the records as the federation.

#![forbid(unsafe_code)]

mod alone;
mod case;
mod federated;

use std::path::PathBuf;

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::{Row, print};
use consilium_common::study::sections::Metric;
use consilium_coordinator::local::Programs;

use crate::case::Case;

/// Train the studies of tests/studies on public data
#[derive(Debug, Parser)]
struct Args {
    /// One case alone, such as `heart`
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Folder of public data [default: $CONSILIUM_DATA, or ../shared/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The federation alone: no pooled and local trainings
    #[arg(long)]
    no_baselines: bool,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

#[expect(clippy::print_stderr, reason = "progress of a long measurement")]
fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let named = args.data.clone().or_else(|| std::env::var_os("CONSILIUM_DATA").map(PathBuf::from));
    let data = named.unwrap_or_else(|| root.join("../shared/data"));
    let Ok(data) = data.canonicalize() else {
        eprintln!("skipped: no public data at {} (--data DIR)", data.display());
        return Ok(());
    };
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(true)?;
    let mut rows = Vec::new();
    for case in Case::all(&root.join("tests/studies"), &data, args.only.as_deref())? {
        rows.extend(measure(&case, &programs, &args)?);
    }
    print(&rows, args.json)
}

/// One case: a row for each figure.
fn measure(case: &Case, programs: &Programs, args: &Args) -> anyhow::Result<Vec<Row>> {
    let metric = case.study(1)?.evaluation.metric;
    let unit = unit(metric);
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir()?;
    let federated = federated::train(case, programs.clone(), folder.path())?;
    let mean = mean(&federated.scores);
    let name = |what: &str| format!("{}: {what}", case.name);
    let mut rows = vec![
        reached(name("federated"), mean, unit, case.sites.required, metric, "required"),
        reached(name("federated, the goal"), mean, unit, case.sites.goal, metric, "goal"),
        Row::plain(name("spread over seeds"), spread(&federated.scores), unit),
        Row::plain(name("seconds"), federated.seconds, "s"),
    ];
    if let Some(bound) = case.sites.accuracy {
        let (mean, metric) = (crate::mean(&federated.accuracies), Metric::Accuracy);
        let name = name("federated, accuracy");
        rows.push(reached(name, mean, "accuracy", bound, metric, "required"));
    }
    for (site, score) in &federated.sites {
        rows.push(Row::plain(name(&format!("the federation's model at {site}")), *score, unit));
    }
    if !args.no_baselines {
        for (who, score) in alone::train(case, programs)? {
            rows.push(Row::plain(name(&who), score, unit));
        }
    }
    Ok(rows)
}

/// Whether smaller is better.
fn is_error(metric: Metric) -> bool {
    matches!(metric, Metric::Loss | Metric::Rmse)
}

fn unit(metric: Metric) -> &'static str {
    match metric {
        Metric::Accuracy => "accuracy",
        Metric::Loss => "loss",
        Metric::Auc => "AUC",
        Metric::Rmse => "RMSE",
        Metric::Hr => "HR@10",
        Metric::Ndcg => "NDCG@10",
    }
}

fn reached(
    name: String,
    value: f64,
    unit: &'static str,
    bound: f64,
    metric: Metric,
    word: &str,
) -> Row {
    let (sign, ok) =
        if is_error(metric) { ("≤", value <= bound) } else { ("≥", value >= bound) };
    Row { name, value, unit, goal: format!("{word}: {sign} {bound}"), ok }
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Standard deviation of the sample.
fn spread(values: &[f64]) -> f64 {
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / values.len().saturating_sub(1).max(1) as f64).sqrt()
}
