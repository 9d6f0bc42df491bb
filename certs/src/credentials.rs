//! The TLS half of a bundle, loaded and judged: whoever starts with a wrong, expired or foreign
//! certificate learns it here, from the file's name, and not from a failed connection.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_common::time::WallMillis;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::file::{self, FileError};
use crate::identity::{Identity, IdentityError, Role};
use crate::rotation::Retired;
use crate::validity::{Standing, Validity, date};
use crate::verify;

/// The TLS private key's name in a bundle.
pub const TLS_KEY: &str = "tls.key";
/// The key of a certificate that is being renewed.
pub const TLS_KEY_NEXT: &str = "tls.key.next";
/// The certificate chain's name in a bundle.
pub const TLS_PEM: &str = "tls.pem";
/// The root certificate's name in a bundle.
pub const ROOT_PEM: &str = "root.pem";
/// What `tls.pem` holds.
const CHAIN: &str = "a certificate chain in PEM";
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
        let chain = Self::chain_of(folder)?;
        let judged = Judged::of(folder, &chain, now)?;
        Ok(judged.with(read_pair(folder, chain)?))
    }

    /// The same of a chain and a key (PEM) that do not lie in `folder` yet, where their root lies.
    pub(crate) fn of_parts(
        folder: &Path,
        chain: &str,
        key: &str,
        now: WallMillis,
    ) -> Result<Self, CredentialsError> {
        let (key_path, pem_path) = (folder.join(TLS_KEY_NEXT), folder.join(TLS_PEM));
        let chain = parse_chain(chain, &pem_path)?;
        let judged = Judged::of(folder, &chain, now)?;
        let key = pair(chain, parse_key(key, &key_path)?)
            .ok_or(CredentialsError::NotAPair { key: key_path, pem: pem_path })?;
        Ok(judged.with(key))
    }

    /// The root that lies in a bundle.
    pub(crate) fn root_of(folder: &Path) -> Result<CertificateDer<'static>, CredentialsError> {
        read_root(&folder.join(ROOT_PEM))
    }

    /// The chain that lies in a bundle, good or over.
    pub(crate) fn chain_of(
        folder: &Path,
    ) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
        let path = folder.join(TLS_PEM);
        parse_chain(&file::read_text(&path)?, &path)
    }

    /// Whether the key in one file is that of the chain in the other.
    pub(crate) fn is_pair(key: &Path, pem: &Path) -> Result<bool, CredentialsError> {
        let chain = parse_chain(&file::read_text(pem)?, pem)?;
        Ok(pair(chain, parse_key(&file::read_secret(key)?, key)?).is_some())
    }

    /// SHA-256 of the root (DER): what tokens pin.
    #[must_use]
    pub fn root_fingerprint(&self) -> [u8; 32] {
        verify::fingerprint_of(&self.root)
    }

    /// Whether an issuing CA made the certificate that is over.
    #[must_use]
    pub fn is_by(&self, retired: &Retired) -> bool {
        self.key.cert.first().is_some_and(|leaf| retired.end_of(leaf).is_some())
    }

    /// Whether both hold the same certificate.
    #[must_use]
    pub fn is_same_as(&self, other: &Self) -> bool {
        self.key.cert == other.key.cert
    }

    /// What a person does about the certificate's end, if it is near: said with each of their commands.
    #[must_use]
    pub fn reminder(&self, now: WallMillis) -> Option<String> {
        let warning = self.standing(now).warning()?;
        let command = renewal(&self.identity.role);
        Some(format!(
            "the certificate of {} {warning} with `{command}` where the CA is, and copy the new files",
            self.identity
        ))
    }

    /// How the certificate stands at `now`, for status screens.
    #[must_use]
    pub fn standing(&self, now: WallMillis) -> Standing {
        self.validity.standing(now)
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
        Role::Researcher(name) => format!("consilium ca issue researcher {name}"),
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

/// What a chain says once it holds: all but its key.
struct Judged {
    identity: Identity,
    validity: Validity,
    root: CertificateDer<'static>,
}

impl Judged {
    fn of(
        folder: &Path,
        chain: &[CertificateDer<'static>],
        now: WallMillis,
    ) -> Result<Self, CredentialsError> {
        let (pem_path, root_path) = (folder.join(TLS_PEM), folder.join(ROOT_PEM));
        let root = read_root(&root_path)?;
        let leaf = chain.first().ok_or_else(|| malformed(&pem_path, CHAIN))?;
        let unnamed = |source| CredentialsError::Identity { path: pem_path.clone(), source };
        let identity = Identity::of_certificate(leaf).map_err(unnamed)?;
        let validity = Validity::of_certificate(leaf).map_err(unnamed)?;
        check_dates(&pem_path, &identity, validity, now)?;
        verify::check_chain(chain, &root, &identity.role, now).map_err(|source| {
            CredentialsError::OtherRoot { pem: pem_path.clone(), root: root_path, source }
        })?;
        Ok(Self { identity, validity, root })
    }

    fn with(self, key: CertifiedKey) -> Credentials {
        let Self { identity, validity, root } = self;
        Credentials { identity, validity, key: Arc::new(key), root }
    }
}

fn malformed(path: &Path, expected: &'static str) -> CredentialsError {
    CredentialsError::Malformed { path: path.to_owned(), expected }
}

fn parse_chain(text: &str, path: &Path) -> Result<Vec<CertificateDer<'static>>, CredentialsError> {
    let chain: Result<Vec<_>, pem::Error> =
        CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match chain {
        Ok(chain) if (1..=CHAIN_LENGTH_MAX).contains(&chain.len()) => Ok(chain),
        _ => Err(malformed(path, CHAIN)),
    }
}

fn read_root(path: &Path) -> Result<CertificateDer<'static>, CredentialsError> {
    let chain = parse_chain(&file::read_text(path)?, path)?;
    match <[_; 1]>::try_from(chain) {
        Ok([root]) => Ok(root),
        Err(_) => Err(malformed(path, "exactly one root certificate in PEM")),
    }
}

fn parse_key(text: &str, path: &Path) -> Result<PrivateKeyDer<'static>, CredentialsError> {
    PrivateKeyDer::from_pem_slice(text.as_bytes())
        .map_err(|_| malformed(path, "a private key in PEM"))
}

/// The chain with its key: `tls.key`, or the next one where a renewal was cut off after the chain was
/// replaced.
fn read_pair(
    folder: &Path,
    chain: Vec<CertificateDer<'static>>,
) -> Result<CertifiedKey, CredentialsError> {
    let path = folder.join(TLS_KEY);
    if let Some(pair) = pair(chain.clone(), parse_key(&file::read_secret(&path)?, &path)?) {
        return Ok(pair);
    }
    let next = folder.join(TLS_KEY_NEXT);
    let other = || CredentialsError::NotAPair { key: path, pem: folder.join(TLS_PEM) };
    if !file::exists(&next)? {
        return Err(other());
    }
    pair(chain, parse_key(&file::read_secret(&next)?, &next)?).ok_or_else(other)
}

/// The certified key, if both halves belong together.
fn pair(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Option<CertifiedKey> {
    let key = verify::provider().key_provider.load_private_key(key).ok()?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match().is_ok().then_some(certified)
}
