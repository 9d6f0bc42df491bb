//! `consilium ca rotate`: a new issuing CA below the same root. Who trusts the root trusts it at once, so
//! no machine needs a file; certificates of the CA before work on until the overlap ends.
//!
//! ```text
//! DIR/issuing.next/          the new issuing CA, whole: made beside, then renamed to this
//! DIR/issuing/               the one in force; the rotation is done once the new one has this name
//! DIR/issuing/retired.toml   issuing CAs that are over, and until when their certificates work
//! ```
//!
//! `issuing.next` coming to be is the moment that counts: whoever opens the CA after it finishes what a
//! killed process left ([`settle`]). The old key is gone then; nothing needs it.

use std::path::Path;

use consilium_common::time::{Millis, WallMillis};
use consilium_io::disk::{create_folder, sync_folder};
use consilium_io::error::IoError;
use rcgen::Issuer;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use crate::ca::{Ca, CaError, ISSUING_LENGTH, new_serial};
use crate::file::{self, FileError, Readers};
use crate::identity::names_of_certificate;
use crate::validity::{Validity, date};
use crate::{keys, profile};

/// Its name beside the issuing CA, and in the coordinator's bundle.
pub const RETIRED_FILE: &str = "retired.toml";
const FORMAT: u32 = 1;
/// Issuing CAs that are kept on the list: those whose certificates could still be shown.
const RETIRED_MAX: usize = 32;
const NEXT: &str = "issuing.next";
const MAKING: &str = "issuing.making";
const IN_FORCE: &str = "issuing";

/// Why a list of retired issuing CAs was refused.
#[derive(Debug, thiserror::Error)]
pub enum RetiredError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// Not the expected text.
    #[error("{0} is not a list of retired issuing CAs of this release: {1}")]
    Malformed(std::path::PathBuf, String),
}

/// An issuing CA that makes no more certificates.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetiredCa {
    /// Its name, as its certificates have it: `issuing CA 1a2b3c4d`.
    pub name: String,
    /// Until when certificates that it made work.
    pub until: WallMillis,
    /// When its own certificate ends: it need not be remembered longer.
    pub ends: WallMillis,
}

/// The issuing CAs that are over.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Retired {
    format: u32,
    /// By name.
    #[serde(default)]
    pub authorities: Vec<RetiredCa>,
}

impl Retired {
    /// These.
    #[must_use]
    pub fn new(authorities: Vec<RetiredCa>) -> Self {
        Self { format: FORMAT, authorities }
    }

    /// Loads the list in `folder`; none is an empty one.
    ///
    /// # Errors
    /// The file cannot be read, or holds something else.
    pub fn load(folder: &Path) -> Result<Self, RetiredError> {
        let path = folder.join(RETIRED_FILE);
        if !file::exists(&path)? {
            return Ok(Self::new(Vec::new()));
        }
        let malformed = |reason: String| RetiredError::Malformed(path.clone(), reason);
        let read: Self = toml::from_str(&file::read_text(&path)?)
            .map_err(|error| malformed(error.to_string()))?;
        match read.format {
            FORMAT => Ok(read),
            other => Err(malformed(format!("it has format {other}"))),
        }
    }

    /// Writes it to `folder`.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn store(&self, folder: &Path) -> Result<(), RetiredError> {
        let path = folder.join(RETIRED_FILE);
        let text = toml::to_string(self);
        let text =
            text.map_err(|error| RetiredError::Malformed(path.clone(), error.to_string()))?;
        Ok(file::replace(&path, text.as_bytes(), Readers::Everybody)?)
    }

    /// Until when a certificate that TLS has judged works at most: it was made by one of these. TLS has
    /// held the name of its issuer against that of a CA which the root signed.
    #[must_use]
    pub fn end_of(&self, certificate: &CertificateDer<'_>) -> Option<WallMillis> {
        let (_, issuer) = names_of_certificate(certificate).ok()?;
        self.authorities.iter().find(|ca| ca.name == issuer).map(|ca| ca.until)
    }
}

/// What a rotation did, or found done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotated {
    /// The issuing CA in force.
    pub issuing: String,
    /// When its certificate ends.
    pub until: WallMillis,
    /// The one before, if it was made now or its overlap still runs.
    pub before: Option<RetiredCa>,
    /// False: the overlap of the last rotation still runs, and nothing was done.
    pub is_new: bool,
}

impl Ca {
    /// Puts a new issuing CA in force, signed by the root in `root`. Certificates of the one before work
    /// for `overlap` more. While the overlap of an earlier rotation runs nothing is done, unless `again`.
    ///
    /// # Errors
    /// `root` is not this CA's root, or a file cannot be written; then the old one stays in force.
    pub fn rotate(
        self,
        root: &Path,
        overlap: Millis,
        again: bool,
        now: WallMillis,
    ) -> Result<(Self, Rotated), CaError> {
        let mut retired: Vec<RetiredCa> = self.retired.authorities.clone();
        retired.retain(|ca| now <= ca.ends);
        let issuing = self.issuing_name()?;
        let running = retired.iter().find(|ca| now < ca.until).cloned();
        if let Some(before) = running.filter(|_| !again) {
            let until = self.issuing_validity.until;
            let done = Rotated { issuing, until, before: Some(before), is_new: false };
            return Ok((self, done));
        }
        if retired.len() >= RETIRED_MAX {
            return Err(CaError::TooManyRotations(RETIRED_MAX));
        }
        let before = RetiredCa {
            name: issuing,
            until: WallMillis(now.0.saturating_add(overlap.0)),
            ends: self.issuing_validity.until,
        };
        retired.push(before.clone());
        let dir = self.dir().to_owned();
        make_next(&dir, root, &self, &Retired::new(retired), now)?;
        let next = Self::open_locked(&dir, self.into_lock())?;
        let issuing = next.issuing_name()?;
        let until = next.issuing_validity.until;
        Ok((next, Rotated { issuing, until, before: Some(before), is_new: true }))
    }

    /// The name of the issuing CA in force, as its certificates have it.
    fn issuing_name(&self) -> Result<String, CaError> {
        let der = CertificateDer::from_pem_slice(self.issuing_pem.as_bytes());
        let der = der.map_err(|error| CaError::Certificate {
            path: self.dir().join("issuing/issuing.pem"),
            reason: error.to_string(),
        })?;
        Ok(names_of_certificate(&der)?.0)
    }
}

/// Makes the new issuing CA beside the one in force.
fn make_next(
    dir: &Path,
    root: &Path,
    ca: &Ca,
    retired: &Retired,
    now: WallMillis,
) -> Result<(), CaError> {
    let path = root.join("root.pem");
    if !file::exists(&path)? {
        return Err(no_root(root));
    }
    let root_pem = file::read_text(&path)?;
    let der = |pem: &str| CertificateDer::from_pem_slice(pem.as_bytes());
    let malformed = |reason: String| CaError::Certificate { path: path.clone(), reason };
    let root_der = der(&root_pem).map_err(|error| malformed(error.to_string()))?;
    if Some(&root_der) != der(&ca.root_pem).ok().as_ref() {
        return Err(CaError::OtherRoot { root: root.to_owned(), dir: dir.to_owned() });
    }
    let ends = Validity::of_certificate(&root_der)?.until;
    let mut validity = Validity::starting(now, ISSUING_LENGTH);
    if ends <= now {
        return Err(CaError::RootOver { root: root.to_owned(), until: date(ends) });
    }
    validity.until = validity.until.min(ends);
    let root_key = keys::load_ca(&root.join("root.key"))?;
    let issuer = Issuer::from_ca_cert_der(&root_der, root_key);
    let issuer = issuer.map_err(|error| malformed(error.to_string()))?;
    let key = keys::generate_tls()?;
    let params = profile::issuing(&ca.consortium.name, new_serial()?, validity)?;
    let certificate = params.signed_by(&key, &issuer).map_err(CaError::Make)?;

    let making = dir.join(MAKING);
    remove_folder(&making)?;
    create_folder(&making)?;
    file::write_new_secret(&making.join("issuing.key"), keys::tls_pem(&key).as_bytes())?;
    for (name, pem) in [("issuing.pem", &certificate.pem()), ("root.pem", &ca.root_pem)] {
        file::replace(&making.join(name), pem.as_bytes(), Readers::Everybody)?;
    }
    retired.store(&making)?;
    rename(&making, &dir.join(NEXT))?;
    Ok(sync_folder(dir)?)
}

/// The folder that was named may be the one around the root's.
fn no_root(root: &Path) -> CaError {
    let inner = root.join("root");
    let cure = if inner.join("root.pem").is_file() {
        format!("is it {}?", inner.display())
    } else {
        "bring the root's folder (root.key and root.pem) from where it lies offline, and name it by \
         `--root`"
            .to_owned()
    };
    CaError::NoRoot { root: root.to_owned(), cure }
}

/// Brings a rotation that was cut off to its end: the new issuing CA, if it is whole, takes the place of
/// the one before.
pub(crate) fn settle(dir: &Path) -> Result<(), CaError> {
    let next = dir.join(NEXT);
    if !file::exists(&next)? {
        return Ok(());
    }
    let in_force = dir.join(IN_FORCE);
    remove_folder(&in_force)?;
    rename(&next, &in_force)?;
    Ok(sync_folder(dir)?)
}

fn remove_folder(path: &Path) -> Result<(), CaError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(IoError::at("remove", path)(error).into())
        }
        _ => Ok(()),
    }
}

fn rename(from: &Path, to: &Path) -> Result<(), CaError> {
    Ok(std::fs::rename(from, to).map_err(IoError::at("rename to", to))?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bundle::SiteBundle;
    use crate::fixture::{NOW, Town, later, leaf};
    use crate::issue::MACHINE_LENGTH;
    use crate::validity::DAY;

    fn rotate(town: Town, again: bool, now: WallMillis) -> (Town, Rotated) {
        let Town { ca, operator, coordinator, site, dir } = town;
        let root = ca.dir().join("root");
        let (ca, rotated) = ca.rotate(&root, Millis(DAY.0), again, now).unwrap();
        (Town { ca, operator, coordinator, site, dir }, rotated)
    }

    #[test]
    fn a_new_issuing_ca_makes_certificates_that_the_old_root_vouches_for() {
        let town = Town::new("thorax");
        let old = leaf(&town.site.folder);
        let (mut town, rotated) = rotate(town, false, NOW);
        let before = rotated.before.unwrap();
        assert!(rotated.is_new && before.name != rotated.issuing);
        assert_eq!(before.until, later(DAY));
        let retired = Retired::load(&town.ca.dir().join(IN_FORCE)).unwrap();
        assert_eq!(retired.end_of(&old), Some(later(DAY)));
        // A site that knows nothing of it takes the next certificate.
        let site = "st-mary".parse().unwrap();
        town.ca.issue_site(&site, MACHINE_LENGTH, NOW).unwrap();
        SiteBundle::load(&town.site.folder, NOW).unwrap();
        assert_eq!(retired.end_of(&leaf(&town.site.folder)), None);
    }

    #[test]
    fn while_an_overlap_runs_nothing_is_done_twice_and_later_or_on_demand_it_is() {
        let (town, first) = rotate(Town::new("thorax"), false, NOW);
        let (town, same) = rotate(town, false, later(Millis(1000)));
        assert_eq!((same.is_new, &same.issuing), (false, &first.issuing));
        let (town, second) = rotate(town, true, later(Millis(1000)));
        assert!(second.is_new);
        let (town, third) = rotate(town, false, later(Millis(3 * DAY.0)));
        assert!(third.is_new);
        assert_eq!(Retired::load(&town.ca.dir().join(IN_FORCE)).unwrap().authorities.len(), 3);
    }

    #[test]
    fn a_rotation_that_was_cut_off_is_finished_when_the_ca_is_opened() {
        let Town { ca, dir: _kept, .. } = Town::new("thorax");
        let dir = ca.dir().to_owned();
        make_next(&dir, &dir.join("root"), &ca, &Retired::new(Vec::new()), NOW).unwrap();
        let wanted = file::read_text(&dir.join(NEXT).join("issuing.pem")).unwrap();
        drop(ca);
        // Cut off in the middle of the removal.
        std::fs::remove_file(dir.join("issuing/issuing.pem")).unwrap();
        let ca = Ca::open(&dir).unwrap();
        assert_eq!(ca.issuing_pem, wanted);
        assert!(!dir.join(NEXT).exists());
    }

    #[test]
    fn a_folder_without_the_root_is_told_from_the_one_around_it() {
        for (folder, said) in [("ca", "is it"), ("ca/issued", "offline")] {
            let Town { ca, dir, .. } = Town::new("thorax");
            let named = dir.path().join(folder);
            let told = ca.rotate(&named, DAY, false, NOW).unwrap_err();
            assert!(matches!(told, CaError::NoRoot { .. }), "{told}");
            assert!(told.to_string().contains(said), "{told}");
        }
    }

    #[test]
    fn another_root_signs_nothing_here() {
        let (town, other) = (Town::new("thorax"), Town::new("thorax"));
        let dir = town.ca.dir().to_owned();
        let before = file::read_text(&dir.join("issuing/issuing.pem")).unwrap();
        let told = town.ca.rotate(&other.ca.dir().join("root"), DAY, false, NOW).unwrap_err();
        assert!(matches!(told, CaError::OtherRoot { .. }), "{told}");
        assert_eq!(file::read_text(&dir.join("issuing/issuing.pem")).unwrap(), before);
    }
}
