//! Atomic replacement of one file: a reader, or a start after a crash, sees the old content or the
//! new, never a mixture.
//!
//! The order is what makes it so: write a temporary file in the same folder, sync it, rename it
//! over the old one, sync the folder. When the call has returned, the new content lasts.

use std::ffi::OsStr;
use std::fs::{File, Permissions};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::folder::{parent_of, sync_folder};
use crate::error::IoError;

/// Temporary files start with this, so that [`sweep_temporary`] knows them.
const TEMPORARY_PREFIX: &str = ".new-";

/// Who may read the new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// As the process's umask says (0666 & !umask).
    Umask,
    /// The owner alone (0600): keys and everything secret.
    Private,
}

impl Access {
    const fn mode(self) -> u32 {
        match self {
            Self::Umask => 0o666,
            Self::Private => 0o600,
        }
    }
}

/// Replaces `path` by `bytes`.
///
/// # Errors
/// Any step failed; the old content is still there unless only the last sync failed.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    replace_with(path, Access::Umask, |writer| writer.write_all(bytes))
}

/// Replaces `path` by `bytes`, readable by the owner alone.
///
/// # Errors
/// As [`replace`].
pub fn replace_private(path: &Path, bytes: &[u8]) -> Result<(), IoError> {
    replace_with(path, Access::Private, |writer| writer.write_all(bytes))
}

/// Replaces `path` by what `write` produces, without holding it in memory; gives back what it says.
///
/// # Errors
/// As [`replace`]; an error of `write` leaves the old content.
pub fn replace_with<T>(
    path: &Path,
    access: Access,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<T>,
) -> Result<T, IoError> {
    let folder = parent_of(path);
    let temporary = tempfile::Builder::new()
        .prefix(TEMPORARY_PREFIX)
        .permissions(Permissions::from_mode(access.mode()))
        .tempfile_in(folder)
        .map_err(IoError::at("create a temporary file in", folder))?;

    let mut writer = BufWriter::new(temporary.as_file());
    let written = write(&mut writer).and_then(|value| writer.flush().map(|()| value));
    let value = written.map_err(IoError::at("write", path))?;
    drop(writer);

    temporary.as_file().sync_data().map_err(IoError::at("sync", path))?;
    temporary.persist(path).map_err(|e| IoError::at("rename a new file to", path)(e.error))?;
    sync_folder(folder)?;
    Ok(value)
}

/// Removes the temporary files that a killed process left in `folder`; says how many. Call it at
/// start, under the folder's lock.
///
/// # Errors
/// The folder cannot be read, or a file cannot be removed.
pub fn sweep_temporary(folder: &Path) -> Result<usize, IoError> {
    let mut swept = 0;
    for entry in folder.read_dir().map_err(IoError::at("read the folder", folder))? {
        let entry = entry.map_err(IoError::at("read the folder", folder))?;
        if is_temporary(&entry.file_name()) {
            let path = entry.path();
            std::fs::remove_file(&path).map_err(IoError::at("remove", &path))?;
            swept += 1;
        }
    }
    Ok(swept)
}

fn is_temporary(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(TEMPORARY_PREFIX.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> = folder
            .read_dir()
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn the_new_content_is_there_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"one").unwrap();
        replace(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn a_writer_that_fails_at_any_byte_leaves_the_old_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"old").unwrap();
        let new = vec![7_u8; 20_000]; // more than the writer's buffer
        for cut in (0..new.len()).step_by(997) {
            let error = replace_with(&path, Access::Umask, |writer| {
                writer.write_all(&new[..cut])?;
                Err::<(), _>(io::Error::other("the disk is full"))
            });
            let text = error.unwrap_err().to_string();
            assert!(text.contains("state") && text.contains("disk is full"), "{text}");
            assert_eq!(fs::read(&path).unwrap(), b"old");
            assert_eq!(names(folder.path()), ["state"]);
        }
    }

    #[test]
    fn a_kill_before_the_rename_leaves_the_old_content_and_a_file_that_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("state");
        replace(&path, b"old").unwrap();
        let kill = std::panic::catch_unwind(|| {
            let _ = replace_with::<()>(&path, Access::Private, |writer| {
                writer.write_all(b"half of the n")?;
                writer.flush()?;
                // What a kill leaves: the temporary file, as its destructor never runs.
                for entry in folder.path().read_dir()?.flatten() {
                    if is_temporary(&entry.file_name()) {
                        fs::copy(entry.path(), folder.path().join(".new-killed"))?;
                    }
                }
                panic!("killed");
            });
        });
        assert!(kill.is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(names(folder.path()), [".new-killed", "state"]);
        assert_eq!(sweep_temporary(folder.path()).unwrap(), 1);
        assert_eq!(names(folder.path()), ["state"]);
    }

    #[test]
    fn a_private_file_is_for_its_owner_alone_even_over_an_open_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        replace(&path, b"public").unwrap();
        replace_private(&path, b"secret").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_missing_folder_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let text = replace(&folder.path().join("no/such"), b"").unwrap_err().to_string();
        assert!(text.contains("create a temporary file in") && text.contains("/no"), "{text}");
    }
}
