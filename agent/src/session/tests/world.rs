//! A whole study, which prepares first, between a session and a small honest coordinator, disturbed
//! at every action in turn: the process dies before or after it, or the connection is lost.

use std::collections::{BTreeMap, VecDeque};

use consilium_common::ids::{Digest, Round};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message};

use super::bench::*;
use crate::session::{
    Action, ActionId, Decision, Done, Fault, Judged, KnownStudy, NextLocal, Promotion, Retained,
    Session, Setup, Stamp, promotion,
};
use consilium_common::wire::reject::Code;

const TROUBLES: [Trouble; 4] =
    [Trouble::DiesBefore, Trouble::DiesWithin, Trouble::DiesAfter, Trouble::LosesConnection];
const ROUNDS: u64 = 3;
const STEPS_MAX: usize = 2_000;

/// What survives the death of the site's process.
#[derive(Default)]
struct Disk {
    judged: Option<Judged>,
    retained: BTreeMap<Round, Retained>,
    /// The next local state of each retained update, a number that should say how many have counted.
    next: BTreeMap<Round, (u64, NextLocal)>,
    /// The current one.
    local: Option<(u64, Stamp)>,
    /// Every settlement in order, with whether an update was there to settle.
    settled: Vec<(u64, bool, bool)>,
}

/// One site's coordinator: a round ends as soon as its update is here.
struct Coordinator {
    round: u64,
    staged: Option<Digest>,
    ended: BTreeMap<u64, Digest>,
    ready: bool,
    offered: BTreeMap<u64, Digest>,
}

impl Coordinator {
    fn greet(&mut self) -> Vec<Message> {
        let offer = m::StudyOffer {
            study: name("mnist"),
            version: 1,
            digest: digest(1),
            bytes: 900,
            signatures: Vec::new(),
        };
        let welcome =
            m::Welcome { coordinator: "consilium 0.1.0".to_owned(), wall: WALL, head: head() };
        self.ready = false;
        vec![welcome.into(), offer.into()]
    }

    fn plan(&self) -> Vec<Message> {
        if !self.ready || self.round > ROUNDS {
            return Vec::new();
        }
        let plan = match self.round {
            1 => prepare_plan("mnist", 1),
            round => prepared_plan("mnist", round),
        };
        vec![plan.into()]
    }

    fn hears(&mut self, message: Message) -> Vec<Message> {
        match message {
            Message::Hello(_) => self.greet(),
            Message::StudyAnswer(answer) => {
                assert_eq!(answer.answer, m::Answer::Accepted);
                self.ready = true;
                self.plan()
            }
            Message::UpdateOffer(offer) => self.offered(&offer),
            Message::TaskFailed(failed) => panic!("{failed:?}"),
            Message::Refusal(refusal) => panic!("{refusal:?}"),
            _ => Vec::new(),
        }
    }

    fn offered(&mut self, offer: &m::UpdateOffer) -> Vec<Message> {
        let first = *self.offered.entry(offer.round.0).or_insert(offer.digest);
        assert_eq!(first, offer.digest, "one digest a round");
        if let Some(counted) = self.ended.get(&offer.round.0) {
            return vec![roll_call("mnist", offer.round.0, Some(*counted))];
        }
        assert_eq!(offer.round.0, self.round, "a round that never was");
        if self.staged == Some(offer.digest) {
            return self.close();
        }
        let update = retained("mnist", self.round);
        vec![wanted(&update).into()]
    }

    /// Receipt, roll call, and the next plan at once.
    fn close(&mut self) -> Vec<Message> {
        let update = retained("mnist", self.round);
        self.ended.insert(self.round, update.digest);
        let ended = self.round;
        self.round += 1;
        self.staged = None;
        let said = [receipt(&update), roll_call("mnist", ended, Some(update.digest))];
        said.into_iter().chain(self.plan()).collect()
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Trouble {
    DiesBefore,
    /// Between the promotion of a local state and the erasure of its update; else before.
    DiesWithin,
    DiesAfter,
    LosesConnection,
}

struct World {
    session: Session,
    disk: Disk,
    coordinator: Coordinator,
    now: Millis,
    connected: bool,
    wire: VecDeque<Message>,
    trains: BTreeMap<u64, u32>,
}

fn open(disk: &Disk, now: Millis) -> Session {
    let study = |judged: &Judged| KnownStudy {
        digest: digest(1),
        study: name("mnist"),
        version: 1,
        judged: judged.clone(),
    };
    let setup = Setup {
        studies: disk.judged.iter().map(study).collect(),
        retained: disk.retained.values().cloned().collect(),
        ..setup()
    };
    Session::open(setup, now)
}

impl Disk {
    fn counted(&self) -> u64 {
        self.local.map_or(0, |(counted, _)| counted)
    }

    fn keep(&mut self, update: Retained) {
        let counted = self.counted() + 1;
        let digest = Digest::of(&counted.to_le_bytes());
        let from = self.local.map(|(_, stamp)| stamp);
        let next = NextLocal { digest, bytes: 8, spec: Digest([3; 32]), from, control: None };
        self.next.insert(update.round, (counted, next));
        self.retained.insert(update.round, update);
    }

    fn promote(&mut self, round: Round) {
        if let Some((counted, next)) = self.next.get(&round) {
            let stamp = Stamp { round, digest: next.digest };
            match promotion(self.local.map(|(_, stamp)| stamp), round, next) {
                Promotion::Due => self.local = Some((*counted, stamp)),
                Promotion::Done => {}
                Promotion::Stale => panic!("round {round} follows from nothing that was current"),
            }
        }
    }

    fn erase(&mut self, round: Round) -> bool {
        self.next.remove(&round);
        self.retained.remove(&round).is_some()
    }
}

impl World {
    fn new() -> Self {
        let (disk, now) = (Disk::default(), Millis(1));
        Self {
            session: open(&disk, now),
            disk,
            coordinator: Coordinator {
                round: 1,
                staged: None,
                ended: BTreeMap::new(),
                ready: false,
                offered: BTreeMap::new(),
            },
            now,
            connected: false,
            wire: VecDeque::new(),
            trains: BTreeMap::new(),
        }
    }

    /// The process dies and starts again.
    fn die(&mut self) {
        self.connected = false;
        self.wire.clear();
        self.coordinator.ready = false;
        self.session = open(&self.disk, self.now);
    }

    fn cut(&mut self) {
        if self.connected {
            self.connected = false;
            self.wire.clear();
            self.coordinator.ready = false;
            self.session.handle_disconnected(1 << 31, self.now);
        }
    }

    fn done(&mut self, done: Option<(ActionId, Done)>) {
        if let Some((id, done)) = done {
            self.session.handle_done(id, done, self.now);
        }
    }

    /// The edge does what is asked; durable at once, the answer to the session comes back.
    fn perform(&mut self, action: Action) -> Option<(ActionId, Done)> {
        match action {
            Action::Connect => {
                self.connected = true;
                self.session.handle_connected(0, WALL, self.now);
                None
            }
            Action::Close { reason } => panic!("{reason}"),
            Action::Send { message } => {
                if self.connected {
                    self.wire.extend(self.coordinator.hears(*message));
                }
                None
            }
            Action::JudgeStudy { id, .. } => {
                self.disk.judged = Some(judged(Decision::Accepted));
                Some((id, Done::Judged(Ok(judged(Decision::Accepted)))))
            }
            Action::Fetch { id, plan } => {
                assert_eq!(plan.task, m::TaskKind::Train, "counts start from nothing");
                assert!(plan.preparation.is_some());
                let fault = || Fault::passing(Code::SiteFault, "no connection");
                let fetched = self.connected.then_some(()).ok_or_else(fault);
                Some((id, Done::Fetched(fetched)))
            }
            Action::Train { id, plan } => {
                assert!(self.disk.retained.is_empty(), "trained over unsettled state");
                assert_eq!(self.disk.counted(), plan.round.0 - 1, "every round before counted");
                *self.trains.entry(plan.round.0).or_default() += 1;
                Some((id, Done::Trained(Ok(trained()))))
            }
            Action::Encode { id, plan, .. } => {
                let update = retained("mnist", plan.round.0);
                self.disk.keep(update.clone());
                Some((id, Done::Encoded(Ok(update))))
            }
            Action::Push { id, retained } => {
                let fault = || Fault::passing(Code::SiteFault, "no connection");
                if self.connected && retained.round.0 == self.coordinator.round {
                    self.coordinator.staged = Some(retained.digest);
                    let said = self.coordinator.close();
                    self.wire.extend(said);
                }
                let pushed = self.connected.then_some(()).ok_or_else(fault);
                Some((id, Done::Pushed(pushed)))
            }
            Action::Stop { .. } | Action::Reported { .. } => None,
            Action::Settle { id, round, counted, .. } => {
                if counted {
                    self.disk.promote(round);
                }
                let there = self.disk.erase(round);
                self.disk.settled.push((round.0, counted, there));
                Some((id, Done::Settled))
            }
        }
    }

    fn finished(&self) -> bool {
        self.coordinator.round > ROUNDS && self.disk.retained.is_empty()
    }

    /// Runs to the end with one trouble at the `at`th action; how many actions that took.
    fn run(&mut self, trouble: Option<(usize, Trouble)>) -> usize {
        let mut actions = 0;
        for _ in 0..STEPS_MAX {
            if self.finished() {
                return actions;
            }
            if let Some(action) = self.session.poll_action() {
                let now_or_never = trouble.filter(|(at, _)| *at == actions).map(|t| t.1);
                actions += 1;
                self.act(action, now_or_never);
            } else if let Some(message) = self.wire.pop_front() {
                self.session.handle_message(message, WALL, self.now);
            } else {
                let at = self.session.next_deadline().expect("a silent hang");
                self.now = self.now.max(at);
                self.session.handle_timeout(self.now);
            }
        }
        panic!("no end after {STEPS_MAX} steps: {:#?}", self.session.status(self.now));
    }

    fn act(&mut self, action: Action, trouble: Option<Trouble>) {
        match trouble {
            None => {
                let done = self.perform(action);
                self.done(done);
            }
            Some(Trouble::DiesBefore) => self.die(),
            Some(Trouble::DiesWithin) => {
                if let Action::Settle { round, counted: true, .. } = action {
                    self.disk.promote(round);
                }
                self.die();
            }
            Some(Trouble::DiesAfter) => {
                self.perform(action);
                self.die();
            }
            Some(Trouble::LosesConnection) => {
                let done = self.perform(action);
                self.cut();
                self.done(done);
            }
        }
    }

    fn check(&self, what: &str) {
        let ended: Vec<u64> = self.coordinator.ended.keys().copied().collect();
        assert_eq!(ended, [1, 2, 3], "{what}");
        let mut settled: Vec<(u64, bool)> = Vec::new();
        for (round, counted, there) in &self.disk.settled {
            assert!(*there, "{what}: round {round} settled twice");
            settled.push((*round, *counted));
        }
        assert_eq!(settled, [(1, true), (2, true), (3, true)], "{what}");
        assert_eq!(self.disk.counted(), ROUNDS, "{what}: the local state");
    }
}

#[test]
fn an_undisturbed_study_trains_each_round_once() {
    let mut world = World::new();
    world.run(None);
    world.check("undisturbed");
    assert_eq!(world.trains, BTreeMap::from([(1, 1), (2, 1), (3, 1)]));
}

#[test]
fn a_death_or_a_lost_connection_at_any_action_loses_nothing_and_settles_once() {
    let actions = World::new().run(None);
    assert!(actions > 20, "{actions}");
    for at in 0..actions {
        for trouble in TROUBLES {
            let mut world = World::new();
            world.run(Some((at, trouble)));
            world.check(&format!("{trouble:?} at action {at}"));
            let most = if trouble == Trouble::LosesConnection { 1 } else { 2 };
            let trains = world.trains.values().copied().max();
            assert!(trains <= Some(most), "{trouble:?} at {at}: {:?}", world.trains);
        }
    }
}

#[test]
fn two_troubles_are_no_worse_than_one() {
    let actions = World::new().run(None);
    for first in 0..actions {
        for (second, trouble) in (0..actions).zip(TROUBLES.iter().cycle()) {
            let mut world = World::new();
            for _ in 0..STEPS_MAX {
                if world.finished() {
                    break;
                }
                world.some_actions(first, *trouble);
                world.some_actions(second, Trouble::LosesConnection);
                world.run(None);
            }
            world.check(&format!("{trouble:?} at {first}, then a loss after {second}"));
        }
    }
}

impl World {
    /// Performs so many actions, then meets with trouble.
    fn some_actions(&mut self, count: usize, trouble: Trouble) {
        let mut left = count;
        while !self.finished() {
            if let Some(action) = self.session.poll_action() {
                if left == 0 {
                    return self.act(action, Some(trouble));
                }
                left -= 1;
                self.act(action, None);
            } else if let Some(message) = self.wire.pop_front() {
                self.session.handle_message(message, WALL, self.now);
            } else {
                let at = self.session.next_deadline().expect("a silent hang");
                self.now = self.now.max(at);
                self.session.handle_timeout(self.now);
            }
        }
    }
}
