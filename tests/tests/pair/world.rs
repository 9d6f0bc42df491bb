//! The federation: processes, and what befalls them. `links` carries between them, `events` hands
//! each event to whom it concerns.

use std::collections::BTreeMap;

use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::time::Millis;
use consilium_common::update::words::Schema;

use super::coordinator::{Coordinator, Terms};
use super::links::Link;
use super::sim::{Event, LinkId, Sim};
use super::site::{Asked, Site};

/// The calendar's time when the simulation starts.
pub(crate) const WALL: u64 = 1_795_000_000_000;
/// A federation that takes longer, in its own time, hangs.
const END: Millis = Millis::from_secs(6 * 3600);
/// So does one of more events.
const EVENTS_MAX: u64 = 200_000;

/// What befalls a process or a link at an action.
#[derive(Debug, Clone, Copy)]
enum Trouble {
    DiesBefore,
    DiesAfter,
    Cut(usize),
}

pub(crate) struct World {
    pub(crate) terms: Terms,
    pub(crate) sim: Sim,
    pub(crate) coordinator: Coordinator,
    pub(crate) sites: Vec<Site>,
    pub(crate) links: BTreeMap<LinkId, Link>,
    pub(crate) last_link: u64,
    troubles_left: u64,
    /// Of a thousand actions, so many meet with trouble.
    trouble_rate: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
}

fn terms(sim: &mut Sim) -> Terms {
    let sites = sim.between(1, 5);
    let min_sites = sim.between(1, sites);
    let rounds = sim.between(1, 4);
    let text = format!(
        "[study]\nname = \"demo\"\nseed = 7\n[model]\nfamily = \"synthetic\"\nparameters = 5\n\
         [training]\nrounds = {rounds}\n[aggregation]\nclip_norm = 10.0\n\
         [cohort]\nmin_sites = {min_sites}\nmax_examples = 1000\ndeadline = \"60s\"\n\
         idle_timeout = \"10s\"\n[privacy]\nmode = \"inspectable\""
    );
    let study = Study::read(&text, "demo.toml").unwrap().resolve().unwrap();
    let key = SecretKey::from_seed(&[9; 32]);
    let signed = Signed::<Study>::sign(study.to_text().unwrap().into_bytes(), &key);
    Terms {
        digest: signed.digest(),
        layout: study.layout().unwrap(),
        schema: Schema::of(&study),
        roster: (0..sites).map(|n| format!("site-{n}").parse().unwrap()).collect(),
        study,
        signed,
        key,
    }
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut sim = Sim::new(seed);
        let terms = terms(&mut sim);
        let sites = terms.roster.iter().cloned().enumerate();
        let sites = sites.map(|(index, name)| Site::new(index, name)).collect();
        let mut world = Self {
            coordinator: Coordinator::new(&terms),
            sites,
            links: BTreeMap::new(),
            last_link: 0,
            troubles_left: sim.between(0, 14),
            trouble_rate: sim.between(5, 120),
            crashes: 0,
            cuts: 0,
            terms,
            sim,
        };
        world.sim.after(0, 3_000, Event::CoordinatorStarts);
        for site in 0..world.sites.len() {
            world.sim.after(0, 3_000, Event::SiteStarts { site });
        }
        world
    }

    /// Runs until the study is complete and every site is at rest.
    pub(crate) fn run(&mut self) {
        for _ in 0..EVENTS_MAX {
            self.act();
            let rest = self.sites.iter().all(|site| site.rests(self.sim.now));
            if rest && self.coordinator.is_complete(&self.terms) {
                return;
            }
            assert!(self.sim.now < END, "hangs: {}", self.story());
            self.step();
        }
        panic!("no end: {}", self.story());
    }

    /// The next event, or the next deadline if it comes first.
    fn step(&mut self) {
        let engine = self.coordinator.engine.as_ref().and_then(|e| e.next_deadline());
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
        if let Some(engine) = &mut self.coordinator.engine
            && engine.next_deadline().is_some_and(|at| at <= now)
        {
            engine.handle_timeout(now);
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
            while let Some(action) = self.coordinator.engine.as_mut().and_then(|e| e.poll_action())
            {
                acted = true;
                let trouble = self.trouble();
                if matches!(trouble, Some(Trouble::DiesBefore)) {
                    self.coordinator_dies();
                    break;
                }
                if let Some((site, message)) = self.coordinator.perform(action, &mut self.sim) {
                    let at = self.terms.roster.iter().position(|name| *name == site).unwrap();
                    self.send_down(at, message);
                }
                match trouble {
                    Some(Trouble::DiesAfter) => self.coordinator_dies(),
                    Some(Trouble::Cut(site)) => self.cut(site),
                    Some(Trouble::DiesBefore) | None => {}
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

    fn act_at(&mut self, site: usize, action: consilium_agent::session::Action) {
        let trouble = self.trouble();
        if matches!(trouble, Some(Trouble::DiesBefore)) {
            return self.site_dies(site);
        }
        let worker_crashes = self.troubles_left > 0 && self.sim.happens(30);
        match self.sites[site].perform(action, worker_crashes, &mut self.sim) {
            Asked::Nothing => {}
            Asked::Close(reason) => panic!("{reason}"),
            Asked::Send(message) => self.send_up(site, message),
        }
        match trouble {
            Some(Trouble::DiesAfter) => self.site_dies(site),
            Some(Trouble::Cut(site)) => self.cut(site),
            Some(Trouble::DiesBefore) | None => {}
        }
    }

    fn trouble(&mut self) -> Option<Trouble> {
        if self.troubles_left == 0 || !self.sim.happens(self.trouble_rate) {
            return None;
        }
        self.troubles_left -= 1;
        let sites = self.sites.len() as u64;
        Some(match self.sim.between(0, 3) {
            0 => Trouble::DiesBefore,
            1 => Trouble::DiesAfter,
            _ => Trouble::Cut(usize::try_from(self.sim.between(0, sites - 1)).unwrap()),
        })
    }

    fn coordinator_dies(&mut self) {
        self.crashes += 1;
        self.coordinator.die(&mut self.sim);
        let links: Vec<LinkId> = self.links.keys().copied().collect();
        for link in links {
            self.drop_link(link);
        }
        self.sim.after(10, 15_000, Event::CoordinatorStarts);
    }

    fn site_dies(&mut self, site: usize) {
        self.crashes += 1;
        let link = self.sites[site].link;
        self.sites[site].die(&self.terms, &mut self.sim);
        if let Some(link) = link {
            self.drop_link(link);
        }
        self.sim.after(10, 15_000, Event::SiteStarts { site });
    }

    /// Where everybody stands, for a failure.
    fn story(&self) -> String {
        let now = self.sim.now;
        let engine = self.coordinator.engine.as_ref().map(|e| e.status(now));
        let sessions = self.sites.iter().filter_map(|s| Some(s.session.as_ref()?.status(now)));
        let sessions: Vec<_> = sessions.collect();
        format!("at {now}: {engine:#?}\n{sessions:#?}")
    }
}
