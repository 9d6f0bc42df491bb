//! The carrier over QUIC (RFC 9000), by quinn. All numbers are in `tuning`.

mod connection;
mod gate;
mod reset;
mod tuning;
mod turns;
mod windows;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ConnectionError, Endpoint, TokioRuntime, VarInt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

pub use self::gate::Gate;

use self::connection::{QuicCarrier, canonical, closed};
use self::tuning::Side;
use self::windows::Windows;
use super::carrier::{Carrier, Closed, ClosedBy, ConnectError};

/// A listener gives up on a handshake after this long.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);
/// Handshakes at the same time. Beyond it strangers are turned away.
const HANDSHAKES_MAX: usize = 256;
/// Beyond this many, an address must prove itself first (RFC 9000 §8.1.2), so that forged senders
/// cost nothing.
const HANDSHAKES_TRUSTED_MAX: usize = 64;
/// Closing waits this long for the peer's last acknowledgements.
const CLOSING_MAX: Duration = Duration::from_secs(2);

/// Waits for connections on one UDP port.
#[derive(Debug)]
pub struct QuicListener {
    endpoint: Endpoint,
    tls: RwLock<ServerConfigs>,
    handshakes: Arc<Semaphore>,
    windows: Arc<Windows>,
}

/// The same TLS configuration, with the transport for either kind of network.
#[derive(Debug, Clone)]
struct ServerConfigs {
    ordinary: Arc<quinn::ServerConfig>,
    loopback: Arc<quinn::ServerConfig>,
}

impl ServerConfigs {
    fn new(tls: Arc<rustls::ServerConfig>) -> Result<Self, ConnectError> {
        let crypto = QuicServerConfig::try_from(tls)
            .map_err(|error| ConnectError::Configuration(error.to_string()))?;
        let base = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        let with_transport = |peer: IpAddr| {
            let mut config = base.clone();
            config.transport_config(Arc::new(tuning::transport(Side::Listener, peer)));
            tuning::bound_handshakes(&mut config);
            Arc::new(config)
        };
        Ok(Self {
            ordinary: with_transport(Ipv4Addr::UNSPECIFIED.into()),
            loopback: with_transport(Ipv4Addr::LOCALHOST.into()),
        })
    }

    fn for_peer(&self, peer: IpAddr) -> Arc<quinn::ServerConfig> {
        Arc::clone(if tuning::is_loopback(peer) { &self.loopback } else { &self.ordinary })
    }
}

impl QuicListener {
    /// Listens on `address`. Call it on a tokio runtime.
    ///
    /// # Errors
    /// The port is in use, the socket cannot be had, or the TLS configuration lacks TLS 1.3.
    pub fn bind(address: SocketAddr, tls: Arc<rustls::ServerConfig>) -> Result<Self, ConnectError> {
        Self::listen(address, tls, tuning::endpoint(true)?)
    }

    /// Listens on `address` as a server that comes back: peers of an earlier process with the same
    /// `secret` learn at their next packet that their connection is gone, instead of after
    /// [`CONNECTION_IDLE_MAX`](consilium_common::limits::CONNECTION_IDLE_MAX). Whoever has the
    /// secret can end connections, no more than that.
    ///
    /// # Errors
    /// As [`QuicListener::bind`].
    pub fn bind_lasting(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        secret: &[u8; 32],
    ) -> Result<Self, ConnectError> {
        let mut config = tuning::endpoint(true)?;
        reset::lasting(&mut config, secret);
        Self::listen(address, tls, config)
    }

    fn listen(
        address: SocketAddr,
        tls: Arc<rustls::ServerConfig>,
        config: quinn::EndpointConfig,
    ) -> Result<Self, ConnectError> {
        draw_randomness();
        let configs = ServerConfigs::new(tls)?;
        let server = quinn::ServerConfig::clone(&configs.ordinary);
        let endpoint = endpoint(address, Some(server), config)?;
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let windows = Arc::default();
        Ok(Self { endpoint, tls: RwLock::new(configs), handshakes, windows })
    }

    /// Uses another TLS configuration (renewed certificate, new revocation list) from the next
    /// handshake on. Live connections stay: the caller closes those that must not.
    ///
    /// # Errors
    /// The configuration lacks TLS 1.3; the earlier one stays in use.
    pub fn replace_tls(&self, tls: Arc<rustls::ServerConfig>) -> Result<(), ConnectError> {
        let configs = ServerConfigs::new(tls)?;
        self.endpoint.set_server_config(Some(quinn::ServerConfig::clone(&configs.ordinary)));
        *self.tls.write().unwrap_or_else(PoisonError::into_inner) = configs;
        Ok(())
    }

    /// The next peer that wants a connection; `None` after [`QuicListener::shut_down`]. The
    /// handshake itself is [`Handshake::finish`], to be run in a task of its own.
    pub async fn accept(&self) -> Option<Handshake> {
        self.accept_past(&gate::Open).await
    }

    /// The next peer that wants a connection and that `gate` lets pass.
    pub async fn accept_past(&self, gate: &dyn Gate) -> Option<Handshake> {
        loop {
            let incoming = self.endpoint.accept().await?;
            let peer = canonical(incoming.remote_address());
            let Some(incoming) = gate::pass(gate, incoming, peer.ip()) else { continue };
            let busy = HANDSHAKES_MAX - self.handshakes.available_permits();
            if busy >= HANDSHAKES_TRUSTED_MAX && incoming.may_retry() {
                if let Err(error) = incoming.retry() {
                    tracing::debug!(%peer, %error, "could not ask the address to prove itself");
                }
                continue;
            }
            let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
                tracing::warn!(%peer, "turned away: {HANDSHAKES_MAX} handshakes are under way");
                incoming.refuse();
                continue;
            };
            let config =
                self.tls.read().unwrap_or_else(PoisonError::into_inner).for_peer(peer.ip());
            match incoming.accept_with(config) {
                Ok(connecting) => {
                    let windows = Arc::clone(&self.windows);
                    return Some(Handshake { connecting, peer, windows, _permit: permit });
                }
                Err(error) => tracing::debug!(%peer, %error, "no handshake"),
            }
        }
    }

    /// Where it listens; tells the port if 0 was asked for.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_address(&self) -> Result<SocketAddr, ConnectError> {
        local_address(&self.endpoint)
    }

    /// Closes all connections and listens no more; returns when the peers know, or after a moment.
    pub async fn shut_down(&self, code: u32, reason: &str) {
        shut_down(&self.endpoint, code, reason).await;
    }
}

/// A connection that is not established yet.
#[derive(Debug)]
pub struct Handshake {
    connecting: quinn::Connecting,
    peer: SocketAddr,
    windows: Arc<Windows>,
    _permit: OwnedSemaphorePermit,
}

impl Handshake {
    /// Where the peer's packets come from.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.peer
    }

    /// Establishes the connection: both certificates are verified when this returns.
    ///
    /// # Errors
    /// One side refused the other, or the peer fell silent.
    pub async fn finish(self) -> Result<Arc<dyn Carrier>, ConnectError> {
        establish(self.connecting, self.peer, HANDSHAKE_MAX, Some(self.windows)).await
    }
}

/// Opens connections from one UDP socket.
#[derive(Debug)]
pub struct QuicDialer {
    endpoint: Endpoint,
}

impl QuicDialer {
    /// A socket for connections to `peer` and its like (IPv4 or IPv6, this machine or another).
    /// Call it on a tokio runtime.
    ///
    /// # Errors
    /// The socket cannot be had.
    pub fn bind(peer: SocketAddr) -> Result<Self, ConnectError> {
        draw_randomness();
        let any: IpAddr = match peer.ip() {
            IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let loopback = tuning::is_loopback(peer.ip());
        Ok(Self { endpoint: endpoint(SocketAddr::new(any, 0), None, tuning::endpoint(loopback)?)? })
    }

    /// Connects to `peer`, whose certificate must hold `server_name`, within `patience`.
    ///
    /// With TLS 1.3 this returns before the peer has judged *our* certificate: only its first
    /// message says that we are in; [`Carrier::closed`] says why not.
    ///
    /// # Errors
    /// No answer, or we refused the peer.
    pub async fn connect(
        &self,
        peer: SocketAddr,
        server_name: &str,
        tls: Arc<rustls::ClientConfig>,
        patience: Duration,
    ) -> Result<Arc<dyn Carrier>, ConnectError> {
        let crypto = QuicClientConfig::try_from(tls)
            .map_err(|error| ConnectError::Configuration(error.to_string()))?;
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(tuning::transport(Side::Dialer, peer.ip())));
        let connecting = self
            .endpoint
            .connect_with(config, peer, server_name)
            .map_err(|error| ConnectError::Configuration(error.to_string()))?;
        establish(connecting, peer, patience, None).await
    }

    /// The local address of the socket.
    ///
    /// # Errors
    /// The socket is gone.
    pub fn local_address(&self) -> Result<SocketAddr, ConnectError> {
        local_address(&self.endpoint)
    }

    /// Closes all connections; returns when the peers know, or after a moment.
    pub async fn shut_down(&self, code: u32, reason: &str) {
        shut_down(&self.endpoint, code, reason).await;
    }
}

/// Random bytes. The first use of aws-lc's generator takes about 60 ms: spend them before the first
/// handshake.
fn draw_randomness() -> [u8; 32] {
    let mut drawn = [0; 32];
    if rustls::crypto::aws_lc_rs::default_provider().secure_random.fill(&mut drawn).is_err() {
        tracing::warn!("the system gives no random numbers: handshakes will fail");
    }
    drawn
}

fn endpoint(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    config: quinn::EndpointConfig,
) -> Result<Endpoint, ConnectError> {
    let socket = tuning::socket(address)?;
    Endpoint::new(config, server, socket, Arc::new(TokioRuntime))
        .map_err(|source| ConnectError::Socket { address, source })
}

fn local_address(endpoint: &Endpoint) -> Result<SocketAddr, ConnectError> {
    endpoint.local_addr().map_err(|source| ConnectError::Socket {
        address: SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 0),
        source,
    })
}

async fn shut_down(endpoint: &Endpoint, code: u32, reason: &str) {
    endpoint.close(VarInt::from_u32(code), reason.as_bytes());
    if timeout(CLOSING_MAX, endpoint.wait_idle()).await.is_err() {
        tracing::debug!("some peers did not acknowledge the end");
    }
}

async fn establish(
    connecting: quinn::Connecting,
    address: SocketAddr,
    patience: Duration,
    windows: Option<Arc<Windows>>,
) -> Result<Arc<dyn Carrier>, ConnectError> {
    let connection = match timeout(patience, connecting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return Err(connect_error(address, &error)),
        Err(_) => {
            let reason = format!(
                "no answer within {} s: is it running, and is its UDP port open on the way?",
                patience.as_secs_f64()
            );
            return Err(ConnectError::Unreachable { address, reason });
        }
    };
    Ok(Arc::new(QuicCarrier::new(connection, windows)))
}

fn connect_error(address: SocketAddr, error: &ConnectionError) -> ConnectError {
    let Closed { by, reason, .. } = closed(error);
    match by {
        ClosedBy::Silence => ConnectError::Unreachable { address, reason },
        ClosedBy::Us | ClosedBy::Peer | ClosedBy::Fault => {
            ConnectError::Refused { address, reason }
        }
    }
}

#[cfg(test)]
mod tests;
