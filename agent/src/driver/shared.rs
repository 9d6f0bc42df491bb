//! What the driver and its work share: who this site is, what it may do, and what it holds.

use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use consilium_certs::bundle::SiteBundle;
use consilium_common::bucket::Bucket;
use consilium_common::ids::{Digest, SiteId};
use consilium_common::time::Clock;
use tokio::sync::Notify;

use crate::config::AgentConfig;
use crate::ledger::Ledger;
use crate::link::Dialer;
use crate::roster::Rosters;
use crate::rules::Rules;
use crate::session::Judged;
use crate::state::{Cache, KeptStudy, StateFolder};
use crate::witness::Witness;
use crate::worker::Programs;

use super::study;

/// Everything that outlives a connection.
#[derive(Debug)]
pub struct Shared {
    /// agent.toml, but for `[policy]`: [`Shared::rules`] has what is in force of it.
    pub config: AgentConfig,
    /// The site's bundle, as it was at start.
    pub bundle: SiteBundle,
    /// Where the bundle lies: renewed certificates are read from there at each connection.
    pub bundle_folder: PathBuf,
    rules: RwLock<Arc<Rules>>,
    /// What may leave now, of the rate that the policy sets, if it does.
    upload: Mutex<Option<Bucket>>,
    /// The programs that train.
    pub programs: Programs,
    /// The system's clocks.
    pub clock: Arc<dyn Clock>,
    /// Wakes whoever renews the certificate.
    pub renew_now: Notify,
    /// The way to the coordinator.
    pub dialer: Dialer,
    /// Base models.
    pub cache: Cache,
    /// Where workers' folders go.
    pub tasks: PathBuf,
    /// Studies and retained updates.
    pub state: Mutex<StateFolder>,
    /// The site's own record: what is to leave stands there first.
    pub ledger: Ledger,
    /// What this site has seen of the coordinator's log.
    pub witness: Witness,
    /// The consortium's roster as this site goes by it.
    pub rosters: Rosters,
    /// Studies without the operators' signatures that this run has written into it.
    pub unsigned: AtomicUsize,
}

/// What [`Shared::new`] puts together.
#[derive(Debug)]
pub struct Parts {
    /// agent.toml.
    pub config: AgentConfig,
    /// Its `[policy]` with what it names.
    pub rules: Rules,
    /// The site's bundle.
    pub bundle: SiteBundle,
    /// The programs that train.
    pub programs: Programs,
    /// The system's clocks.
    pub clock: Arc<dyn Clock>,
    /// The state folder, locked.
    pub state: StateFolder,
    /// The site's own record.
    pub ledger: Ledger,
    /// What this site has seen of the coordinator's log.
    pub witness: Witness,
    /// The consortium's roster as this site goes by it.
    pub rosters: Rosters,
}

impl Shared {
    /// Everything of one daemon.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let Parts { config, rules, bundle, programs, clock, state, ledger, witness, rosters } =
            parts;
        Self {
            upload: Mutex::new(rules.upload(clock.now())),
            rules: RwLock::new(Arc::new(rules)),
            cache: state.cache.clone(),
            tasks: state.tasks(),
            state: Mutex::new(state),
            ledger,
            witness,
            rosters,
            unsigned: AtomicUsize::new(0),
            bundle,
            bundle_folder: config.site.certificates(),
            programs,
            renew_now: Notify::new(),
            dialer: Dialer::new(config.site.coordinator.clone(), Arc::clone(&clock)),
            clock,
            config,
        }
    }

    /// The site's rules as they are in force now.
    #[must_use]
    pub fn rules(&self) -> Arc<Rules> {
        Arc::clone(&self.rules.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Puts other rules in force.
    pub(super) fn put_in_force(&self, rules: Rules) {
        let upload = rules.upload(self.clock.now());
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = upload;
    }

    /// Whether the rules in force bound how fast updates leave.
    #[must_use]
    pub fn throttles_uploads(&self) -> bool {
        self.upload.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// How long to wait before so many bytes of an update may leave.
    #[must_use]
    pub fn upload_delay(&self, bytes: u64) -> Duration {
        let mut upload = self.upload.lock().unwrap_or_else(PoisonError::into_inner);
        let delay = upload.as_mut().map(|bucket| bucket.delay(bytes, self.clock.now()));
        delay.map_or(Duration::ZERO, |delay| Duration::from_millis(delay.0))
    }

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
        Some(study::judged(self, &self.kept(digest)?, self.clock.wall()))
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
