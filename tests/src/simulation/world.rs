//! The federation: processes, and what befalls them. `links` carries between them, `events` hands
//! each event to whom it concerns, `strike` does what a fault says.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use consilium_common::ids::StudyId;
use consilium_common::time::Millis;
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;
use consilium_coordinator::round::Command;
use consilium_coordinator::server::sites::Sites;

use super::coordinator::Coordinator;
use super::coverage::{Coverage, Moment};
use super::disk::Death;
use super::fault::{Fault, Kind};
use super::links::Link;
use super::reader::desk;
use super::sim::{Event, LinkId, Sim};
use super::site::{Asked, Of, Site};
use super::terms::{self, Terms};

/// The calendar's time when the simulation starts.
pub(crate) const WALL: u64 = 1_795_000_000_000;
/// A federation that takes longer, in its own time, hangs.
const END: Millis = Millis::from_secs(24 * 3600);
/// So does one of more events.
const EVENTS_MAX: u64 = 400_000;
/// What may be on its way at once, for each site: more is memory that grows.
const PENDING_MAX: usize = 400;

pub(crate) struct World {
    pub(crate) studies: Vec<Terms>,
    pub(crate) sim: Sim,
    pub(crate) coordinator: Coordinator,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    /// The sites' sessions at the coordinator.
    pub(crate) desk: Sites,
    pub(crate) last_link: u64,
    /// Faults to come, the next one last.
    faults: Vec<Fault>,
    actions: u64,
    pub(crate) coverage: Coverage,
    pub(crate) faults_struck: u64,
    /// Since when a site and the coordinator agree that it is ready for a study.
    pub(crate) ready_since: BTreeMap<(usize, usize), Millis>,
    /// Words of each site, to be said again.
    pub(crate) said: Vec<Vec<Message>>,
    /// Words were repeated: what is out of place may be heard.
    pub(crate) is_disturbed: bool,
    pub(crate) stage_was_lost: bool,
    /// Records of the log that were looked at.
    pub(crate) audited: usize,
}

/// The terms of a study by name.
pub(crate) fn terms_of<'a>(studies: &'a [Terms], study: &StudyId) -> &'a Terms {
    studies.iter().find(|terms| terms.study.id() == study).unwrap()
}

/// The study that a message of a round is about; none for any other message.
pub(crate) fn study_of(message: &Message) -> Option<&StudyId> {
    match message {
        Message::Plan(m) => Some(&m.study),
        Message::PlanAnswer(m) => Some(&m.study),
        Message::Progress(m) => Some(&m.study),
        Message::UpdateOffer(m) => Some(&m.study),
        Message::UpdateWanted(m) => Some(&m.study),
        Message::UpdateRefused(m) => Some(&m.study),
        Message::TaskFailed(m) => Some(&m.study),
        _ => None,
    }
}

impl World {
    pub(crate) fn new(seed: u64, faults: &[Fault]) -> Self {
        let mut sim = Sim::new(seed);
        let studies = terms::draw(seed, &mut sim);
        let names = studies[0].roster.iter().cloned().enumerate();
        let sites: Vec<Site> = names.map(|(index, name)| Site::new(index, name)).collect();
        let mut world = Self {
            coordinator: Coordinator::new(&studies),
            said: sites.iter().map(|_| Vec::new()).collect(),
            sites,
            links: BTreeMap::new(),
            desk: desk(),
            last_link: 0,
            faults: faults.iter().rev().copied().collect(),
            actions: 0,
            coverage: Coverage::default(),
            faults_struck: 0,
            ready_since: BTreeMap::new(),
            is_disturbed: false,
            stage_was_lost: false,
            audited: 0,
            studies,
            sim,
        };
        world.sim.after(0, 3_000, Event::CoordinatorStarts);
        for site in 0..world.sites.len() {
            world.sim.after(0, 3_000, Event::SiteStarts { site });
        }
        world
    }

    pub(crate) fn index_of(&self, study: &StudyId) -> usize {
        self.studies.iter().position(|terms| terms.study.id() == study).unwrap()
    }

    /// Runs until every study has ended and every site is at rest.
    pub(crate) fn run(&mut self) {
        for _ in 0..EVENTS_MAX {
            self.act();
            self.audit();
            let over = self.studies.iter().all(|terms| self.coordinator.is_over(terms));
            if over && self.sites.iter().all(|site| site.rests(self.sim.now)) {
                return;
            }
            assert!(self.sim.now < END, "hangs: {}", self.story());
            let pending = self.sim.pending();
            assert!(pending < PENDING_MAX * self.sites.len(), "{pending} events are on their way");
            self.step();
        }
        panic!("no end: {}", self.story());
    }

    /// The next event, or the next deadline if it comes first.
    fn step(&mut self) {
        let clock = self.coordinator.clock(self.sim.now);
        let now = self.sim.now;
        let engines = self.coordinator.running.iter();
        // A deadline lies as far ahead as the engines' clock says.
        let engines = engines.filter_map(|running| running.engine.next_deadline());
        let engine = engines.min().map(|at| now + at.since(clock));
        let sessions = self.sites.iter().filter_map(|site| site.session.as_ref()?.next_deadline());
        let timer = engine.into_iter().chain(sessions).min();
        let event = self.sim.next_time();
        match (timer, event) {
            (Some(timer), event) if event.is_none_or(|event| timer < event) => {
                self.sim.now = self.sim.now.max(timer);
                self.wake();
            }
            (_, Some(_)) => {
                let event = self.sim.next().unwrap();
                self.handle(event);
            }
            (_, None) => panic!("a silent hang: {}", self.story()),
        }
    }

    fn wake(&mut self) {
        let now = self.sim.now;
        let clock = self.coordinator.clock(now);
        for running in &mut self.coordinator.running {
            if running.engine.next_deadline().is_some_and(|at| at <= clock) {
                running.engine.handle_timeout(clock);
            }
        }
        for session in self.sites.iter_mut().filter_map(|site| site.session.as_mut()) {
            if session.next_deadline().is_some_and(|at| at <= now) {
                session.handle_timeout(now);
            }
        }
    }

    /// Whatever the state machines ask for.
    fn act(&mut self) {
        loop {
            let mut acted = false;
            for study in 0..self.studies.len() {
                while let Some(action) =
                    self.coordinator.engine(study).and_then(|engine| engine.poll_action())
                {
                    acted = true;
                    self.act_at_coordinator(study, action);
                }
            }
            for site in 0..self.sites.len() {
                while let Some(action) =
                    self.sites[site].session.as_mut().and_then(|s| s.poll_action())
                {
                    acted = true;
                    self.act_at(site, action);
                }
            }
            if !acted {
                return;
            }
        }
    }

    fn act_at_coordinator(&mut self, study: usize, action: consilium_coordinator::round::Action) {
        let name = action.name();
        let fault = self.next_fault(study);
        if let Some(Fault { kind: Kind::DiesBefore, .. }) = fault {
            self.count_crash("coordinator", name, Kind::DiesBefore);
            return self.coordinator_dies(Death::Process);
        }
        if let consilium_coordinator::round::Action::Strike { site, code, detail } = &action {
            let of_site = self.sites.iter().find(|one| one.name == *site).unwrap();
            // One that went back to a backup trains from an older local state.
            let again = of_site.restored && *code == Code::Equivocation;
            // What was made for a round that the log forgot has another base than that number has now,
            // or, a score instead of an update, another size; where only its end was forgotten, a site
            // that has followed it trains from a newer local state.
            let forgotten = |(study, round): &Of| self.coordinator.has_forgotten(study, *round);
            let fits = matches!(
                code,
                Code::WrongRound | Code::WrongShape | Code::TooLarge | Code::Equivocation
            );
            let ahead = fits && of_site.made.keys().any(forgotten);
            let bad = !of_site.bad.is_empty() || again || ahead;
            assert!(bad, "an honest site is put out: {site}, {code}: {detail}");
        }
        let terms = &self.studies[study];
        if let consilium_coordinator::round::Action::SendRollCall { round, .. } = &action
            && !self.coordinator.reads_roll_call(terms, *round)
        {
            // The store's answer ends the process; the start sees the damage.
            return self.coordinator_dies(Death::Process);
        }
        if let Some((site, message)) = self.coordinator.perform(study, terms, action, &mut self.sim)
        {
            let at = terms.roster.iter().position(|name| *name == site).unwrap();
            self.send_down(at, message);
        }
        match fault {
            Some(Fault { kind: Kind::DiesAfter, .. }) => {
                self.count_crash("coordinator", name, Kind::DiesAfter);
                self.coordinator_dies(Death::Process);
            }
            Some(fault) => self.strike(fault),
            None => {}
        }
    }

    fn act_at(&mut self, site: usize, action: consilium_agent::session::Action) {
        let name = action.name();
        let fault = self.next_fault(0);
        if let Some(Fault { kind: Kind::DiesBefore, .. }) = fault {
            self.count_crash("agent", name, Kind::DiesBefore);
            return self.site_dies(site, Death::Process);
        }
        match self.sites[site].perform(action, &self.studies, &mut self.sim) {
            Asked::Nothing => {}
            Asked::Close => self.cut(site),
            Asked::Send(message) => self.send_up(site, message),
        }
        match fault {
            Some(Fault { kind: Kind::DiesAfter, .. }) => {
                self.count_crash("agent", name, Kind::DiesAfter);
                self.site_dies(site, Death::Process);
            }
            Some(fault) => self.strike(fault),
            None => {}
        }
    }

    /// The fault whose moment has come, counted.
    fn next_fault(&mut self, study: usize) -> Option<Fault> {
        self.actions += 1;
        let fault = self.faults.pop_if(|fault| fault.at <= self.actions)?;
        self.faults_struck += 1;
        let now = self.sim.now;
        let moment = match self.coordinator.engine(study) {
            Some(engine) => engine.status(now).phase.into(),
            None => Moment::Down,
        };
        *self.coverage.faults.entry((fault.kind, moment)).or_default() += 1;
        Some(fault)
    }

    fn count_crash(&mut self, actor: &'static str, action: &'static str, side: Kind) {
        *self.coverage.crashes.entry((actor, action, side)).or_default() += 1;
    }

    /// A damaged log stops the start; its operator takes a while to bring the copy back.
    pub(crate) fn coordinator_starts(&mut self) {
        let before = self.coordinator.forgot;
        let starts = self.coordinator.start(&self.studies, self.sim.now);
        if !starts {
            self.coverage.restored += 1;
            self.sim.after(5_000, 300_000, Event::CoordinatorStarts);
        }
        if self.coordinator.forgot > before {
            self.coverage.shortened += u64::from(starts);
            self.audited = self.audited.min(self.coordinator.log.len());
            // What was said last is lost: that a study goes on, above all.
            for study in 0..self.studies.len() {
                let command = Command::Start;
                self.sim.after(300_000, 400_000, Event::Commanded { study, command });
            }
        }
    }

    pub(crate) fn coordinator_dies(&mut self, death: Death) {
        if !self.coordinator.is_up() {
            return;
        }
        self.coordinator.die(death, &mut self.sim);
        self.desk = desk();
        self.ready_since.clear();
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.drop_link(link);
        }
        self.sim.after(10, 15_000, Event::CoordinatorStarts);
    }

    pub(crate) fn site_dies(&mut self, site: usize, death: Death) {
        if self.sites[site].session.is_none() {
            return;
        }
        let link = self.sites[site].link;
        self.sites[site].die(death, &self.studies, &mut self.sim);
        if let Some(link) = link {
            self.drop_link(link);
        }
        self.sim.after(10, 15_000, Event::SiteStarts { site });
    }

    /// Where everybody stands, for a failure.
    fn story(&self) -> String {
        let now = self.sim.now;
        let mut story = format!("at {now}");
        for status in self.coordinator.running.iter().map(|running| running.engine.status(now)) {
            let (study, round, phase) = (status.study, status.round, status.phase);
            let waits = status.waiting_for.join("; ");
            let _ =
                write!(story, "\n  {study} round {round} {phase:?} {:?}: {waits}", status.state);
        }
        for site in &self.sites {
            let retained: Vec<_> = site.disk.retained.keys().collect();
            let link = site.link.and_then(|link| self.links.get(&link));
            let _ = write!(story, "\n  {}: retains {retained:?}, link {link:?}", site.name);
            if let Some(session) = &site.session {
                let status = session.status(now);
                let _ = write!(story, ", {:?}, tasks {:?}", status.connection.state, status.tasks);
            }
        }
        story
    }
}
