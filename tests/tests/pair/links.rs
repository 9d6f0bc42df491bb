//! Connections between sites and the coordinator: opened, cut, and what passes over them. Control
//! messages of one direction arrive in order and late; a blob stream takes its own time.

use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages::Message;

use super::sim::{Deed, Event, LinkId, Push};
use super::world::{WALL, World};

/// One connection.
pub(crate) struct Link {
    pub(crate) site: usize,
    /// Messages of one direction arrive in order: none before these.
    up_free: Millis,
    down_free: Millis,
}

impl World {
    pub(crate) fn opened(&mut self, site: usize) {
        let now = self.sim.now;
        let jitter = self.sim.jitter();
        let up = self.coordinator.engine.is_some();
        let here = &mut self.sites[site];
        let Some(session) = &mut here.session else {
            return;
        };
        if !up {
            return session.handle_disconnected(jitter, now);
        }
        self.last_link += 1;
        let (id, free) = (LinkId(self.last_link), Millis::ZERO);
        self.links.insert(id, Link { site, up_free: free, down_free: free });
        here.link = Some(id);
        session.handle_connected(WallMillis(WALL + now.0), now);
    }

    pub(crate) fn cut(&mut self, site: usize) {
        if let Some(link) = self.sites[site].link {
            self.cuts += 1;
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

    pub(crate) fn send_up(&mut self, site: usize, message: Box<Message>) {
        let delay = Millis(self.sim.between(1, 150));
        let id = self.sites[site].link;
        if let Some((id, link)) = id.and_then(|id| Some((id, self.links.get_mut(&id)?))) {
            link.up_free = link.up_free.max(self.sim.now + delay);
            self.sim.at(link.up_free, Event::Up { link: id, message });
        }
    }

    /// On the site's newest link, as the server keeps one session a site.
    pub(crate) fn send_down(&mut self, site: usize, message: Message) {
        let delay = Millis(self.sim.between(1, 150));
        let newest = self.links.iter_mut().rev().find(|(_, link)| link.site == site);
        if let Some((id, link)) = newest {
            link.down_free = link.down_free.max(self.sim.now + delay);
            let message = Box::new(message);
            self.sim.at(link.down_free, Event::Down { link: *id, message });
        }
    }

    pub(crate) fn push_begins(&mut self, push: Push) {
        let name = &self.sites[push.site].name;
        let Push { link, retained, .. } = &push;
        let engine = self.coordinator.engine.as_ref();
        let engine = engine.filter(|_| self.links.contains_key(link));
        let wanted = engine.is_some_and(|e| {
            e.wants_push(name, retained.round, retained.digest, retained.bytes).is_ok()
        });
        if wanted {
            self.sim.after(1, 1_500, Event::PushEnds { push });
        } else {
            self.pushed(push, false);
        }
    }

    pub(crate) fn push_ends(&mut self, push: Push) {
        let now = self.sim.now;
        let site = &self.sites[push.site];
        let holds = self.links.contains_key(&push.link);
        let Some(engine) = self.coordinator.engine.as_mut().filter(|_| holds) else {
            return self.pushed(push, false);
        };
        let Push { retained, .. } = &push;
        let (_, bytes) = &site.made[&retained.round];
        self.coordinator.staged.insert(retained.digest, bytes.clone());
        engine.handle_transfer(&site.name, retained.round, retained.bytes, 0, now);
        engine.handle_staged(&site.name, retained.round, retained.digest, now);
        self.pushed(push, true);
    }

    fn pushed(&mut self, push: Push, went: bool) {
        let Push { site, life, id, .. } = push;
        let deed = Deed::Pushed { went };
        self.sim.after(1, 100, Event::Did { site, life, id, deed });
    }
}
