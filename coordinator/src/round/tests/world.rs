//! A driver without I/O: it performs actions on values, and answers in an order that a test can set.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use consilium_common::audit::Record;
use consilium_common::audit::record::StudySubmitted;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Preparation, ServerOptimizer, Study};
use consilium_common::tensor::layout::Layout;
use consilium_common::time::Millis;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;

use super::super::*;
use super::audit;
use super::sites::FakeSite;
use crate::aggregate::sum::Coordinates;
use crate::aggregate::{Members, Sum, validate};

pub(super) const TOML: &str = r#"
[study]
name = "demo"
seed = 7
[model]
family = "synthetic"
parameters = 5
[training]
rounds = 2
[aggregation]
clip_norm = 10.0
[cohort]
min_sites = 2
max_examples = 1000
deadline = "60s"
idle_timeout = "10s"
[privacy]
mode = "inspectable"
"#;

/// Something on its way to the engine.
#[derive(Debug)]
pub(super) enum Event {
    Done(ActionId, Done),
    Says(SiteId, SiteMessage),
    Staged(SiteId, Round, Digest),
}

pub(super) fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

pub(super) fn key() -> SecretKey {
    SecretKey::from_seed(&[9; 32])
}

pub(super) struct World {
    pub(super) engine: Engine,
    pub(super) now: Millis,
    pub(super) log: Vec<Record>,
    pub(super) sent: Vec<(SiteId, Message)>,
    pub(super) struck: Vec<(SiteId, Code)>,
    pub(super) queue: VecDeque<Event>,
    /// Answers to actions of these names stay away until `release`.
    pub(super) hold: BTreeSet<&'static str>,
    held: Vec<Event>,
    /// Actions of this name fail.
    pub(super) broken: &'static str,
    pub(super) sites: BTreeMap<SiteId, FakeSite>,
    pub(super) staged: BTreeMap<Digest, Vec<u8>>,
    /// Models and strategies' states.
    pub(super) models: BTreeMap<Digest, Vec<u8>>,
    pub(super) preparations: BTreeMap<Digest, Vec<u8>>,
    /// Every update that any site ever made, for the reference sums.
    pub(super) made: BTreeMap<Digest, Vec<u8>>,
    sum: Option<Sum>,
    added: BTreeSet<SiteId>,
    pub(super) roster: BTreeSet<SiteId>,
    pub(super) study: Study,
    pub(super) layout: Layout,
    pub(super) optimizer: ServerOptimizer,
    schema: Schema,
    /// Actions performed by all processes so far, by name.
    pub(super) performed: Vec<&'static str>,
}

impl World {
    /// A submitted and started study, with sites that do nothing by themselves.
    pub(super) fn new(names: &[&str]) -> Self {
        Self::with(names, |toml| toml.to_owned())
    }

    pub(super) fn with(names: &[&str], change: impl Fn(&str) -> String) -> Self {
        let mut world = Self::submitted(names, change);
        world.command(Command::Start).unwrap();
        world.settle();
        world
    }

    pub(super) fn submitted(names: &[&str], change: impl Fn(&str) -> String) -> Self {
        let study = Study::read(&change(TOML), "demo.toml").unwrap().resolve().unwrap();
        let signed = Signed::<Study>::sign(study.to_text().unwrap().into_bytes(), &key());
        let by = "olga".to_owned();
        let log = vec![Record::StudySubmitted(StudySubmitted { signed, by })];
        let initial = study.initial_model().unwrap();
        let (layout, schema) = (study.layout().unwrap(), Schema::of(&study));
        let roster: BTreeSet<SiteId> = names.iter().map(|name| site(name)).collect();
        let engine = open(&log, &roster, Millis::ZERO);
        Self {
            engine,
            now: Millis::ZERO,
            log,
            sent: Vec::new(),
            struck: Vec::new(),
            queue: VecDeque::new(),
            hold: BTreeSet::new(),
            held: Vec::new(),
            broken: "",
            sites: BTreeMap::new(),
            staged: BTreeMap::new(),
            models: BTreeMap::from([(Digest::of(&initial), initial)]),
            preparations: BTreeMap::new(),
            made: BTreeMap::new(),
            sum: None,
            added: BTreeSet::new(),
            roster,
            optimizer: study.aggregation.server_optimizer(),
            study,
            layout,
            schema,
            performed: Vec::new(),
        }
    }

    /// The process dies: what was not in the log is gone, but staged bytes may survive.
    pub(super) fn crash(&mut self, staged_survive: bool) {
        self.queue.clear();
        self.held.clear();
        (self.sum, self.added) = (None, BTreeSet::new());
        if !staged_survive {
            self.staged.clear();
        }
        self.now = Millis(3);
        self.engine = open(&self.log, &self.roster, self.now);
    }

    pub(super) fn command(&mut self, command: Command) -> Result<(), CommandError> {
        self.engine.handle_command(command, "olga", self.now)
    }

    /// Performs what the engine asks for; answers go to the queue.
    pub(super) fn perform_one(&mut self) -> bool {
        let Some(action) = self.engine.poll_action() else {
            return false;
        };
        let name = action.name();
        self.performed.push(name);
        let (id, done) = match action {
            Action::Persist { id, record } => {
                self.log.push(*record);
                (id, Done::Persisted)
            }
            Action::Send { site, message } => {
                self.deliver(&site, &message);
                self.sent.push((site, *message));
                return true;
            }
            Action::Strike { site, code, .. } => {
                self.struck.push((site, code));
                return true;
            }
            Action::SendRollCall { site, round, .. } => {
                if let Some(message) = self.roll_call_message(round) {
                    self.deliver(&site, &message);
                    self.sent.push((site, message));
                }
                return true;
            }
            Action::Look { id, update, .. } => {
                (id, Done::Staged(self.staged.contains_key(&update)))
            }
            Action::Verify { id, update, rules, .. } => {
                let bytes = &self.staged[&update];
                (id, Done::Verified(validate(&rules, &self.schema, bytes)))
            }
            Action::Add { id, site, update, weight, coordinates } => {
                (id, Done::Added(self.add(&site, update, weight, coordinates)))
            }
            Action::Aggregate { id, base, strategy_state, weight, step_exponent, members } => {
                let sum = (weight, step_exponent);
                let made = self.aggregate(base, strategy_state, sum, members);
                (id, Done::Aggregated(made))
            }
            Action::Prepare { id, sites } => (id, Done::Prepared(self.prepare(sites))),
            Action::Forget { .. } => {
                (self.sum, self.added) = (None, BTreeSet::new());
                self.staged.clear();
                return true;
            }
        };
        let event = Event::Done(id, done);
        if self.hold.contains(name) {
            self.held.push(event);
        } else {
            self.queue.push_back(event);
        }
        true
    }

    fn deliver(&mut self, site: &SiteId, message: &Message) {
        if let Some(fake) = self.sites.get_mut(site).filter(|fake| fake.connected) {
            fake.inbox.push_back(message.clone());
        }
    }

    fn add(
        &mut self,
        site: &SiteId,
        update: Digest,
        weight: u64,
        coordinates: Coordinates,
    ) -> Result<(), Fault> {
        self.unless_broken("add")?;
        assert!(self.added.insert(site.clone()), "{site} was added twice");
        let units = audit::units(&self.staged[&update], coordinates.all());
        let sum = self.sum.get_or_insert_with(|| Sum::of(coordinates));
        let share = sum.admit(weight).unwrap();
        sum.add(share, 0, &units).unwrap();
        Ok(())
    }

    fn aggregate(
        &mut self,
        base: Digest,
        strategy_state: Option<Digest>,
        (weight, exponent): (u64, i32),
        members: Option<Members>,
    ) -> Result<Aggregated, Fault> {
        self.unless_broken("aggregate")?;
        let sum = self.sum.as_ref().unwrap();
        assert_eq!(sum.weight(), weight);
        let (next, state) = audit::next(self, (base, strategy_state), sum, exponent, members);
        let (model, sum) = (Digest::of(&next), sum.digest());
        self.models.insert(model, next);
        let strategy_state = state.map(|state| {
            let digest = Digest::of(&state);
            self.models.insert(digest, state);
            digest
        });
        Ok(Aggregated { model, strategy_state, sum })
    }

    fn prepare(&mut self, sites: u64) -> Result<Prepared, Fault> {
        self.unless_broken("prepare")?;
        let sum = self.sum.as_ref().unwrap();
        assert_eq!(sum.weight(), sites);
        let made = Preparation {
            terms: self.study.preparation_terms().unwrap(),
            sites: u32::try_from(sites).unwrap(),
            sums: sum.as_slice().to_vec(),
        };
        let (bytes, sum) = (made.encode(), sum.digest());
        let preparation = Digest::of(&bytes);
        self.preparations.insert(preparation, bytes);
        Ok(Prepared { preparation, sum })
    }

    fn unless_broken(&self, name: &str) -> Result<(), Fault> {
        let fault = || Fault { code: Code::CoordinatorFault, detail: "disk full".to_owned() };
        if self.broken == name { Err(fault()) } else { Ok(()) }
    }

    /// Hands one event to the engine.
    pub(super) fn handle(&mut self, event: Event) {
        let now = self.now;
        match event {
            Event::Done(id, done) => self.engine.handle_done(id, done, now),
            Event::Says(site, message) => self.engine.handle_message(&site, message, now),
            Event::Staged(site, round, update) => {
                self.engine.handle_staged(&site, round, update, now);
            }
        }
    }

    /// Actions and answers, until nothing more happens by itself.
    pub(super) fn settle(&mut self) {
        loop {
            while self.perform_one() {}
            let Some(event) = self.queue.pop_front() else {
                return;
            };
            self.handle(event);
        }
    }

    /// Lets the held answers go, last first.
    pub(super) fn release(&mut self) {
        self.hold.clear();
        let held = std::mem::take(&mut self.held);
        self.queue.extend(held.into_iter().rev());
        self.settle();
    }

    /// Changes the held answers.
    pub(super) fn rewrite_held(&mut self, change: impl Fn(&mut Done)) {
        for event in &mut self.held {
            if let Event::Done(_, done) = event {
                change(done);
            }
        }
    }

    /// The held answers will be released first come, first served.
    pub(super) fn turn_held(&mut self) {
        self.held.reverse();
    }

    /// Time passes; the engine is woken whenever it asked to be.
    pub(super) fn wait(&mut self, millis: u64) {
        let end = self.now + Millis(millis);
        while let Some(at) = self.engine.next_deadline().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.engine.handle_timeout(self.now);
            assert!(self.engine.next_deadline().is_none_or(|next| next > self.now));
            self.settle();
        }
        self.now = end;
    }

    pub(super) fn status(&self) -> Status {
        self.engine.status(self.now)
    }

    pub(super) fn phase(&self) -> status::PhaseName {
        self.status().phase
    }

    /// The state of one site in a word.
    pub(super) fn state_of(&self, name: &str) -> String {
        let sites = self.status().sites;
        let found = sites.into_iter().find(|status| status.site == site(name));
        found.unwrap().state
    }
}

/// What a start of the process makes of a log.
pub(super) fn open(log: &[Record], roster: &BTreeSet<SiteId>, now: Millis) -> Engine {
    let mut history = History::new();
    for record in log {
        history.apply(record).unwrap();
    }
    let study = history.study(&"demo".parse().unwrap()).unwrap();
    Engine::open(study.setup(roster.clone(), key()), now).unwrap()
}
