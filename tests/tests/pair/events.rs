//! What happens, and whom it concerns.

use consilium_agent::session as agent;
use consilium_common::time::WallMillis;
use consilium_common::wire::messages::{self as m, Message};
use consilium_coordinator::round::{self, SiteMessage};

use super::links::Link;
use super::sim::{Deed, Event, LinkId, Work};
use super::world::{WALL, World};

impl World {
    pub(crate) fn handle(&mut self, event: Event) {
        let now = self.sim.now;
        match event {
            Event::CoordinatorStarts => self.coordinator.start(&self.terms, now),
            Event::SiteStarts { site } => self.sites[site].start(&self.terms, now),
            Event::Opened { site, life } if self.sites[site].life == life => self.opened(site),
            Event::Up { link, message } => self.heard(link, *message),
            Event::Down { link, message } => self.told(link, *message),
            Event::Lost { site, life, link } => self.lost(site, life, link),
            Event::Gone { site, life, link } => self.gone(site, life, link),
            Event::Worked { life, id, work } if self.coordinator.life == life => {
                self.worked(id, work);
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
            Event::PushBegins { push } => self.push_begins(push),
            Event::PushEnds { push } => self.push_ends(push),
            Event::Opened { .. }
            | Event::Worked { .. }
            | Event::Did { .. }
            | Event::Moves { .. } => {}
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
        let name = &self.sites[site].name;
        if let Some(engine) = &mut self.coordinator.engine
            && self.coordinator.life == life
            && !newer
        {
            engine.handle_site_gone(name, self.sim.now);
        }
    }

    fn worked(&mut self, id: round::ActionId, work: Work) {
        if self.coordinator.engine.is_none() {
            return;
        }
        let done = self.coordinator.worked(&self.terms, work);
        if let Some(engine) = &mut self.coordinator.engine {
            engine.handle_done(id, done, self.sim.now);
        }
    }

    fn did(&mut self, site: usize, id: agent::ActionId, deed: Deed) {
        let link_holds = match &deed {
            Deed::Judge { link } | Deed::Fetch { link, .. } => {
                link.is_some_and(|link| self.links.contains_key(&link))
            }
            _ => true,
        };
        let site = &mut self.sites[site];
        // Between death and start nobody is there to do it, or to hear of it.
        if site.session.is_none() {
            return;
        }
        let done = site.did(&self.terms, deed, link_holds);
        if let Some(session) = &mut site.session {
            session.handle_done(id, done, self.sim.now);
        }
    }

    /// The server: greets, and hands to the engine what is the engine's.
    fn heard(&mut self, link: LinkId, message: Message) {
        let now = self.sim.now;
        let Some(site) = self.links.get(&link).map(|link| link.site) else {
            return;
        };
        let name = self.sites[site].name.clone();
        let Some(engine) = &mut self.coordinator.engine else {
            return;
        };
        match message {
            Message::Hello(_) => {
                let coordinator = "consilium 0.1.0".to_owned();
                let wall = WallMillis(WALL + now.0);
                self.send_down(site, m::Welcome { coordinator, wall }.into());
                let offer = m::StudyOffer {
                    study: self.terms.study.id().clone(),
                    version: 1,
                    digest: self.terms.digest,
                    bytes: self.terms.signed.bytes.len() as u64,
                    signatures: self.terms.signed.signatures.clone(),
                };
                self.send_down(site, offer.into());
            }
            Message::StudyAnswer(answer) if answer.answer == m::Answer::Accepted => {
                engine.handle_site_ready(&name, now);
            }
            Message::StudyAnswer(_) | Message::Heartbeat(_) => {}
            Message::Refusal(refusal) => panic!("{name} refused: {refusal:?}"),
            other => {
                let message = SiteMessage::from_message(other).expect("a message of a round");
                engine.handle_message(&name, message, now);
            }
        }
    }

    fn told(&mut self, link: LinkId, message: Message) {
        let now = self.sim.now;
        let Some(site) = self.links.get(&link).map(|link| link.site) else {
            return;
        };
        let known = [self.terms.key.public()];
        match &message {
            Message::Receipt(receipt) => drop(receipt.signed.verify(&known, 1).unwrap()),
            Message::RollCall(roll_call) => drop(roll_call.signed.verify(&known, 1).unwrap()),
            Message::UpdateRefused(refused) => panic!("an honest update: {refused:?}"),
            _ => {}
        }
        if let Some(session) = &mut self.sites[site].session {
            session.handle_message(message, now);
        }
    }
}
