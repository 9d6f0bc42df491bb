//! Who a certificate speaks for: the consortium and the role, read from its one `consilium://` URI
//! among the subject alternative names.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use consilium_common::ids::{ConsortiumId, IdError, OperatorId, SiteId};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::x509::X509Name;

const SCHEME: &str = "consilium://";
/// Text of a peer that is repeated in an error.
const SHOWN_CHARS_MAX: usize = 80;

/// What a peer may do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// A hospital's agent.
    Site(SiteId),
    /// Somebody who commands the coordinator.
    Operator(OperatorId),
    /// Somebody who reads what was recorded.
    Auditor(OperatorId),
    /// Somebody who proposes studies, and sees those that list them.
    Researcher(OperatorId),
    /// The coordinator itself.
    Coordinator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Site(name) => write!(f, "site/{name}"),
            Self::Operator(name) => write!(f, "operator/{name}"),
            Self::Auditor(name) => write!(f, "auditor/{name}"),
            Self::Researcher(name) => write!(f, "researcher/{name}"),
            Self::Coordinator => f.write_str("coordinator"),
        }
    }
}

/// Consortium and role; as text `consilium://CONSORTIUM/site/NAME`, `…/operator/NAME`,
/// `…/auditor/NAME`, `…/researcher/NAME` or `…/coordinator`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Identity {
    /// Whose member this is.
    pub consortium: ConsortiumId,
    /// As what.
    pub role: Role,
}

/// Why a certificate names nobody.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The bytes are not one X.509 certificate.
    #[error("not an X.509 certificate: {0}")]
    NotACertificate(String),
    /// Bytes follow the certificate.
    #[error("{0} bytes follow the certificate")]
    TrailingBytes(usize),
    /// The extension is there twice or cannot be read.
    #[error("the certificate's subject alternative names cannot be read: {0}")]
    UnreadableNames(String),
    /// A certificate that Consilium's CA did not make.
    #[error(
        "the certificate has no consilium:// name: use one that `consilium ca issue` made for this \
         consortium"
    )]
    NoName,
    /// Ambiguous.
    #[error("the certificate has {0} consilium:// names, exactly one is expected")]
    SeveralNames(usize),
    /// The URI has another scheme.
    #[error("{0:?} is not a name in a consortium: expected consilium://CONSORTIUM/ROLE")]
    NotConsilium(String),
    /// The consortium's name breaks the rule.
    #[error("in {uri:?}: {source}")]
    Name {
        /// The URI.
        uri: String,
        /// Which name and why.
        source: IdError,
    },
    /// Nothing, or something unknown, where the role is expected.
    #[error(
        "{0:?} has no known role: expected site/NAME, operator/NAME, auditor/NAME, researcher/NAME or \
         coordinator"
    )]
    UnknownRole(String),
    /// A role without its name.
    #[error("{0:?} lacks the name after its role")]
    MissingName(String),
    /// Something after a complete name.
    #[error("{0:?} goes on after its role and name")]
    TrailingParts(String),
}

impl Identity {
    /// Puts the two together.
    #[must_use]
    pub fn new(consortium: ConsortiumId, role: Role) -> Self {
        Self { consortium, role }
    }

    /// Reads the identity of a certificate. Says nothing about whether the certificate is genuine:
    /// the TLS verifier has judged that before.
    ///
    /// # Errors
    /// One variant per way in which the certificate does not name exactly one identity.
    pub fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Self, IdentityError> {
        let (rest, parsed) = x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| IdentityError::NotACertificate(error.to_string()))?;
        if !rest.is_empty() {
            return Err(IdentityError::TrailingBytes(rest.len()));
        }
        let names = parsed
            .subject_alternative_name()
            .map_err(|error| IdentityError::UnreadableNames(error.to_string()))?
            .ok_or(IdentityError::NoName)?;
        let mut uris = names.value.general_names.iter().filter_map(|name| {
            let GeneralName::URI(uri) = name else {
                return None;
            };
            uri.starts_with(SCHEME).then_some(*uri)
        });
        let uri = uris.next().ok_or(IdentityError::NoName)?;
        match uris.count() {
            0 => uri.parse(),
            more => Err(IdentityError::SeveralNames(more + 1)),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}/{}", self.consortium, self.role)
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(uri: &str) -> Result<Self, IdentityError> {
        let shown = || uri.chars().take(SHOWN_CHARS_MAX).collect::<String>();
        let bad_name = |source| IdentityError::Name { uri: shown(), source };
        let path = uri.strip_prefix(SCHEME).ok_or_else(|| IdentityError::NotConsilium(shown()))?;
        let mut parts = path.split('/');
        let consortium = parts.next().unwrap_or_default().parse().map_err(bad_name)?;
        let role = parts.next().ok_or_else(|| IdentityError::UnknownRole(shown()))?;
        let mut name = || parts.next().ok_or_else(|| IdentityError::MissingName(shown()));
        let role = match role {
            "site" => Role::Site(name()?.parse().map_err(bad_name)?),
            "operator" => Role::Operator(name()?.parse().map_err(bad_name)?),
            "auditor" => Role::Auditor(name()?.parse().map_err(bad_name)?),
            "researcher" => Role::Researcher(name()?.parse().map_err(bad_name)?),
            "coordinator" => Role::Coordinator,
            _ => return Err(IdentityError::UnknownRole(shown())),
        };
        if parts.next().is_some() {
            return Err(IdentityError::TrailingParts(shown()));
        }
        Ok(Self { consortium, role })
    }
}

/// The DNS names and IP addresses of a certificate, in its order.
///
/// # Errors
/// The bytes are not a certificate, or its names cannot be read.
#[expect(clippy::wildcard_enum_match_arm, reason = "the rest of a foreign enum names no host")]
pub(crate) fn hosts_of_certificate(
    certificate: &CertificateDer<'_>,
) -> Result<Vec<String>, IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::NotACertificate(error.to_string()))?;
    let names = parsed
        .subject_alternative_name()
        .map_err(|error| IdentityError::UnreadableNames(error.to_string()))?
        .ok_or(IdentityError::NoName)?;
    let hosts = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::DNSName(host) => Some((*host).to_owned()),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| address.to_string()),
        _ => None,
    });
    Ok(hosts.collect())
}

/// The common names of a certificate's subject and of its issuer, empty where there is none.
pub(crate) fn names_of_certificate(
    certificate: &CertificateDer<'_>,
) -> Result<(String, String), IdentityError> {
    let (_, parsed) = x509_parser::parse_x509_certificate(certificate)
        .map_err(|error| IdentityError::NotACertificate(error.to_string()))?;
    Ok((common_name(parsed.subject()), common_name(parsed.issuer())))
}

fn common_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().next().and_then(|name| name.as_str().ok());
    common.unwrap_or_default().to_owned()
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let four = <[u8; 4]>::try_from(bytes).map(IpAddr::from).ok();
    four.or_else(|| <[u8; 16]>::try_from(bytes).map(IpAddr::from).ok())
}

#[cfg(test)]
mod tests {
    use rcgen::string::Ia5String;
    use rcgen::{CertificateParams, KeyPair, SanType};

    use super::*;

    fn certificate(uris: &[&str]) -> CertificateDer<'static> {
        let mut params = CertificateParams::new(vec!["example.org".to_owned()]).unwrap();
        for uri in uris {
            params.subject_alt_names.push(SanType::URI(Ia5String::try_from(*uri).unwrap()));
        }
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().into()
    }

    #[test]
    fn each_role_survives_its_text() {
        for uri in [
            "consilium://thorax/site/st-mary",
            "consilium://thorax/operator/ada",
            "consilium://thorax/auditor/grace",
            "consilium://thorax/researcher/rosa",
            "consilium://thorax/coordinator",
        ] {
            let identity: Identity = uri.parse().unwrap();
            assert_eq!(identity.to_string(), uri);
            let others = certificate(&["https://example.org/", uri]);
            assert_eq!(Identity::of_certificate(&others).unwrap(), identity);
        }
    }

    #[test]
    fn every_way_of_being_malformed_has_its_error() {
        use IdentityError as E;
        let parse = |uri: &str| uri.parse::<Identity>().unwrap_err();
        assert!(matches!(parse("http://thorax/coordinator"), E::NotConsilium(_)));
        assert!(matches!(parse("CONSILIUM://thorax/coordinator"), E::NotConsilium(_)));
        assert!(matches!(parse("consilium:///coordinator"), E::Name { .. }));
        assert!(matches!(parse("consilium://Thorax/coordinator"), E::Name { .. }));
        assert!(matches!(parse("consilium://thorax"), E::UnknownRole(_)));
        assert!(matches!(parse("consilium://thorax/"), E::UnknownRole(_)));
        assert!(matches!(parse("consilium://thorax/root"), E::UnknownRole(_)));
        assert!(matches!(parse("consilium://thorax/site"), E::MissingName(_)));
        assert!(matches!(parse("consilium://thorax/site/"), E::Name { .. }));
        assert!(matches!(parse("consilium://thorax/site/.."), E::Name { .. }));
        assert!(matches!(parse("consilium://thorax/site/a/b"), E::TrailingParts(_)));
        assert!(matches!(parse("consilium://thorax/coordinator/x"), E::TrailingParts(_)));
        assert!(parse(&format!("consilium://{}", "a".repeat(9000))).to_string().len() < 500);
    }

    #[test]
    fn a_certificate_names_exactly_one_identity() {
        use IdentityError as E;
        let of = |uris: &[&str]| Identity::of_certificate(&certificate(uris)).unwrap_err();
        assert_eq!(of(&[]), E::NoName);
        assert_eq!(of(&["https://thorax/coordinator"]), E::NoName);
        let two = ["consilium://thorax/site/a", "consilium://thorax/coordinator"];
        assert_eq!(of(&two), E::SeveralNames(2));
        assert!(matches!(of(&["consilium://thorax/king"]), E::UnknownRole(_)));
        let bare = CertificateParams::default().self_signed(&KeyPair::generate().unwrap());
        assert_eq!(Identity::of_certificate(bare.unwrap().der()).unwrap_err(), E::NoName);
        let noise = CertificateDer::from(vec![0x30, 0x03, 0x02]);
        assert!(matches!(Identity::of_certificate(&noise), Err(E::NotACertificate(_))));
        let mut long = certificate(&["consilium://thorax/coordinator"]).to_vec();
        long.extend([0; 3]);
        let long = CertificateDer::from(long);
        assert_eq!(Identity::of_certificate(&long), Err(E::TrailingBytes(3)));
    }
}
