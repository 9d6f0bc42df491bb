//! The asking end: one request, one reply.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::{REPLY_BYTES_MAX, Reply, Request};
use crate::lines::{Line, LineReader};

/// The daemon answers at once; on a machine that swaps, later.
const PATIENCE: Duration = Duration::from_secs(20);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// No daemon.
    #[error(
        "no agent runs on this state folder ({} does not answer): start it with \
         `consilium-agent run --config FILE`", .0.display()
    )]
    NotRunning(PathBuf),
    /// Another user's daemon.
    #[error("{} belongs to another user: run this command as the agent's user", .0.display())]
    Forbidden(PathBuf),
    /// It broke off or answered something else.
    #[error("the agent did not answer as expected: {0}")]
    Answer(String),
}

/// Asks the daemon that listens on `socket`.
///
/// # Errors
/// Nobody listens, or no sensible answer came.
pub async fn ask(socket: &Path, request: &Request) -> Result<Reply, AskError> {
    let stream = UnixStream::connect(socket).await;
    let stream = stream.map_err(|error| {
        if error.kind() == ErrorKind::PermissionDenied {
            return AskError::Forbidden(socket.to_owned());
        }
        AskError::NotRunning(socket.to_owned())
    })?;
    timeout(PATIENCE, exchange(stream, request))
        .await
        .unwrap_or_else(|_| Err(format!("nothing came for {} s", PATIENCE.as_secs())))
        .map_err(AskError::Answer)
}

async fn exchange(mut stream: UnixStream, request: &Request) -> Result<Reply, String> {
    let mut line = serde_json::to_vec(request).map_err(|error| error.to_string())?;
    line.push(b'\n');
    stream.write_all(&line).await.map_err(|error| error.to_string())?;
    match LineReader::new(stream, REPLY_BYTES_MAX).next().await {
        Ok(Line::Whole(line)) => serde_json::from_slice(&line).map_err(|e| e.to_string()),
        Ok(Line::TooLong(_)) => Err(format!("a reply of over {REPLY_BYTES_MAX} bytes")),
        Ok(Line::End) => Err("it closed the connection".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
