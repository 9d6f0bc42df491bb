//! A coordinator that does what the test says, over real QUIC and TLS.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use consilium_agent::ledger::{Entry as LedgerEntry, read};
use consilium_certs::bundle::{CoordinatorBundle, OperatorBundle};
use consilium_certs::ca::Ca;
use consilium_certs::issue::{MACHINE_LENGTH, PERSON_LENGTH};
use consilium_certs::tls::server_config;
use consilium_common::audit::tree::Tree;
use consilium_common::audit::{
    Checkpoint, Entry, Outcome as RoundOutcome, Receipt as ReceiptDocument,
    RollCall as RollCallDocument, Status,
};
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::time::{Clock, Millis};
use consilium_common::wire::messages::{
    LogHead, Message, Plan, Receipt, RollCall, StudyOffer, TaskKind, UpdateOffer, UpdateWanted,
    Welcome,
};
use consilium_common::wire::reject::Code;
use consilium_io::SystemClock;
use consilium_io::disk::replace;
use consilium_io::net::transfer::{Incoming, MemorySink, Pace, Refusal, Sink, Source, receive};
use consilium_io::net::{Carrier, FrameReader, FrameWriter, QuicListener, StreamKind};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(30);

type Blobs = Arc<Mutex<HashMap<Digest, Vec<u8>>>>;

const CONSORTIUM: &str = "thorax";

/// The consortium's files, and a coordinator that listens.
pub(crate) struct Coordinator {
    folder: tempfile::TempDir,
    listener: QuicListener,
    pub(crate) log_key: SecretKey,
    operator: SecretKey,
    pub(crate) site_bundle: PathBuf,
    clock: SystemClock,
    /// What agents may fetch, and what they pushed.
    pub(crate) blobs: Blobs,
}

impl Coordinator {
    pub(crate) fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = SystemClock::open();
        let now = clock.wall();
        let root = folder.path().join("ca");
        let mut ca = Ca::init(&root, &CONSORTIUM.parse().unwrap(), 1, now).unwrap();
        let operator = ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, now).unwrap();
        let hosts = ["127.0.0.1".to_owned()];
        let ours = ca.issue_coordinator(&hosts, MACHINE_LENGTH, now).unwrap();
        let site = ca.issue_site(&"st-mary".parse().unwrap(), MACHINE_LENGTH, now).unwrap();
        let bundle = CoordinatorBundle::load(&ours.folder, now).unwrap();
        let tls = server_config(&bundle.credentials, Arc::new(clock.clone())).unwrap();
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        Self {
            listener: QuicListener::bind(any, tls).unwrap(),
            log_key: bundle.log_key,
            operator: OperatorBundle::load(&operator.folder, now).unwrap().operator_key,
            site_bundle: site.folder,
            clock,
            blobs: Blobs::default(),
            folder,
        }
    }

    pub(crate) fn site() -> SiteId {
        "st-mary".parse().unwrap()
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.folder.path().join("state")
    }

    /// Writes agent.toml and says where.
    pub(crate) fn configure(&self, policy: &str) -> PathBuf {
        let path = self.folder.path().join("agent.toml");
        let text = format!(
            "[site]\nname = \"st-mary\"\ncoordinator = \"{}\"\nstate = {:?}\ncertificates = {:?}\n\
             [data.load]\nsource = \"synthetic\"\nexamples = 100\n[policy]\n{policy}\n\
             studies = [\"load\"]\nmodes = [\"inspectable\"]\n",
            self.listener.local_address().unwrap(),
            self.state(),
            self.site_bundle,
        );
        replace(&path, text.as_bytes()).unwrap();
        path
    }

    /// Signs a study, offers it to fetch together with its v0.
    pub(crate) fn publish(&self, study: &Study) -> Signed<Study> {
        let signed = Signed::sign(study.to_text().unwrap().into_bytes(), &self.operator);
        self.put(signed.bytes.clone());
        self.put(study.initial_model().unwrap());
        signed
    }

    fn put(&self, bytes: Vec<u8>) {
        self.blobs.lock().unwrap().insert(Digest::of(&bytes), bytes);
    }

    /// Waits for the agent and greets it.
    pub(crate) async fn welcome(&self) -> Agent {
        let accepting = async {
            let handshake = self.listener.accept().await.unwrap();
            let carrier = handshake.finish().await.unwrap();
            let control = carrier.accept().await.unwrap();
            assert_eq!(control.kind, StreamKind::Control);
            (carrier, control)
        };
        let (carrier, control) = timeout(PATIENCE, accepting).await.expect("no agent came");
        let ledger = self.state().join("ledger");
        tokio::spawn(serve_blobs(Arc::clone(&carrier), Arc::clone(&self.blobs), ledger));
        let mut agent = Agent {
            carrier,
            reader: FrameReader::new(control.recv),
            writer: FrameWriter::new(control.send),
        };
        assert!(matches!(agent.hear().await, Message::Hello(_)));
        let wall = self.clock.wall();
        let coordinator = "scripted".to_owned();
        // Its log is always empty, which goes on from itself.
        let empty = Checkpoint::of(CONSORTIUM, &Tree::new());
        let signed = Signed::sign(empty.to_bytes(), &self.log_key);
        let head = LogHead { signed, proof: Vec::new() };
        agent.say(Welcome { coordinator, wall, head }).await;
        agent
    }

    /// The signed word that an update was received.
    pub(crate) fn receipt(
        &self,
        offer: &UpdateOffer,
        signed: &Signed<Study>,
        key: &SecretKey,
    ) -> Receipt {
        let document = ReceiptDocument {
            format: 1,
            study: offer.study.clone(),
            study_digest: signed.digest(),
            round: offer.round,
            site: Self::site(),
            update: offer.digest,
            bytes: offer.bytes,
        };
        let bytes = serde_json::to_vec(&document).unwrap();
        Receipt { signed: Signed::sign(bytes, key) }
    }

    /// The signed end of a round in which the update counted.
    pub(crate) fn roll_call(&self, offer: &UpdateOffer, plan: &Plan, key: &SecretKey) -> RollCall {
        self.ended(offer, plan, key, Status::Counted { weight: Some(80) })
    }

    /// The signed end of a round in which the update was receipted and did not count.
    pub(crate) fn left_out(&self, offer: &UpdateOffer, plan: &Plan) -> RollCall {
        let status = Status::Excluded { code: Code::Abandoned };
        self.ended(offer, plan, &self.log_key, status)
    }

    fn ended(&self, offer: &UpdateOffer, plan: &Plan, key: &SecretKey, status: Status) -> RollCall {
        let entry = Entry { status, update: Some(offer.digest) };
        let document = RollCallDocument {
            format: 1,
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            task: plan.task,
            base_version: plan.base_version,
            base: plan.base,
            outcome: RoundOutcome::Evaluated { weight: 80 },
            sites: [(Self::site(), entry)].into(),
            clipped: 0,
            metrics: [].into(),
            bytes_up: 0,
            bytes_down: 0,
            duration: Millis(1),
        };
        RollCall { signed: Signed::sign(document.to_bytes().unwrap(), key) }
    }
}

/// A plan for v0 of a published study.
pub(crate) fn plan(study: &Study, signed: &Signed<Study>, round: u64) -> Plan {
    let base = study.initial_model().unwrap();
    Plan {
        study: study.id().clone(),
        study_digest: signed.digest(),
        round: Round(round),
        task: TaskKind::Train,
        base_version: Version(0),
        base: Digest::of(&base),
        base_bytes: base.len() as u64,
        preparation: None,
        control: None,
        remaining: Millis::from_secs(600),
    }
}

/// A connected agent.
pub(crate) struct Agent {
    pub(crate) carrier: Arc<dyn Carrier>,
    reader: FrameReader,
    writer: FrameWriter,
}

impl Agent {
    pub(crate) async fn say(&mut self, message: impl Into<Message>) {
        let frame = message.into().to_frame().unwrap();
        self.writer.write(&frame).await.unwrap();
    }

    /// The next message that is neither heartbeat nor progress.
    pub(crate) async fn hear(&mut self) -> Message {
        loop {
            let next = timeout(PATIENCE, self.reader.next()).await;
            let frame = next.expect("the agent says nothing").unwrap().expect("the stream ended");
            let message = Message::from_frame(&frame).unwrap().unwrap();
            if !matches!(message, Message::Heartbeat(_) | Message::Progress(_)) {
                return message;
            }
        }
    }

    /// Offers the study and returns the agent's answer.
    pub(crate) async fn offer(&mut self, study: &Study, signed: &Signed<Study>) -> Message {
        self.say(StudyOffer {
            study: study.id().clone(),
            version: study.header.version,
            digest: signed.digest(),
            bytes: signed.bytes.len() as u64,
            signatures: signed.signatures.clone(),
        })
        .await;
        self.hear().await
    }

    pub(crate) async fn hear_offer(&mut self) -> UpdateOffer {
        let message = self.hear().await;
        let Message::UpdateOffer(offer) = message else { panic!("expected an offer: {message:?}") };
        offer
    }

    pub(crate) async fn want(&mut self, offer: &UpdateOffer) {
        self.say(UpdateWanted {
            study: offer.study.clone(),
            round: offer.round,
            digest: offer.digest,
        })
        .await;
    }
}

/// Serves and takes blobs; of the agent's own ledger it sees, at the first byte that arrives, that the
/// range stands in it.
async fn serve_blobs(carrier: Arc<dyn Carrier>, blobs: Blobs, ledger: PathBuf) {
    while let Ok(stream) = carrier.accept().await {
        let (blobs, ledger) = (Arc::clone(&blobs), ledger.clone());
        tokio::spawn(async move {
            let progress = &mut |_| {};
            let mut pace = Pace { idle: PATIENCE, progress };
            match receive(stream, PATIENCE).await {
                Ok(Incoming::Fetch(request)) => {
                    let bytes = blobs.lock().unwrap().get(&request.digest).cloned();
                    match bytes {
                        Some(bytes) => {
                            let source = Source::Bytes(bytes.into());
                            let _lost = request.serve(&source, &mut pace).await;
                        }
                        None => request.refuse(Refusal::Missing).await,
                    }
                }
                Ok(Incoming::Push(request)) => {
                    let (digest, length) = (request.digest, request.length);
                    let mut sink = MemorySink::new(digest, 1 << 24);
                    assert_eq!(sink.received(), 0);
                    let mut entered = None;
                    let progress = &mut |_| {
                        entered.get_or_insert_with(|| ranges(&ledger, digest));
                    };
                    let mut pace = Pace { idle: PATIENCE, progress };
                    let taken = request.take(&mut sink, &mut pace).await;
                    if let Some(entered) = entered {
                        assert!(entered.contains(&(0, length)), "left before: {entered:?}");
                    }
                    if taken.is_ok() {
                        blobs.lock().unwrap().insert(digest, sink.into_bytes());
                    }
                }
                Err(_) => {}
            }
        });
    }
}

/// Ranges of an update that stand in the ledger: offset and bytes.
pub(crate) fn ranges(ledger: &Path, update: Digest) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    read::each(ledger, &mut |_, line| {
        if let LedgerEntry::Sending(range) = &line.entry
            && range.digest == update
        {
            ranges.push((range.offset, range.bytes));
        }
        Ok(())
    })
    .unwrap();
    ranges
}
