//! The issuing CA as a process of its own (`consilium ca serve`), behind a Unix socket that the
//! coordinator alone may open: one question a connection. It judges the signatures of operators and
//! sites by itself, so a coordinator that was taken over gets no certificate that nobody signed for.

mod service;

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use consilium_certs::rotation::RetiredCa;
use consilium_common::enrol::{Approval, EnrolRequest, RenewCoordinator, RenewRequest, Revocation};
use consilium_common::limits::FRAME_BODY_BYTES_MAX;
use consilium_common::signed::Signed;
use consilium_common::time::WallMillis;
use consilium_common::wire::codec::{self, CodecError};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

pub use service::{listen, serve};

/// A question and its answer: a signature, some file operations with their syncs.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(10);

/// What the coordinator asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// A site's first certificate.
    Grant {
        /// By the site key.
        request: Signed<EnrolRequest>,
        /// By an operator.
        approval: Signed<Approval>,
    },
    /// Its next one.
    Renew {
        /// By the site key.
        request: Signed<RenewRequest>,
    },
    /// No more certificates for a key.
    Revoke {
        /// By an operator.
        revocation: Signed<Revocation>,
    },
    /// The coordinator's own next certificate.
    RenewCoordinator {
        /// By the log key.
        request: Signed<RenewCoordinator>,
    },
    /// Which issuing CAs are over.
    Retired,
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// A certificate.
    Certified {
        /// It and the issuing CA's: PEM.
        chain: String,
        /// When it ends.
        until: WallMillis,
    },
    /// The revocation is kept.
    Revoked,
    /// No.
    Refused {
        /// Why.
        message: String,
    },
    /// The issuing CAs before the one in force.
    Retired(Vec<RetiredCa>),
}

/// Why the CA gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The configuration names none.
    #[error(
        "no issuing CA is connected: write `ca = \"SOCKET\"` in [coordinator] of consilium.toml, where \
         `consilium ca serve --socket SOCKET` listens"
    )]
    None,
    /// Nobody listens, or the connection broke off.
    #[error("the issuing CA at {path} does not answer ({source}): {}", unreachable_advice(source))]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not the bytes of an answer.
    #[error("the issuing CA's answer {0}")]
    Codec(#[from] CodecError),
    /// It refused.
    #[error("the issuing CA refuses: {0}")]
    Refused(String),
}

fn unreachable_advice(source: &io::Error) -> &'static str {
    if source.kind() == io::ErrorKind::PermissionDenied {
        return "put this user into the socket's group, which is that of the user of `consilium ca serve`";
    }
    "is `consilium ca serve` running?"
}

/// Asks the CA that listens on `socket`.
///
/// # Errors
/// Nobody answers, or it refuses.
pub async fn ask(socket: &Path, ask: &Ask) -> Result<Answer, AuthorityError> {
    let unreachable = |source| AuthorityError::Unreachable { path: socket.to_owned(), source };
    let bytes = codec::encode(ask)?;
    let exchange = async {
        let mut stream = UnixStream::connect(socket).await?;
        send(&mut stream, &bytes).await?;
        receive(&mut stream).await
    };
    let late = || io::Error::new(io::ErrorKind::TimedOut, "no answer in time");
    let answer = timeout(ANSWER_WAIT_MAX, exchange).await.unwrap_or_else(|_| Err(late()));
    match decode(&answer.map_err(unreachable)?)? {
        Answer::Refused { message } => Err(AuthorityError::Refused(message)),
        answer @ (Answer::Certified { .. } | Answer::Revoked | Answer::Retired(_)) => Ok(answer),
    }
}

/// Sends one message and ends this direction.
async fn send(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    stream.write_all(bytes).await?;
    stream.shutdown().await
}

/// All that comes until the other side ends its direction, of at most a message's size.
async fn receive(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let one_more = FRAME_BODY_BYTES_MAX as u64 + 1;
    stream.take(one_more).read_to_end(&mut bytes).await?;
    Ok(bytes)
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    codec::decode(bytes)
}
