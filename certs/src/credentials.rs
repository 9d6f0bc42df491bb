//! The TLS half of a bundle, loaded and judged: whoever starts with a wrong, expired or foreign
//! certificate learns it here, from the file's name, and not from a failed connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::time::WallMillis;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::file::{self, FileError};
use crate::identity::{Identity, IdentityError, Role};
use crate::validity::{Standing, Validity, date};
use crate::verify::{self, PeerError};

/// The TLS private key's name in a bundle.
pub const TLS_KEY: &str = "tls.key";
/// The certificate chain's name in a bundle.
pub const TLS_PEM: &str = "tls.pem";
/// The root certificate's name in a bundle.
pub const ROOT_PEM: &str = "root.pem";
/// A chain is a certificate and the issuing CA's.
const CHAIN_LENGTH_MAX: usize = 4;

/// Why a bundle's TLS files are of no use.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    /// A file cannot be read, or the key is open to others.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the PEM that belongs there.
    #[error("{path} does not hold {expected}: copy it again from the bundle")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What belongs there.
        expected: &'static str,
    },
    /// The certificate names nobody.
    #[error("{path}: {source}")]
    Identity {
        /// The file.
        path: PathBuf,
        /// Why.
        source: IdentityError,
    },
    /// The certificate is over.
    #[error(
        "{path} expired on {until}: renew it with `{renew}` where the CA is, and copy the new files here"
    )]
    Expired {
        /// The file.
        path: PathBuf,
        /// When.
        until: String,
        /// The command.
        renew: String,
    },
    /// The certificate has not begun.
    #[error("{path} is valid only from {from}: is this machine's clock right?")]
    NotYetValid {
        /// The file.
        path: PathBuf,
        /// From when.
        from: String,
    },
    /// Key and certificate are not a pair.
    #[error("{key} does not belong to {pem}: copy both from the same bundle")]
    NotAPair {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        pem: PathBuf,
    },
    /// The chain does not lead to the root.
    #[error("{pem} was not issued under {root} ({source}): copy both from the same bundle")]
    OtherRoot {
        /// The chain's file.
        pem: PathBuf,
        /// The root's file.
        root: PathBuf,
        /// What the verifier said.
        source: rustls::Error,
    },
}

/// A certificate with its key and the root it trusts. The key is not shown.
#[derive(Clone)]
pub struct Credentials {
    /// Who this machine is.
    pub identity: Identity,
    /// When the certificate is good.
    pub validity: Validity,
    pub(crate) key: Arc<CertifiedKey>,
    pub(crate) root: CertificateDer<'static>,
}

impl Credentials {
    /// Loads `tls.key`, `tls.pem` and `root.pem` from `folder`, and holds them against each other
    /// and against the time.
    ///
    /// # Errors
    /// One variant of [`CredentialsError`] per cause.
    pub fn load(folder: &Path, now: WallMillis) -> Result<Self, CredentialsError> {
        let (key_path, pem_path, root_path) =
            (folder.join(TLS_KEY), folder.join(TLS_PEM), folder.join(ROOT_PEM));
        let chain = read_chain(&pem_path)?;
        let root = read_root(&root_path)?;
        let malformed = |expected| CredentialsError::Malformed { path: pem_path.clone(), expected };
        let leaf = chain.first().ok_or_else(|| malformed("a certificate chain in PEM"))?;
        let unnamed = |source| CredentialsError::Identity { path: pem_path.clone(), source };
        let identity = Identity::of_certificate(leaf).map_err(unnamed)?;
        let validity = Validity::of_certificate(leaf).map_err(unnamed)?;
        check_dates(&pem_path, &identity, validity, now)?;
        verify::check_chain(&chain, &root, &identity.role, now).map_err(|source| {
            CredentialsError::OtherRoot { pem: pem_path.clone(), root: root_path, source }
        })?;
        let key = read_key(&key_path)?;
        let provider = verify::provider();
        let key = pair(chain, key, &provider)
            .ok_or(CredentialsError::NotAPair { key: key_path, pem: pem_path })?;
        Ok(Self { identity, validity, key: Arc::new(key), root })
    }

    /// How the certificate stands at `now`, for status screens.
    #[must_use]
    pub fn standing(&self, now: WallMillis) -> Standing {
        self.validity.standing(now)
    }

    /// What is wrong with a peer of this identity, if it may not speak to us at all.
    pub(crate) fn check_peer(&self, peer: &Identity) -> Result<(), PeerError> {
        if peer.consortium == self.identity.consortium {
            return Ok(());
        }
        Err(PeerError::OtherConsortium {
            theirs: peer.to_string(),
            ours: self.identity.consortium.clone(),
        })
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials({}, key not shown)", self.identity)
    }
}

/// The command that renews a certificate of `role`.
fn renewal(role: &Role) -> String {
    match role {
        Role::Site(name) => format!("consilium ca issue site {name}"),
        Role::Operator(name) => format!("consilium ca issue operator {name}"),
        Role::Auditor(name) => format!("consilium ca issue auditor {name}"),
        Role::Coordinator => "consilium ca issue coordinator".to_owned(),
    }
}

fn check_dates(
    path: &Path,
    identity: &Identity,
    validity: Validity,
    now: WallMillis,
) -> Result<(), CredentialsError> {
    let path = path.to_owned();
    match validity.standing(now) {
        Standing::Valid { .. } | Standing::Ending { .. } => Ok(()),
        Standing::NotYetValid { .. } => {
            Err(CredentialsError::NotYetValid { path, from: date(validity.from) })
        }
        Standing::Expired { .. } => Err(CredentialsError::Expired {
            path,
            until: date(validity.until),
            renew: renewal(&identity.role),
        }),
    }
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let text = file::read_text(path)?;
    let chain: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match chain {
        Ok(chain) if (1..=CHAIN_LENGTH_MAX).contains(&chain.len()) => Ok(chain),
        _ => Err(CredentialsError::Malformed {
            path: path.to_owned(),
            expected: "a certificate chain in PEM",
        }),
    }
}

fn read_root(path: &Path) -> Result<CertificateDer<'static>, CredentialsError> {
    match <[_; 1]>::try_from(read_chain(path)?) {
        Ok([root]) => Ok(root),
        Err(_) => Err(CredentialsError::Malformed {
            path: path.to_owned(),
            expected: "exactly one root certificate in PEM",
        }),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    let text = file::read_secret(path)?;
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|_| CredentialsError::Malformed {
        path: path.to_owned(),
        expected: "a private key in PEM",
    })
}

/// The certified key, if both halves belong together.
fn pair(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    provider: &CryptoProvider,
) -> Option<CertifiedKey> {
    let key = provider.key_provider.load_private_key(key).ok()?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().is_ok().then_some(certified)
}
