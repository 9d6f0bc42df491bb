//! What a person approved of a study's data: the prints of its files, and how many records they held.
//!
//! `STUDY.pin` is JSON and names `DIGEST.files`, the prints (`consilium_common::worker::prints`). Both are 0600
//! and read anew for each task, so a pin that is set while the daemon runs holds from the next task on.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use consilium_common::ids::{Digest, StudyId};
use consilium_common::time::WallMillis;
use consilium_common::worker::prints::{PRINTS_BYTES_MAX, Prints};
use consilium_io::IoError;
use consilium_io::disk::{create_folder, read_file, replace_private};
use serde::{Deserialize, Serialize};

use super::{PINS, StateError};

const FORMAT: u16 = 1;
const PIN_BYTES_MAX: usize = 64 << 10;

/// What was approved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pin {
    format: u16,
    /// Which study.
    pub study: StudyId,
    /// When.
    pub at: WallMillis,
    /// By whom, by their own word.
    pub by: String,
    /// Records to train on, then.
    pub examples: u64,
    /// Records held out, then.
    pub holdout: u64,
    /// Files, those of excluded patients among them.
    pub files: u64,
    /// Which prints.
    pub prints: Digest,
}

/// Pins the prints of a study's files.
///
/// # Errors
/// The disk refused.
pub fn set(
    state: &Path,
    (study, by): (&StudyId, &str),
    (examples, holdout): (u64, u64),
    prints: &Prints,
    at: WallMillis,
) -> Result<Pin, StateError> {
    let folder = state.join(PINS);
    create_folder(&folder)?;
    let before = read(state, study).ok().flatten().map(|(pin, _)| pin.prints);
    let bytes = prints.to_bytes();
    let digest = Digest::of(&bytes);
    replace_private(&prints_path(&folder, digest), &bytes)?;
    let pin = Pin {
        format: FORMAT,
        study: study.clone(),
        at,
        by: by.to_owned(),
        examples,
        holdout,
        files: prints.0.len() as u64,
        prints: digest,
    };
    let path = pin_path(&folder, study);
    let text = serde_json::to_vec(&pin).map_err(|error| StateError::Unwritable {
        path: path.clone(),
        reason: error.to_string(),
    })?;
    replace_private(&path, &text)?;
    if let Some(before) = before.filter(|before| *before != digest) {
        let old = prints_path(&folder, before);
        match fs::remove_file(&old) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            removed => removed.map_err(IoError::at("remove", &old))?,
        }
    }
    Ok(pin)
}

/// A study's pin, if there is one.
///
/// # Errors
/// A file is not what was written.
pub fn read(state: &Path, study: &StudyId) -> Result<Option<(Pin, Prints)>, StateError> {
    let folder = state.join(PINS);
    let path = pin_path(&folder, study);
    if !path.exists() {
        return Ok(None);
    }
    let text = read_file(&path, PIN_BYTES_MAX).map_err(|error| damaged(&path, error))?;
    let pin: Pin = serde_json::from_slice(&text).map_err(|error| damaged(&path, error))?;
    let path = prints_path(&folder, pin.prints);
    let most = usize::try_from(PRINTS_BYTES_MAX).unwrap_or(usize::MAX);
    let bytes = read_file(&path, most).map_err(|error| damaged(&path, error))?;
    if Digest::of(&bytes) != pin.prints {
        return Err(damaged(&path, "it does not have the digest of its name"));
    }
    let prints = Prints::read(&bytes).map_err(|error| damaged(&path, error))?;
    Ok(Some((pin, prints)))
}

fn pin_path(folder: &Path, study: &StudyId) -> PathBuf {
    folder.join(format!("{study}.pin"))
}

fn prints_path(folder: &Path, digest: Digest) -> PathBuf {
    folder.join(format!("{digest}.files"))
}

fn damaged(path: &Path, reason: impl std::fmt::Display) -> StateError {
    StateError::Damaged { path: path.to_owned(), reason: reason.to_string() }
}
