//! The coordinator's process: real engines, one a study, and a driver whose disk is a list of
//! records.

mod duties;

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::Record;
use consilium_common::audit::record::{StudyStateSet, StudySubmitted};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::planted::{self, Bug};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message, RunState};
use consilium_coordinator::aggregate::Sum;
use consilium_coordinator::round::{Engine, History, StudyHistory};

use super::disk::{Death, Found, LogDisk, flip};
use super::sim::{Event, Sim, Work};
use super::stage::Stage;
use super::terms::Terms;

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

    /// A record is on disk that nobody waited for.
    pub(crate) fn written(&mut self, record: Record, now: Millis) {
        self.append(record, now);
    }
}
