//! `consilium ca issue`: one bundle folder per identity, which is all that a person copies to that
//! machine. Issuing again for the same name renews the certificate and keeps the long-lived key.
//!
//! | identity | folder below `issued/` | files |
//! |---|---|---|
//! | site | `site/NAME` | `tls.key tls.pem root.pem site.key site.pub consortium.toml` |
//! | operator | `operator/NAME` | `tls.key tls.pem root.pem operator.key operator.pub` |
//! | auditor | `auditor/NAME` | `tls.key tls.pem root.pem consortium.toml` |
//! | researcher | `researcher/NAME` | `tls.key tls.pem root.pem consortium.toml` |
//! | coordinator | `coordinator` | `tls.key tls.pem root.pem log.key log.pub consortium.toml` |

use std::path::{Path, PathBuf};

use consilium_common::ids::{OperatorId, SiteId};
use consilium_common::signed::PublicKey;
use consilium_common::time::{Millis, WallMillis};
use consilium_io::disk::create_folder;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::ca::{Ca, CaError};
use crate::consortium::CONSORTIUM_FILE;
use crate::credentials::{ROOT_PEM, TLS_KEY, TLS_PEM};
use crate::file::{self, Readers};
use crate::identity::{Identity, Role, hosts_of_certificate};
use crate::keys;
use crate::validity::{DAY, Validity};

/// How long a certificate of a site or the coordinator is good unless said otherwise.
pub const MACHINE_LENGTH: Millis = Millis(DAY.0 * 7);
/// The same for people, who renew by hand.
pub const PERSON_LENGTH: Millis = Millis(DAY.0 * 90);

/// What `issue` did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The bundle: copy its content to the machine.
    pub folder: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// The certificate's serial number, hexadecimal.
    pub serial: String,
    /// When the certificate is good.
    pub validity: Validity,
    /// The signing key that goes with it (site, operator, log); auditors and researchers have none.
    pub key: Option<PublicKey>,
    /// A file whose secret is at its machine and not in the bundle: copying the rest over there
    /// renews the certificate.
    pub key_elsewhere: Option<PathBuf>,
}

/// A long-lived key beside the certificate.
struct LongLived {
    key: PublicKey,
    elsewhere: Option<PathBuf>,
}

impl Ca {
    /// Issues a site's bundle and puts the site into the roster, which the operators then sign.
    ///
    /// # Errors
    /// Fewer operators than needed are known, the roster is full, or a file cannot be written.
    pub fn issue_site(
        &mut self,
        name: &SiteId,
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        self.consortium.require_operators()?;
        let role = Role::Site(name.clone());
        let folder = self.bundle(&role)?;
        let known = self.roster.site_key(name).copied();
        let key = long_lived(&folder.join("site.key"), &role, known)?;
        let issued = self.issue_tls(folder, role, &[], (length, now), Some(key))?;
        self.consortium.store(&issued.folder.join(CONSORTIUM_FILE))?;
        if let Some(key) = issued.key {
            self.set_roster(self.roster.with_site(name, key)?)?;
        }
        Ok(issued)
    }

    /// Issues an operator's bundle and adds the operator's key to the consortium. Bundles that
    /// were issued before do not know a new operator until they are issued again.
    ///
    /// # Errors
    /// There are too many operators, or a file cannot be written.
    pub fn issue_operator(
        &mut self,
        name: &OperatorId,
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        let role = Role::Operator(name.clone());
        let folder = self.bundle(&role)?;
        let known = self.consortium.operators.get(name).copied();
        let key = long_lived(&folder.join("operator.key"), &role, known)?;
        let consortium = self.consortium.with_operator(name, key.key)?;
        let issued = self.issue_tls(folder, role, &[], (length, now), Some(key))?;
        self.set_consortium(consortium)?;
        Ok(issued)
    }

    /// Issues an auditor's bundle.
    ///
    /// # Errors
    /// Fewer operators than needed are known, or a file cannot be written.
    pub fn issue_auditor(
        &mut self,
        name: &OperatorId,
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        self.issue_unsigning(Role::Auditor(name.clone()), length, now)
    }

    /// Issues a researcher's bundle.
    ///
    /// # Errors
    /// As [`Ca::issue_auditor`].
    pub fn issue_researcher(
        &mut self,
        name: &OperatorId,
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        self.issue_unsigning(Role::Researcher(name.clone()), length, now)
    }

    /// The bundle of somebody who signs nothing.
    fn issue_unsigning(
        &self,
        role: Role,
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        self.consortium.require_operators()?;
        let folder = self.bundle(&role)?;
        let issued = self.issue_tls(folder, role, &[], (length, now), None)?;
        self.consortium.store(&issued.folder.join(CONSORTIUM_FILE))?;
        Ok(issued)
    }

    /// Issues the coordinator's bundle. `hosts` are the DNS names and IP addresses, without ports,
    /// under which agents and operators reach it; none: those of its last bundle.
    ///
    /// # Errors
    /// Fewer operators than needed are known, a host is none, or a file cannot be written.
    pub fn issue_coordinator(
        &mut self,
        hosts: &[String],
        length: Millis,
        now: WallMillis,
    ) -> Result<Issued, CaError> {
        self.consortium.require_operators()?;
        let role = Role::Coordinator;
        let folder = self.bundle(&role)?;
        let known = Some(self.consortium.coordinator_log_key);
        let key = long_lived(&folder.join("log.key"), &role, known)?;
        let before = match hosts.is_empty() && file::exists(&folder.join(TLS_PEM))? {
            true => hosts_before(&folder.join(TLS_PEM))?,
            false => hosts.to_vec(),
        };
        let issued = self.issue_tls(folder, role, &before, (length, now), Some(key))?;
        self.consortium.store(&issued.folder.join(CONSORTIUM_FILE))?;
        Ok(issued)
    }

    fn bundle(&self, role: &Role) -> Result<PathBuf, CaError> {
        let folder = self.dir().join("issued").join(role.to_string());
        create_folder(&folder)?;
        Ok(folder)
    }

    fn issue_tls(
        &self,
        folder: PathBuf,
        role: Role,
        hosts: &[String],
        (length, now): (Millis, WallMillis),
        key: Option<LongLived>,
    ) -> Result<Issued, CaError> {
        let identity = Identity::new(self.consortium.name.clone(), role);
        let tls = keys::generate_tls()?;
        let made = self.certify(&identity, hosts, &tls, Validity::starting(now, length))?;
        file::replace(&folder.join(TLS_KEY), keys::tls_pem(&tls).as_bytes(), Readers::Owner)?;
        file::replace(&folder.join(TLS_PEM), made.chain_pem.as_bytes(), Readers::Everybody)?;
        file::replace(&folder.join(ROOT_PEM), self.root_pem.as_bytes(), Readers::Everybody)?;
        let (key, key_elsewhere) = key.map(|key| (key.key, key.elsewhere)).unzip();
        Ok(Issued {
            folder,
            identity,
            serial: made.serial,
            validity: made.validity,
            key,
            key_elsewhere: key_elsewhere.flatten(),
        })
    }
}

/// The hosts of the coordinator's certificate at `path`.
fn hosts_before(path: &Path) -> Result<Vec<String>, CaError> {
    let leaf = CertificateDer::from_pem_slice(file::read_text(path)?.as_bytes());
    let leaf = leaf.map_err(|error| CaError::Certificate {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(hosts_of_certificate(&leaf)?)
}

/// The long-lived key at `path`: the one that lies there, or a new one if none was ever `known`,
/// or, if it is known and not there, a reminder that its secret is at its machine.
fn long_lived(path: &Path, role: &Role, known: Option<PublicKey>) -> Result<LongLived, CaError> {
    let here = file::exists(path)?;
    let key = match known {
        Some(known) if !here => known,
        None if !here => {
            let new = keys::generate()?;
            keys::store(path, &new)?;
            new.public()
        }
        _ => keys::load(path)?.public(),
    };
    if known.is_some_and(|known| known != key) {
        return Err(CaError::OtherKey { path: path.to_owned(), who: role.to_string() });
    }
    keys::store_public(&path.with_extension("pub"), &key)?;
    Ok(LongLived { key, elsewhere: (known.is_some() && !here).then(|| path.to_owned()) })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::bundle::{CoordinatorBundle, OperatorBundle, SiteBundle};
    use crate::consortium::ConsortiumError;
    use crate::fixture::{NOW, Town, later, leaf};
    use crate::profile::ProfileError;
    use crate::roster::Roster;
    use crate::signed_file;

    fn names(folder: &Path) -> Vec<String> {
        let entries = folder.read_dir().unwrap();
        let mut names: Vec<_> =
            entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn each_bundle_holds_all_that_its_machine_needs_and_no_secret_is_open() {
        let town = Town::new("thorax");
        let common = ["root.pem", "tls.key", "tls.pem"];
        let bundles: [(&Issued, &[&str]); 3] = [
            (&town.site, &["consortium.toml", "site.key", "site.pub"]),
            (&town.coordinator, &["consortium.toml", "log.key", "log.pub"]),
            (&town.operator, &["operator.key", "operator.pub"]),
        ];
        for (issued, own) in bundles {
            let mut expected: Vec<&str> = common.iter().chain(own).copied().collect();
            expected.sort_unstable();
            assert_eq!(names(&issued.folder), expected);
            for name in expected.iter().filter(|name| name.ends_with(".key")) {
                let status = std::fs::metadata(issued.folder.join(name)).unwrap();
                assert_eq!(status.permissions().mode() & 0o777, 0o600, "{name}");
            }
        }
        SiteBundle::load(&town.site.folder, NOW).unwrap();
        CoordinatorBundle::load(&town.coordinator.folder, NOW).unwrap();
        OperatorBundle::load(&town.operator.folder, NOW).unwrap();
    }

    #[test]
    fn renewing_keeps_the_long_lived_key_and_the_roster() {
        let mut town = Town::new("thorax");
        let site: SiteId = "st-mary".parse().unwrap();
        let version = town.ca.roster().version();
        let soon = later(DAY);
        let again = town.ca.issue_site(&site, MACHINE_LENGTH, soon).unwrap();
        assert_eq!((again.key, again.key_elsewhere.is_none()), (town.site.key, true));
        assert_ne!(again.serial, town.site.serial);
        assert_eq!(again.validity.until.0, town.site.validity.until.0 + DAY.0);
        assert_eq!(town.ca.roster().version(), version);
        // The key went to its machine and is no longer here: the certificate is renewed without it.
        std::fs::remove_file(again.folder.join("site.key")).unwrap();
        let third = town.ca.issue_site(&site, MACHINE_LENGTH, soon).unwrap();
        assert_eq!((third.key, third.key_elsewhere.is_some()), (town.site.key, true));
        assert!(!third.folder.join("site.key").exists());
        // A strange key in its place is noticed.
        keys::store(&third.folder.join("site.key"), &keys::generate().unwrap()).unwrap();
        let strange = town.ca.issue_site(&site, MACHINE_LENGTH, soon).unwrap_err();
        assert!(matches!(strange, CaError::OtherKey { .. }), "{strange}");
    }

    #[test]
    fn a_new_site_needs_the_operators_signatures_again() {
        let mut town = Town::new("thorax");
        let path = town.ca.roster_path();
        let operator = OperatorBundle::load(&town.operator.folder, NOW).unwrap();
        signed_file::sign::<Roster>(&path, &operator.operator_key).unwrap();
        let signed = signed_file::load(&path).unwrap();
        let roster = Roster::verified(&signed, town.ca.consortium()).unwrap();
        assert_eq!(&roster, town.ca.roster());
        assert_eq!(roster.site_key(&"st-mary".parse().unwrap()).copied(), town.site.key);
        town.ca.issue_site(&"charite".parse().unwrap(), MACHINE_LENGTH, NOW).unwrap();
        assert!(signed_file::load::<Roster>(&path).is_err());
    }

    #[test]
    fn sites_wait_for_the_operators_and_the_coordinator_for_a_host() {
        let dir = tempfile::tempdir().unwrap();
        let name = "thorax".parse().unwrap();
        let mut ca = Ca::init(&dir.path().join("ca"), &name, 2, NOW).unwrap();
        ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
        let early = ca.issue_site(&"st-mary".parse().unwrap(), MACHINE_LENGTH, NOW).unwrap_err();
        assert!(matches!(
            early,
            CaError::Consortium(ConsortiumError::TooFewOperators { have: 1, need: 2 })
        ));
        ca.issue_operator(&"bob".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
        let nowhere = ca.issue_coordinator(&[], MACHINE_LENGTH, NOW).unwrap_err();
        assert!(matches!(nowhere, CaError::Profile(ProfileError::NoHost)));
        let port = ca.issue_coordinator(&["a.example:4433".to_owned()], MACHINE_LENGTH, NOW);
        assert!(port.unwrap_err().to_string().contains("without a port"));
        let long = ca.issue_auditor(&"eve".parse().unwrap(), Millis(DAY.0 * 9999), NOW);
        assert!(matches!(long, Err(CaError::TooLong { .. })));
        let auditor = ca.issue_auditor(&"eve".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
        let rosa = "rosa".parse().unwrap();
        let researcher = ca.issue_researcher(&rosa, PERSON_LENGTH, NOW).unwrap();
        for (issued, role) in [(&auditor, "auditor/eve"), (&researcher, "researcher/rosa")] {
            assert_eq!(issued.identity.to_string(), format!("consilium://thorax/{role}"));
            let files = ["consortium.toml", "root.pem", "tls.key", "tls.pem"];
            assert_eq!(
                (names(&issued.folder), issued.key),
                (files.map(str::to_owned).to_vec(), None)
            );
        }
    }

    #[test]
    fn a_certificate_says_what_the_profile_says() {
        let town = Town::new("thorax");
        for (issued, server) in [(&town.site, false), (&town.coordinator, true)] {
            let der = leaf(&issued.folder);
            let (_, parsed) = x509_parser::parse_x509_certificate(&der).unwrap();
            let usage = parsed.extended_key_usage().unwrap().unwrap().value;
            assert_eq!((usage.server_auth, usage.client_auth, usage.any), (server, !server, false));
            assert!(!parsed.is_ca());
            assert_eq!(Validity::of_certificate(&der).unwrap(), issued.validity);
            assert_eq!(issued.validity.until, later(MACHINE_LENGTH));
            let record = format!("issued/certificates/{}.pem", issued.serial);
            let recorded = CertificateDer::from_pem_file(town.ca.dir().join(record)).unwrap();
            assert_eq!(recorded, der);
        }
    }
}
