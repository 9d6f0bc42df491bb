//! The one shape of a disk error: what was attempted, on which path, and what the system said.

use std::io;
use std::path::{Path, PathBuf};

/// A system call on a path failed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}: {source}", path.display())]
pub struct IoError {
    /// What was attempted, as a verb: `open`, `rename`, `sync`.
    pub op: &'static str,
    /// On which file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

impl IoError {
    /// For `map_err`: adds the operation and the path to a system error.
    pub fn at(op: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { op, path: path.to_owned(), source }
    }
}
