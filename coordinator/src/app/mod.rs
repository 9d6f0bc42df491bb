//! The composition root: puts store, stage, studies and server together, runs them, and takes them
//! down in good order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use consilium_certs::bundle::{BundleError, CoordinatorBundle};
use consilium_certs::credentials::CredentialsError;
use consilium_certs::roster::{Roster, RosterError};
use consilium_certs::signed_file;
use consilium_certs::tls;
use consilium_common::audit::Record;
use consilium_common::audit::record::RosterSet;
use consilium_common::ids::StudyId;
use consilium_common::signed::Signed;
use consilium_common::time::{Clock, WallMillis};
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::RunState;
use consilium_common::wire::reject::Code;
use consilium_io::SystemClock;
use consilium_io::disk::create_folder;
use consilium_io::net::QuicListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::certificate::{self, OwnCertificate};
use crate::config::{Config, Coordinator};
use crate::driver::DriverError;
use crate::limits::{SHUTDOWN_MAX, STAGE_MEMORY_BYTES_MAX};
use crate::members::Members;
use crate::membership::Membership;
use crate::round::History;
use crate::server::sites::Sites;
use crate::server::{Parts, Server, accept};
use crate::stage::Stage;
use crate::store::files::Files;
use crate::store::log_store::{self, LogStore};
use crate::store::{Store, schema};
use crate::studies::{Common, Studies};
use crate::summary::Summary;

mod error;

pub use error::AppError;

/// Resolves when the process is asked to end: SIGTERM or SIGINT.
///
/// # Errors
/// The system gives no signals.
pub async fn signals() -> Result<(), AppError> {
    let mut term = signal(SignalKind::terminate()).map_err(AppError::Signals)?;
    let mut int = signal(SignalKind::interrupt()).map_err(AppError::Signals)?;
    tokio::select! {
        _ = term.recv() => tracing::info!("SIGTERM: going down"),
        _ = int.recv() => tracing::info!("SIGINT: going down"),
    }
    Ok(())
}

/// Runs a coordinator until `end` resolves.
///
/// # Errors
/// It could not start, or the disk failed.
pub async fn serve(
    config: Config,
    end: impl Future<Output = Result<(), AppError>>,
) -> Result<(), AppError> {
    let running = Coordinating::start(config.coordinator).await?;
    notify(sd_notify::NotifyState::Ready);
    running.until(end).await
}

/// A coordinator that listens.
#[derive(Debug)]
pub struct Coordinating {
    server: Arc<Server>,
    store: Arc<LogStore>,
    listener: QuicListener,
    failures: mpsc::Receiver<DriverError>,
    stop: CancellationToken,
}

/// What the log said.
struct Past {
    store: LogStore,
    report: log_store::Report,
    history: History,
    members: Members,
    summaries: BTreeMap<StudyId, Summary>,
    /// Updates that are retained, or were once.
    updates: Option<Files>,
}

impl Coordinating {
    /// Opens everything and listens.
    ///
    /// # Errors
    /// One variant of [`AppError`] per part.
    pub async fn start(config: Coordinator) -> Result<Self, AppError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
        let bundle = bundle(&config, &*clock).await?;
        let signed_roster: Signed<Roster> = signed_file::load(&config.roster)?;
        let roster = Roster::verified(&signed_roster, &bundle.consortium)?;

        let (folder, key) = (config.state.clone(), bundle.log_key.clone());
        let members = Members::new(bundle.consortium.clone(), roster.clone());
        let stamp = Arc::clone(&clock);
        let retains = config.retain_updates;
        let opening = move || open_state(&folder, members, &key, stamp, retains);
        let (mut past, blobs, stage) = tokio::task::spawn_blocking(opening).await??;
        let store = Arc::new(past.store);
        if let Some(record) = new_roster(&past.history, &signed_roster, &roster)? {
            store.append(&record).await?;
            past.members.apply(&record);
        }

        let listener = listen(config.listen, &bundle, Arc::clone(&clock))?;
        let address = listener.local_address()?;
        let (stop, sites) = (CancellationToken::new(), Arc::new(Sites::new(Arc::clone(&clock))));
        let consortium = Arc::new(bundle.consortium);
        let retained = past.updates.map(Arc::new);
        let common = Common {
            store: Arc::clone(&store) as Arc<dyn Store>,
            blobs: Arc::new(blobs),
            retained: retained.clone().filter(|_| retains).map(|updates| updates as _),
            stage: Arc::new(stage),
            sites,
            clock,
            consortium,
            key: bundle.log_key,
            stop: stop.clone(),
        };
        sweep_if_idle(&common.stage, &past.history);
        let studies = past.history.studies().count();
        let belonging = past.members.belonging();
        let (running, failures) =
            Studies::open(common.clone(), belonging, past.history, past.summaries)?;
        let membership = Membership::new(
            past.members,
            Arc::clone(&common.store),
            Arc::clone(&running),
            Arc::clone(&common.sites),
            Arc::clone(&common.clock),
            config.ca.clone(),
        );
        let certificate = OwnCertificate::new(
            config.certificates,
            config.ca,
            Arc::clone(&common.clock),
            bundle.credentials,
        )?;
        let server = Arc::new(Server::new(Parts {
            sites: common.sites,
            studies: running,
            store: common.store,
            blobs: common.blobs,
            retained: retained.map(|updates| updates as _),
            stage: common.stage,
            clock: common.clock,
            membership: Arc::new(membership),
            consortium: common.consortium,
            address,
            certificate,
            root: bundle.root_pem,
            consortium_text: bundle.consortium_text,
        }));
        say_serving(&server, past.report.records, studies);
        Ok(Self { server, store, listener, failures, stop })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Serves until `end` resolves, then goes down in good order: no more connections, agents are
    /// told, records and checkpoint are on the disk.
    ///
    /// # Errors
    /// The disk failed, or `end` did.
    pub async fn until(
        mut self,
        end: impl Future<Output = Result<(), AppError>>,
    ) -> Result<(), AppError> {
        let accepting = accept::run(Arc::clone(&self.server), &self.listener, self.stop.clone());
        let mut accepting = std::pin::pin!(accepting);
        let ended = tokio::select! {
            ended = end => ended,
            Some(failed) = self.failures.recv() => Err(failed.into()),
            () = &mut accepting => Ok(()),
            () = self.server.certificate.keep(&self.listener, &*self.server.sites) => Ok(()),
        };
        notify(sd_notify::NotifyState::Stopping);
        self.server.sites.close_all(Code::ShuttingDown, "the coordinator goes down");
        self.stop.cancel();
        if tokio::time::timeout(SHUTDOWN_MAX, accepting).await.is_err() {
            tracing::warn!("some sessions did not end in time");
        }
        let reason = format!("{}: the coordinator goes down", Code::ShuttingDown);
        self.listener.shut_down(u32::from(Code::ShuttingDown as u16), &reason).await;
        self.store.close().await;
        tracing::info!("down");
        ended
    }
}

fn listen(
    address: SocketAddr,
    bundle: &CoordinatorBundle,
    clock: Arc<dyn Clock>,
) -> Result<QuicListener, AppError> {
    let tls = tls::server_config(&bundle.credentials, clock)?;
    let secret = blake3::derive_key("consilium/reset-secret/1", &*bundle.log_key.seed());
    Ok(QuicListener::bind_lasting(address, tls, &secret)?)
}

fn say_serving(server: &Server, records: u64, studies: usize) {
    let (address, consortium) = (server.address, &server.consortium.name);
    let roster = server.membership.members().roster().version();
    tracing::info!(%address, records, studies, %consortium, roster, "serving");
}

/// The coordinator's bundle. One that was away for longer than its certificate was good gets the next one
/// first, if there is a CA.
async fn bundle(config: &Coordinator, clock: &dyn Clock) -> Result<CoordinatorBundle, AppError> {
    let loaded = CoordinatorBundle::load(&config.certificates, clock.wall());
    let Err(over @ BundleError::Credentials(CredentialsError::Expired { .. })) = loaded else {
        return Ok(loaded?);
    };
    tracing::info!("the coordinator's certificate has run out: asking for the next one");
    match certificate::renew(&config.certificates, config.ca.as_deref(), clock.wall()).await {
        Ok(_) => Ok(CoordinatorBundle::load(&config.certificates, clock.wall())?),
        Err(why) => Err(AppError::NotRenewed { over, why: Box::new(why) }),
    }
}

/// Tells the service manager, if there is one.
pub(crate) fn notify(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

/// Opens the state folder and folds its log. Blocks.
fn open_state(
    folder: &Path,
    mut members: Members,
    key: &consilium_common::signed::SecretKey,
    clock: Arc<dyn Clock>,
    retains: bool,
) -> Result<(Past, Files, Stage), AppError> {
    create_folder(folder)?;
    let (mut history, mut summaries) = (History::new(), BTreeMap::new());
    let origin = members.consortium().to_string();
    let setup = log_store::Setup { folder, origin: &origin, key, clock };
    let (store, report) = LogStore::open(&setup, &mut |record, wall| {
        history.apply(record)?;
        members.apply(record);
        summarise(&history, &mut summaries, record, wall);
        Ok(())
    })?;
    if report.dropped_bytes > 0 {
        tracing::warn!(
            bytes = report.dropped_bytes,
            "an incomplete record at the log's end was dropped"
        );
    }
    let blobs = Files::open(&folder.join(schema::BLOBS))?;
    check_heads(&history, &blobs)?;
    let stage = Stage::open(&folder.join(schema::STAGE), STAGE_MEMORY_BYTES_MAX)?;
    let kept = folder.join(schema::UPDATES);
    let updates = (retains || kept.is_dir()).then(|| Files::open(&kept)).transpose()?;
    Ok((Past { store, report, history, members, summaries, updates }, blobs, stage))
}

/// Every study that goes on has its newest model and strategy state and its preparation, whole: else
/// each of its rounds would be abandoned.
fn check_heads(history: &History, blobs: &Files) -> Result<(), AppError> {
    let over = |state| matches!(state, RunState::Stopped | RunState::Complete);
    for study in history.studies().filter(|study| !over(study.state)) {
        let head = &study.head;
        let state = head.strategy_state.map(|state| ("strategy state", state));
        for (what, digest) in [("model", head.model)].into_iter().chain(state) {
            blobs.verify(digest).map_err(|source| AppError::Head {
                study: head.study.clone(),
                version: head.version,
                what,
                digest,
                source: Box::new(source),
            })?;
        }
        if let Some(preparation) = head.preparation {
            blobs.verify(preparation).map_err(|source| AppError::Preparation {
                study: head.study.clone(),
                preparation,
                source: Box::new(source),
            })?;
        }
    }
    Ok(())
}

/// Keeps what screens show of closed rounds.
fn summarise(
    history: &History,
    summaries: &mut BTreeMap<StudyId, Summary>,
    record: &Record,
    wall: WallMillis,
) {
    if let Record::StudySubmitted(submitted) = record
        && let Ok(study) = submitted.signed.parse_unverified()
        && let Some(summary) = summaries.get_mut(study.id())
    {
        summary.succeed(Schema::of(&study));
    }
    if let Record::Withdrawal(withdrawn) = record
        && let Some(known) = history.study(&withdrawn.study)
    {
        let first = || Summary::new(Schema::of(&known.study), known.head.model);
        summaries.entry(withdrawn.study.clone()).or_insert_with(first).withdraw(withdrawn);
    }
    // Before it there was a round: a study's first version is its newest.
    if let Record::Retrained(retrained) = record
        && let Some(summary) = summaries.get_mut(&retrained.study)
    {
        summary.go_back(retrained, wall);
    }
    let Record::RollCall(ended) = record else {
        return;
    };
    let Ok(call) = ended.signed.parse_unverified() else {
        return;
    };
    let Some(known) = history.study(&call.study) else {
        return;
    };
    // A study's first round starts from v0.
    let first = || Summary::new(Schema::of(&known.study), call.base);
    summaries.entry(call.study.clone()).or_insert_with(first).add(&call, wall);
}

/// What is staged is of an open round, or of none.
fn sweep_if_idle(stage: &Stage, history: &History) {
    if history.studies().all(|study| study.interrupted.is_none()) {
        stage.sweep();
    }
}

/// The record of the file's roster, if it is newer than the one in the log. One that is older was
/// followed by those that operators signed since.
fn new_roster(
    history: &History,
    signed: &Signed<Roster>,
    roster: &Roster,
) -> Result<Option<Record>, AppError> {
    if let Some(known) = history.roster() {
        let before = Signed::<Roster>::from_parts(known.bytes.clone(), Vec::new());
        let version = before.parse_unverified().map_err(RosterError::from)?.version();
        if roster.version() < version {
            tracing::info!(
                file = roster.version(),
                in_force = version,
                "the log has a newer roster"
            );
            return Ok(None);
        }
        if known.bytes == signed.bytes {
            return Ok(None);
        }
        if roster.version() == version {
            return Err(AppError::TwoRosters(version));
        }
    }
    let (bytes, signatures) = (signed.bytes.clone(), signed.signatures.clone());
    Ok(Some(Record::Roster(RosterSet { bytes, signatures })))
}
