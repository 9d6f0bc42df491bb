//! The composition root: configuration, identity and state become a running daemon, and SIGTERM
//! makes it a stopped one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use consilium_certs::bundle::{BundleError, SiteBundle};
use consilium_certs::credentials::CredentialsError;
use consilium_certs::keys::{self, KeyError};
use consilium_common::ids::SiteId;
use consilium_common::time::Clock;
use consilium_io::SystemClock;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::control_socket::server;
use crate::driver::{Driver, Shared};
use crate::link::Dialer;
use crate::policy::{PolicyError, Signers};
use crate::renewal::{self, RenewalError};
use crate::state::{CONTROL_SOCKET, StateError, StateFolder};
use crate::worker::Programs;

/// Questions of people that wait for the driver.
const ASKED_MAX: usize = 16;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The site's bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate has run out, and there is no other.
    #[error("{over}; it was not renewed now: {why}")]
    NotRenewed {
        /// What ran out.
        over: BundleError,
        /// Why there is no next one.
        why: Box<RenewalError>,
    },
    /// An operator's public key.
    #[error("[policy] operators: {0}")]
    Key(#[from] KeyError),
    /// The operators whose signatures count.
    #[error("agent.toml: {0}")]
    Policy(#[from] PolicyError),
    /// Another site's bundle.
    #[error(
        "agent.toml is for site {configured}, and {} holds the bundle of {found}: one of the two \
         is another site's", folder.display()
    )]
    OtherSite {
        /// In agent.toml.
        configured: SiteId,
        /// In the bundle.
        found: SiteId,
        /// Where the bundle lies.
        folder: PathBuf,
    },
    /// The control socket.
    #[error("cannot listen on {}: {source} (a socket's path has at most 107 bytes)", path.display())]
    Socket {
        /// Where.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Signals, or the place of this program.
    #[error("the system refuses what every daemon needs: {0}")]
    System(io::Error),
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// It cannot start; once it runs it ends well.
pub async fn run(config: AgentConfig) -> Result<(), AppError> {
    let mut signals = Signals::listen().map_err(AppError::System)?;
    renew_if_over(&config).await?;
    let shared = Arc::new(assemble(config)?);
    let socket = shared.state().control_socket();
    let listener = server::listen(&socket)
        .map_err(|source| AppError::Socket { path: socket.clone(), source })?;
    let (ask, asked) = mpsc::channel(ASKED_MAX);
    let serving = tokio::spawn(server::serve(listener, ask));
    let stop = CancellationToken::new();
    let driver = Driver::new(Arc::clone(&shared));
    let running = driver.run(asked, stop.clone());
    let renewing = tokio::spawn(renewal::keep(Arc::clone(&shared)));
    tell_systemd(&NotifyState::Ready);
    tracing::info!(
        site = %shared.site(), coordinator = %shared.config.site.coordinator, "running"
    );
    tokio::pin!(running);
    tokio::select! {
        () = &mut running => {}
        name = signals.next() => {
            tracing::info!(signal = name, "asked to stop");
            tell_systemd(&NotifyState::Stopping);
            stop.cancel();
            running.await;
        }
    }
    serving.abort();
    renewing.abort();
    if let Err(error) = std::fs::remove_file(&socket) {
        tracing::debug!(%error, "the control socket was gone already");
    }
    Ok(())
}

/// A site that was away for longer than its certificate was good gets the next one first.
async fn renew_if_over(config: &AgentConfig) -> Result<(), AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
    let folder = config.site.certificates();
    let loaded = SiteBundle::load(&folder, clock.wall());
    let Err(over @ BundleError::Credentials(CredentialsError::Expired { .. })) = loaded else {
        return Ok(());
    };
    let dialer = Dialer::new(config.site.coordinator.clone(), Arc::clone(&clock));
    let renewed = renewal::renew(&folder, &config.site.name, &dialer, &clock).await;
    renewed.map(drop).map_err(|why| AppError::NotRenewed { over, why: Box::new(why) })
}

/// Reads everything that the daemon needs, and holds the parts against each other.
fn assemble(config: AgentConfig) -> Result<Shared, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
    let bundle_folder = config.site.certificates();
    let bundle = SiteBundle::load(&bundle_folder, clock.wall())?;
    if bundle.site != config.site.name {
        return Err(AppError::OtherSite {
            configured: config.site.name,
            found: bundle.site,
            folder: bundle_folder,
        });
    }
    let signers = signers(&config, &bundle)?;
    let dialer = Dialer::new(config.site.coordinator.clone(), Arc::clone(&clock));
    let programs = programs(&config).map_err(AppError::System)?;
    let state = StateFolder::open(&config.site.state)?;
    Ok(Shared {
        cache: state.cache.clone(),
        tasks: state.tasks(),
        state: Mutex::new(state),
        config,
        bundle,
        bundle_folder,
        signers,
        programs,
        clock,
        dialer,
    })
}

/// The programs that train for this configuration.
///
/// # Errors
/// The system does not say where this program is.
pub fn programs(config: &AgentConfig) -> io::Result<Programs> {
    Programs::find(config.site.worker.as_deref())
}

/// Where a daemon with this state folder listens.
#[must_use]
pub fn control_socket(state: &Path) -> PathBuf {
    state.join(CONTROL_SOCKET)
}

/// Whose signatures count: the operators that the policy lists, else those that the consortium
/// file pins.
fn signers(config: &AgentConfig, bundle: &SiteBundle) -> Result<Signers, AppError> {
    let pinned = Signers {
        keys: bundle.consortium.operator_keys(),
        needed: bundle.consortium.operators_needed,
    };
    let Some(policy) = &config.policy else {
        return Ok(pinned);
    };
    let listed: Result<Vec<_>, KeyError> =
        policy.operators.iter().map(|path| keys::load_public(path)).collect();
    Ok(policy.signers(listed?, pinned)?)
}

/// Without systemd this does nothing.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// The first one that comes.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
