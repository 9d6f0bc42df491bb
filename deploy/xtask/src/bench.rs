//! One benchmark suite, in release. A suite is a target of the package `consilium-benches`: a
//! binary drives the product's programs, which are then built first; a bench measures functions.

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::workspace::{BENCHES, WORKER, Workspace};
use crate::{libtorch, shell};

/// Options of `cargo xtask bench`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The suite; without one, the known ones are listed
    suite: Option<String>,
    /// Print one JSON document: rows of {name, value, unit, goal, ok}
    #[arg(long)]
    json: bool,
    /// Passed to the suite as they are
    #[arg(last = true, value_name = "OPTION")]
    arguments: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Binary,
    Bench,
}

/// Suites that train for real, and need the worker.
const TRAINS: [&str; 2] = ["learning", "training"];

/// Build and run the suite.
///
/// # Errors
/// When no suite or an unknown one is named (the known ones are listed), or it fails.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let suites = suites(workspace)?;
    let names: Vec<&str> = suites.iter().map(|&(name, _)| name).collect();
    let Some(wanted) = options.suite.as_deref() else {
        bail!("which suite? {}", names.join(", "));
    };
    let Some(&(name, kind)) = suites.iter().find(|&&(name, _)| name == wanted) else {
        bail!("no suite is called `{wanted}`; there are: {}", names.join(", "));
    };
    let mut suite = match kind {
        Kind::Binary => {
            let mut build = workspace.cargo(&["build", "--release"]);
            build.args(["-p", "consilium-coordinator", "-p", "consilium-agent"]);
            if TRAINS.contains(&name) {
                libtorch::ensure(workspace)?;
                build.args(["-p", WORKER]);
            }
            shell::run(&mut build)?;
            workspace.cargo(&["run", "--release", "-p", BENCHES, "--bin", name, "--"])
        }
        Kind::Bench => workspace.cargo(&["bench", "-p", BENCHES, "--bench", name, "--"]),
    };
    shell::run(suite.args(options.json.then_some("--json")).args(&options.arguments))
}

/// The names of the suites and what they are, in alphabetical order.
fn suites(workspace: &Workspace) -> Result<Vec<(&str, Kind)>> {
    let package = workspace.package(BENCHES).with_context(|| format!("no package {BENCHES}"))?;
    let mut suites: Vec<(&str, Kind)> = Vec::new();
    for target in &package.targets {
        if target.is("bin") {
            suites.push((&target.name, Kind::Binary));
        } else if target.is("bench") {
            suites.push((&target.name, Kind::Bench));
        }
    }
    suites.sort_unstable_by_key(|&(name, _)| name);
    Ok(suites)
}
