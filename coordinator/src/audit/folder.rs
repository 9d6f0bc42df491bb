//! An export's folder.
//!
//! ```text
//! FOLDER/log              the log's bytes up to the checkpoint
//! FOLDER/checkpoint       its signed head
//! FOLDER/consortium.toml  what whoever exported it pins: from their own bundle, not from the coordinator
//! FOLDER/blobs/           models, strategies' states and preparations, if they were asked for
//! FOLDER/updates/         the updates that the coordinator retained, if it did
//! ```

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use consilium_certs::consortium::CONSORTIUM_FILE;
use consilium_io::IoError;
use consilium_io::disk::open_file;

use crate::store::schema;

/// One read of the log's file.
const READ_BYTES: usize = 1 << 20;

/// The folder, with the names in it.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

/// Folders of blobs that rounds are recomputed from. Nothing in them is changed.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Models, strategies' states and preparations.
    pub blobs: PathBuf,
    /// Retained updates.
    pub updates: PathBuf,
}

impl Folder {
    /// At `path`.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Its own path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Whether something of this name belongs into an export's folder; files that are being written begin with a
    /// dot.
    #[must_use]
    pub fn has(name: &str) -> bool {
        let known =
            [schema::LOG, schema::CHECKPOINT, CONSORTIUM_FILE, schema::BLOBS, schema::UPDATES];
        known.contains(&name) || name.starts_with('.')
    }

    /// The log.
    #[must_use]
    pub fn log(&self) -> PathBuf {
        self.0.join(schema::LOG)
    }

    /// The signed head.
    #[must_use]
    pub fn checkpoint(&self) -> PathBuf {
        self.0.join(schema::CHECKPOINT)
    }

    /// What the exporter pins.
    #[must_use]
    pub fn consortium(&self) -> PathBuf {
        self.0.join(CONSORTIUM_FILE)
    }

    /// What rounds are recomputed from, if any of it is here.
    #[must_use]
    pub fn kept(&self) -> Option<Kept> {
        let kept = self.kept_or_to_be();
        kept.blobs.is_dir().then_some(kept)
    }

    /// Where that lies, or would.
    #[must_use]
    pub fn kept_or_to_be(&self) -> Kept {
        Kept { blobs: self.0.join(schema::BLOBS), updates: self.0.join(schema::UPDATES) }
    }

    /// The log, to be read from its start, and its length.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open_log(&self) -> Result<(BufReader<File>, u64), IoError> {
        let path = self.log();
        let file = open_file(&path).map_err(IoError::at("open", &path))?;
        let length = file.metadata().map_err(IoError::at("inspect", &path))?.len();
        Ok((BufReader::with_capacity(READ_BYTES, file), length))
    }
}
