//! A driver between an engine and fakes: a store whose answers a test can hold back, and an outbox
//! that a test reads.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use async_trait::async_trait;
use consilium_common::audit::record::StudySubmitted;
use consilium_common::audit::{Outcome, RollCall as RollCallDocument};
use consilium_common::ids::{StudyId, Version};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::flat::decode_model;
use consilium_common::update::sections::{Header, encode_update};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::{
    LogHead, Message, Plan, RunState, StudyOffer, TaskKind, UpdateOffer,
};
use consilium_io::SystemClock;
use consilium_io::net::transfer::Sink;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::*;
use crate::conduct::Part;
use crate::round::{Command, SiteMessage};
use crate::stage::Begun;
use crate::store::files::Files;
use crate::store::{Blobs, Exported, Pending};
use crate::summary::Summary;

const WAIT: Duration = Duration::from_secs(20);

#[derive(Debug, Default)]
struct Fake(Mutex<Held>);

#[derive(Debug, Default)]
struct Held {
    records: Vec<Record>,
    holding: bool,
    waiting: VecDeque<oneshot::Sender<Result<(), StoreError>>>,
    broken: bool,
}

impl Fake {
    fn hold(&self) {
        self.0.lock().unwrap().holding = true;
    }

    fn release(&self) {
        let mut held = self.0.lock().unwrap();
        held.holding = false;
        for answer in held.waiting.drain(..) {
            let _gone = answer.send(Ok(()));
        }
    }

    fn names(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().records.iter().map(Record::name).collect()
    }
}

#[async_trait]
impl Store for Fake {
    fn records(&self) -> u64 {
        self.0.lock().unwrap().records.len() as u64
    }

    async fn submit(&self, record: &Record) -> Result<Pending, StoreError> {
        let (answer, pending) = Pending::new();
        let mut held = self.0.lock().unwrap();
        held.records.push(record.clone());
        if held.broken {
            let _gone = answer.send(Err(StoreError::Closed));
        } else if held.holding {
            held.waiting.push_back(answer);
        } else {
            let _gone = answer.send(Ok(()));
        }
        Ok(pending)
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all but the one looked for")]
    async fn roll_call(
        &self,
        _study: &StudyId,
        round: Round,
    ) -> Result<Option<Signed<RollCallDocument>>, StoreError> {
        let held = self.0.lock().unwrap();
        Ok(held.records.iter().find_map(|record| match record {
            Record::RollCall(ended) if ended.signed.parse_unverified().unwrap().round == round => {
                Some(ended.signed.clone())
            }
            _ => None,
        }))
    }

    async fn version(
        &self,
        _study: &StudyId,
        _version: Version,
    ) -> Result<Option<Signed<RollCallDocument>>, StoreError> {
        Ok(None)
    }

    async fn study(&self, _digest: Digest) -> Result<Option<StudySubmitted>, StoreError> {
        Ok(None)
    }

    async fn export(&self) -> Result<Exported, StoreError> {
        Err(StoreError::Closed)
    }

    async fn head(&self, _witnessed: u64) -> Result<LogHead, StoreError> {
        Err(StoreError::Closed)
    }
}

#[derive(Debug)]
struct Letters(mpsc::Sender<(SiteId, Message)>);

impl Outbox for Letters {
    fn send(&self, site: &SiteId, message: Message) {
        self.0.try_send((site.clone(), message)).unwrap();
    }

    fn broadcast(&self, _message: &Message) {}

    fn strike(&self, _site: &SiteId, _code: Code, _detail: &str) {}
}

struct Bench {
    handle: Handle,
    store: Arc<Fake>,
    stage: Arc<Stage>,
    blobs: Arc<dyn Blobs>,
    letters: mpsc::Receiver<(SiteId, Message)>,
    running: JoinHandle<Result<(), DriverError>>,
    _dir: TempDir,
}

/// A driver of a study of four parameters, sites a and b, one round.
async fn bench() -> Bench {
    bench_of("").await
}

/// The same with more fields of the model.
async fn bench_of(model: &str) -> Bench {
    let draft = "[study]\nname = \"demo\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                 MODEL[training]\nrounds = 1\n[aggregation]\nclip_norm = 1.0\n\
                 [privacy]\nmode = \"inspectable\"\n";
    let study = Study::read(&draft.replace("MODEL", model), "draft").unwrap().resolve().unwrap();
    let key = SecretKey::from_seed(&[1; 32]);
    let signed = Signed::<Study>::sign(study.to_text().unwrap().into_bytes(), &key);
    let mut history = History::new();
    let submitted = StudySubmitted { signed: signed.clone(), by: "ada".into() };
    history.apply(&Record::StudySubmitted(submitted)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let blobs: Arc<dyn Blobs> = Arc::new(Files::open(&dir.path().join("blobs")).unwrap());
    blobs.put(study.initial_model().unwrap()).await.unwrap();
    let stage = Arc::new(Stage::open(&dir.path().join("stage"), 1 << 20).unwrap());
    let clock = Arc::new(SystemClock::open());
    let roster: BTreeSet<SiteId> = [site("a"), site("b")].into();
    let known = history.study(study.id()).unwrap();
    let engine = Engine::open(known.setup(roster, key), clock.now()).unwrap();
    let summary = Summary::new(Schema::of(&study), known.head.model);
    let offer = StudyOffer {
        study: study.id().clone(),
        version: 1,
        digest: signed.digest(),
        bytes: signed.bytes.len() as u64,
        signatures: signed.signatures,
    };
    let (events, queue) = mpsc::channel(64);
    let view = View { state: RunState::Submitted, completion: None, serving: None, summary };
    let handle = Handle::new(Arc::new(study.clone()), offer, events, view);
    let (sender, letters) = mpsc::channel(256);
    let store = Arc::new(Fake::default());
    let tools = Tools {
        store: Arc::clone(&store) as Arc<dyn Store>,
        stage: Arc::clone(&stage),
        outbox: Arc::new(Letters(sender)),
        clock,
        compute: Compute::new(&study, Arc::<dyn Blobs>::clone(&blobs), Arc::clone(&stage), None)
            .unwrap(),
        threads: Arc::new(Semaphore::new(2)),
        history: Arc::new(Mutex::new(history)),
    };
    let driver = Driver::new(engine, handle.clone(), tools, queue);
    let running = tokio::spawn(driver.run(CancellationToken::new()));
    Bench { handle, store, stage, blobs, letters, running, _dir: dir }
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

impl Bench {
    async fn start(&self) {
        for name in ["a", "b"] {
            self.handle.tell(Event::Ready(site(name))).await.unwrap();
        }
        let by = "ada".to_owned();
        let start = |answer| Event::Command { command: Command::Start, by, answer };
        self.handle.ask(start).await.unwrap().unwrap();
    }

    /// The next message that `wanted` picks; the sites' other mail is passed over.
    async fn hear<T>(&mut self, name: &str, wanted: impl Fn(Message) -> Option<T>) -> T {
        loop {
            let (to, message) =
                tokio::time::timeout(WAIT, self.letters.recv()).await.unwrap().unwrap();
            if to == site(name)
                && let Some(found) = wanted(message)
            {
                return found;
            }
        }
    }

    /// A site's update for the plan: weight 1, each coordinate `units`.
    async fn offer(&self, name: &str, plan: &Plan, units: i32) -> (Vec<u8>, Digest) {
        let study = self.handle.study();
        let schema = Schema::of(study);
        let shared = match plan.task {
            TaskKind::Train => vec![units; 4],
            TaskKind::Evaluate => Vec::new(),
            TaskKind::Prepare => vec![units; 6],
        };
        let counts = plan.task == TaskKind::Prepare;
        let metrics = Metrics(if counts { vec![0, 0] } else { vec![10, 65_536] });
        let words = schema.encode(&Words { weight: 1, clipped: 0, metrics });
        let header = Header {
            round: plan.round,
            step_exponent: if counts { 0 } else { -30 },
            study: plan.study_digest,
            base: plan.base,
            layout: study.layout().unwrap().digest(),
            shared_len: shared.len(),
            control: None,
            words_len: words.len(),
        };
        let update = encode_update(&header, &shared, &words);
        let digest = Digest::of(&update);
        let offer = UpdateOffer {
            study: plan.study.clone(),
            round: plan.round,
            digest,
            bytes: update.len() as u64,
        };
        let message = SiteMessage::UpdateOffer(offer);
        self.handle.tell(Event::Message(site(name), message)).await.unwrap();
        (update, digest)
    }

    async fn push(&self, name: &str, round: Round, update: Vec<u8>, digest: Digest) {
        let bytes = update.len() as u64;
        let ask = |answer| Event::Push { site: site(name), round, digest, bytes, answer };
        self.handle.ask(ask).await.unwrap().unwrap();
        let purpose = Purpose { study: self.handle.id().clone(), round };
        let Begun::Sink(mut sink) = self.stage.begin(&purpose, digest, bytes).await.unwrap() else {
            return self.staged(name, round, digest).await;
        };
        sink.append(update).await.unwrap();
        sink.complete().await.unwrap();
        self.staged(name, round, digest).await;
    }

    async fn staged(&self, name: &str, round: Round, digest: Digest) {
        let site = site(name);
        self.handle.tell(Event::Moved { site: site.clone(), round, up: 7, down: 0 }).await.unwrap();
        self.handle.tell(Event::Staged { site, round, digest }).await.unwrap();
    }
}

fn plan(message: Message) -> Option<Plan> {
    if let Message::Plan(plan) = message { Some(plan) } else { None }
}

fn roll_call(message: Message) -> Option<RollCallDocument> {
    if let Message::RollCall(call) = message {
        Some(call.signed.parse_unverified().unwrap())
    } else {
        None
    }
}

#[tokio::test]
async fn a_round_goes_from_plan_to_version_and_the_model_is_the_exact_mean() {
    let mut bench = bench().await;
    bench.start().await;
    let plan_a = bench.hear("a", plan).await;
    for (name, units) in [("a", 1 << 29), ("b", -(1 << 28))] {
        let (update, digest) = bench.offer(name, &plan_a, units).await;
        bench.hear(name, |m| matches!(m, Message::UpdateWanted(_)).then_some(())).await;
        bench.push(name, plan_a.round, update, digest).await;
    }
    let call = bench.hear("b", roll_call).await;
    let Outcome::Committed { version, model, weight, .. } = call.outcome else {
        panic!("{:?}", call.outcome)
    };
    assert_eq!((version, weight, call.bytes_up), (Version(1), 2, 14));
    let layout = bench.handle.study().layout().unwrap();
    let read = |digest| {
        let blob = bench.blobs.open(digest).unwrap();
        let mut bytes = vec![0; usize::try_from(blob.length()).unwrap()];
        blob.read_at(0, &mut bytes).unwrap();
        decode_model(&bytes, &layout).unwrap()
    };
    let (base, next) = (read(plan_a.base), read(model));
    for (base, next) in base.iter().zip(next) {
        // Mean of 1/2 and −1/4 in units of 2^-30.
        assert_eq!(next.to_bits(), (base + 0.125).to_bits());
    }
    // The last version is evaluated next; an offer of the old round gets its roll call again.
    let evaluate = bench.hear("a", plan).await;
    assert_eq!(evaluate.base, model);
    bench.offer("a", &plan_a, 1).await;
    assert_eq!(bench.hear("a", roll_call).await.round, plan_a.round);
    let old = Plan { round: Round(0), ..plan_a };
    bench.offer("a", &old, 1).await;
    let refused = |m| {
        if let Message::UpdateRefused(r) = m { Some(r.code) } else { None }
    };
    assert_eq!(bench.hear("a", refused).await, Code::WrongRound);
    let view = bench.handle.view();
    assert_eq!(view.summary.head().version, Version(1));
    let serving = Serving { round: evaluate.round, base: model, preparation: None, control: None };
    assert_eq!(view.serving, Some(serving));
}

#[tokio::test]
async fn counts_become_a_preparation_that_is_served_to_the_next_round() {
    let mut bench = bench_of("prepare = 6\n").await;
    bench.start().await;
    let prepare = bench.hear("a", plan).await;
    assert_eq!(prepare.task, TaskKind::Prepare);
    for (name, units) in [("a", 1 << 30), ("b", -5)] {
        let (update, digest) = bench.offer(name, &prepare, units).await;
        bench.hear(name, |m| matches!(m, Message::UpdateWanted(_)).then_some(())).await;
        bench.push(name, prepare.round, update, digest).await;
    }
    let call = bench.hear("b", roll_call).await;
    let Outcome::Prepared { preparation, .. } = call.outcome else { panic!("{:?}", call.outcome) };
    let blob = bench.blobs.open(preparation).unwrap();
    let mut bytes = vec![0; usize::try_from(blob.length()).unwrap()];
    blob.read_at(0, &mut bytes).unwrap();
    assert_eq!(Digest::of(&bytes), preparation);
    let made = Preparation::read(&bytes, bench.handle.study()).unwrap();
    assert_eq!((made.sites, made.sums), (2, vec![(1 << 30) - 5; 6]));
    let train = bench.hear("a", plan).await;
    let named = train.preparation.unwrap();
    assert_eq!((train.task, named.digest), (TaskKind::Train, preparation));
    assert_eq!(named.bytes, bytes.len() as u64);
    let view = bench.handle.view();
    let serving = view.serving.unwrap();
    assert_eq!(serving.part(preparation), Some(Part::Preparation));
    assert_eq!(serving.part(train.base), Some(Part::Base));
    assert_eq!(serving.part(Digest([0; 32])), None);
    assert_eq!(view.summary.rounds().next().unwrap().outcome, "prepared");
}

#[tokio::test]
async fn nothing_is_told_before_its_record_is_durable() {
    let mut bench = bench().await;
    bench.start().await;
    let plan_a = bench.hear("a", plan).await;
    bench.store.hold();
    for (name, units) in [("a", 5), ("b", 6)] {
        let (update, digest) = bench.offer(name, &plan_a, units).await;
        bench.hear(name, |m| matches!(m, Message::UpdateWanted(_)).then_some(())).await;
        bench.push(name, plan_a.round, update, digest).await;
    }
    // A question is answered after all that was told before it.
    for _ in 0..3 {
        bench.handle.ask(|answer| Event::Status { answer }).await.unwrap();
    }
    assert!(bench.store.names().contains(&"Receipt"));
    while let Ok((_, message)) = bench.letters.try_recv() {
        assert!(!matches!(message, Message::Receipt(_) | Message::RollCall(_)), "{message:?}");
    }
    bench.store.release();
    bench.hear("a", |m| matches!(m, Message::Receipt(_)).then_some(())).await;
    bench.hear("a", roll_call).await;
    let names = bench.store.names();
    let first = |name| names.iter().position(|have| *have == name).unwrap();
    assert!(first("Plan") < first("Receipt") && first("Receipt") < first("RollCall"), "{names:?}");
}

#[tokio::test]
async fn a_log_that_fails_ends_the_driver() {
    let bench = bench().await;
    bench.store.0.lock().unwrap().broken = true;
    bench.start().await;
    let ended = tokio::time::timeout(WAIT, bench.running).await.unwrap().unwrap();
    assert!(matches!(ended, Err(DriverError::Store(_))), "{ended:?}");
}

#[tokio::test]
async fn a_bad_update_is_refused_and_counts_for_nothing() {
    let mut bench = bench().await;
    bench.start().await;
    let plan_a = bench.hear("a", plan).await;
    // b's is fine; a's norm is over the clip bound.
    for (name, units) in [("b", 5), ("a", (1 << 30) - 1)] {
        let (update, digest) = bench.offer(name, &plan_a, units).await;
        bench.hear(name, |m| matches!(m, Message::UpdateWanted(_)).then_some(())).await;
        bench.push(name, plan_a.round, update, digest).await;
    }
    let refused = |m| {
        if let Message::UpdateRefused(r) = m { Some(r.code) } else { None }
    };
    assert_eq!(bench.hear("a", refused).await, Code::NormTooLarge);
    let call = bench.hear("b", roll_call).await;
    assert!(matches!(call.outcome, Outcome::Abandoned { .. }), "one site is too few");
    assert!(!call.counted(&site("a")) && call.metrics.is_empty(), "{call:?}");
    assert!(bench.store.names().contains(&"Refusal"));
}

#[tokio::test]
async fn a_base_that_rotted_on_disk_never_becomes_a_version() {
    let mut bench = bench().await;
    bench.start().await;
    let plan_a = bench.hear("a", plan).await;
    let folder = consilium_io::disk::Blobs::open(&bench._dir.path().join("blobs")).unwrap();
    let path = folder.path_of(plan_a.base);
    let mut bytes = std::fs::read(&path).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    consilium_io::disk::replace(&path, &bytes).unwrap();
    for (name, units) in [("a", 5), ("b", 6)] {
        let (update, digest) = bench.offer(name, &plan_a, units).await;
        bench.hear(name, |m| matches!(m, Message::UpdateWanted(_)).then_some(())).await;
        bench.push(name, plan_a.round, update, digest).await;
    }
    let Outcome::Abandoned { reason } = bench.hear("a", roll_call).await.outcome else {
        panic!("the base is not what its digest says")
    };
    assert!(reason.contains("coordinator-fault") && reason.contains("other content"), "{reason}");
}
