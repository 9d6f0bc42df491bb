//! The private folder that the daemon and one worker share: the study, the base, the result. Not
//! synced: what a power cut takes is made again.

use std::collections::HashMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use consilium_common::study::Study;
use consilium_common::tensor::file::to_safetensors;
use tempfile::TempDir;

use super::WorkerFault;

/// A folder (0700) that is removed when dropped.
#[derive(Debug)]
pub struct TaskFolder {
    folder: TempDir,
}

impl TaskFolder {
    /// A fresh folder below `tasks`, with the study in it.
    ///
    /// # Errors
    /// The disk refused.
    pub fn create(tasks: &Path, study: &[u8]) -> Result<Self, WorkerFault> {
        let folder = tempfile::Builder::new()
            .prefix("task-")
            .tempdir_in(tasks)
            .map_err(|error| fault(tasks, &error))?;
        let new = Self { folder };
        write(&new.study(), study)?;
        Ok(new)
    }

    /// Writes the model to start from.
    ///
    /// # Errors
    /// `vector` is not a model of this study, or the disk refused.
    pub fn write_base(&self, study: &Study, vector: &[f32]) -> Result<(), WorkerFault> {
        let path = self.base();
        let layout = study.layout().map_err(|error| fault(&path, &error))?;
        let bytes = to_safetensors(&layout, vector, HashMap::<String, String>::new())
            .map_err(|error| fault(&path, &error))?;
        write(&path, &bytes)
    }

    /// Reads what the worker wrote.
    ///
    /// # Errors
    /// It is not there, or the disk refused.
    pub fn read_result(&self) -> Result<Vec<u8>, WorkerFault> {
        let path = self.result();
        fs::read(&path).map_err(|error| fault(&path, &error))
    }

    /// The study's file.
    #[must_use]
    pub fn study(&self) -> PathBuf {
        self.folder.path().join("study.toml")
    }

    /// The base's file.
    #[must_use]
    pub fn base(&self) -> PathBuf {
        self.folder.path().join("base.safetensors")
    }

    /// Where the worker's result goes.
    #[must_use]
    pub fn result(&self) -> PathBuf {
        self.folder.path().join("trained.safetensors")
    }
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), WorkerFault> {
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .map_err(|error| fault(path, &error))
}

fn fault(place: &Path, reason: &dyn std::fmt::Display) -> WorkerFault {
    WorkerFault::Folder { place: place.display().to_string(), reason: reason.to_string() }
}
