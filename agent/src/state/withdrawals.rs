//! Withdrawals that wait for the coordinator's word that its log has them: a file each, `ID.withdrawal`, JSON,
//! 0600, synced before anything is sent. None of them says whose records they are about.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use consilium_common::audit::withdrawal::{Remedy, VersionRange};
use consilium_common::ids::{Digest, StudyId};
use consilium_common::wire::messages::Withdrawal;
use consilium_io::IoError;
use consilium_io::disk::{read_file, replace_private};
use serde::{Deserialize, Serialize};

use super::{StateError, entries};

const EXTENSION: &str = "withdrawal";
/// As many ranges as a message may have.
const BYTES_MAX: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    id: Digest,
    study: StudyId,
    versions: Vec<VersionRange>,
    remedy: Remedy,
    /// BLAKE3 over the rest.
    check: Digest,
}

fn checked(of: &Withdrawal) -> Result<Digest, serde_json::Error> {
    let Withdrawal { id, study, versions, remedy } = of;
    Ok(Digest::of(&serde_json::to_vec(&(id, study, versions, remedy))?))
}

/// The folder.
#[derive(Debug)]
pub struct WithdrawalsFolder {
    folder: PathBuf,
    waiting: BTreeMap<Digest, Withdrawal>,
}

impl WithdrawalsFolder {
    /// Reads what waits. A report that cannot be read stops the start: a patient's wish is not set aside.
    pub(super) fn load(folder: &Path) -> Result<Self, StateError> {
        let mut waiting = BTreeMap::new();
        for path in entries(folder)? {
            let withdrawal = read(&path).map_err(|why| StateError::Damaged {
                path: path.clone(),
                reason: format!(
                    "{why}. The ledger has what was reported (`consilium-agent ledger show`): move the file away, \
                     and report it again with `consilium-agent data withdraw`"
                ),
            })?;
            waiting.insert(withdrawal.id, withdrawal);
        }
        Ok(Self { folder: folder.to_owned(), waiting })
    }

    /// All that wait.
    pub fn iter(&self) -> impl Iterator<Item = &Withdrawal> {
        self.waiting.values()
    }

    /// Keeps one: synced when this returns.
    ///
    /// # Errors
    /// The disk refused.
    pub fn keep(&mut self, withdrawal: Withdrawal) -> Result<(), StateError> {
        let path = self.path_of(withdrawal.id);
        let Withdrawal { id, study, versions, remedy } = withdrawal.clone();
        let file = checked(&withdrawal).map(|check| File { id, study, versions, remedy, check });
        let bytes = file.and_then(|file| serde_json::to_vec(&file)).map_err(|error| {
            StateError::Unwritable { path: path.clone(), reason: error.to_string() }
        })?;
        replace_private(&path, &bytes)?;
        self.waiting.insert(id, withdrawal);
        Ok(())
    }

    /// The coordinator's log has it. Not synced: one that a power cut brings back is said again, and known.
    ///
    /// # Errors
    /// The file cannot be removed.
    pub fn erase(&mut self, id: Digest) -> Result<(), StateError> {
        self.waiting.remove(&id);
        let path = self.path_of(id);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
            removed => Ok(removed.map_err(IoError::at("remove", &path))?),
        }
    }

    fn path_of(&self, id: Digest) -> PathBuf {
        self.folder.join(format!("{id}.{EXTENSION}"))
    }
}

fn read(path: &Path) -> Result<Withdrawal, String> {
    let bytes = read_file(path, BYTES_MAX).map_err(|error| error.to_string())?;
    let File { id, study, versions, remedy, check } =
        serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if path.file_name().is_none_or(|name| *name != *format!("{id}.{EXTENSION}")) {
        return Err("it is another report than its name says".to_owned());
    }
    let withdrawal = Withdrawal { id, study, versions, remedy };
    if checked(&withdrawal).ok() != Some(check) {
        return Err("it is not what was written".to_owned());
    }
    Ok(withdrawal)
}
