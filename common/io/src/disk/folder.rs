//! Folders: a file's name lasts only once its folder is synced.

use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use crate::error::IoError;

/// Makes the names in `folder` last (fsync of the folder).
///
/// # Errors
/// The folder cannot be opened or synced.
pub fn sync_folder(folder: &Path) -> Result<(), IoError> {
    let handle = File::open(folder).map_err(IoError::at("open the folder", folder))?;
    handle.sync_all().map_err(IoError::at("sync the folder", folder))
}

/// Creates `folder` and its missing parents, readable by the owner only (0700), and makes them
/// last. A folder that exists keeps its mode.
///
/// # Errors
/// The folder cannot be created, or its parent cannot be synced.
pub fn create_folder(folder: &Path) -> Result<(), IoError> {
    if folder.is_dir() {
        return Ok(());
    }
    let parent = parent_of(folder);
    if !parent.exists() {
        create_folder(parent)?;
    }
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if folder.is_dir() => {
            tracing::debug!(folder = %folder.display(), %source, "created by another thread");
        }
        result => result.map_err(IoError::at("create the folder", folder))?,
    }
    sync_folder(parent)
}

/// The folder that holds `path`; `.` for a bare name.
pub(super) fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}
