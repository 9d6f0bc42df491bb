//! A thread that writes the newest of what is left with it, off everyone's way: for what may be a
//! moment old, such as the signed head of a log.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::IoError;

#[derive(Debug)]
struct Desk<T> {
    /// The newest that is not written yet.
    newest: Option<T>,
    closing: bool,
}

/// Writes the newest value from time to time, and the last one when closed or dropped.
#[derive(Debug)]
pub struct Latest<T> {
    desk: Arc<(Mutex<Desk<T>>, Condvar)>,
    thread: Option<JoinHandle<()>>,
}

impl<T: Send + 'static> Latest<T> {
    /// Starts the thread `name`, which writes to `path` at most once an `interval`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub fn start(
        name: &str,
        path: &Path,
        interval: Duration,
        mut write: impl FnMut(T) -> Result<(), IoError> + Send + 'static,
    ) -> Result<Self, IoError> {
        let desk = Arc::new((Mutex::new(Desk { newest: None, closing: false }), Condvar::new()));
        let theirs = Arc::clone(&desk);
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(&theirs, interval, &mut write))
            .map_err(IoError::at("start the thread that writes", path))?;
        Ok(Self { desk, thread: Some(thread) })
    }

    /// Leaves the newest value for the thread.
    pub fn leave(&self, value: T) {
        let (desk, bell) = &*self.desk;
        lock(desk).newest = Some(value);
        bell.notify_one();
    }
}

impl<T> Latest<T> {
    /// Writes what was left last, and returns when it is durable.
    pub fn close(&mut self) {
        let (desk, bell) = &*self.desk;
        lock(desk).closing = true;
        bell.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::warn!("the thread that writes a log's signed head died");
        }
    }
}

impl<T> Drop for Latest<T> {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(desk: &Mutex<Desk<T>>) -> MutexGuard<'_, Desk<T>> {
    desk.lock().unwrap_or_else(PoisonError::into_inner)
}

fn run<T>(
    (desk, bell): &(Mutex<Desk<T>>, Condvar),
    interval: Duration,
    write: &mut impl FnMut(T) -> Result<(), IoError>,
) {
    loop {
        let waiting = |desk: &mut Desk<T>| desk.newest.is_none() && !desk.closing;
        let mut found =
            bell.wait_while(lock(desk), waiting).unwrap_or_else(PoisonError::into_inner);
        let Some(value) = found.newest.take() else {
            return;
        };
        drop(found);
        if let Err(error) = write(value) {
            tracing::warn!(%error, "the signed head was not written: the next one is tried");
        }
        let open = |desk: &mut Desk<T>| !desk.closing;
        drop(bell.wait_timeout_while(lock(desk), interval, open));
    }
}
