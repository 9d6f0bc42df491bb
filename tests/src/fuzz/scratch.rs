//! Files of one run, for decoders that read files: in a folder of this thread, in memory where the
//! system has such a place.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A folder in memory on Linux (shm_overview(7)).
const IN_MEMORY: &str = "/dev/shm";

thread_local! {
    static FOLDER: TempDir = tempfile::tempdir_in(IN_MEMORY)
        .or_else(|_| tempfile::tempdir())
        .unwrap();
}

/// A path in the folder.
pub(super) fn path(name: &str) -> PathBuf {
    FOLDER.with(|folder| folder.path().join(name))
}

/// Writes a file that only its owner may read, as secrets are.
pub(super) fn write(name: &str, bytes: &[u8]) -> PathBuf {
    let path = path(name);
    write_at(&path, bytes);
    path
}

/// The same, anywhere.
pub(super) fn write_at(path: &Path, bytes: &[u8]) {
    consilium_io::disk::replace_private(path, bytes).unwrap();
}

/// An empty folder.
pub(super) fn folder(name: &str) -> PathBuf {
    let path = path(name);
    if path.exists() {
        fs::remove_dir_all(&path).unwrap();
    }
    fs::create_dir(&path).unwrap();
    path
}
