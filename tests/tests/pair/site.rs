//! One site's process: a real session, and a driver whose disk is a few maps.

use std::collections::{BTreeMap, BTreeSet};

use consilium_agent::session::{
    Action, ActionId, Decision, Done, Fault, Judged, KnownStudy, Retained, Session, Setup, Trained,
};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::time::Millis;
use consilium_common::update::grid::step_exponent;
use consilium_common::update::sections::{Header, encode_update};
use consilium_common::update::words::{Metrics, Words};
use consilium_common::wire::messages::{Plan, SitePhase, TaskKind};
use consilium_common::wire::reject::Code;
use consilium_common::worker::Outcome;

use super::coordinator::Terms;
use super::sim::{Deed, Event, LinkId, Push, Sim};

pub(crate) struct Site {
    pub(crate) name: SiteId,
    pub(crate) index: usize,
    /// None while the process is down.
    pub(crate) session: Option<Session>,
    pub(crate) life: u64,
    pub(crate) link: Option<LinkId>,
    // On disk.
    judged: bool,
    pub(crate) retained: BTreeMap<Round, Retained>,
    bases: BTreeSet<Digest>,
    /// Every settlement: round, whether it counted, whether an update was there.
    pub(crate) settled: Vec<(Round, bool, bool)>,
    /// Every update that was ever made, by round: one a round.
    pub(crate) made: BTreeMap<Round, (Digest, Vec<u8>)>,
    pub(crate) trainings: u64,
}

/// What the edge has to ask of the world around it.
pub(crate) enum Asked {
    Nothing,
    Close(String),
    Send(Box<consilium_common::wire::messages::Message>),
}

fn judged(terms: &Terms) -> Judged {
    Judged {
        decision: Decision::Accepted,
        why: "within policy".to_owned(),
        schema: Some(terms.schema.clone()),
    }
}

impl Site {
    pub(crate) fn new(index: usize, name: SiteId) -> Self {
        Self {
            name,
            index,
            session: None,
            life: 0,
            link: None,
            judged: false,
            retained: BTreeMap::new(),
            bases: BTreeSet::new(),
            settled: Vec::new(),
            made: BTreeMap::new(),
            trainings: 0,
        }
    }

    pub(crate) fn start(&mut self, terms: &Terms, now: Millis) {
        let known = KnownStudy {
            digest: terms.digest,
            study: terms.study.id().clone(),
            version: 1,
            judged: judged(terms),
        };
        self.life += 1;
        let setup = Setup {
            site: self.name.clone(),
            agent: "consilium-agent 0.1.0".to_owned(),
            studies: self.judged.then_some(known).into_iter().collect(),
            data: [terms.study.id().clone()].into(),
            retained: self.retained.values().cloned().collect(),
            slots: 1,
        };
        self.session = Some(Session::open(setup, now));
    }

    /// The process dies. What was on its way to the disk is there or not.
    pub(crate) fn die(&mut self, terms: &Terms, sim: &mut Sim) {
        let (index, life) = (self.index, self.life);
        self.session = None;
        self.link = None;
        let deeds = sim.take(|event| {
            matches!(event, Event::Did { site, life: of, .. } if (*site, *of) == (index, life))
        });
        for event in deeds {
            let durable = sim.happens(500);
            if let Event::Did { deed, .. } = event
                && durable
            {
                match deed {
                    Deed::Encode { plan } => drop(self.encode(terms, &plan)),
                    Deed::Settle { round, counted } => self.settle(round, counted),
                    Deed::Judge { .. }
                    | Deed::Fetch { .. }
                    | Deed::Train { .. }
                    | Deed::Pushed { .. } => {}
                }
            }
        }
    }

    /// Begins what the session asks for.
    pub(crate) fn perform(&mut self, action: Action, worker_crashes: bool, sim: &mut Sim) -> Asked {
        let (site, life, link) = (self.index, self.life, self.link);
        let did = |id, deed| Event::Did { site, life, id, deed };
        match action {
            Action::Connect => sim.after(1, 300, Event::Opened { site, life }),
            Action::Close { reason } => return Asked::Close(reason),
            Action::Send { message } => return Asked::Send(message),
            Action::JudgeStudy { id, .. } => sim.after(1, 200, did(id, Deed::Judge { link })),
            Action::Fetch { id, plan } => {
                let plan = Box::new(plan);
                sim.after(1, 500, did(id, Deed::Fetch { link, plan }));
            }
            Action::Train { id, .. } => {
                self.trainings += 1;
                sim.after(50, 4_000, did(id, Deed::Train { crashes: worker_crashes }));
                sim.after(0, 400, Event::Moves { site, life, id, batch: 1 });
            }
            Action::Encode { id, plan, .. } => {
                let plan = Box::new(plan);
                sim.after(1, 60, did(id, Deed::Encode { plan }));
            }
            Action::Push { id, retained } => match link {
                Some(link) => {
                    let push = Push { site, life, link, id, retained };
                    sim.after(1, 100, Event::PushBegins { push });
                }
                None => sim.after(1, 10, did(id, Deed::Pushed { went: false })),
            },
            Action::Stop { id } => self.stop(id, sim),
            Action::Settle { id, round, counted, .. } => {
                sim.after(1, 60, did(id, Deed::Settle { round, counted }));
            }
        }
        Asked::Nothing
    }

    /// A fetch or a worker is stopped, and says so unless it was done already.
    fn stop(&self, id: ActionId, sim: &mut Sim) {
        let (site, life) = (self.index, self.life);
        let key = (site, life, id);
        let stopped = sim.take(
            |event| matches!(event, Event::Did { site, life, id, .. } if (*site, *life, *id) == key),
        );
        for event in stopped {
            let deed = match event {
                Event::Did { deed: Deed::Fetch { plan, .. }, .. } => {
                    Deed::Fetch { link: None, plan }
                }
                _ => Deed::Train { crashes: true },
            };
            sim.after(1, 100, Event::Did { site, life, id, deed });
        }
    }

    /// A deed is done, and on disk where it belongs there; its answer.
    pub(crate) fn did(&mut self, terms: &Terms, deed: Deed, link_holds: bool) -> Done {
        let fault = |detail: &str| Fault::passing(Code::SiteFault, detail);
        match deed {
            Deed::Judge { .. } if !link_holds => Done::Judged(Err(fault("connection lost"))),
            Deed::Judge { .. } => {
                self.judged = true;
                Done::Judged(Ok(judged(terms)))
            }
            Deed::Fetch { plan, .. } => {
                let here = self.bases.contains(&plan.base);
                if !here && !link_holds {
                    return Done::Fetched(Err(fault("connection lost")));
                }
                self.bases.insert(plan.base);
                Done::Fetched(Ok(()))
            }
            Deed::Train { crashes: true } => {
                Done::Trained(Err(Fault::passing(Code::WorkerFailed, "killed by signal 9")))
            }
            Deed::Train { crashes: false } => Done::Trained(Ok(Trained {
                outcome: Outcome {
                    examples: 100,
                    holdout: 100,
                    metrics: Metrics(vec![100, 65_536]),
                    ..Outcome::default()
                },
                path: None,
            })),
            Deed::Encode { plan } => Done::Encoded(Ok(self.encode(terms, &plan))),
            Deed::Pushed { went: true } => Done::Pushed(Ok(())),
            Deed::Pushed { went: false } => Done::Pushed(Err(fault("the stream was reset"))),
            Deed::Settle { round, counted } => {
                self.settle(round, counted);
                Done::Settled
            }
        }
    }

    pub(crate) fn moves(&mut self, id: ActionId, batch: u64, now: Millis) {
        if let Some(session) = &mut self.session {
            session.handle_progress(id, SitePhase::Training, batch, 0, now);
        }
    }

    fn settle(&mut self, round: Round, counted: bool) {
        let there = self.retained.remove(&round).is_some();
        self.settled.push((round, counted, there));
    }

    /// The update of a plan: it follows from site, round and base alone, as a seed makes it do.
    fn encode(&mut self, terms: &Terms, plan: &Plan) -> Retained {
        assert!(self.retained.is_empty(), "trained over site state that is not settled");
        let mut seed = blake3::Hasher::new();
        seed.update(self.name.as_str().as_bytes()).update(&plan.base.0);
        let seed = *seed.finalize().as_bytes();
        let shared_len = match plan.task {
            TaskKind::Train => terms.layout.weights_len(),
            TaskKind::Evaluate => 0,
        };
        let units: Vec<i32> =
            seed.iter().take(shared_len).map(|b| (i32::from(*b) - 128) << 18).collect();
        let words = terms.schema.encode(&Words {
            weight: 10 + u64::from(seed[30]),
            clipped: u64::from(seed[31] & 1),
            metrics: Metrics(vec![100, 65_536]),
        });
        let header = Header {
            round: plan.round,
            step_exponent: step_exponent(terms.study.aggregation.clip_norm),
            study: plan.study_digest,
            base: plan.base,
            layout: terms.layout.digest(),
            shared_len,
            words_len: words.len(),
        };
        let bytes = encode_update(&header, &units, &words);
        let retained = Retained {
            study: plan.study.clone(),
            round: plan.round,
            digest: Digest::of(&bytes),
            bytes: bytes.len() as u64,
        };
        self.retained.insert(plan.round, retained.clone());
        let known = self.made.entry(plan.round).or_insert((retained.digest, bytes));
        assert_eq!(known.0, retained.digest, "one update a round");
        retained
    }

    /// Nothing is left to do, and the connection stands.
    pub(crate) fn rests(&self, now: Millis) -> bool {
        let session = self.session.as_ref();
        self.retained.is_empty()
            && session.is_some_and(|session| session.status(now).tasks.is_empty())
    }
}
