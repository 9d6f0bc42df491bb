//! The worker's half of the protocol (`consilium_common::worker`): one task in, replies out, and a
//! thread that listens for the end.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::time::{Clock, Millis};
use consilium_common::worker::{
    FailureCode, LineError, Phase, Reply, Request, Task, from_line, to_line,
};
use consilium_io::SystemClock;

use crate::failure::Failure;

/// Progress lines are at least this far apart, except for the first of a phase.
const PROGRESS_INTERVAL: Millis = Millis(100);

/// The socket that the daemon made file descriptor 0; `None` if it is anything else.
pub(crate) fn socket(stdin: BorrowedFd<'_>) -> io::Result<Option<UnixStream>> {
    let file = std::fs::File::from(stdin.try_clone_to_owned()?);
    let is_socket = file.metadata()?.file_type().is_socket();
    Ok(is_socket.then(|| UnixStream::from(std::os::fd::OwnedFd::from(file))))
}

/// Reads the task; `None` if the daemon asked for a stop, or closed, before giving one.
pub(crate) fn receive(from: &mut BufReader<UnixStream>) -> Result<Option<Box<Task>>, LineError> {
    match next_request(from)? {
        Some(Request::Task(task)) => Ok(Some(task)),
        Some(Request::Stop) | None => Ok(None),
    }
}

/// One request; `None` at the end of the connection.
fn next_request(from: &mut BufReader<UnixStream>) -> Result<Option<Request>, LineError> {
    let mut line = Vec::new();
    let bound = u64::try_from(WORKER_LINE_BYTES_MAX).unwrap_or(u64::MAX);
    // A connection that breaks is a closed one.
    if from.take(bound + 1).read_until(b'\n', &mut line).is_err() || line.is_empty() {
        return Ok(None);
    }
    from_line(&line).map(Some)
}

/// The way to the daemon while a task is done.
#[derive(Debug)]
pub(crate) struct Link {
    socket: UnixStream,
    stop: Arc<AtomicBool>,
    clock: SystemClock,
    throttle: Throttle,
}

impl Link {
    /// Answers on `socket`, and listens on `from` (the same connection) for `stop` or its end.
    pub(crate) fn open(socket: UnixStream, from: BufReader<UnixStream>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stop);
        // It ends with the process, or with the connection.
        thread::spawn(move || listen(from, &flag));
        let (clock, throttle) = (SystemClock::open(), Throttle::default());
        Self { socket, stop, clock, throttle }
    }

    /// Sends one reply.
    ///
    /// # Errors
    /// The daemon is gone: nobody wants the rest.
    pub(crate) fn say(&mut self, reply: &Reply) -> Result<(), Failure> {
        let told = |error: LineError| Failure::new(FailureCode::Internal, error.to_string());
        let line = to_line(reply).map_err(told)?;
        self.socket.write_all(&line).map_err(|_| Failure::stopped())
    }

    /// Called between two batches: something moved. Sends a line if one is due; `loss` is asked
    /// only then, because it waits for the device.
    ///
    /// # Errors
    /// A stop was asked for, the daemon is gone, or `loss` failed.
    pub(crate) fn moved(
        &mut self,
        phase: Phase,
        done: u64,
        total: u64,
        loss: impl FnOnce() -> Result<Option<f64>, Failure>,
    ) -> Result<(), Failure> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Failure::stopped());
        }
        if !self.throttle.is_due(phase, self.clock.now()) {
            return Ok(());
        }
        let loss = loss()?;
        self.say(&Reply::Progress { phase, done, total, loss })
    }
}

/// Whatever comes after the task is the end of it: `stop`, a closed connection, or a daemon that
/// does not keep to the protocol.
fn listen(mut from: BufReader<UnixStream>, stop: &AtomicBool) {
    match next_request(&mut from) {
        Ok(Some(Request::Stop) | None) => {}
        Ok(Some(Request::Task(_))) => crate::log("a second task came; a worker does one: stopping"),
        Err(error) => crate::log(&format!("{error}: stopping")),
    }
    stop.store(true, Ordering::Relaxed);
}

/// Which progress lines are worth sending.
#[derive(Debug, Default)]
struct Throttle {
    last: Option<(Phase, Millis)>,
}

impl Throttle {
    fn is_due(&mut self, phase: Phase, now: Millis) -> bool {
        let wait = |(last, at): (Phase, Millis)| last == phase && now.since(at) < PROGRESS_INTERVAL;
        if self.last.is_some_and(wait) {
            return false;
        }
        self.last = Some((phase, now));
        true
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn at_most_ten_lines_a_second_and_the_first_of_each_phase() {
        let mut throttle = Throttle::default();
        let due = |at: &u64| throttle.is_due(Phase::Training, Millis(*at));
        let lines: Vec<u64> = (0..1000).step_by(7).filter(due).collect();
        assert_eq!(lines.len(), 10, "{lines:?}");
        assert!(throttle.is_due(Phase::Saving, Millis(1000)));
        assert!(!throttle.is_due(Phase::Saving, Millis(1000)));
    }

    #[test]
    fn a_file_is_no_daemon() {
        let file = tempfile::tempfile().unwrap();
        assert!(socket(file.as_fd()).unwrap().is_none());
        let (ours, _theirs) = UnixStream::pair().unwrap();
        assert!(socket(ours.as_fd()).unwrap().is_some());
    }

    #[test]
    fn a_daemon_that_dies_or_rambles_stops_the_task() {
        for last_words in ["", "{\"kind\":\"stop\"}\n", "gibberish\n", "{\"kind\":\"sto"] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            let from = BufReader::new(ours.try_clone().unwrap());
            let mut link = Link::open(ours, from);
            link.moved(Phase::Loading, 0, 0, || Ok(None)).unwrap();
            theirs.write_all(last_words.as_bytes()).unwrap();
            theirs.shutdown(std::net::Shutdown::Write).unwrap();
            let stopped = (0..2000).find_map(|done| {
                thread::park_timeout(std::time::Duration::from_millis(2));
                link.moved(Phase::Loading, done, 0, || Ok(None)).err()
            });
            let code = stopped.map(|failure| failure.code);
            assert_eq!(code, Some(FailureCode::Stopped), "{last_words:?}");
        }
    }
}
