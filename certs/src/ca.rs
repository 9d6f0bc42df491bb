//! The certificate authority's folder: made once by `consilium ca init`, opened for each issue.
//!
//! ```text
//! DIR/root/root.key        the root's secret: take this folder offline, issuing never needs it
//! DIR/root/root.pem
//! DIR/issuing/issuing.key  signs certificates for machines and people
//! DIR/issuing/issuing.pem
//! DIR/issuing/root.pem     what every machine trusts
//! DIR/issuing/retired.toml issuing CAs before this one: see [`crate::rotation`]
//! DIR/consortium.toml      name, log key, operators: the original of what bundles hold
//! DIR/roster.toml  .sig    who belongs; operators sign it
//! DIR/enrolled/  revoked/  sites that enrolled, keys that are over: see [`crate::grant`]
//! DIR/issued/…             one bundle folder per identity, and certificates/SERIAL.pem: what was issued
//! ```

use std::fmt;
use std::path::{Path, PathBuf};

use consilium_common::ids::ConsortiumId;
use consilium_common::signed::Document;
use consilium_common::time::{Millis, WallMillis};
use consilium_io::disk::{LockError, StateLock, create_folder};
use consilium_io::error::IoError;
use rcgen::{CertificateParams, Issuer, KeyPair, PublicKeyData};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::consortium::{CONSORTIUM_FILE, Consortium, ConsortiumError};
use crate::file::{self, FileError, Readers};
use crate::identity::{Identity, IdentityError};
use crate::keys::{self, KeyError};
use crate::profile::{self, ProfileError, Serial};
use crate::roster::{ROSTER_FILE, Roster, RosterError};
use crate::rotation::{self, Retired, RetiredError};
use crate::signed_file::{self, SignedFileError};
use crate::validity::{DAY, Validity, date};

/// The root outlives every issuing certificate.
const ROOT_LENGTH: Millis = Millis(DAY.0 * 365 * 20);
/// The issuing certificate outlives every certificate of a machine or person.
pub(crate) const ISSUING_LENGTH: Millis = Millis(DAY.0 * 365 * 5);

/// Why the CA did nothing.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// `init` never writes over anything.
    #[error("{dir} is not empty: a CA is made in an empty or new folder, and never made twice")]
    NotEmpty {
        /// The folder.
        dir: PathBuf,
    },
    /// Not a CA's folder.
    #[error("{dir} is not the folder of a CA: is `--ca` mistyped? `consilium ca init` makes a CA")]
    NotACa {
        /// The folder.
        dir: PathBuf,
    },
    /// Another process has the folder.
    #[error(
        "{dir} is in use by {holder}: if that is `consilium ca serve`, stop it first; any other command \
         ends by itself"
    )]
    InUse {
        /// The folder.
        dir: PathBuf,
        /// Who has it.
        holder: String,
    },
    /// The issuing CA would end before what it issues.
    #[error(
        "the issuing CA in {dir} ends on {until}, before the certificate that you ask for: \
         shorten the validity, or put a new issuing CA in force (`consilium ca rotate`)"
    )]
    TooLong {
        /// The CA's folder.
        dir: PathBuf,
        /// The issuing certificate's end.
        until: String,
    },
    /// The key in a bundle is not the one that the consortium knows.
    #[error(
        "{path} is not the key that the consortium knows for {who}: put the original key back, or \
         move the file away if the machine still has it"
    )]
    OtherKey {
        /// The secret key's file.
        path: PathBuf,
        /// Whose it should be.
        who: String,
    },
    /// A request that does not prove possession of its key, or is none.
    #[error("the certificate request is refused: {0}")]
    Request(rcgen::Error),
    /// The TLS library refused to make a certificate.
    #[error("no certificate could be made: {0}")]
    Make(rcgen::Error),
    /// A CA certificate on disk that is none.
    #[error("{path} is not a CA certificate in PEM: {reason}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// The root is elsewhere.
    #[error("root.pem is not in {root}: {cure}")]
    NoRoot {
        /// Where it was looked for.
        root: PathBuf,
        /// What to do.
        cure: String,
    },
    /// The root of another CA.
    #[error(
        "{root} holds another root than the CA in {dir}: bring the folder that `consilium ca init` made"
    )]
    OtherRoot {
        /// The root's folder.
        root: PathBuf,
        /// The CA's.
        dir: PathBuf,
    },
    /// The root signs nothing more.
    #[error("the root in {root} ended on {until}: a new CA and new bundles for everybody are due")]
    RootOver {
        /// The root's folder.
        root: PathBuf,
        /// When it ended.
        until: String,
    },
    /// A bound.
    #[error("{0} issuing CAs before this one are still good: wait until the oldest has ended")]
    TooManyRotations(usize),
    /// The issuing CAs that are over.
    #[error(transparent)]
    Retired(#[from] RetiredError),
    /// What was asked for does not fit a certificate.
    #[error(transparent)]
    Profile(#[from] ProfileError),
    /// A key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The consortium file, or too few operators in it.
    #[error(transparent)]
    Consortium(#[from] ConsortiumError),
    /// The roster's content.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// The roster's file.
    #[error(transparent)]
    RosterFile(#[from] SignedFileError),
    /// A certificate of our own that cannot be read back.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

impl From<IoError> for CaError {
    fn from(error: IoError) -> Self {
        Self::File(error.into())
    }
}

impl From<LockError> for CaError {
    fn from(error: LockError) -> Self {
        match error {
            LockError::Held { folder, holder } => Self::InUse {
                dir: folder,
                holder: holder
                    .map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")),
            },
            LockError::Io(error) => error.into(),
        }
    }
}

/// An opened CA. Holds its folder's lock.
pub struct Ca {
    dir: PathBuf,
    pub(crate) consortium: Consortium,
    pub(crate) roster: Roster,
    issuer: Issuer<'static, KeyPair>,
    pub(crate) issuing_pem: String,
    pub(crate) issuing_validity: Validity,
    pub(crate) retired: Retired,
    pub(crate) root_pem: String,
    lock: StateLock,
}

/// A certificate that was just made and recorded.
pub(crate) struct Made {
    /// The certificate and the issuing certificate, PEM.
    pub(crate) chain_pem: String,
    pub(crate) validity: Validity,
    pub(crate) serial: String,
}

impl Ca {
    /// Makes a CA in `dir` (new or empty): root, issuing CA, coordinator log key, an empty roster.
    /// `operators_needed` is how many operators must sign a study or a roster.
    ///
    /// # Errors
    /// The folder is not empty or cannot be written, or `operators_needed` is out of range.
    pub fn init(
        dir: &Path,
        consortium: &ConsortiumId,
        operators_needed: usize,
        now: WallMillis,
    ) -> Result<Self, CaError> {
        create_folder(dir)?;
        let mut entries = dir.read_dir().map_err(IoError::at("read the folder", dir))?;
        if entries.next().is_some() {
            return Err(CaError::NotEmpty { dir: dir.to_owned() });
        }
        let log_key = keys::generate()?;
        let consortium = Consortium::new(consortium.clone(), log_key.public(), operators_needed)?;
        for folder in ["root", "issuing", "issued/coordinator", "issued/certificates"] {
            create_folder(&dir.join(folder))?;
        }
        write_authorities(dir, &consortium.name, now)?;
        keys::store(&dir.join("issued/coordinator/log.key"), &log_key)?;
        let roster = Roster::new(consortium.name.clone());
        signed_file::store_unsigned(&dir.join(ROSTER_FILE), &roster.to_toml()?)?;
        consortium.store(&dir.join(CONSORTIUM_FILE))?; // last: `open` takes it as the sign
        Self::open(dir)
    }

    /// Opens the CA in `dir`. The root's folder need not be there.
    ///
    /// # Errors
    /// There is no CA, a file is missing or malformed, or another process works in the folder.
    pub fn open(dir: &Path) -> Result<Self, CaError> {
        if !file::exists(&dir.join(CONSORTIUM_FILE))? {
            return Err(CaError::NotACa { dir: dir.to_owned() });
        }
        let lock = StateLock::acquire(dir)?;
        Self::open_locked(dir, lock)
    }

    /// The same under a lock that is held already.
    pub(crate) fn open_locked(dir: &Path, lock: StateLock) -> Result<Self, CaError> {
        rotation::settle(dir)?;
        let consortium = Consortium::load(&dir.join(CONSORTIUM_FILE))?;
        let roster = load_roster(&dir.join(ROSTER_FILE))?;
        let path = dir.join("issuing/issuing.pem");
        let issuing_pem = file::read_text(&path)?;
        let malformed = |reason: String| CaError::Certificate { path: path.clone(), reason };
        let issuing = CertificateDer::from_pem_slice(issuing_pem.as_bytes())
            .map_err(|error| malformed(error.to_string()))?;
        let key = keys::load_ca(&dir.join("issuing/issuing.key"))?;
        let issuer = Issuer::from_ca_cert_der(&issuing, key)
            .map_err(|error| malformed(error.to_string()))?;
        Ok(Self {
            dir: dir.to_owned(),
            consortium,
            roster,
            issuer,
            issuing_validity: Validity::of_certificate(&issuing)?,
            issuing_pem,
            root_pem: file::read_text(&dir.join("issuing/root.pem"))?,
            retired: Retired::load(&dir.join("issuing"))?,
            lock,
        })
    }

    pub(crate) fn into_lock(self) -> StateLock {
        self.lock
    }

    /// The issuing CAs before the one in force.
    #[must_use]
    pub fn retired(&self) -> &Retired {
        &self.retired
    }

    /// The CA's folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What bundles will pin.
    #[must_use]
    pub fn consortium(&self) -> &Consortium {
        &self.consortium
    }

    /// Who belongs, whether operators have signed it or not.
    #[must_use]
    pub fn roster(&self) -> &Roster {
        &self.roster
    }

    /// The roster's file; operators sign it with [`signed_file::sign`].
    #[must_use]
    pub fn roster_path(&self) -> PathBuf {
        self.dir.join(ROSTER_FILE)
    }

    /// The root's secret, if it still lies beside the issuing CA: it should be taken offline.
    #[must_use]
    pub fn root_still_here(&self) -> Option<PathBuf> {
        let key = self.dir.join("root/root.key");
        key.exists().then_some(key)
    }

    pub(crate) fn set_consortium(&mut self, consortium: Consortium) -> Result<(), CaError> {
        consortium.store(&self.dir.join(CONSORTIUM_FILE))?;
        self.consortium = consortium;
        Ok(())
    }

    pub(crate) fn set_roster(&mut self, roster: Roster) -> Result<(), CaError> {
        if roster != self.roster {
            signed_file::store_unsigned(&self.roster_path(), &roster.to_toml()?)?;
            self.roster = roster;
        }
        Ok(())
    }

    /// Certifies `key` as `identity`'s and records it under `issued/certificates`.
    pub(crate) fn certify(
        &self,
        identity: &Identity,
        hosts: &[String],
        key: &impl PublicKeyData,
        validity: Validity,
    ) -> Result<Made, CaError> {
        if validity.until > self.issuing_validity.until {
            let until = date(self.issuing_validity.until);
            return Err(CaError::TooLong { dir: self.dir.clone(), until });
        }
        let serial = new_serial()?;
        let params = profile::leaf(identity, hosts, serial, validity)?;
        let certificate = params.signed_by(key, &self.issuer).map_err(CaError::Make)?;
        let serial = hex::encode(serial);
        let record = self.dir.join("issued/certificates").join(format!("{serial}.pem"));
        create_folder(&self.dir.join("issued/certificates"))?;
        file::replace(&record, certificate.pem().as_bytes(), Readers::Everybody)?;
        let chain_pem = format!("{}{}", certificate.pem(), self.issuing_pem);
        let validity = Validity::of_certificate(certificate.der())?;
        Ok(Made { chain_pem, validity, serial })
    }
}

impl fmt::Debug for Ca {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Ca({}, {}, keys not shown)", self.consortium.name, self.dir.display())
    }
}

pub(crate) fn new_serial() -> Result<Serial, CaError> {
    let mut serial: Serial = keys::random()?;
    if let Some(first) = serial.first_mut() {
        *first &= 0x7f;
    }
    Ok(serial)
}

fn load_roster(path: &Path) -> Result<Roster, CaError> {
    Ok(Roster::parse(file::read_text(path)?.as_bytes())?)
}

fn write_authorities(dir: &Path, name: &ConsortiumId, now: WallMillis) -> Result<(), CaError> {
    let root_key = keys::generate_tls()?;
    let root_params = profile::root(name, new_serial()?, Validity::starting(now, ROOT_LENGTH))?;
    let root = root_params.self_signed(&root_key).map_err(CaError::Make)?;

    let issuing_key = keys::generate_tls()?;
    let issuing_params: CertificateParams =
        profile::issuing(name, new_serial()?, Validity::starting(now, ISSUING_LENGTH))?;
    let root_issuer = Issuer::from_params(&root_params, &root_key);
    let issuing = issuing_params.signed_by(&issuing_key, &root_issuer).map_err(CaError::Make)?;

    let (root, issuing) = (root.pem(), issuing.pem());
    for (path, key) in [("root/root.key", &root_key), ("issuing/issuing.key", &issuing_key)] {
        file::write_new_secret(&dir.join(path), keys::tls_pem(key).as_bytes())?;
    }
    for (path, pem) in
        [("root/root.pem", &root), ("issuing/root.pem", &root), ("issuing/issuing.pem", &issuing)]
    {
        file::replace(&dir.join(path), pem.as_bytes(), Readers::Everybody)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallMillis = WallMillis(1_764_000_000_000);

    fn name() -> ConsortiumId {
        "thorax".parse().unwrap()
    }

    #[test]
    fn a_ca_is_made_once_and_opens_without_its_root() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("ca");
        let ca = Ca::init(&dir, &name(), 1, NOW).unwrap();
        let key = ca.consortium().coordinator_log_key;
        assert!(ca.root_still_here().is_some());
        let held = Ca::open(&dir).unwrap_err();
        assert!(matches!(held, CaError::InUse { .. }));
        let (holder, told) = (format!("process {}", std::process::id()), held.to_string());
        assert!(told.contains(&holder) && told.contains("consilium ca serve"), "{told}");
        drop(ca);
        let again = Ca::init(&dir, &name(), 1, NOW).unwrap_err().to_string();
        assert!(again.contains("not empty"), "{again}");
        std::fs::rename(dir.join("root"), dir.with_file_name("offline")).unwrap();
        let ca = Ca::open(&dir).unwrap();
        assert_eq!((ca.root_still_here(), ca.consortium().coordinator_log_key), (None, key));
    }

    #[test]
    fn what_is_not_a_ca_is_said_to_be_none() {
        let dir = tempfile::tempdir().unwrap();
        let told = Ca::open(dir.path()).unwrap_err().to_string();
        assert!(told.contains("consilium ca init"), "{told}");
        assert!(matches!(
            Ca::init(&dir.path().join("x"), &name(), 0, NOW),
            Err(CaError::Consortium(_))
        ));
    }

    #[test]
    fn serials_are_random_and_positive() {
        let (a, b) = (new_serial().unwrap(), new_serial().unwrap());
        assert_ne!(a, b);
        assert!(a[0] < 0x80 && b[0] < 0x80);
    }

    #[test]
    fn the_issuing_certificate_allows_no_ca_below_it() {
        let dir = tempfile::tempdir().unwrap();
        let ca = Ca::init(&dir.path().join("ca"), &name(), 1, NOW).unwrap();
        let issuing = CertificateDer::from_pem_slice(ca.issuing_pem.as_bytes()).unwrap();
        let (_, parsed) = x509_parser::parse_x509_certificate(&issuing).unwrap();
        let constraints = parsed.basic_constraints().unwrap().unwrap().value;
        assert_eq!((constraints.ca, constraints.path_len_constraint), (true, Some(0)));
    }
}
