//! What an issuing CA certifies on a signed word: a site's first certificate by an operator's approval,
//! the next ones by the site's own key. Whoever carries the words here decides nothing.
//!
//! ```text
//! DIR/enrolled/NAME.pub     the key of a site that enrolled
//! DIR/revoked/KEY           the operator's signed word that ended a site
//! ```

use std::path::PathBuf;

use consilium_common::enrol::{Approval, EnrolRequest, RenewCoordinator, RenewRequest, Revocation};
use consilium_common::ids::{ConsortiumId, SiteId};
use consilium_common::limits::CLOCK_SKEW_MAX;
use consilium_common::signed::{PublicKey, Signed, SignedError};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::codec::{self, CodecError};
use consilium_io::disk::create_folder;
use rcgen::CertificateSigningRequestParams;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateSigningRequestDer};

use crate::ca::{Ca, CaError};
use crate::file::{self, FileError, Readers};
use crate::identity::{Identity, Role, hosts_of_certificate};
use crate::keys::{self, KeyError};
use crate::validity::Validity;
use crate::verify;

/// A certificate made on request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Granted {
    /// The certificate and the issuing CA's: PEM.
    pub chain: String,
    /// When it is good.
    pub validity: Validity,
}

/// Why nothing was certified.
#[derive(Debug, thiserror::Error)]
pub enum GrantError {
    /// The CA itself.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A file of the CA's folder.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key there.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// Not signed by whom it must be.
    #[error("{what}: {source}")]
    Signed {
        /// Which document.
        what: &'static str,
        /// What is wrong.
        source: SignedError,
    },
    /// A document of another consortium.
    #[error("the request is for consortium {theirs}, and this CA is of {ours}")]
    OtherConsortium {
        /// The document's.
        theirs: ConsortiumId,
        /// This CA's.
        ours: ConsortiumId,
    },
    /// The approval is of another request.
    #[error(
        "the approval of {0} is of another request: look at the fingerprint again, and approve anew"
    )]
    OtherRequest(SiteId),
    /// The name is somebody's already.
    #[error(
        "site {0} has another key: revoke the site first if that key was lost, or invite this one under \
         another name"
    )]
    OtherKey(SiteId),
    /// Nobody knows the site.
    #[error("site {0} never enrolled here, and no bundle was issued for it: invite it")]
    Unknown(SiteId),
    /// It was put out.
    #[error("site {site} was revoked: {reason}. To take it in again, invite it: it makes new keys")]
    Revoked {
        /// Which.
        site: SiteId,
        /// What the operator said.
        reason: String,
    },
    /// Kept by somebody and sent again, or a clock is wrong.
    #[error("the request for renewal was made at another time: check both clocks")]
    Old,
    /// What came with the coordinator's request is no certificate of it.
    #[error(
        "the certificate that came with the request is not one that this CA's root made for the coordinator: \
         issue one by hand (`consilium ca issue coordinator`)"
    )]
    NotTheCoordinator,
    /// A revocation that does not fit a file.
    #[error(transparent)]
    Codec(#[from] CodecError),
}

impl Ca {
    /// The first certificate of a site whose request an operator approved.
    ///
    /// # Errors
    /// A signature is missing, the approval is of another request, the name or the key is somebody
    /// else's or was revoked.
    pub fn grant(
        &self,
        request: &Signed<EnrolRequest>,
        approval: &Signed<Approval>,
        length: Millis,
        now: WallMillis,
    ) -> Result<Granted, GrantError> {
        let consortium = self.consortium();
        let signed = |what| move |source| GrantError::Signed { what, source };
        let approved = approval.verify(&consortium.operator_keys(), 1);
        let approved = approved.map_err(signed("the approval is refused"))?;
        let asked = request.parse_unverified().map_err(signed("the request is refused"))?;
        request.verify(&[asked.site_key], 1).map_err(signed("the request is refused"))?;
        self.ours(&approved.consortium)?;
        self.ours(&asked.consortium)?;
        if approved.request != request.digest() || approved.site != asked.site {
            return Err(GrantError::OtherRequest(approved.site));
        }
        self.not_revoked(&asked.site, &asked.site_key)?;
        if let Some(known) = self.site_key(&asked.site)?
            && known != asked.site_key
            && self.revocation(&known)?.is_none()
        {
            return Err(GrantError::OtherKey(asked.site));
        }
        let granted = self.certify_der(&asked.csr, &asked.site, length, now)?;
        create_folder(&self.dir().join("enrolled")).map_err(FileError::from)?;
        keys::store_public(&self.enrolled(&asked.site), &asked.site_key)?;
        Ok(granted)
    }

    /// The next certificate of a site, by its own key, also after the last one has run out.
    ///
    /// # Errors
    /// The site is not known or was revoked, or the request is not signed by its key, or is not of now.
    pub fn renew(
        &self,
        request: &Signed<RenewRequest>,
        length: Millis,
        now: WallMillis,
    ) -> Result<Granted, GrantError> {
        let what = "the request for renewal is refused";
        let signed = |source| GrantError::Signed { what, source };
        let asked = request.parse_unverified().map_err(signed)?;
        self.ours(&asked.consortium)?;
        let unknown = || GrantError::Unknown(asked.site.clone());
        let key = self.site_key(&asked.site)?.ok_or_else(unknown)?;
        request.verify(&[key], 1).map_err(signed)?;
        self.not_revoked(&asked.site, &key)?;
        if now.0.abs_diff(asked.at.0) > CLOCK_SKEW_MAX.0 {
            return Err(GrantError::Old);
        }
        self.certify_der(&asked.csr, &asked.site, length, now)
    }

    /// The coordinator's next certificate, by its log key, also after the last one has run out. Its hosts
    /// are those of the last one: whoever has the log key cannot choose them.
    ///
    /// # Errors
    /// The request is not signed by the log key, is not of now, or comes with no certificate of the
    /// coordinator under this CA's root.
    pub fn renew_coordinator(
        &self,
        request: &Signed<RenewCoordinator>,
        length: Millis,
        now: WallMillis,
    ) -> Result<Granted, GrantError> {
        let what = "the request for renewal is refused";
        let key = self.consortium().coordinator_log_key;
        let asked = request.verify(&[key], 1);
        let asked = asked.map_err(|source| GrantError::Signed { what, source })?;
        self.ours(&asked.consortium)?;
        if now.0.abs_diff(asked.at.0) > CLOCK_SKEW_MAX.0 {
            return Err(GrantError::Old);
        }
        let chain: Vec<_> = asked.chain.into_iter().map(CertificateDer::from).collect();
        let hosts = self.hosts_of(&chain, now).ok_or(GrantError::NotTheCoordinator)?;
        self.certify_csr(&asked.csr, Role::Coordinator, &hosts, length, now)
    }

    /// The coordinator's hosts, by a chain of its own that is good or was.
    fn hosts_of(&self, chain: &[CertificateDer<'static>], now: WallMillis) -> Option<Vec<String>> {
        let leaf = chain.first()?;
        let root = CertificateDer::from_pem_slice(self.root_pem.as_bytes()).ok()?;
        let (identity, ended) =
            (Identity::of_certificate(leaf).ok()?, Validity::of_certificate(leaf).ok()?.until);
        let role = Role::Coordinator;
        if identity != Identity::new(self.consortium().name.clone(), role.clone()) {
            return None;
        }
        verify::check_chain(chain, &root, &role, now.min(ended)).ok()?;
        hosts_of_certificate(leaf).ok()
    }

    /// Ends a site's key for good.
    ///
    /// # Errors
    /// No operator signed it, or it cannot be written.
    pub fn revoke(&self, revocation: &Signed<Revocation>) -> Result<(), GrantError> {
        let operators = self.consortium().operator_keys();
        let what = "the revocation is refused";
        let word = revocation
            .verify(&operators, 1)
            .map_err(|source| GrantError::Signed { what, source })?;
        self.ours(&word.consortium)?;
        let path = self.revoked(&word.site_key);
        create_folder(&self.dir().join("revoked")).map_err(FileError::from)?;
        Ok(file::replace(&path, &codec::encode(revocation)?, Readers::Everybody)?)
    }

    /// The key of a site that enrolled, or for which a bundle was issued.
    fn site_key(&self, site: &SiteId) -> Result<Option<PublicKey>, GrantError> {
        let path = self.enrolled(site);
        if file::exists(&path)? {
            return Ok(Some(keys::load_public(&path)?));
        }
        Ok(self.roster().site_key(site).copied())
    }

    fn enrolled(&self, site: &SiteId) -> PathBuf {
        self.dir().join("enrolled").join(format!("{site}.pub"))
    }

    fn revoked(&self, key: &PublicKey) -> PathBuf {
        self.dir().join("revoked").join(hex::encode(key.0))
    }

    fn revocation(&self, key: &PublicKey) -> Result<Option<Revocation>, GrantError> {
        let path = self.revoked(key);
        if !file::exists(&path)? {
            return Ok(None);
        }
        let bytes = file::read_bytes(&path)?;
        let signed: Signed<Revocation> = codec::decode(&bytes)?;
        let what = "the kept revocation is damaged";
        let word = signed.verify(&self.consortium().operator_keys(), 1);
        word.map(Some).map_err(|source| GrantError::Signed { what, source })
    }

    fn not_revoked(&self, site: &SiteId, key: &PublicKey) -> Result<(), GrantError> {
        match self.revocation(key)? {
            None => Ok(()),
            Some(word) => Err(GrantError::Revoked { site: site.clone(), reason: word.reason }),
        }
    }

    fn ours(&self, theirs: &ConsortiumId) -> Result<(), GrantError> {
        let ours = &self.consortium().name;
        if theirs == ours {
            return Ok(());
        }
        Err(GrantError::OtherConsortium { theirs: theirs.clone(), ours: ours.clone() })
    }

    /// Of the request only the public key is used, once its signature has shown possession of the
    /// private one: names, usages and dates in it mean nothing.
    fn certify_der(
        &self,
        csr: &[u8],
        site: &SiteId,
        length: Millis,
        now: WallMillis,
    ) -> Result<Granted, GrantError> {
        self.certify_csr(csr, Role::Site(site.clone()), &[], length, now)
    }

    fn certify_csr(
        &self,
        csr: &[u8],
        role: Role,
        hosts: &[String],
        length: Millis,
        now: WallMillis,
    ) -> Result<Granted, GrantError> {
        let csr = CertificateSigningRequestDer::from(csr);
        let csr = CertificateSigningRequestParams::from_der(&csr).map_err(CaError::Request)?;
        let identity = Identity::new(self.consortium().name.clone(), role);
        let validity = Validity::starting(now, length);
        let made = self.certify(&identity, hosts, &csr.public_key, validity)?;
        Ok(Granted { chain: made.chain_pem, validity: made.validity })
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::ids::Digest;
    use consilium_common::signed::SecretKey;
    use rcgen::string::Ia5String;
    use rcgen::{
        BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose,
        SanType,
    };

    use super::*;
    use crate::bundle::OperatorBundle;
    use crate::fixture::{NOW, Town, later};
    use crate::issue::MACHINE_LENGTH;
    use crate::request;
    use crate::validity::DAY;

    struct Site {
        key: SecretKey,
        request: Signed<EnrolRequest>,
    }

    fn site(name: &str, seed: u8) -> Site {
        let key = SecretKey::from_seed(&[seed; 32]);
        let tls = keys::generate_tls().unwrap();
        let consortium = "thorax".parse().unwrap();
        let request = request::enrol(&consortium, &name.parse().unwrap(), &key, &tls).unwrap();
        Site { key, request }
    }

    fn renewal(site: &Site, name: &str, at: WallMillis) -> Signed<RenewRequest> {
        let tls = keys::generate_tls().unwrap();
        let consortium = "thorax".parse().unwrap();
        request::renew(&consortium, &name.parse().unwrap(), &site.key, &tls, at).unwrap()
    }

    fn operator(town: &Town) -> SecretKey {
        OperatorBundle::load(&town.operator.folder, NOW).unwrap().operator_key
    }

    fn approval(name: &str, request: Digest, by: &SecretKey) -> Signed<Approval> {
        let (consortium, site) = ("thorax".parse().unwrap(), name.parse().unwrap());
        Signed::sign(Approval { consortium, site, request }.to_bytes().unwrap(), by)
    }

    fn revocation(name: &str, of: &Site, by: &SecretKey) -> Signed<Revocation> {
        let word = Revocation {
            consortium: "thorax".parse().unwrap(),
            site: name.parse().unwrap(),
            site_key: of.key.public(),
            reason: "left the consortium".to_owned(),
        };
        Signed::sign(word.to_bytes().unwrap(), by)
    }

    #[test]
    fn an_approved_request_gets_its_certificate_and_renews_it_by_its_key() {
        let town = Town::new("thorax");
        let new = site("charite", 1);
        let word = approval("charite", new.request.digest(), &operator(&town));
        let granted = town.ca.grant(&new.request, &word, MACHINE_LENGTH, NOW).unwrap();
        assert!(granted.chain.contains("BEGIN CERTIFICATE"));
        assert_eq!(granted.validity.until, later(MACHINE_LENGTH));
        // Also long after it has run out.
        let then = later(Millis(30 * DAY.0));
        let next = town.ca.renew(&renewal(&new, "charite", then), MACHINE_LENGTH, then).unwrap();
        assert_eq!(next.validity.until.0, then.0 + MACHINE_LENGTH.0);
    }

    #[test]
    fn without_the_operators_word_on_this_very_request_nothing_is_certified() {
        let town = Town::new("thorax");
        let (new, other, stranger) =
            (site("charite", 1), site("charite", 2), SecretKey::from_seed(&[9; 32]));
        let by = operator(&town);
        let grant = |request: &Signed<EnrolRequest>, word: &Signed<Approval>| {
            town.ca.grant(request, word, MACHINE_LENGTH, NOW).unwrap_err()
        };
        let word = approval("charite", new.request.digest(), &by);
        assert!(matches!(grant(&other.request, &word), GrantError::OtherRequest(_)));
        let elsewhere = approval("st-mary", new.request.digest(), &by);
        assert!(matches!(grant(&new.request, &elsewhere), GrantError::OtherRequest(_)));
        let strange = approval("charite", new.request.digest(), &stranger);
        assert!(matches!(grant(&new.request, &strange), GrantError::Signed { .. }));
        // Signed by another key than the one in it.
        let stolen = Signed::from_parts(new.request.bytes, other.request.signatures);
        let word = approval("charite", stolen.digest(), &by);
        assert!(matches!(grant(&stolen, &word), GrantError::Signed { .. }));
        // The name of a site that has its bundle.
        let taken = site("st-mary", 3);
        let word = approval("st-mary", taken.request.digest(), &by);
        assert!(matches!(grant(&taken.request, &word), GrantError::OtherKey(_)));
    }

    #[test]
    fn a_revoked_key_is_over_and_the_name_is_free_for_another() {
        let town = Town::new("thorax");
        let (by, old, new) = (operator(&town), site("charite", 1), site("charite", 2));
        let word = |site: &Site| approval("charite", site.request.digest(), &by);
        town.ca.grant(&old.request, &word(&old), MACHINE_LENGTH, NOW).unwrap();
        let strange = revocation("charite", &old, &SecretKey::from_seed(&[9; 32]));
        assert!(matches!(town.ca.revoke(&strange), Err(GrantError::Signed { .. })));
        town.ca.revoke(&revocation("charite", &old, &by)).unwrap();
        let again = town.ca.renew(&renewal(&old, "charite", NOW), MACHINE_LENGTH, NOW);
        assert!(again.unwrap_err().to_string().contains("left the consortium"));
        let back = town.ca.grant(&old.request, &word(&old), MACHINE_LENGTH, NOW);
        assert!(matches!(back, Err(GrantError::Revoked { .. })));
        town.ca.grant(&new.request, &word(&new), MACHINE_LENGTH, NOW).unwrap();
        town.ca.renew(&renewal(&new, "charite", NOW), MACHINE_LENGTH, NOW).unwrap();
        let stale = town.ca.renew(&renewal(&old, "charite", NOW), MACHINE_LENGTH, NOW);
        assert!(matches!(stale, Err(GrantError::Signed { .. })));
    }

    #[test]
    fn a_renewal_is_of_now_and_of_a_known_site() {
        let town = Town::new("thorax");
        let new = site("charite", 1);
        let unknown = town.ca.renew(&renewal(&new, "charite", NOW), MACHINE_LENGTH, NOW);
        assert!(matches!(unknown, Err(GrantError::Unknown(_))));
        let word = approval("charite", new.request.digest(), &operator(&town));
        town.ca.grant(&new.request, &word, MACHINE_LENGTH, NOW).unwrap();
        let kept = renewal(&new, "charite", NOW);
        let late = town.ca.renew(&kept, MACHINE_LENGTH, later(Millis(2 * CLOCK_SKEW_MAX.0)));
        assert!(matches!(late, Err(GrantError::Old)));
        // A site whose bundle was carried by hand renews by the key in the roster.
        let by_hand = keys::load(&town.site.folder.join("site.key")).unwrap();
        let by_hand = Site { key: by_hand, request: new.request };
        town.ca.renew(&renewal(&by_hand, "st-mary", NOW), MACHINE_LENGTH, NOW).unwrap();
    }

    #[test]
    fn a_request_that_asks_for_more_gets_what_the_ca_decides() {
        let town = Town::new("thorax");
        let key = keys::generate_tls().unwrap();
        let mut wish = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        let uri = Ia5String::try_from("consilium://thorax/coordinator").unwrap();
        wish.subject_alt_names.push(SanType::URI(uri));
        wish.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        wish.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        wish.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let request = wish.serialize_request(&key).unwrap().der().to_vec();
        let charite: SiteId = "charite".parse().unwrap();
        let role = Role::Site(charite.clone());
        let made = town.ca.certify_der(&request, &charite, MACHINE_LENGTH, NOW).unwrap();
        let der = CertificateDer::from_pem_slice(made.chain.as_bytes()).unwrap();
        assert_eq!(Identity::of_certificate(&der).unwrap().role, role);
        let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
        assert!(!parsed.is_ca());
        assert!(!parsed.extended_key_usage().unwrap().unwrap().value.server_auth);
        assert_eq!(
            parsed.subject_alternative_name().unwrap().unwrap().value.general_names.len(),
            1
        );
        let mut forged = request;
        if let Some(last) = forged.last_mut() {
            *last ^= 1;
        }
        let forged = town.ca.certify_der(&forged, &charite, MACHINE_LENGTH, NOW);
        assert!(matches!(forged, Err(GrantError::Ca(CaError::Request(_)))));
    }
}
