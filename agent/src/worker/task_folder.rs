//! The private folder that the daemon and one worker share: the study, the base, the preparation, the
//! result, and the site's local state before and after. Not synced: what a power cut takes is made
//! again.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use consilium_common::le;
use consilium_common::tensor::file::safetensors_head;
use consilium_common::tensor::layout::Layout;
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
        let path = new.study();
        create(&path)
            .and_then(|mut file| file.write_all(study))
            .map_err(|error| fault(&path, &error))?;
        Ok(new)
    }

    /// Writes the model to start from; `vector` writes its parameters as little-endian f32.
    ///
    /// # Errors
    /// `vector` or the disk refused.
    pub fn write_base(
        &self,
        layout: &Layout,
        vector: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WorkerFault> {
        write_tensors(&self.base(), layout, vector)
    }

    /// Writes what is added to every gradient, likewise.
    ///
    /// # Errors
    /// `vector` or the disk refused.
    pub fn write_correction(
        &self,
        layout: &Layout,
        vector: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<(), WorkerFault> {
        write_tensors(&self.correction(), layout, vector)
    }

    /// [`TaskFolder::write_base`] with a model that is in memory.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write_vector(&self, layout: &Layout, vector: &[f32]) -> Result<(), WorkerFault> {
        let mut bytes = Vec::new();
        le::extend_f32(&mut bytes, vector);
        self.write_base(layout, |out| out.write_all(&bytes))
    }

    /// Writes the study's preparation.
    ///
    /// # Errors
    /// The disk refused.
    pub fn write_preparation(&self, bytes: &[u8]) -> Result<(), WorkerFault> {
        let path = self.preparation();
        create(&path)
            .and_then(|mut file| file.write_all(bytes))
            .map_err(|error| fault(&path, &error))
    }

    /// Opens the model that the worker wrote.
    ///
    /// # Errors
    /// It is not there, or the disk refused.
    pub fn open_result(&self) -> Result<File, WorkerFault> {
        open(&self.result())
    }

    /// Opens the counts that the worker wrote.
    ///
    /// # Errors
    /// It is not there, or the disk refused.
    pub fn open_counts(&self) -> Result<File, WorkerFault> {
        open(&self.counts())
    }

    /// Opens the predictions that the worker wrote.
    ///
    /// # Errors
    /// It is not there, or the disk refused.
    pub fn open_predictions(&self) -> Result<File, WorkerFault> {
        open(&self.predictions())
    }

    /// Reads the model that the worker wrote.
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

    /// What is added to every gradient, where there is something.
    #[must_use]
    pub fn correction(&self) -> PathBuf {
        self.folder.path().join("correction.safetensors")
    }

    /// Where the worker's result goes.
    #[must_use]
    pub fn result(&self) -> PathBuf {
        self.folder.path().join("trained.safetensors")
    }

    /// Where the worker leaves whose records it trained on or counted.
    #[must_use]
    pub fn patients_used(&self) -> PathBuf {
        self.folder.path().join("used.set")
    }

    /// Where the worker leaves whose records scored the base.
    #[must_use]
    pub fn patients_scored(&self) -> PathBuf {
        self.folder.path().join("scored.set")
    }

    /// Where the worker leaves the prints of the files.
    #[must_use]
    pub fn prints(&self) -> PathBuf {
        self.folder.path().join("files.prints")
    }

    /// The site's local state of the study, where there is one.
    #[must_use]
    pub fn local(&self) -> PathBuf {
        self.folder.path().join("local.state")
    }

    /// Where the worker's next local state goes.
    #[must_use]
    pub fn local_out(&self) -> PathBuf {
        self.folder.path().join("next-local.state")
    }

    /// Where the worker's predictions go.
    #[must_use]
    pub fn predictions(&self) -> PathBuf {
        self.folder.path().join("predictions.jsonl")
    }

    /// Where the worker's counts go.
    #[must_use]
    pub fn counts(&self) -> PathBuf {
        self.folder.path().join("counts.i32")
    }

    /// The preparation's file.
    #[must_use]
    pub fn preparation(&self) -> PathBuf {
        self.folder.path().join("preparation")
    }
}

fn write_tensors(
    path: &Path,
    layout: &Layout,
    vector: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<(), WorkerFault> {
    let metadata = HashMap::<String, String>::new();
    let head = safetensors_head(layout, metadata).map_err(|error| fault(path, &error))?;
    create(path)
        .and_then(|mut file| file.write_all(&head).and_then(|()| vector(&mut file)))
        .map_err(|error| fault(path, &error))
}

fn open(path: &Path) -> Result<File, WorkerFault> {
    File::open(path).map_err(|error| fault(path, &error))
}

fn create(path: &Path) -> io::Result<File> {
    File::options().write(true).create(true).truncate(true).mode(0o600).open(path)
}

fn fault(place: &Path, reason: &dyn std::fmt::Display) -> WorkerFault {
    WorkerFault::Folder { place: place.display().to_string(), reason: reason.to_string() }
}
