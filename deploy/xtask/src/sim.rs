//! The simulation over many seeds, in release: `tests/src/simulation`.

use anyhow::Result;
use clap::Args;

use crate::shell;
use crate::workspace::Workspace;

/// Options of `cargo xtask sim`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Federations to go through
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed; `--from SEED --seeds 1` replays one
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Print one JSON array of rows {name, value, unit, goal, ok}
    #[arg(long)]
    json: bool,
}

/// Build and run it.
///
/// # Errors
/// A federation broke a promise: its seed and the fewest faults that it takes are printed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let program = ["run", "--release", "-p", "consilium-tests", "--bin", "sim", "--"];
    let mut sim = workspace.cargo(&program);
    sim.args(["--seeds", &options.seeds.to_string(), "--from", &options.from.to_string()]);
    shell::run(sim.args(options.json.then_some("--json")))
}
