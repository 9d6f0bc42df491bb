//! The bytes of a log against its signed head: what stands before every other question.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use consilium_certs::consortium::Consortium;
use consilium_common::audit::Checkpoint;
use consilium_common::audit::tree::{Hash, Tree, leaf_hash};
use consilium_io::IoError;
use consilium_io::disk::{Log, LogError, LogReport};

use super::verdict::{At, Check, Verdict};

const DAMAGED: &str = "the log is damaged: have it exported again";
const NO_CHECKPOINT: &str = "no signed checkpoint says what the records must be";

/// The checkpoint of an export, if it is one of this consortium that the pinned log key signed.
///
/// # Errors
/// In a sentence.
pub fn read_checkpoint(file: &[u8], pinned: &Consortium) -> Result<Checkpoint, String> {
    let signed = Checkpoint::from_file(file).map_err(|error| error.to_string())?;
    let checkpoint =
        signed.verify(&[pinned.coordinator_log_key], 1).map_err(|error| error.to_string())?;
    if checkpoint.origin == pinned.name.as_str() {
        return Ok(checkpoint);
    }
    Err(format!("it is of the log of {:?}, this consortium is {}", checkpoint.origin, pinned.name))
}

/// The same, with the verdict.
pub(super) fn checkpoint(
    file: &[u8],
    pinned: &Consortium,
    verdict: &mut Verdict,
) -> Option<Checkpoint> {
    match read_checkpoint(file, pinned) {
        Ok(checkpoint) => {
            verdict.right(Check::Checkpoint, 1);
            Some(checkpoint)
        }
        Err(what) => {
            verdict.fault(Check::Checkpoint, None, what);
            None
        }
    }
}

/// What a log's bytes come to.
#[derive(Debug, Clone)]
pub struct Found {
    /// Records and bytes.
    pub report: LogReport,
    /// The root over all records.
    pub root: Hash,
    /// The roots at the sizes that were asked for, as far as the log goes.
    pub roots: BTreeMap<u64, Hash>,
}

/// Reads a log through. `sizes`: where the root is wanted.
///
/// # Errors
/// It is damaged, or cannot be read.
pub fn read(path: &Path, log: (impl Read, u64), sizes: &[u64]) -> Result<Found, LogError> {
    let (mut tree, mut roots) = (Tree::new(), BTreeMap::new());
    let mut note = |tree: &Tree| {
        if sizes.contains(&tree.size()) {
            roots.insert(tree.size(), tree.root());
        }
    };
    note(&tree);
    let report = Log::read_from(path, log, 0, |record| {
        tree.push(leaf_hash(record.kind, record.payload));
        note(&tree);
        Ok(())
    })?;
    Ok(Found { report, root: tree.root(), roots })
}

/// Holds the bytes of a log against its checkpoint. False if they are damaged: then no record is told.
pub(super) fn check(
    path: &Path,
    log: (impl Read, u64),
    (signed, others): (Option<&Checkpoint>, &[Checkpoint]),
    verdict: &mut Verdict,
) -> Result<bool, IoError> {
    let heads = signed.into_iter().chain(others);
    let sizes: Vec<u64> = heads.clone().map(|checkpoint| checkpoint.size).collect();
    let found = match read(path, log, &sizes) {
        Ok(found) => found,
        Err(error) => {
            damaged(error, verdict)?;
            for check in Check::ALL.into_iter().filter(|check| *check > Check::Frames) {
                verdict.missing(check, DAMAGED);
            }
            return Ok(false);
        }
    };
    let LogReport { records, bytes, dropped_bytes } = found.report;
    verdict.right(Check::Frames, records);
    let end = At { record: records, offset: bytes };
    if dropped_bytes > 0 {
        let what = format!("the last {dropped_bytes} bytes of the log are no whole record");
        verdict.fault(Check::Frames, Some(end), what);
    }
    for head in heads {
        hold(head, &found, verdict);
    }
    match signed {
        None => verdict.missing(Check::Tree, NO_CHECKPOINT),
        Some(signed) if records > signed.size => {
            let beyond = records - signed.size;
            let what = format!(
                "{beyond} records follow those that the checkpoint covers: nothing vouches for them"
            );
            verdict.fault(Check::Tree, None, what);
        }
        Some(_) => {}
    }
    Ok(true)
}

/// One signed head against the records.
fn hold(head: &Checkpoint, found: &Found, verdict: &mut Verdict) {
    let LogReport { records, bytes, .. } = found.report;
    match found.roots.get(&head.size) {
        None => {
            let (size, missing) = (head.size, head.size.saturating_sub(records));
            let what = format!(
                "the log ends after {records} records and a checkpoint covers {size}: the last {missing} \
                 are missing"
            );
            verdict.fault(Check::Tree, Some(At { record: records, offset: bytes }), what);
        }
        Some(root) if *root != head.root => {
            let what = format!(
                "the first {} records lead to root {}, and {} was signed: records were changed, left out, \
                 added or exchanged",
                head.size,
                hex::encode(root),
                hex::encode(head.root)
            );
            verdict.fault(Check::Tree, None, what);
        }
        Some(_) => verdict.right(Check::Tree, head.size),
    }
}

/// Tells damage of the bytes; an error of the system is no verdict.
pub(super) fn damaged(error: LogError, verdict: &mut Verdict) -> Result<(), IoError> {
    let (at, what) = match error {
        LogError::Io(error) => return Err(error),
        LogError::Damaged { index, offset, what, .. } => {
            (Some(At { record: index, offset }), format!("it is damaged: {what}"))
        }
        LogError::NotALog { .. } => (None, "the file does not begin as a log does".to_owned()),
        LogError::Format { found, known, .. } => {
            let told = "verify it with the version that wrote it";
            (None, format!("the log has format {found}, this version reads {known}: {told}"))
        }
        other @ (LogError::Missing { .. }
        | LogError::Short { .. }
        | LogError::Visit { .. }
        | LogError::TooLarge { .. }
        | LogError::NoRecord { .. }
        | LogError::Poisoned { .. }) => (None, other.to_string()),
    };
    verdict.fault(Check::Frames, at, what);
    Ok(())
}
