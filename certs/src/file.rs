//! Reading and writing the small files of this crate: bounded, secrets only from files that nobody
//! else can read, and every failure says which file and what to do.

use std::io::{ErrorKind, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use consilium_common::limits::CONFIG_BYTES_MAX;
use consilium_io::disk::{self, LockError, TextError};
use consilium_io::error::IoError;
use zeroize::{Zeroize, Zeroizing};

/// The largest key file: PEM of a P-256 key has 241 bytes.
const SECRET_BYTES_MAX: usize = 4096;

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readers {
    /// Its owner alone (0600).
    Owner,
    /// As the process's umask says.
    Everybody,
}

/// Why a file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It is not there.
    #[error("{path} does not exist")]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// A text file that cannot be read.
    #[error(transparent)]
    Text(TextError),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Another process works in the folder.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A secret that others than its owner may read.
    #[error(
        "{path} holds a secret and others may read it (mode {mode:03o}): run `chmod 600 {path}`; \
         if strangers had access to this machine, have it issued anew"
    )]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not the one short text that a key is.
    #[error("{path} is not a key file: it is larger than {SECRET_BYTES_MAX} bytes or not text")]
    NotASecret {
        /// The file.
        path: PathBuf,
    },
    /// A file that must not be overwritten.
    #[error("{path} exists and is never overwritten: move it away first if you mean to replace it")]
    Exists {
        /// The file.
        path: PathBuf,
    },
}

impl From<TextError> for FileError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Missing { path } => Self::Missing { path },
            error @ (TextError::NotAFile { .. }
            | TextError::TooLarge { .. }
            | TextError::NotText { .. }
            | TextError::Io(_)) => Self::Text(error),
        }
    }
}

/// Reads a text file that holds no secret.
pub(crate) fn read_text(path: &Path) -> Result<String, FileError> {
    Ok(disk::read_text(path, CONFIG_BYTES_MAX)?)
}

/// Reads a file that is no text and no secret.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, FileError> {
    Ok(disk::read_file(path, CONFIG_BYTES_MAX)?)
}

/// Reads a secret, and refuses one that its group or the world may read.
pub(crate) fn read_secret(path: &Path) -> Result<Zeroizing<String>, FileError> {
    if !exists(path)? {
        return Err(FileError::Missing { path: path.to_owned() });
    }
    let file = disk::open_file(path).map_err(IoError::at("open", path))?;
    let status = file.metadata().map_err(IoError::at("inspect", path))?;
    let mode = status.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen { path: path.to_owned(), mode });
    }
    // The whole capacity up front: a growing buffer would leave copies of the secret behind.
    let mut bytes = Vec::with_capacity(SECRET_BYTES_MAX + 1);
    let read = file.take(SECRET_BYTES_MAX as u64 + 1).read_to_end(&mut bytes);
    let whole = read.is_ok() && bytes.len() <= SECRET_BYTES_MAX;
    match String::from_utf8(bytes) {
        Ok(text) if whole => Ok(Zeroizing::new(text)),
        other => {
            other.map_or_else(|error| error.into_bytes(), String::into_bytes).zeroize();
            read.map_err(IoError::at("read", path))?;
            Err(FileError::NotASecret { path: path.to_owned() })
        }
    }
}

/// Writes a file atomically and durably, whether it is there or not.
pub(crate) fn replace(path: &Path, bytes: &[u8], readers: Readers) -> Result<(), FileError> {
    match readers {
        Readers::Owner => disk::replace_private(path, bytes)?,
        Readers::Everybody => disk::replace(path, bytes)?,
    }
    Ok(())
}

/// Writes a secret to a file that must not be there yet.
pub(crate) fn write_new_secret(path: &Path, bytes: &[u8]) -> Result<(), FileError> {
    if exists(path)? {
        return Err(FileError::Exists { path: path.to_owned() });
    }
    replace(path, bytes, Readers::Owner)
}

/// Removes a file; one that is not there is fine.
pub(crate) fn remove(path: &Path) -> Result<(), FileError> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(IoError::at("remove", path)(error).into())
        }
        _ => Ok(()),
    }
}

/// Whether something is at `path`.
pub(crate) fn exists(path: &Path) -> Result<bool, FileError> {
    Ok(path.try_exists().map_err(IoError::at("inspect", path))?)
}

#[cfg(test)]
mod tests {
    use std::fs::{Permissions, set_permissions};

    use super::*;

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_cure() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("site.key");
        replace(&path, b"secret", Readers::Owner).unwrap();
        for (mode, fine) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            set_permissions(&path, Permissions::from_mode(mode)).unwrap();
            let read = read_secret(&path);
            assert_eq!(read.is_ok(), fine, "{mode:o}");
            if let Err(error) = read {
                let told = error.to_string();
                assert!(told.contains("chmod 600") && told.contains("site.key"), "{told}");
            }
        }
    }

    #[test]
    fn missing_and_oversized_files_say_so() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("tls.key");
        let told = read_text(&path).unwrap_err();
        assert!(matches!(told, FileError::Missing { .. }));
        assert!(told.to_string().ends_with("tls.key does not exist"), "{told}");
        assert!(matches!(read_secret(&path), Err(FileError::Missing { .. })));
        for noise in [vec![b'x'; SECRET_BYTES_MAX + 1], vec![0xff, 0xfe]] {
            replace(&path, &noise, Readers::Owner).unwrap();
            assert!(matches!(read_secret(&path), Err(FileError::NotASecret { .. })));
        }
        assert!(matches!(write_new_secret(&path, b"x"), Err(FileError::Exists { .. })));
    }
}
