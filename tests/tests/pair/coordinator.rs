//! The coordinator's process: a real engine, and a driver whose disk is a list of records.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::Record;
use consilium_common::audit::record::{StudyStateSet, StudySubmitted};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::tensor::flat::MODEL_HEADER_BYTES;
use consilium_common::tensor::layout::Layout;
use consilium_common::time::Millis;
use consilium_common::update::sections::{HEADER_BYTES, decode_i32};
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{self as m, Message, RunState};
use consilium_common::wire::reject::Code;
use consilium_coordinator::aggregate::fedavg::segments;
use consilium_coordinator::aggregate::{FedAvg, Sum, validate};
use consilium_coordinator::round::{Action, Aggregated, Done, Engine, Fault, History};

use super::sim::{Event, Sim, Work};

/// What is the same for all: the study, and the key that signs receipts and roll calls.
pub(crate) struct Terms {
    pub(crate) study: Study,
    pub(crate) signed: Signed<Study>,
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    pub(crate) schema: Schema,
    pub(crate) key: SecretKey,
    pub(crate) roster: Vec<SiteId>,
}

pub(crate) struct Coordinator {
    /// None while the process is down.
    pub(crate) engine: Option<Engine>,
    pub(crate) life: u64,
    // On disk.
    pub(crate) log: Vec<Record>,
    history: History,
    pub(crate) models: BTreeMap<Digest, Vec<u8>>,
    pub(crate) staged: BTreeMap<Digest, Vec<u8>>,
    disk_free: Millis,
    // In memory.
    sum: Option<Sum>,
    added: BTreeSet<SiteId>,
    pub(crate) resumed: u64,
}

impl Coordinator {
    pub(crate) fn new(terms: &Terms) -> Self {
        let study = terms.study.id().clone();
        let by = "olga".to_owned();
        let initial = terms.study.initial_model().unwrap();
        let mut coordinator = Self {
            engine: None,
            life: 0,
            log: Vec::new(),
            history: History::new(),
            models: BTreeMap::from([(Digest::of(&initial), initial)]),
            staged: BTreeMap::new(),
            disk_free: Millis::ZERO,
            sum: None,
            added: BTreeSet::new(),
            resumed: 0,
        };
        coordinator.append(Record::StudySubmitted(StudySubmitted {
            signed: terms.signed.clone(),
            by: by.clone(),
        }));
        let state = RunState::Running;
        coordinator.append(Record::StudyState(StudyStateSet { study, state, by }));
        coordinator
    }

    fn append(&mut self, record: Record) {
        self.history.apply(&record).unwrap();
        self.log.push(record);
    }

    pub(crate) fn start(&mut self, terms: &Terms, now: Millis) {
        self.life += 1;
        let study = self.history.study(terms.study.id()).unwrap();
        self.resumed += u64::from(study.interrupted.is_some());
        let roster = terms.roster.iter().cloned().collect();
        let setup = study.setup(roster, terms.key.clone());
        self.engine = Some(Engine::open(setup, now).unwrap());
    }

    /// The process dies. Of the records on their way to the disk the first few are there; of the
    /// staged updates some.
    pub(crate) fn die(&mut self, sim: &mut Sim) {
        self.engine = None;
        let writes =
            sim.take(|event| matches!(event, Event::Worked { work: Work::Persist(_), .. }));
        let durable = sim.between(0, writes.len() as u64);
        for event in writes.into_iter().take(usize::try_from(durable).unwrap()) {
            if let Event::Worked { work: Work::Persist(record), .. } = event {
                self.append(*record);
            }
        }
        self.staged.retain(|_, _| sim.happens(500));
        (self.sum, self.added) = (None, BTreeSet::new());
    }

    pub(crate) fn is_complete(&self, terms: &Terms) -> bool {
        let study = self.history.study(terms.study.id()).unwrap();
        study.state == RunState::Complete && study.interrupted.is_none()
    }

    /// Begins what the engine asks for. What is to be sent comes back.
    pub(crate) fn perform(&mut self, action: Action, sim: &mut Sim) -> Option<(SiteId, Message)> {
        let life = self.life;
        match action {
            Action::Persist { id, record } => {
                let done = sim.now + Millis(sim.between(1, 30));
                self.disk_free = self.disk_free.max(done);
                let work = Work::Persist(record);
                sim.at(self.disk_free, Event::Worked { life, id, work });
                None
            }
            Action::Send { site, message } => Some((site, *message)),
            Action::SendRollCall { site, round, update } => {
                let message = self.old_roll_call(round).unwrap_or_else(|| {
                    let (study, detail) = (self.head_study(), "no such round".to_owned());
                    let code = Code::WrongRound;
                    m::UpdateRefused { study, round, digest: update, code, detail }.into()
                });
                Some((site, message))
            }
            Action::Forget { .. } => {
                (self.sum, self.added) = (None, BTreeSet::new());
                self.staged.clear();
                None
            }
            Action::Look { id, .. }
            | Action::Verify { id, .. }
            | Action::Add { id, .. }
            | Action::Aggregate { id, .. } => {
                let work = Work::Other(Box::new(action));
                sim.after(0, 60, Event::Worked { life, id, work });
                None
            }
        }
    }

    fn head_study(&self) -> consilium_common::ids::StudyId {
        self.history.studies().next().unwrap().study.id().clone()
    }

    fn old_roll_call(&self, round: Round) -> Option<Message> {
        let of_round = |record: &Record| match record {
            Record::RollCall(ended) => {
                let roll_call = ended.signed.parse_unverified().unwrap();
                (roll_call.round == round).then(|| ended.signed.clone())
            }
            _ => None,
        };
        let signed = self.log.iter().rev().find_map(of_round)?;
        Some(m::RollCall { signed }.into())
    }

    /// The disk or the CPU is done; its answer.
    pub(crate) fn worked(&mut self, terms: &Terms, work: Work) -> Done {
        let action = match work {
            Work::Persist(record) => {
                self.append(*record);
                return Done::Persisted;
            }
            Work::Other(action) => *action,
        };
        match action {
            Action::Look { update, .. } => Done::Staged(self.staged.contains_key(&update)),
            Action::Verify { update, rules, .. } => {
                Done::Verified(validate(&rules, &terms.schema, &self.staged[&update]))
            }
            Action::Add { site, update, weight, .. } => {
                assert!(self.added.insert(site.clone()), "{site} was added twice");
                let sum = self.sum.get_or_insert_with(|| Sum::new(terms.layout.len()));
                let share = sum.admit(weight).unwrap();
                sum.add(share, 0, &units(&self.staged[&update], terms)).unwrap();
                Done::Added(Ok(()))
            }
            Action::Aggregate { base, weight, step_exponent, .. } => {
                Done::Aggregated(self.aggregate(terms, base, weight, step_exponent))
            }
            other => panic!("{other:?} has no answer"),
        }
    }

    fn aggregate(
        &mut self,
        terms: &Terms,
        base: Digest,
        weight: u64,
        exponent: i32,
    ) -> Result<Aggregated, Fault> {
        let sum = self.sum.as_ref().unwrap();
        assert_eq!(sum.weight(), weight);
        let next = next_model(terms, &self.models[&base], sum, exponent);
        let (model, sum) = (Digest::of(&next), sum.digest());
        self.models.insert(model, next);
        Ok(Aggregated { model, sum })
    }
}

/// The coordinates of an update.
pub(crate) fn units(update: &[u8], terms: &Terms) -> Vec<i32> {
    decode_i32(&update[HEADER_BYTES..]).take(terms.layout.len()).collect()
}

/// base + step · sum / weight.
pub(crate) fn next_model(terms: &Terms, base: &[u8], sum: &Sum, exponent: i32) -> Vec<u8> {
    let step = FedAvg::new(sum.weight(), exponent).unwrap();
    let (header, vector) = base.split_at(MODEL_HEADER_BYTES);
    let mut next = header.to_vec();
    for segment in segments(&terms.layout) {
        let base = &vector[4 * segment.vector.start..4 * segment.vector.end];
        step.next_segment(&segment, base, sum.as_slice(), &mut next).unwrap();
    }
    next
}
