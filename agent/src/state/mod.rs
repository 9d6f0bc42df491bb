//! What the agent must not lose, in one folder that one process owns.
//!
//! ```text
//! STATE/lock          one process a folder
//! STATE/identity/     the site's keys and certificate (`consilium-agent enroll`)
//! STATE/studies/      studies with their signatures, and what a person decided     → studies.rs
//! STATE/retained/     updates that no roll call has closed yet, synced             → retained.rs
//! STATE/local/        each study's current local state, which never leaves          → local.rs
//! STATE/patients/      whose records each round used, as keyed hashes                → patients.rs
//! STATE/pins/          what a person approved of each study's data                   → pins.rs
//! STATE/withdrawals/   what the coordinator's log does not have yet               → withdrawals.rs
//! STATE/ledger/       the site's own record of what left, and why                    → crate::ledger
//! STATE/witness/      the head of the coordinator's log that this site has seen      → crate::witness
//! STATE/roster/       who belongs to the consortium, as this site accepted it        → crate::roster
//! STATE/cache/        base models by digest; may be lost, verified before use      → cache.rs
//! STATE/tasks/        private folders of running workers; swept at start
//! STATE/set-aside/    files that could not be read: nothing is deleted unread
//! STATE/control.sock  the daemon's ear while it runs
//! ```
//!
//! All functions block; async callers wrap them in `spawn_blocking`.

pub mod cache;
pub mod error;
pub mod local;
pub mod patients;
pub mod pins;
pub mod retained;
pub mod studies;
mod trailer;
pub mod withdrawals;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use consilium_common::ids::StudyId;
use consilium_io::IoError;
use consilium_io::disk::{StateLock, create_folder, sweep_temporary, sync_folder};

use crate::ledger::LEDGER;

pub use cache::{Cache, look_for_preparation};
pub use error::StateError;
pub use local::{LocalFolder, LocalState};
pub use patients::{PatientsFolder, RoundUse};
pub use retained::{Record, RetainedFolder};
pub use studies::{KeptStudy, Studies};
pub use withdrawals::WithdrawalsFolder;

/// The daemon's socket.
pub const CONTROL_SOCKET: &str = "control.sock";
const STUDIES: &str = "studies";
const RETAINED: &str = "retained";
const LOCAL: &str = "local";
const PATIENTS: &str = "patients";
const PINS: &str = "pins";
const WITHDRAWALS: &str = "withdrawals";
const CACHE: &str = "cache";
const TASKS: &str = "tasks";
const SET_ASIDE: &str = "set-aside";

/// The state folder, held by this process until dropped.
#[derive(Debug)]
pub struct StateFolder {
    folder: PathBuf,
    /// Known studies.
    pub studies: Studies,
    /// Updates that must not be lost.
    pub retained: RetainedFolder,
    /// Local states of the last updates that counted.
    pub local: LocalFolder,
    /// Whose records each round used.
    pub patients: PatientsFolder,
    /// Withdrawals that the coordinator's log does not have yet.
    pub withdrawals: WithdrawalsFolder,
    /// Base models.
    pub cache: Cache,
    _lock: StateLock,
}

impl StateFolder {
    /// Takes the folder, creates what is missing, sweeps what a killed process left, and reads the
    /// rest. Files that cannot be read are moved to `set-aside/` with a warning.
    ///
    /// # Errors
    /// Another process holds it, a file is of a newer release, or the disk refused.
    pub fn open(folder: &Path) -> Result<Self, StateError> {
        create_folder(folder)?;
        let lock = StateLock::acquire(folder)?;
        for name in [STUDIES, RETAINED, LOCAL, PATIENTS, WITHDRAWALS, TASKS, SET_ASIDE] {
            create_folder(&folder.join(name))?;
        }
        for name in [STUDIES, RETAINED, LOCAL, PATIENTS, WITHDRAWALS] {
            sweep_temporary(&folder.join(name))?;
        }
        sweep_tasks(&folder.join(TASKS))?;
        let aside = SetAside::new(folder);
        Ok(Self {
            studies: Studies::load(&folder.join(STUDIES), &aside)?,
            retained: RetainedFolder::load(&folder.join(RETAINED), &aside)?,
            local: LocalFolder::load(&folder.join(LOCAL), &aside)?,
            patients: PatientsFolder::load(&folder.join(PATIENTS))?,
            withdrawals: WithdrawalsFolder::load(&folder.join(WITHDRAWALS))?,
            cache: Cache::open(&folder.join(CACHE))?,
            folder: folder.to_owned(),
            _lock: lock,
        })
    }

    /// The folder itself.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where workers' private folders go.
    #[must_use]
    pub fn tasks(&self) -> PathBuf {
        self.folder.join(TASKS)
    }

    /// Where the ledger lies.
    #[must_use]
    pub fn ledger(&self) -> PathBuf {
        self.folder.join(LEDGER)
    }

    /// Where the daemon listens.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.folder.join(CONTROL_SOCKET)
    }
}

/// The studies of a folder that another process may hold: a look without a lock. What cannot be
/// read is left where it is.
///
/// # Errors
/// The folder cannot be read.
pub fn look_at_studies(folder: &Path) -> Result<Studies, StateError> {
    let studies = folder.join(STUDIES);
    if !studies.is_dir() {
        return Ok(Studies::none(&studies));
    }
    Studies::load(&studies, &SetAside::leave_in_place())
}

/// The current local state of a study, with its file, in a folder that another process may hold; copy
/// it with [`local::copy`].
///
/// # Errors
/// The file is not what was written, is of a newer release, or cannot be read.
pub fn look_at_local(
    folder: &Path,
    study: &StudyId,
) -> Result<Option<(PathBuf, LocalState)>, StateError> {
    let path = folder.join(LOCAL).join(local::file_name(study));
    if !path.exists() {
        return Ok(None);
    }
    local::read(&path).map(|state| Some((path, state)))
}

/// Whose records each round used, from a folder that another process may hold.
///
/// # Errors
/// A file is not what was written, is of a newer release, or cannot be read.
pub fn look_at_patients(folder: &Path) -> Result<PatientsFolder, StateError> {
    PatientsFolder::look(&folder.join(PATIENTS))
}

/// A worker's folder outlives only a killed daemon: its content can be made again.
fn sweep_tasks(tasks: &Path) -> Result<(), StateError> {
    for path in entries(tasks)? {
        let removed =
            if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(IoError::at("remove", &path))?;
    }
    Ok(())
}

/// What a folder holds, in the order of names.
fn entries(folder: &Path) -> Result<Vec<PathBuf>, IoError> {
    let error = || IoError::at("read the folder", folder);
    let mut paths = Vec::new();
    for entry in folder.read_dir().map_err(error())? {
        paths.push(entry.map_err(error())?.path());
    }
    paths.sort();
    Ok(paths)
}

/// Moves files that cannot be read out of the way, so that a person can look at them.
#[derive(Debug, Clone)]
pub(crate) struct SetAside(Option<PathBuf>);

impl SetAside {
    fn new(state: &Path) -> Self {
        Self(Some(state.join(SET_ASIDE)))
    }

    /// For readers that do not own the folder.
    fn leave_in_place() -> Self {
        Self(None)
    }

    /// Moves `path` and says why.
    fn take(&self, path: &Path, why: &dyn std::fmt::Display) -> Result<(), StateError> {
        let Some(folder) = &self.0 else {
            tracing::warn!(file = %path.display(), %why, "passed over: it cannot be read");
            return Ok(());
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let to = (0_u32..)
            .map(|n| folder.join(format!("{name}.{n}")))
            .find(|to| !to.exists())
            .unwrap_or_else(|| folder.join(&*name));
        match fs::rename(path, &to) {
            Err(source) if source.kind() == ErrorKind::NotFound => return Ok(()),
            moved => moved.map_err(IoError::at("set aside", path))?,
        }
        sync_folder(folder)?;
        tracing::warn!(
            file = %path.display(), moved_to = %to.display(), %why,
            "set aside: it cannot be read"
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests;
