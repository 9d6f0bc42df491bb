//! One of everything that is said and written when a site enrols, renews and is put out.

use std::error::Error;

use consilium_common::audit::{Record, record};
use consilium_common::enrol::{Approval, EnrolRequest, RenewRequest, Revocation, Secret, Token};
use consilium_common::ids::{ConsortiumId, Digest, SiteId};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::time::WallMillis;
use consilium_common::wire::enrol::{Answer, Ask, Grant};
use consilium_common::wire::operator::Request;

const WALL: WallMillis = WallMillis(1_795_000_000_000);

/// Signed documents of one site, st-mary of thorax.
#[derive(Debug)]
pub struct EnrolSamples {
    consortium: ConsortiumId,
    site: SiteId,
    request: Signed<EnrolRequest>,
    renewal: Signed<RenewRequest>,
    approval: Signed<Approval>,
    revocation: Signed<Revocation>,
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32])
}

impl EnrolSamples {
    /// The samples.
    ///
    /// # Errors
    /// None in fact: the names are valid and the documents small.
    pub fn new() -> Result<Self, Box<dyn Error>> {
        let (consortium, site): (ConsortiumId, SiteId) = ("thorax".parse()?, "st-mary".parse()?);
        let (one, two) = (|| consortium.clone(), || site.clone());
        let site_key = key(1).public();
        let csr = b"PKCS#10".to_vec();
        let request = EnrolRequest { consortium: one(), site: two(), site_key, csr: csr.clone() };
        let request = Signed::sign(request.to_bytes()?, &key(1));
        let renewal = RenewRequest { consortium: one(), site: two(), csr, at: WALL };
        let approval = Approval { consortium: one(), site: two(), request: request.digest() };
        let reason = "its laptop was stolen".to_owned();
        let revocation = Revocation { consortium: one(), site: two(), site_key, reason };
        Ok(Self {
            renewal: Signed::sign(renewal.to_bytes()?, &key(1)),
            approval: Signed::sign(approval.to_bytes()?, &key(2)),
            revocation: Signed::sign(revocation.to_bytes()?, &key(2)),
            request,
            consortium,
            site,
        })
    }

    /// A token.
    #[must_use]
    pub fn token(&self) -> Token {
        Token {
            consortium: self.consortium.clone(),
            site: self.site.clone(),
            coordinator: "fl.example:443".to_owned(),
            root: [3; 32],
            secret: Secret::new([9; 32]),
        }
    }

    /// What a site asks.
    #[must_use]
    pub fn asks(&self) -> [Ask; 2] {
        let secret = Secret::new([9; 32]);
        let enrol = Ask::Enrol { secret, signed: self.request.clone() };
        [enrol, Ask::Renew { signed: self.renewal.clone() }]
    }

    /// What it hears.
    #[must_use]
    pub fn answers(&self) -> [Answer; 4] {
        let pem = || "-----BEGIN CERTIFICATE-----".to_owned();
        let consortium = "format = 1".to_owned();
        [
            Answer::Waiting {
                fingerprint: consilium_common::enrol::Fingerprint::of(self.request.digest()),
            },
            Answer::Granted(Grant { chain: pem(), root: pem(), consortium }),
            Answer::Renewed { chain: pem() },
            Answer::Refused { message: "the token is not known".to_owned() },
        ]
    }

    /// What operators ask and say.
    #[must_use]
    pub fn commands(&self) -> [Request; 5] {
        [
            Request::Members,
            Request::SiteInvite { site: self.site.clone(), token: Secret::new([9; 32]).hash() },
            Request::SiteApprove { signed: self.approval.clone() },
            Request::SiteRevoke { signed: self.revocation.clone() },
            Request::RosterSign {
                text: b"format = 1".to_vec(),
                signature: key(2).sign("consilium/roster/1", b"format = 1"),
            },
        ]
    }

    /// What stands in the log.
    #[must_use]
    pub fn records(&self) -> [Record; 6] {
        let (by, token) = (|| "ada".to_owned(), Secret::new([9; 32]).hash());
        let (site, chain) = (|| self.site.clone(), "-----BEGIN CERTIFICATE-----".to_owned());
        [
            Record::Invitation(record::Invited { site: site(), token, until: WALL, by: by() }),
            Record::EnrolRequest(record::EnrolAsked { token, signed: self.request.clone() }),
            Record::Approval(record::Approved { signed: self.approval.clone(), by: by() }),
            Record::Certificate(record::Certified { site: site(), chain, until: WALL }),
            Record::Revocation(record::Revoked { signed: self.revocation.clone(), by: by() }),
            Record::RosterSignature(record::RosterSigned {
                roster: Digest::of(b"format = 1"),
                signature: key(2).sign("consilium/roster/1", b"format = 1"),
                by: by(),
            }),
        ]
    }
}
