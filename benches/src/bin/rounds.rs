//! Whole rounds by real processes on loopback: TLS, QUIC, all durability, the synthetic trainer, so
//! that transport, aggregation and orchestration are what is timed.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::process::{Usage, usage};
use consilium_benches::{Row, machine, median, print};
use consilium_common::audit::{Outcome, Record};
use consilium_common::wire::messages::RunState;
use consilium_coordinator::document::StatusDocument;
use consilium_coordinator::local::{Federation, Policy, Programs, SiteSpec};
use consilium_io::disk::Log;

/// Time rounds of a federation on loopback
#[derive(Debug, Parser)]
struct Args {
    /// Sites
    #[arg(long, default_value_t = 4)]
    sites: u32,
    /// Parameters of the model
    #[arg(long, default_value_t = 1000)]
    parameters: u32,
    /// Rounds that count; one more comes first and does not
    #[arg(long, default_value_t = 200)]
    rounds: u64,
    /// Where states lie; must not be a tmpfs
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// Median round, milliseconds, that we aim at [default: 20 with 4 sites × 1,000 parameters]
    #[arg(long)]
    goal_ms: Option<f64>,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

impl Args {
    fn goal(&self) -> Option<f64> {
        let named = (self.sites, self.parameters) == (4, 1000);
        self.goal_ms.or_else(|| named.then_some(20.0))
    }
}

const STUDY: &str = "load";

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::Builder::new().prefix(".bench-").tempdir_in(&args.folder)?;
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(false)?;
    let sites = (0..args.sites).map(site).collect::<anyhow::Result<_>>()?;
    let root = folder.path().canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs, sites, Policy::Within)?;
    let fdatasync_ms = machine::fdatasync_ms(folder.path())?;
    federation.start()?;

    federation.run_study(STUDY, &draft(&args))?;
    until_complete(&federation)?;
    let usages = usages(&mut federation);
    federation.stop()?;
    let rounds = read_rounds(&federation)?;
    print(&rows(&args, fdatasync_ms, &rounds, &usages), args.json)
}

fn site(index: u32) -> anyhow::Result<SiteSpec> {
    let section = format!("source = \"synthetic\"\nexamples = {}\n", 100 + index);
    let name = format!("site-{}", index + 1).parse()?;
    Ok(SiteSpec { name, data: vec![(STUDY.to_owned(), section)] })
}

fn draft(args: &Args) -> String {
    format!(
        "[study]\nname = \"{STUDY}\"\n[model]\nfamily = \"synthetic\"\nparameters = {}\n\
         [training]\nrounds = {}\n[aggregation]\nclip_norm = 1e6\n\
         [cohort]\nmin_sites = {}\n[privacy]\nmode = \"inspectable\"\n",
        args.parameters,
        args.rounds + 1,
        args.sites
    )
}

/// One committed round, from its roll call in the log.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// From the plan to the roll call.
    duration_ms: f64,
    /// When its roll call was written, calendar milliseconds.
    wall_ms: f64,
}

/// Looks rarely, so that looking costs nothing that counts.
#[expect(clippy::disallowed_methods, reason = "a program that waits; no runtime runs here")]
fn until_complete(federation: &Federation) -> anyhow::Result<()> {
    loop {
        let status: StatusDocument = federation.operator_json(&["status", STUDY])?;
        let study = status.studies.first().context("the study is not listed")?;
        if study.state == RunState::Complete {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// The committed rounds, as the log tells them.
fn read_rounds(federation: &Federation) -> anyhow::Result<Vec<Round>> {
    let mut rounds = Vec::new();
    Log::read(&federation.coordinator_state().join("log"), 0, |record| {
        if let Ok(Some(Record::RollCall(ended))) = Record::decode(record.kind, record.payload)
            && let Ok(call) = ended.signed.parse_unverified()
            && matches!(call.outcome, Outcome::Committed { .. })
        {
            let (duration_ms, wall_ms) = (call.duration.0 as f64, record.wall.0 as f64);
            rounds.push(Round { duration_ms, wall_ms });
        }
        Ok(())
    })?;
    Ok(rounds)
}

/// The coordinator's usage, then each agent's.
fn usages(federation: &mut Federation) -> Vec<Usage> {
    let coordinator = federation.coordinator().map(|process| usage(process.pid()));
    let mut usages: Vec<Usage> = coordinator.into_iter().collect();
    for index in 0..federation.sites().len() {
        usages.extend(federation.agent(index).map(|process| usage(process.pid())));
    }
    usages
}

fn rows(args: &Args, fdatasync_ms: f64, rounds: &[Round], usages: &[Usage]) -> Vec<Row> {
    let counted: Vec<f64> = rounds.iter().skip(1).map(|round| round.duration_ms).collect();
    let name = format!("median round, {} sites × {} parameters", args.sites, args.parameters);
    let median_ms = median(&counted);
    let apart: Vec<f64> =
        rounds.iter().zip(rounds.iter().skip(1)).map(|(a, b)| b.wall_ms - a.wall_ms).collect();
    let total = rounds.len() as f64;
    let cpu: f64 = usages.iter().map(|usage| usage.cpu_seconds).sum();
    let coordinator = usages.first().copied().unwrap_or_default();
    let agent_peak = usages.iter().skip(1).map(|usage| usage.peak_mb).fold(0.0, f64::max);
    let agent_now = usages.iter().skip(1).map(|usage| usage.resident_mb).fold(0.0, f64::max);
    vec![
        match args.goal() {
            Some(goal) => Row::below(name, median_ms, "ms", goal),
            None => Row::plain(name, median_ms, "ms"),
        },
        Row::plain("from one roll call to the next, median", median(&apart), "ms"),
        Row::plain("fdatasync of this folder, median", fdatasync_ms, "ms"),
        Row::plain("a round in fdatasyncs", median_ms / fdatasync_ms, "×"),
        Row::plain("CPU of all processes a round", cpu * 1e3 / total, "ms"),
        Row::plain("CPU of the coordinator a round", coordinator.cpu_seconds * 1e3 / total, "ms"),
        Row::plain("coordinator, peak resident", coordinator.peak_mb, "MB"),
        Row::plain("largest agent, peak resident", agent_peak, "MB"),
        Row::plain("largest agent, resident at the end", agent_now, "MB"),
    ]
}
