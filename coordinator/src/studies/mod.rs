//! The studies of this coordinator, each with its driver: opened from the log at start, added when
//! an operator submits one, found by name, by digest, or by the base that they serve.

mod error;
mod proposals;
mod retrain;
mod withdrawals;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use consilium_certs::consortium::Consortium;
use consilium_common::audit::Record;
use consilium_common::audit::record::StudySubmitted;
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Study, StudyError};
use consilium_common::tensor::flat::model_bytes_len;
use consilium_common::time::Clock;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::StudyOffer;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::compute::Compute;
use crate::conduct::Part;
use crate::document::InitialDocument;
use crate::driver::{Driver, DriverError, Event, Handle, Serving, Tools, View};
use crate::given::{self, Awaited, GivenError};
use crate::limits::DRIVER_QUEUE_MAX;
use crate::round::{Engine, History, HistoryError, StudyHistory};
use crate::server::sites::{Outbox, Sites};
use crate::stage::Stage;
use crate::store::{Blobs, Bulk, Store};
use crate::summary::Summary;

pub use error::SubmitError;
pub use retrain::RetrainError;
pub use withdrawals::WithdrawError;

/// What all studies share.
#[derive(Debug, Clone)]
#[expect(missing_docs, reason = "each field is what its type says")]
pub struct Common {
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    /// Where accepted updates are retained, if they are.
    pub retained: Option<Arc<dyn Bulk>>,
    pub stage: Arc<Stage>,
    pub sites: Arc<Sites>,
    pub clock: Arc<dyn Clock>,
    pub consortium: Arc<Consortium>,
    /// The log key.
    pub key: SecretKey,
    /// Ends all drivers.
    pub stop: CancellationToken,
}

/// A study with its driver.
#[derive(Debug)]
struct Running {
    handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

/// The studies.
#[derive(Debug)]
pub struct Studies {
    common: Common,
    /// What the log says, drivers' queued records included.
    history: Arc<Mutex<History>>,
    running: RwLock<BTreeMap<StudyId, Running>>,
    /// Models that operators were told to bring.
    awaited: Mutex<Awaited>,
    /// Sites that may take part.
    members: RwLock<Arc<BTreeSet<SiteId>>>,
    /// One submission at a time, and no change of the members beside it.
    submitting: tokio::sync::Mutex<()>,
    threads: Arc<Semaphore>,
    failed: mpsc::Sender<DriverError>,
}

impl Studies {
    /// The studies that `history` knows, their drivers running, for `members`. `summaries` are theirs. The
    /// receiver gets the error of a driver that must not go on: the process ends then.
    ///
    /// # Errors
    /// A study of the log that this version cannot serve.
    pub fn open(
        common: Common,
        members: BTreeSet<SiteId>,
        history: History,
        mut summaries: BTreeMap<StudyId, Summary>,
    ) -> Result<(Arc<Self>, mpsc::Receiver<DriverError>), StudyError> {
        let (failed, failures) = mpsc::channel(1);
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let known: Vec<StudyHistory> = history.studies().cloned().collect();
        let studies = Arc::new(Self {
            common,
            history: Arc::new(Mutex::new(history)),
            running: RwLock::default(),
            awaited: Mutex::default(),
            members: RwLock::new(Arc::new(members)),
            submitting: tokio::sync::Mutex::default(),
            threads: Arc::new(Semaphore::new(threads)),
            failed,
        });
        for study in known {
            let summary = summaries.remove(study.study.id());
            studies.begin(&study, summary)?;
        }
        Ok((studies, failures))
    }

    /// Who may take part from now on, in every study that there is or will be.
    pub async fn set_members(&self, members: BTreeSet<SiteId>) {
        let _turn = self.submitting.lock().await;
        let members = Arc::new(members);
        *self.members.write().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&members);
        for study in self.all() {
            if study.tell(Event::Members(Arc::clone(&members))).await.is_err() {
                tracing::debug!("the members changed while the coordinator goes down");
            }
        }
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens a study's engine and starts its driver.
    fn begin(
        &self,
        history: &StudyHistory,
        summary: Option<Summary>,
    ) -> Result<Handle, StudyError> {
        let common = &self.common;
        let members = BTreeSet::clone(&self.members.read().unwrap_or_else(PoisonError::into_inner));
        let setup = history.setup(members, common.key.clone());
        let serving = setup.interrupted.as_ref().map(|open| Serving::of(&open.plan));
        let study = Arc::new(history.study.clone());
        // Without a closed round the newest version is v0.
        let first = || Summary::new(Schema::of(&study), history.head.model);
        let summary = summary.unwrap_or_else(first);
        let (state, completion) = (history.state, history.completion);
        let view = View { state, completion, serving, summary };
        let (events, queue) = mpsc::channel(DRIVER_QUEUE_MAX);
        let handle = Handle::new(Arc::clone(&study), offer(history), events, view);
        let blobs = Arc::<dyn Blobs>::clone(&common.blobs);
        let stage = Arc::clone(&common.stage);
        let tools = Tools {
            store: Arc::clone(&common.store),
            stage: Arc::clone(&stage),
            outbox: Arc::clone(&common.sites) as Arc<dyn Outbox>,
            clock: Arc::clone(&common.clock),
            compute: Compute::new(&study, blobs, stage, common.retained.clone())?,
            threads: Arc::clone(&self.threads),
            history: Arc::clone(&self.history),
        };
        let engine = Engine::open(setup, common.clock.now())?;
        let driver = Driver::new(engine, handle.clone(), tools, queue);
        let stop = common.stop.child_token();
        let (stopped, failed) = (stop.clone(), self.failed.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = driver.run(stopped).await {
                // Somebody's error is enough to end the process.
                let _first = failed.try_send(error);
            }
        });
        let running = Running { handle: handle.clone(), stop, task };
        let id = handle.id().clone();
        self.running.write().unwrap_or_else(PoisonError::into_inner).insert(id, running);
        Ok(handle)
    }

    fn find<T>(&self, look: impl FnMut(&Handle) -> Option<T>) -> Option<T> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.values().map(|running| &running.handle).find_map(look)
    }

    /// A study by name.
    #[must_use]
    pub fn get(&self, id: &StudyId) -> Option<Handle> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.get(id).map(|running| running.handle.clone())
    }

    /// A study by its digest.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Option<Handle> {
        self.find(|study| (study.digest() == digest).then(|| study.clone()))
    }

    /// The study whose open round hands this blob to its sites, that round, and what the blob is.
    #[must_use]
    pub fn serving(&self, digest: Digest) -> Option<(Handle, Round, Part)> {
        self.find(|study| {
            let serving = study.view().serving?;
            Some((study.clone(), serving.round, serving.part(digest)?))
        })
    }

    /// Every study, by name.
    #[must_use]
    pub fn all(&self) -> Vec<Handle> {
        let running = self.running.read().unwrap_or_else(PoisonError::into_inner);
        running.values().map(|running| running.handle.clone()).collect()
    }

    /// Takes a signed study, or the next version of one: checks it, keeps its text and v0, records
    /// it, and offers it to the sites.
    ///
    /// # Errors
    /// It is refused, or could not be kept; see [`SubmitError::is_refusal`].
    pub async fn submit(&self, signed: Signed<Study>, by: &str) -> Result<Handle, SubmitError> {
        let consortium = &self.common.consortium;
        let study = signed.verify(&consortium.operator_keys(), consortium.operators_needed)?;
        let _turn = self.submitting.lock().await;
        // Whoever did not hear the answer submits again.
        if let Some(same) = self.get(study.id()).filter(|known| known.digest() == signed.digest()) {
            return Ok(same);
        }
        let record =
            Record::StudySubmitted(StudySubmitted { signed: signed.clone(), by: by.to_owned() });
        // Held against a copy first: a record that does not fit is never written.
        let is_new = {
            let mut copy = self.history().clone();
            copy.apply(&record)?;
            self.history().study(study.id()).is_none()
        };
        self.keep(&study, &signed, is_new).await?;
        self.end(study.id()).await;
        let history = {
            let mut history = self.history();
            history.apply(&record)?;
            history.study(study.id()).cloned()
        };
        self.common.store.append(&record).await?;
        // It was just put there.
        let history = history.ok_or_else(|| HistoryError::UnknownStudy {
            record: "StudySubmitted",
            study: study.id().clone(),
        })?;
        let summary = self.get(study.id()).map(|old| {
            let mut summary = old.take_summary();
            summary.succeed(Schema::of(&study));
            summary
        });
        Ok(self.begin_anew(&history, summary)?)
    }

    /// Starts the driver of a study whose earlier one has ended; sites are asked again what they say of it.
    fn begin_anew(
        &self,
        history: &StudyHistory,
        summary: Option<Summary>,
    ) -> Result<Handle, StudyError> {
        let sites = &self.common.sites;
        sites.forget_answers(history.study.id());
        let handle = self.begin(history, summary)?;
        sites.broadcast(&handle.offer().clone().into());
        sites.broadcast(&handle.state_message().into());
        Ok(handle)
    }

    /// Keeps the study's text, and v0 of a new one, under their digests.
    async fn keep(
        &self,
        study: &Study,
        signed: &Signed<Study>,
        is_new: bool,
    ) -> Result<(), SubmitError> {
        match study.initial.filter(|initial| initial.given) {
            // Later versions of a study go on from its newest model, whatever it once began with.
            Some(_) if !is_new => {}
            Some(initial) => self.check_given(study, initial.model).await?,
            None => self.keep_seeded(study, is_new).await?,
        }
        self.common.blobs.put(signed.bytes.clone()).await?;
        Ok(())
    }

    async fn keep_seeded(&self, study: &Study, is_new: bool) -> Result<(), SubmitError> {
        let model = seeded(study).await?;
        if is_new {
            self.common.blobs.put(model).await?;
        }
        Ok(())
    }

    async fn check_given(&self, study: &Study, model: Digest) -> Result<(), SubmitError> {
        let (blobs, layout) = (Arc::clone(&self.common.blobs), study.layout()?);
        let checked = tokio::task::spawn_blocking(move || given::check(&*blobs, model, &layout));
        checked.await?.map_err(SubmitError::Given)
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks for the v0 that a signed study was given; if it is not here, takes it from now on.
    ///
    /// # Errors
    /// The study is refused, or was given no v0.
    pub async fn offer_initial(
        &self,
        signed: &Signed<Study>,
    ) -> Result<InitialDocument, SubmitError> {
        let consortium = &self.common.consortium;
        let study = signed.verify(&consortium.operator_keys(), consortium.operators_needed)?;
        let Some(initial) = study.initial.filter(|initial| initial.given) else {
            return Err(SubmitError::NotGiven(study.id().clone()));
        };
        let bytes = model_bytes_len(&study.layout()?);
        let wanted = match self.check_given(&study, initial.model).await {
            Ok(()) => false,
            Err(SubmitError::Given(GivenError::Missing(_))) => true,
            Err(other) => return Err(other),
        };
        if wanted {
            self.awaited().expect(initial.model, bytes);
        }
        Ok(InitialDocument { study: study.id().clone(), model: initial.model, bytes, wanted })
    }

    /// Whether a model of this digest and length is to be brought by an operator.
    #[must_use]
    pub fn awaits(&self, model: Digest, bytes: u64) -> bool {
        self.awaited().expects(model, bytes)
    }

    /// An operator has brought it.
    pub fn brought(&self, model: Digest) {
        self.awaited().taken(model);
    }

    /// Ends the driver of a study that is about to be replaced; its queued records stay in order.
    async fn end(&self, id: &StudyId) {
        let old = {
            let mut running = self.running.write().unwrap_or_else(PoisonError::into_inner);
            running.get_mut(id).map(|old| {
                old.stop.cancel();
                std::mem::replace(&mut old.task, tokio::spawn(std::future::ready(())))
            })
        };
        if let Some(task) = old
            && let Err(error) = task.await
        {
            tracing::warn!(study = %id, %error, "the driver of the earlier version died");
        }
    }
}

/// The v0 that follows from the study's spec, which must be the one that it names.
async fn seeded(study: &Study) -> Result<Vec<u8>, SubmitError> {
    let spec = study.clone();
    let made = tokio::task::spawn_blocking(move || spec.initial_model());
    let model = made.await??;
    let need = Digest::of(&model);
    match study.initial {
        Some(initial) if initial.model == need => Ok(model),
        other => {
            let have = other.map_or(Digest([0; 32]), |initial| initial.model);
            Err(SubmitError::Initial { have, need })
        }
    }
}

fn offer(history: &StudyHistory) -> StudyOffer {
    StudyOffer {
        study: history.study.id().clone(),
        version: history.study.header.version,
        digest: history.study_digest(),
        bytes: history.signed.bytes.len() as u64,
        signatures: history.signed.signatures.clone(),
    }
}
