//! A site's folder of keys while it enrols: it goes on where a killed process left it. Enrolling happens
//! in a folder beside the bundle's, which takes the bundle's place, whole, in one rename.

use std::path::{Path, PathBuf};

use consilium_common::enrol::{EnrolRequest, Fingerprint, Token};
use consilium_common::ids::{ConsortiumId, SiteId};
use consilium_common::signed::{SecretKey, Signed, SignedError};
use consilium_common::time::WallMillis;
use consilium_common::wire::codec::{self, CodecError};
use consilium_common::wire::enrol::Grant;
use consilium_io::disk::{create_folder, sync_folder};
use consilium_io::error::IoError;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::bundle::{BundleError, SiteBundle};
use crate::consortium::{CONSORTIUM_FILE, ConsortiumError};
use crate::credentials::{CredentialsError, ROOT_PEM, TLS_KEY, TLS_PEM};
use crate::file::{self, FileError, Readers};
use crate::identity::Identity;
use crate::keys::{self, KeyError};
use crate::request::{self, RequestError};
use crate::verify::fingerprint_of;

/// The site's long-lived key's name in its bundle.
pub const SITE_KEY: &str = "site.key";
/// The request as it was sent first: it is sent again until it is answered.
const REQUEST: &str = "request";

/// Why enrolling or renewing went no further.
#[derive(Debug, thiserror::Error)]
pub enum EnrollingError {
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The request could not be made.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The kept request is none.
    #[error("{path} is not a request ({reason}): remove the folder it is in to begin anew")]
    Kept {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// Begun with another token.
    #[error(
        "{folder} holds the keys of an enrolment as {have}, and the token is for {token}: finish that \
         one, or remove the folder to begin anew"
    )]
    Other {
        /// The folder.
        folder: PathBuf,
        /// What was begun.
        have: SiteId,
        /// What the token says.
        token: SiteId,
    },
    /// The consortium file.
    #[error(transparent)]
    Consortium(#[from] ConsortiumError),
    /// A grant under another root.
    #[error("the root that came with the certificate is not the one that the token pins")]
    OtherRoot,
    /// A grant that does not fit.
    #[error("what came is no bundle of this site: {0}")]
    Bundle(#[from] BundleError),
    /// A certificate that does not fit.
    #[error("the certificate that came is not for this machine: {0}")]
    Certificate(#[from] CredentialsError),
    /// A certificate of somebody else.
    #[error("the certificate that came is of {came}, and this is {have}")]
    OtherIdentity {
        /// Whose certificate lies here.
        have: Identity,
        /// Whose came.
        came: Identity,
    },
}

impl From<IoError> for EnrollingError {
    fn from(error: IoError) -> Self {
        Self::File(error.into())
    }
}

/// Where a site's keys lie until the bundle, in `bundle`, is whole.
#[must_use]
pub fn folder_beside(bundle: &Path) -> PathBuf {
    let mut name = bundle.file_name().unwrap_or_default().to_owned();
    name.push(".enrolling");
    bundle.with_file_name(name)
}

/// A site that has its keys and waits for its certificate.
#[derive(Debug)]
pub struct Enrolling {
    folder: PathBuf,
    request: Signed<EnrolRequest>,
}

impl Enrolling {
    /// Makes the site's keys in `folder` and its request, or goes on with those that lie there.
    ///
    /// # Errors
    /// The folder is of another enrolment, or cannot be written.
    pub fn begin(folder: &Path, token: &Token) -> Result<Self, EnrollingError> {
        create_folder(folder)?;
        let path = folder.join(REQUEST);
        let request = if file::exists(&path)? {
            kept(&path)?
        } else {
            let tls = tls_key(&folder.join(TLS_KEY))?;
            let key = site_key(&folder.join(SITE_KEY))?;
            let request = request::enrol(&token.consortium, &token.site, &key, &tls)?;
            let bytes = codec::encode(&request).map_err(RequestError::from)?;
            file::replace(&path, &bytes, Readers::Owner)?;
            request
        };
        let unreadable = |error: SignedError| EnrollingError::Kept {
            path: path.clone(),
            reason: error.to_string(),
        };
        let asked = request.parse_unverified().map_err(unreadable)?;
        if (&asked.site, &asked.consortium) == (&token.site, &token.consortium) {
            return Ok(Self { folder: folder.to_owned(), request });
        }
        let (have, token) = (asked.site, token.site.clone());
        Err(EnrollingError::Other { folder: folder.to_owned(), have, token })
    }

    /// What to send.
    #[must_use]
    pub fn request(&self) -> &Signed<EnrolRequest> {
        &self.request
    }

    /// What to read to the operator.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.request.digest())
    }

    /// Puts the bundle together, judges it as every start does, and moves it to `bundle`.
    ///
    /// # Errors
    /// The root is not the token's, the certificate is not of our key, site or consortium, or a file
    /// cannot be written.
    pub fn finish(
        self,
        grant: &Grant,
        token: &Token,
        bundle: &Path,
        now: WallMillis,
    ) -> Result<SiteBundle, EnrollingError> {
        let root = CertificateDer::from_pem_slice(grant.root.as_bytes());
        if root.is_ok_and(|root| fingerprint_of(&root) != token.root) {
            return Err(EnrollingError::OtherRoot);
        }
        for (name, text) in
            [(TLS_PEM, &grant.chain), (ROOT_PEM, &grant.root), (CONSORTIUM_FILE, &grant.consortium)]
        {
            file::replace(&self.folder.join(name), text.as_bytes(), Readers::Everybody)?;
        }
        let made = SiteBundle::load(&self.folder, now)?;
        if (&made.site, &made.consortium.name) != (&token.site, &token.consortium) {
            let (have, token) = (made.site, token.site.clone());
            return Err(EnrollingError::Other { folder: self.folder, have, token });
        }
        file::remove(&self.folder.join(REQUEST))?;
        std::fs::rename(&self.folder, bundle).map_err(IoError::at("rename to", bundle))?;
        sync_folder(bundle.parent().unwrap_or_else(|| Path::new(".")))?;
        Ok(made)
    }
}

/// By what a site knows the coordinator when it shows no certificate of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pinned {
    /// SHA-256 of the root (DER).
    pub root: [u8; 32],
    /// Whose coordinator it must be.
    pub consortium: ConsortiumId,
}

impl From<&Token> for Pinned {
    fn from(token: &Token) -> Self {
        Self { root: token.root, consortium: token.consortium.clone() }
    }
}

fn kept(path: &Path) -> Result<Signed<EnrolRequest>, EnrollingError> {
    let told = |error: CodecError| EnrollingError::Kept {
        path: path.to_owned(),
        reason: error.to_string(),
    };
    codec::decode(&file::read_bytes(path)?).map_err(told)
}

fn tls_key(path: &Path) -> Result<KeyPair, EnrollingError> {
    if !file::exists(path)? {
        let new = keys::generate_tls()?;
        file::write_new_secret(path, keys::tls_pem(&new).as_bytes())?;
    }
    Ok(keys::load_ca(path)?)
}

fn site_key(path: &Path) -> Result<SecretKey, EnrollingError> {
    if !file::exists(path)? {
        keys::store(path, &keys::generate()?)?;
    }
    Ok(keys::load(path)?)
}

#[cfg(test)]
mod tests {
    use consilium_common::enrol::{Approval, Secret};

    use super::*;
    use crate::bundle::OperatorBundle;
    use crate::fixture::{NOW, Town, credentials};
    use crate::issue::MACHINE_LENGTH;

    fn token(town: &Town, site: &str) -> Token {
        Token {
            consortium: "thorax".parse().unwrap(),
            site: site.parse().unwrap(),
            coordinator: "localhost:443".to_owned(),
            root: fingerprint_of(&credentials(&town.coordinator).root),
            secret: Secret::new([1; 32]),
        }
    }

    fn grant(town: &Town, request: &Signed<EnrolRequest>) -> Grant {
        let operator = OperatorBundle::load(&town.operator.folder, NOW).unwrap().operator_key;
        let asked = request.parse_unverified().unwrap();
        let (consortium, site) = (asked.consortium, asked.site);
        let word = Approval { consortium, site, request: request.digest() };
        let word = Signed::sign(word.to_bytes().unwrap(), &operator);
        let chain = town.ca.grant(request, &word, MACHINE_LENGTH, NOW).unwrap().chain;
        let text = |name| std::fs::read_to_string(town.coordinator.folder.join(name)).unwrap();
        Grant { chain, root: text(ROOT_PEM), consortium: text(CONSORTIUM_FILE) }
    }

    #[test]
    fn a_site_enrols_into_a_whole_bundle_also_when_it_is_cut_off_on_the_way() {
        let (town, dir) = (Town::new("thorax"), tempfile::tempdir().unwrap());
        let (folder, bundle) = (dir.path().join("enrolling"), dir.path().join("identity"));
        let token = token(&town, "charite");
        let first = Enrolling::begin(&folder, &token).unwrap();
        let (request, fingerprint) = (first.request().clone(), first.fingerprint());
        let again = Enrolling::begin(&folder, &token).unwrap();
        assert_eq!((again.request(), again.fingerprint()), (&request, fingerprint));
        let made = again.finish(&grant(&town, &request), &token, &bundle, NOW).unwrap();
        assert_eq!(made.site.as_str(), "charite");
        assert_eq!(made.site_key.public(), request.parse_unverified().unwrap().site_key);
        assert!(!folder.exists() && !bundle.join(REQUEST).exists());
        SiteBundle::load(&bundle, NOW).unwrap();
    }

    #[test]
    fn what_does_not_fit_the_token_is_refused() {
        let (town, other) = (Town::new("thorax"), Town::new("thorax"));
        let dir = tempfile::tempdir().unwrap();
        let (folder, bundle) = (dir.path().join("enrolling"), dir.path().join("identity"));
        let wanted = token(&town, "charite");
        let begun = Enrolling::begin(&folder, &wanted).unwrap();
        let mixed = Enrolling::begin(&folder, &token(&town, "st-anna")).unwrap_err();
        assert!(matches!(mixed, EnrollingError::Other { .. }), "{mixed}");
        let foreign = grant(&other, begun.request());
        let told = begun.finish(&foreign, &wanted, &bundle, NOW).unwrap_err();
        assert!(matches!(told, EnrollingError::OtherRoot), "{told}");
        // Of another key.
        let begun = Enrolling::begin(&folder, &wanted).unwrap();
        let beside = Enrolling::begin(&dir.path().join("beside"), &wanted).unwrap();
        let told = begun.finish(&grant(&town, beside.request()), &wanted, &bundle, NOW);
        assert!(matches!(told, Err(EnrollingError::Bundle(_))));
        assert!(!bundle.exists());
    }
}
