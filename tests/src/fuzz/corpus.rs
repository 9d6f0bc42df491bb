//! The committed inputs: what libFuzzer found to reach code that no other input reaches.

use std::fs;
use std::path::{Path, PathBuf};

use super::Target;

/// The folder of all corpora, one folder a target.
#[must_use]
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus")
}

/// The committed inputs of a target, in the order of their names; none if it has no folder.
#[must_use]
pub fn of(target: &Target) -> Vec<Vec<u8>> {
    let Ok(entries) = fs::read_dir(folder().join(target.name)) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// Writes the target's seeds into `folder`, which exists, for a fuzzer to start from.
pub fn write_seeds(target: &Target, folder: &Path) {
    for (number, seed) in (target.seeds)().iter().enumerate() {
        consilium_io::disk::replace(&folder.join(format!("seed-{number}")), seed).unwrap();
    }
}
