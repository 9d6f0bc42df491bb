//! Offering a blob to the peer, and taking one.

use std::time::Duration;

use async_trait::async_trait;
use consilium_common::ids::Digest;

use super::chunks::{receive_into, send_from, write_all};
use super::header::{self, CONTEXT_BYTES_MAX, Refusal, Request};
use super::{Pace, Sink, Source, TransferError};
use crate::net::carrier::Carrier;
use crate::net::stream::{Stream, StreamKind};

/// Asked before a blob's bytes are sent: whoever keeps a record of what leaves writes it here, and whoever
/// lets bytes go slowly says how slowly.
#[async_trait]
pub trait Gate: Send + Sync {
    /// Bytes `offset..offset + bytes` of the blob are about to be sent.
    ///
    /// # Errors
    /// Why they must not be; none is sent then.
    async fn pass(&mut self, offset: u64, bytes: u64) -> Result<(), String>;

    /// Whether [`Gate::delay`] is asked for every few bytes.
    fn throttles(&self) -> bool {
        false
    }

    /// How long to wait before so many bytes more may be sent.
    fn delay(&self, _bytes: u64) -> Duration {
        Duration::ZERO
    }
}

/// The gate of whoever keeps no record.
struct Open;

#[async_trait]
impl Gate for Open {
    async fn pass(&mut self, _offset: u64, _bytes: u64) -> Result<(), String> {
        Ok(())
    }
}

/// Pushes a blob, from where the peer stands, and waits until the peer has verified and stored it.
/// `context` tells the peer what it is for. Returns the bytes sent, 0 if the peer had it all.
///
/// # Errors
/// See [`TransferError`]; after any but [`TransferError::Refused`], a later push goes on where
/// this one stopped.
pub async fn push(
    carrier: &dyn Carrier,
    digest: Digest,
    context: &[u8],
    source: &Source,
    pace: &mut Pace<'_>,
) -> Result<u64, TransferError> {
    push_through(carrier, digest, context, source, pace, &mut Open).await
}

/// The same through a gate, which is asked once it is known which bytes are to go, if any are.
///
/// # Errors
/// As [`push`], and [`TransferError::Held`].
pub async fn push_through(
    carrier: &dyn Carrier,
    digest: Digest,
    context: &[u8],
    source: &Source,
    pace: &mut Pace<'_>,
    gate: &mut dyn Gate,
) -> Result<u64, TransferError> {
    let (have, length) = (context.len(), source.length());
    if have > CONTEXT_BYTES_MAX {
        return Err(TransferError::Protocol(format!("a context of {have} bytes is too long")));
    }
    let Stream { mut send, mut recv, .. } = carrier.open(StreamKind::Blob).await?;
    let request = Request::Push { digest, length, context: context.to_vec() };
    write_all(&mut send, &request.encode(), pace.idle).await?;

    let offset = header::read_answer(&mut recv, pace.idle).await?;
    let Some(left) = length.checked_sub(offset) else {
        let claim = format!("it claims to have {offset} bytes of a blob of {length}");
        return Err(TransferError::Protocol(claim));
    };
    let passed = if left > 0 { gate.pass(offset, left).await } else { Ok(()) };
    let sent = match passed {
        Ok(()) => send_from(&mut send, source, offset, pace, Some(&*gate)).await,
        Err(why) => Err(TransferError::Held(why)),
    };
    if let Err(error) = &sent
        && !matches!(error, TransferError::Stream(_))
    {
        send.reset(error.refusal().number().into());
        return sent.map(|()| left);
    }
    // If the peer stopped reading, its last answer says why.
    let stored = header::read_answer(&mut recv, pace.idle).await;
    if let Err(TransferError::Refused(_)) = stored {
        return stored;
    }
    sent?;
    stored?;
    Ok(left)
}

/// A peer's offer of a blob.
#[derive(Debug)]
pub struct PushRequest {
    /// Which blob.
    pub digest: Digest,
    /// Its length in bytes, at most `limits::BLOB_BYTES_MAX`.
    pub length: u64,
    /// What it is for, in the words of the protocol above; not trusted.
    pub context: Vec<u8>,
    pub(super) idle: Duration,
    pub(super) stream: Stream,
}

impl PushRequest {
    /// Takes the blob into `sink`, from where the sink stands, completes the sink and tells the
    /// peer that it is stored.
    ///
    /// # Errors
    /// See [`TransferError`]; the peer is told. If only the last answer was lost, the blob is
    /// stored all the same, and the peer's next push finds it.
    pub async fn take(
        mut self,
        sink: &mut dyn Sink,
        pace: &mut Pace<'_>,
    ) -> Result<(), TransferError> {
        let taken = self.take_into(sink, pace).await;
        if let Err(error) = &taken {
            self.stream.recv.stop(error.refusal().number().into());
            header::refuse(&mut self.stream.send, error.refusal(), pace.idle).await;
        }
        taken
    }

    async fn take_into(
        &mut self,
        sink: &mut dyn Sink,
        pace: &mut Pace<'_>,
    ) -> Result<(), TransferError> {
        let max = sink.bytes_max();
        if self.length > max {
            return Err(TransferError::TooLarge { length: self.length, max });
        }
        if sink.received() > self.length {
            sink.restart().await?;
        }
        header::answer(&mut self.stream.send, sink.received(), pace.idle).await?;
        receive_into(&mut self.stream.recv, sink, self.length, pace).await?;
        sink.complete().await?;
        self.confirm().await
    }

    /// Says that the blob is here already.
    ///
    /// # Errors
    /// The peer is gone.
    pub async fn already_stored(mut self) -> Result<(), TransferError> {
        header::answer(&mut self.stream.send, self.length, self.idle).await?;
        self.confirm().await
    }

    /// Says why the blob is not taken.
    pub async fn refuse(mut self, refusal: Refusal) {
        self.stream.recv.stop(refusal.number().into());
        header::refuse(&mut self.stream.send, refusal, self.idle).await;
    }

    async fn confirm(&mut self) -> Result<(), TransferError> {
        header::answer(&mut self.stream.send, self.length, self.idle).await?;
        Ok(self.stream.send.finish().await?)
    }
}
