//! The coordinator's process: real engines, one a study, and a driver whose disk is a list of
//! records.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::{StudyStateSet, StudySubmitted};
use consilium_common::audit::{Outcome, Record};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::planted::{self, Bug};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message, RunState};
use consilium_common::wire::reject::Code;
use consilium_coordinator::aggregate::{Sum, validate};
use consilium_coordinator::round::{
    Action, ActionId, Aggregated, Done, Engine, Fault, History, Prepared, StudyHistory,
};

use super::sim::{Event, Sim, Work};
use super::terms::{Terms, next, preparation, units};

/// What a running engine works with, in memory.
pub(crate) struct Running {
    pub(crate) engine: Engine,
    sum: Option<Sum>,
    added: BTreeSet<SiteId>,
}

#[derive(Default)]
pub(crate) struct Coordinator {
    /// One a study; none while the process is down.
    pub(crate) running: Vec<Running>,
    pub(crate) life: u64,
    // On disk.
    /// Each record with the time at which it was durable.
    pub(crate) log: Vec<(Millis, Record)>,
    pub(crate) history: History,
    /// Preparations of which the log has the roll call.
    prepared: BTreeSet<Digest>,
    /// Models and strategies' states.
    pub(crate) models: BTreeMap<Digest, Vec<u8>>,
    pub(crate) preparations: BTreeMap<Digest, Vec<u8>>,
    /// Whole updates, each with its study.
    pub(crate) staged: BTreeMap<Digest, (usize, Vec<u8>)>,
    /// Updates of which only the first bytes are staged.
    pub(crate) partial: BTreeMap<Digest, (usize, Vec<u8>)>,
    disk_free: Millis,
    /// The next record is refused by the disk.
    pub(crate) disk_fails: bool,
    /// How far the calendar clock is off, milliseconds.
    pub(crate) wall_offset: i64,
    wall_last: Millis,
    pub(crate) resumed: u64,
    /// When it died.
    pub(crate) deaths: Vec<Millis>,
}

impl Coordinator {
    pub(crate) fn new(studies: &[Terms]) -> Self {
        let mut coordinator = Self::default();
        for terms in studies {
            let study = terms.study.id().clone();
            let (by, state) = ("olga".to_owned(), RunState::Running);
            let initial = terms.study.initial_model().unwrap();
            coordinator.models.insert(Digest::of(&initial), initial);
            let (signed, submitter) = (terms.signed.clone(), by.clone());
            let submitted = StudySubmitted { signed, by: submitter };
            coordinator.append(Record::StudySubmitted(submitted), Millis::ZERO);
            let started = StudyStateSet { study, state, by };
            coordinator.append(Record::StudyState(started), Millis::ZERO);
        }
        coordinator
    }

    fn append(&mut self, record: Record, now: Millis) {
        self.history.apply(&record).unwrap();
        if let Record::RollCall(ended) = &record {
            let call = ended.signed.parse_unverified().unwrap();
            if let Outcome::Prepared { preparation, .. } = call.outcome {
                self.prepared.insert(preparation);
            }
        }
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

    pub(crate) fn start(&mut self, studies: &[Terms], now: Millis) {
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
    }

    /// The process dies. Of the records on their way to the disk the first few are there; of the
    /// staged updates some, some in part.
    pub(crate) fn die(&mut self, sim: &mut Sim) {
        self.running.clear();
        self.deaths.push(sim.now);
        if planted::has(Bug::TornTail) {
            // What an earlier start took for written is not in the log.
            self.history = History::new();
            for (_, record) in &self.log {
                self.history.apply(record).unwrap();
            }
        }
        let writes = sim.take(|event| {
            matches!(event, Event::Worked { work: Work::Persist(_), .. } | Event::Written { .. })
        });
        let durable = sim.between(0, writes.len() as u64);
        let mut writes = writes.into_iter().filter_map(|event| match event {
            Event::Worked { work: Work::Persist(record), .. } | Event::Written { record, .. } => {
                Some(*record)
            }
            _ => None,
        });
        for record in writes.by_ref().take(usize::try_from(durable).unwrap()) {
            self.append(record, sim.now);
        }
        if let Some(torn) = writes.next()
            && planted::has(Bug::TornTail)
        {
            self.history.apply(&torn).unwrap();
        }
        self.lose_staged(sim);
    }

    /// Some of what is staged is gone, some is there in part.
    pub(crate) fn lose_staged(&mut self, sim: &mut Sim) {
        for (digest, (study, bytes)) in std::mem::take(&mut self.staged) {
            match sim.between(0, 2) {
                0 => drop(self.staged.insert(digest, (study, bytes))),
                1 => self.keep_part(study, digest, &bytes),
                _ => {}
            }
        }
    }

    /// A transfer that broke off leaves what arrived.
    pub(crate) fn keep_part(&mut self, study: usize, digest: Digest, bytes: &[u8]) {
        self.partial.insert(digest, (study, bytes[..bytes.len() / 2].to_vec()));
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
                self.staged.retain(|_, (of, _)| *of != study);
                self.partial.retain(|_, (of, _)| *of != study);
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
                made && named.is_none_or(|digest| self.prepared.contains(&digest))
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
            Action::Look { update, .. } => Done::Staged(self.look(update)),
            Action::Verify { update, rules, .. } => {
                let lost = Fault { code: Code::CoordinatorFault, detail: "the stage".to_owned() };
                let staged = self.staged.get(&update).ok_or(lost);
                Done::Verified(
                    staged.and_then(|(_, staged)| validate(&rules, &terms.schema, staged)),
                )
            }
            Action::Add { site, update, weight, coordinates, .. } => {
                Done::Added(self.add(study, site, update, (weight, coordinates)))
            }
            Action::Aggregate { base, strategy_state, weight, step_exponent, .. } => {
                let sum = self.running[study].sum.as_ref().unwrap();
                assert_eq!(sum.weight(), weight, "the sum's weight is the round's");
                let state = strategy_state.map(|state| self.models[&state].as_slice());
                let next = next(terms, &self.models[&base], state, sum, step_exponent);
                let sum = sum.digest();
                let model = self.keep(next.model);
                let strategy_state = (!next.state.is_empty()).then(|| self.keep(next.state));
                Done::Aggregated(Ok(Aggregated { model, strategy_state, sum }))
            }
            Action::Prepare { sites, .. } => Done::Prepared(Ok(self.prepare(study, terms, sites))),
            other => panic!("{other:?} has no answer"),
        }
    }

    fn look(&mut self, update: Digest) -> bool {
        if let Some(part) = self.partial.remove(&update)
            && planted::has(Bug::PartialBlob)
        {
            self.staged.insert(update, part);
        }
        self.staged.contains_key(&update)
    }

    fn add(
        &mut self,
        study: usize,
        site: SiteId,
        update: Digest,
        (weight, coordinates): (u64, usize),
    ) -> Result<(), Fault> {
        let Some((_, staged)) = self.staged.get(&update) else {
            let detail = "the stage lost it".to_owned();
            return Err(Fault { code: Code::CoordinatorFault, detail });
        };
        let running = &mut self.running[study];
        assert!(running.added.insert(site.clone()), "{site} was added twice");
        let sum = running.sum.get_or_insert_with(|| Sum::new(coordinates));
        let share = sum.admit(weight).unwrap();
        sum.add(share, 0, &units(staged, coordinates)).unwrap();
        Ok(())
    }

    /// A model or state on disk.
    fn keep(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.models.insert(digest, bytes);
        digest
    }

    fn prepare(&mut self, study: usize, terms: &Terms, sites: u64) -> Prepared {
        let sum = self.running[study].sum.as_ref().unwrap();
        assert_eq!(sum.weight(), sites, "every site counts once");
        let (made, sum) = (preparation(terms, sum), sum.digest());
        let preparation = Digest::of(&made);
        self.preparations.insert(preparation, made);
        Prepared { preparation, sum }
    }

    /// A record is on disk that nobody waited for.
    pub(crate) fn written(&mut self, record: Record, now: Millis) {
        self.append(record, now);
    }
}
