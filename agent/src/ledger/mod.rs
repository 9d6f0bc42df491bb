//! The site's own record of what it accepted, what came in and what left: append-only, hash-chained,
//! signed by the site's key. It answers "what has left this hospital, and who allowed it?" without the
//! coordinator.
//!
//! ```text
//! STATE/ledger/log          the records (`consilium_io::disk::log`), leaves of an RFC 6962 tree
//! STATE/ledger/checkpoint   the tree's head, signed: a second old at most while records come
//! STATE/ledger/mark         a fold of the records before it; a start reads from here on
//! ```
//!
//! What holds:
//! * **Before it leaves.** [`Ledger::record`] returns when the record is synced. A range of an update's
//!   bytes is recorded before its first byte is handed to the connection, an update before it is
//!   offered, a connection before anything is said on it, a study's acceptance before the answer goes.
//!   So whatever dies when: the ledger lacks nothing that left. It may hold what did not leave.
//! * **Fail closed.** A record that cannot be written stops what it stands for, and the next is tried
//!   anew. A damaged ledger stops the start.
//! * **Why.** A range names the record by which its study was accepted; without one that is in force
//!   there is no range.
//! * **Nothing of a patient.** Digests, sizes, counts, names of studies and of those who decided.
//! * Memory is bounded by the studies kept in mind; a start reads what follows the mark.
//!
//! A sync a record costs what a disk's flush costs, and a round has some seven records: nothing beside
//! its training.
//!
//! [`entry`]: the records. `standing`: what they say of each study. `head`: the files beside. `read`:
//! going through a ledger from outside, `verify` and `show`. `export`: one file for an auditor.

pub mod entry;
pub mod error;
pub mod export;
mod head;
pub mod read;
mod standing;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::audit::Checkpoint;
use consilium_common::audit::tree::leaf_hash;
use consilium_common::ids::{Digest, SiteId, StudyId};
use consilium_common::signed::SecretKey;
use consilium_common::time::WallMillis;
use consilium_io::disk::log::{RecordRef, VisitResult};
use consilium_io::disk::{
    Latest, Log, LogError, LogMark, checkpoint, create_folder, sweep_temporary,
};
use consilium_io::failpoints;
use serde::{Deserialize, Serialize};

pub use entry::{Entry, Line};
pub use error::LedgerError;

use entry::StudyStands;
use head::{Head, Mark};

/// The ledger's folder in a state folder.
pub const LEDGER: &str = "ledger";

/// The open ledger. One process writes it: the state folder's lock sees to that.
#[derive(Debug)]
pub struct Ledger(Mutex<Keeper>);

/// How the ledger stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// Records in it.
    pub records: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// Why it cannot be written, if it cannot: nothing is sent meanwhile.
    pub trouble: Option<String>,
}

#[derive(Debug)]
struct Keeper {
    folder: PathBuf,
    origin: String,
    log: Log,
    /// All that is durable.
    mark: Mark,
    heads: Latest<Head>,
    trouble: Option<String>,
    /// A write failed half-way: the file is read again from the mark before the next one.
    torn: bool,
}

impl Ledger {
    /// Opens the ledger in `folder`, or begins it. The caller holds the state folder's lock. Blocks.
    ///
    /// # Errors
    /// It is damaged, shorter than its signed head says, another one than that was signed over, or the
    /// disk refused. Nothing is changed then.
    pub fn open(folder: &Path, site: &SiteId, key: &SecretKey) -> Result<Self, LedgerError> {
        create_folder(folder)?;
        sweep_temporary(folder)?;
        let origin = site.to_string();
        let at = folder.join(head::CHECKPOINT);
        let signed = checkpoint::read(&at, &origin, &key.public())?;
        let marked = usable_mark(folder, signed.as_ref());
        let from = marked.at;
        let (log, mark) = replay(folder, marked, signed.as_ref())?;
        if signed.is_none() {
            if mark.at.records > 0 {
                return Err(LedgerError::NoHead { path: at, records: mark.at.records });
            }
            // Before the first record: however soon the process dies, its records have a head.
            checkpoint::write(&at, &Checkpoint::of(&origin, &mark.tree), key)?;
        }
        let heads = head::writer(folder, key.clone(), from.bytes)?;
        let folder = folder.to_owned();
        let keeper = Keeper { folder, origin, log, mark, heads, trouble: None, torn: false };
        if keeper.mark.at.records > 0 {
            keeper.leave_head();
        }
        Ok(Self(Mutex::new(keeper)))
    }

    /// Writes a record; its index, once it is durable. Blocks for a sync.
    ///
    /// # Errors
    /// It is not durable: what it stands for must not happen.
    pub fn record(&self, entry: impl Into<Entry>, at: WallMillis) -> Result<u64, LedgerError> {
        let entry = entry.into();
        let point = entry.fail_point();
        failpoints::before(point);
        let record = self.keeper().record(Line { at, entry })?;
        failpoints::after(point);
        Ok(record)
    }

    /// Writes what the site says of a study, unless that was its last word already.
    ///
    /// # Errors
    /// As [`Ledger::record`].
    pub fn stands(&self, said: StudyStands, at: WallMillis) -> Result<(), LedgerError> {
        if self.keeper().mark.standing.says(&said) {
            return Ok(());
        }
        self.record(said, at).map(drop)
    }

    /// The record by which the site accepted the study with this digest.
    ///
    /// # Errors
    /// None is in force.
    pub fn accepted(&self, study: &StudyId, digest: &Digest) -> Result<u64, LedgerError> {
        let accepted = self.keeper().mark.standing.accepted(digest);
        accepted.ok_or_else(|| LedgerError::NotAccepted(study.clone()))
    }

    /// Whether this update stands in it, and its round is not over.
    #[must_use]
    pub fn has_made(&self, update: &Digest) -> bool {
        self.keeper().mark.standing.has_made(update)
    }

    /// How it stands.
    #[must_use]
    pub fn status(&self) -> LedgerStatus {
        let keeper = self.keeper();
        let LogMark { records, bytes } = keeper.mark.at;
        LedgerStatus { records, bytes, trouble: keeper.trouble.clone() }
    }

    /// A record is durable or is not in `mark`, so a thread that died while it held the lock left
    /// nothing half done.
    fn keeper(&self) -> MutexGuard<'_, Keeper> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keeper {
    fn record(&mut self, line: Line) -> Result<u64, LedgerError> {
        let (kind, payload) = (line.entry.kind(), line.to_bytes()?);
        let written = self.write(kind, line.at, &payload);
        if let Err(error) = &written {
            self.trouble = Some(error.to_string());
            tracing::error!(%error, "the site's ledger cannot be written: nothing is sent");
        }
        written.map_err(LedgerError::Unwritten)?;
        self.trouble = None;
        let record = self.mark.at.records;
        take_in(&mut self.mark, (kind, &payload), &line.entry);
        self.mark.at = LogMark { records: self.log.records(), bytes: self.log.bytes() };
        self.leave_head();
        Ok(record)
    }

    fn write(&mut self, kind: u16, at: WallMillis, payload: &[u8]) -> Result<(), LogError> {
        if self.torn {
            self.mend()?;
        }
        self.log.append(kind, at, payload).inspect_err(|error| {
            self.torn = matches!(error, LogError::Io(_));
        })?;
        // A sync that failed is never tried again: the system may have dropped what it was to write.
        self.log.sync()
    }

    /// Cuts what a failed write left behind the last durable record: a disk that was full is well
    /// again without a restart.
    fn mend(&mut self) -> Result<(), LogError> {
        let path = self.folder.join(head::LOG);
        // A write that failed has not written all of its record.
        let unknown = |_: RecordRef<'_>| Err("nobody knows of this record".into());
        let (log, _) = Log::open_from(&path, self.mark.at, self.mark.at.records, unknown)?;
        (self.log, self.torn) = (log, false);
        Ok(())
    }

    fn leave_head(&self) {
        let checkpoint = Checkpoint::of(&self.origin, &self.mark.tree);
        self.heads.leave(Head { checkpoint, mark: self.mark.clone() });
    }
}

/// Takes a record into what is known of those before it, all but its place.
fn take_in(mark: &mut Mark, (kind, payload): (u16, &[u8]), entry: &Entry) {
    let record = mark.tree.size();
    mark.tree.push(leaf_hash(kind, payload));
    Arc::make_mut(&mut mark.standing).apply(record, entry);
}

/// The mark, if it is of the ledger whose head was signed; else the ledger's start.
fn usable_mark(folder: &Path, signed: Option<&Checkpoint>) -> Mark {
    let unusable = match Mark::read(&folder.join(head::MARK)) {
        Ok(None) => return Mark::start(),
        Ok(Some(mark)) => {
            let covered = signed.filter(|signed| signed.size >= mark.at.records);
            if covered.is_some_and(|signed| agrees(signed, &mark.tree)) {
                return mark;
            }
            "no signed head covers it".to_owned()
        }
        Err(reason) => reason,
    };
    tracing::warn!(
        reason = unusable,
        "the ledger's mark cannot be used: all of the ledger is read"
    );
    Mark::start()
}

/// Whether the tree, once it is as large as the head says, is the one that was signed.
fn agrees(signed: &Checkpoint, tree: &consilium_common::audit::tree::Tree) -> bool {
    tree.size() != signed.size || tree.root() == signed.root
}

/// A ledger that was changed behind its head.
#[derive(Debug, thiserror::Error)]
#[error("the ledger is another one than its head was signed over")]
struct Other;

/// Opens the log and reads what follows the mark.
fn replay(
    folder: &Path,
    mut mark: Mark,
    signed: Option<&Checkpoint>,
) -> Result<(Log, Mark), LedgerError> {
    let (from, known) = (mark.at, signed.map_or(0, |signed| signed.size));
    let opened = Log::open_from(&folder.join(head::LOG), from, known, |at| {
        let line = read_line(at)?;
        take_in(&mut mark, (at.kind, at.payload), &line.entry);
        if signed.is_some_and(|signed| !agrees(signed, &mark.tree)) {
            return Err(Other.into());
        }
        Ok(())
    });
    let (log, found) = opened.map_err(|error| other_ledger(error, known))?;
    if found.dropped_bytes > 0 {
        tracing::warn!(
            bytes = found.dropped_bytes,
            "an incomplete record at the ledger's end was dropped: what a killed process was writing"
        );
    }
    mark.at = LogMark { records: found.records, bytes: found.bytes };
    Ok((log, mark))
}

fn other_ledger(error: LogError, size: u64) -> LedgerError {
    if let LogError::Visit { reason, .. } = &error
        && reason.is::<Other>()
    {
        return LedgerError::OtherLedger { size };
    }
    error.into()
}

/// A record of the log as a line, held against itself.
fn read_line(at: RecordRef<'_>) -> Result<Line, Box<dyn std::error::Error + Send + Sync>> {
    let line = Line::read(at.kind, at.payload)?;
    if line.at != at.wall {
        return Err("its time differs from the one that the tree covers".into());
    }
    Ok(line)
}

/// What a visitor of lines may return.
pub type LineResult = VisitResult;

#[cfg(test)]
mod tests;
