//! Updates on their way in: small ones in memory within one budget, larger ones as files of a cache
//! folder, partial ones included. Nothing here is synced and nothing is believed: bytes count only
//! once their digest has been verified, by the receiving sink or, after a restart, by [`Stage::look`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use consilium_common::ids::{Digest, Round, StudyId};
use consilium_io::IoError;
use consilium_io::disk::{BlobError, Blobs, Durability};
use consilium_io::net::transfer::{MemorySink, PartialSink, Sink, TransferError};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::limits::{STAGE_LOOK_INTERVAL, STAGE_WAIT_MAX, STAGED_IN_MEMORY_BYTES_MAX};

mod staged;

pub use staged::Staged;

/// For which round bytes are staged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Purpose {
    /// Which study.
    pub study: StudyId,
    /// Which round.
    pub round: Round,
}

/// The staged updates of all studies. Shared by the server, which fills it, and the drivers.
#[derive(Debug)]
pub struct Stage {
    files: Blobs,
    budget: u64,
    desk: Mutex<Desk>,
    /// A push ended: whoever waits for the same bytes looks again.
    ended: Notify,
}

#[derive(Debug, Default)]
struct Desk {
    memory: BTreeMap<Digest, Bytes>,
    /// Bytes in memory and promised to sinks.
    used: u64,
    /// Files whose digest this process has seen to be right.
    verified: BTreeSet<Digest>,
    /// What is wanted by whom.
    wanted: BTreeMap<Digest, Purpose>,
    /// Files of an earlier process may lie about.
    leftovers: bool,
}

impl Desk {
    fn has(&self, digest: Digest) -> bool {
        self.memory.contains_key(&digest) || self.verified.contains(&digest)
    }
}

/// How a push begins.
#[derive(Debug)]
pub enum Begun {
    /// The bytes are here.
    Already,
    /// They go here.
    Sink(StageSink),
}

impl Stage {
    /// Opens the stage in `folder`; what an earlier process received is found again by digest.
    /// `budget` is the most bytes kept in memory. Blocks.
    ///
    /// # Errors
    /// The folder cannot be made or read.
    pub fn open(folder: &Path, budget: u64) -> Result<Self, BlobError> {
        let files = Blobs::open(folder)?;
        let leftovers = !files.list()?.is_empty() || !files.partials()?.is_empty();
        let desk = Mutex::new(Desk { leftovers, ..Desk::default() });
        Ok(Self { files, budget, desk, ended: Notify::new() })
    }

    /// Updates that lie in a folder of blobs, for reading: nothing is created and nothing is swept.
    #[must_use]
    pub fn look_at(folder: &Path) -> Self {
        let files = Blobs::look_at(folder);
        Self { files, budget: 0, desk: Mutex::default(), ended: Notify::new() }
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// True if the update is here, whole and right. A file that an earlier process left is read
    /// through once; a wrong one is removed.
    ///
    /// # Errors
    /// The disk refused.
    pub async fn look(
        self: &Arc<Self>,
        purpose: &Purpose,
        digest: Digest,
    ) -> Result<bool, BlobError> {
        {
            let mut desk = self.desk();
            desk.wanted.insert(digest, purpose.clone());
            if desk.has(digest) {
                return Ok(true);
            }
            if !desk.leftovers {
                return Ok(false);
            }
        }
        let stage = Arc::clone(self);
        let verified = tokio::task::spawn_blocking(move || match stage.files.verify(digest) {
            Ok(()) => {
                stage.desk().verified.insert(digest);
                Ok(true)
            }
            Err(BlobError::Missing(_)) => Ok(false),
            Err(BlobError::Digest { .. }) => stage.files.remove(digest).map(|_| false),
            Err(other) => Err(other),
        });
        verified.await.unwrap_or_else(|error| Err(thread_died(error)))
    }

    /// Begins to take `length` bytes of `digest`. If another push of the same bytes is under way,
    /// waits for its end and looks again.
    ///
    /// # Errors
    /// The disk refused, or the other push does not end.
    pub async fn begin(
        self: &Arc<Self>,
        purpose: &Purpose,
        digest: Digest,
        length: u64,
    ) -> Result<Begun, TransferError> {
        let waiting = async {
            loop {
                let mut ended = std::pin::pin!(self.ended.notified());
                ended.as_mut().enable();
                if self.look(purpose, digest).await? {
                    return Ok(Begun::Already);
                }
                match self.sink(digest, length).await {
                    Err(TransferError::Blob(BlobError::Busy(_))) => {
                        // A file's last write may let go of it only after its push has ended.
                        let _looks_again = timeout(STAGE_LOOK_INTERVAL, ended).await;
                    }
                    // Another push may have ended between the look and here.
                    Ok(_) if self.is_staged(digest) => return Ok(Begun::Already),
                    other => return other.map(Begun::Sink),
                }
            }
        };
        let busy = || Err(TransferError::Blob(BlobError::Busy(digest)));
        timeout(STAGE_WAIT_MAX, waiting).await.unwrap_or_else(|_| busy())
    }

    async fn sink(
        self: &Arc<Self>,
        digest: Digest,
        length: u64,
    ) -> Result<StageSink, TransferError> {
        let kind = if self.promise(length) {
            Kind::Memory { sink: MemorySink::new(digest, length), promised: length }
        } else {
            let partial =
                PartialSink::resume(&self.files, digest, length, Durability::Cache).await?;
            Kind::File(partial)
        };
        Ok(StageSink { stage: Arc::clone(self), digest, kind })
    }

    fn is_staged(&self, digest: Digest) -> bool {
        self.desk().has(digest)
    }

    /// Takes `length` bytes of the budget, if they are few and there.
    fn promise(&self, length: u64) -> bool {
        let mut desk = self.desk();
        let fits = length <= STAGED_IN_MEMORY_BYTES_MAX && desk.used + length <= self.budget;
        if fits {
            desk.used += length;
        }
        fits
    }

    /// Opens a staged update. Blocks on a file.
    ///
    /// # Errors
    /// It is not here, or the disk refused.
    pub fn open_update(&self, digest: Digest) -> Result<Staged, BlobError> {
        if let Some(bytes) = self.desk().memory.get(&digest) {
            return Ok(Staged::Memory(bytes.clone()));
        }
        let file = self.files.open_file(digest)?;
        let path = self.files.path_of(digest);
        let length = file.metadata().map_err(IoError::at("inspect", &path))?.len();
        Ok(Staged::File { file, length })
    }

    /// True if reading the update touches no disk.
    #[must_use]
    pub fn in_memory(&self, digest: Digest) -> bool {
        self.desk().memory.contains_key(&digest)
    }

    /// Lets go of what was staged for rounds of `study` up to `round`, and, once nobody wants
    /// anything, of what earlier processes left. Returns the files to remove: removing blocks.
    #[must_use]
    pub fn forget(&self, study: &StudyId, round: Round) -> Vec<Digest> {
        let mut desk = self.desk();
        let over = |purpose: &Purpose| purpose.study == *study && purpose.round <= round;
        let gone: Vec<Digest> =
            desk.wanted.iter().filter(|(_, purpose)| over(purpose)).map(|(d, _)| *d).collect();
        let mut files = Vec::new();
        for digest in gone {
            desk.wanted.remove(&digest);
            match desk.memory.remove(&digest) {
                Some(bytes) => desk.used = desk.used.saturating_sub(bytes.len() as u64),
                None => files.push(digest),
            }
            desk.verified.remove(&digest);
        }
        files
    }

    /// Removes files that [`Stage::forget`] named, whole or partial. Blocks.
    pub fn remove_files(&self, digests: &[Digest]) {
        for digest in digests {
            let removed = self.files.remove(*digest).map(|_| ());
            if let Err(error) = removed.and_then(|()| self.files.discard_partial(*digest)) {
                tracing::debug!(?digest, %error, "a staged update stays until the next restart");
            }
        }
        self.sweep();
    }

    /// Removes everything that nobody wants: what an earlier process left for rounds that are over.
    /// Does nothing while anything is wanted. Blocks.
    pub fn sweep(&self) {
        {
            let mut desk = self.desk();
            if !desk.leftovers || !desk.wanted.is_empty() {
                return;
            }
            desk.leftovers = false;
        }
        let swept = self.files.list().and_then(|mut all| {
            all.extend(self.files.partials()?);
            for (digest, _) in &all {
                self.files.remove(*digest)?;
                self.files.discard_partial(*digest)?;
            }
            Ok(all.len())
        });
        match swept {
            Ok(files) => tracing::debug!(files, "staged updates of closed rounds are gone"),
            Err(error) => tracing::warn!(%error, "the stage was not swept: the next restart will"),
        }
    }
}

fn thread_died(error: tokio::task::JoinError) -> BlobError {
    let source = io::Error::other(error);
    BlobError::Io(IoError { op: "read", path: "stage".into(), source })
}

/// Receives one update into the stage.
#[derive(Debug)]
pub struct StageSink {
    stage: Arc<Stage>,
    digest: Digest,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Memory { sink: MemorySink, promised: u64 },
    File(PartialSink),
    Done,
}

impl StageSink {
    fn inner(&mut self) -> Result<&mut dyn Sink, TransferError> {
        match &mut self.kind {
            Kind::Memory { sink, .. } => Ok(sink),
            Kind::File(sink) => Ok(sink),
            Kind::Done => Err(BlobError::Broken(self.digest).into()),
        }
    }
}

#[async_trait]
impl Sink for StageSink {
    fn digest(&self) -> Digest {
        self.digest
    }

    fn received(&self) -> u64 {
        match &self.kind {
            Kind::Memory { sink, .. } => sink.received(),
            Kind::File(sink) => sink.received(),
            Kind::Done => 0,
        }
    }

    fn bytes_max(&self) -> u64 {
        match &self.kind {
            Kind::Memory { sink, .. } => sink.bytes_max(),
            Kind::File(sink) => sink.bytes_max(),
            Kind::Done => 0,
        }
    }

    async fn append(&mut self, chunk: Vec<u8>) -> Result<Vec<u8>, TransferError> {
        self.inner()?.append(chunk).await
    }

    async fn settle(&mut self) -> Result<(), TransferError> {
        self.inner()?.settle().await
    }

    async fn restart(&mut self) -> Result<(), TransferError> {
        self.inner()?.restart().await
    }

    async fn complete(&mut self) -> Result<(), TransferError> {
        self.inner()?.complete().await?;
        let kind = std::mem::replace(&mut self.kind, Kind::Done);
        let mut desk = self.stage.desk();
        match kind {
            Kind::Memory { sink, promised } => {
                let bytes = Bytes::from(sink.into_bytes());
                let kept = bytes.len() as u64;
                let before = desk.memory.insert(self.digest, bytes);
                let twice = before.map_or(0, |before| before.len() as u64);
                desk.used = (desk.used + kept).saturating_sub(promised + twice);
            }
            Kind::File(_) | Kind::Done => {
                desk.verified.insert(self.digest);
            }
        }
        Ok(())
    }
}

impl Drop for StageSink {
    fn drop(&mut self) {
        if let Kind::Memory { promised, .. } = self.kind {
            let mut desk = self.stage.desk();
            desk.used = desk.used.saturating_sub(promised);
        }
        // The partial file's claim must be free when the waiting ones look.
        self.kind = Kind::Done;
        self.stage.ended.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn purpose(study: &str, round: u64) -> Purpose {
        Purpose { study: study.parse().unwrap(), round: Round(round) }
    }

    fn open(folder: &Path, budget: u64) -> Arc<Stage> {
        Arc::new(Stage::open(folder, budget).unwrap())
    }

    async fn push(stage: &Arc<Stage>, purpose: &Purpose, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        let Begun::Sink(mut sink) = stage.begin(purpose, digest, bytes.len() as u64).await.unwrap()
        else {
            panic!("it is here already")
        };
        for chunk in bytes.chunks(50_000) {
            sink.append(chunk.to_vec()).await.unwrap();
        }
        sink.complete().await.unwrap();
        digest
    }

    fn read(stage: &Stage, digest: Digest) -> Vec<u8> {
        let staged = stage.open_update(digest).unwrap();
        let mut bytes = vec![0; usize::try_from(staged.length()).unwrap()];
        staged.read_at(0, &mut bytes).unwrap();
        bytes
    }

    #[tokio::test]
    async fn small_updates_stay_in_memory_within_the_budget_and_large_ones_are_files() {
        let folder = tempfile::tempdir().unwrap();
        let stage = open(folder.path(), 1500);
        let round = purpose("demo", 1);
        let (a, b, c) = (vec![1; 1000], vec![2; 1000], vec![3; 200_000]);
        let a_digest = push(&stage, &round, &a).await;
        let b_digest = push(&stage, &round, &b).await;
        let c_digest = push(&stage, &round, &c).await;
        assert!(stage.in_memory(a_digest));
        assert!(!stage.in_memory(b_digest), "over the budget");
        assert!(!stage.in_memory(c_digest), "over the size");
        for (digest, bytes) in [(a_digest, a), (b_digest, b), (c_digest, c)] {
            assert_eq!(read(&stage, digest), bytes);
            assert!(stage.look(&round, digest).await.unwrap());
            let again = stage.begin(&round, digest, bytes.len() as u64).await.unwrap();
            assert!(matches!(again, Begun::Already));
        }
        let files = stage.forget(&round.study, round.round);
        stage.remove_files(&files);
        assert!(stage.open_update(a_digest).is_err() && stage.open_update(c_digest).is_err());
        let d = push(&stage, &round, &[4; 1000]).await;
        assert!(stage.in_memory(d), "the budget is free again");
    }

    #[tokio::test]
    async fn a_dropped_push_gives_its_budget_back_and_a_wrong_one_is_not_staged() {
        let folder = tempfile::tempdir().unwrap();
        let stage = open(folder.path(), 1000);
        let round = purpose("demo", 1);
        drop(stage.begin(&round, Digest([9; 32]), 1000).await.unwrap());
        let Begun::Sink(mut sink) = stage.begin(&round, Digest([8; 32]), 1000).await.unwrap()
        else {
            panic!("nothing is here")
        };
        sink.append(vec![0; 1000]).await.unwrap();
        assert!(sink.complete().await.is_err());
        drop(sink);
        assert!(!stage.look(&round, Digest([8; 32])).await.unwrap());
        let good = push(&stage, &round, &[1; 1000]).await;
        assert!(stage.in_memory(good));
    }

    #[tokio::test]
    async fn after_a_restart_whole_files_are_found_and_torn_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let (good, torn) = (vec![1; 100_000], vec![2; 100_000]);
        let round = purpose("demo", 1);
        let (good_digest, torn_digest) = {
            let stage = open(folder.path(), 0);
            (push(&stage, &round, &good).await, push(&stage, &round, &torn).await)
        };
        let path = Blobs::open(folder.path()).unwrap().path_of(torn_digest);
        consilium_io::disk::replace(&path, &torn[..5000]).unwrap();

        let stage = open(folder.path(), 0);
        assert!(stage.look(&round, good_digest).await.unwrap());
        assert!(!stage.look(&round, torn_digest).await.unwrap());
        assert_eq!(read(&stage, good_digest), good);
        assert_eq!(push(&stage, &round, &torn).await, torn_digest, "it can be pushed again");
    }

    #[tokio::test]
    async fn after_a_restart_a_push_goes_on_where_it_stopped() {
        let folder = tempfile::tempdir().unwrap();
        let bytes = vec![5; 300_000];
        let (digest, round) = (Digest::of(&bytes), purpose("demo", 1));
        {
            let stage = open(folder.path(), 0);
            let begun = stage.begin(&round, digest, 300_000).await.unwrap();
            let Begun::Sink(mut sink) = begun else { panic!("nothing is here") };
            sink.append(bytes[..100_000].to_vec()).await.unwrap();
            sink.settle().await.unwrap();
        }
        let stage = open(folder.path(), 0);
        let Begun::Sink(mut sink) = stage.begin(&round, digest, 300_000).await.unwrap() else {
            panic!("only a part is here")
        };
        assert_eq!(sink.received(), 100_000);
        sink.append(bytes[100_000..].to_vec()).await.unwrap();
        sink.complete().await.unwrap();
        assert_eq!(read(&stage, digest), bytes);
    }

    #[tokio::test]
    async fn leftovers_go_once_nobody_wants_anything() {
        let folder = tempfile::tempdir().unwrap();
        let (old, round) = (vec![1; 100_000], purpose("demo", 1));
        let digest = push(&open(folder.path(), 0), &round, &old).await;
        let stage = open(folder.path(), 0);
        let newer = push(&stage, &purpose("demo", 2), &[2; 100_000]).await;
        stage.sweep();
        assert!(stage.open_update(digest).is_ok(), "something is wanted still");
        let files = stage.forget(&round.study, Round(2));
        assert_eq!(files, [newer]);
        stage.remove_files(&files);
        assert!(stage.open_update(digest).is_err());
    }

    #[tokio::test]
    async fn a_second_push_of_the_same_bytes_waits_for_the_first() {
        let folder = tempfile::tempdir().unwrap();
        let stage = open(folder.path(), 0);
        let bytes = vec![3; 100_000];
        let (digest, round) = (Digest::of(&bytes), purpose("demo", 1));
        let Begun::Sink(mut first) = stage.begin(&round, digest, 100_000).await.unwrap() else {
            panic!("nothing is here")
        };
        let waiting = {
            let (stage, round) = (Arc::clone(&stage), round.clone());
            tokio::spawn(async move { stage.begin(&round, digest, 100_000).await })
        };
        tokio::task::yield_now().await;
        first.append(bytes).await.unwrap();
        first.complete().await.unwrap();
        drop(first);
        assert!(matches!(waiting.await.unwrap().unwrap(), Begun::Already));
    }
}
