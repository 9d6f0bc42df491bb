//! The daemon's end: accepts, reads a line, asks the driver, writes a line. Bounded in connections,
//! bytes and time, so that nothing on this machine can hold the daemon up.

use std::fs::{self, Permissions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

use super::{REQUEST_BYTES_MAX, Reply, Request};
use crate::lines::{Line, LineReader};

/// People who ask at once.
const CONNECTIONS_MAX: usize = 16;
/// A connection that asks nothing for so long is closed.
const IDLE: Duration = Duration::from_secs(30);
/// After a failed accept (too many open files), not at once again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// A request on its way to the driver, and where the reply goes.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub request: Request,
    /// Who asks, as the kernel says: the user id at the other end of the socket.
    pub uid: Option<u32>,
    /// To whom.
    pub reply: oneshot::Sender<Reply>,
}

/// Listens on `path`, for this user alone. The caller holds the state folder's lock, so a socket
/// that is there is a dead process's.
///
/// # Errors
/// The path is too long for a socket (107 bytes), or the system refused.
pub fn listen(path: &Path) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Serves until dropped.
pub async fn serve(listener: UnixListener, ask: mpsc::Sender<Asked>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let ask = ask.clone();
                tokio::spawn(async move {
                    converse(stream, ask).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the control socket cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, ask: mpsc::Sender<Asked>) {
    let uid = stream.peer_cred().ok().map(|peer| peer.uid());
    let (read, mut write) = stream.into_split();
    let mut lines = LineReader::new(read, REQUEST_BYTES_MAX);
    while let Ok(Ok(line)) = timeout(IDLE, lines.next()).await {
        let reply = match line {
            Line::Whole(line) => answer(&line, uid, &ask).await,
            Line::TooLong(_) => failed(format!("a request has at most {REQUEST_BYTES_MAX} bytes")),
            Line::End => return,
        };
        let Ok(mut bytes) = serde_json::to_vec(&reply) else {
            return;
        };
        bytes.push(b'\n');
        if !matches!(timeout(IDLE, write.write_all(&bytes)).await, Ok(Ok(()))) {
            return;
        }
    }
}

async fn answer(line: &[u8], uid: Option<u32>, ask: &mpsc::Sender<Asked>) -> Reply {
    let request: Request = match serde_json::from_slice(line) {
        Ok(request) => request,
        Err(error) => return failed(format!("not a request: {error}")),
    };
    let (reply, answer) = oneshot::channel();
    if ask.send(Asked { request, uid, reply }).await.is_err() {
        return failed("the agent is stopping".to_owned());
    }
    answer.await.unwrap_or_else(|_| failed("the agent is stopping".to_owned()))
}

fn failed(message: String) -> Reply {
    Reply::Failed { message }
}
