//! A site with a valid certificate that is no agent: it says what it likes, in whatever bytes.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use consilium_certs::credentials::Credentials;
use consilium_certs::tls;
use consilium_common::ids::{Digest, Round};
use consilium_common::study::Study;
use consilium_common::tensor::flat::decode_model;
use consilium_common::time::Clock;
use consilium_common::update::grid::step_exponent;
use consilium_common::update::sections::{Header, encode_update};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::codec;
use consilium_common::wire::messages::{
    Answer, Hello, Message, Plan, PlanAnswer, StudyAnswer, StudyOffer, TaskKind, UpdateContext,
    UpdateOffer,
};
use consilium_io::SystemClock;
use consilium_io::net::transfer::{MemorySink, Pace, Source, TransferError, fetch, push};
use consilium_io::net::{
    Carrier, Closed, ClosedBy, ConnectError, FrameReader, QuicDialer, SendHalf, StreamKind,
};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

/// Nothing that is waited for takes so long.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// What an honest site would deliver: grid units and weight, from the plan and the base.
pub type Train = Arc<dyn Fn(&Plan, Vec<f32>) -> (Vec<i32>, u64) + Send + Sync>;

/// Who attacks, and what.
#[derive(Clone)]
pub struct Hostile {
    address: SocketAddr,
    bundle: PathBuf,
    /// The study that it spoils.
    pub study: Study,
    /// How it would train if it were honest.
    pub train: Train,
}

impl fmt::Debug for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Hostile").field("bundle", &self.bundle).finish_non_exhaustive()
    }
}

impl Hostile {
    /// With the bundle of a site, against the coordinator at `address`.
    #[must_use]
    pub fn new(address: &str, bundle: &Path, study: Study) -> Self {
        let length = study.layout().unwrap().weights_len();
        let train: Train = Arc::new(move |_, _| (vec![0; length], 1));
        Self { address: address.parse().unwrap(), bundle: bundle.to_owned(), study, train }
    }

    /// A connection on which nothing has been said.
    ///
    /// # Errors
    /// No connection came about.
    pub async fn dial(&self) -> Result<Peer, ConnectError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::open());
        let credentials = Credentials::load(&self.bundle, clock.wall()).unwrap();
        let config = tls::client_config(&credentials, clock).unwrap();
        let socket = QuicDialer::bind(self.address)?;
        let ip = self.address.ip().to_string();
        let carrier = socket.connect(self.address, &ip, config, PATIENCE).await?;
        let stream = carrier.open(StreamKind::Control).await;
        let stream = stream.map_err(|error| ConnectError::Configuration(error.to_string()))?;
        let frames = FrameReader::new(stream.recv);
        Ok(Peer { carrier, send: stream.send, frames, _socket: socket })
    }

    /// A connection that is welcome.
    ///
    /// # Errors
    /// It is not, and this is how it ended.
    pub async fn join(&self) -> Result<Peer, Closed> {
        let mut peer = self.dial().await.map_err(|error| unreachable(&error))?;
        peer.hello().await;
        match peer.hear().await {
            Some(Message::Welcome(_)) => Ok(peer),
            _ => Err(peer.closed().await),
        }
    }

    /// The update of a plan as it should be, with other units, then changed at will.
    #[must_use]
    pub fn update(
        &self,
        plan: &Plan,
        (units, weight): (Vec<i32>, u64),
        change: impl FnOnce(&mut Header),
    ) -> Vec<u8> {
        let schema = Schema::of(&self.study);
        let metrics = Metrics(vec![10, 65_536]);
        let words = schema.encode(&Words { weight, clipped: 0, metrics });
        let mut header = Header {
            round: plan.round,
            step_exponent: step_exponent(self.study.aggregation.clip_norm),
            study: plan.study_digest,
            base: plan.base,
            layout: self.study.layout().unwrap().digest(),
            shared_len: units.len(),
            control: None,
            words_len: words.len(),
        };
        change(&mut header);
        encode_update(&header, &units, &words)
    }
}

/// One connection. What it sends may not arrive: the coordinator ends it whenever it likes.
#[derive(Debug)]
pub struct Peer {
    /// The connection.
    pub carrier: Arc<dyn Carrier>,
    send: SendHalf,
    frames: FrameReader,
    _socket: QuicDialer,
}

impl Peer {
    /// Sends bytes on the control stream; false once it is gone.
    pub async fn say_bytes(&mut self, bytes: &[u8]) -> bool {
        let sent = tokio::select! {
            sent = self.send.write_all(bytes) => sent.is_ok(),
            _ = self.carrier.closed() => false,
        };
        sent
    }

    /// Sends a message; false once the stream is gone.
    pub async fn say(&mut self, message: impl Into<Message>) -> bool {
        let frame = message.into().to_frame().unwrap();
        self.say_bytes(&frame.encode()).await
    }

    /// Says Hello.
    pub async fn hello(&mut self) {
        self.say(hello()).await;
    }

    /// The next message but heartbeats; `None` at the end.
    pub async fn hear(&mut self) -> Option<Message> {
        loop {
            let frame = timeout(PATIENCE, self.frames.next()).await.unwrap().ok().flatten()?;
            match Message::from_frame(&frame).unwrap() {
                Some(Message::Heartbeat(_)) | None => {}
                other => return other,
            }
        }
    }

    /// The next message that `wanted` picks; `None` at the end.
    pub async fn hear_until<T>(&mut self, wanted: impl Fn(Message) -> Option<T>) -> Option<T> {
        loop {
            if let Some(found) = wanted(self.hear().await?) {
                return Some(found);
            }
        }
    }

    /// The study that is offered.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all but the one waited for")]
    pub async fn offered(&mut self) -> StudyOffer {
        let offer = self.hear_until(|message| match message {
            Message::StudyOffer(offer) => Some(offer),
            _ => None,
        });
        offer.await.expect("a study is offered")
    }

    /// Accepts the study and then the first plan to train.
    #[expect(clippy::wildcard_enum_match_arm, reason = "all but the one waited for")]
    pub async fn invited(&mut self) -> Plan {
        let digest = self.offered().await.digest;
        self.say(StudyAnswer { digest, answer: Answer::Accepted }).await;
        let plan = self.hear_until(|message| match message {
            Message::Plan(plan) if plan.task == TaskKind::Train => Some(plan),
            _ => None,
        });
        let plan = plan.await.expect("a plan comes");
        let (study, round, answer) = (plan.study.clone(), plan.round, Answer::Accepted);
        self.say(PlanAnswer { study, round, answer }).await;
        plan
    }

    /// Offers so many bytes under a digest and waits until they are wanted; false at the end.
    pub async fn offer(&mut self, plan: &Plan, digest: Digest, bytes: usize) -> bool {
        let (study, round, bytes) = (plan.study.clone(), plan.round, bytes as u64);
        self.say(UpdateOffer { study, round, digest, bytes }).await;
        let wanted = |message| matches!(message, Message::UpdateWanted(_)).then_some(());
        self.hear_until(wanted).await.is_some()
    }

    /// Pushes bytes under a digest that may be another's.
    ///
    /// # Errors
    /// They are not taken.
    pub async fn push(
        &self,
        plan: &Plan,
        digest: Digest,
        bytes: Vec<u8>,
    ) -> Result<u64, TransferError> {
        let source = Source::Bytes(bytes.into());
        let mut pace = Pace { idle: PATIENCE, progress: &mut |_| {} };
        push(&*self.carrier, digest, &context(plan), &source, &mut pace).await
    }

    /// Fetches a blob, if it is given.
    ///
    /// # Errors
    /// It is not given.
    pub async fn fetch(&self, digest: Digest) -> Result<Vec<u8>, TransferError> {
        let mut sink = MemorySink::new(digest, u64::from(u32::MAX));
        let mut pace = Pace { idle: PATIENCE, progress: &mut |_| {} };
        fetch(&*self.carrier, &mut sink, &mut pace).await?;
        Ok(sink.into_bytes())
    }

    /// The base of a plan.
    pub async fn base(&self, plan: &Plan, study: &Study) -> Vec<f32> {
        let bytes = self.fetch(plan.base).await.unwrap();
        decode_model(&bytes, &study.layout().unwrap()).unwrap()
    }

    /// How the connection ended.
    pub async fn closed(&self) -> Closed {
        let closed = timeout(PATIENCE, self.carrier.closed()).await;
        closed.expect("the coordinator ends the connection")
    }
}

/// A connection that never was.
#[must_use]
pub fn unreachable(error: &ConnectError) -> Closed {
    Closed { by: ClosedBy::Silence, code: 0, reason: error.to_string() }
}

/// A Hello as agents say it.
#[must_use]
pub fn hello() -> Hello {
    let (agent, wall) = ("hostile 1".to_owned(), SystemClock::open().wall());
    Hello { agent, wall, accepted: Vec::new(), witnessed: 0 }
}

/// The context of a push for a plan.
#[must_use]
pub fn context(plan: &Plan) -> Vec<u8> {
    codec::encode(&UpdateContext { study: plan.study.clone(), round: plan.round }).unwrap()
}

/// The head of a push (`net::transfer::header`), with a length that need not be true.
#[must_use]
pub fn push_head(digest: Digest, length: u64, context: &[u8]) -> Vec<u8> {
    let bytes = u16::try_from(context.len()).unwrap().to_le_bytes();
    [&[2], &digest.0[..], &length.to_le_bytes(), &bytes, context].concat()
}

/// The round before this one.
#[must_use]
pub fn before(round: Round) -> Round {
    Round(round.0.saturating_sub(1))
}
