//! The log's signed head in a small side file (`consilium_common::audit::checkpoint` has its form), and
//! the thread that writes it off everyone's way.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use consilium_common::audit::Checkpoint;
use consilium_common::signed::{PublicKey, SecretKey, Signed};
use consilium_io::IoError;
use consilium_io::disk::{TextError, read_text, replace_private};

use super::StoreError;
use crate::limits::CHECKPOINT_INTERVAL;

const CHECKPOINT_BYTES_MAX: usize = 4096;

/// Reads the checkpoint at `path`; `None` if there is none.
///
/// # Errors
/// It is not a checkpoint of `origin` signed by `key`, or cannot be read.
pub fn read(path: &Path, origin: &str, key: &PublicKey) -> Result<Option<Checkpoint>, StoreError> {
    let refuse = |reason: String| StoreError::Checkpoint { path: path.to_owned(), reason };
    let text = match read_text(path, CHECKPOINT_BYTES_MAX) {
        Ok(text) => text,
        Err(TextError::Missing { .. }) => return Ok(None),
        Err(TextError::Io(error)) => return Err(error.into()),
        Err(other) => return Err(refuse(other.to_string())),
    };
    let signed =
        Checkpoint::from_file(text.as_bytes()).map_err(|error| refuse(error.to_string()))?;
    let checkpoint = signed.verify(&[*key], 1).map_err(|error| refuse(error.to_string()))?;
    if checkpoint.origin != origin {
        return Err(refuse(format!("it is of {:?}, this is {origin:?}", checkpoint.origin)));
    }
    Ok(Some(checkpoint))
}

/// Signs and writes `checkpoint`, whole or not at all.
///
/// # Errors
/// The disk refused.
pub fn write(path: &Path, checkpoint: &Checkpoint, key: &SecretKey) -> Result<(), IoError> {
    let signed = Signed::<Checkpoint>::sign(checkpoint.to_bytes(), key);
    let bytes =
        Checkpoint::to_file(&signed).map_err(|error| IoError::at("encode", path)(error.into()))?;
    replace_private(path, &bytes)
}

#[derive(Debug, Default)]
struct Desk {
    /// The newest head that is not written yet.
    newest: Option<Checkpoint>,
    closing: bool,
}

/// Writes the newest checkpoint from time to time, and the last one when closed.
#[derive(Debug)]
pub struct Writer {
    desk: Arc<(Mutex<Desk>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Starts the thread.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(path: PathBuf, key: SecretKey) -> Result<Self, IoError> {
        let desk = Arc::new((Mutex::new(Desk::default()), Condvar::new()));
        let theirs = Arc::clone(&desk);
        let at = path.clone();
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(&theirs, &path, &key))
            .map_err(IoError::at("start the thread that writes", &at))?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Leaves the newest head for the thread. Its records must be durable.
    pub fn leave(&self, checkpoint: Checkpoint) {
        let (desk, bell) = &*self.desk;
        lock(desk).newest = Some(checkpoint);
        bell.notify_one();
    }

    /// Writes what was left last, and returns when it is durable.
    pub fn close(&mut self) {
        let (desk, bell) = &*self.desk;
        lock(desk).closing = true;
        bell.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that writes the checkpoint died");
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock(desk: &Mutex<Desk>) -> MutexGuard<'_, Desk> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run((desk, bell): &(Mutex<Desk>, Condvar), path: &Path, key: &SecretKey) {
    loop {
        let waiting = |desk: &mut Desk| desk.newest.is_none() && !desk.closing;
        let mut found =
            bell.wait_while(lock(desk), waiting).unwrap_or_else(PoisonError::into_inner);
        let Some(checkpoint) = found.newest.take() else {
            return;
        };
        drop(found);
        if let Err(error) = write(path, &checkpoint, key) {
            tracing::warn!(%error, "the checkpoint was not written: the next one is tried");
        }
        let open = |desk: &mut Desk| !desk.closing;
        drop(bell.wait_timeout_while(lock(desk), CHECKPOINT_INTERVAL, open));
    }
}
