//! rustls configurations for both ends: TLS 1.3, certificates both ways, hybrid post-quantum key
//! exchange, one ALPN per kind of peer; no early data, no tickets and no stored sessions, because a
//! resumed session would slip past expiry and revocation. QUIC wraps the returned configurations
//! (`quinn::crypto::rustls::Quic{Server,Client}Config`).

use std::sync::Arc;
use std::time::Duration;

use consilium_common::time::Clock;
use rustls::ServerConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::time_provider::TimeProvider;
use rustls::version::TLS13;

use crate::credentials::Credentials;
use crate::enrolling::Pinned;
use crate::identity::{Identity, Role};
use crate::verify::{self, CoordinatorVerifier, MemberVerifier, TokenVerifier};

pub use crate::verify::{PeerError, fingerprint_of};
pub use rustls::ClientConfig;

/// Agents speak this (DESIGN.md §7).
pub const ALPN_AGENT: &[u8] = b"consilium/1";
/// Operators, auditors and researchers speak this.
pub const ALPN_OPERATOR: &[u8] = b"consilium-op/1";

/// Sites without a certificate, or with one that has run out, speak this (DESIGN.md §7).
pub const ALPN_ENROL: &[u8] = b"consilium-enroll/1";

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The bundle is for the other end.
    #[error("{found} cannot {what}: use the bundle of {expected}")]
    WrongBundle {
        /// Whose bundle it is.
        found: String,
        /// What was tried.
        what: &'static str,
        /// Whose is needed.
        expected: &'static str,
    },
    /// rustls refused.
    #[error("TLS cannot be set up: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The coordinator's end. A peer must have a certificate under our root that names a member of our
/// consortium; call [`admit`] with what the handshake yielded before anything else.
///
/// # Errors
/// `us` is not a coordinator's bundle, or rustls refuses it.
pub fn server_config(
    us: &Credentials,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ServerConfig>, TlsError> {
    if us.identity.role != Role::Coordinator {
        return Err(TlsError::WrongBundle {
            found: us.identity.to_string(),
            what: "serve",
            expected: "the coordinator",
        });
    }
    let (provider, time) = (seeded_provider()?, Arc::new(ClockTime(clock)));
    let mut config = ServerConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(MemberVerifier::new(us)?))
        .with_cert_resolver(Arc::new(ByDoor::new(us)));
    config.alpn_protocols = vec![ALPN_AGENT.to_vec(), ALPN_OPERATOR.to_vec(), ALPN_ENROL.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// What the coordinator shows: its chain, and at the door of those who enrol the root as well, which
/// they know by its fingerprint alone.
#[derive(Debug)]
struct ByDoor {
    chain: Arc<CertifiedKey>,
    with_root: Arc<CertifiedKey>,
}

impl ByDoor {
    fn new(us: &Credentials) -> Self {
        let mut with_root = CertifiedKey::clone(&us.key);
        with_root.cert.push(us.root.clone());
        Self { chain: Arc::clone(&us.key), with_root: Arc::new(with_root) }
    }
}

impl ResolvesServerCert for ByDoor {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let enrols = hello.alpn().is_some_and(|mut offered| offered.any(|name| name == ALPN_ENROL));
        Some(Arc::clone(if enrols { &self.with_root } else { &self.chain }))
    }
}

/// The end of a site that has no certificate, or one that has run out: it shows none, and the
/// coordinator must be the one that is `pinned`.
///
/// # Errors
/// rustls refuses it.
pub fn enrol_config(pinned: &Pinned, clock: Arc<dyn Clock>) -> Result<Arc<ClientConfig>, TlsError> {
    let (provider, time) = (seeded_provider()?, Arc::new(ClockTime(clock)));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // the root is pinned by its fingerprint: TokenVerifier
        .with_custom_certificate_verifier(Arc::new(TokenVerifier::new(pinned)))
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_ENROL.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The end of a site, or of a person who is an operator, an auditor or a researcher: the ALPN follows
/// from the role. The peer must be the coordinator of our consortium, and have the host name that is
/// connected to.
///
/// # Errors
/// `us` is a coordinator's bundle, or rustls refuses it.
pub fn client_config(
    us: &Credentials,
    clock: Arc<dyn Clock>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let alpn = match us.identity.role {
        Role::Site(_) => ALPN_AGENT,
        Role::Operator(_) | Role::Auditor(_) | Role::Researcher(_) => ALPN_OPERATOR,
        Role::Coordinator => {
            return Err(TlsError::WrongBundle {
                found: us.identity.to_string(),
                what: "connect to a coordinator",
                expected: "a site, an operator, an auditor or a researcher",
            });
        }
    };
    let (provider, time) = (seeded_provider()?, Arc::new(ClockTime(clock)));
    let mut config = ClientConfig::builder_with_details(provider, time)
        .with_protocol_versions(&[&TLS13])?
        .dangerous() // only adds to webpki's checks: CoordinatorVerifier
        .with_custom_certificate_verifier(Arc::new(CoordinatorVerifier::new(us)?))
        .with_client_cert_resolver(Arc::new(SingleCertAndKey::from(Arc::clone(&us.key))));
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

/// The provider, after its first random number: the library takes some 60 ms to seed itself, which
/// the first handshake should not wait for.
fn seeded_provider() -> Result<Arc<CryptoProvider>, TlsError> {
    let provider = verify::provider();
    let filled = provider.secure_random.fill(&mut [0; 32]);
    filled.map_err(|_| TlsError::Rustls(rustls::Error::FailedToGetRandomBytes))?;
    Ok(provider)
}

/// Who the peer is, from the chain that it showed: `peer_certificates()` of rustls, or quinn's
/// `peer_identity()`.
///
/// # Errors
/// It showed none, or the certificate names nobody.
pub fn peer_identity(chain: Option<&[CertificateDer<'_>]>) -> Result<Identity, PeerError> {
    let leaf = chain.and_then(<[_]>::first).ok_or(PeerError::NoCertificate)?;
    Ok(Identity::of_certificate(leaf)?)
}

/// Which of the coordinator's two doors for members a peer came through; the third,
/// [`ALPN_ENROL`], is for those who are none yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Door {
    /// `consilium/1`.
    Agent,
    /// `consilium-op/1`.
    Operator,
}

/// Whether a peer of this identity may speak the protocol that the handshake agreed on. The
/// coordinator asks this for each connection, before the first frame.
///
/// # Errors
/// The protocol is none of ours, or not for this role.
pub fn admit(peer: &Identity, alpn: Option<&[u8]>) -> Result<Door, PeerError> {
    let door = match alpn {
        Some(ALPN_AGENT) => Door::Agent,
        Some(ALPN_OPERATOR) => Door::Operator,
        other => {
            let name = String::from_utf8_lossy(other.unwrap_or_default()).into_owned();
            return Err(PeerError::UnknownProtocol(name));
        }
    };
    let refuse = |expected| Err(PeerError::WrongRole { found: peer.to_string(), expected });
    match (door, &peer.role) {
        (Door::Agent, Role::Site(_))
        | (Door::Operator, Role::Operator(_) | Role::Auditor(_) | Role::Researcher(_)) => Ok(door),
        (Door::Agent, _) => refuse("a site"),
        (Door::Operator, _) => refuse("an operator, auditor or researcher"),
    }
}

/// Our clock as rustls asks for it: expiry is judged by the same time as everything else.
#[derive(Debug)]
struct ClockTime(Arc<dyn Clock>);

impl TimeProvider for ClockTime {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_millis(self.0.wall().0)))
    }
}
