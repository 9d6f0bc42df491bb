//! One task from its first line to the worker's exit: hello, progress, answer; and every way in
//! which that can go wrong.

use std::process::ExitStatus;
use std::time::Duration;

use consilium_common::limits::WORKER_LINE_BYTES_MAX;
use consilium_common::worker::{
    Outcome, Phase, Reply, Request, Task, WORKER_PROTOCOL, from_line, to_line,
};
use tokio::io::AsyncWriteExt;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Child;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::process::{Started, start};
use super::{Launch, WorkerFault, log};
use crate::lines::{Line, LineReader};

/// A worker that was told to stop, or has answered, is killed after this long.
const EXIT_PATIENCE: Duration = Duration::from_secs(5);

/// Something moved in the worker.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Moved {
    /// What it is doing.
    pub phase: Phase,
    /// Units done in this phase.
    pub done: u64,
    /// Of how many; 0 if unknown.
    pub total: u64,
    /// Mean training loss since the last line, where training.
    pub loss: Option<f64>,
}

/// How a task is watched.
pub struct Watch<'a> {
    /// No line for this long means that the worker hangs.
    pub idle: Duration,
    /// Cancelled when the task is to stop.
    pub stop: CancellationToken,
    /// Told of every line that shows progress; also that the worker lives.
    pub moved: &'a mut (dyn FnMut(Moved) + Send),
}

impl std::fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("idle", &self.idle).finish_non_exhaustive()
    }
}

/// Runs `task` in a worker of its own. When this returns, that process is gone; when the call is
/// dropped, it is killed.
///
/// # Errors
/// One variant of [`WorkerFault`] per cause.
pub async fn run_task(
    launch: &Launch,
    task: &Task,
    watch: Watch<'_>,
) -> Result<Outcome, WorkerFault> {
    let Started { mut child, socket } = start(launch, task.threads)?;
    let pid = child.id().unwrap_or(0);
    tracing::debug!(pid, worker = %launch, work = ?task.work, "worker started");
    let logged = child.stderr.take().map(|stderr| tokio::spawn(log::pass_on(stderr, pid)));
    let (read, write) = socket.into_split();
    let mut dialogue = Dialogue { lines: LineReader::new(read, WORKER_LINE_BYTES_MAX), write };
    let ended = dialogue.hold(task, watch).await;
    if matches!(ended, Err(WorkerFault::Stopped)) {
        dialogue.say_stop().await;
    }
    let gave_up = matches!(
        ended,
        Err(WorkerFault::Hung(_)
            | WorkerFault::LongLine
            | WorkerFault::Protocol(_)
            | WorkerFault::Version { .. })
    );
    let lines = dialogue.lines;
    let status = end(&mut child, dialogue.write, gave_up).await;
    drop(lines);
    let said = last_words(logged).await;
    match (ended, status) {
        (Err(WorkerFault::Closed), Some(status)) => Err(WorkerFault::Died { status, said }),
        (ended, _) => ended,
    }
}

/// Lets the worker exit by itself, unless we have given it up or it takes too long.
async fn end(child: &mut Child, write: OwnedWriteHalf, kill: bool) -> Option<ExitStatus> {
    drop(write);
    if !kill && let Ok(exited) = timeout(EXIT_PATIENCE, child.wait()).await {
        return exited.ok();
    }
    if let Err(error) = child.kill().await {
        tracing::warn!(%error, "a worker could not be killed");
    }
    None
}

async fn last_words(logged: Option<JoinHandle<Option<String>>>) -> Option<String> {
    // A process that the worker started may hold the pipe open: what it says is not waited for.
    timeout(EXIT_PATIENCE, logged?).await.ok()?.ok()?
}

struct Dialogue {
    lines: LineReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Dialogue {
    async fn hold(&mut self, task: &Task, watch: Watch<'_>) -> Result<Outcome, WorkerFault> {
        let Watch { idle, stop, moved } = watch;
        self.say(&Request::Task(Box::new(task.clone()))).await?;
        let mut greeted = false;
        loop {
            let reply = tokio::select! {
                biased;
                () = stop.cancelled() => return Err(WorkerFault::Stopped),
                reply = timeout(idle, self.hear()) => reply.map_err(|_| WorkerFault::Hung(idle))??,
            };
            match reply {
                Reply::Hello { protocol, worker, device } => {
                    if protocol != WORKER_PROTOCOL {
                        let theirs = protocol;
                        return Err(WorkerFault::Version { worker, theirs });
                    }
                    tracing::debug!(worker, device, "worker is ready");
                    greeted = true;
                }
                _ if !greeted => {
                    let text = "its first line is not a hello".to_owned();
                    return Err(WorkerFault::Protocol(text));
                }
                Reply::Progress { phase, done, total, loss } => {
                    moved(Moved { phase, done, total, loss })
                }
                Reply::Done(outcome) => return Ok(outcome),
                Reply::Failed { code, message } => {
                    return Err(WorkerFault::Failed { code, message });
                }
            }
        }
    }

    async fn hear(&mut self) -> Result<Reply, WorkerFault> {
        match self.lines.next().await {
            Ok(Line::Whole(line)) => {
                from_line(&line).map_err(|error| WorkerFault::Protocol(error.to_string()))
            }
            Ok(Line::TooLong(_)) => Err(WorkerFault::LongLine),
            Ok(Line::End) | Err(_) => Err(WorkerFault::Closed),
        }
    }

    async fn say(&mut self, request: &Request) -> Result<(), WorkerFault> {
        let line = to_line(request).map_err(|error| WorkerFault::Protocol(error.to_string()))?;
        self.write.write_all(&line).await.map_err(|_| WorkerFault::Closed)
    }

    /// Best effort: a worker that does not listen is killed a moment later.
    async fn say_stop(&mut self) {
        if timeout(EXIT_PATIENCE, self.say(&Request::Stop)).await.is_err() {
            tracing::debug!("the worker does not read that it should stop");
        }
    }
}
