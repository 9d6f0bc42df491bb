//! Who belongs and who wants to, as operators are told.

use consilium_common::enrol::Fingerprint;
use consilium_common::ids::{Digest, SiteId};
use consilium_common::signed::PublicKey;
use consilium_common::time::WallMillis;
use serde::{Deserialize, Serialize};

/// Answer to `site list` and `roster show`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MembersDocument {
    /// The consortium's name.
    pub consortium: String,
    /// Which roster is in force.
    pub roster_version: u64,
    /// How many operators sign one.
    pub signatures_needed: usize,
    /// The sites in it.
    pub sites: Vec<SiteLine>,
    /// Sites whose keys came by enrolment, in the roster or not yet.
    pub requests: Vec<ApplicantLine>,
    /// Invitations that nobody has used yet.
    pub invitations: Vec<InvitationLine>,
    /// Who was put out.
    pub revoked: Vec<RevocationLine>,
    /// The roster that waits for signatures.
    pub proposal: Option<ProposalDocument>,
}

/// A site of the roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteLine {
    /// Its name.
    pub site: SiteId,
    /// Its long-lived key.
    pub key: PublicKey,
    /// Connected now.
    pub connected: bool,
    /// Put out, and not yet out of the roster.
    pub revoked: bool,
}

/// A site that enrolled, or wants to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApplicantLine {
    /// Its name.
    pub site: SiteId,
    /// The key that it made.
    pub key: PublicKey,
    /// What people compare.
    pub fingerprint: Fingerprint,
    /// The whole digest: what an approval names.
    pub request: Digest,
    /// An operator approved it.
    pub approved: bool,
    /// When its newest certificate ends.
    pub certificate_until: Option<WallMillis>,
}

/// An open invitation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvitationLine {
    /// Of which site.
    pub site: SiteId,
    /// When its token ends.
    pub until: WallMillis,
}

/// A revocation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevocationLine {
    /// Of which site.
    pub site: SiteId,
    /// The key that is out; a site of this name with another one is not meant.
    pub key: PublicKey,
    /// What the operator said.
    pub reason: String,
}

/// The next roster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProposalDocument {
    /// Its version.
    pub version: u64,
    /// Who comes in.
    pub joins: Vec<SiteId>,
    /// Who goes.
    pub leaves: Vec<SiteId>,
    /// How many have signed it.
    pub signatures: usize,
    /// The text to sign.
    pub text: String,
}

/// Answer to `site invite`; the token itself never leaves the operator's machine that way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InviteDocument {
    /// Of which site.
    pub site: SiteId,
    /// When its token ends.
    pub until: WallMillis,
}

/// Answer to `site revoke`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeDocument {
    /// Why the issuing CA does not know of it, if it does not.
    pub ca: Option<String>,
}

/// Answer to `roster sign`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RosterSignDocument {
    /// It was the last signature needed.
    pub in_force: bool,
}
