//! What happens, and whom it concerns.

use consilium_agent::session as agent;
use consilium_common::audit::Checkpoint;
use consilium_common::signed::Signed;
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message};
use consilium_common::wire::reject::Code;
use consilium_coordinator::round::{self, Command, Done, SiteMessage};

use super::disk::Death;
use super::links::Link;
use super::sim::{Deed, Event, LinkId, Work};
use super::site::Reached;
use super::world::{World, study_of};

/// Words of a site that it may say again later.
const SAID_MAX: usize = 40;

impl World {
    pub(crate) fn handle(&mut self, event: Event) {
        let now = self.sim.now;
        match event {
            Event::CoordinatorStarts => self.coordinator_starts(),
            Event::SiteStarts { site } => self.sites[site].start(&self.studies, now),
            Event::Opened { site, life } if self.sites[site].life == life => self.opened(site),
            Event::Up { link, message } => self.heard(link, *message),
            Event::Down { link, message } => self.told(link, *message),
            Event::Lost { site, life, link } => self.lost(site, life, link),
            Event::Gone { site, life, link } => self.gone(site, life, link),
            Event::Quick { link } => {
                if let Some(link) = self.links.get_mut(&link) {
                    link.extra = Millis::ZERO;
                }
            }
            Event::IdleOut { link } => self.drop_link(link),
            Event::Worked { life, study, id, work } if self.coordinator.life == life => {
                self.worked(study, id, work);
            }
            Event::Written { life, record } if self.coordinator.life == life => {
                self.coordinator.written(*record, now);
            }
            Event::Did { site, life, id, deed } if self.sites[site].life == life => {
                self.did(site, id, deed);
            }
            Event::Moves { site, life, id, batch } if self.sites[site].life == life => {
                self.sites[site].moves(id, batch, now);
                if batch < 10 {
                    let batch = batch + 1;
                    self.sim.after(300, 500, Event::Moves { site, life, id, batch });
                }
            }
            Event::Trickles { trickle } => self.trickles(trickle),
            Event::Reads { link } => self.reads(link),
            Event::BlobsMended => self.coordinator.mend_blobs(),
            Event::PushBegins { push } => self.push_begins(push),
            Event::PushEnds { push } => self.push_ends(push),
            Event::ClockRight => self.coordinator.wall_offset = 0,
            Event::Commanded { study, command } => self.commanded(study, command),
            Event::Opened { .. }
            | Event::Worked { .. }
            | Event::Written { .. }
            | Event::Did { .. }
            | Event::Moves { .. } => {}
        }
    }

    /// An operator's command; one that does not fit is refused and changes nothing.
    pub(crate) fn commanded(&mut self, study: usize, command: Command) {
        let now = self.coordinator.clock(self.sim.now);
        let Some(engine) = self.coordinator.engine(study) else {
            // Nobody answers: the operator tries again.
            return self.sim.after(1_000, 5_000, Event::Commanded { study, command });
        };
        let taken = engine.handle_command(command, "olga", now);
        if command == Command::Pause && taken.is_ok() {
            let command = Command::Start;
            self.sim.after(1_000, 60_000, Event::Commanded { study, command });
        }
        if command == Command::Start && taken.is_ok() {
            // Durable only once its record is: a death before loses the command, and the operator,
            // who was not answered, says it again. A running study refuses it.
            self.sim.after(30_000, 30_000, Event::Commanded { study, command });
        }
    }

    fn lost(&mut self, site: usize, life: u64, link: LinkId) {
        let jitter = self.sim.jitter();
        let site = &mut self.sites[site];
        if site.life == life && site.link == Some(link) {
            site.link = None;
            if let Some(session) = &mut site.session {
                session.handle_disconnected(jitter, self.sim.now);
            }
        }
    }

    fn gone(&mut self, site: usize, life: u64, link: LinkId) {
        let of_site = |(id, other): (&LinkId, &Link)| other.site == site && *id > link;
        let newer = self.links.iter().any(of_site);
        if self.coordinator.life != life || newer {
            return;
        }
        let name = self.sites[site].name.clone();
        let now = self.coordinator.clock(self.sim.now);
        for running in &mut self.coordinator.running {
            running.engine.handle_site_gone(&name, now);
        }
        self.ready_since.retain(|(of, _), _| *of != site);
    }

    fn worked(&mut self, study: usize, id: round::ActionId, work: Work) {
        if !self.coordinator.is_up() {
            return;
        }
        let fails = matches!(work, Work::Persist(_)) && self.coordinator.disk_fails;
        if fails {
            // The record may be there or not; nothing can be promised, so the process stops.
            self.coordinator.disk_fails = false;
            return self.coordinator_dies(Death::Process);
        }
        let done = self.coordinator.worked(study, &self.studies[study], work, self.sim.now);
        if matches!(done, Done::Aggregated(Err(_))) {
            self.rot_is_noticed();
        }
        let now = self.coordinator.clock(self.sim.now);
        if let Some(engine) = self.coordinator.engine(study) {
            engine.handle_done(id, done, now);
        }
    }

    fn did(&mut self, site: usize, id: agent::ActionId, deed: Deed) {
        let sent = match &deed {
            Deed::Fetch { link, plan } => self.blobs_for(*link, plan),
            _ => None,
        };
        let coordinator = match &deed {
            Deed::Judge { link, .. } => {
                let link = link.and_then(|link| self.links.get(&link));
                link.is_some_and(|link| !link.half_open)
            }
            _ => true,
        };
        let reached = Reached { coordinator, sent: sent.as_ref() };
        let site = &mut self.sites[site];
        // Between death and start nobody is there to do it, or to hear of it.
        if site.session.is_none() {
            return;
        }
        let done = site.did(&self.studies, deed, reached);
        let rotten = matches!(&done, agent::Done::Fetched(Err(fault)) if fault.code == Code::CoordinatorFault);
        if let Some(session) = &mut site.session {
            session.handle_done(id, done, self.sim.now);
        }
        if rotten {
            self.rot_is_noticed();
        }
    }

    /// The server: greets, and hands to an engine what is an engine's.
    fn heard(&mut self, link: LinkId, message: Message) {
        let Some(site) = self.links.get(&link).map(|link| link.site) else {
            return;
        };
        if !self.coordinator.is_up() {
            return;
        }
        match message {
            Message::Hello(_) => self.greet(link, site),
            Message::StudyAnswer(answer) => {
                let study = self.studies.iter().position(|terms| terms.digest == answer.digest);
                let (Some(study), m::Answer::Accepted) = (study, answer.answer) else {
                    return;
                };
                let name = self.sites[site].name.clone();
                let now = self.coordinator.clock(self.sim.now);
                self.ready_since.entry((site, study)).or_insert(self.sim.now);
                if let Some(engine) = self.coordinator.engine(study) {
                    engine.handle_site_ready(&name, now);
                }
            }
            Message::Heartbeat(_) => {}
            // Replays and repetitions on the other side may be out of place at the site. An update that the
            // log has a receipt of, when a start looks for it and finds it lost, is in no old backup, and
            // was let go after a roll call that the log has forgotten.
            Message::Refusal(refusal) => {
                let site = &self.sites[site];
                let let_go = self.coordinator.has_forgotten_an_end();
                let fits = self.is_disturbed || site.restored || let_go;
                assert!(fits, "{} refused {refusal:?}", site.name);
            }
            message => {
                if self.said[site].len() < SAID_MAX {
                    self.said[site].push(message.clone());
                }
                self.says(site, message);
            }
        }
    }

    fn greet(&mut self, link: LinkId, site: usize) {
        let coordinator = "consilium 0.1.0".to_owned();
        let wall = self.coordinator_wall();
        // Witnesses are the daemon's edge: sites do not look at it here.
        let none = Checkpoint { origin: String::new(), size: 0, root: [0; 32] };
        let signed = Signed::from_parts(none.to_bytes(), Vec::new());
        let head = m::LogHead { signed, proof: Vec::new() };
        self.arrive(link, m::Welcome { coordinator, wall, head }.into());
        for study in 0..self.studies.len() {
            let terms = &self.studies[study];
            let offer = m::StudyOffer {
                study: terms.study.id().clone(),
                version: 1,
                digest: terms.digest,
                bytes: terms.signed.bytes.len() as u64,
                signatures: terms.signed.signatures.clone(),
            };
            self.send_down(site, offer.into());
        }
    }

    /// A site's word reaches its engine.
    pub(crate) fn says(&mut self, site: usize, message: Message) {
        let Some(study) = study_of(&message).map(|study| self.index_of(study)) else {
            panic!("{} is no message of a round", message.name());
        };
        let name = self.sites[site].name.clone();
        let now = self.coordinator.clock(self.sim.now);
        let message = SiteMessage::from_message(message).expect("a message of a round");
        if let Some(engine) = self.coordinator.engine(study) {
            engine.handle_message(&name, message, now);
        }
    }

    fn told(&mut self, link: LinkId, message: Message) {
        let (wall, now) = (self.site_wall(), self.sim.now);
        let Some(site) = self.links.get(&link).map(|link| link.site) else {
            return;
        };
        let known = [self.studies[0].key.public()];
        match &message {
            Message::Receipt(receipt) => drop(receipt.signed.verify(&known, 1).unwrap()),
            Message::RollCall(roll_call) => drop(roll_call.signed.verify(&known, 1).unwrap()),
            Message::UpdateRefused(refused) => self.refused(site, refused),
            _ => {}
        }
        if let Some(session) = &mut self.sites[site].session {
            session.handle_message(message, wall, now);
        }
    }

    /// Only what breaks a rule is refused, and what the coordinator's own disk lost.
    fn refused(&self, site: usize, refused: &m::UpdateRefused) {
        let site = &self.sites[site];
        let bad = site.bad.contains(&(refused.study.clone(), refused.round));
        let lost = self.stage_was_lost && refused.code == Code::CoordinatorFault;
        // A site that went back to a backup may speak of rounds that are over, or of none.
        let again = site.restored && refused.code == Code::Equivocation;
        let stale = (site.restored || self.is_disturbed) && refused.code == Code::WrongRound;
        // Of a round that the log forgot and then, perhaps, planned otherwise.
        let forgotten = self.coordinator.has_forgotten(&refused.study, refused.round);
        let fits = bad || lost || stale || again || forgotten;
        assert!(fits, "an honest update of {} is refused: {refused:?}", site.name);
    }
}
