//! The start: the log is read whole, held against its checkpoint, and the index brought up to it.

use std::path::Path;
use std::sync::Arc;

use consilium_common::audit::tree::{Tree, leaf_hash};
use consilium_common::audit::{Checkpoint, Record};
use consilium_common::time::WallMillis;
use consilium_io::disk::log::{RecordRef, VisitResult};
use consilium_io::disk::{Log, LogError, LogReport};

use super::Setup;
use super::history::History;
use crate::limits::INDEX_BATCH_MAX;
use crate::store::index::{Index, IndexError, Indexed};
use crate::store::schema::{self, Key};
use crate::store::{StoreError, checkpoint};

/// What opening a store found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Records in the log.
    pub records: u64,
    /// Bytes of an incomplete tail that were dropped.
    pub dropped_bytes: u64,
    /// Why the index was made anew, if it was.
    pub index_rebuilt: Option<String>,
}

/// What the log's thread goes on with.
pub(super) struct Started {
    pub(super) log: Log,
    pub(super) history: History,
    pub(super) index: Index,
    pub(super) report: Report,
}

/// A record of a later release, or one that cannot be decoded.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error("its kind {0} is not known here: start the version that wrote it, or a newer one")]
    Kind(u16),
    #[error("the log is another one than its checkpoint was signed over")]
    OtherLog,
    #[error("the log is another one than its index was written over")]
    OtherIndex,
}

pub(super) fn read(
    setup: &Setup<'_>,
    visit: &mut dyn FnMut(&Record, WallMillis) -> VisitResult,
) -> Result<Started, StoreError> {
    let folder = setup.folder;
    let path = folder.join(schema::CHECKPOINT);
    let signed = checkpoint::read(&path, setup.origin, &setup.key.public())?;
    let covered = signed.as_ref().map_or(0, |checkpoint| checkpoint.size);
    let mut history = History::default();
    let index_path = folder.join(schema::INDEX);
    let mut catching_up = CatchingUp::begin(&index_path);
    // Both are written only over what a sync of the log has covered, so the log had as many records.
    let indexed = catching_up.covered.map_or(0, |indexed| indexed.records);

    let log_path = folder.join(schema::LOG);
    let opened = Log::open(&log_path, covered.max(indexed), |at| {
        let record = Record::decode(at.kind, at.payload)?.ok_or(Unreadable::Kind(at.kind))?;
        history.push(leaf_hash(at.kind, at.payload), at.offset);
        if !agrees(signed.as_ref(), history.tree()) {
            return Err(Unreadable::OtherLog.into());
        }
        catching_up.see(at, &record, (history.tree(), covered))?;
        visit(&record, at.wall)
    });
    let (log, found) = match opened {
        Err(LogError::Visit { reason, .. })
            if matches!(reason.downcast_ref(), Some(Unreadable::OtherLog)) =>
        {
            return Err(StoreError::OtherLog { size: covered });
        }
        Err(LogError::Visit { reason, .. })
            if matches!(reason.downcast_ref(), Some(Unreadable::OtherIndex)) =>
        {
            return Err(StoreError::OtherIndex { records: indexed, index: index_path });
        }
        Err(log @ (LogError::Short { .. } | LogError::Missing { .. })) if indexed > covered => {
            let holds = matches!(log, LogError::Short { records, .. } if records >= covered);
            let (log, has_checkpoint) = (Arc::new(log), signed.is_some() && holds);
            return Err(StoreError::IndexAhead { log, index: index_path, has_checkpoint });
        }
        other => other?,
    };
    if signed.is_none() {
        tell_what_nothing_vouches_for(folder, found);
    }
    let rebuild = catching_up.end(&log, history.tree());
    let (index, index_rebuilt) = match rebuild {
        Ok(index) => (index, None),
        Err(reason) => (rebuilt(setup, &log)?, (log.records() > 0).then_some(reason)),
    };
    if let Some(reason) = &index_rebuilt {
        tracing::warn!(records = log.records(), "the index was rebuilt from the log: {reason}");
    }
    let report =
        Report { records: found.records, dropped_bytes: found.dropped_bytes, index_rebuilt };
    Ok(Started { log, history, index, report })
}

/// Without a checkpoint a log may have lost its end, or all of it, and nothing would tell.
fn tell_what_nothing_vouches_for(
    folder: &Path,
    LogReport { records, dropped_bytes, .. }: LogReport,
) {
    let path = folder.join(schema::CHECKPOINT);
    if records > 0 {
        tracing::warn!(
            records,
            dropped_bytes,
            "no checkpoint stands beside the log ({} is missing): whether records are missing from \
             the log's end cannot be told. If you did not remove it, compare with your last copy. One \
             is written now",
            path.display()
        );
        return;
    }
    let mut blobs = folder.join(schema::BLOBS).read_dir().into_iter().flatten();
    if blobs.any(|entry| entry.is_ok_and(|entry| entry.path().is_file())) {
        tracing::warn!(
            "a log without records is begun in {}, where blobs of earlier records lie: if this \
             coordinator has had studies, its log was lost; stop it and bring the state folder back \
             from a copy",
            folder.display()
        );
    }
}

/// Whether the tree, once it is as large as the checkpoint says, is the one that was signed.
fn agrees(signed: Option<&Checkpoint>, tree: &Tree) -> bool {
    signed.is_none_or(|checkpoint| tree.size() != checkpoint.size || tree.root() == checkpoint.root)
}

/// The index while the log passes by: it must turn out to be this log's, and gets what it lacks.
struct CatchingUp {
    /// The index, or why it must be made anew.
    index: Result<Index, String>,
    covered: Option<Indexed>,
    waiting: Vec<(Key, u64)>,
}

impl CatchingUp {
    fn begin(folder: &Path) -> Self {
        let (index, covered) = match Index::open(folder) {
            Ok((index, Some(covered))) => (Ok(index), Some(covered)),
            Ok((_, None)) => (Err("it was missing".to_owned()), None),
            Err(error) => (Err(format!("it was broken ({error})")), None),
        };
        Self { index, covered, waiting: Vec::new() }
    }

    /// `certain` records of the log are those that a checkpoint was signed over.
    fn see(
        &mut self,
        at: RecordRef<'_>,
        record: &Record,
        (tree, certain): (&Tree, u64),
    ) -> Result<(), Unreadable> {
        let (Ok(index), Some(covered)) = (&self.index, self.covered) else {
            return Ok(());
        };
        if tree.size() == covered.records && tree.root() != covered.root {
            if covered.records > certain {
                return Err(Unreadable::OtherIndex);
            }
            self.index = Err("it was of another log".to_owned());
            return Ok(());
        }
        if at.index < covered.records {
            return Ok(());
        }
        let keys = schema::keys_of(record);
        self.waiting.extend(keys.into_iter().map(|key| (key, at.offset)));
        if self.waiting.len() >= INDEX_BATCH_MAX {
            // The mark moves at the end: a start that dies here does this part again.
            let applied = index.apply(self.waiting.drain(..), covered);
            if let Err(error) = applied {
                self.index = Err(format!("it broke ({error})"));
            }
        }
        Ok(())
    }

    /// The index, now covering all of the log, or why it must be made anew.
    fn end(self, log: &Log, tree: &Tree) -> Result<Index, String> {
        let index = self.index?;
        let all = Indexed { records: log.records(), bytes: log.bytes(), root: tree.root() };
        index.apply(self.waiting, all).map_err(|error| format!("it broke ({error})"))?;
        Ok(index)
    }
}

/// A new index over the whole log, which has just been found to be whole.
fn rebuilt(setup: &Setup<'_>, log: &Log) -> Result<Index, StoreError> {
    let index = Index::anew(&setup.folder.join(schema::INDEX))?;
    let (mut tree, mut waiting) = (Tree::new(), Vec::new());
    let nothing = Indexed { records: 0, bytes: 0, root: tree.root() };
    Log::read(&setup.folder.join(schema::LOG), log.records(), |at| {
        tree.push(leaf_hash(at.kind, at.payload));
        if let Some(record) = Record::decode(at.kind, at.payload)? {
            let keys = schema::keys_of(&record);
            waiting.extend(keys.into_iter().map(|key| (key, at.offset)));
        }
        if waiting.len() >= INDEX_BATCH_MAX {
            index.apply(waiting.drain(..), nothing)?;
        }
        Ok(())
    })?;
    let all = Indexed { records: log.records(), bytes: log.bytes(), root: tree.root() };
    index.apply(waiting, all).map_err(|error: IndexError| StoreError::from(error))?;
    Ok(index)
}
