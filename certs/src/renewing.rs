//! A machine's next certificate: a site's, asked for by its site key, and the coordinator's, by its log
//! key. It goes on where a killed process left it.
//!
//! There are two files to replace, key and chain: the next key is written as `tls.key.next`, then the
//! chain is replaced, which is the moment that counts, then the key takes its place. Whoever loads between
//! the last two finds the next key to fit ([`crate::credentials`]).

use std::path::{Path, PathBuf};

use consilium_common::enrol::{RenewCoordinator, RenewRequest};
use consilium_common::ids::SiteId;
use consilium_common::signed::Signed;
use consilium_common::time::WallMillis;
use consilium_io::disk::sync_folder;
use consilium_io::error::IoError;
use rcgen::KeyPair;

use crate::bundle::LOG_KEY;
use crate::consortium::{CONSORTIUM_FILE, Consortium};
use crate::credentials::{Credentials, TLS_KEY, TLS_KEY_NEXT, TLS_PEM};
use crate::enrolling::{EnrollingError, Pinned, SITE_KEY};
use crate::file::{self, Readers};
use crate::identity::Identity;
use crate::validity::Validity;
use crate::verify::fingerprint_of;
use crate::{keys, request};

/// A site's next certificate, asked for and not there yet.
#[derive(Debug)]
pub struct Renewal {
    next: NextPair,
    request: Signed<RenewRequest>,
    pinned: Pinned,
}

impl Renewal {
    /// Makes a new TLS key and the request for its certificate. Needs no certificate that is still
    /// good: the site key asks.
    ///
    /// # Errors
    /// No key could be made, the folder is no bundle, or an earlier renewal cannot be brought to its
    /// end.
    pub fn prepare(folder: &Path, site: &SiteId, now: WallMillis) -> Result<Self, EnrollingError> {
        let next = NextPair::prepare(folder)?;
        let consortium = Consortium::load(&folder.join(CONSORTIUM_FILE))?;
        let site_key = keys::load(&folder.join(SITE_KEY))?;
        let request = request::renew(&consortium.name, site, &site_key, &next.key, now)?;
        let root = Credentials::root_of(folder)?;
        let pinned = Pinned { root: fingerprint_of(&root), consortium: consortium.name };
        Ok(Self { next, request, pinned })
    }

    /// Whom to ask.
    #[must_use]
    pub fn pinned(&self) -> &Pinned {
        &self.pinned
    }

    /// What to send.
    #[must_use]
    pub fn request(&self) -> &Signed<RenewRequest> {
        &self.request
    }

    /// Judges the chain that came (PEM), and puts it and its key in the old ones' place.
    ///
    /// # Errors
    /// The certificate is not of the new key, not of this site, or not good now; the old ones stay.
    pub fn install(self, chain: &str, now: WallMillis) -> Result<Validity, EnrollingError> {
        Ok(self.next.install(chain, now)?.validity)
    }
}

/// The coordinator's next certificate, asked for and not there yet.
#[derive(Debug)]
pub struct CoordinatorRenewal {
    next: NextPair,
    request: Signed<RenewCoordinator>,
}

impl CoordinatorRenewal {
    /// Makes a new TLS key and the request for its certificate: signed by the log key, with the
    /// certificate that lies there, good or over.
    ///
    /// # Errors
    /// As [`Renewal::prepare`].
    pub fn prepare(folder: &Path, now: WallMillis) -> Result<Self, EnrollingError> {
        let next = NextPair::prepare(folder)?;
        let consortium = Consortium::load(&folder.join(CONSORTIUM_FILE))?;
        let log_key = keys::load(&folder.join(LOG_KEY))?;
        let chain = Credentials::chain_of(folder)?;
        let request =
            request::renew_coordinator(&consortium.name, &chain, &log_key, &next.key, now)?;
        Ok(Self { next, request })
    }

    /// What to send.
    #[must_use]
    pub fn request(&self) -> &Signed<RenewCoordinator> {
        &self.request
    }

    /// Judges the chain that came (PEM), and puts it and its key in the old ones' place.
    ///
    /// # Errors
    /// As [`Renewal::install`].
    pub fn install(self, chain: &str, now: WallMillis) -> Result<Credentials, EnrollingError> {
        self.next.install(chain, now)
    }
}

/// A key that waits for its certificate, and the folder that both go to.
struct NextPair {
    folder: PathBuf,
    key: KeyPair,
}

impl NextPair {
    fn prepare(folder: &Path) -> Result<Self, EnrollingError> {
        settle(folder)?;
        Ok(Self { folder: folder.to_owned(), key: keys::generate_tls()? })
    }

    fn install(self, chain: &str, now: WallMillis) -> Result<Credentials, EnrollingError> {
        let pem = keys::tls_pem(&self.key);
        let next = Credentials::of_parts(&self.folder, chain, &pem, now)?;
        let have = match Credentials::chain_of(&self.folder)?.first() {
            Some(leaf) => Identity::of_certificate(leaf).ok(),
            None => None,
        };
        if let Some(have) = have.filter(|have| *have != next.identity) {
            return Err(EnrollingError::OtherIdentity { have, came: next.identity });
        }
        let path = self.folder.join(TLS_KEY_NEXT);
        file::replace(&path, pem.as_bytes(), Readers::Owner)?;
        file::replace(&self.folder.join(TLS_PEM), chain.as_bytes(), Readers::Everybody)?;
        settle(&self.folder)?;
        Ok(next)
    }
}

impl std::fmt::Debug for NextPair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NextPair({}, key not shown)", self.folder.display())
    }
}

/// Brings a renewal that was cut off to its end: the next key takes its place if the chain is its own,
/// and goes if it is not.
fn settle(folder: &Path) -> Result<(), EnrollingError> {
    let next = folder.join(TLS_KEY_NEXT);
    if !file::exists(&next)? {
        return Ok(());
    }
    if Credentials::is_pair(&next, &folder.join(TLS_PEM))? {
        let path = folder.join(TLS_KEY);
        std::fs::rename(&next, &path).map_err(IoError::at("rename to", &path))?;
        return Ok(sync_folder(folder)?);
    }
    Ok(file::remove(&next)?)
}

#[cfg(test)]
mod tests {
    use consilium_common::time::Millis;

    use super::*;
    use crate::bundle::{CoordinatorBundle, SiteBundle};
    use crate::credentials::CredentialsError;
    use crate::fixture::{NOW, Town, later, leaf};
    use crate::grant::GrantError;
    use crate::issue::MACHINE_LENGTH;
    use crate::validity::DAY;

    #[test]
    fn the_coordinator_renews_by_its_log_key_and_keeps_its_hosts() {
        let town = Town::new("thorax");
        let folder = &town.coordinator.folder;
        let then = later(Millis(9 * DAY.0)); // the old one has run out
        assert!(CoordinatorBundle::load(folder, then).is_err());
        let renewal = CoordinatorRenewal::prepare(folder, then).unwrap();
        let made = town.ca.renew_coordinator(renewal.request(), MACHINE_LENGTH, then).unwrap();
        let next = renewal.install(&made.chain, then).unwrap();
        assert_eq!(next.validity.until.0, then.0 + MACHINE_LENGTH.0);
        let loaded = CoordinatorBundle::load(folder, then).unwrap();
        assert_eq!(loaded.credentials.validity, next.validity);
        let hosts = crate::identity::hosts_of_certificate(&leaf(folder)).unwrap();
        assert_eq!(hosts, ["localhost", "127.0.0.1"]);
        // A request that somebody kept is of no use.
        let kept = CoordinatorRenewal::prepare(folder, NOW).unwrap();
        let told = town.ca.renew_coordinator(kept.request(), MACHINE_LENGTH, then);
        assert!(matches!(told, Err(GrantError::Old)));
    }

    #[test]
    fn nobody_but_the_coordinator_gets_a_coordinators_certificate() {
        let (town, other) = (Town::new("thorax"), Town::new("thorax"));
        let ask = |folder: &Path| {
            let renewal = CoordinatorRenewal::prepare(folder, NOW).unwrap();
            town.ca.renew_coordinator(renewal.request(), MACHINE_LENGTH, NOW).unwrap_err()
        };
        // Another log key.
        assert!(matches!(ask(&other.coordinator.folder), GrantError::Signed { .. }));
        // The right log key, and a certificate of another CA or of another role.
        for from in [&other.coordinator, &town.site] {
            crate::fixture::mix(from, &town.coordinator, TLS_PEM);
            assert!(matches!(ask(&town.coordinator.folder), GrantError::NotTheCoordinator));
        }
    }

    /// Renews `town`'s site at `at`; what was asked for, and the chain that came.
    fn renewal(town: &Town, at: WallMillis) -> (Renewal, String) {
        let site: SiteId = "st-mary".parse().unwrap();
        let renewal = Renewal::prepare(&town.site.folder, &site, at).unwrap();
        let chain = town.ca.renew(renewal.request(), MACHINE_LENGTH, at).unwrap().chain;
        (renewal, chain)
    }

    #[test]
    fn a_renewal_brings_a_new_key_and_works_after_the_old_certificate_has_run_out() {
        let town = Town::new("thorax");
        let then = later(Millis(9 * DAY.0));
        assert!(SiteBundle::load(&town.site.folder, then).is_err());
        let before = keys::load_ca(&town.site.folder.join(TLS_KEY)).unwrap();
        let (asked, chain) = renewal(&town, then);
        let validity = asked.install(&chain, then).unwrap();
        assert_eq!(validity.until.0, then.0 + MACHINE_LENGTH.0);
        let made = SiteBundle::load(&town.site.folder, then).unwrap();
        assert_eq!(made.credentials.validity, validity);
        let after = keys::load_ca(&town.site.folder.join(TLS_KEY)).unwrap();
        assert_ne!(before.public_key_raw(), after.public_key_raw());
    }

    #[test]
    fn a_renewal_that_is_cut_off_leaves_a_pair_that_fits() {
        let town = Town::new("thorax");
        let folder = &town.site.folder;
        let copy = |name: &str| std::fs::read(folder.join(name)).unwrap();
        let (old_key, old_chain) = (copy(TLS_KEY), copy(TLS_PEM));
        let (asked, chain) = renewal(&town, NOW);
        asked.install(&chain, NOW).unwrap();
        let (new_key, new_chain) = (copy(TLS_KEY), copy(TLS_PEM));
        let state = |key: &[u8], pem: &[u8], next: Option<&[u8]>| {
            file::replace(&folder.join(TLS_KEY), key, Readers::Owner).unwrap();
            file::replace(&folder.join(TLS_PEM), pem, Readers::Everybody).unwrap();
            if let Some(next) = next {
                file::replace(&folder.join(TLS_KEY_NEXT), next, Readers::Owner).unwrap();
            }
            SiteBundle::load(folder, NOW).unwrap();
            settle(folder).unwrap();
            SiteBundle::load(folder, NOW).unwrap();
            assert!(!folder.join(TLS_KEY_NEXT).exists());
            leaf(folder)
        };
        let before = state(&old_key, &old_chain, Some(&new_key));
        let after = state(&old_key, &new_chain, Some(&new_key));
        assert_ne!(before, after);
        assert_eq!(state(&new_key, &new_chain, None), after);
    }

    #[test]
    fn a_chain_of_another_key_or_role_is_not_installed() {
        let town = Town::new("thorax");
        let before = leaf(&town.site.folder);
        let ((asked, _), (_, other)) = (renewal(&town, NOW), renewal(&town, NOW));
        let told = asked.install(&other, NOW).unwrap_err();
        assert!(matches!(told, EnrollingError::Certificate(CredentialsError::NotAPair { .. })));
        let (asked, chain) = renewal(&town, NOW);
        let told = asked.install(&chain, later(Millis(9 * DAY.0))).unwrap_err();
        assert!(matches!(told, EnrollingError::Certificate(CredentialsError::Expired { .. })));
        assert_eq!(leaf(&town.site.folder), before);
        SiteBundle::load(&town.site.folder, NOW).unwrap();
    }
}
