//! One site's process: a real session, and a driver whose disk is a few maps.

mod deeds;

use std::collections::{BTreeMap, BTreeSet};

use consilium_agent::policy::Moment;
use consilium_agent::session::{Action, ActionId, KnownStudy, Session, Setup};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{Message, Plan, SitePhase};

use self::deeds::judged;
use super::disk::Death;
use super::kept::{Cache, Kept};
use super::local::LocalStates;
use super::rot::{Download, Trickle};
use super::sim::{Deed, Event, LinkId, Push, Sim};
use super::terms::Terms;

/// A round of a study.
pub(crate) type Of = (StudyId, Round);

/// Bytes that came over a connection, by the digest that was asked for.
pub(crate) type Sent = BTreeMap<Digest, Vec<u8>>;

/// What outlives the process.
#[derive(Clone, Default)]
pub(crate) struct Disk {
    judged: BTreeSet<StudyId>,
    pub(crate) retained: BTreeMap<Of, Kept>,
    pub(crate) cache: Cache,
    pub(crate) local: LocalStates,
}

pub(crate) struct Site {
    pub(crate) name: SiteId,
    pub(crate) index: usize,
    /// None while the process is down.
    pub(crate) session: Option<Session>,
    pub(crate) life: u64,
    pub(crate) link: Option<LinkId>,
    pub(crate) disk: Disk,
    /// Copies of the disk, the newest last.
    pub(crate) backups: Vec<Disk>,
    /// Went back to a backup: may do again what it has done.
    pub(crate) restored: bool,
    /// Every settlement: round, whether it counted, whether an update was there.
    pub(crate) settled: Vec<(Of, bool, bool)>,
    /// Every update that was ever made, by round and digest: one a round, unless the site went back to
    /// a backup, or the log did.
    pub(crate) made: BTreeMap<Of, BTreeMap<Digest, Made>>,
    /// Rounds whose retained update could not be read any more.
    pub(crate) set_aside: BTreeSet<Of>,
    /// A base is on its way, slowly.
    pub(crate) downloads: Option<Download>,
    /// Rounds whose update breaks a rule on purpose.
    pub(crate) bad: BTreeSet<Of>,
    /// Rounds for which it said that it cannot deliver.
    pub(crate) gave_up: BTreeSet<Of>,
    /// Until when nothing reaches the coordinator from here.
    pub(crate) cut_off_until: Millis,
    // Faults that wait for their moment.
    pub(crate) workers_to_die: u32,
    pub(crate) workers_to_hang: u32,
    pub(crate) disk_full: bool,
    pub(crate) next_is_bad: bool,
    /// Parts in which the next base comes; 0: at once.
    pub(crate) slow_fetch: u64,
}

/// What a deed has of the coordinator when it ends.
#[derive(Clone, Copy)]
pub(crate) struct Reached<'a> {
    /// The connection holds.
    pub(crate) coordinator: bool,
    /// What was fetched over it, as it came.
    pub(crate) sent: Option<&'a Sent>,
}

/// An update as it was made.
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    /// What the local state said that it was trained from.
    pub(crate) counted: u64,
}

/// What a plan names that has to come before a worker starts.
pub(crate) fn named(plan: &Plan) -> impl Iterator<Item = Digest> + use<> {
    let preparation = plan.preparation.map(|blob| blob.digest);
    let control = plan.control.and_then(|control| control.common).map(|blob| blob.digest);
    [Some(plan.base), preparation, control].into_iter().flatten()
}

/// What the edge has to ask of the world around it.
pub(crate) enum Asked {
    Nothing,
    Close,
    Send(Box<Message>),
}

fn of_plan(plan: &Plan) -> Of {
    (plan.study.clone(), plan.round)
}

impl Site {
    pub(crate) fn new(index: usize, name: SiteId) -> Self {
        Self {
            name,
            index,
            session: None,
            life: 0,
            link: None,
            disk: Disk::default(),
            backups: Vec::new(),
            restored: false,
            settled: Vec::new(),
            made: BTreeMap::new(),
            set_aside: BTreeSet::new(),
            downloads: None,
            slow_fetch: 0,
            bad: BTreeSet::new(),
            gave_up: BTreeSet::new(),
            cut_off_until: Millis::ZERO,
            workers_to_die: 0,
            workers_to_hang: 0,
            disk_full: false,
            next_is_bad: false,
        }
    }

    pub(crate) fn start(&mut self, studies: &[Terms], now: Millis) {
        let known = |terms: &Terms| KnownStudy {
            digest: terms.digest,
            study: terms.study.id().clone(),
            version: 1,
            judged: judged(terms),
        };
        self.life += 1;
        let mut whole = Vec::new();
        self.disk.retained.retain(|of, kept| match kept.read() {
            Some(retained) => {
                whole.push(retained);
                true
            }
            None => {
                self.set_aside.insert(of.clone());
                false
            }
        });
        self.backups.push(self.disk.clone());
        let kept = studies.iter().filter(|terms| self.disk.judged.contains(terms.study.id()));
        let setup = Setup {
            site: self.name.clone(),
            agent: "consilium-agent 0.1.0".to_owned(),
            studies: kept.map(known).collect(),
            data: studies.iter().map(|terms| terms.study.id().clone()).collect(),
            retained: whole,
            moment: Moment::default(),
            withdrawals: Vec::new(),
        };
        self.session = Some(Session::open(setup, now));
    }

    /// The process dies. What was on its way to the disk is there or not.
    pub(crate) fn die(&mut self, death: Death, studies: &[Terms], sim: &mut Sim) {
        let (index, life) = (self.index, self.life);
        self.session = None;
        self.link = None;
        self.downloads = None;
        if death == Death::Power {
            self.disk.cache.crash(sim);
        }
        let deeds = sim.take(|event| {
            matches!(event, Event::Did { site, life: of, .. } if (*site, *of) == (index, life))
        });
        for event in deeds {
            let durable = sim.happens(500);
            if let Event::Did { deed: Deed::Settle { study, round, counted: true }, .. } = &event
                && sim.happens(300)
            {
                // It dies between the promotion and the erasure.
                self.promote(&(study.clone(), *round));
            }
            if let Event::Did { deed, .. } = event
                && durable
            {
                match deed {
                    Deed::Encode { plan, disk_full: false } if self.has_base_for(&plan) => {
                        self.encode(super::world::terms_of(studies, &plan.study), &plan);
                    }
                    Deed::Settle { study, round, counted } => self.settle((study, round), counted),
                    Deed::Encode { .. }
                    | Deed::Judge { .. }
                    | Deed::Fetch { .. }
                    | Deed::Train { .. }
                    | Deed::Pushed { .. } => {}
                }
            }
        }
    }

    /// Begins what the session asks for.
    pub(crate) fn perform(&mut self, action: Action, studies: &[Terms], sim: &mut Sim) -> Asked {
        let (site, life, link) = (self.index, self.life, self.link);
        let did = |id, deed| Event::Did { site, life, id, deed };
        match action {
            Action::Connect => sim.after(1, 300, Event::Opened { site, life }),
            Action::Close { .. } => return Asked::Close,
            Action::Send { message } => {
                if let Message::TaskFailed(failed) = &*message {
                    self.gave_up.insert((failed.study.clone(), failed.round));
                }
                return Asked::Send(message);
            }
            Action::JudgeStudy { id, offer } => {
                let study = studies.iter().position(|terms| *terms.study.id() == offer.study);
                let study = study.unwrap();
                sim.after(1, 200, did(id, Deed::Judge { study, link }));
            }
            Action::Fetch { id, plan } => {
                let plan = Box::new(plan);
                match std::mem::take(&mut self.slow_fetch) {
                    0 => sim.after(1, 500, did(id, Deed::Fetch { link, plan })),
                    left => {
                        let trickle = Trickle { site, life, id, link, plan, left };
                        sim.after(1, 500, Event::Trickles { trickle });
                    }
                }
            }
            Action::Train { id, plan } => self.train(id, Box::new(plan), sim),
            Action::Encode { id, plan, .. } => {
                let (plan, disk_full) = (Box::new(plan), std::mem::take(&mut self.disk_full));
                let first = !self.made.contains_key(&of_plan(&plan));
                if first && std::mem::take(&mut self.next_is_bad) {
                    self.bad.insert(of_plan(&plan));
                }
                sim.after(1, 60, did(id, Deed::Encode { plan, disk_full }));
            }
            Action::Push { id, retained } => match link {
                Some(link) => {
                    let push = Push { site, life, link, id, retained };
                    sim.after(1, 100, Event::PushBegins { push });
                }
                None => sim.after(1, 10, did(id, Deed::Pushed { went: false })),
            },
            Action::Stop { id } => self.stop(id, sim),
            // Nobody withdraws here.
            Action::Reported { .. } => {}
            Action::Settle { id, study, round, counted } => {
                sim.after(1, 60, did(id, Deed::Settle { study, round, counted }));
            }
        }
        Asked::Nothing
    }

    fn train(&mut self, id: ActionId, plan: Box<Plan>, sim: &mut Sim) {
        let (site, life) = (self.index, self.life);
        let did = |crashes| Event::Did { site, life, id, deed: Deed::Train { plan, crashes } };
        if self.workers_to_hang > 0 {
            // The daemon kills it after the study's idle timeout; nothing moves before.
            self.workers_to_hang -= 1;
            return sim.after(10_000, 10_200, did(true));
        }
        let crashes = self.workers_to_die > 0;
        self.workers_to_die = self.workers_to_die.saturating_sub(1);
        sim.after(50, 4_000, did(crashes));
        sim.after(0, 400, Event::Moves { site, life, id, batch: 1 });
    }

    /// A fetch or a worker is stopped, and says so unless it was done already.
    fn stop(&mut self, id: ActionId, sim: &mut Sim) {
        let (site, life) = (self.index, self.life);
        let key = (site, life, id);
        let stopped = sim.take(|event| match event {
            Event::Did { site, life, id, .. } => (*site, *life, *id) == key,
            Event::Trickles { trickle } => (trickle.site, trickle.life, trickle.id) == key,
            _ => false,
        });
        self.downloads = None;
        for event in stopped {
            let deed = match event {
                Event::Did { deed: Deed::Fetch { plan, .. }, .. }
                | Event::Trickles { trickle: Trickle { plan, .. } } => {
                    Deed::Fetch { link: None, plan }
                }
                Event::Did { deed: Deed::Train { plan, .. }, .. } => {
                    Deed::Train { plan, crashes: true }
                }
                other => panic!("{other:?} cannot be stopped"),
            };
            sim.after(1, 100, Event::Did { site, life, id, deed });
        }
    }

    pub(crate) fn moves(&mut self, id: ActionId, batch: u64, now: Millis) {
        if let Some(session) = &mut self.session {
            session.handle_progress(id, SitePhase::Training, batch, 0, now);
        }
    }

    /// The bytes of an update that this site has made.
    pub(crate) fn bytes_of(&self, of: &Of, update: Digest) -> Option<&[u8]> {
        self.made.get(of)?.get(&update).map(|made| made.bytes.as_slice())
    }

    /// What a push of it sends: the file, however it is, or what was open when the file went.
    pub(crate) fn sends(&self, of: &Of, update: Digest) -> Vec<u8> {
        let kept = self.disk.retained.get(of).map(Kept::update);
        kept.or_else(|| self.bytes_of(of, update)).unwrap().to_vec()
    }

    /// Nothing is left to do, and the connection stands.
    pub(crate) fn rests(&self, now: Millis) -> bool {
        let session = self.session.as_ref();
        self.disk.retained.is_empty()
            && session.is_some_and(|session| session.status(now).tasks.is_empty())
    }
}
