//! The tensor library. `deploy/libtorch.sh` puts the pinned one into `.libtorch`, where
//! `.cargo/config.toml` points; who has their own exports `LIBTORCH` and keeps it.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};
use clap::Args;

use crate::shell;
use crate::workspace::Workspace;

/// Options of `cargo xtask libtorch`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Add the CUDA libraries (2.5 GB in all); the programs stay the same
    #[arg(long)]
    cuda: bool,
    /// Set it up again although it is there
    #[arg(long)]
    force: bool,
}

/// See [`ensure`]; with the user's options.
///
/// # Errors
/// As [`ensure`].
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    if let Some(folder) = exported(workspace) {
        if options.cuda || options.force {
            bail!(
                "LIBTORCH={} is exported and used as it is: unset it for --cuda or --force",
                folder.display()
            );
        }
        return check(&folder);
    }
    let mut script = Command::new(workspace.root().join("deploy/libtorch.sh"));
    script.args(options.cuda.then_some("--cuda")).args(options.force.then_some("--force"));
    shell::run(&mut script)
}

/// Make sure that there is a libtorch to build against. Quick when it is there already.
///
/// # Errors
/// When it cannot be fetched, or the exported one has no CPU library.
pub(crate) fn ensure(workspace: &Workspace) -> Result<()> {
    run(workspace, &Options { cuda: false, force: false })
}

/// The folder of the libtorch in use, which holds `lib/`.
pub(crate) fn folder(workspace: &Workspace) -> PathBuf {
    exported(workspace).unwrap_or_else(|| own(workspace))
}

fn own(workspace: &Workspace) -> PathBuf {
    workspace.root().join(".libtorch/torch")
}

/// What the user exported. Cargo sets `LIBTORCH` to our own folder for whatever it runs, this
/// tool included, where the user has not: that one does not count.
fn exported(workspace: &Workspace) -> Option<PathBuf> {
    let folder = PathBuf::from(env::var_os("LIBTORCH").filter(|value| !value.is_empty())?);
    (folder != own(workspace)).then_some(folder)
}

fn check(folder: &Path) -> Result<()> {
    let library = folder.join("lib/libtorch_cpu.so");
    if !library.is_file() {
        bail!(
            "LIBTORCH={} is exported, but {} is not there: point it at a libtorch, or unset it \
             and let xtask fetch one",
            folder.display(),
            library.display()
        );
    }
    eprintln!("libtorch: using the exported LIBTORCH={}", folder.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exported_folder_without_the_library_is_refused_by_name() {
        let error = check(Path::new("/nowhere")).unwrap_err().to_string();
        assert!(error.contains("/nowhere/lib/libtorch_cpu.so is not there"), "{error}");
    }
}
