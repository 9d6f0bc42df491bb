//! `consilium audit`: take the log away, check it offline, read it.

mod export;
mod fetch;
mod show;
mod verify;

use std::path::{Path, PathBuf};

use clap::Subcommand;
use consilium_certs::consortium::{CONSORTIUM_FILE, Consortium};

use super::Failure;
use crate::audit::Folder;

/// A checkpoint's file: three lines and a few signatures.
const CHECKPOINT_BYTES_MAX: usize = 16 << 10;

/// `consilium audit …`
#[derive(Debug, Subcommand)]
pub(super) enum AuditCommand {
    /// Take the log, up to a signed checkpoint, to a folder.
    Export(export::ExportArgs),
    /// Check an export: bytes, signatures, and whether its records tell one story.
    Verify(verify::VerifyArgs),
    /// The records of an export, in words.
    Show(show::ShowArgs),
}

pub(super) fn run(command: AuditCommand) -> Result<(), Failure> {
    match command {
        AuditCommand::Export(args) => export::run(&args),
        AuditCommand::Verify(args) => verify::run(&args),
        AuditCommand::Show(args) => show::run(&args),
    }
}

/// The export in a folder, which must be there.
fn export_at(path: &Path) -> Result<Folder, Failure> {
    if path.is_dir() {
        return Ok(Folder::at(path));
    }
    Err(Failure::failed(format!("{} is no export: there is no such folder", path.display())))
}

/// What is pinned, from a file or from the bundle of whoever asks.
fn pinned(file: Option<&Path>, bundle: Option<&Path>) -> Result<(Consortium, PathBuf), Failure> {
    let in_bundle = bundle.map(|bundle| bundle.join(CONSORTIUM_FILE));
    let path = match (file, in_bundle) {
        (Some(file), _) => file.to_owned(),
        (None, Some(path)) if path.is_file() => path,
        (None, path) => {
            let looked = path.map(|path| format!(" ({} is not there)", path.display()));
            return Err(Failure::usage(format!(
                "--consortium FILE is needed{}: the consortium.toml that you trust, from the bundle of an \
                 auditor or a site",
                looked.unwrap_or_default()
            )));
        }
    };
    let consortium = Consortium::load(&path).map_err(Failure::failed)?;
    consortium.require_operators().map_err(Failure::failed)?;
    Ok((consortium, path))
}
