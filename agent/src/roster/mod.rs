//! The consortium's roster as this site goes by it: who else is in the sums that this site's updates go into.
//! Operators sign it, k of n, with keys that the coordinator does not hold; this site keeps the newest one that
//! it accepted, by rule or by a person's word (`[policy] roster`), and goes back to none before it.
//!
//! ```text
//! STATE/roster/VERSION.toml, VERSION.sig      the roster that this site goes by
//! ```
//!
//! [`judge`] says whether an offered one can follow; here is what is kept. While one waits for a person, plans
//! are declined (`roster-not-accepted`); what is under way goes on.

mod judge;

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use consilium_certs::consortium::Consortium;
use consilium_certs::roster::Roster;
use consilium_certs::signed_file::{self, SignedFileError};
use consilium_common::ids::SiteId;
use consilium_common::signed::{PublicKey, Signed};
use consilium_io::IoError;
use consilium_io::disk::{create_folder, sweep_temporary};
use serde::{Deserialize, Serialize};

pub use judge::{Change, Doubt};

/// The folder in the state folder.
pub const ROSTER: &str = "roster";

/// Why the roster at this site cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeptRosterError {
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// A file is not what was written, or cannot be written.
    #[error(
        "{error}. This site's memory of the roster is damaged, or of another consortium. If you move the folder \
         {} away, the site takes the coordinator's next roster as its first", folder.display()
    )]
    File {
        /// What is wrong.
        #[source]
        error: SignedFileError,
        /// Where it lies.
        folder: PathBuf,
    },
    /// Too few operators signed what is kept, or it is another consortium's.
    #[error("{}: {why}. Was this state folder another consortium's?", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: consilium_certs::roster::RosterError,
    },
    /// What a person accepts does not wait.
    #[error(
        "no roster of version {0} waits for a decision: look at `consilium-agent roster show` again"
    )]
    NotWaiting(u64),
}

/// A roster with its signed bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// As it was signed.
    pub signed: Signed<Roster>,
    /// Read from there.
    pub roster: Roster,
}

/// The roster that this site goes by, and the one that waits.
#[derive(Debug)]
pub struct Rosters {
    folder: PathBuf,
    consortium: Consortium,
    known: Mutex<Known>,
    /// Held while files are written, so that an older roster never replaces a newer one.
    files: Mutex<()>,
}

#[derive(Debug, Clone, Default)]
struct Known {
    accepted: Option<Kept>,
    offered: Option<Kept>,
}

/// A site of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Its name.
    pub site: SiteId,
    /// Its key.
    pub key: String,
}

/// What people see.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterStatus {
    /// Version of the roster that this site goes by; absent before the first.
    pub version: Option<u64>,
    /// Its sites.
    pub sites: Vec<Member>,
    /// The next one, if it waits for a person here.
    pub waiting: Option<Waiting>,
}

/// A roster that waits for a person.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiting {
    /// Its version.
    pub version: u64,
    /// What it changes.
    pub change: Change,
}

impl Rosters {
    /// Reads what is kept in `state`. Blocks.
    ///
    /// # Errors
    /// A file is not what was written or not signed by enough operators of `consortium`, or the disk refused.
    pub fn open(state: &Path, consortium: Consortium) -> Result<Self, KeptRosterError> {
        let folder = state.join(ROSTER);
        create_folder(&folder)?;
        sweep_temporary(&folder)?;
        let known = Known { accepted: newest(&folder, &consortium)?, offered: None };
        Ok(Self { folder, consortium, known: Mutex::new(known), files: Mutex::default() })
    }

    /// Takes a roster that the coordinator offers; it waits from now on, until it is accepted. `None` if the
    /// site goes by it already.
    ///
    /// # Errors
    /// [`Doubt`]: it cannot follow the one that is kept.
    pub fn offer(&self, signed: Signed<Roster>) -> Result<Option<Kept>, Doubt> {
        let mut known = self.known();
        let before = known.accepted.as_ref();
        let roster = judge::judge(before, &signed, &self.consortium)?;
        if before.is_some_and(|kept| kept.roster.version() == roster.version()) {
            known.offered = None;
            return Ok(None);
        }
        let kept = Kept { signed, roster };
        known.offered = Some(kept.clone());
        Ok(Some(kept))
    }

    /// The roster that waits, if its version is this one.
    ///
    /// # Errors
    /// [`KeptRosterError::NotWaiting`].
    pub fn waiting(&self, version: u64) -> Result<(Kept, Change), KeptRosterError> {
        let known = self.known();
        let waits = known.offered.as_ref().filter(|kept| kept.roster.version() == version);
        let kept = waits.ok_or(KeptRosterError::NotWaiting(version))?.clone();
        let change =
            Change::between(known.accepted.as_ref().map(|kept| &kept.roster), &kept.roster);
        Ok((kept, change))
    }

    /// Goes by this roster from now on; durable when it returns. Blocks. Say so in the ledger first.
    ///
    /// # Errors
    /// The disk refused.
    pub fn accept(&self, kept: Kept) -> Result<(), KeptRosterError> {
        let _one_at_a_time = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        let version = kept.roster.version();
        let known = self.known().accepted.as_ref().map(|kept| kept.roster.version());
        if known.is_some_and(|known| known >= version) {
            return Ok(());
        }
        let error = |error| KeptRosterError::File { error, folder: self.folder.clone() };
        signed_file::store(&path_of(&self.folder, version), &kept.signed).map_err(error)?;
        if let Some(older) = known {
            // The newest is read at a start: one that stays takes room and no more.
            remove(&path_of(&self.folder, older));
        }
        let mut known = self.known();
        known.offered = known.offered.take().filter(|offered| offered.roster.version() > version);
        known.accepted = Some(kept);
        Ok(())
    }

    /// Why plans wait where a person accepts rosters; none if the newest one is accepted.
    #[must_use]
    pub fn why_plans_wait(&self) -> Option<String> {
        let known = self.known();
        let what = match (&known.offered, &known.accepted) {
            (Some(offered), _) => {
                let version = offered.roster.version();
                format!(
                    "roster version {version} waits for a person: look at it with `consilium-agent roster \
                     show`, then `consilium-agent roster accept {version} --by PERSON --reason TEXT`"
                )
            }
            (None, None) => "the coordinator has shown no roster yet".to_owned(),
            (None, Some(_)) => return None,
        };
        Some(format!("{what} (`roster = \"manual\"` in [policy] of agent.toml)"))
    }

    /// How things stand.
    #[must_use]
    pub fn status(&self) -> RosterStatus {
        let Known { accepted, offered } = &*self.known();
        let accepted = accepted.as_ref().map(|kept| &kept.roster);
        let member = |(site, key): (&SiteId, &PublicKey)| Member {
            site: site.clone(),
            key: key.to_string(),
        };
        RosterStatus {
            version: accepted.map(Roster::version),
            sites: accepted.into_iter().flat_map(Roster::sites).map(member).collect(),
            waiting: offered.as_ref().map(|kept| Waiting {
                version: kept.roster.version(),
                change: Change::between(accepted, &kept.roster),
            }),
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path_of(folder: &Path, version: u64) -> PathBuf {
    folder.join(format!("{version:06}.toml"))
}

fn remove(document: &Path) {
    for path in [document.to_owned(), signed_file::sig_path(document)] {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                tracing::warn!(file = %path.display(), %error, "an older roster stays");
            }
            _ => {}
        }
    }
}

/// The newest roster of the folder. One whose signatures a kill kept from being written was not accepted yet.
fn newest(folder: &Path, consortium: &Consortium) -> Result<Option<Kept>, KeptRosterError> {
    let error = |error| KeptRosterError::File { error, folder: folder.to_owned() };
    let mut newest: Option<Kept> = None;
    let read = |source| IoError::at("read the folder", folder)(source);
    for entry in folder.read_dir().map_err(read)? {
        let path = entry.map_err(read)?.path();
        let is_document = path.extension().is_some_and(|extension| extension == "toml");
        if !is_document || !signed_file::sig_path(&path).exists() {
            continue;
        }
        let signed: Signed<Roster> = signed_file::load(&path).map_err(error)?;
        let roster = Roster::verified(&signed, consortium)
            .map_err(|why| KeptRosterError::Refused { path: path.clone(), why })?;
        if newest.as_ref().is_none_or(|kept| kept.roster.version() < roster.version()) {
            newest = Some(Kept { signed, roster });
        }
    }
    Ok(newest)
}

#[cfg(test)]
mod tests;
