//! Connections between sites and the coordinator: opened, cut, and what passes over them. Control
//! messages of one direction arrive in order and late; a blob stream takes its own time.

use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::Message;

use super::reader::Session;
use super::sim::{Deed, Event, LinkId, Push};
use super::world::{World, study_of};

/// One connection.
#[derive(Debug, Default)]
pub(crate) struct Link {
    pub(crate) site: usize,
    pub(crate) opened: Millis,
    /// Messages of one direction arrive in order: none before these.
    up_free: Millis,
    down_free: Millis,
    /// Added to every message.
    pub(crate) extra: Millis,
    /// It was slow once.
    pub(crate) was_slow: bool,
    /// Nothing passes; neither end has noticed.
    pub(crate) half_open: bool,
    /// Everything arrives twice.
    pub(crate) twice: bool,
    /// The server's end, once the site has said Hello.
    pub(crate) session: Option<Session>,
}

impl Link {
    /// Nothing ever went wrong with it.
    pub(crate) fn is_healthy(&self) -> bool {
        !self.half_open && !self.was_slow
    }
}

impl World {
    pub(crate) fn opened(&mut self, site: usize) {
        let now = self.sim.now;
        let jitter = self.sim.jitter();
        let wall = self.site_wall();
        let here = &mut self.sites[site];
        let Some(session) = &mut here.session else {
            return;
        };
        if !self.coordinator.is_up() || here.cut_off_until > now {
            return session.handle_disconnected(jitter, now);
        }
        self.last_link += 1;
        let id = LinkId(self.last_link);
        self.links.insert(id, Link { site, opened: now, ..Link::default() });
        here.link = Some(id);
        session.handle_connected(0, wall, now);
    }

    /// The sites' calendar clocks are right.
    pub(crate) fn site_wall(&self) -> WallMillis {
        WallMillis(super::world::WALL + self.sim.now.0)
    }

    /// The coordinator's may not be.
    pub(crate) fn coordinator_wall(&self) -> WallMillis {
        WallMillis(self.site_wall().0.saturating_add_signed(self.coordinator.wall_offset))
    }

    pub(crate) fn cut(&mut self, site: usize) {
        if let Some(link) = self.sites[site].link {
            self.drop_link(link);
        }
    }

    /// Nothing passes any more; both ends notice in their own time.
    pub(crate) fn drop_link(&mut self, id: LinkId) {
        let Some(link) = self.links.remove(&id) else {
            return;
        };
        let (site, life) = (link.site, self.sites[link.site].life);
        self.sim.after(0, 2_000, Event::Lost { site, life, link: id });
        let life = self.coordinator.life;
        self.sim.after(0, 2_000, Event::Gone { site, life, link: id });
    }

    /// On which a site sees no answers any more.
    pub(crate) fn freeze(&mut self, site: usize) {
        let id = self.sites[site].link;
        if let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) {
            link.half_open = true;
            self.sim.after(30_000, 30_000, Event::IdleOut { link: id });
        }
    }

    pub(crate) fn send_up(&mut self, site: usize, message: Box<Message>) {
        let delay = Millis(self.sim.between(1, 150));
        let id = self.sites[site].link;
        let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) else {
            return;
        };
        if link.half_open {
            return;
        }
        link.up_free = link.up_free.max(self.sim.now + delay + link.extra);
        let (at, twice) = (link.up_free, link.twice && study_of(&message).is_some());
        if twice {
            self.sim.at(at, Event::Up { link: id, message: message.clone() });
        }
        self.sim.at(at, Event::Up { link: id, message });
    }

    /// A message that the server has written to a link.
    pub(crate) fn carry_down(&mut self, id: LinkId, message: Message) {
        let delay = Millis(self.sim.between(1, 150));
        let Some(link) = self.links.get_mut(&id).filter(|link| !link.half_open) else {
            return;
        };
        link.down_free = link.down_free.max(self.sim.now + delay + link.extra);
        let (at, twice) = (link.down_free, link.twice && study_of(&message).is_some());
        let (link, message) = (id, Box::new(message));
        if twice {
            self.sim.at(at, Event::Down { link, message: message.clone() });
        }
        self.sim.at(at, Event::Down { link, message });
    }

    pub(crate) fn push_begins(&mut self, push: Push) {
        let name = &self.sites[push.site].name;
        let Push { link, retained, .. } = &push;
        let study = self.index_of(&retained.study);
        let holds = self.links.contains_key(link);
        let engine = self.coordinator.engine(study).filter(|_| holds);
        let wanted = engine.is_some_and(|engine| {
            engine.wants_push(name, retained.round, retained.digest, retained.bytes).is_ok()
        });
        if wanted {
            self.sim.after(1, 1_500, Event::PushEnds { push });
        } else {
            self.pushed(push, false);
        }
    }

    pub(crate) fn push_ends(&mut self, push: Push) {
        let site = &self.sites[push.site];
        let Push { retained, .. } = &push;
        let study = self.index_of(&retained.study);
        let bytes = site.sends(&(retained.study.clone(), retained.round), retained.digest);
        match self.links.get(&push.link) {
            Some(link) if link.half_open => {
                // Stuck until somebody notices.
                return self.sim.after(1_000, 1_000, Event::PushEnds { push });
            }
            Some(_) => {}
            None => {
                self.coordinator.stage.keep_part(study, retained.digest, &bytes);
                return self.pushed(push, false);
            }
        }
        let name = self.sites[push.site].name.clone();
        let now = self.coordinator.clock(self.sim.now);
        if !self.coordinator.stage.take(study, retained.digest, &bytes) {
            // What arrived is not what was announced: the agent offers it again.
            return self.pushed(push, false);
        }
        if let Some(engine) = self.coordinator.engine(study) {
            engine.handle_transfer(&name, retained.round, retained.bytes, 0, now);
            engine.handle_staged(&name, retained.round, retained.digest, now);
        }
        self.pushed(push, true);
    }

    fn pushed(&mut self, push: Push, went: bool) {
        let Push { site, life, id, .. } = push;
        let deed = Deed::Pushed { went };
        self.sim.after(1, 100, Event::Did { site, life, id, deed });
    }
}
