//! The bundle folders as the programs load them: TLS files, signing key and consortium facts, held
//! against each other so that a mixture of two bundles is found at start.

use std::path::{Path, PathBuf};

use consilium_common::ids::{OperatorId, SiteId};
use consilium_common::signed::SecretKey;
use consilium_common::time::WallMillis;

use crate::consortium::{CONSORTIUM_FILE, Consortium, ConsortiumError};
use crate::credentials::{Credentials, CredentialsError, ROOT_PEM};
use crate::file;
use crate::identity::{Identity, Role};
use crate::keys::{self, KeyError};

/// The coordinator's log key's name in its bundle.
pub(crate) const LOG_KEY: &str = "log.key";

/// Why a bundle was refused.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The TLS files.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// The signing key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The consortium file.
    #[error(transparent)]
    Consortium(#[from] ConsortiumError),
    /// The bundle of somebody else.
    #[error("{folder} is the bundle of {found}, and {expected} is needed here")]
    WrongRole {
        /// The folder.
        folder: PathBuf,
        /// Whose it is.
        found: Identity,
        /// Who is needed.
        expected: &'static str,
    },
    /// Files of two consortia in one folder.
    #[error(
        "in {folder}, {CONSORTIUM_FILE} is of {file} and tls.pem of {certificate}: copy the whole bundle again"
    )]
    TwoConsortia {
        /// The folder.
        folder: PathBuf,
        /// By `consortium.toml`.
        file: String,
        /// By the certificate.
        certificate: String,
    },
    /// Sites would refuse everything that this key signs.
    #[error(
        "{path} is not the log key that {CONSORTIUM_FILE} names: sites would refuse its receipts; \
         put the original key back"
    )]
    OtherLogKey {
        /// The key's file.
        path: PathBuf,
    },
}

/// What an agent runs with.
#[derive(Debug, Clone)]
pub struct SiteBundle {
    /// Its certificate.
    pub credentials: Credentials,
    /// Its name.
    pub site: SiteId,
    /// Signs its messages.
    pub site_key: SecretKey,
    /// What it pins.
    pub consortium: Consortium,
}

impl SiteBundle {
    /// Loads a site's bundle.
    ///
    /// # Errors
    /// A file is missing, wrong, expired, open to others, or from another bundle.
    pub fn load(folder: &Path, now: WallMillis) -> Result<Self, BundleError> {
        let credentials = Credentials::load(folder, now)?;
        let Role::Site(site) = credentials.identity.role.clone() else {
            return Err(wrong_role(folder, &credentials, "a site"));
        };
        let consortium = load_consortium(folder, &credentials)?;
        Ok(Self { site_key: keys::load(&folder.join("site.key"))?, credentials, site, consortium })
    }
}

/// What the coordinator runs with.
#[derive(Debug, Clone)]
pub struct CoordinatorBundle {
    /// Its certificate.
    pub credentials: Credentials,
    /// Signs receipts, roll calls and checkpoints.
    pub log_key: SecretKey,
    /// The root, as a site that enrols gets it: PEM.
    pub root_pem: String,
    /// The consortium file, as that site gets it.
    pub consortium_text: String,
    /// Whose studies and rosters it accepts.
    pub consortium: Consortium,
}

impl CoordinatorBundle {
    /// Loads the coordinator's bundle.
    ///
    /// # Errors
    /// As [`SiteBundle::load`], or the log key is not the pinned one.
    pub fn load(folder: &Path, now: WallMillis) -> Result<Self, BundleError> {
        let credentials = Credentials::load(folder, now)?;
        if credentials.identity.role != Role::Coordinator {
            return Err(wrong_role(folder, &credentials, "the coordinator"));
        }
        let consortium = load_consortium(folder, &credentials)?;
        let path = folder.join(LOG_KEY);
        let log_key = keys::load(&path)?;
        if log_key.public() != consortium.coordinator_log_key {
            return Err(BundleError::OtherLogKey { path });
        }
        let text = |name| file::read_text(&folder.join(name)).map_err(KeyError::from);
        let (root_pem, consortium_text) = (text(ROOT_PEM)?, text(CONSORTIUM_FILE)?);
        Ok(Self { credentials, log_key, root_pem, consortium_text, consortium })
    }
}

/// What an operator's commands run with.
#[derive(Debug, Clone)]
pub struct OperatorBundle {
    /// The certificate.
    pub credentials: Credentials,
    /// The operator's name.
    pub operator: OperatorId,
    /// Signs studies and rosters.
    pub operator_key: SecretKey,
}

impl OperatorBundle {
    /// Loads an operator's bundle.
    ///
    /// # Errors
    /// As [`SiteBundle::load`].
    pub fn load(folder: &Path, now: WallMillis) -> Result<Self, BundleError> {
        let credentials = Credentials::load(folder, now)?;
        let Role::Operator(operator) = credentials.identity.role.clone() else {
            return Err(wrong_role(folder, &credentials, "an operator"));
        };
        let operator_key = keys::load(&folder.join("operator.key"))?;
        Ok(Self { credentials, operator, operator_key })
    }
}

fn wrong_role(folder: &Path, have: &Credentials, expected: &'static str) -> BundleError {
    BundleError::WrongRole { folder: folder.to_owned(), found: have.identity.clone(), expected }
}

fn load_consortium(folder: &Path, tls: &Credentials) -> Result<Consortium, BundleError> {
    let consortium = Consortium::load(&folder.join(CONSORTIUM_FILE))?;
    consortium.require_operators()?;
    if consortium.name == tls.identity.consortium {
        return Ok(consortium);
    }
    Err(BundleError::TwoConsortia {
        folder: folder.to_owned(),
        file: consortium.name.to_string(),
        certificate: tls.identity.consortium.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use consilium_common::time::Millis;

    use super::*;
    use crate::file::FileError;
    use crate::fixture::{NOW, Town, later, mix};
    use crate::validity::DAY;

    fn site(town: &Town) -> Result<SiteBundle, BundleError> {
        SiteBundle::load(&town.site.folder, NOW)
    }

    #[test]
    fn a_mixture_of_two_bundles_is_found_at_start() {
        use CredentialsError as C;
        for (name, what) in [("tls.key", "tls.key"), ("root.pem", "root.pem")] {
            let (ours, theirs) = (Town::new("thorax"), Town::new("thorax"));
            mix(&theirs.site, &ours.site, name);
            let told = site(&ours).unwrap_err();
            assert!(told.to_string().contains(what), "{told}");
            let kind =
                matches!(told, BundleError::Credentials(C::NotAPair { .. } | C::OtherRoot { .. }));
            assert!(kind, "{told:?}");
        }
        let (ours, theirs) = (Town::new("thorax"), Town::new("cardio"));
        mix(&theirs.site, &ours.site, "consortium.toml");
        let told = site(&ours).unwrap_err().to_string();
        assert!(told.contains("cardio") && told.contains("thorax"), "{told}");
    }

    #[test]
    fn an_expired_certificate_names_its_file_and_the_command_that_renews_it() {
        let town = Town::new("thorax");
        let told = SiteBundle::load(&town.site.folder, later(Millis(8 * DAY.0))).unwrap_err();
        let told = told.to_string();
        for part in ["tls.pem", "2025-12-01", "consilium ca issue site st-mary"] {
            assert!(told.contains(part), "{told}");
        }
        let early = SiteBundle::load(&town.site.folder, WallMillis(NOW.0 - DAY.0)).unwrap_err();
        assert!(early.to_string().contains("clock"), "{early}");
    }

    #[test]
    fn the_bundle_of_another_role_and_missing_files_are_named() {
        let town = Town::new("thorax");
        let wrong = SiteBundle::load(&town.coordinator.folder, NOW).unwrap_err().to_string();
        assert!(wrong.contains("consilium://thorax/coordinator"), "{wrong}");
        assert!(CoordinatorBundle::load(&town.site.folder, NOW).is_err());
        assert!(OperatorBundle::load(&town.site.folder, NOW).is_err());
        std::fs::remove_file(town.site.folder.join("site.key")).unwrap();
        let missing = site(&town).unwrap_err();
        assert!(matches!(missing, BundleError::Key(KeyError::File(FileError::Missing { .. }))));
        assert!(missing.to_string().contains("site.key"), "{missing}");
    }

    #[test]
    fn a_coordinator_with_another_log_key_does_not_start() {
        let town = Town::new("thorax");
        let path = town.coordinator.folder.join("log.key");
        std::fs::remove_file(&path).unwrap();
        keys::store(&path, &keys::generate().unwrap()).unwrap();
        let told = CoordinatorBundle::load(&town.coordinator.folder, NOW).unwrap_err();
        assert!(matches!(told, BundleError::OtherLogKey { .. }), "{told}");
    }

    #[test]
    fn damaged_pem_is_named() {
        for name in ["tls.pem", "root.pem", "tls.key"] {
            let town = Town::new("thorax");
            let path = mix(&town.site, &town.site, name);
            let text = std::fs::read_to_string(&path).unwrap().replace("-----END", "-----");
            consilium_io::disk::replace_private(&path, text.as_bytes()).unwrap();
            let told = site(&town).unwrap_err();
            assert!(told.to_string().contains(name), "{told}");
            assert!(matches!(told, BundleError::Credentials(_)));
        }
    }

    #[test]
    fn nothing_secret_is_printed() {
        let town = Town::new("thorax");
        let shown = format!("{:?} {:?}", site(&town).unwrap(), town.ca);
        assert!(shown.contains("not shown") && !shown.contains("PRIVATE"), "{shown}");
    }
}
