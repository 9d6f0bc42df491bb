//! Failed handshakes in words: whose certificate it was, what was wrong, what to do. Made from
//! rustls's error where TLS is at hand, and otherwise from QUIC's error code and reason, at the end
//! that refused as at the other.

use std::fmt;

use consilium_common::limits::TEXT_BYTES_MAX;
use consilium_common::time::WallMillis;
use rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use crate::validity::date;

/// Whose certificate was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Whose {
    /// The peer's, by us.
    Peers,
    /// Ours, by the peer.
    Ours,
}

/// What was wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// Over, with the date if it is known.
    Expired(Option<WallMillis>),
    /// Not begun.
    NotYetValid(Option<WallMillis>),
    /// Of another CA.
    UnknownRoot,
    /// For another host.
    OtherHost(String),
    /// A client's shown by a server, or the reverse.
    OtherUse,
    /// None was shown.
    Missing,
    /// The two speak no common protocol.
    NoCommonProtocol,
    /// Of another consortium or role, in the words of [`crate::tls::PeerError`] where known.
    NotAdmitted(String),
    /// Anything else, in rustls's words.
    Other(String),
}

/// A failed handshake; `Display` is the sentence for the log of either side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HandshakeProblem {
    /// Whose certificate.
    pub whose: Whose,
    /// What was wrong.
    pub problem: Problem,
}

impl From<&Error> for HandshakeProblem {
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of a foreign enum, in its own words"
    )]
    fn from(error: &Error) -> Self {
        let peers = |problem| Self { whose: Whose::Peers, problem };
        match error {
            Error::AlertReceived(alert) => {
                Self { whose: Whose::Ours, problem: Problem::of_alert(*alert, "") }
            }
            Error::InvalidCertificate(error) => peers(Problem::of_certificate(error)),
            Error::NoCertificatesPresented => peers(Problem::Missing),
            Error::NoApplicationProtocol
            | Error::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon) => {
                peers(Problem::NoCommonProtocol)
            }
            other => peers(Problem::Other(other.to_string())),
        }
    }
}

impl HandshakeProblem {
    /// What a QUIC connection's end means, if TLS ended it: `code` is 0x100 + alert (RFC 9001 §4.8),
    /// `reason` the text beside it. With quinn, `ConnectionError::TransportError` is our refusal of
    /// the peer's certificate ([`Whose::Peers`]), `ConnectionClosed` the peer's of ours.
    #[must_use]
    pub fn from_quic(code: u64, reason: &str, whose: Whose) -> Option<Self> {
        let alert = u8::try_from(code.checked_sub(0x100)?).ok()?;
        let reason: String =
            reason.chars().filter(|c| !c.is_control()).take(TEXT_BYTES_MAX).collect();
        let problem = Problem::of_alert(AlertDescription::from(alert), &reason);
        Some(Self { whose, problem })
    }
}

impl Problem {
    /// RFC 8446 §6.2, as rustls uses the alerts.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of a foreign enum, in its own words"
    )]
    fn of_alert(alert: AlertDescription, reason: &str) -> Self {
        let or = |default: String| match reason {
            "" => default,
            told => told.to_owned(),
        };
        match alert {
            AlertDescription::CertificateExpired => Self::Expired(None),
            AlertDescription::UnknownCA => Self::UnknownRoot,
            AlertDescription::CertificateRequired => Self::Missing,
            AlertDescription::NoApplicationProtocol => Self::NoCommonProtocol,
            AlertDescription::UnsupportedCertificate => Self::OtherUse,
            AlertDescription::CertificateUnknown => {
                Self::NotAdmitted(or("it is not of the right consortium or role".to_owned()))
            }
            other => Self::Other(or(format!("TLS alert {other:?}"))),
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "the rest of a foreign enum, in its own words"
    )]
    fn of_certificate(error: &CertificateError) -> Self {
        match error {
            CertificateError::Expired => Self::Expired(None),
            CertificateError::ExpiredContext { not_after, .. } => {
                Self::Expired(Some(WallMillis(not_after.as_secs().saturating_mul(1000))))
            }
            CertificateError::NotValidYet => Self::NotYetValid(None),
            CertificateError::NotValidYetContext { not_before, .. } => {
                Self::NotYetValid(Some(WallMillis(not_before.as_secs().saturating_mul(1000))))
            }
            CertificateError::UnknownIssuer => Self::UnknownRoot,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::OtherHost(error.to_string())
            }
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
                Self::OtherUse
            }
            CertificateError::Other(reason) => Self::NotAdmitted(reason.to_string()),
            other => Self::Other(other.to_string()),
        }
    }
}

impl fmt::Display for HandshakeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whose, refused) = match self.whose {
            Whose::Peers => ("the peer's certificate", "refused here"),
            Whose::Ours => ("our certificate", "refused by the peer"),
        };
        match &self.problem {
            Problem::Expired(Some(when)) => {
                write!(f, "{whose} is {refused}: it expired on {}; renew it", date(*when))
            }
            // The alert is the same for a certificate that has not begun.
            Problem::Expired(None) => write!(
                f,
                "{whose} is {refused}: it has expired, or one of the two clocks is wrong; check \
                 the clocks, then renew it"
            ),
            Problem::NotYetValid(when) => write!(
                f,
                "{whose} is {refused}: it is valid only from {}; check both clocks",
                when.map_or_else(|| "later on".to_owned(), date)
            ),
            Problem::UnknownRoot => write!(
                f,
                "{whose} is {refused}: it comes from another CA than root.pem; both ends need \
                 bundles of the same CA"
            ),
            Problem::OtherHost(reason) => write!(
                f,
                "{whose} is {refused}: {reason}; connect by a name that `consilium ca issue \
                 coordinator` was given"
            ),
            Problem::OtherUse => write!(
                f,
                "{whose} is {refused}: it is not made for this end of a connection; use the right \
                 bundle"
            ),
            Problem::Missing => write!(f, "{whose} is missing: both ends must show one"),
            Problem::NoCommonProtocol => f.write_str(
                "the two ends have no protocol in common: update the older one, and check the \
                 address",
            ),
            Problem::NotAdmitted(reason) => write!(f, "{whose} is {refused}: {reason}"),
            Problem::Other(reason) => write!(f, "the TLS handshake failed: {reason}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quic_close_by_tls_is_told_in_words_and_other_closes_are_not() {
        let told = |code, reason| HandshakeProblem::from_quic(code, reason, Whose::Ours);
        assert_eq!(told(0x100 + 48, "").unwrap().problem, Problem::UnknownRoot);
        assert_eq!(told(0x100 + 116, "").unwrap().problem, Problem::Missing);
        let expired = told(0x100 + 45, "").unwrap().to_string();
        assert!(expired.starts_with("our certificate") && expired.contains("clocks"), "{expired}");
        for code in [0, 0x0a, 0xff, 0x200, u64::MAX] {
            assert_eq!(told(code, "x"), None, "{code:x}");
        }
    }

    #[test]
    fn a_peers_text_is_kept_short_and_on_one_line() {
        let text = format!("a\nb{}", "x".repeat(10_000));
        let told = HandshakeProblem::from_quic(0x100 + 46, &text, Whose::Peers).unwrap();
        let told = told.to_string();
        assert!(told.len() < TEXT_BYTES_MAX + 100 && !told.contains('\n'), "{told}");
    }
}
