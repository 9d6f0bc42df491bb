//! A small consortium for the tests of this crate: one operator, one coordinator, some sites, and a
//! clock that a test can set.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use consilium_common::time::{Clock, Millis, WallMillis};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tempfile::TempDir;

use crate::ca::Ca;
use crate::credentials::{Credentials, TLS_PEM};
use crate::issue::{Issued, MACHINE_LENGTH, PERSON_LENGTH};

/// When all tests happen.
pub(crate) const NOW: WallMillis = WallMillis(1_764_000_000_000);

pub(crate) fn later(by: Millis) -> WallMillis {
    WallMillis(NOW.0 + by.0)
}

/// A wall clock that stands still until it is set.
#[derive(Debug)]
pub(crate) struct SetClock(AtomicU64);

impl SetClock {
    pub(crate) fn at(wall: WallMillis) -> Arc<Self> {
        Arc::new(Self(AtomicU64::new(wall.0)))
    }

    pub(crate) fn set(&self, wall: WallMillis) {
        self.0.store(wall.0, Ordering::SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> Millis {
        Millis::ZERO
    }

    fn wall(&self) -> WallMillis {
        WallMillis(self.0.load(Ordering::SeqCst))
    }
}

pub(crate) struct Town {
    pub(crate) ca: Ca,
    pub(crate) operator: Issued,
    pub(crate) coordinator: Issued,
    pub(crate) site: Issued,
    /// Goes with the town.
    pub(crate) dir: TempDir,
}

impl Town {
    pub(crate) fn new(consortium: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let name = consortium.parse().unwrap();
        let mut ca = Ca::init(&dir.path().join("ca"), &name, 1, NOW).unwrap();
        let operator = ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, NOW).unwrap();
        let hosts = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let coordinator = ca.issue_coordinator(&hosts, MACHINE_LENGTH, NOW).unwrap();
        let site = ca.issue_site(&"st-mary".parse().unwrap(), MACHINE_LENGTH, NOW).unwrap();
        Self { ca, operator, coordinator, site, dir }
    }
}

pub(crate) fn credentials(issued: &Issued) -> Credentials {
    Credentials::load(&issued.folder, NOW).unwrap()
}

pub(crate) fn leaf(folder: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(folder.join(TLS_PEM)).unwrap()
}

/// Copies a file from one bundle over the other's.
pub(crate) fn mix(from: &Issued, to: &Issued, name: &str) -> PathBuf {
    let path = to.folder.join(name);
    std::fs::copy(from.folder.join(name), &path).unwrap();
    path
}
