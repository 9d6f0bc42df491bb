//! Moving a blob's bytes between a stream and a sink or source, a chunk at a time.

use std::future::Future;
use std::io;
use std::time::Duration;

use bytes::BufMut;
use consilium_common::limits::TRANSFER_CHUNK_BYTES;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::{Gate, Pace, Sink, Source, TransferError};
use crate::net::stream::{RecvHalf, SendHalf};

/// What is sent between two looks at the throttle: at the slowest rate that a site may choose, 0.1 Mbit/s,
/// this takes 1.3 s, far from any time-out.
const THROTTLED_BYTES: usize = 16 << 10;

/// Runs one step of a transfer, which must end within `idle`.
pub(super) async fn in_time<T>(
    idle: Duration,
    step: impl Future<Output = io::Result<T>>,
) -> Result<T, TransferError> {
    match timeout(idle, step).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(TransferError::Idle(idle)),
    }
}

/// Writes all of `bytes`; each part that the stream takes is progress.
pub(super) async fn write_all(
    send: &mut SendHalf,
    bytes: &[u8],
    idle: Duration,
) -> Result<(), TransferError> {
    write_counting(send, bytes, idle, &mut |_| {}).await
}

async fn write_counting(
    send: &mut SendHalf,
    mut bytes: &[u8],
    idle: Duration,
    sent: &mut (dyn FnMut(u64) + Send),
) -> Result<(), TransferError> {
    while !bytes.is_empty() {
        let written = in_time(idle, send.write(bytes)).await?;
        if written == 0 {
            return Err(io::Error::from(io::ErrorKind::WriteZero).into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
        sent(written as u64);
    }
    Ok(())
}

/// Sends `source` from `offset` to its end, and the end of the stream.
pub(super) async fn send_from(
    send: &mut SendHalf,
    source: &Source,
    offset: u64,
    pace: &mut Pace<'_>,
    gate: Option<&dyn Gate>,
) -> Result<(), TransferError> {
    let mut through = offset;
    let mut chunk = Vec::new();
    while through < source.length() {
        chunk = source.read(through, chunk).await?;
        let throttle = gate.filter(|gate| gate.throttles());
        for piece in chunk.chunks(throttle.map_or(TRANSFER_CHUNK_BYTES, |_| THROTTLED_BYTES)) {
            // A wait of our own is no silence of the peer's.
            let wait = throttle.map_or(Duration::ZERO, |gate| gate.delay(piece.len() as u64));
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
            let progress = &mut *pace.progress;
            write_counting(send, piece, pace.idle, &mut |sent| {
                through += sent;
                progress(through);
            })
            .await?;
        }
    }
    Ok(send.finish().await?)
}

/// Receives a blob's bytes up to `length` into `sink`, which has the first of them. What arrived
/// before an error is in the sink.
pub(super) async fn receive_into(
    recv: &mut RecvHalf,
    sink: &mut dyn Sink,
    length: u64,
    pace: &mut Pace<'_>,
) -> Result<(), TransferError> {
    let mut chunk = Vec::new();
    let mut have = sink.received();
    while have < length {
        let want = usize::try_from(length - have).unwrap_or(usize::MAX).min(TRANSFER_CHUNK_BYTES);
        chunk.reserve(want);
        let filled = fill(recv, &mut chunk, want, have, pace).await;
        let arrived = chunk.len() as u64;
        chunk = sink.append(chunk).await?;
        have += arrived;
        if let Err(error) = filled {
            sink.settle().await?;
            if matches!(error, TransferError::Cut { .. }) {
                return Err(TransferError::Cut { have, length });
            }
            return Err(error);
        }
    }
    Ok(())
}

/// Reads `want` bytes into `chunk`, or fewer and the reason why.
async fn fill(
    recv: &mut RecvHalf,
    chunk: &mut Vec<u8>,
    want: usize,
    before: u64,
    pace: &mut Pace<'_>,
) -> Result<(), TransferError> {
    while chunk.len() < want {
        let left = want - chunk.len();
        let mut room = (&mut *chunk).limit(left);
        let read = in_time(pace.idle, recv.read_buf(&mut room)).await?;
        let have = before + chunk.len() as u64;
        if read == 0 {
            return Err(TransferError::Cut { have, length: have });
        }
        (pace.progress)(have);
    }
    Ok(())
}
