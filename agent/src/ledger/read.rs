//! Going through a ledger from outside, while an agent writes it or not: one record in memory at a
//! time.

use std::path::{Path, PathBuf};

use consilium_common::audit::Checkpoint;
use consilium_common::audit::tree::{Hash, Tree, leaf_hash};
use consilium_common::ids::SiteId;
use consilium_common::signed::PublicKey;
use consilium_io::disk::{Log, checkpoint};
use serde::{Deserialize, Serialize};

use super::entry::{Entry, Line};
use super::head::{CHECKPOINT, LOG, MARK, Mark};
use super::standing::Standing;
use super::{LEDGER, LedgerError, LineResult, agrees, other_ledger, read_line};

/// The ledger of a state folder.
///
/// # Errors
/// There is none.
pub fn folder(state: &Path) -> Result<PathBuf, LedgerError> {
    let folder = state.join(LEDGER);
    if folder.join(LOG).is_file() { Ok(folder) } else { Err(LedgerError::Absent(folder)) }
}

/// Shows every whole record with its index to `visit`; its signed head is not looked at.
///
/// # Errors
/// Damage, with record and offset; `visit` refused; the disk refused.
pub fn each(
    folder: &Path,
    visit: &mut dyn FnMut(u64, &Line) -> LineResult,
) -> Result<(), LedgerError> {
    Log::read(&folder.join(LOG), 0, |at| visit(at.index, &read_line(at)?))?;
    Ok(())
}

/// A ledger that was found whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verified {
    /// Records.
    pub records: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// Root of the tree over all of them, in hexadecimal (RFC 6962 §2.1).
    pub root: String,
    /// Records that the signed head covers: from there on a lost end would not show yet.
    pub signed: u64,
    /// Bytes of a record that is being written, or that a killed agent was writing.
    pub incomplete_bytes: u64,
}

/// Reads all of a ledger and holds everything in it against everything else: checksums, the tree, its
/// signed head, the mark beside it, and each range of bytes against the acceptance that it names.
///
/// # Errors
/// The first thing that does not fit, with record and offset.
pub fn verify(folder: &Path, site: &SiteId, key: &PublicKey) -> Result<Verified, LedgerError> {
    let at = folder.join(CHECKPOINT);
    let signed = checkpoint::read(&at, site.as_str(), key)?;
    let mark_path = folder.join(MARK);
    let mark = Mark::read(&mark_path);
    let mark = mark.map_err(|what| LedgerError::Mark { path: mark_path, what })?;
    let known = signed.as_ref().map_or(0, |signed| signed.size);
    let mut chain = Chain::new(signed.clone());
    let read = Log::read(&folder.join(LOG), known, |at| {
        chain.take(at.kind, at.payload, &read_line(at)?)?;
        if let Some(mark) = mark.as_ref().filter(|mark| mark.at.records == chain.tree.size())
            && (mark.tree != chain.tree || *mark.standing != chain.standing)
        {
            return Err("the mark beside the ledger is of other records".into());
        }
        Ok(())
    });
    let found = read.map_err(|error| other_ledger(error, known))?;
    let Some(signed) = signed else {
        return Err(LedgerError::NoHead { path: at, records: found.records });
    };
    Ok(Verified {
        records: found.records,
        bytes: found.bytes,
        root: hex(&chain.tree.root()),
        signed: signed.size,
        incomplete_bytes: found.dropped_bytes,
    })
}

/// The tree over the records so far, held against the signed head and against what the records say.
pub(super) struct Chain {
    signed: Option<Checkpoint>,
    pub(super) tree: Tree,
    standing: Standing,
}

impl Chain {
    pub(super) fn new(signed: Option<Checkpoint>) -> Self {
        Self { signed, tree: Tree::new(), standing: Standing::default() }
    }

    /// Takes the next record.
    pub(super) fn take(&mut self, kind: u16, payload: &[u8], line: &Line) -> LineResult {
        let record = self.tree.size();
        if let Entry::Sending(range) = &line.entry
            && self.standing.accepted(&range.study_digest) != Some(range.accepted)
        {
            let (study, accepted) = (&range.study, range.accepted);
            let what = format!("record {accepted} is no acceptance of {study} that was in force");
            return Err(what.into());
        }
        self.tree.push(leaf_hash(kind, payload));
        self.standing.apply(record, &line.entry);
        if self.signed.as_ref().is_some_and(|signed| !agrees(signed, &self.tree)) {
            return Err(super::Other.into());
        }
        Ok(())
    }
}

fn hex(hash: &Hash) -> String {
    consilium_common::ids::Digest(*hash).to_string()
}
