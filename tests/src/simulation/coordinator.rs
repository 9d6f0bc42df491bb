//! The coordinator's process: real engines, one a study, and a driver whose disk is a list of
//! records.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::Record;
use consilium_common::audit::record::{StudyStateSet, StudySubmitted};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::planted::{self, Bug};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message, RunState};
use consilium_common::wire::reject::Code;
use consilium_coordinator::aggregate::sum::Coordinates;
use consilium_coordinator::aggregate::{Members, Sum, validate};
use consilium_coordinator::round::{
    Action, ActionId, Aggregated, Done, Engine, Fault, History, Prepared, StudyHistory,
};

use super::disk::{Death, Found, LogDisk, flip};
use super::sim::{Event, Sim, Work};
use super::stage::Stage;
use super::terms::{Terms, next, preparation, units};

/// What a running engine works with, in memory.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    sum: Option<Sum>,
    added: BTreeSet<SiteId>,
}

pub(crate) struct Coordinator {
    /// One a study; none while the process is down.
    pub(crate) running: Vec<Running>,
    pub(crate) life: u64,
    // On disk.
    pub(crate) disk: LogDisk,
    /// What the log says: each record with the time at which it was durable.
    pub(crate) log: Vec<(Millis, Record)>,
    /// Records that the log had, and that it has not since its end was gone or a copy was brought back.
    pub(crate) lost: Vec<(Millis, Record)>,
    pub(crate) history: History,
    /// Models, strategies' states and preparations, as they were written.
    pub(crate) blobs: BTreeMap<Digest, Vec<u8>>,
    /// Those that have rotted, as they are.
    rotten: BTreeMap<Digest, Vec<u8>>,
    /// One has rotted at some time.
    pub(crate) blob_rotted: bool,
    pub(crate) stage: Stage,
    disk_free: Millis,
    /// The next record is refused by the disk.
    pub(crate) disk_fails: bool,
    /// How far the calendar clock is off, milliseconds.
    pub(crate) wall_offset: i64,
    wall_last: Millis,
    pub(crate) resumed: u64,
    /// How often it lost records.
    pub(crate) forgot: u64,
    /// When it died.
    pub(crate) deaths: Vec<Millis>,
}

impl Coordinator {
    pub(crate) fn new(studies: &[Terms]) -> Self {
        let mut coordinator = Self {
            running: Vec::new(),
            life: 0,
            disk: LogDisk::new(),
            log: Vec::new(),
            lost: Vec::new(),
            history: History::new(),
            blobs: BTreeMap::new(),
            rotten: BTreeMap::new(),
            blob_rotted: false,
            stage: Stage::default(),
            disk_free: Millis::ZERO,
            disk_fails: false,
            wall_offset: 0,
            wall_last: Millis::ZERO,
            resumed: 0,
            forgot: 0,
            deaths: Vec::new(),
        };
        for terms in studies {
            let study = terms.study.id().clone();
            let (by, state) = ("olga".to_owned(), RunState::Running);
            let initial = terms.study.initial_model().unwrap();
            coordinator.blobs.insert(Digest::of(&initial), initial);
            let (signed, submitter) = (terms.signed.clone(), by.clone());
            let submitted = StudySubmitted { signed, by: submitter };
            coordinator.append(Record::StudySubmitted(submitted), Millis::ZERO);
            let started = StudyStateSet { study, state, by, completion: None };
            coordinator.append(Record::StudyState(started), Millis::ZERO);
        }
        coordinator.disk.cover(Millis::ZERO);
        coordinator
    }

    fn append(&mut self, record: Record, now: Millis) {
        self.history.apply(&record).unwrap();
        self.disk.append(&record, now);
        self.log.push((now, record));
    }

    pub(crate) fn is_up(&self) -> bool {
        !self.running.is_empty()
    }

    pub(crate) fn engine(&mut self, study: usize) -> Option<&mut Engine> {
        self.running.get_mut(study).map(|running| &mut running.engine)
    }

    /// What engines take for the time.
    pub(crate) fn clock(&mut self, now: Millis) -> Millis {
        if !planted::has(Bug::WallDeadline) {
            return now;
        }
        let wall = Millis(now.0.saturating_add_signed(self.wall_offset));
        self.wall_last = self.wall_last.max(wall);
        self.wall_last
    }

    /// No round will ever begin again.
    pub(crate) fn is_over(&self, terms: &Terms) -> bool {
        let study = self.study(terms);
        let ended = matches!(study.state, RunState::Complete | RunState::Stopped);
        ended && study.interrupted.is_none()
    }

    pub(crate) fn study(&self, terms: &Terms) -> &StudyHistory {
        self.history.study(terms.study.id()).unwrap()
    }

    /// False if the log is damaged: the operator brings it back from the copy, and starts again.
    pub(crate) fn start(&mut self, studies: &[Terms], now: Millis) -> bool {
        let found = self.disk.start(now);
        let starts = matches!(found, Found::Records(_));
        match found {
            Found::Records(records) => {
                // Those that were gone from the end, and that no checkpoint covered.
                if records.len() < self.log.len() {
                    self.lost.extend(self.log.drain(records.len()..));
                    self.forgot += 1;
                }
                self.log = records;
            }
            Found::Restored(records) => {
                self.lost.extend(self.log.drain(records..));
                self.stage = Stage::default();
                self.forgot += 1;
            }
        }
        self.history = History::new();
        for (_, record) in &self.log {
            self.history.apply(record).unwrap();
        }
        if !starts {
            return false;
        }
        let now = self.clock(now);
        self.life += 1;
        for terms in studies {
            let study = self.study(terms);
            let resumed = u64::from(study.interrupted.is_some());
            let roster = terms.roster.iter().cloned().collect();
            let setup = study.setup(roster, terms.key.clone());
            let engine = Engine::open(setup, now).unwrap();
            self.resumed += resumed;
            self.running.push(Running { engine, sum: None, added: BTreeSet::new() });
        }
        true
    }

    /// The process dies. Of the records on their way to the disk the first few are there, and of the
    /// next one a part; of the staged updates some, some in part.
    pub(crate) fn die(&mut self, death: Death, sim: &mut Sim) {
        self.running.clear();
        self.deaths.push(sim.now);
        let writes = sim.take(|event| {
            matches!(event, Event::Worked { work: Work::Persist(_), .. } | Event::Written { .. })
        });
        let writes = writes.into_iter().filter_map(|event| match event {
            Event::Worked { work: Work::Persist(record), .. } | Event::Written { record, .. } => {
                Some(*record)
            }
            _ => None,
        });
        self.disk.crash(&writes.collect::<Vec<_>>(), death, sim);
        self.stage.crash(death, sim);
    }

    /// Whether the log has forgotten what it said of this round: its plan, and then its number
    /// is given again; or only a receipt or its roll call, and then it is run again.
    pub(crate) fn has_forgotten(&self, study: &StudyId, round: Round) -> bool {
        let of_round = |of: (&StudyId, Round)| of == (study, round);
        self.lost.iter().any(|(_, record)| match record {
            Record::Plan(plan) => of_round((&plan.study, plan.round)),
            Record::Receipt(given) => {
                let receipt = given.signed.parse_unverified().unwrap();
                of_round((&receipt.study, receipt.round))
            }
            Record::RollCall(ended) => {
                let call = ended.signed.parse_unverified().unwrap();
                of_round((&call.study, call.round))
            }
            _ => false,
        })
    }

    /// Whether the log has forgotten how some round ended.
    pub(crate) fn has_forgotten_an_end(&self) -> bool {
        self.lost.iter().any(|(_, record)| matches!(record, Record::RollCall(_)))
    }

    /// A blob as it is on disk now.
    pub(crate) fn blob(&self, digest: Digest) -> &[u8] {
        self.rotten.get(&digest).unwrap_or_else(|| &self.blobs[&digest])
    }

    /// A bit turns over of what a study goes on from: its newest model, its strategy's state, or what
    /// its sites counted.
    pub(crate) fn rot_blob(&mut self, terms: &Terms, which: u64) {
        let head = &self.study(terms).head;
        let named = [Some(head.model), head.strategy_state, head.preparation];
        let named: Vec<Digest> = named.into_iter().flatten().collect();
        let count = named.len() as u64;
        let digest = named[usize::try_from(which % count).unwrap()];
        let mut bytes = self.blob(digest).to_vec();
        flip(&mut bytes, which / count);
        self.rotten.insert(digest, bytes);
        self.blob_rotted = true;
    }

    /// The operator has brought the blobs back from the copy.
    pub(crate) fn mend_blobs(&mut self) {
        self.rotten.clear();
    }

    /// Begins what an engine asks for. What is to be sent comes back.
    pub(crate) fn perform(
        &mut self,
        study: usize,
        terms: &Terms,
        action: Action,
        sim: &mut Sim,
    ) -> Option<(SiteId, Message)> {
        let life = self.life;
        match action {
            Action::Persist { id, record } => {
                self.persist(study, id, record, sim);
                None
            }
            Action::Send { site, message } => {
                self.assert_durable(&message);
                Some((site, *message))
            }
            // The world has seen that the site deserves it, and lets it go on.
            Action::Strike { .. } => None,
            Action::SendRollCall { site, round, update } => {
                let message = self.old_roll_call(terms, round).unwrap_or_else(|| {
                    let (study, detail) = (terms.study.id().clone(), "no such round".to_owned());
                    let code = Code::WrongRound;
                    m::UpdateRefused { study, round, digest: update, code, detail }.into()
                });
                Some((site, message))
            }
            Action::Forget { .. } => {
                let running = &mut self.running[study];
                (running.sum, running.added) = (None, BTreeSet::new());
                self.stage.forget(study);
                None
            }
            Action::Look { id, .. }
            | Action::Verify { id, .. }
            | Action::Add { id, .. }
            | Action::Aggregate { id, .. }
            | Action::Prepare { id, .. } => {
                let work = Work::Other(Box::new(action));
                sim.after(0, 60, Event::Worked { life, study, id, work });
                None
            }
        }
    }

    fn persist(&mut self, study: usize, id: ActionId, record: Box<Record>, sim: &mut Sim) {
        let life = self.life;
        let done = sim.now + Millis(sim.between(1, 30));
        self.disk_free = self.disk_free.max(done);
        if planted::has(Bug::NoSync) {
            sim.at(self.disk_free, Event::Written { life, record });
            sim.after(0, 0, Event::Worked { life, study, id, work: Work::Early });
        } else {
            let work = Work::Persist(record);
            sim.at(self.disk_free, Event::Worked { life, study, id, work });
        }
    }

    /// Nothing is announced before it is durable.
    fn assert_durable(&self, message: &Message) {
        let log = || self.log.iter().rev().map(|(_, record)| record);
        let durable = match message {
            Message::Plan(plan) => {
                let made = log().any(|record| {
                    matches!(record, Record::Plan(made)
                        if (&made.study, made.round) == (&plan.study, plan.round))
                });
                let named = plan.preparation.map(|blob| blob.digest);
                let prepared = self.history.study(&plan.study).unwrap().head.preparation;
                made && (named.is_none() || named == prepared)
            }
            Message::Receipt(receipt) => log().any(|record| {
                matches!(record, Record::Receipt(given) if given.signed == receipt.signed)
            }),
            Message::RollCall(roll_call) => log().any(|record| {
                matches!(record, Record::RollCall(ended) if ended.signed == roll_call.signed)
            }),
            _ => true,
        };
        assert!(durable, "announced before it is durable: {}", message.name());
    }

    /// Whether the roll call of a round that is over, if there is one, can be read.
    pub(crate) fn reads_roll_call(&self, terms: &Terms, wanted: Round) -> bool {
        let at = self.log.iter().position(|(_, record)| match record {
            Record::RollCall(ended) => {
                let call = ended.signed.parse_unverified().unwrap();
                (&call.study, call.round) == (terms.study.id(), wanted)
            }
            _ => false,
        });
        at.is_none_or(|at| self.disk.reads(at))
    }

    fn old_roll_call(&self, terms: &Terms, round: Round) -> Option<Message> {
        let of_round = |(_, record): &(Millis, Record)| match record {
            Record::RollCall(ended) => {
                let roll_call = ended.signed.parse_unverified().unwrap();
                let wanted = (&roll_call.study, roll_call.round) == (terms.study.id(), round);
                wanted.then(|| ended.signed.clone())
            }
            _ => None,
        };
        let signed = self.log.iter().rev().find_map(of_round)?;
        Some(m::RollCall { signed }.into())
    }

    /// The disk or the CPU is done; its answer.
    pub(crate) fn worked(&mut self, study: usize, terms: &Terms, work: Work, now: Millis) -> Done {
        let action = match work {
            Work::Persist(record) => {
                self.append(*record, now);
                return Done::Persisted;
            }
            Work::Early => return Done::Persisted,
            Work::Other(action) => *action,
        };
        match action {
            Action::Look { update, .. } => Done::Staged(self.stage.look(update)),
            Action::Verify { update, rules, .. } => {
                let staged = self.stage.read(update);
                Done::Verified(staged.and_then(|staged| validate(&rules, &terms.schema, staged)))
            }
            Action::Add { site, update, weight, coordinates, .. } => {
                Done::Added(self.add(study, site, update, (weight, coordinates)))
            }
            Action::Aggregate { base, strategy_state, weight, step_exponent, members, .. } => {
                let (head, step) = ((base, strategy_state), (weight, step_exponent, members));
                Done::Aggregated(self.aggregate(study, terms, head, step))
            }
            Action::Prepare { sites, .. } => Done::Prepared(Ok(self.prepare(study, terms, sites))),
            other => panic!("{other:?} has no answer"),
        }
    }

    fn add(
        &mut self,
        study: usize,
        site: SiteId,
        update: Digest,
        (weight, coordinates): (u64, Coordinates),
    ) -> Result<(), Fault> {
        let staged = self.stage.read(update)?;
        let running = &mut self.running[study];
        assert!(running.added.insert(site.clone()), "{site} was added twice");
        let sum = running.sum.get_or_insert_with(|| Sum::of(coordinates));
        let share = sum.admit(weight).unwrap();
        sum.add(share, 0, &units(staged, coordinates.all())).unwrap();
        Ok(())
    }

    /// A blob on disk.
    fn keep(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        self.rotten.remove(&digest);
        digest
    }

    /// A blob, hashed as it is read.
    fn read(&self, digest: Digest) -> Result<&[u8], Fault> {
        let bytes = self.blob(digest);
        if Digest::of(bytes) == digest {
            return Ok(bytes);
        }
        let detail = format!("{digest} has other content on disk");
        Err(Fault { code: Code::CoordinatorFault, detail })
    }

    fn aggregate(
        &mut self,
        study: usize,
        terms: &Terms,
        (base, state): (Digest, Option<Digest>),
        (weight, exponent, members): (u64, i32, Option<Members>),
    ) -> Result<Aggregated, Fault> {
        let sum = self.running[study].sum.as_ref().unwrap();
        assert_eq!(sum.weight(), weight, "the sum's weight is the round's");
        let state = state.map(|state| self.read(state)).transpose()?;
        let next = next(terms, (self.read(base)?, state), sum, exponent, members);
        let sum = sum.digest();
        let model = self.keep(next.model);
        let strategy_state = (!next.state.is_empty()).then(|| self.keep(next.state));
        Ok(Aggregated { model, strategy_state, sum })
    }

    fn prepare(&mut self, study: usize, terms: &Terms, sites: u64) -> Prepared {
        let sum = self.running[study].sum.as_ref().unwrap();
        assert_eq!(sum.weight(), sites, "every site counts once");
        let (made, sum) = (preparation(terms, sum), sum.digest());
        Prepared { preparation: self.keep(made), sum }
    }

    /// A record is on disk that nobody waited for.
    pub(crate) fn written(&mut self, record: Record, now: Millis) {
        self.append(record, now);
    }
}
