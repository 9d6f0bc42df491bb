//! Getting a blob by its digest, and serving one.

use std::time::Duration;

use consilium_common::ids::Digest;

use super::chunks::{receive_into, send_from, write_all};
use super::header::{self, Refusal, Request};
use super::{Pace, Sink, Source, TransferError};
use crate::net::carrier::Carrier;
use crate::net::stream::{Stream, StreamKind};

/// Fetches the blob that `sink` is for, from where the sink stands, and completes the sink.
/// Returns the blob's length.
///
/// A sink that holds more than the whole blob (an earlier transfer went wrong) begins again once.
///
/// # Errors
/// See [`TransferError`]; after any but [`TransferError::Blob`], a later call with a sink for the
/// same blob goes on where this one stopped.
pub async fn fetch(
    carrier: &dyn Carrier,
    sink: &mut dyn Sink,
    pace: &mut Pace<'_>,
) -> Result<u64, TransferError> {
    match fetch_once(carrier, sink, pace).await {
        Err(TransferError::Refused(Refusal::BadOffset)) if sink.received() > 0 => {
            tracing::warn!(digest = %sink.digest(), "what was received is too long: from byte 0");
            sink.restart().await?;
            fetch_once(carrier, sink, pace).await
        }
        result => result,
    }
}

async fn fetch_once(
    carrier: &dyn Carrier,
    sink: &mut dyn Sink,
    pace: &mut Pace<'_>,
) -> Result<u64, TransferError> {
    let Stream { mut send, mut recv, .. } = carrier.open(StreamKind::Blob).await?;
    let request = Request::Fetch { digest: sink.digest(), offset: sink.received() };
    write_all(&mut send, &request.encode(), pace.idle).await?;
    send.finish().await?;

    let length = header::read_answer(&mut recv, pace.idle).await?;
    let max = sink.bytes_max();
    if length > max {
        return Err(TransferError::TooLarge { length, max });
    }
    if length < sink.received() {
        return Err(TransferError::Refused(Refusal::BadOffset));
    }
    receive_into(&mut recv, sink, length, pace).await?;
    sink.complete().await?;
    Ok(length)
}

/// A peer's wish for a blob.
#[derive(Debug)]
pub struct FetchRequest {
    /// Which blob.
    pub digest: Digest,
    /// Bytes of it that the peer has.
    pub offset: u64,
    pub(super) idle: Duration,
    pub(super) stream: Stream,
}

impl FetchRequest {
    /// Sends the blob from the peer's offset on. Returns the bytes sent.
    ///
    /// # Errors
    /// The peer is gone or idle, or the source cannot be read.
    pub async fn serve(
        mut self,
        source: &Source,
        pace: &mut Pace<'_>,
    ) -> Result<u64, TransferError> {
        let length = source.length();
        let Some(left) = length.checked_sub(self.offset) else {
            self.refuse(Refusal::BadOffset).await;
            return Ok(0);
        };
        header::answer(&mut self.stream.send, length, pace.idle).await?;
        let sent = send_from(&mut self.stream.send, source, self.offset, pace, None).await;
        if sent.is_err() {
            // An end in good order would look like a cut on purpose.
            self.stream.send.reset(Refusal::Failed.number().into());
        }
        sent.map(|()| left)
    }

    /// Says why the blob is not served.
    pub async fn refuse(mut self, refusal: Refusal) {
        header::refuse(&mut self.stream.send, refusal, self.idle).await;
    }
}
