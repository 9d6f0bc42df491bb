//! A staged update as its readers see it.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use bytes::Bytes;

/// A staged update, open for reading.
#[derive(Debug)]
pub enum Staged {
    /// In memory.
    Memory(Bytes),
    /// In a file.
    File {
        /// The file, by position.
        file: File,
        /// Its length in bytes.
        length: u64,
    },
}

impl Staged {
    /// Its length in bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        match self {
            Self::Memory(bytes) => bytes.len() as u64,
            Self::File { length, .. } => *length,
        }
    }

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The update ends before, or the disk refused.
    pub fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        match self {
            Self::Memory(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let part = bytes.get(start..start.saturating_add(buffer.len()));
                buffer.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
                Ok(())
            }
            Self::File { file, .. } => file.read_exact_at(buffer, offset),
        }
    }
}
