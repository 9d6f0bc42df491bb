//! Judging a peer's certificate: the chain as any TLS library does, then who it names. The chain says
//! that the consortium's CA made the certificate; the name says for whom, and that must fit too.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::ConsortiumId;
use consilium_common::time::WallMillis;
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    SignatureScheme,
};

use sha2::{Digest as _, Sha256};

use crate::credentials::Credentials;
use crate::enrolling::Pinned;
use crate::identity::{Identity, IdentityError, Role};

/// Why a peer with a genuine certificate is refused all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerError {
    /// It names nobody.
    #[error("the peer's certificate is refused: {0}")]
    Identity(#[from] IdentityError),
    /// It showed none.
    #[error("the peer showed no certificate: give it a bundle of `consilium ca issue`")]
    NoCertificate,
    /// It belongs elsewhere.
    #[error("the peer is {theirs}, which is not of consortium {ours}: is it the right address?")]
    OtherConsortium {
        /// Its whole name.
        theirs: String,
        /// Ours.
        ours: ConsortiumId,
    },
    /// It is somebody, but not who may stand there.
    #[error("the peer is {found}, and {expected} is expected here")]
    WrongRole {
        /// Its whole name.
        found: String,
        /// Who may.
        expected: &'static str,
    },
    /// Its chain does not end in the root that the token pins.
    #[error(
        "the peer does not show the root that the token was made for: is the token of this consortium, \
         and is nobody between?"
    )]
    OtherRoot,
    /// No protocol of ours was agreed on.
    #[error(
        "no application protocol was agreed on (peer chose {0:?}): is the peer a Consilium program?"
    )]
    UnknownProtocol(String),
}

impl From<PeerError> for Error {
    fn from(error: PeerError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// What TLS is made of here: TLS 1.3 suites (AES-128-GCM first, which QUIC's Initial packets need
/// as well) and the hybrid of X25519 and ML-KEM-768 before X25519 alone.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider {
        cipher_suites: vec![
            cipher_suite::TLS13_AES_128_GCM_SHA256,
            cipher_suite::TLS13_AES_256_GCM_SHA384,
            cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![kx_group::X25519MLKEM768, kx_group::X25519],
        ..aws_lc_rs::default_provider()
    })
}

fn roots(root: &CertificateDer<'static>) -> Result<Arc<RootCertStore>, Error> {
    let mut store = RootCertStore::empty();
    store.add(root.clone())?;
    Ok(Arc::new(store))
}

/// Whether `chain` leads to `root` and may be used for `role`'s side of TLS at `now`.
pub(crate) fn check_chain(
    chain: &[CertificateDer<'static>],
    root: &CertificateDer<'static>,
    role: &Role,
    now: WallMillis,
) -> Result<(), Error> {
    let (leaf, above) = chain.split_first().ok_or(Error::NoCertificatesPresented)?;
    let (roots, provider) = (roots(root)?, provider());
    let now = UnixTime::since_unix_epoch(Duration::from_millis(now.0));
    if *role == Role::Coordinator {
        let leaf = ParsedCertificate::try_from(leaf)?;
        let algorithms = provider.signature_verification_algorithms.all;
        return verify_server_cert_signed_by_trust_anchor(&leaf, &roots, above, now, algorithms);
    }
    client_verifier(roots, provider)?.verify_client_cert(leaf, above, now).map(|_| ())
}

fn client_verifier(
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, Error> {
    WebPkiClientVerifier::builder_with_provider(roots, provider)
        .build()
        .map_err(|error| Error::General(error.to_string()))
}

/// A peer of another consortium may not speak to us at all.
fn check_consortium(peer: &Identity, ours: &ConsortiumId) -> Result<(), PeerError> {
    if peer.consortium == *ours {
        return Ok(());
    }
    Err(PeerError::OtherConsortium { theirs: peer.to_string(), ours: ours.clone() })
}

/// The certificate must be that of our consortium's coordinator, however its root is known.
fn check_coordinator(
    certificate: &CertificateDer<'_>,
    ours: &ConsortiumId,
) -> Result<(), PeerError> {
    let peer = Identity::of_certificate(certificate)?;
    check_consortium(&peer, ours)?;
    if peer.role == Role::Coordinator {
        return Ok(());
    }
    Err(PeerError::WrongRole { found: peer.to_string(), expected: "the coordinator" })
}

/// The client's judgement: chain, host name, and that the peer is the coordinator of our consortium.
#[derive(Debug)]
pub(crate) struct CoordinatorVerifier {
    chain: Arc<WebPkiServerVerifier>,
    us: Credentials,
}

impl CoordinatorVerifier {
    pub(crate) fn new(us: &Credentials) -> Result<Self, Error> {
        let chain = WebPkiServerVerifier::builder_with_provider(roots(&us.root)?, provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?;
        Ok(Self { chain, us: us.clone() })
    }

    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), PeerError> {
        check_coordinator(certificate, &self.us.identity.consortium)
    }
}

impl ServerCertVerifier for CoordinatorVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self.chain.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        )?;
        self.check_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// The judgement of a site that has no root yet: the chain that the coordinator shows must end in the
/// root with the SHA-256 that the site's token says, and be our consortium's coordinator's under it.
#[derive(Debug)]
pub(crate) struct TokenVerifier {
    pinned: Pinned,
    provider: Arc<CryptoProvider>,
}

impl TokenVerifier {
    pub(crate) fn new(pinned: &Pinned) -> Self {
        Self { pinned: pinned.clone(), provider: provider() }
    }

    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), PeerError> {
        check_coordinator(certificate, &self.pinned.consortium)
    }
}

impl ServerCertVerifier for TokenVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let ends_there = |root: &&CertificateDer<'_>| fingerprint_of(root) == self.pinned.root;
        let (root, between) = match intermediates.split_last() {
            Some((root, between)) if ends_there(&root) => (root.clone().into_owned(), between),
            _ => return Err(PeerError::OtherRoot.into()),
        };
        let chain =
            WebPkiServerVerifier::builder_with_provider(roots(&root)?, Arc::clone(&self.provider));
        let chain = chain.build().map_err(|error| Error::General(error.to_string()))?;
        let verified =
            chain.verify_server_cert(end_entity, between, server_name, ocsp_response, now)?;
        self.check_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// SHA-256 of a certificate (DER): what a token pins.
#[must_use]
pub fn fingerprint_of(certificate: &CertificateDer<'_>) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The coordinator's judgement: chain, and that the peer is of our consortium. What its role may do
/// depends on the protocol that it asked for: [`crate::tls::admit`].
#[derive(Debug)]
pub(crate) struct MemberVerifier {
    chain: Arc<dyn ClientCertVerifier>,
    us: Credentials,
}

impl MemberVerifier {
    pub(crate) fn new(us: &Credentials) -> Result<Self, Error> {
        Ok(Self { chain: client_verifier(roots(&us.root)?, provider())?, us: us.clone() })
    }

    fn check_name(&self, certificate: &CertificateDer<'_>) -> Result<(), PeerError> {
        check_consortium(&Identity::of_certificate(certificate)?, &self.us.identity.consortium)
    }
}

impl ClientCertVerifier for MemberVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    /// Who enrols has none yet, and one handshake serves all doors: [`crate::tls::admit`] lets nobody
    /// without a certificate through any other.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        self.check_name(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::{Town, credentials, leaf};

    #[test]
    fn a_server_that_names_anybody_but_our_coordinator_is_refused() {
        let (town, other) = (Town::new("thorax"), Town::new("cardio"));
        let verifier = CoordinatorVerifier::new(&credentials(&town.site)).unwrap();
        let judge = |folder| verifier.check_name(&leaf(folder));
        assert_eq!(judge(&town.coordinator.folder), Ok(()));
        for folder in [&town.site.folder, &town.operator.folder] {
            assert!(matches!(judge(folder), Err(PeerError::WrongRole { .. })));
        }
        let foreign = judge(&other.coordinator.folder);
        assert!(matches!(foreign, Err(PeerError::OtherConsortium { .. })));
    }

    #[test]
    fn a_certificate_that_names_nobody_is_refused_at_both_ends() {
        let town = Town::new("thorax");
        let bare = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let bare = bare.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap();
        let nobody = Err(PeerError::Identity(IdentityError::NoName));
        let client = CoordinatorVerifier::new(&credentials(&town.site)).unwrap();
        assert_eq!(client.check_name(bare.der()), nobody);
        let server = MemberVerifier::new(&credentials(&town.coordinator)).unwrap();
        assert_eq!(server.check_name(bare.der()), nobody);
    }
}
