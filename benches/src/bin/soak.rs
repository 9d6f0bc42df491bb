//! Thousands of rounds by the same processes: what grows, and how fast the coordinator is back when
//! all those rounds are in its log.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::process::{now, usage};
use consilium_benches::{Row, median, print};
use consilium_coordinator::document::StatusDocument;
use consilium_coordinator::local::{Federation, Policy, Programs, SiteSpec};

/// Run thousands of rounds and watch what grows
#[derive(Debug, Parser)]
struct Args {
    /// Sites
    #[arg(long, default_value_t = 8)]
    sites: u32,
    /// Parameters of the model
    #[arg(long, default_value_t = 1000)]
    parameters: u32,
    /// Rounds
    #[arg(long, default_value_t = 10_000)]
    rounds: u64,
    /// Restarts of the coordinator at the end, each killed first
    #[arg(long, default_value_t = 5)]
    restarts: u32,
    /// Where states lie; must not be a tmpfs
    #[arg(long, default_value = ".")]
    folder: PathBuf,
    /// One JSON array
    #[arg(long)]
    json: bool,
}

const STUDY: &str = "soak";
const MEMORY_GOAL_MIB: f64 = 1.0;
const RESTART_GOAL_S: f64 = 2.0;

/// One look at a process.
#[derive(Debug, Clone, Copy)]
struct Look {
    version: f64,
    resident_mib: f64,
    descriptors: usize,
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let folder = tempfile::Builder::new().prefix(".soak-").tempdir_in(&args.folder)?;
    let own = std::env::current_exe()?;
    let programs = Programs::in_folder(own.parent().context("this program has no folder")?);
    programs.check(false)?;
    let site = |index: u32| -> anyhow::Result<SiteSpec> {
        let section = "source = \"synthetic\"\nexamples = 100\n".to_owned();
        let name = format!("site-{}", index + 1).parse()?;
        Ok(SiteSpec { name, data: vec![(STUDY.to_owned(), section)] })
    };
    let sites = (0..args.sites).map(site).collect::<anyhow::Result<_>>()?;
    let root = folder.path().canonicalize()?.join("consortium");
    let mut federation = Federation::create(&root, programs, sites, Policy::Within)?;
    federation.start()?;
    let pids = pids(&mut federation)?;
    // Far more rounds than are waited for: the study runs on while restarts are timed.
    federation.run_study(STUDY, &draft(&args))?;
    let looks = watch(&federation, &pids, args.rounds)?;
    let restarts = restarts(&mut federation, args.restarts)?;
    federation.stop()?;
    print(&rows(&args, &looks, &restarts), args.json)
}

fn draft(args: &Args) -> String {
    format!(
        "[study]\nname = \"{STUDY}\"\n[model]\nfamily = \"synthetic\"\nparameters = {}\n\
         [training]\nrounds = 1000000\n[aggregation]\nclip_norm = 1e6\n\
         [cohort]\nmin_sites = {}\n[privacy]\nmode = \"inspectable\"\n",
        args.parameters, args.sites
    )
}

/// The coordinator's pid, then each agent's.
fn pids(federation: &mut Federation) -> anyhow::Result<Vec<u32>> {
    let mut pids = vec![federation.coordinator().context("no coordinator")?.pid()];
    for index in 0..federation.sites().len() {
        pids.push(federation.agent(index).context("an agent is missing")?.pid());
    }
    Ok(pids)
}

/// Looks at every process forty times over the rounds: a list of looks per process.
#[expect(clippy::disallowed_methods, reason = "a program that waits; no runtime runs here")]
fn watch(federation: &Federation, pids: &[u32], rounds: u64) -> anyhow::Result<Vec<Vec<Look>>> {
    let mut looks = vec![Vec::new(); pids.len()];
    let (step, mut next) = (rounds.div_ceil(40), rounds.div_ceil(40));
    loop {
        let version = version(federation)?;
        if version >= next {
            for (pid, looks) in pids.iter().zip(&mut looks) {
                looks.push(look(*pid, version)?);
            }
            next = version + step;
        }
        if version >= rounds {
            return Ok(looks);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

fn version(federation: &Federation) -> anyhow::Result<u64> {
    let status: StatusDocument = federation.operator_json(&["status", STUDY])?;
    Ok(status.studies.first().context("the study is not listed")?.version.0)
}

fn look(pid: u32, version: u64) -> anyhow::Result<Look> {
    let count = |what: &str| anyhow::Ok(fs::read_dir(format!("/proc/{pid}/{what}"))?.count());
    Ok(Look {
        version: version as f64,
        resident_mib: usage(pid).resident_mb * 1e6 / f64::from(1 << 20),
        descriptors: count("fd")?,
        threads: count("task")?,
    })
}

/// Kills the coordinator and starts it: seconds until an agent's message is accepted, each time.
#[expect(clippy::disallowed_methods, reason = "how long a restart takes is what is measured")]
fn restarts(federation: &mut Federation, times: u32) -> anyhow::Result<Vec<f64>> {
    let mut seconds = Vec::new();
    for _ in 0..times {
        let coordinator = federation.coordinator().context("no coordinator")?;
        coordinator.kill();
        let log = coordinator.log().to_owned();
        let before = fs::metadata(&log)?.len();
        let began = now();
        federation.start_coordinator()?;
        while !says_connected(&log, before)? {
            std::thread::sleep(Duration::from_millis(2));
        }
        seconds.push(began.elapsed().as_secs_f64());
        // The next death meets a round again.
        std::thread::sleep(Duration::from_secs(3));
    }
    Ok(seconds)
}

/// Whether the coordinator has said since `offset` that a site's Hello was accepted.
fn says_connected(log: &std::path::Path, offset: u64) -> anyhow::Result<bool> {
    let text = fs::read(log)?;
    let new = text.get(usize::try_from(offset)?..).unwrap_or_default();
    Ok(String::from_utf8_lossy(new).lines().any(|line| line.contains(": connected site=")))
}

/// Least squares over the second half: what is taken once and kept is no growth.
fn growth_per_thousand(looks: &[Look]) -> f64 {
    let half = looks.get(looks.len() / 2..).unwrap_or_default();
    let mean = |of: fn(&Look) -> f64| half.iter().map(of).sum::<f64>() / half.len() as f64;
    let (x, y) = (mean(|look| look.version), mean(|look| look.resident_mib));
    let over = |of: &dyn Fn(&Look) -> f64| half.iter().map(of).sum::<f64>();
    let covariance = over(&|look| (look.version - x) * (look.resident_mib - y));
    1000.0 * covariance / over(&|look| (look.version - x).powi(2))
}

/// The most that a count differs from the median of the second half.
fn spread(looks: &[Look], of: fn(&Look) -> usize) -> f64 {
    let half = looks.get(looks.len() / 2..).unwrap_or_default();
    let values: Vec<f64> = half.iter().map(|look| of(look) as f64).collect();
    let middle = median(&values);
    values.iter().map(|value| (value - middle).abs()).fold(0.0, f64::max)
}

fn rows(args: &Args, looks: &[Vec<Look>], restarts: &[f64]) -> Vec<Row> {
    let (coordinator, agents) = looks.split_at(1);
    let mut rows = Vec::new();
    for (name, group) in [("coordinator", coordinator), ("agents, the worst", agents)] {
        let worst = |of: &dyn Fn(&[Look]) -> f64| {
            group.iter().map(|looks| of(looks)).fold(f64::NEG_INFINITY, f64::max)
        };
        let growth = worst(&growth_per_thousand);
        let name = |what: &str| format!("{name}: {what}");
        rows.extend([
            Row::below(name("growth per 1,000 rounds"), growth, "MiB", MEMORY_GOAL_MIB),
            Row::plain(name("resident at the end"), worst(&last_mib), "MiB"),
            Row::plain(
                name("descriptors around their median, at most"),
                worst(&|looks| spread(looks, |look| look.descriptors)),
                "",
            ),
            Row::plain(
                name("threads around their median, at most"),
                worst(&|looks| spread(looks, |look| look.threads)),
                "",
            ),
        ]);
    }
    let name = format!("restart to the first accepted message, {} rounds in the log", args.rounds);
    rows.push(Row::below(name, median(restarts), "s", RESTART_GOAL_S));
    rows.push(Row::plain("the same, longest", restarts.iter().copied().fold(0.0, f64::max), "s"));
    rows
}

fn last_mib(looks: &[Look]) -> f64 {
    looks.last().map_or(0.0, |look| look.resident_mib)
}
