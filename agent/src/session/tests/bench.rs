//! A session with a hand at every edge: tests say what happens and look at what is asked.

use std::collections::BTreeMap;

use consilium_common::audit::{
    Entry, Outcome as RoundOutcome, Receipt as ReceiptDocument, RollCall as RollCallDocument,
    Status as SiteStatus,
};
use consilium_common::ids::{Digest, Round, StudyId, Version};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::time::{Millis, WallMillis};
use consilium_common::update::words::{Metrics, Schema};
use consilium_common::wire::messages::{self as m, Message};
use consilium_common::wire::reject::Code;
use consilium_common::worker::Outcome;

use crate::policy::Moment;
use crate::session::{
    Action, ActionId, Decision, Done, Judged, KnownStudy, Retained, Session, Setup, Trained,
};

pub(super) const WALL: WallMillis = WallMillis(1_795_000_000_000);

/// A head of the log, which the session leaves to its edge.
pub(super) fn head() -> m::LogHead {
    m::LogHead { signed: Signed::from_parts(Vec::new(), Vec::new()), proof: Vec::new() }
}

pub(super) fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

pub(super) fn name(text: &str) -> StudyId {
    text.parse().unwrap()
}

/// The schema of a study with two classes.
pub(super) fn schema() -> Schema {
    let text = "[study]\nname = \"mnist\"\n[model]\nfamily = \"cnn\"\n\
                input = { channels = 1, height = 28, width = 28 }\nclasses = [\"0\", \"1\"]\n\
                [aggregation]\nclip_norm = 10.0\n[privacy]\nmode = \"inspectable\"";
    Schema::of(&Study::read(text, "mnist.toml").unwrap())
}

pub(super) fn judged(decision: Decision) -> Judged {
    let why = "because".to_owned();
    let schema = Some(schema());
    Judged { decision, why, schema }
}

pub(super) fn known(study: &str, n: u8, decision: Decision) -> KnownStudy {
    KnownStudy { digest: digest(n), study: name(study), version: 1, judged: judged(decision) }
}

pub(super) fn setup() -> Setup {
    Setup {
        site: "st-mary".parse().unwrap(),
        agent: "consilium-agent 0.1.0".to_owned(),
        studies: vec![known("mnist", 1, Decision::Accepted), known("ward", 2, Decision::Accepted)],
        data: [name("mnist"), name("ward"), name("other")].into(),
        retained: Vec::new(),
        moment: Moment::default(),
        withdrawals: Vec::new(),
    }
}

/// The plan of a study that [`setup`] knows.
pub(super) fn plan(study: &str, round: u64) -> m::Plan {
    m::Plan {
        study: name(study),
        study_digest: digest(if study == "mnist" { 1 } else { 2 }),
        round: Round(round),
        task: m::TaskKind::Train,
        base_version: Version(round - 1),
        base: digest(100),
        base_bytes: 4_049,
        preparation: None,
        control: None,
        remaining: Millis::from_secs(7200),
    }
}

/// A plan that asks to count.
pub(super) fn prepare_plan(study: &str, round: u64) -> m::Plan {
    m::Plan { task: m::TaskKind::Prepare, base_version: Version(0), ..plan(study, round) }
}

/// A plan that names what was counted.
pub(super) fn prepared_plan(study: &str, round: u64) -> m::Plan {
    let preparation = Some(m::NamedBlob { digest: digest(103), bytes: 115 });
    m::Plan { preparation, ..plan(study, round) }
}

pub(super) fn retained(study: &str, round: u64) -> Retained {
    Retained {
        study: name(study),
        round: Round(round),
        digest: Digest::of(format!("{study} {round}").as_bytes()),
        bytes: 4_152,
    }
}

pub(super) fn trained() -> Trained {
    let outcome = Outcome {
        examples: 480,
        holdout: 120,
        metrics: Metrics(vec![90, 120, 65_536 * 60, 45, 15, 15, 45]),
        ..Outcome::default()
    };
    Trained { outcome, path: Some("trained.safetensors".into()) }
}

pub(super) fn key() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

pub(super) fn receipt(of: &Retained) -> Message {
    let document = ReceiptDocument {
        format: 1,
        study: of.study.clone(),
        study_digest: digest(1),
        round: of.round,
        site: setup().site,
        update: of.digest,
        bytes: of.bytes,
    };
    let signed = Signed::sign(serde_json::to_vec(&document).unwrap(), &key());
    m::Receipt { signed }.into()
}

/// A roll call that counted these bytes of st-mary, or did not count the site.
pub(super) fn roll_call(study: &str, round: u64, counted: Option<Digest>) -> Message {
    let status = match counted {
        Some(_) => SiteStatus::Counted { weight: Some(480) },
        None => SiteStatus::Excluded { code: Code::Late },
    };
    let entry = Entry { status, update: counted };
    let document = RollCallDocument {
        format: 1,
        study: name(study),
        study_digest: digest(1),
        round: Round(round),
        task: m::TaskKind::Train,
        base_version: Version(round - 1),
        base: digest(100),
        outcome: RoundOutcome::Committed {
            version: Version(round),
            model: digest(101),
            strategy_state: None,
            sum: digest(102),
            weight: 480,
        },
        sites: BTreeMap::from([(setup().site, entry)]),
        clipped: 0,
        metrics: BTreeMap::new(),
        bytes_up: 0,
        bytes_down: 0,
        duration: Millis(1_000),
    };
    let signed = Signed::sign(document.to_bytes().unwrap(), &key());
    m::RollCall { signed }.into()
}

pub(super) struct Bench {
    pub(super) session: Session,
    pub(super) now: Millis,
}

impl Bench {
    pub(super) fn new(setup: Setup) -> Self {
        let now = Millis(1_000);
        let session = Session::open(setup, now);
        Self { session, now }
    }

    /// Opened, connected and welcomed; what that asked for is not looked at.
    pub(super) fn welcomed(setup: Setup) -> Self {
        let mut bench = Self::new(setup);
        assert_eq!(bench.names(), ["connect"]);
        bench.connect();
        bench
    }

    pub(super) fn connect(&mut self) -> Vec<Action> {
        self.session.handle_connected(0, WALL, self.now);
        assert_eq!(self.names(), ["send-hello"]);
        self.say(m::Welcome {
            coordinator: "consilium 0.1.0".to_owned(),
            wall: WALL,
            head: head(),
        });
        self.take()
    }

    pub(super) fn take(&mut self) -> Vec<Action> {
        std::iter::from_fn(|| self.session.poll_action()).collect()
    }

    /// The names of the actions asked for; the actions are gone.
    pub(super) fn names(&mut self) -> Vec<&'static str> {
        self.take().iter().map(Action::name).collect()
    }

    /// The coordinator says something.
    pub(super) fn say(&mut self, message: impl Into<Message>) {
        self.session.handle_message(message.into(), WALL, self.now);
    }

    pub(super) fn done(&mut self, id: ActionId, done: Done) {
        self.session.handle_done(id, done, self.now);
    }

    pub(super) fn lose_connection(&mut self) {
        self.session.handle_disconnected(u32::MAX, self.now);
    }

    /// Waits out the backoff, connects and is welcomed.
    pub(super) fn reconnect(&mut self) -> Vec<Action> {
        self.pass(60_001);
        assert!(self.names().contains(&"connect"));
        self.connect()
    }

    /// Time passes, deadline by deadline.
    pub(super) fn pass(&mut self, millis: u64) {
        let end = self.now + Millis(millis);
        while let Some(at) = self.session.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
        }
        self.now = end;
    }

    pub(super) fn offer(&mut self, study: &str, n: u8) {
        self.say(m::StudyOffer {
            study: name(study),
            version: 1,
            digest: digest(n),
            bytes: 900,
            signatures: Vec::new(),
        });
    }

    /// Takes the plan on up to the Train action, whose id comes back.
    pub(super) fn begin(&mut self, plan: m::Plan) -> ActionId {
        self.say(plan);
        let fetch = id_of(&self.take(), "fetch");
        self.done(fetch, Done::Fetched(Ok(())));
        id_of(&self.take(), "train")
    }

    /// Takes the plan on up to the offer of its update.
    pub(super) fn deliver(&mut self, study: &str, round: u64) -> Retained {
        let train = self.begin(plan(study, round));
        self.done(train, Done::Trained(Ok(trained())));
        let encode = id_of(&self.take(), "encode");
        let retained = retained(study, round);
        self.done(encode, Done::Encoded(Ok(retained.clone())));
        assert_eq!(self.names(), ["send-update-offer"]);
        retained
    }
}

pub(super) fn wanted(of: &Retained) -> m::UpdateWanted {
    m::UpdateWanted { study: of.study.clone(), round: of.round, digest: of.digest }
}

/// The id of the one action of that name.
pub(super) fn id_of(actions: &[Action], wanted: &str) -> ActionId {
    let mut ids = actions.iter().filter(|a| a.name() == wanted).map(|action| match action {
        Action::JudgeStudy { id, .. }
        | Action::Fetch { id, .. }
        | Action::Train { id, .. }
        | Action::Encode { id, .. }
        | Action::Push { id, .. }
        | Action::Stop { id }
        | Action::Settle { id, .. } => *id,
        Action::Connect | Action::Close { .. } | Action::Send { .. } | Action::Reported { .. } => {
            panic!("no id")
        }
    });
    let id = ids.next();
    assert!(id.is_some() && ids.next().is_none(), "one {wanted} in {actions:?}");
    id.unwrap()
}

/// The code with which the plan was declined.
pub(super) fn declined(actions: &[Action]) -> Option<Code> {
    actions.iter().find_map(|action| match action {
        Action::Send { message } => match &**message {
            Message::PlanAnswer(m::PlanAnswer { answer, .. })
            | Message::StudyAnswer(m::StudyAnswer { answer, .. }) => match answer {
                m::Answer::Declined { code, .. } => Some(*code),
                m::Answer::Accepted => None,
            },
            _ => None,
        },
        _ => None,
    })
}

/// The code of the TaskFailed that was sent.
pub(super) fn failed(actions: &[Action]) -> Option<Code> {
    actions.iter().find_map(|action| match action {
        Action::Send { message } => match &**message {
            Message::TaskFailed(failed) => Some(failed.code),
            _ => None,
        },
        _ => None,
    })
}

/// Study and `counted` of every Settle.
pub(super) fn settles(actions: &[Action]) -> Vec<(String, u64, bool)> {
    let settle = |action: &Action| match action {
        Action::Settle { study, round, counted, .. } => {
            Some((study.to_string(), round.0, *counted))
        }
        _ => None,
    };
    actions.iter().filter_map(settle).collect()
}
