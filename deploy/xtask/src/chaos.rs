//! Real programs under kills, freezes, bad networks and bad disks, in release: `tests/src/chaos`.

use anyhow::Result;
use clap::Args;

use crate::shell;
use crate::workspace::Workspace;

/// Options of `cargo xtask chaos`.
#[derive(Debug, Args)]
#[command(
    after_help = "As root it also fills small file systems that it mounts and locks folders; \
                        elsewhere it says that it could not."
)]
pub(crate) struct Options {
    /// Processes to kill
    #[arg(long, default_value_t = 100)]
    kills: u64,
    /// Of the first campaign; each kills 50 processes of one federation, and the next has the next
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Instead, time studies over lines that lose and delay
    #[arg(long)]
    lines: bool,
    /// Print one JSON array of rows {name, value, unit, goal, ok}
    #[arg(long)]
    json: bool,
}

/// Build the programs and strike them.
///
/// # Errors
/// An acknowledged update was lost, a model is not the sum of its roll call, or a study did not get
/// on: the seed is printed.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let programs = ["-p", "consilium-coordinator", "-p", "consilium-agent"];
    shell::run(workspace.cargo(&["build", "--release"]).args(programs))?;
    let program = ["run", "--release", "-p", "consilium-tests", "--bin", "chaos", "--"];
    let mut chaos = workspace.cargo(&program);
    chaos.args(["--kills", &options.kills.to_string(), "--seed", &options.seed.to_string()]);
    chaos.args(options.lines.then_some("--lines"));
    shell::run(chaos.args(options.json.then_some("--json")))
}
