//! `cargo xtask`: one word for each thing that a person or CI does with this repository.
//!
//! ```text
//! main ── libtorch   the tensor library into .libtorch        (deploy/libtorch.sh)
//!      ├─ data       MNIST into .data/mnist                   (deploy/mnist.py)
//!      ├─ demo       both, then the programs, then `consilium demo`
//!      ├─ test       both, then the programs, then every test
//!      ├─ lint       formatting, clippy, licences, house rules ── graph (who depends on what)
//!      ├─ sim        federations in simulated time, from seeds
//!      ├─ chaos      real federations under kills, bad networks and bad disks
//!      ├─ fuzz       hostile input under libFuzzer
//!      ├─ bench      one suite of consilium-benches, in release
//!      └─ dist       the tarball that a hospital installs
//!      shell (commands, said before they run) · workspace (what `cargo metadata` knows)
//! ```
//!
//! It does no work of the product itself: it calls cargo, pip, tar and the product's programs, and
//! depends on nothing of the workspace, so that it builds in seconds on a bare machine.

#![forbid(unsafe_code)]
#![expect(clippy::print_stderr, reason = "a command-line tool: what it says is its output")]

mod bench;
mod chaos;
mod data;
mod demo;
mod dist;
mod fuzz;
mod graph;
mod libtorch;
mod lint;
mod shell;
mod sim;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::workspace::Workspace;

/// Build, try, test and pack Consilium. Everything that is missing is fetched, pinned by hash.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Fetch libtorch into .libtorch (540 MB; an exported LIBTORCH is used instead)
    Libtorch(libtorch::Options),
    /// Fetch MNIST into .data/mnist, as the four original IDX files
    Data,
    /// Train MNIST across four hospitals on this machine, from nothing
    Demo(demo::Options),
    /// Run every test, from nothing
    Test(test::Options),
    /// Check formatting, lints, licences, house rules and who depends on what
    Lint,
    /// Run federations in simulated time, with faults, from many seeds
    Sim(sim::Options),
    /// Kill, freeze and cut off the programs of real federations, and judge their logs
    Chaos(chaos::Options),
    /// Fuzz the decoders: hostile input, guided by coverage
    Fuzz(fuzz::Options),
    /// Run a benchmark suite in release
    Bench(bench::Options),
    /// Pack the programs, units, documents and libtorch into dist/
    Dist,
}

fn main() -> ExitCode {
    match run(&Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: &Task) -> Result<()> {
    let workspace = Workspace::load()?;
    match task {
        Task::Libtorch(options) => libtorch::run(&workspace, options),
        Task::Data => data::run(&workspace),
        Task::Demo(options) => demo::run(&workspace, options),
        Task::Test(options) => test::run(&workspace, options),
        Task::Lint => lint::run(&workspace),
        Task::Sim(options) => sim::run(&workspace, options),
        Task::Chaos(options) => chaos::run(&workspace, options),
        Task::Fuzz(options) => fuzz::run(&workspace, options),
        Task::Bench(options) => bench::run(&workspace, options),
        Task::Dist => dist::run(&workspace),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_demos_own_options_pass_through_untouched() {
        let cli = Cli::parse_from(["xtask", "demo", "--rounds", "3", "--data=/d", "--json"]);
        let Task::Demo(options) = cli.task else { panic!("not the demo") };
        assert_eq!(options.arguments, ["--rounds", "3", "--data=/d", "--json"]);
    }

    #[test]
    fn test_takes_its_own_switch_and_leaves_the_rest_to_nextest() {
        let cli = Cli::parse_from(["xtask", "test", "--without-torch", "--no-fail-fast", "late"]);
        let Task::Test(options) = cli.task else { panic!("not the tests") };
        assert!(options.without_torch);
        assert_eq!(options.arguments, ["--no-fail-fast", "late"]);
    }
}
