//! Blobs on this machine's disk.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use async_trait::async_trait;
use consilium_common::ids::Digest;
use consilium_io::IoError;
use consilium_io::disk::{self, BlobError, BlobWriter, Durability};
use consilium_io::net::transfer::{PartialSink, Source, TransferError};

use super::{Blobs, Bulk, ReadBlob, WriteBlob};

/// A folder of blobs, all of them lasting.
#[derive(Debug, Clone)]
pub struct Files(disk::Blobs);

impl Files {
    /// Opens or creates the folder.
    ///
    /// # Errors
    /// The disk refused, or the folder has an unknown format.
    pub fn open(folder: &Path) -> Result<Self, BlobError> {
        disk::Blobs::open(folder).map(Self)
    }

    /// A folder that something else may own, for reading.
    #[must_use]
    pub fn look_at(folder: &Path) -> Self {
        Self(disk::Blobs::look_at(folder))
    }

    /// Reads a blob through and holds it against its digest. Blocks.
    ///
    /// # Errors
    /// It is not here, is another, or the disk refused.
    pub fn verify(&self, digest: Digest) -> Result<(), BlobError> {
        self.0.verify(digest)
    }
}

#[async_trait]
impl Blobs for Files {
    async fn put(&self, bytes: Vec<u8>) -> Result<Digest, BlobError> {
        let blobs = self.0.clone();
        let kept =
            tokio::task::spawn_blocking(move || blobs.put_bytes(&bytes, Durability::Lasting));
        kept.await.map_err(|error| {
            let source = io::Error::other(error);
            IoError { op: "keep a blob in", path: "blobs".into(), source }
        })?
    }

    async fn source(&self, digest: Digest) -> Result<Source, TransferError> {
        Source::blob(&self.0, digest).await
    }

    async fn sink(&self, digest: Digest, bytes_max: u64) -> Result<PartialSink, TransferError> {
        PartialSink::resume(&self.0, digest, bytes_max, Durability::Lasting).await
    }
}

impl Bulk for Files {
    fn open(&self, digest: Digest) -> Result<Box<dyn ReadBlob>, BlobError> {
        let file = self.0.open_file(digest)?;
        let path = self.0.path_of(digest);
        let length = file.metadata().map_err(IoError::at("inspect", &path))?.len();
        Ok(Box::new(Reading { file, length }))
    }

    fn create(&self) -> Result<Box<dyn WriteBlob>, BlobError> {
        Ok(Box::new(Writing(self.0.writer()?)))
    }
}

struct Reading {
    file: File,
    length: u64,
}

impl ReadBlob for Reading {
    fn length(&self) -> u64 {
        self.length
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }
}

struct Writing(BlobWriter);

impl WriteBlob for Writing {
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError> {
        self.0.write(bytes)
    }

    fn finish(self: Box<Self>) -> Result<Digest, BlobError> {
        self.0.finish(None, Durability::Lasting)
    }
}
