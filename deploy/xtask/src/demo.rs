//! The demo from nothing: fetch, build, and become `consilium demo`.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};
use clap::Args;

use crate::workspace::{PROGRAMS, Workspace};
use crate::{data, libtorch, shell};

/// Options of `cargo xtask demo`: all belong to `consilium demo`.
#[derive(Debug, Args)]
#[command(after_help = "`cargo xtask demo -- --help` lists the demo's own options: --rounds, \
                        --sites, --seed, --split, --baseline, --json, … With --data DIR (four IDX \
                        files) nothing is downloaded but libtorch.")]
pub(crate) struct Options {
    /// Passed to `consilium demo` as they are
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    pub(crate) arguments: Vec<String>,
}

/// Fetch libtorch and MNIST, build the three programs, and turn into the demo: signals and the
/// exit code are the demo's own.
///
/// # Errors
/// When a step fails; a demo that has started speaks for itself.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let own_data = brings_data(&options.arguments);
    libtorch::ensure(workspace)?;
    if !own_data {
        data::run(workspace)?;
    }
    let packages = PROGRAMS.iter().flat_map(|name| ["-p", name]);
    shell::run(workspace.cargo(&["build"]).args(packages))?;

    let program = workspace.binaries("debug").join("consilium");
    let mut demo = Command::new(&program);
    demo.arg("demo");
    if !own_data {
        demo.arg("--data").arg(data::folder(workspace));
    }
    demo.args(&options.arguments);
    shell::say(&demo);
    Err(demo.exec()).with_context(|| format!("cannot start {}", program.display()))
}

/// Whether no MNIST is needed: the user has a folder, or only wants to read the help.
fn brings_data(arguments: &[String]) -> bool {
    arguments.iter().any(|argument| {
        matches!(argument.as_str(), "--data" | "--help" | "-h") || argument.starts_with("--data=")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_data_folder_of_the_users_own_spares_the_download() {
        let brings =
            |words: &[&str]| brings_data(&words.iter().map(|&w| w.into()).collect::<Vec<_>>());
        assert!(brings(&["--rounds", "2", "--data", "/d"]) && brings(&["--data=/d"]));
        assert!(!brings(&["--rounds", "2", "--json"]) && !brings(&["--database"]));
    }
}
