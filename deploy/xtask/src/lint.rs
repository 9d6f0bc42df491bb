//! The checks that need no running program. All run even when one fails, so that one look shows
//! everything that is left to do.

use anyhow::{Result, bail};

use crate::workspace::Workspace;
use crate::{graph, libtorch, shell};

/// How a check ended; an error is the third way.
enum Outcome {
    Passed,
    Skipped(&'static str),
}

type Check = fn(&Workspace) -> Result<Outcome>;

const CHECKS: [(&str, Check); 6] = [
    ("rustfmt", rustfmt),
    ("clippy", clippy),
    ("clippy with failpoints", clippy_with_failpoints),
    ("cargo deny", deny),
    ("house rules (tests/tests/tidy.rs)", tidy),
    ("dependency graph", dependencies),
];

/// Run every check and close with a line for each.
///
/// # Errors
/// Names the checks that failed.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut lines = Vec::new();
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        match check(workspace) {
            Ok(Outcome::Passed) => lines.push(format!("passed   {name}")),
            Ok(Outcome::Skipped(why)) => lines.push(format!("skipped  {name}: {why}")),
            Err(error) => {
                lines.push(format!("FAILED   {name}: {error:#}"));
                failed.push(name);
            }
        }
    }
    eprintln!("\n{}", lines.join("\n"));
    if !failed.is_empty() {
        bail!("lint failed: {}", failed.join(", "));
    }
    Ok(())
}

fn rustfmt(workspace: &Workspace) -> Result<Outcome> {
    shell::run(&mut workspace.cargo(&["fmt", "--all", "--check"]))?;
    // The fuzzer is a workspace of its own.
    let fuzzer = ["fmt", "--check", "--manifest-path", "tests/fuzz/Cargo.toml"];
    shell::run(&mut workspace.cargo(&fuzzer))?;
    Ok(Outcome::Passed)
}

fn clippy(workspace: &Workspace) -> Result<Outcome> {
    libtorch::ensure(workspace)?;
    run_clippy(workspace, &[])
}

/// Once more with the kill tests' code: each of the two builds must be clean.
fn clippy_with_failpoints(workspace: &Workspace) -> Result<Outcome> {
    let features = workspace.failpoints();
    if features.is_empty() {
        return Ok(Outcome::Skipped("no crate has the feature"));
    }
    run_clippy(workspace, &["--features", &features.join(",")])
}

fn run_clippy(workspace: &Workspace, features: &[&str]) -> Result<Outcome> {
    let mut clippy = workspace.cargo(&["clippy", "--workspace", "--all-targets"]);
    shell::run(clippy.args(features).args(["--", "-D", "warnings"]))?;
    Ok(Outcome::Passed)
}

fn deny(workspace: &Workspace) -> Result<Outcome> {
    if !shell::works(&mut workspace.cargo(&["deny", "--version"])) {
        return Ok(Outcome::Skipped("not installed: `cargo install cargo-deny --locked`"));
    }
    shell::run(&mut workspace.cargo(&["deny", "check"]))?;
    Ok(Outcome::Passed)
}

fn tidy(workspace: &Workspace) -> Result<Outcome> {
    let test = ["test", "--quiet", "-p", "consilium-tests", "--test", "tidy"];
    shell::run(&mut workspace.cargo(&test))?;
    Ok(Outcome::Passed)
}

fn dependencies(workspace: &Workspace) -> Result<Outcome> {
    for line in graph::prove(&workspace.graph()?)? {
        eprintln!("{line}");
    }
    Ok(Outcome::Passed)
}
