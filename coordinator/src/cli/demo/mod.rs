//! `consilium demo`: a consortium on this machine, real processes, real data, one table at the end.

mod baseline;
mod observe;
mod report;
mod study;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum};
use consilium_common::worker::Split;

use crate::local::{Federation, Policy, Programs};

/// `consilium demo`
#[derive(Debug, Clone, Args)]
pub(super) struct DemoArgs {
    /// Folder with the four MNIST files (IDX, plain or .gz); `cargo xtask demo` fetches them
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Committed versions to train; each site does one local epoch for each
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1000))]
    rounds: u64,
    /// Hospitals
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=32))]
    sites: u32,
    /// Seed of everything that is random; two runs with one seed end in one model digest
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How records are dealt: `iid`, or `dirichlet:0.3` for hospitals that differ
    #[arg(long, default_value = "iid")]
    split: Split,
    /// What to train beside the federation, for comparison
    #[arg(long, value_enum, default_value = "all", default_missing_value = "all", num_args = 0..=1, require_equals = true)]
    baseline: Baseline,
    /// Keep every file (CA, logs, states) in this new folder
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Print one JSON document at the end, and nothing else on standard output
    #[arg(long)]
    json: bool,
}

/// What is trained beside the federation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Baseline {
    /// One process with all records, and each site alone
    All,
    /// One process with all records
    Pooled,
    /// Nothing
    None,
}

/// Runs the demonstration.
///
/// # Errors
/// Data or programs are missing, a process fails, or the person stops it.
pub(super) fn run(args: &DemoArgs) -> anyhow::Result<()> {
    let data = absolute_data(&args.data)?;
    let programs = Programs::in_folder(own_folder()?.as_path());
    programs.check(true)?;
    let stop = stop_flag()?;
    let folder = Folder::new(args.keep.as_deref())?;

    let sites = study::sites(args, &data)?;
    let screen = watch::Screen::new(args.json);
    screen.say(&format!(
        "{} hospitals, MNIST dealt {} (seed {}); files in {}",
        args.sites,
        args.split,
        args.seed,
        folder.path.display()
    ));
    let mut federation =
        Federation::create(&folder.path.join("consortium"), programs, sites, Policy::Within)?;
    federation.start()?;
    screen.say("certificates issued, coordinator and agents run");
    federation.run_study(study::STUDY, &study::draft(args))?;

    let outcome = watch::until_complete(&mut federation, args, &screen, &stop)?;
    federation.stop()?;
    let baselines = baseline::train(&federation, args, &data, &screen, &stop)?;
    report::print(args, &outcome, &baselines)
}

fn absolute_data(data: &Path) -> anyhow::Result<PathBuf> {
    let found = data.canonicalize();
    let path = found.with_context(|| {
        format!("the data folder {} (cargo xtask demo fetches MNIST by itself)", data.display())
    })?;
    for name in [
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    ] {
        let there = path.join(name).is_file() || path.join(format!("{name}.gz")).is_file();
        ensure!(there, "{} has neither {name} nor {name}.gz", path.display());
    }
    Ok(path)
}

fn own_folder() -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("finding this program's folder")?;
    Ok(own.parent().map(Path::to_owned).unwrap_or_default())
}

/// Where the consortium lives: kept if asked, else gone at the end.
struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    fn new(keep: Option<&Path>) -> anyhow::Result<Self> {
        let (path, temporary) = match keep {
            Some(path) => (path.to_owned(), false),
            None => {
                let name = format!("consilium-demo-{}", std::process::id());
                (std::env::temp_dir().join(name), true)
            }
        };
        if path.exists() {
            bail!("{} exists already: name a new folder", path.display());
        }
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        let path = path.canonicalize()?;
        Ok(Self { path, temporary })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Left-over files in the temporary folder harm nobody.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Set by Ctrl-C and SIGTERM, so that no process outlives the demonstration.
fn stop_flag() -> anyhow::Result<Arc<AtomicBool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let stop = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        runtime.block_on(async move {
            let (Ok(mut interrupt), Ok(mut terminate)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
            else {
                return;
            };
            tokio::select! {
                _ = interrupt.recv() => {}
                _ = terminate.recv() => {}
            }
            flag.store(true, Ordering::SeqCst);
        });
    });
    Ok(stop)
}

/// Fails once the person has asked to stop.
fn go_on(stop: &AtomicBool) -> anyhow::Result<()> {
    ensure!(!stop.load(Ordering::SeqCst), "stopped before the end");
    Ok(())
}
