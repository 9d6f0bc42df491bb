//! Signed requests for certificates: a site's first and next ones, and the coordinator's next.

use consilium_common::enrol::{EnrolRequest, RenewCoordinator, RenewRequest};
use consilium_common::ids::{ConsortiumId, SiteId};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::time::WallMillis;
use consilium_common::wire::codec::CodecError;
use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;

/// Why there is no request.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// The TLS library.
    #[error("no certificate request could be made: {0}")]
    Make(#[from] rcgen::Error),
    /// Its encoding.
    #[error("the request {0}")]
    Codec(#[from] CodecError),
}

/// Asks for the certificate of `tls`, as the site that has `key`.
pub(crate) fn enrol(
    consortium: &ConsortiumId,
    site: &SiteId,
    key: &SecretKey,
    tls: &KeyPair,
) -> Result<Signed<EnrolRequest>, RequestError> {
    let request = EnrolRequest {
        consortium: consortium.clone(),
        site: site.clone(),
        site_key: key.public(),
        csr: csr(tls)?,
    };
    Ok(Signed::sign(request.to_bytes()?, key))
}

/// Asks for the next certificate, of a new TLS key.
pub(crate) fn renew(
    consortium: &ConsortiumId,
    site: &SiteId,
    key: &SecretKey,
    tls: &KeyPair,
    at: WallMillis,
) -> Result<Signed<RenewRequest>, RequestError> {
    let (consortium, site) = (consortium.clone(), site.clone());
    let request = RenewRequest { consortium, site, csr: csr(tls)?, at };
    Ok(Signed::sign(request.to_bytes()?, key))
}

/// Asks for the coordinator's next certificate, of a new TLS key, as the coordinator that has the log
/// key and, until now, `chain`.
pub(crate) fn renew_coordinator(
    consortium: &ConsortiumId,
    chain: &[CertificateDer<'_>],
    log_key: &SecretKey,
    tls: &KeyPair,
    at: WallMillis,
) -> Result<Signed<RenewCoordinator>, RequestError> {
    let chain = chain.iter().map(|certificate| certificate.to_vec()).collect();
    let request = RenewCoordinator { consortium: consortium.clone(), chain, csr: csr(tls)?, at };
    Ok(Signed::sign(request.to_bytes()?, log_key))
}

/// PKCS#10 (RFC 2986) with nothing but the key in it: the CA decides the rest.
fn csr(tls: &KeyPair) -> Result<Vec<u8>, RequestError> {
    Ok(CertificateParams::default().serialize_request(tls)?.der().to_vec())
}
