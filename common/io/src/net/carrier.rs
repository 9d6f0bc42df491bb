//! One established connection to an authenticated peer, whatever carries it.
//!
//! Agents, the coordinator's server and operators use this trait only. QUIC is the carrier today;
//! TLS over TCP (where UDP is blocked) is another implementation of the same trait.

use std::fmt;
use std::net::SocketAddr;

use async_trait::async_trait;
use rustls::pki_types::CertificateDer;

use super::stream::{Stream, StreamKind};

/// Who ended a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClosedBy {
    /// This side, with [`Carrier::close`].
    Us,
    /// The peer, with a code and a reason.
    Peer,
    /// Nobody: nothing was heard for `limits::CONNECTION_IDLE_MAX`, or the peer restarted.
    Silence,
    /// A fault of the transport or of TLS: one side refused the other's bytes or certificate.
    Fault,
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Closed {
    /// Who ended it.
    pub by: ClosedBy,
    /// The closer's code; 0 for silence and faults.
    pub code: u32,
    /// The closer's words, or what the transport says.
    pub reason: String,
}

impl fmt::Display for Closed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { by, code, reason } = self;
        match by {
            ClosedBy::Us => write!(f, "closed by this side (code {code}: {reason})"),
            ClosedBy::Peer => write!(f, "closed by the peer (code {code}: {reason})"),
            ClosedBy::Silence => write!(f, "lost: {reason}"),
            ClosedBy::Fault => write!(f, "broken off: {reason}"),
        }
    }
}

/// An operation on an established connection failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CarrierError {
    /// The connection is gone.
    #[error("the connection was {0}")]
    Closed(Closed),
    /// The peer opens streams faster, or leaves more of them open, than it may.
    #[error("the stream was not opened: {0}")]
    Stream(String),
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Another program listens there.
    #[error(
        "UDP port {port} of {ip} is in use by another program: stop it, or set another port",
        port = .0.port(),
        ip = .0.ip()
    )]
    PortInUse(SocketAddr),
    /// Ports that only root may take.
    #[error(
        "UDP port {port} of {ip} may not be taken: ports below 1024 need root or \
         CAP_NET_BIND_SERVICE; take one above",
        port = .0.port(),
        ip = .0.ip()
    )]
    PortReserved(SocketAddr),
    /// The local socket could not be had.
    #[error("cannot open a UDP socket on {address}: {source}")]
    Socket {
        /// The local address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// The TLS configuration or the name cannot be used.
    #[error("the connection is not set up right: {0}")]
    Configuration(String),
    /// No answer, or not one that this program understands.
    #[error("{address} cannot be reached: {reason}")]
    Unreachable {
        /// The peer.
        address: SocketAddr,
        /// Why, as far as known.
        reason: String,
    },
    /// One side refused the other while connecting.
    #[error("no connection with {address}: {reason}")]
    Refused {
        /// The peer.
        address: SocketAddr,
        /// Which side, and why.
        reason: String,
    },
}

/// Bytes of a connection so far, with all overhead, as datagrams carry them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Sent to the peer.
    pub sent: u64,
    /// Received from the peer.
    pub received: u64,
}

/// One established connection to an authenticated peer.
#[async_trait]
pub trait Carrier: Send + Sync + fmt::Debug {
    /// Opens a stream. Waits while the peer allows no more of them.
    ///
    /// # Errors
    /// The connection is gone.
    async fn open(&self, kind: StreamKind) -> Result<Stream, CarrierError>;

    /// The next stream that the peer opens; one of an unknown kind is refused and passed over.
    /// A dropped call loses no stream. Call it from one task: a second caller waits.
    ///
    /// # Errors
    /// The connection is gone, or too many of its streams were of unknown kinds.
    async fn accept(&self) -> Result<Stream, CarrierError>;

    /// The peer's certificate chain, its own first; already verified. Empty if the peer showed
    /// none, which the TLS configuration must allow.
    fn peer_certificates(&self) -> Vec<CertificateDer<'static>>;

    /// The protocol that both sides agreed on.
    fn alpn(&self) -> Vec<u8>;

    /// Where the peer's packets come from.
    fn remote_address(&self) -> SocketAddr;

    /// Ends the connection; the peer sees code and reason.
    fn close(&self, code: u32, reason: &str);

    /// Waits until the connection is over and says how it ended.
    async fn closed(&self) -> Closed;

    /// Bytes so far.
    fn traffic(&self) -> Traffic;
}
