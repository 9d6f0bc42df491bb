//! What the driver and its work share: who this site is, what it may do, and what it holds.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_certs::bundle::SiteBundle;
use consilium_common::ids::{Digest, SiteId};
use consilium_common::time::Clock;

use crate::config::AgentConfig;
use crate::link::Dialer;
use crate::policy::Signers;
use crate::session::Judged;
use crate::state::{Cache, KeptStudy, StateFolder};
use crate::worker::Programs;

use super::study;

/// Everything that outlives a connection.
#[derive(Debug)]
pub struct Shared {
    /// agent.toml.
    pub config: AgentConfig,
    /// The site's bundle, as it was at start.
    pub bundle: SiteBundle,
    /// Where the bundle lies: renewed certificates are read from there at each connection.
    pub bundle_folder: PathBuf,
    /// Whose signatures make a study.
    pub signers: Signers,
    /// The programs that train.
    pub programs: Programs,
    /// The system's clocks.
    pub clock: Arc<dyn Clock>,
    /// The way to the coordinator.
    pub dialer: Dialer,
    /// Base models.
    pub cache: Cache,
    /// Where workers' folders go.
    pub tasks: PathBuf,
    /// Studies and retained updates.
    pub state: Mutex<StateFolder>,
}

impl Shared {
    /// The state folder. Its files are replaced atomically, so a thread that died while it held
    /// the lock left nothing half done.
    pub fn state(&self) -> MutexGuard<'_, StateFolder> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// This site.
    #[must_use]
    pub fn site(&self) -> &SiteId {
        &self.bundle.site
    }

    /// A study that is kept here.
    #[must_use]
    pub fn kept(&self, digest: &Digest) -> Option<KeptStudy> {
        self.state().studies.get(digest).cloned()
    }

    /// What signatures, policy and people say of a kept study now.
    #[must_use]
    pub fn judged(&self, digest: &Digest) -> Option<Judged> {
        Some(study::judged(self, &self.kept(digest)?))
    }
}

/// Runs work that blocks (disk, hashing, encoding) beside the runtime's own threads.
///
/// # Errors
/// The work panicked, which is a fault of this program; the daemon lives on.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, crate::session::Fault> {
    tokio::task::spawn_blocking(work).await.map_err(|error| {
        let code = consilium_common::wire::reject::Code::SiteFault;
        crate::session::Fault::lasting(code, format!("work at this site broke off: {error}"))
    })
}
