//! The composition root: configuration, identity and state become a running daemon, SIGHUP has it read
//! its policy again, and SIGTERM makes it a stopped one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_certs::bundle::{BundleError, SiteBundle};
use consilium_certs::consortium::Consortium;
use consilium_certs::credentials::{CredentialsError, TLS_PEM};
use consilium_certs::enrolling::{SITE_KEY, folder_beside};
use consilium_common::ids::SiteId;
use consilium_common::time::Clock;
use consilium_io::SystemClock;
use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::config::AgentConfig;
use crate::control_socket::server;
use crate::driver::{self, Driver, Parts, Shared};
use crate::ledger::entry::Started;
use crate::ledger::{Ledger, LedgerError};
use crate::link::Dialer;
use crate::renewal::{self, RenewalError};
use crate::roster::{KeptRosterError, Rosters};
use crate::rules::{Rules, RulesError};
use crate::state::{CONTROL_SOCKET, StateError, StateFolder};
use crate::witness::{Witness, WitnessError};
use crate::worker::Programs;

/// Questions of people that wait for the driver.
const ASKED_MAX: usize = 16;
/// Rules that wait for the driver: who reads agent.toml again waits for the reading before.
const RULES_MAX: usize = 1;

/// Why the daemon does not start.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The state folder.
    #[error(transparent)]
    State(#[from] StateError),
    /// The site's own record.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What the site keeps of the coordinator's log.
    #[error(transparent)]
    Witness(#[from] WitnessError),
    /// The roster that this site goes by.
    #[error(transparent)]
    Roster(#[from] KeptRosterError),
    /// The site's bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The site has no keys, and has not asked for a certificate.
    #[error(
        "{} holds no identity: run `consilium-agent enroll TOKEN` with the token of an operator (where \
         there is a bundle already, `certificates` in agent.toml names its folder)", folder.display()
    )]
    NotEnrolled {
        /// Where the bundle should lie.
        folder: PathBuf,
    },
    /// The site has asked for its certificate and does not have it.
    #[error(
        "this site has asked for its certificate and does not have it yet: once an operator has approved \
         it, run `consilium-agent enroll TOKEN` again"
    )]
    NotApproved,
    /// The certificate has run out, and there is no other.
    #[error("{over}; it was not renewed now: {why}")]
    NotRenewed {
        /// What ran out.
        over: BundleError,
        /// Why there is no next one.
        why: Box<RenewalError>,
    },
    /// The site's rules.
    #[error(transparent)]
    Rules(#[from] RulesError),
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

/// Runs the daemon until SIGTERM or SIGINT. `read` reads agent.toml again, which SIGHUP asks for.
///
/// # Errors
/// It cannot start; once it runs it ends well.
pub async fn run(
    config: AgentConfig,
    read: impl Fn() -> Result<AgentConfig, String>,
) -> Result<(), AppError> {
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
    let (put_in_force, rules) = mpsc::channel(RULES_MAX);
    let running = driver.run(asked, rules, stop.clone());
    let renewing = tokio::spawn(renewal::keep(Arc::clone(&shared)));
    tell_systemd(&NotifyState::Ready);
    tracing::info!(
        site = %shared.site(), coordinator = %shared.config.site.coordinator, "running"
    );
    tokio::pin!(running);
    loop {
        let asked = tokio::select! {
            () = &mut running => break,
            asked = signals.next() => asked,
        };
        match asked {
            Asked::Reload => {
                if let Some(rules) = reload(&shared, &read) {
                    tokio::select! {
                        () = &mut running => break,
                        _sent = put_in_force.send(rules) => {}
                    }
                }
            }
            Asked::Stop(signal) => {
                tracing::info!(signal, "asked to stop");
                tell_systemd(&NotifyState::Stopping);
                stop.cancel();
                running.await;
                break;
            }
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
    let renewed = renewal::renew(&folder, &config.site.name, &dialer, &clock, |_| {
        // The ledger is opened with the bundle, which there is none of before.
        tracing::info!("the certificate has run out: asking for the next one");
        Ok(())
    })
    .await;
    renewed.map(drop).map_err(|why| AppError::NotRenewed { over, why: Box::new(why) })
}

/// Of a site without keys no file is missing: it has to enrol, or is about to.
fn refuse_before_enrolment(bundle: &Path) -> Result<(), AppError> {
    if bundle.join(TLS_PEM).exists() || bundle.join(SITE_KEY).exists() {
        return Ok(());
    }
    if folder_beside(bundle).exists() {
        return Err(AppError::NotApproved);
    }
    Err(AppError::NotEnrolled { folder: bundle.to_owned() })
}

/// Reads everything that the daemon needs, and holds the parts against each other.
fn assemble(mut config: AgentConfig) -> Result<Shared, AppError> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
    let bundle_folder = config.site.certificates();
    refuse_before_enrolment(&bundle_folder)?;
    let bundle = SiteBundle::load(&bundle_folder, clock.wall())?;
    if bundle.site != config.site.name {
        return Err(AppError::OtherSite {
            configured: config.site.name,
            found: bundle.site,
            folder: bundle_folder,
        });
    }
    let rules = Rules::load(config.policy.take(), &bundle.consortium)?;
    let programs = programs(&config).map_err(AppError::System)?;
    let state = StateFolder::open(&config.site.state)?;
    let ledger = begin_ledger(&state, &bundle, &*clock)?;
    let Consortium { name, coordinator_log_key, .. } = &bundle.consortium;
    let witness = Witness::open(state.folder(), &name.to_string(), *coordinator_log_key)?;
    let rosters = Rosters::open(state.folder(), bundle.consortium.clone())?;
    Ok(Shared::new(Parts {
        config,
        rules,
        bundle,
        programs,
        clock,
        state,
        ledger,
        witness,
        rosters,
    }))
}

/// The rules that agent.toml has now; none if it cannot be read, and those in force stay.
fn reload(shared: &Shared, read: impl Fn() -> Result<AgentConfig, String>) -> Option<Rules> {
    let mut config = match read() {
        Ok(config) => config,
        Err(error) => {
            tracing::error!("agent.toml is not read again, the policy stays as it was: {error}");
            return None;
        }
    };
    let rules = match Rules::load(config.policy.take(), &shared.bundle.consortium) {
        Ok(rules) => rules,
        Err(error) => {
            tracing::error!("[policy] is not read again, it stays as it was: {error}");
            return None;
        }
    };
    if config != shared.config {
        tracing::warn!(
            "[policy] alone is read again: what changed in [site] and [data] needs a restart"
        );
    }
    tracing::info!("[policy] is read again; every study is judged by it");
    Some(rules)
}

/// Opens the site's ledger, or begins it, and writes that the daemon runs.
fn begin_ledger(
    state: &StateFolder,
    bundle: &SiteBundle,
    clock: &dyn Clock,
) -> Result<Ledger, LedgerError> {
    let ledger = Ledger::open(&state.ledger(), &bundle.site, &bundle.site_key)?;
    let first = ledger.status().records == 0;
    if first && state.studies.iter().next().is_some() {
        tracing::warn!(
            folder = %state.ledger().display(),
            "a ledger begins where studies were kept before: what left until now stands in none, or in \
             one that is gone"
        );
    }
    let started = Started {
        site: bundle.site.clone(),
        agent: driver::AGENT.to_owned(),
        key: bundle.site_key.public(),
        first,
    };
    if let Err(error) = ledger.record(started, clock.wall()) {
        // A disk that is full: the daemon answers people, and nothing leaves before there is room.
        tracing::error!(%error, "that the agent runs is not in the ledger");
    }
    Ok(ledger)
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

/// Without systemd this does nothing.
fn tell_systemd(state: &NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(std::slice::from_ref(state)) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// What a signal asks for.
enum Asked {
    /// End well; the signal's name.
    Stop(&'static str),
    /// Read `[policy]` again.
    Reload,
}

/// SIGTERM, SIGINT and SIGHUP.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// The first one that comes.
    async fn next(&mut self) -> Asked {
        tokio::select! {
            _ = self.terminate.recv() => Asked::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Asked::Stop("SIGINT"),
            _ = self.hang_up.recv() => Asked::Reload,
        }
    }
}
