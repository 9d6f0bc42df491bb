//! One process per state folder: two would each believe that the log ends where they wrote last.

use std::fs::{File, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::IoError;

const LOCK_NAME: &str = "lock";
/// A pid has at most ten digits; anything longer in the file is not ours.
const PID_BYTES_MAX: u64 = 16;

/// Why a state folder could not be taken.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another process holds the folder.
    #[error(
        "{} is in use by {}: stop it first, or give this process a state folder of its own",
        folder.display(),
        holder.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
    )]
    Held {
        /// The state folder.
        folder: PathBuf,
        /// The holder's process id, if it could be read.
        holder: Option<u32>,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Holds a state folder until dropped. The kernel lets go of it when the process dies, however it
/// dies; the file stays.
#[derive(Debug)]
pub struct StateLock {
    folder: PathBuf,
    _file: File,
}

impl StateLock {
    /// Takes `folder`, which must exist, and writes this process's id into its `lock` file.
    ///
    /// # Errors
    /// [`LockError::Held`] names the process that has it.
    pub fn acquire(folder: &Path) -> Result<Self, LockError> {
        let path = folder.join(LOCK_NAME);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(IoError::at("open", &path))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    folder: folder.to_owned(),
                    holder: read_pid(&mut file),
                });
            }
            Err(TryLockError::Error(e)) => return Err(IoError::at("lock", &path)(e).into()),
        }
        write_pid(&mut file).map_err(IoError::at("write", &path))?;
        Ok(Self { folder: folder.to_owned(), _file: file })
    }

    /// The folder that is held.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    file.take(PID_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.seek(SeekFrom::Start(0))?;
    writeln!(file, "{}", std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_has_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let held = StateLock::acquire(folder.path()).unwrap();
        let text = StateLock::acquire(folder.path()).unwrap_err().to_string();
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        assert!(text.contains(&*held.folder().to_string_lossy()), "{text}");
    }

    #[test]
    fn a_lock_file_left_by_a_dead_process_does_not_lock() {
        let folder = tempfile::tempdir().unwrap();
        drop(StateLock::acquire(folder.path()).unwrap());
        assert!(folder.path().join("lock").exists());
        StateLock::acquire(folder.path()).unwrap();
    }
}
