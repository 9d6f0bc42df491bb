//! Files that people write (configuration, studies, policies): read whole, never more than a bound,
//! and each way of being unreadable said in words that tell what to do.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};

use crate::error::IoError;

/// Why a text file was not read.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// There is no such file.
    #[error("{} does not exist", path.display())]
    Missing {
        /// The path as given.
        path: PathBuf,
    },
    /// A folder or device where a file was expected.
    #[error("{} is not a file", path.display())]
    NotAFile {
        /// The path as given.
        path: PathBuf,
    },
    /// More bytes than any honest file of its kind has.
    #[error("{} is larger than {max} bytes: is it the right file?", path.display())]
    TooLarge {
        /// The path as given.
        path: PathBuf,
        /// The bound in bytes.
        max: usize,
    },
    /// Bytes that are not UTF-8.
    #[error("{} is not UTF-8 text (byte {at}): save it as UTF-8", path.display())]
    NotText {
        /// The path as given.
        path: PathBuf,
        /// Offset of the first bad byte.
        at: usize,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] IoError),
}

/// Opens a file for reading. What is none is refused before it is opened: to open a FIFO in its place waits for a
/// writer, for ever.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if it is no file, or the system refused.
pub fn open_file(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file"));
    }
    File::open(path)
}

/// Reads a text file of at most `bytes_max` bytes.
///
/// # Errors
/// One variant of [`TextError`] per cause.
pub fn read_text(path: &Path, bytes_max: usize) -> Result<String, TextError> {
    String::from_utf8(read_file(path, bytes_max)?)
        .map_err(|e| TextError::NotText { path: path.to_owned(), at: e.utf8_error().valid_up_to() })
}

/// Reads any file of at most `bytes_max` bytes.
///
/// # Errors
/// One variant of [`TextError`] per cause.
pub fn read_file(path: &Path, bytes_max: usize) -> Result<Vec<u8>, TextError> {
    let file = match open_file(path) {
        Ok(file) => file,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            return Err(TextError::Missing { path: path.to_owned() });
        }
        Err(e) if e.kind() == ErrorKind::InvalidInput => {
            return Err(TextError::NotAFile { path: path.to_owned() });
        }
        Err(e) => return Err(IoError::at("open", path)(e).into()),
    };
    let mut bytes = Vec::new();
    let one_more = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(one_more).read_to_end(&mut bytes).map_err(IoError::at("read", path))?;
    if bytes.len() > bytes_max {
        return Err(TextError::TooLarge { path: path.to_owned(), max: bytes_max });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::replace;

    #[test]
    fn text_up_to_the_bound_is_read_and_one_byte_more_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("agent.toml");
        replace(&path, "name = \"ä\"".as_bytes()).unwrap();
        assert_eq!(read_text(&path, 11).unwrap(), "name = \"ä\"");
        assert!(matches!(read_text(&path, 10), Err(TextError::TooLarge { max: 10, .. })));
    }

    #[test]
    fn each_way_of_being_unreadable_has_its_own_words() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("study.toml");
        assert!(matches!(read_text(&path, 10), Err(TextError::Missing { .. })));
        assert!(matches!(read_text(folder.path(), 10), Err(TextError::NotAFile { .. })));
        let fifo = folder.path().join("fifo");
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        assert!(
            matches!(read_text(&fifo, 10), Err(TextError::NotAFile { .. })),
            "and nothing waits"
        );
        replace(&path, b"ab\xff").unwrap();
        assert!(matches!(read_text(&path, 10), Err(TextError::NotText { at: 2, .. })));
    }
}
