//! A pair of connected carriers with certificates of their own, for this crate's tests.

use std::sync::Arc;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;

use super::{Carrier, QuicDialer, QuicListener};

/// The protocol of the tests.
pub(crate) const ALPN: &[u8] = b"consilium/1";
/// The name in the listener's certificate.
pub(crate) const SERVER_NAME: &str = "coordinator";
/// Long enough for a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// An authority that vouches for anyone.
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    /// Two authorities of one name would be taken for each other until a signature fails.
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    fn roots(&self) -> Arc<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        Arc::new(roots)
    }

    fn issue(&self, name: &str) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::Pkcs8(key.serialize_der().into()))
    }

    /// A listener's configuration: it asks for a certificate of `clients`.
    pub(crate) fn server(&self, clients: &Self) -> Arc<rustls::ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(clients.roots(), Arc::clone(&provider))
                .build()
                .unwrap();
        let (chain, key) = self.issue(SERVER_NAME);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.send_tls13_tickets = 0;
        Arc::new(config)
    }

    /// A dialler's configuration: it shows a certificate for `name` and trusts `servers`.
    pub(crate) fn client(&self, name: &str, servers: &Self) -> Arc<rustls::ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let (chain, key) = self.issue(name);
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(servers.roots())
            .with_client_auth_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = rustls::client::Resumption::disabled();
        Arc::new(config)
    }
}

/// Both ends of one connection on this machine.
pub(crate) struct Pair {
    pub(crate) listener: QuicListener,
    pub(crate) dialer: QuicDialer,
    pub(crate) agent: Arc<dyn Carrier>,
    pub(crate) coordinator: Arc<dyn Carrier>,
}

pub(crate) async fn pair() -> Pair {
    let authority = Authority::new("ours");
    let tls = authority.server(&authority);
    let listener = QuicListener::bind("127.0.0.1:0".parse().unwrap(), tls).unwrap();
    let address = listener.local_address().unwrap();
    let dialer = QuicDialer::bind(address).unwrap();
    let tls = authority.client("st-mary", &authority);
    let (agent, coordinator) =
        tokio::join!(dialer.connect(address, SERVER_NAME, tls, PATIENCE), async {
            listener.accept().await.unwrap().finish().await
        });
    Pair { listener, dialer, agent: agent.unwrap(), coordinator: coordinator.unwrap() }
}
