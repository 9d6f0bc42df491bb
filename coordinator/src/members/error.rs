//! Why something about members may not be, in words and as a code.

use consilium_certs::roster::RosterError;
use consilium_common::enrol::Fingerprint;
use consilium_common::ids::SiteId;
use consilium_common::limits::INVITATIONS_MAX;
use consilium_common::signed::SignedError;
use consilium_common::wire::reject::Code;

/// Why something about members may not be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Whoever tries secrets hears no more than whoever comes too late.
    #[error(
        "the token is not known, was used, or has ended: ask the operator for a new one (`consilium site \
         invite`)"
    )]
    Token,
    /// A token for another site.
    #[error("the token was made for site {0}")]
    OtherSite(SiteId),
    /// Not signed by whom it must be.
    #[error("{0}")]
    Signed(#[from] SignedError),
    /// Of another consortium.
    #[error("it is for another consortium than this coordinator's")]
    OtherConsortium,
    /// Nobody asked.
    #[error("site {0} has no request that waits: `consilium site list` shows those that do")]
    NoRequest(SiteId),
    /// Another request than the one that waits.
    #[error(
        "the request of site {site} that waits has the fingerprint {waits}: compare it with what the \
         site's admin sees"
    )]
    OtherRequest {
        /// Which site.
        site: SiteId,
        /// Of the request that waits.
        waits: Fingerprint,
    },
    /// It has its key.
    #[error("site {0} belongs already: revoke it first if its key was lost, or take another name")]
    Known(SiteId),
    /// Nobody of that name.
    #[error("there is no site {0}: `consilium site list` shows all")]
    Unknown(SiteId),
    /// No roster with its key is in force.
    #[error(
        "site {site} is not in roster version {version}: have the operators sign one that has it \
         (`consilium roster show`, `consilium roster sign`)"
    )]
    NotInRoster {
        /// Which.
        site: SiteId,
        /// Which roster is in force.
        version: u64,
    },
    /// A key that somebody else has.
    #[error("site {0} has this key: each site needs its own")]
    SharedKey(SiteId),
    /// A loop, or a second agent with the same key.
    #[error("the certificate of site {0} was renewed a moment ago: try again in a minute")]
    RenewedJustNow(SiteId),
    /// Over already.
    #[error("site {site} was revoked: {reason}")]
    Revoked {
        /// Which.
        site: SiteId,
        /// What the operator said.
        reason: String,
    },
    /// A bound.
    #[error("{INVITATIONS_MAX} invitations are open, the most that are kept: wait until some end")]
    TooMany,
    /// The next roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// Another text than the proposed one.
    #[error(
        "this is not the roster that is proposed now (version {0}): `consilium roster show` has it; sign \
         that one"
    )]
    OtherRoster(u64),
    /// Nothing to sign.
    #[error(
        "no change of the roster is proposed: it has version {0}, and everybody is in it who should"
    )]
    NoProposal(u64),
}

impl MemberError {
    /// The code that both sides log.
    #[must_use]
    pub fn code(&self) -> Code {
        if matches!(self, Self::Revoked { .. }) {
            Code::Revoked
        } else if matches!(self, Self::NotInRoster { .. }) {
            Code::NotInRoster
        } else {
            Code::NotEnrolled
        }
    }
}
