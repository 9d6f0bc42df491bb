//! The one owner of the log: a thread that takes all records that wait, writes them, syncs once, and
//! then answers each (group commit). Tree, index and checkpoint follow the log here and nowhere else.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use consilium_common::audit::record::StudySubmitted;
use consilium_common::audit::tree::leaf_hash;
use consilium_common::audit::{Checkpoint, Record, RollCall};
use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::time::{Clock, WallMillis};
use consilium_common::wire::messages::LogHead;
use consilium_io::IoError;
use consilium_io::disk::log::VisitResult;
use consilium_io::disk::{Log, LogError, StateLock, sweep_temporary};
use tokio::sync::{mpsc, oneshot};

use super::checkpoint::{self, Writer};
use super::index::{Index, Indexed};
use super::schema::{self, Key};
use super::{Exported, Pending, Store, StoreError};
use crate::limits::{GROUP_COMMIT_MAX, STORE_QUEUE_MAX};

mod export;
mod history;
mod start;

use export::Hashed;
use history::History;

pub use start::Report;

/// What a store is opened with.
#[derive(Debug)]
pub struct Setup<'a> {
    /// The state folder; it exists.
    pub folder: &'a Path,
    /// Name of the log: the consortium.
    pub origin: &'a str,
    /// The coordinator's log key: signs checkpoints.
    pub key: &'a SecretKey,
    /// Stamps records.
    pub clock: Arc<dyn Clock>,
}

/// The store on this machine's disk. Dropped or closed, it lets go of the state folder.
#[derive(Debug)]
pub struct LogStore {
    requests: mpsc::Sender<Request>,
    /// Durable records.
    records: Arc<AtomicU64>,
    thread: Mutex<Option<JoinHandle<()>>>,
    path: PathBuf,
    /// How much of the file was hashed for auditors.
    hashed: Arc<Mutex<Hashed>>,
}

#[derive(Debug)]
enum Request {
    Append { kind: u16, payload: Vec<u8>, keys: Vec<Key>, answer: Answer },
    Find { key: Key, answer: oneshot::Sender<Result<Option<Record>, StoreError>> },
    Head { answer: oneshot::Sender<Head> },
    Consistency { first: u64, answer: oneshot::Sender<Result<LogHead, StoreError>> },
    Close,
}

/// The signed head of all that is durable, and the bytes of the file that it covers.
type Head = (Signed<Checkpoint>, u64);

type Answer = oneshot::Sender<Result<(), StoreError>>;

/// A record of the batch that is being written.
struct Waiting {
    keys: Vec<Key>,
    leaf: [u8; 32],
    offset: u64,
    answer: Answer,
}

impl LogStore {
    /// Takes the folder's lock, opens the log, holds it against its checkpoint, brings the index up
    /// to date and shows every record to `visit`. Blocks.
    ///
    /// # Errors
    /// The folder is in use; the log is damaged or not the one that the checkpoint was signed over;
    /// `visit` refused a record; the disk refused.
    pub fn open(
        setup: &Setup<'_>,
        visit: &mut dyn FnMut(&Record, WallMillis) -> VisitResult,
    ) -> Result<(Self, Report), StoreError> {
        let folder = setup.folder;
        let lock = StateLock::acquire(folder)?;
        let swept = sweep_temporary(folder)?;
        tracing::debug!(swept, "temporary files of an earlier process");
        let started = start::read(setup, visit)?;
        let checkpoints = checkpoint::writer(folder.join(schema::CHECKPOINT), setup.key.clone())?;
        // A killed process left one that is up to a second old, or none.
        if started.log.records() > 0 {
            checkpoints.leave(Checkpoint::of(setup.origin, started.history.tree()));
        }
        let (requests, queue) = mpsc::channel(STORE_QUEUE_MAX);
        let records = Arc::new(AtomicU64::new(started.log.records()));
        let keeper = Keeper {
            durable_bytes: started.log.bytes(),
            log: started.log,
            history: started.history,
            index: started.index,
            checkpoints,
            origin: setup.origin.to_owned(),
            key: setup.key.clone(),
            clock: Arc::clone(&setup.clock),
            records: Arc::clone(&records),
            lock,
        };
        let thread = std::thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || keeper.run(queue))
            .map_err(IoError::at("start the thread of the log in", folder))?;
        let path = folder.join(schema::LOG);
        let (thread, hashed) = (Mutex::new(Some(thread)), Arc::default());
        let store = Self { requests, records, thread, path, hashed };
        Ok((store, started.report))
    }

    /// Writes what is queued and the checkpoint, and lets go of the folder.
    pub async fn close(&self) {
        // A closed queue means that the thread is gone already.
        let _gone = self.requests.send(Request::Close).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        if !matches!(joined, Ok(Ok(()))) {
            tracing::warn!("the thread of the log died: the next start reads what it wrote");
        }
    }

    async fn find(&self, key: Key) -> Result<Option<Record>, StoreError> {
        let (answer, found) = oneshot::channel();
        let request = Request::Find { key, answer };
        self.requests.send(request).await.map_err(|_| StoreError::Closed)?;
        found.await.map_err(|_| StoreError::Closed)?
    }

    async fn find_roll_call(&self, key: Key) -> Result<Option<Signed<RollCall>>, StoreError> {
        match self.find(key).await? {
            Some(Record::RollCall(ended)) => Ok(Some(ended.signed)),
            Some(_) => Err(StoreError::Astray),
            None => Ok(None),
        }
    }
}

#[async_trait]
impl Store for LogStore {
    fn records(&self) -> u64 {
        self.records.load(Ordering::Relaxed)
    }

    async fn submit(&self, record: &Record) -> Result<Pending, StoreError> {
        let (answer, pending) = Pending::new();
        let (kind, payload, keys) = (record.kind(), record.payload()?, schema::keys_of(record));
        let request = Request::Append { kind, payload, keys, answer };
        self.requests.send(request).await.map_err(|_| StoreError::Closed)?;
        Ok(pending)
    }

    async fn roll_call(
        &self,
        study: &StudyId,
        round: Round,
    ) -> Result<Option<Signed<RollCall>>, StoreError> {
        self.find_roll_call(schema::round_key(study, round)).await
    }

    async fn version(
        &self,
        study: &StudyId,
        version: Version,
    ) -> Result<Option<Signed<RollCall>>, StoreError> {
        self.find_roll_call(schema::version_key(study, version)).await
    }

    async fn study(&self, digest: Digest) -> Result<Option<StudySubmitted>, StoreError> {
        match self.find(schema::study_key(digest)).await? {
            Some(Record::StudySubmitted(submitted)) => Ok(Some(submitted)),
            Some(_) => Err(StoreError::Astray),
            None => Ok(None),
        }
    }

    async fn export(&self) -> Result<Exported, StoreError> {
        let (answer, head) = oneshot::channel();
        self.requests.send(Request::Head { answer }).await.map_err(|_| StoreError::Closed)?;
        let (checkpoint, bytes) = head.await.map_err(|_| StoreError::Closed)?;
        let (path, hashed) = (self.path.clone(), Arc::clone(&self.hashed));
        let opening = move || export::open(&path, bytes, &hashed);
        let opened = tokio::task::spawn_blocking(opening).await.map_err(|_| StoreError::Closed)?;
        let (source, digest) = opened?;
        Ok(Exported { checkpoint, source, digest })
    }

    async fn head(&self, witnessed: u64) -> Result<LogHead, StoreError> {
        let (answer, head) = oneshot::channel();
        let request = Request::Consistency { first: witnessed, answer };
        self.requests.send(request).await.map_err(|_| StoreError::Closed)?;
        head.await.map_err(|_| StoreError::Closed)?
    }
}

/// What the thread owns.
struct Keeper {
    log: Log,
    history: History,
    /// Bytes of the file that hold the tree's records.
    durable_bytes: u64,
    index: Index,
    checkpoints: Writer,
    origin: String,
    key: SecretKey,
    clock: Arc<dyn Clock>,
    records: Arc<AtomicU64>,
    lock: StateLock,
}

impl Keeper {
    fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        while let Some(first) = queue.blocking_recv() {
            let (mut batch, mut asked) = (Vec::new(), Vec::new());
            let mut closing = false;
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Append { kind, payload, keys, answer } => {
                        self.write(&mut batch, kind, &payload, keys, answer);
                    }
                    Request::Close => closing = true,
                    question @ (Request::Find { .. }
                    | Request::Head { .. }
                    | Request::Consistency { .. }) => asked.push(question),
                }
                let room = batch.len() + asked.len() < GROUP_COMMIT_MAX && !closing;
                next = if room { queue.try_recv().ok() } else { None };
            }
            self.commit(batch);
            for question in asked {
                self.answer(question);
            }
            if closing {
                break;
            }
        }
        self.index.flush();
        self.checkpoints.close();
        tracing::debug!(folder = %self.lock.folder().display(), "the store is closed");
    }

    /// Whoever asked may have gone meanwhile.
    fn answer(&mut self, question: Request) {
        match question {
            Request::Find { key, answer } => {
                let _gone = answer.send(self.find(&key));
            }
            Request::Head { answer } => {
                let _gone = answer.send(self.head());
            }
            Request::Consistency { first, answer } => {
                let _gone = answer.send(self.consistency(first));
            }
            Request::Append { .. } | Request::Close => {}
        }
    }

    /// Writes one record of a batch; a failure is answered at once.
    fn write(
        &mut self,
        batch: &mut Vec<Waiting>,
        kind: u16,
        payload: &[u8],
        keys: Vec<Key>,
        answer: Answer,
    ) {
        match self.log.append(kind, self.clock.wall(), payload) {
            Ok(offset) => {
                let leaf = leaf_hash(kind, payload);
                batch.push(Waiting { keys, leaf, offset, answer });
            }
            Err(error) => {
                let _gone = answer.send(Err(error.into()));
            }
        }
    }

    /// Makes a batch last, brings tree and index up to it, and answers.
    fn commit(&mut self, mut batch: Vec<Waiting>) {
        if batch.is_empty() {
            return;
        }
        let result =
            self.log.sync().map_err(StoreError::from).and_then(|()| self.follow(&mut batch));
        for waiting in batch {
            let _gone = waiting.answer.send(result.clone());
        }
        if result.is_ok() {
            self.checkpoints.leave(Checkpoint::of(&self.origin, self.history.tree()));
        }
    }

    fn follow(&mut self, batch: &mut [Waiting]) -> Result<(), StoreError> {
        let mut entries = Vec::new();
        for waiting in batch {
            let offset = waiting.offset;
            self.history.push(waiting.leaf, offset);
            entries.extend(waiting.keys.drain(..).map(|key| (key, offset)));
        }
        self.durable_bytes = self.log.bytes();
        let indexed = Indexed {
            records: self.log.records(),
            bytes: self.durable_bytes,
            root: self.history.tree().root(),
        };
        self.index.apply(entries, indexed)?;
        self.records.store(indexed.records, Ordering::Relaxed);
        Ok(())
    }

    /// The head of what is durable. After a failed write the log may hold more than the tree.
    fn head(&self) -> Head {
        let checkpoint = Checkpoint::of(&self.origin, self.history.tree());
        (Signed::sign(checkpoint.to_bytes(), &self.key), self.durable_bytes)
    }

    fn consistency(&mut self, first: u64) -> Result<LogHead, StoreError> {
        let proof = self.history.proof(first, &self.log)?.unwrap_or_default();
        let (signed, _) = self.head();
        Ok(LogHead { signed, proof })
    }

    fn find(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let found = self.look_up(key);
        if matches!(found, Err(StoreError::Astray)) {
            self.index.discard();
        }
        found
    }

    fn look_up(&self, key: &[u8]) -> Result<Option<Record>, StoreError> {
        let Some(offset) = self.index.get(key)? else {
            return Ok(None);
        };
        let record = match self.log.read_at(offset) {
            Ok(record) => record,
            Err(LogError::NoRecord { .. }) => return Err(StoreError::Astray),
            Err(other) => return Err(other.into()),
        };
        match Record::decode(record.kind, &record.payload)? {
            Some(record) if schema::keys_of(&record).iter().any(|have| have == key) => {
                Ok(Some(record))
            }
            _ => Err(StoreError::Astray),
        }
    }
}

#[cfg(test)]
mod tests;
