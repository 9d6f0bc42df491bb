//! Streams from a peer that says anything: the request at the head of a blob stream, the answers
//! to our own requests, and frames as they arrive.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use consilium_common::ids::Digest;
use consilium_common::limits::BLOB_BYTES_MAX;
use consilium_common::wire::codec;
use consilium_common::wire::messages::UpdateContext;
use consilium_io::net::transfer::{
    CONTEXT_BYTES_MAX, Incoming, MemorySink, Pace, Source, TransferError, fetch, push, receive,
};
use consilium_io::net::{
    Carrier, CarrierError, Closed, ClosedBy, FrameReader, FramesError, RecvHalf, RecvStream,
    SendHalf, SendStream, Stream, StreamKind, Traffic,
};
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::runtime::{Builder, Runtime};

use super::frames::frames_of;
use super::shown;

/// Nobody waits here: all bytes are there.
const IDLE: Duration = Duration::from_secs(60);
/// What either side has to give.
const BLOB: &[u8] = b"consilium: thirty-two bytes here";
/// What this side takes.
const TAKEN_BYTES_MAX: u64 = 1 << 16;
const ANSWER_BYTES: usize = 10;

thread_local! {
    static RUNTIME: Runtime = Builder::new_current_thread().enable_time().build().unwrap();
}

pub(super) fn block_on<F: Future>(future: F) -> F::Output {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Bytes of the peer, a few at a time.
struct Said(Vec<u8>, usize);

impl AsyncRead for Said {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let rest = self.0.get(self.1..).unwrap_or_default();
        let piece = rest.get(..rest.len().min(buffer.remaining()).min(13)).unwrap_or_default();
        buffer.put_slice(piece);
        let read = piece.len();
        self.1 += read;
        Poll::Ready(Ok(()))
    }
}

impl RecvStream for Said {
    fn stop(&mut self, _: u32) {}
}

/// Bytes to the peer.
#[derive(Clone, Default)]
struct Heard(Arc<Mutex<Vec<u8>>>);

impl Heard {
    fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl SendStream for Heard {
    fn reset(&mut self, _: u32) {}
}

fn stream(said: &[u8]) -> (Stream, Heard) {
    let heard = Heard::default();
    let recv = RecvHalf::new(Said(said.to_vec(), 0));
    (Stream { kind: StreamKind::Blob, send: SendHalf::new(heard.clone()), recv }, heard)
}

/// A peer that gives the same answer to every stream.
#[derive(Debug)]
struct Peer(Vec<u8>);

#[async_trait]
impl Carrier for Peer {
    async fn open(&self, _: StreamKind) -> Result<Stream, CarrierError> {
        Ok(stream(&self.0).0)
    }

    async fn accept(&self) -> Result<Stream, CarrierError> {
        Err(CarrierError::Closed(self.closed().await))
    }

    fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        Vec::new()
    }

    fn alpn(&self) -> Vec<u8> {
        Vec::new()
    }

    fn remote_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 443).into()
    }

    fn close(&self, _: u32, _: &str) {}

    async fn closed(&self) -> Closed {
        Closed { by: ClosedBy::Peer, code: 0, reason: String::new() }
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// Frames read from a stream are those that the decoder finds in its bytes.
pub(super) fn control_stream(bytes: &[u8]) {
    let (frames, end) = frames_of(bytes, bytes.len().max(1));
    block_on(async {
        let mut reader = FrameReader::new(RecvHalf::new(Said(bytes.to_vec(), 0)));
        for frame in frames {
            assert_eq!(reader.next().await.unwrap(), Some(frame));
        }
        match reader.next().await {
            Ok(frame) => assert_eq!((frame, end), (None, Ok(()))),
            Err(FramesError::Frame(error)) => assert_eq!(Err(error), end),
            Err(FramesError::Stream(error)) => unreachable!("the stream has no errors: {error}"),
        }
    });
}

/// A request is refused with one answer, or served: a fetch with bytes of the blob from where the
/// peer stands, a push into a sink that takes the right bytes only.
pub(super) fn request(bytes: &[u8]) {
    let (stream, heard) = stream(bytes);
    let mut pace = Pace { idle: IDLE, progress: &mut |_| {} };
    block_on(async {
        match receive(stream, IDLE).await {
            Ok(Incoming::Fetch(request)) => {
                let source = Source::Bytes(BLOB.to_vec().into());
                let from = request.offset;
                let sent = request.serve(&source, &mut pace).await.unwrap();
                assert!(sent == 0 || from + sent == BLOB.len() as u64);
                assert_eq!(heard.bytes().len() as u64, ANSWER_BYTES as u64 + sent);
            }
            Ok(Incoming::Push(request)) => {
                assert!(request.context.len() <= CONTEXT_BYTES_MAX);
                assert!(request.length <= BLOB_BYTES_MAX);
                drop(codec::decode::<UpdateContext>(&request.context));
                let digest = request.digest;
                let mut sink = MemorySink::new(digest, TAKEN_BYTES_MAX);
                let taken = request.take(&mut sink, &mut pace).await;
                told(taken, bytes, || assert_eq!(Digest::of(&sink.into_bytes()), digest));
                assert!(heard.bytes().len() <= 2 * ANSWER_BYTES);
            }
            Err(error) => {
                shown(&error, bytes);
                assert_eq!(heard.bytes().len(), ANSWER_BYTES, "a refusal is one answer");
            }
        }
    });
}

fn told<T>(result: Result<T, TransferError>, bytes: &[u8], good: impl FnOnce()) {
    match result {
        Ok(_) => good(),
        Err(error) => shown(&error, bytes),
    }
}

/// The peer's answers to a fetch, then to a push.
pub(super) fn answer(bytes: &[u8]) {
    let (peer, digest) = (Peer(bytes.to_vec()), Digest::of(BLOB));
    let mut pace = Pace { idle: IDLE, progress: &mut |_| {} };
    block_on(async {
        let mut sink = MemorySink::new(digest, TAKEN_BYTES_MAX);
        let fetched = fetch(&peer, &mut sink, &mut pace).await;
        told(fetched, bytes, || assert_eq!(sink.into_bytes(), BLOB));
        let source = Source::Bytes(BLOB.to_vec().into());
        let pushed = push(&peer, digest, b"why", &source, &mut pace).await;
        told(pushed, bytes, || assert!(bytes.len() >= 2 * ANSWER_BYTES));
    });
}

pub(super) fn requests() -> Vec<Vec<u8>> {
    let head = |kind: u8, number: u64| {
        [&[kind], Digest::of(BLOB).0.as_slice(), &number.to_le_bytes()].concat()
    };
    let (study, round) = ("mnist".parse().unwrap(), consilium_common::ids::Round(300));
    let context = codec::encode(&UpdateContext { study, round }).unwrap();
    let length = u16::try_from(context.len()).unwrap().to_le_bytes();
    let push = [head(2, BLOB.len() as u64).as_slice(), &length, &context, BLOB].concat();
    let long_context = [head(2, 1).as_slice(), &[1, 1], &[0; 257]].concat();
    let giant = [head(2, u64::MAX).as_slice(), &[0, 0]].concat();
    let large = [head(2, TAKEN_BYTES_MAX + 1).as_slice(), &[0, 0]].concat();
    let wrong = [head(2, 3).as_slice(), &[0, 0], b"abc"].concat();
    let fetches = [head(1, 0), head(1, 5), head(1, 33), head(3, 0)];
    [fetches.to_vec(), vec![push, long_context, giant, large, wrong]].concat()
}

pub(super) fn answers() -> Vec<Vec<u8>> {
    let answer = |status: u16, position: u64| {
        [status.to_le_bytes().as_slice(), &position.to_le_bytes()].concat()
    };
    let length = BLOB.len() as u64;
    let fetched = [answer(0, length).as_slice(), BLOB].concat();
    let pushed = [answer(0, 5), answer(0, length)].concat();
    let refused = [0xff01, 0xff02, 0xff03, 21, 9999].map(|status| answer(status, 0));
    let cut = [answer(0, length).as_slice(), b"short"].concat();
    let wrong = [answer(0, 3).as_slice(), b"abc"].concat();
    [refused.to_vec(), vec![fetched, pushed, cut, wrong, answer(0, TAKEN_BYTES_MAX + 1)]].concat()
}
