//! Blobs by digest over one stream each, both ways, resumable at an offset.
//!
//! ```text
//! fetch   requester                         server
//!           request {digest, offset} ────►
//!             ◄──────── answer {status, length}     then bytes offset..length, then the end
//!
//! push    sender                            receiver
//!           request {digest, length,
//!                    context} ───────────►
//!             ◄──────── answer {status, offset}     0: go on from offset
//!           bytes offset..length, end ───►
//!             ◄──────── answer {status, length}     0: verified and stored
//! ```
//!
//! `header` has the bytes. Whoever receives verifies the digest; a name on a blob is never a claim
//! to be believed. One chunk of a blob is in memory at a time, at either end ([`Sink`] and
//! [`Source`] may keep small blobs in memory altogether).
//!
//! Two clocks (DESIGN.md §1, P6): a transfer fails when no byte moves for [`Pace::idle`]; as long
//! as bytes move it goes on. What arrived before a failure is kept by the sink.

mod chunks;
mod fetch;
mod header;
mod push;
mod sink;
mod source;

use std::fmt;
use std::time::Duration;

use consilium_common::wire::reject::Code;

pub use fetch::{FetchRequest, fetch};
pub use header::{CONTEXT_BYTES_MAX, Refusal};
pub use push::{Gate, PushRequest, push, push_through};
pub use sink::{MemorySink, PartialSink, Sink};
pub use source::Source;

use self::header::Request;
use super::carrier::CarrierError;
use super::stream::Stream;
use crate::disk::BlobError;
use crate::error::IoError;

/// When to give up, and whom to tell about progress.
pub struct Pace<'a> {
    /// The transfer fails when no byte moves for this long.
    pub idle: Duration,
    /// Called with the bytes of the blob that are through so far, counted from its start.
    pub progress: &'a mut (dyn FnMut(u64) + Send),
}

impl fmt::Debug for Pace<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pace").field("idle", &self.idle).finish_non_exhaustive()
    }
}

/// Why a transfer ended early. What arrived is kept unless [`TransferError::Blob`] says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The peer does not serve or take the blob.
    #[error("the peer refused the blob: {0}")]
    Refused(Refusal),
    /// No stream could be opened.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
    /// The stream or its connection is gone.
    #[error("the stream is gone: {0}")]
    Stream(#[from] std::io::Error),
    /// No byte moved.
    #[error("no byte moved for {} s", .0.as_secs_f64())]
    Idle(Duration),
    /// The stream ended before the blob did.
    #[error("the peer ended the stream at byte {have} of {length}")]
    Cut {
        /// Bytes that are here.
        have: u64,
        /// Bytes of the blob.
        length: u64,
    },
    /// The peer's bytes are not this protocol.
    #[error("the peer broke the transfer protocol: {0}")]
    Protocol(String),
    /// The blob is larger than its receiver expects.
    #[error("a blob of {length} bytes: at most {max} are taken here")]
    TooLarge {
        /// Its length as the peer says.
        length: u64,
        /// The bound.
        max: u64,
    },
    /// This side could not keep what arrived, or it was not the blob.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// This side does not let the bytes go.
    #[error("nothing was sent: {0}")]
    Held(String),
    /// This side could not read what it sends.
    #[error(transparent)]
    Read(#[from] IoError),
}

impl TransferError {
    /// What to tell the peer about this failure of ours.
    fn refusal(&self) -> Refusal {
        match self {
            Self::Blob(BlobError::Digest { .. }) => Refusal::Code(Code::DigestMismatch),
            Self::Blob(BlobError::Busy(_)) => Refusal::Code(Code::Busy),
            Self::Blob(BlobError::TooLarge { .. }) | Self::TooLarge { .. } => {
                Refusal::Code(Code::TooLarge)
            }
            Self::Blob(BlobError::Missing(_)) => Refusal::Missing,
            Self::Protocol(_) => Refusal::Code(Code::Malformed),
            Self::Blob(_)
            | Self::Read(_)
            | Self::Held(_)
            | Self::Refused(_)
            | Self::Carrier(_)
            | Self::Stream(_)
            | Self::Idle(_)
            | Self::Cut { .. } => Refusal::Failed,
        }
    }
}

/// What a peer asks for on a blob stream that it opened.
#[derive(Debug)]
pub enum Incoming {
    /// It wants a blob.
    Fetch(FetchRequest),
    /// It has a blob for us.
    Push(PushRequest),
}

/// Reads the request at the head of a blob stream.
///
/// # Errors
/// Not a request, or it did not come within `idle`.
pub async fn receive(mut stream: Stream, idle: Duration) -> Result<Incoming, TransferError> {
    let request = match header::read_request(&mut stream.recv, idle).await {
        Ok(request) => request,
        Err(error) => {
            header::refuse(&mut stream.send, error.refusal(), idle).await;
            return Err(error);
        }
    };
    Ok(match request {
        Request::Fetch { digest, offset } => {
            Incoming::Fetch(FetchRequest { digest, offset, idle, stream })
        }
        Request::Push { digest, length, context } => {
            Incoming::Push(PushRequest { digest, length, context, idle, stream })
        }
    })
}

#[cfg(test)]
mod tests;
