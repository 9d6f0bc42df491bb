//! What lies beside the ledger: its signed head, and a mark from which a start goes on without reading
//! years of records.
//!
//! The mark holds no truth. It is a fold of the records before it; damaged or gone, it is made again
//! from the whole ledger. It is written only over what a signed head covers, so that a start can tell
//! whether the two are of one ledger.
//!
//! ```text
//! ledger mark 1
//! 5f2c…                                    BLAKE3 of the line below
//! {"records":…,"bytes":…,"peaks":[…],"standing":{…}}
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::audit::Checkpoint;
use consilium_common::audit::tree::Tree;
use consilium_common::ids::Digest;
use consilium_common::limits::{
    LEDGER_HEAD_INTERVAL, LEDGER_MARK_BYTES, LEDGER_MARK_FILE_BYTES_MAX,
};
use consilium_common::signed::SecretKey;
use consilium_io::IoError;
use consilium_io::disk::{Latest, LogMark, TextError, checkpoint, read_text, replace_private};
use serde::{Deserialize, Serialize};

use super::standing::Standing;

/// The ledger's own file.
pub(super) const LOG: &str = "log";
/// Its signed head.
pub(super) const CHECKPOINT: &str = "checkpoint";
/// Where a start goes on.
pub(super) const MARK: &str = "mark";

const FIRST_LINE: &str = "ledger mark 1";

/// The ledger between two records.
#[derive(Debug, Clone)]
pub(super) struct Head {
    pub(super) checkpoint: Checkpoint,
    pub(super) mark: Mark,
}

/// What a start needs to know of the records before it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mark {
    pub(super) at: LogMark,
    pub(super) tree: Tree,
    pub(super) standing: Arc<Standing>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MarkFile {
    records: u64,
    bytes: u64,
    peaks: Vec<Digest>,
    standing: Standing,
}

impl Mark {
    /// Before the first record.
    pub(super) fn start() -> Self {
        Self { at: LogMark::START, tree: Tree::new(), standing: Arc::default() }
    }

    fn to_text(&self) -> Result<String, serde_json::Error> {
        let line = serde_json::to_string(&MarkFile {
            records: self.at.records,
            bytes: self.at.bytes,
            peaks: self.tree.peaks().iter().copied().map(Digest).collect(),
            standing: (*self.standing).clone(),
        })?;
        Ok(format!("{FIRST_LINE}\n{}\n{line}\n", Digest::of(line.as_bytes())))
    }

    /// Reads the mark; `None` if there is none.
    ///
    /// # Errors
    /// It is not what was written; in words.
    pub(super) fn read(path: &Path) -> Result<Option<Self>, String> {
        let text = match read_text(path, LEDGER_MARK_FILE_BYTES_MAX) {
            Ok(text) => text,
            Err(TextError::Missing { .. }) => return Ok(None),
            Err(error) => return Err(error.to_string()),
        };
        let lines: Vec<&str> = text.split('\n').collect();
        let [FIRST_LINE, digest, line, ""] = *lines else {
            return Err("it is not a mark of this release".to_owned());
        };
        if digest != Digest::of(line.as_bytes()).to_string() {
            return Err("it is not what was written".to_owned());
        }
        let file: MarkFile = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let peaks = file.peaks.into_iter().map(|digest| digest.0).collect();
        let tree = Tree::resume(file.records, peaks).ok_or("its tree has another size")?;
        let at = LogMark { records: file.records, bytes: file.bytes };
        Ok(Some(Self { at, tree, standing: Arc::new(file.standing) }))
    }
}

/// Starts the thread that writes heads and, further apart, marks.
pub(super) fn writer(folder: &Path, key: SecretKey, marked: u64) -> Result<Latest<Head>, IoError> {
    let [at, mark_at]: [PathBuf; 2] = [CHECKPOINT, MARK].map(|name| folder.join(name));
    let mut marked = marked;
    let path = at.clone();
    Latest::start("ledger", &path, LEDGER_HEAD_INTERVAL, move |head: Head| {
        checkpoint::write(&at, &head.checkpoint, &key)?;
        if head.mark.at.bytes.saturating_sub(marked) >= LEDGER_MARK_BYTES {
            let text = head.mark.to_text();
            let text = text.map_err(|error| IoError::at("encode", &mark_at)(error.into()))?;
            replace_private(&mark_at, text.as_bytes())?;
            marked = head.mark.at.bytes;
        }
        Ok(())
    })
}
