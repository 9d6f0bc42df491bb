//! Where a blob's bytes go when this side receives.

use std::time::Duration;

use async_trait::async_trait;
use consilium_common::ids::Digest;
use tokio::task::JoinHandle;

use super::TransferError;
use super::source::blocking;
use crate::disk::{BlobError, Blobs, Durability, Partial};

/// An aborted transfer's last write may hold the partial file for moments more: how often and how
/// long to wait for it.
const BUSY_TRIES: u32 = 25;
const BUSY_WAIT: Duration = Duration::from_millis(20);

/// Receives one blob and decides at its end whether it is the right one.
#[async_trait]
pub trait Sink: Send {
    /// Which blob.
    fn digest(&self) -> Digest;

    /// Bytes that are here: the offset to ask for.
    fn received(&self) -> u64;

    /// The most bytes it takes.
    fn bytes_max(&self) -> u64;

    /// Takes the next bytes and gives an empty buffer back.
    async fn append(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, TransferError>;

    /// Waits until what was appended is kept.
    async fn settle(&mut self) -> Result<(), TransferError>;

    /// Forgets what is here, to begin again at byte 0.
    async fn restart(&mut self) -> Result<(), TransferError>;

    /// All bytes are here: checks the digest and keeps the blob. Called once.
    async fn complete(&mut self) -> Result<(), TransferError>;
}

/// Keeps a small blob in memory: no file, no sync.
#[derive(Debug)]
pub struct MemorySink {
    digest: Digest,
    bytes_max: u64,
    bytes: Vec<u8>,
}

impl MemorySink {
    /// For a blob of at most `bytes_max` bytes.
    #[must_use]
    pub fn new(digest: Digest, bytes_max: u64) -> Self {
        Self { digest, bytes_max, bytes: Vec::new() }
    }

    /// What was received; the blob once the transfer has returned well.
    #[must_use]
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

#[async_trait]
impl Sink for MemorySink {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn received(&self) -> u64 {
        self.bytes.len() as u64
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    async fn append(&mut self, mut chunk: Vec<u8>) -> Result<Vec<u8>, TransferError> {
        let have = self.bytes.len().saturating_add(chunk.len()) as u64;
        if have > self.bytes_max {
            return Err(TransferError::TooLarge { length: have, max: self.bytes_max });
        }
        if self.bytes.is_empty() {
            return Ok(std::mem::replace(&mut self.bytes, chunk));
        }
        self.bytes.append(&mut chunk);
        Ok(chunk)
    }

    async fn settle(&mut self) -> Result<(), TransferError> {
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), TransferError> {
        self.bytes.clear();
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), TransferError> {
        let found = Digest::of(&self.bytes);
        if found == self.digest {
            return Ok(());
        }
        self.bytes.clear();
        Err(BlobError::Digest { expected: self.digest, found }.into())
    }
}

/// Keeps a blob in a partial file of a blob folder, and what arrived of it across restarts.
///
/// Hashing and writing go on in the background while the next chunk is received; one chunk at
/// most waits.
#[derive(Debug)]
pub struct PartialSink {
    digest: Digest,
    received: u64,
    bytes_max: u64,
    durability: Durability,
    state: State,
}

/// A write in the background: the file, the buffer to use again, and how it went.
type Written = (Box<Partial>, Vec<u8>, Result<(), BlobError>);

#[derive(Debug)]
enum State {
    Ready(Box<Partial>),
    Writing(JoinHandle<Written>),
    /// Completed, or a call was dropped or failed half-way.
    Gone,
}

impl PartialSink {
    /// Begins or goes on receiving `digest`, of at most `bytes_max` bytes.
    ///
    /// # Errors
    /// Too large, being received already, or the disk refused.
    pub async fn resume(
        blobs: &Blobs,
        digest: Digest,
        bytes_max: u64,
        durability: Durability,
    ) -> Result<Self, TransferError> {
        let mut tries = 0;
        let partial = loop {
            let blobs = blobs.clone();
            match blocking(move || blobs.resume(digest, bytes_max)).await? {
                Err(BlobError::Busy(_)) if tries < BUSY_TRIES => {
                    tokio::time::sleep(BUSY_WAIT).await
                }
                result => break result?,
            }
            tries += 1;
        };
        let received = partial.received();
        Ok(Self { digest, received, bytes_max, durability, state: State::Ready(Box::new(partial)) })
    }

    /// Takes the partial file back from the write that is under way.
    async fn take(&mut self) -> Result<(Box<Partial>, Vec<u8>), TransferError> {
        let (partial, buffer, written) = match std::mem::replace(&mut self.state, State::Gone) {
            State::Ready(partial) => return Ok((partial, Vec::new())),
            State::Writing(task) => {
                task.await.map_err(|error| TransferError::Stream(std::io::Error::other(error)))?
            }
            State::Gone => return Err(BlobError::Broken(self.digest).into()),
        };
        written?;
        Ok((partial, buffer))
    }
}

#[async_trait]
impl Sink for PartialSink {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn received(&self) -> u64 {
        self.received
    }

    fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    async fn append(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, TransferError> {
        let (mut partial, mut spare) = self.take().await?;
        self.received += chunk.len() as u64;
        self.state = State::Writing(tokio::task::spawn_blocking(move || {
            let written = partial.append(&chunk);
            (partial, chunk, written)
        }));
        spare.clear();
        Ok(spare)
    }

    async fn settle(&mut self) -> Result<(), TransferError> {
        let (partial, _) = self.take().await?;
        self.state = State::Ready(partial);
        Ok(())
    }

    async fn restart(&mut self) -> Result<(), TransferError> {
        let (mut partial, _) = self.take().await?;
        let partial = blocking(move || partial.restart().map(|()| partial)).await??;
        self.received = 0;
        self.state = State::Ready(partial);
        Ok(())
    }

    async fn complete(&mut self) -> Result<(), TransferError> {
        let (partial, _) = self.take().await?;
        let durability = self.durability;
        Ok(blocking(move || partial.complete(durability)).await??)
    }
}
