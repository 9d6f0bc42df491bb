//! What a federation learns on public data: the last version's worth over all hold-outs, beside one
//! process with all records and each site alone. Every process is a real one; the cases are TOML files
//! below `tests/studies`, hyper-parameters and all, chosen with `--tune` on a part of the training
//! records.
//!
//! Pooled and local trainings take as many passes over the records as the federation does, in steps of
//! as many records.

#![forbid(unsafe_code)]

mod federated;
mod report;
mod tune;

use std::num::NonZero;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context as _;
use clap::Parser;
use consilium_benches::studies::alone;
use consilium_benches::{Row, print};
use consilium_coordinator::local::Programs;

use crate::report::Measured;
use consilium_benches::studies::case::{Case, Draft};
use consilium_benches::studies::scored::{Kept, Scored};

/// Train the studies of tests/studies on public data
#[derive(Debug, Parser)]
struct Args {
    /// One case alone, such as `heart`
    #[arg(long, value_name = "NAME")]
    only: Option<String>,
    /// Folder of public data [default: $CONSILIUM_DATA, or ../shared/data]
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Try the combinations of the case's [tune] on a part of the training records instead
    #[arg(long)]
    tune: bool,
    /// The first so many of the case's seeds [default: all; one with --tune]
    #[arg(long, value_name = "N")]
    seeds: Option<usize>,
    /// The federation alone: no pooled and local trainings
    #[arg(long)]
    no_baselines: bool,
    /// Where results are kept, by seed: what is there is not measured again [default: target/learning]
    #[arg(long, value_name = "DIR")]
    results: Option<PathBuf>,
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
    let results = args.results.clone().unwrap_or_else(|| root.join("target/learning"));
    let kept = Kept::open(results, &programs)?;
    let mut rows = Vec::new();
    for mut case in Case::all(&root.join("tests/studies"), &data, args.only.as_deref())? {
        case.sites.seeds.truncate(args.seeds.unwrap_or(if args.tune { 1 } else { usize::MAX }));
        rows.extend(if args.tune {
            tune::tune(&case, &programs, &kept, args.no_baselines)?
        } else {
            measure(&case, &programs, &kept, args.no_baselines)?
        });
    }
    print(&rows, args.json)
}

/// One case: a federation after the other, then all trainings without one.
#[expect(clippy::print_stderr, reason = "progress of a long measurement")]
fn measure(
    case: &Case,
    programs: &Programs,
    kept: &Kept,
    no_baselines: bool,
) -> anyhow::Result<Vec<Row>> {
    let mut measured = Measured::default();
    let told = |who: &str, draft: &Draft, scored: &Scored| {
        eprintln!("{} {who}: {:.4?}, {:.0} s", draft.name, scored.values, scored.seconds);
    };
    let mut drafts = Vec::new();
    for seed in &case.sites.seeds {
        let draft = case.federated(*seed)?;
        let train = || federated::train(case, programs, &draft);
        let sites = serde_json::to_string(&case.sites.sites)?;
        let records = case.section(&sites, &draft);
        let scored = kept.or_measure(&["federated", &draft.text, &records], train)?;
        told("federated", &draft, &scored);
        measured.federated.push(scored);
        drafts.push(case.alone(*seed)?);
    }
    let everyone: Vec<_> = case.sites.sites.iter().map(|(site, only)| (Some(site), only)).collect();
    let pooled = (None, &String::new());
    // The longest first: no core waits for it at the end.
    let whose = std::iter::once(&pooled).chain(&everyone).filter(|_| !no_baselines);
    let jobs: Vec<_> =
        whose.flat_map(|who| drafts.iter().map(move |draft| (*who, draft))).collect();
    let scored = side_by_side(&jobs, |((site, only), draft)| {
        let train = || alone::train(case, programs, draft, only);
        let records = case.section(only, draft);
        let scored = kept.or_measure(&["alone", &draft.text, &records], train)?;
        told(site.map_or("pooled", String::as_str), draft, &scored);
        Ok(scored)
    })?;
    for (((site, _), _), scored) in jobs.into_iter().zip(scored) {
        match site {
            None => measured.pooled.push(scored),
            Some(site) => measured.alone.entry(site.clone()).or_default().push(scored),
        }
    }
    let metric = case.federated(0)?.study()?.evaluation.metric;
    Ok(report::rows(case, metric, &measured))
}

/// The results of all jobs, in their order; as many at once as there are cores: each takes one.
fn side_by_side<J: Sync, T: Send>(
    jobs: &[J],
    work: impl Fn(&J) -> anyhow::Result<T> + Sync,
) -> anyhow::Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let lane = || {
        let mut done = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(number) else {
                return anyhow::Ok(done);
            };
            done.push((number, work(job)?));
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let mut done = Vec::new();
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let lanes: Vec<_> = (0..cores).map(|_| scope.spawn(lane)).collect();
        for lane in lanes {
            done.extend(lane.join().map_err(|_| anyhow::anyhow!("a training's thread broke"))??);
        }
        Ok(())
    })?;
    done.sort_by_key(|(number, _)| *number);
    Ok(done.into_iter().map(|(_, result)| result).collect())
}
