//! How a site comes to a certificate, keeps it and loses it (DESIGN.md §8): what is signed on the way.
//!
//! ```text
//!   operator          site                        coordinator                 issuing CA
//!   invite ──────────────────────────────────────► hash of the secret
//!     └─ token, by any way ─► keys, request ─────► token spent, request kept
//!   reads the fingerprint to the site, by phone
//!   approve: Approval, signed by the operator ───► ─────────────────────────► certificate
//!                     ◄─────────────────────────── chain, root, consortium
//! ```
//!
//! The certificate opens connections and nothing else: a site takes part once k of n operators have
//! signed a roster with its key. The coordinator carries these documents and cannot make one: a CA
//! that certified whatever the coordinator asks for would make it the judge of who is who.
//!
//! [`token`]: the invitation as a person copies it. [`fingerprint`]: what two people read to each other.

pub mod fingerprint;
pub mod token;

use serde::{Deserialize, Serialize};

use crate::ids::{ConsortiumId, Digest, SiteId};
use crate::limits::CSR_BYTES_MAX;
use crate::signed::{Document, PublicKey};
use crate::time::WallMillis;
use crate::wire::codec::{self, CodecError};

pub use fingerprint::Fingerprint;
pub use token::{Secret, Token};

/// Why one of these documents was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EnrolError {
    /// Not in the wire encoding.
    #[error(transparent)]
    Codec(#[from] CodecError),
    /// A certificate request larger than any is.
    #[error("the certificate request has {0} bytes, at most {CSR_BYTES_MAX} are read")]
    Request(usize),
    /// A reason that is none.
    #[error("the reason is empty or longer than {} bytes", crate::limits::TEXT_BYTES_MAX)]
    Reason,
}

macro_rules! document {
    ($type:ident, $domain:literal, $check:expr) => {
        impl $type {
            /// The bytes to sign.
            ///
            /// # Errors
            /// It is over the limit of a message.
            pub fn to_bytes(&self) -> Result<Vec<u8>, CodecError> {
                codec::encode(self)
            }
        }

        impl Document for $type {
            const DOMAIN: &'static str = $domain;
            type Error = EnrolError;

            fn parse(bytes: &[u8]) -> Result<Self, EnrolError> {
                let document: Self = codec::decode(bytes)?;
                let check: fn(&Self) -> Result<(), EnrolError> = $check;
                check(&document)?;
                Ok(document)
            }
        }
    };
}

/// A site asks for its first certificate. Signed by the site key that it names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolRequest {
    /// Whose member the site becomes.
    pub consortium: ConsortiumId,
    /// As which site.
    pub site: SiteId,
    /// The site's long-lived key (Ed25519).
    pub site_key: PublicKey,
    /// PKCS#10, DER; of it only the public key and the proof of possession count.
    pub csr: Vec<u8>,
}
document!(EnrolRequest, "consilium/enrol-request/1", |request| csr(&request.csr));

/// An operator vouches that the request with this digest is the site's. Signed by an operator key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Of which consortium.
    pub consortium: ConsortiumId,
    /// Which site.
    pub site: SiteId,
    /// BLAKE3 of the [`EnrolRequest`]'s bytes: both keys are in it.
    pub request: Digest,
}
document!(Approval, "consilium/approval/1", |_| Ok(()));

/// A site asks for its next certificate. Signed by its site key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewRequest {
    /// Of which consortium.
    pub consortium: ConsortiumId,
    /// Which site.
    pub site: SiteId,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    /// When it asked, by its own clock: an old request is of no use to whoever kept it.
    pub at: WallMillis,
}
document!(RenewRequest, "consilium/renew-request/1", |request| csr(&request.csr));

/// The coordinator asks for its next certificate. Signed by its log key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewCoordinator {
    /// Of which consortium.
    pub consortium: ConsortiumId,
    /// The certificate that it has and the issuing CA's above it, DER: the next one has the same names.
    pub chain: Vec<Vec<u8>>,
    /// PKCS#10, DER.
    pub csr: Vec<u8>,
    /// When it asked, by its own clock.
    pub at: WallMillis,
}
document!(RenewCoordinator, "consilium/renew-coordinator/1", |request| csr(&request.csr));

/// An operator puts a site out for good. Signed by an operator key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revocation {
    /// Of which consortium.
    pub consortium: ConsortiumId,
    /// Which site.
    pub site: SiteId,
    /// Its key: a site that enrols anew with another one is not meant.
    pub site_key: PublicKey,
    /// In a sentence; it stands in the log.
    pub reason: String,
}
document!(Revocation, "consilium/revocation/1", |revocation| {
    let fits = 1..=crate::limits::TEXT_BYTES_MAX;
    if fits.contains(&revocation.reason.len()) { Ok(()) } else { Err(EnrolError::Reason) }
});

fn csr(bytes: &[u8]) -> Result<(), EnrolError> {
    if bytes.len() <= CSR_BYTES_MAX { Ok(()) } else { Err(EnrolError::Request(bytes.len())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signed::{SecretKey, Signed, SignedError};

    fn request(csr: usize) -> EnrolRequest {
        EnrolRequest {
            consortium: "thorax".parse().unwrap(),
            site: "st-mary".parse().unwrap(),
            site_key: SecretKey::from_seed(&[1; 32]).public(),
            csr: vec![7; csr],
        }
    }

    #[test]
    fn a_signature_for_one_purpose_is_none_for_another() {
        let key = SecretKey::from_seed(&[2; 32]);
        let approval = Approval {
            consortium: "thorax".parse().unwrap(),
            site: "st-mary".parse().unwrap(),
            request: Digest::of(b"x"),
        };
        let signed = Signed::<Approval>::sign(approval.to_bytes().unwrap(), &key);
        assert_eq!(signed.verify(&[key.public()], 1).unwrap(), approval);
        let other = Signed::<EnrolRequest>::from_parts(signed.bytes, signed.signatures);
        assert!(matches!(other.verify(&[key.public()], 1), Err(SignedError::Forged(_))));
    }

    #[test]
    fn what_is_too_large_or_says_nothing_is_refused() {
        assert!(EnrolRequest::parse(&request(CSR_BYTES_MAX).to_bytes().unwrap()).is_ok());
        let large = request(CSR_BYTES_MAX + 1).to_bytes().unwrap();
        assert_eq!(EnrolRequest::parse(&large), Err(EnrolError::Request(CSR_BYTES_MAX + 1)));
        let mut revocation = Revocation {
            consortium: "thorax".parse().unwrap(),
            site: "st-mary".parse().unwrap(),
            site_key: request(0).site_key,
            reason: String::new(),
        };
        assert_eq!(Revocation::parse(&revocation.to_bytes().unwrap()), Err(EnrolError::Reason));
        revocation.reason = "the laptop was stolen".to_owned();
        assert_eq!(Revocation::parse(&revocation.to_bytes().unwrap()), Ok(revocation));
        assert!(matches!(Approval::parse(b"no"), Err(EnrolError::Codec(_))));
    }
}
