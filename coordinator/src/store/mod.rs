//! What lasts: records and blobs. Drivers and the server see two traits; behind them one machine's
//! disk today ([`log_store`], [`files`]), PostgreSQL and an object store later.
//!
//! The log is the truth. The index finds records in it again and is made anew whenever it is
//! missing, behind or broken; the checkpoint is the log's signed head, and the start checks the log
//! against it.

pub mod checkpoint;
pub mod files;
mod index;
pub mod log_store;
pub mod schema;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use consilium_common::audit::record::StudySubmitted;
use consilium_common::audit::{Checkpoint, ProofError, Record, RollCall};
use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::signed::Signed;
use consilium_common::wire::codec::CodecError;
use consilium_common::wire::messages::LogHead;
use consilium_io::IoError;
use consilium_io::disk::{BlobError, LockError, LogError};
use consilium_io::net::transfer::{PartialSink, Source, TransferError};
use tokio::sync::oneshot;

pub use index::IndexError;

/// Why a record was not written or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The state folder is another process's.
    #[error(transparent)]
    Lock(Arc<LockError>),
    /// The log is damaged, or the disk refused.
    #[error(transparent)]
    Log(Arc<LogError>),
    /// A file of the state folder.
    #[error(transparent)]
    Io(Arc<IoError>),
    /// The index cannot even be made anew.
    #[error("the index cannot be used: {0}")]
    Index(Arc<IndexError>),
    /// The checkpoint is not one, or not signed by this coordinator.
    #[error(
        "{} is not a checkpoint signed by this coordinator's log key ({reason}): put the right \
         certificate folder or state folder in the configuration, or bring the state back from a copy",
        path.display()
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The log is not the one that was signed.
    #[error(
        "the log's first {size} records are not those that its checkpoint was signed over: the log \
         was changed or exchanged. Nothing was changed now. Bring the state back from a copy"
    )]
    OtherLog {
        /// Records that the checkpoint covers.
        size: u64,
    },
    /// The index was written over more records than the log has.
    #[error(
        "{log}. What was synced is known from the index in {}. {}",
        index.display(),
        if *has_checkpoint {
            "Only if you have just put an older log and its checkpoint here: delete that folder, it is \
             made anew"
        } else {
            "It is the only thing here that still tells it: leave it where it is"
        }
    )]
    IndexAhead {
        /// What is wrong with the log.
        log: Arc<LogError>,
        /// The index's folder.
        index: PathBuf,
        /// A checkpoint stands beside the log, and the log holds what it covers.
        has_checkpoint: bool,
    },
    /// The index was written over other records than the log has, and no checkpoint says that they are
    /// the right ones.
    #[error(
        "the log's first {records} records are not those that the index in {} was written over, and no \
         checkpoint covers them: the log was changed, or one of both is of another folder. Nothing was \
         changed now. Bring the state folder back from a copy",
        index.display()
    )]
    OtherIndex {
        /// Records that the index covers.
        records: u64,
        /// The index's folder.
        index: PathBuf,
    },
    /// A record that cannot be encoded.
    #[error("the record cannot be written: {0}")]
    Record(#[from] CodecError),
    /// A record that was found is not the one that was looked for.
    #[error(
        "the index pointed to a record that is not the one looked for: restart, which rebuilds it"
    )]
    Astray,
    /// The log in memory is not the one on the disk.
    #[error("no proof could be made of the log: {0}; restart, which reads it again")]
    Proof(#[from] ProofError),
    /// The store was closed, or its thread died.
    #[error("the store is closed")]
    Closed,
}

impl From<LockError> for StoreError {
    fn from(error: LockError) -> Self {
        Self::Lock(Arc::new(error))
    }
}

impl From<LogError> for StoreError {
    fn from(error: LogError) -> Self {
        Self::Log(Arc::new(error))
    }
}

impl From<IoError> for StoreError {
    fn from(error: IoError) -> Self {
        Self::Io(Arc::new(error))
    }
}

impl From<IndexError> for StoreError {
    fn from(error: IndexError) -> Self {
        Self::Index(Arc::new(error))
    }
}

/// A record on its way: resolves once it is durable.
#[derive(Debug)]
pub struct Pending(oneshot::Receiver<Result<(), StoreError>>);

impl Pending {
    /// A record that somebody else will answer for.
    #[must_use]
    pub fn new() -> (oneshot::Sender<Result<(), StoreError>>, Self) {
        let (answer, pending) = oneshot::channel();
        (answer, Self(pending))
    }

    /// Waits until the record is durable.
    ///
    /// # Errors
    /// It may or may not be durable: only a restart tells.
    pub async fn durable(self) -> Result<(), StoreError> {
        self.0.await.unwrap_or(Err(StoreError::Closed))
    }
}

/// Records, in one order for all studies.
#[async_trait]
pub trait Store: Send + Sync + fmt::Debug {
    /// How many records are durable.
    fn records(&self) -> u64;

    /// Puts a record behind all that were submitted before. When a later one is durable, so is
    /// this one.
    ///
    /// # Errors
    /// The record is too large, or the store is closed.
    async fn submit(&self, record: &Record) -> Result<Pending, StoreError>;

    /// Writes a record and waits until it is durable.
    ///
    /// # Errors
    /// As [`Store::submit`] and [`Pending::durable`].
    async fn append(&self, record: &Record) -> Result<(), StoreError> {
        self.submit(record).await?.durable().await
    }

    /// The roll call of a closed round.
    ///
    /// # Errors
    /// The log or its index cannot be read.
    async fn roll_call(
        &self,
        study: &StudyId,
        round: Round,
    ) -> Result<Option<Signed<RollCall>>, StoreError>;

    /// The roll call that committed a version; none for v0.
    ///
    /// # Errors
    /// The log or its index cannot be read.
    async fn version(
        &self,
        study: &StudyId,
        version: Version,
    ) -> Result<Option<Signed<RollCall>>, StoreError>;

    /// A submitted study.
    ///
    /// # Errors
    /// The log or its index cannot be read.
    async fn study(&self, digest: Digest) -> Result<Option<StudySubmitted>, StoreError>;

    /// All durable records as an auditor gets them.
    ///
    /// # Errors
    /// The log cannot be read, or the store is closed.
    async fn export(&self) -> Result<Exported, StoreError>;

    /// The signed head of all durable records, with the proof that they go on from the first `witnessed`
    /// ones; without it if there are fewer.
    ///
    /// # Errors
    /// The log cannot be read, or the store is closed.
    async fn head(&self, witnessed: u64) -> Result<LogHead, StoreError>;
}

/// The log up to a signed head.
#[derive(Debug, Clone)]
pub struct Exported {
    /// The head.
    pub checkpoint: Signed<Checkpoint>,
    /// The bytes of the log's file that hold the records of the head, and no more.
    pub source: Source,
    /// BLAKE3 of those.
    pub digest: Digest,
}

/// Bytes by digest as compute threads have them: read by position, written from the start.
pub trait Bulk: Send + Sync + fmt::Debug {
    /// Opens a blob for positioned reads. Blocks.
    ///
    /// # Errors
    /// It is not here, or the disk refused.
    fn open(&self, digest: Digest) -> Result<Box<dyn ReadBlob>, BlobError>;

    /// Begins a blob. Blocks.
    ///
    /// # Errors
    /// The disk refused.
    fn create(&self) -> Result<Box<dyn WriteBlob>, BlobError>;
}

/// Bytes by digest: models and study texts.
#[async_trait]
pub trait Blobs: Bulk {
    /// Keeps bytes; durable when it returns.
    ///
    /// # Errors
    /// The disk refused.
    async fn put(&self, bytes: Vec<u8>) -> Result<Digest, BlobError>;

    /// The blob as something to send.
    ///
    /// # Errors
    /// It is not here, or the disk refused.
    async fn source(&self, digest: Digest) -> Result<Source, TransferError>;

    /// Takes a blob that a peer sends, of at most `bytes_max` bytes, from where an earlier transfer of
    /// it ended; durable when it is complete.
    ///
    /// # Errors
    /// It is being taken already, or the disk refused.
    async fn sink(&self, digest: Digest, bytes_max: u64) -> Result<PartialSink, TransferError>;
}

/// A blob being read by position.
pub trait ReadBlob: Send {
    /// Its length in bytes.
    fn length(&self) -> u64;

    /// Fills `buffer` from `offset` on.
    ///
    /// # Errors
    /// The blob ends before, or the disk refused.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()>;
}

/// A blob being written from its start.
pub trait WriteBlob: Send {
    /// Appends bytes.
    ///
    /// # Errors
    /// The disk refused.
    fn write(&mut self, bytes: &[u8]) -> Result<(), BlobError>;

    /// Makes it last and names it.
    ///
    /// # Errors
    /// The disk refused; nothing is left then.
    fn finish(self: Box<Self>) -> Result<Digest, BlobError>;
}
