//! What a site asks before it has a certificate, or when the one it has runs out, ALPN
//! `consilium-enroll/1`: one stream a connection, one frame up, one frame down. The coordinator shows
//! its certificate, the site none.

use serde::{Deserialize, Serialize};

use crate::enrol::{EnrolRequest, Fingerprint, RenewRequest, Secret};
use crate::signed::Signed;

/// Kind of the frame up.
pub const KIND_ASK: u16 = 320;
/// Kind of the frame down.
pub const KIND_ANSWER: u16 = 321;

/// What a site asks. A variant's position is its number: new ones go last.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ask {
    /// For its first certificate; asked again until it is there, by the same request.
    Enrol {
        /// Of the token.
        secret: Secret,
        /// By the site key.
        signed: Signed<EnrolRequest>,
    },
    /// For the next one.
    Renew {
        /// By the site key.
        signed: Signed<RenewRequest>,
    },
}

/// What it hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Answer {
    /// An operator has not approved the request yet.
    Waiting {
        /// Of the request that waits: what the operator sees too.
        fingerprint: Fingerprint,
    },
    /// Approved and certified.
    Granted(Grant),
    /// The next certificate, and the CA's above it: PEM.
    Renewed {
        /// Leaf first.
        chain: String,
    },
    /// No.
    Refused {
        /// Why, and what to do.
        message: String,
    },
}

/// What makes a site's folder whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The certificate and the issuing CA's above it: PEM.
    pub chain: String,
    /// The root: PEM. The token says which one it must be.
    pub root: String,
    /// The text of `consortium.toml`: log key and operators, which the site pins.
    pub consortium: String,
}
