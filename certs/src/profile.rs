//! What the CA writes into certificates. Everything in them is decided here; of a request or a peer
//! only the public key is ever used.

use std::net::IpAddr;

use consilium_common::ids::ConsortiumId;
use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls::pki_types::ServerName;

use crate::identity::{Identity, Role};
use crate::validity::{Validity, calendar};

/// Bytes of a serial number: 127 random bits, positive as RFC 5280 §4.1.2.2 asks.
pub(crate) type Serial = [u8; 16];

/// Why no certificate could be described.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProfileError {
    /// A name that agents could not connect to.
    #[error("{0:?} is neither a DNS name nor an IP address: give the host alone, without a port")]
    Host(String),
    /// Agents must be able to check where they connected to.
    #[error("no host: give each DNS name or IP address that agents connect to by `--host`")]
    NoHost,
    /// Outside the calendar of X.509.
    #[error("the validity does not fit the calendar: is this machine's clock right?")]
    Calendar,
}

/// The offline root: signs issuing certificates and nothing else.
pub(crate) fn root(
    consortium: &ConsortiumId,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, ProfileError> {
    authority(consortium, "root", 1, serial, validity)
}

/// The issuing CA below the root: signs the certificates of machines and people, no further CA.
pub(crate) fn issuing(
    consortium: &ConsortiumId,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, ProfileError> {
    authority(consortium, "issuing CA", 0, serial, validity)
}

/// The certificate of `identity`. `hosts` are the coordinator's names; others have none.
pub(crate) fn leaf(
    identity: &Identity,
    hosts: &[String],
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, ProfileError> {
    let mut params = dated(serial, validity)?;
    params.distinguished_name = name(&identity.consortium, &identity.role.to_string());
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![match identity.role {
        Role::Coordinator => ExtendedKeyUsagePurpose::ServerAuth,
        Role::Site(_) | Role::Operator(_) | Role::Auditor(_) | Role::Researcher(_) => {
            ExtendedKeyUsagePurpose::ClientAuth
        }
    }];
    let uri = identity.to_string();
    let uri = Ia5String::try_from(uri.as_str()).map_err(|_| ProfileError::Host(uri))?;
    params.subject_alt_names = vec![SanType::URI(uri)];
    if identity.role == Role::Coordinator {
        if hosts.is_empty() {
            return Err(ProfileError::NoHost);
        }
        for host in hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
    }
    Ok(params)
}

fn authority(
    consortium: &ConsortiumId,
    what: &str,
    path_length: u8,
    serial: Serial,
    validity: Validity,
) -> Result<CertificateParams, ProfileError> {
    let mut params = dated(serial, validity)?;
    // The serial's head tells apart two roots of one consortium, for verifiers as for people.
    let tag: String = hex::encode(serial).chars().take(8).collect();
    params.distinguished_name = name(consortium, &format!("{what} {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(path_length));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn dated(serial: Serial, validity: Validity) -> Result<CertificateParams, ProfileError> {
    let mut params = CertificateParams::default();
    params.not_before = calendar(validity.from).ok_or(ProfileError::Calendar)?;
    params.not_after = calendar(validity.until).ok_or(ProfileError::Calendar)?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn name(consortium: &ConsortiumId, common: &str) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    name.push(DnType::OrganizationName, consortium.as_str());
    name.push(DnType::CommonName, common);
    name
}

fn host_name(host: &str) -> Result<SanType, ProfileError> {
    let refuse = || ProfileError::Host(host.to_owned());
    match ServerName::try_from(host).map_err(|_| refuse())? {
        ServerName::DnsName(name) => {
            Ia5String::try_from(name.as_ref()).map(SanType::DnsName).map_err(|_| refuse())
        }
        ServerName::IpAddress(address) => Ok(SanType::IpAddress(IpAddr::from(address))),
        _ => Err(refuse()),
    }
}
