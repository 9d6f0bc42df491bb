//! One established QUIC connection as a [`Carrier`], and how it ended.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use quinn::crypto::rustls::HandshakeData;
use quinn::{ConnectionError, VarInt};
use rustls::pki_types::CertificateDer;
use tokio::io::AsyncReadExt;
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::turns::{InTurn, Turns};
use super::windows::{Leased, Windows};
use crate::net::carrier::{Carrier, CarrierError, Closed, ClosedBy, Traffic};
use crate::net::stream::{RecvHalf, RecvStream, SendHalf, SendStream, Stream, StreamKind};

/// A stream that its opener leaves without its first byte for this long is refused.
const FIRST_BYTE_MAX: Duration = Duration::from_secs(5);
/// Streams of unknown kinds, or without their first byte, that a connection may open. A later version
/// may open a few of a kind of its own; more are a flood.
const STRANGE_STREAMS_MAX: u32 = 64;
/// Streams are refused with this code if their kind is unknown.
pub(super) const UNKNOWN_KIND: u32 = 8;

/// An established QUIC connection.
#[derive(Debug)]
pub(super) struct QuicCarrier {
    connection: quinn::Connection,
    /// Of the listener that this connection came to.
    windows: Option<Arc<Windows>>,
    turns: Arc<Turns>,
    /// A stream whose first byte has not come yet: kept here so that a dropped `accept` loses
    /// nothing.
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    stream: Option<(quinn::SendStream, quinn::RecvStream)>,
    strange: u32,
}

impl QuicCarrier {
    pub(super) fn new(connection: quinn::Connection, windows: Option<Arc<Windows>>) -> Self {
        Self { connection, windows, turns: Arc::default(), waiting: Mutex::default() }
    }

    fn stream(&self, kind: StreamKind, send: quinn::SendStream, recv: quinn::RecvStream) -> Stream {
        let windows = self.windows.as_ref().filter(|_| kind == StreamKind::Blob);
        let lease = windows.map(|windows| windows.lease(&self.connection));
        let send = InTurn::new(send, kind, &self.turns);
        let send = SendHalf::new(Leased::new(send, lease.clone()));
        Stream { kind, send, recv: RecvHalf::new(Leased::new(recv, lease)) }
    }
}

#[async_trait]
impl Carrier for QuicCarrier {
    async fn open(&self, kind: StreamKind) -> Result<Stream, CarrierError> {
        let (mut send, recv) = self.connection.open_bi().await.map_err(carrier_error)?;
        prioritise(&send, kind);
        send.write_all(&[kind.tag()])
            .await
            .map_err(|error| CarrierError::Stream(error.to_string()))?;
        Ok(self.stream(kind, send, recv))
    }

    async fn accept(&self) -> Result<Stream, CarrierError> {
        let mut waiting = self.waiting.lock().await;
        while waiting.strange < STRANGE_STREAMS_MAX {
            if waiting.stream.is_none() {
                waiting.stream = Some(self.connection.accept_bi().await.map_err(carrier_error)?);
            }
            let Some((_, recv)) = waiting.stream.as_mut() else {
                continue;
            };
            let tag = timeout(FIRST_BYTE_MAX, recv.read_u8()).await;
            let Some((mut send, mut recv)) = waiting.stream.take() else {
                continue;
            };
            match tag {
                Ok(Ok(tag)) if let Some(kind) = StreamKind::from_tag(tag) => {
                    prioritise(&send, kind);
                    return Ok(self.stream(kind, send, recv));
                }
                unknown => {
                    tracing::debug!(?unknown, peer = %self.remote_address(), "stream refused");
                    waiting.strange += 1;
                    SendStream::reset(&mut send, UNKNOWN_KIND);
                    RecvStream::stop(&mut recv, UNKNOWN_KIND);
                }
            }
        }
        let flood = format!("{STRANGE_STREAMS_MAX} streams were of no kind that is known here");
        Err(CarrierError::Stream(flood))
    }

    fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        let identity = self.connection.peer_identity();
        let chain = identity.and_then(|any| any.downcast::<Vec<CertificateDer<'static>>>().ok());
        chain.map_or_else(Vec::new, |chain| *chain)
    }

    fn alpn(&self) -> Vec<u8> {
        let data = self.connection.handshake_data();
        let data = data.and_then(|any| any.downcast::<HandshakeData>().ok());
        data.and_then(|data| data.protocol).unwrap_or_default()
    }

    fn remote_address(&self) -> SocketAddr {
        canonical(self.connection.remote_address())
    }

    fn close(&self, code: u32, reason: &str) {
        self.connection.close(VarInt::from_u32(code), reason.as_bytes());
    }

    async fn closed(&self) -> Closed {
        closed(&self.connection.closed().await)
    }

    fn traffic(&self) -> Traffic {
        let stats = self.connection.stats();
        Traffic { sent: stats.udp_tx.bytes, received: stats.udp_rx.bytes }
    }
}

fn prioritise(send: &quinn::SendStream, kind: StreamKind) {
    if send.set_priority(kind.priority()).is_err() {
        tracing::debug!("the stream was over before its first byte");
    }
}

impl SendStream for quinn::SendStream {
    fn reset(&mut self, code: u32) {
        // Fails only on a stream that is over already.
        let _over = Self::reset(self, VarInt::from_u32(code));
    }
}

impl RecvStream for quinn::RecvStream {
    fn stop(&mut self, code: u32) {
        // Fails only on a stream that is over already.
        let _over = Self::stop(self, VarInt::from_u32(code));
    }
}

/// IPv4 in IPv6 (dual-stack sockets) as plain IPv4.
pub(super) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn carrier_error(error: ConnectionError) -> CarrierError {
    CarrierError::Closed(closed(&error))
}

/// quinn's account of an end, in ours.
pub(super) fn closed(error: &ConnectionError) -> Closed {
    let fault = |reason: String| Closed { by: ClosedBy::Fault, code: 0, reason };
    let silence = |reason: &str| Closed { by: ClosedBy::Silence, code: 0, reason: reason.into() };
    match error {
        ConnectionError::LocallyClosed => {
            Closed { by: ClosedBy::Us, code: 0, reason: "as this program decided".into() }
        }
        ConnectionError::ApplicationClosed(close) => Closed {
            by: ClosedBy::Peer,
            code: u32::try_from(close.error_code.into_inner()).unwrap_or(u32::MAX),
            reason: String::from_utf8_lossy(&close.reason).into_owned(),
        },
        ConnectionError::ConnectionClosed(close) => {
            let words = String::from_utf8_lossy(&close.reason);
            fault(format!("the peer refused us: {}{words}", what(close.error_code)))
        }
        ConnectionError::TransportError(error) => {
            fault(format!("we refused the peer: {}{}", what(error.code), error.reason))
        }
        ConnectionError::TimedOut => silence("the peer fell silent"),
        ConnectionError::Reset => silence("the peer restarted and knows nothing of it"),
        ConnectionError::VersionMismatch => fault("no common version of QUIC".into()),
        ConnectionError::CidsExhausted => fault("too many connections on this socket".into()),
    }
}

/// The name of a TLS alert (RFC 9001 §4.8: codes 0x100 to 0x1ff), which the peer's words often
/// leave out.
fn what(code: quinn::TransportErrorCode) -> String {
    let code = u64::from(code);
    match u8::try_from(code ^ 0x100) {
        Ok(alert) => format!("TLS alert {:?}: ", rustls::AlertDescription::from(alert)),
        Err(_) => format!("QUIC error {code:#x}: "),
    }
}
