//! How fast a worker trains, beside PyTorch eager from the same wheel: records a second through the
//! passes of one round, the same model, batch, optimiser and number of threads, by turns in one run.
//!
//! Ours is `consilium-agent train --local` on public data; the peer (`benches/peers/torch_training.py`)
//! trains on as many records of the same shape, which it already has in memory as one tensor.

#![forbid(unsafe_code)]

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};
use clap::Parser;
use consilium_benches::process::usage;
use consilium_benches::studies::alone::{self, Speed};
use consilium_benches::studies::case::Case;
use consilium_benches::{Row, median, print};
use consilium_coordinator::local::Programs;
use serde::Deserialize;

/// Time training against PyTorch
#[derive(Debug, Parser)]
struct Args {
    /// A Python that has PyTorch of the same version as libtorch
    #[arg(long, value_name = "PROGRAM")]
    python: PathBuf,
    /// Folder of public data [default: $CONSILIUM_DATA, or ../shared/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Repeats by turns; medians are printed
    #[arg(long, default_value_t = 5)]
    repeats: u32,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

/// A case of `tests/studies` with some other values, of one round.
struct Workload {
    name: &'static str,
    case: &'static str,
    changes: &'static str,
}

const WORKLOADS: [Workload; 3] = [
    Workload {
        name: "cnn",
        case: "mnist",
        // The peer does not move its pictures.
        changes: "training = { rounds = 1, local_epochs = 1, augment = {} }",
    },
    Workload {
        name: "lstm",
        case: "physionet2012",
        changes: "model = { cell = \"lstm\" }\ntraining = { rounds = 1, local_epochs = 8 }",
    },
    Workload {
        name: "recommender",
        case: "films",
        changes: "training = { rounds = 1, local_epochs = 2 }",
    },
];

/// What the peer answers.
#[derive(Debug, Deserialize)]
struct Answer {
    torch: String,
    seconds: f64,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize()?;
    let named = args.data.clone().or_else(|| std::env::var_os("CONSILIUM_DATA").map(PathBuf::from));
    let data = named.unwrap_or_else(|| root.join("../shared/data"));
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(true)?;
    let mut rows = Vec::new();
    for workload in &WORKLOADS {
        let cases = Case::all(&root.join("tests/studies"), &data, Some(workload.case))?;
        let case = cases.first().context("the case is there, or this was refused")?;
        rows.extend(compare(workload, case, &programs, &args, &root)?);
    }
    print(&rows, args.json)
}

fn compare(
    workload: &Workload,
    case: &Case,
    programs: &Programs,
    args: &Args,
    root: &Path,
) -> anyhow::Result<Vec<Row>> {
    let draft = case.with(1, &toml::from_str(workload.changes)?)?;
    let training = draft.study()?.training;
    let epochs = training.local_epochs.unwrap_or(1);
    let (mut ours, mut theirs, mut cpu) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    let mut torch = String::new();
    for _ in 0..args.repeats {
        let before = usage(std::process::id()).cpu_seconds;
        let Speed { records, seconds } = alone::speed(case, programs, &draft)?;
        let between = usage(std::process::id()).cpu_seconds;
        #[expect(clippy::cast_precision_loss, reason = "a count of records, for a rate")]
        let passed = (records * u64::from(epochs)) as f64;
        ours.push(passed / seconds);
        let output = Command::new(&args.python)
            .arg(root.join("benches/peers/torch_training.py"))
            .args([workload.name, "--records", &records.to_string()])
            .args(["--batch", &training.batch_size.to_string()])
            .args(["--epochs", &epochs.to_string()])
            .env("OMP_NUM_THREADS", "1")
            .output()
            .with_context(|| format!("starting {}", args.python.display()))?;
        if !output.status.success() {
            bail!("the peer: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let answer: Answer = serde_json::from_slice(&output.stdout)?;
        theirs.push(passed / answer.seconds);
        torch = answer.torch;
        let [own_cpu, peer_cpu] = &mut cpu;
        own_cpu.push(between - before);
        peer_cpu.push(usage(std::process::id()).cpu_seconds - between);
    }
    let name = |what: &str| format!("{}: {what}", workload.name);
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect();
    let ratio = median(&ratios);
    let [own_cpu, peer_cpu] = cpu;
    Ok(vec![
        Row::plain(name("worker"), median(&ours), "records/s"),
        Row::plain(name(&format!("PyTorch {torch}")), median(&theirs), "records/s"),
        Row {
            name: name("worker ÷ PyTorch, median of the pairs"),
            value: ratio,
            unit: "",
            goal: "≥ 1".to_owned(),
            ok: ratio >= 1.0,
        },
        Row::plain(name("worker's processes, start to end"), median(&own_cpu), "CPU s"),
        Row::plain(name("PyTorch's process, start to end"), median(&peer_cpu), "CPU s"),
    ])
}
