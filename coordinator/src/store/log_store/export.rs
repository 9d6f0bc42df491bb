//! The log's bytes for auditors: the front of the file that a signed head covers, named by its digest. The
//! file grows meanwhile and its front stays as it is.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;
use consilium_io::IoError;
use consilium_io::net::transfer::Source;

use crate::store::StoreError;

/// How much of the file was hashed: an export reads only what came since the last one.
#[derive(Debug, Default)]
pub(super) struct Hashed {
    hasher: blake3::Hasher,
    bytes: u64,
}

/// The first `bytes` of the log's file, to be sent, and their digest. Blocks.
pub(super) fn open(
    path: &Path,
    bytes: u64,
    hashed: &Mutex<Hashed>,
) -> Result<(Source, Digest), StoreError> {
    let file = File::open(path).map_err(IoError::at("open", path))?;
    let mut hashed = hashed.lock().unwrap_or_else(PoisonError::into_inner);
    if hashed.bytes > bytes {
        // Of two exports at once the later one came first.
        *hashed = Hashed::default();
    }
    hashed.go_on(&file, bytes).map_err(IoError::at("read", path))?;
    let digest = hashed.hasher.finalize().into();
    let source = Source::File { file: Arc::new(file), path: path.to_owned(), length: bytes };
    Ok((source, digest))
}

impl Hashed {
    fn go_on(&mut self, file: &File, to: u64) -> io::Result<()> {
        let mut chunk = Vec::new();
        while self.bytes < to {
            let want = usize::try_from(to - self.bytes).unwrap_or(usize::MAX).min(CHUNK_BYTES);
            chunk.resize(want, 0);
            file.read_exact_at(&mut chunk, self.bytes)?;
            self.hasher.update(&chunk);
            self.bytes += want as u64;
        }
        Ok(())
    }
}
