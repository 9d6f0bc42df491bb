//! Where the binaries are: beside the one that runs, unless said otherwise.

use std::path::{Path, PathBuf};

use super::LocalError;

/// The three binaries.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `consilium`.
    pub consilium: PathBuf,
    /// `consilium-agent`.
    pub agent: PathBuf,
    /// `consilium-worker`; only needed for studies that train with libtorch.
    pub worker: PathBuf,
}

impl Programs {
    /// The programs in `folder`.
    #[must_use]
    pub fn in_folder(folder: &Path) -> Self {
        Self {
            consilium: folder.join("consilium"),
            agent: folder.join("consilium-agent"),
            worker: folder.join("consilium-worker"),
        }
    }

    /// Checks that the binaries are there.
    ///
    /// # Errors
    /// Names the first that is not.
    pub fn check(&self, with_worker: bool) -> Result<(), LocalError> {
        let mut needed = vec![("consilium", &self.consilium), ("consilium-agent", &self.agent)];
        if with_worker {
            needed.push(("consilium-worker", &self.worker));
        }
        match needed.into_iter().find(|(_, path)| !path.is_file()) {
            Some((program, path)) => Err(LocalError::NoProgram { program, path: path.clone() }),
            None => Ok(()),
        }
    }
}
