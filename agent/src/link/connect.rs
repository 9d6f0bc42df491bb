//! Name → addresses → one QUIC connection with both certificates judged.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::{Credentials, CredentialsError};
use consilium_certs::tls::{ClientConfig, TlsError, client_config};
use consilium_common::time::Clock;
use consilium_io::net::{Carrier, CarrierError, ConnectError, QuicDialer};
use tokio::net::lookup_host;
use tokio::time::timeout;

use crate::config::Endpoint;

/// One address is given up after this long; the session tries again later.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 8;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The name is unknown, or the resolver is.
    #[error("the name {host} cannot be resolved: {reason}; is the network up?")]
    Resolve {
        /// The host.
        host: String,
        /// What the resolver said.
        reason: String,
    },
    /// The certificate in the bundle.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The TLS configuration.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Every address failed; this is the last one's reason.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection went before it was of use.
    #[error(transparent)]
    Carrier(#[from] CarrierError),
}

/// Makes connections to one coordinator.
#[derive(Debug, Clone)]
pub struct Dialer {
    endpoint: Endpoint,
    clock: Arc<dyn Clock>,
}

/// A connection and the socket that it lives on.
#[derive(Debug)]
pub struct Dialed {
    /// The connection.
    pub carrier: Arc<dyn Carrier>,
    /// Its socket; shut down in good order at the end.
    pub socket: QuicDialer,
}

impl Dialer {
    /// For the coordinator at `endpoint`.
    #[must_use]
    pub fn new(endpoint: Endpoint, clock: Arc<dyn Clock>) -> Self {
        Self { endpoint, clock }
    }

    /// Connects as `us`, trying the name's addresses one after the other.
    ///
    /// # Errors
    /// The name, the certificate, or every address failed.
    pub async fn dial(&self, us: &Credentials) -> Result<Dialed, LinkError> {
        self.dial_with(client_config(us, Arc::clone(&self.clock))?).await
    }

    /// Connects by this configuration.
    ///
    /// # Errors
    /// The name, or every address failed.
    pub async fn dial_with(&self, tls: Arc<ClientConfig>) -> Result<Dialed, LinkError> {
        let mut last = LinkError::Resolve {
            host: self.endpoint.host.clone(),
            reason: "it has no address".to_owned(),
        };
        for address in self.resolve().await? {
            let socket = QuicDialer::bind(address)?;
            let connecting =
                socket.connect(address, &self.endpoint.host, Arc::clone(&tls), CONNECT_PATIENCE);
            match connecting.await {
                Ok(carrier) => return Ok(Dialed { carrier, socket }),
                Err(error) => {
                    tracing::debug!(%address, %error, "this address does not answer");
                    last = error.into();
                }
            }
        }
        Err(last)
    }

    async fn resolve(&self) -> Result<Vec<SocketAddr>, LinkError> {
        let unresolved =
            |reason: String| LinkError::Resolve { host: self.endpoint.host.clone(), reason };
        let found = timeout(
            CONNECT_PATIENCE,
            lookup_host((self.endpoint.host.as_str(), self.endpoint.port)),
        )
        .await
        .map_err(|_| unresolved("the resolver does not answer".to_owned()))?
        .map_err(|error| unresolved(error.to_string()))?;
        Ok(found.take(ADDRESSES_MAX).collect())
    }
}
