//! The door and the sessions over QUIC on loopback: who comes in, who is told why not.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::ca::Ca;
use consilium_certs::credentials::Credentials;
use consilium_certs::issue::{MACHINE_LENGTH, PERSON_LENGTH};
use consilium_certs::roster::Roster;
use consilium_certs::{keys, signed_file, tls};
use consilium_common::audit::Record;
use consilium_common::study::Study;
use consilium_common::time::{Clock, WallMillis};
use consilium_common::wire::messages::{
    Answer, Hello, Message, Progress, RunState, SitePhase, StudyAnswer,
};
use consilium_common::wire::operator::Request;
use consilium_common::wire::reject::Code;
use consilium_io::SystemClock;
use consilium_io::net::transfer::{MemorySink, Pace, fetch};
use consilium_io::net::{Carrier, Closed, FrameReader, FrameWriter, QuicDialer, StreamKind};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::app::{AppError, Coordinating};
use crate::cli::client::Client;
use crate::cli::{Connection, Exit, Failure};
use crate::config::Coordinator;
use crate::document::{CommandDocument, StatusDocument};

mod audit;
mod given;
mod researcher;
mod withdrawals;

const WAIT: Duration = Duration::from_secs(20);

/// A consortium with a running coordinator. Site `newcomer` has a certificate and is not in the
/// roster in force.
struct Town {
    dir: TempDir,
    address: std::net::SocketAddr,
    end: Option<oneshot::Sender<()>>,
    served: JoinHandle<Result<(), AppError>>,
}

impl Town {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let now = SystemClock::open().wall();
        let mut ca = Ca::init(&dir.path().join("ca"), &"thorax".parse().unwrap(), 1, now).unwrap();
        ca.issue_operator(&"ada".parse().unwrap(), PERSON_LENGTH, now).unwrap();
        ca.issue_auditor(&"eve".parse().unwrap(), PERSON_LENGTH, now).unwrap();
        for name in ["rosa", "emmy"] {
            ca.issue_researcher(&name.parse().unwrap(), PERSON_LENGTH, now).unwrap();
        }
        ca.issue_coordinator(&["127.0.0.1".to_owned()], MACHINE_LENGTH, now).unwrap();
        ca.issue_site(&"st-mary".parse().unwrap(), MACHINE_LENGTH, now).unwrap();
        let key = keys::load(&dir.path().join("ca/issued/operator/ada/operator.key")).unwrap();
        let signed = signed_file::sign::<Roster>(&ca.roster_path(), &key).unwrap();
        let roster = dir.path().join("roster.toml");
        signed_file::store(&roster, &signed).unwrap();
        ca.issue_site(&"newcomer".parse().unwrap(), MACHINE_LENGTH, now).unwrap();
        Self::serve(dir, roster).await
    }

    async fn serve(dir: TempDir, roster: PathBuf) -> Self {
        let config = Coordinator {
            listen: "127.0.0.1:0".parse().unwrap(),
            state: dir.path().join("state"),
            certificates: dir.path().join("ca/issued/coordinator"),
            roster,
            ca: None,
            retain_updates: true,
        };
        let running = Coordinating::start(config).await.unwrap();
        let address = running.address();
        let (end, ended) = oneshot::channel();
        let served = tokio::spawn(running.until(async move {
            let _asked = ended.await;
            Ok(())
        }));
        Self { dir, address, end: Some(end), served }
    }

    /// Ends the coordinator in good order; the records of its log.
    async fn end(mut self) -> Vec<Record> {
        let _asked = self.end.take().unwrap().send(());
        self.served.await.unwrap().unwrap();
        let mut records = Vec::new();
        let log = self.dir.path().join("state/log");
        consilium_io::disk::Log::read(&log, 0, |at| {
            records.extend(Record::decode(at.kind, at.payload)?);
            Ok(())
        })
        .unwrap();
        records
    }

    /// Connects with a bundle, speaking `alpn` instead of the role's own if given.
    async fn connect(&self, bundle: &str, alpn: Option<&[u8]>) -> Peer {
        let clock = Arc::new(SystemClock::open());
        let folder = self.dir.path().join("ca/issued").join(bundle);
        let credentials = Credentials::load(&folder, clock.wall()).unwrap();
        let mut config = Arc::unwrap_or_clone(tls::client_config(&credentials, clock).unwrap());
        if let Some(alpn) = alpn {
            config.alpn_protocols = vec![alpn.to_vec()];
        }
        let dialer = QuicDialer::bind(self.address).unwrap();
        let carrier =
            dialer.connect(self.address, "127.0.0.1", Arc::new(config), WAIT).await.unwrap();
        Peer { carrier, _dialer: dialer }
    }

    async fn agent(&self, site: &str) -> Agent {
        let peer = self.connect(&format!("site/{site}"), None).await;
        let stream = peer.carrier.open(StreamKind::Control).await.unwrap();
        let (reader, writer) = (FrameReader::new(stream.recv), FrameWriter::new(stream.send));
        Agent { peer, reader, writer }
    }

    async fn client(&self, bundle: &str) -> Client {
        let identity = self.dir.path().join("ca/issued").join(bundle);
        let coordinator = self.address.to_string();
        Client::connect(&Connection { coordinator, identity }).await.unwrap()
    }

    fn signed_study(&self) -> consilium_common::signed::Signed<Study> {
        let draft = "[study]\nname = \"demo\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                     [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        let study = Study::read(draft, "draft").unwrap().resolve().unwrap();
        let key = self.dir.path().join("ca/issued/operator/ada/operator.key");
        let key = keys::load(&key).unwrap();
        consilium_common::signed::Signed::sign(study.to_text().unwrap().into_bytes(), &key)
    }
}

struct Peer {
    carrier: Arc<dyn Carrier>,
    _dialer: QuicDialer,
}

impl Peer {
    async fn closed(&self) -> Closed {
        tokio::time::timeout(WAIT, self.carrier.closed()).await.unwrap()
    }
}

struct Agent {
    peer: Peer,
    reader: FrameReader,
    writer: FrameWriter,
}

impl Agent {
    async fn say(&mut self, message: impl Into<Message>) {
        self.writer.write(&message.into().to_frame().unwrap()).await.unwrap();
    }

    async fn hello(&mut self, wall: WallMillis) {
        let accepted = Vec::new();
        self.say(Hello { agent: "test-agent 1".into(), wall, accepted, witnessed: 0 }).await;
    }

    #[expect(clippy::wildcard_enum_match_arm, reason = "all but the one passed over")]
    async fn hear(&mut self) -> Message {
        loop {
            let next = tokio::time::timeout(WAIT, self.reader.next()).await.unwrap();
            let frame = next.unwrap().expect("the stream ended");
            match Message::from_frame(&frame).unwrap().unwrap() {
                Message::Heartbeat(_) => {}
                other => return other,
            }
        }
    }

    async fn welcome(&mut self) {
        self.hello(SystemClock::open().wall()).await;
        assert!(matches!(self.hear().await, Message::Welcome(_)));
        let Message::RosterOffer(roster) = self.hear().await else { panic!("a roster is due") };
        assert_eq!(roster.signatures.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_of_the_roster_is_welcome_and_hears_of_studies() {
    let town = Town::new().await;
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    let operator = town.client("operator/ada").await;
    let signed = town.signed_study();
    let digest = signed.digest();
    let (bytes, request) = (signed.bytes.clone(), Request::StudySubmit { signed });
    let done: CommandDocument = operator.ask(&request).await.unwrap();
    assert_eq!(done.digest, digest);

    let Message::StudyOffer(offer) = agent.hear().await else { panic!("an offer is due") };
    assert_eq!((offer.digest, offer.bytes), (digest, bytes.len() as u64));
    assert!(matches!(agent.hear().await, Message::StudyState(_)));
    let mut sink = MemorySink::new(digest, offer.bytes);
    let mut pace = Pace { idle: WAIT, progress: &mut |_| {} };
    fetch(&*agent.peer.carrier, &mut sink, &mut pace).await.unwrap();
    assert_eq!(sink.into_bytes(), bytes);

    agent.say(StudyAnswer { digest, answer: Answer::Accepted }).await;
    let study = "demo".parse().unwrap();
    let _started: CommandDocument = operator.ask(&Request::StudyStart { study }).await.unwrap();
    let status = loop {
        let status: StatusDocument = operator.ask(&Request::Status { study: None }).await.unwrap();
        // The command is durable before the engine has taken it in.
        let runs = status.studies[0].state == RunState::Running;
        if runs && status.studies[0].sites.iter().any(|site| site.state == "ready") {
            break status;
        }
    };
    assert_eq!(status.coordinator.connected, 1);
    let waiting = &status.studies[0].waiting_for;
    assert!(waiting.iter().any(|one| one.contains("1 of at least 2")), "{waiting:?}");

    // Whoever did not hear the answer asks again, and nothing changes.
    let signed = town.signed_study();
    let again: CommandDocument = operator.ask(&Request::StudySubmit { signed }).await.unwrap();
    assert_eq!(again.state, RunState::Running);
    let study = "other".parse().unwrap();
    let unknown: Failure =
        operator.ask::<CommandDocument>(&Request::StudyStart { study }).await.unwrap_err();
    assert_eq!(unknown.exit, Exit::Refused, "{unknown}");
    let records = town.end().await;
    let commands = records.iter().filter(|record| matches!(record, Record::Command(_))).count();
    assert_eq!(commands, 4, "three done and one refused: {records:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_outside_the_roster_is_told_and_recorded_once() {
    let town = Town::new().await;
    for _ in 0..2 {
        let mut agent = town.agent("newcomer").await;
        agent.hello(SystemClock::open().wall()).await;
        let Message::Refused(refused) = agent.hear().await else { panic!("a refusal is due") };
        assert_eq!(refused.code, Code::NotInRoster);
        assert!(refused.detail.contains("newcomer"), "{}", refused.detail);
        let closed = agent.peer.closed().await;
        assert_eq!(closed.code, u32::from(Code::NotInRoster as u16));
        assert!(closed.reason.starts_with("not-in-roster"), "{closed}");
    }
    let records = town.end().await;
    let refusals: Vec<_> =
        records.iter().filter(|record| matches!(record, Record::Refusal(_))).collect();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_role_speaks_anothers_protocol() {
    let town = Town::new().await;
    for (bundle, alpn) in [
        ("operator/ada", tls::ALPN_AGENT),
        ("auditor/eve", tls::ALPN_AGENT),
        ("researcher/rosa", tls::ALPN_AGENT),
        ("site/st-mary", tls::ALPN_OPERATOR),
    ] {
        let closed = town.connect(bundle, Some(alpn)).await.closed().await;
        assert_eq!(closed.code, u32::from(Code::WrongRole as u16), "{bundle}: {closed}");
        assert!(closed.reason.contains("expected here"), "{closed}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_far_off_is_refused_at_hello() {
    let town = Town::new().await;
    let mut agent = town.agent("st-mary").await;
    agent.hello(WallMillis(SystemClock::open().wall().0 - 400_000)).await;
    let Message::Refused(refused) = agent.hear().await else { panic!("a refusal is due") };
    assert_eq!(refused.code, Code::ClockSkew);
    assert!(refused.detail.contains("behind"), "{}", refused.detail);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_connection_of_a_site_replaces_the_older() {
    let town = Town::new().await;
    let mut older = town.agent("st-mary").await;
    older.welcome().await;
    let mut newer = town.agent("st-mary").await;
    newer.welcome().await;
    let closed = older.peer.closed().await;
    assert_eq!(closed.code, u32::from(Code::Replaced as u16), "{closed}");
    let operator = town.client("operator/ada").await;
    let status: StatusDocument = operator.ask(&Request::Status { study: None }).await.unwrap();
    assert_eq!(status.coordinator.connected, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_refused_and_the_session_lives() {
    let town = Town::new().await;
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    let progress = Progress {
        study: "nope".parse().unwrap(),
        round: consilium_common::ids::Round(1),
        phase: SitePhase::Training,
        done: 0,
        total: 0,
    };
    agent.say(progress).await;
    let Message::Refusal(refusal) = agent.hear().await else { panic!("a refusal is due") };
    assert_eq!(refusal.code, Code::UnknownStudy);
    agent.hello(SystemClock::open().wall()).await;
    let Message::Refusal(refusal) = agent.hear().await else { panic!("a refusal is due") };
    assert_eq!(refusal.code, Code::Unexpected);
    let unknown = consilium_common::wire::frame::Frame { kind: 60_000, flags: 0, body: vec![1] };
    agent.writer.write(&unknown).await.unwrap();
    let Message::Refusal(refusal) = agent.hear().await else { panic!("a refusal is due") };
    assert_eq!((refusal.code, refusal.kind), (Code::UnknownKind, 60_000));
    let must_know = consilium_common::wire::frame::Frame { flags: 1, ..unknown };
    agent.writer.write(&must_know).await.unwrap();
    let closed = agent.peer.closed().await;
    assert_eq!(closed.code, u32::from(Code::Quarantined as u16));
    assert!(closed.reason.contains("unknown-kind: message kind 60000"), "{closed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_that_was_put_out_is_out_on_all_of_its_connections() {
    let town = Town::new().await;
    let mut silent = town.agent("st-mary").await;
    let mut loud = town.agent("st-mary").await;
    loud.welcome().await;
    let must_know = consilium_common::wire::frame::Frame { kind: 60_000, flags: 1, body: vec![] };
    loud.writer.write(&must_know).await.unwrap();
    let quarantined = u32::from(Code::Quarantined as u16);
    assert_eq!(loud.peer.closed().await.code, quarantined);
    silent.hello(SystemClock::open().wall()).await;
    assert_eq!(silent.peer.closed().await.code, quarantined);

    let mut again = town.agent("st-mary").await;
    let Message::Refused(refused) = again.hear().await else { panic!("a refusal is due") };
    assert_eq!(refused.code, Code::Quarantined);
    assert!(refused.detail.starts_with("unknown-kind: message kind 60000"), "{}", refused.detail);
    let left = refused.retry_after.unwrap().0;
    assert!((1..=10_000).contains(&left), "{left} ms");
    assert_eq!(again.peer.closed().await.code, quarantined);

    let operator = town.client("operator/ada").await;
    let status: StatusDocument = operator.ask(&Request::Status { study: None }).await.unwrap();
    let shown = &status.coordinator.quarantined;
    assert_eq!((shown.len(), shown[0].code, shown[0].strikes), (1, Code::UnknownKind, 1));
    let records = town.end().await;
    let refusals: Vec<_> =
        records.iter().filter(|record| matches!(record, Record::Refusal(_))).collect();
    assert_eq!(refusals.len(), 1, "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_operator_does_not_take_the_places_of_all() {
    let town = Town::new().await;
    let mut held = Vec::new();
    for _ in 0..crate::limits::OPERATOR_CONNECTIONS_MAX {
        let client = town.client("operator/ada").await;
        let _status: StatusDocument = client.ask(&Request::Status { study: None }).await.unwrap();
        held.push(client);
    }
    let closed = town.connect("operator/ada", None).await.closed().await;
    assert_eq!(closed.code, u32::from(Code::Busy as u16), "{closed}");
    let other = town.client("auditor/eve").await;
    let _status: StatusDocument = other.ask(&Request::Status { study: None }).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_auditor_looks_and_does_not_command() {
    let town = Town::new().await;
    let auditor = town.client("auditor/eve").await;
    let status: StatusDocument = auditor.ask(&Request::Status { study: None }).await.unwrap();
    assert_eq!(status.coordinator.consortium, "thorax");
    let request = Request::StudySubmit { signed: town.signed_study() };
    let told = auditor.ask::<CommandDocument>(&request).await.unwrap_err();
    assert_eq!(told.exit, Exit::Refused);
    assert!(told.message.contains("auditor/eve may look"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_with_too_few_or_wrong_signatures_is_refused() {
    let town = Town::new().await;
    let operator = town.client("operator/ada").await;
    let mut unsigned = town.signed_study();
    unsigned.signatures.clear();
    let mut changed = town.signed_study();
    changed.bytes.push(b'\n');
    for signed in [unsigned, changed] {
        let told = operator.ask::<CommandDocument>(&Request::StudySubmit { signed }).await;
        assert_eq!(told.unwrap_err().exit, Exit::Refused);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_coordinator_that_goes_down_says_so_and_comes_back_with_its_studies() {
    let town = Town::new().await;
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    let operator = town.client("operator/ada").await;
    let request = Request::StudySubmit { signed: town.signed_study() };
    let _done: CommandDocument = operator.ask(&request).await.unwrap();
    let Town { dir, mut end, served, .. } = town;
    let _asked = end.take().unwrap().send(());
    served.await.unwrap().unwrap();
    assert_eq!(agent.peer.closed().await.code, u32::from(Code::ShuttingDown as u16));
    assert!(dir.path().join("state/checkpoint").exists());

    let roster = dir.path().join("roster.toml");
    let town = Town::serve(dir, roster).await;
    let mut agent = town.agent("st-mary").await;
    agent.welcome().await;
    assert!(matches!(agent.hear().await, Message::StudyOffer(_)));
}
