//! Every test, from nothing: what CI runs.

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Result;
use clap::Args;

use crate::workspace::{BENCHES, WORKER, Workspace};
use crate::{data, libtorch, shell};

/// Options of `cargo xtask test`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  cargo xtask test --without-torch\n  cargo xtask test -E \
                        'test(late)'\n\nTests on real data read ../shared/data, or \
                        $CONSILIUM_DATA, and say that they skip where there is none.")]
pub(crate) struct Options {
    /// Leave consilium-worker, real training and the benchmarks out: no libtorch, no MNIST, minutes
    /// less
    #[arg(long)]
    pub(crate) without_torch: bool,
    /// Passed to `cargo nextest run` as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "NEXTEST")]
    pub(crate) arguments: Vec<String>,
}

/// Fetch what the tests need, build the programs and the tests as one unit (the end-to-end tests
/// start the programs), then run documentation tests and tests, whose closing line comes last.
///
/// # Errors
/// When a step or a test fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let runner = Runner::find(workspace);
    if !options.without_torch {
        libtorch::ensure(workspace)?;
        data::run(workspace)?;
    }
    say_real_data(workspace.root());

    // The same packages and features for every step: cargo then builds each crate once.
    let selection = selection(workspace, options.without_torch);
    let lean = lean(workspace);
    let build = &["build", "--bins", "--tests"];
    shell::run(workspace.cargo(build).args(&selection).envs(lean.clone()))?;
    let doctest = &["test", "--doc", "--quiet"];
    shell::run(workspace.cargo(doctest).args(&selection).envs(lean.clone()))?;
    let runner: &[&str] = match runner {
        Runner::Nextest => &["nextest", "run"],
        Runner::CargoTest => &["test", "--no-fail-fast", "--lib", "--bins", "--tests"],
    };
    let mut tests = workspace.cargo(runner);
    tests.envs(lean);
    if env::var_os(TEST_THREADS).is_none() {
        tests.env(TEST_THREADS, tests_at_once().to_string());
    }
    shell::run(tests.args(&selection).args(&options.arguments))
}

/// Where nobody has built the workspace for work on it, nothing is built for that: incremental files
/// and line tables are a quarter of a cold build. Where somebody has, the same artifacts serve.
fn lean(workspace: &Workspace) -> BTreeMap<&'static str, &'static str> {
    let incremental = workspace.binaries("debug").join("incremental");
    let mut entries = incremental.read_dir().into_iter().flatten().flatten();
    let is_ours = |name: &str| name.starts_with("consilium_");
    if entries.any(|entry| entry.file_name().to_str().is_some_and(is_ours)) {
        return BTreeMap::new();
    }
    let off = |name| (env::var_os(name).is_none()).then_some((name, "0"));
    let names = ["CARGO_INCREMENTAL", "CARGO_PROFILE_DEV_DEBUG", "CARGO_PROFILE_TEST_DEBUG"];
    names.into_iter().filter_map(off).collect()
}

/// nextest's own variable; `--test-threads` among the arguments wins over it.
const TEST_THREADS: &str = "NEXTEST_TEST_THREADS";

/// Three tests a core: the long ones mostly wait for a reconnect or an idle timeout.
fn tests_at_once() -> usize {
    3 * thread::available_parallelism().map_or(1, usize::from)
}

/// The workspace, with the kill tests' code in the programs.
fn selection(workspace: &Workspace, without_torch: bool) -> Vec<String> {
    let mut selection = vec!["--workspace".to_owned()];
    if without_torch {
        for package in [WORKER, BENCHES] {
            selection.extend(["--exclude".to_owned(), package.to_owned()]);
        }
    }
    let features = workspace.failpoints();
    if !features.is_empty() {
        selection.extend(["--features".to_owned(), features.join(",")]);
    }
    selection
}

enum Runner {
    Nextest,
    CargoTest,
}

impl Runner {
    /// nextest, installed if need be; where that cannot be had, cargo's own runner.
    fn find(workspace: &Workspace) -> Self {
        let there = || shell::works(&mut workspace.cargo(&["nextest", "--version"]));
        if there() {
            return Self::Nextest;
        }
        let mut install = workspace.cargo(&["install", "cargo-nextest", "--locked"]);
        if shell::run(&mut install).is_ok() && there() {
            return Self::Nextest;
        }
        eprintln!(
            "test: cargo-nextest cannot be installed here: using `cargo test`, which is slower"
        );
        Self::CargoTest
    }
}

fn say_real_data(root: &Path) {
    let folder =
        env::var_os("CONSILIUM_DATA").map_or_else(|| root.join("../shared/data"), PathBuf::from);
    if folder.is_dir() {
        eprintln!("test: real data from {}", folder.display());
    } else {
        eprintln!("test: no real data at {}: the tests on it skip", folder.display());
    }
}
