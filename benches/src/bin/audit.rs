//! An audit of a long history: every record's bytes, every signature, the whole story, and with
//! `--models` every round's sum and model once more.

#![forbid(unsafe_code)]

use anyhow::{Context as _, ensure};
use clap::Parser;
use consilium_benches::process::now;
use consilium_benches::{Row, median, print};
use consilium_coordinator::audit::{Check, Folder, Verdict, verify};
use consilium_coordinator::local::made::{Made, Script};

/// Time `consilium audit verify` on a history made for it
#[derive(Debug, Parser)]
struct Args {
    /// Sites, all of which count in each round
    #[arg(long, default_value_t = 10)]
    sites: u32,
    /// Rounds
    #[arg(long, default_value_t = 1000)]
    rounds: u64,
    /// Parameters of the model
    #[arg(long, default_value_t = 1000)]
    parameters: u32,
    /// Make models and updates too, and recompute every round
    #[arg(long)]
    models: bool,
    /// Repeats; medians are printed
    #[arg(long, default_value_t = 3)]
    repeats: u32,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(".")?;
    let Args { sites, rounds, parameters, .. } = args;
    let kept = args.models.then(|| Folder::at(folder.path()).kept_or_to_be());
    let made = Made::new(&Script { sites, rounds, parameters }, kept.as_ref())?;
    let (log, checkpoint) = (made.log()?, made.checkpoint()?);
    let audit = || {
        verify(|| Ok((&log[..], log.len() as u64)), &checkpoint, &[], &made.pinned, kept.as_ref())
    };
    let (mut times, mut verdict) = (Vec::new(), Verdict::default());
    for _ in 0..args.repeats {
        let start = now();
        verdict = audit()?;
        times.push(start.elapsed().as_secs_f64());
    }
    let fault = verdict.faults().first();
    ensure!(fault.is_none(), "the history is not sound: {fault:?}");
    let recomputed = verdict.count(Check::Sums).right;
    ensure!(!args.models || recomputed == rounds + 1, "{recomputed} rounds came out again");
    let seconds = median(&times);
    let records = u32::try_from(made.records.len()).context("records")?;
    let megabytes =
        f64::from(u32::try_from(log.len() >> 10).context("a log of terabytes")?) / 1024.0;
    let name = format!("audit verify, {rounds} rounds × {sites} sites");
    let rows = [
        Row::below(name, seconds, "s", 10.0),
        Row::plain("records", f64::from(records), ""),
        Row::plain("the log", megabytes, "MiB"),
        Row::plain("a record", seconds / f64::from(records) * 1e6, "µs"),
    ];
    print(&rows, args.json)
}
