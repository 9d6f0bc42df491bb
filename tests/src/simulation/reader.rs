//! What the coordinator's server has for each site to read: the real desk of sessions
//! (`coordinator::server::sites`) with its bounded queues. A link takes messages out as fast as its
//! site reads; a queue that is full closes its connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use consilium_common::ids::SiteId;
use consilium_common::limits::FRAMES_QUEUED_MAX;
use consilium_common::time::{Clock, Millis, WallMillis};
use consilium_common::wire::messages::{Heartbeat, Message};
use consilium_common::wire::reject::Code;
use consilium_coordinator::server::sites::{Outbox, Sites};
use consilium_io::net::{Carrier, CarrierError, Closed, Stream, StreamKind, Traffic};
use rustls::pki_types::CertificateDer;
use tokio::sync::mpsc::Receiver;

use super::sim::{Event, LinkId};
use super::world::World;

/// Stamps what nobody looks at here.
#[derive(Debug)]
struct Stopped;

impl Clock for Stopped {
    fn now(&self) -> Millis {
        Millis::ZERO
    }

    fn wall(&self) -> WallMillis {
        WallMillis(super::world::WALL)
    }
}

/// The desk of a coordinator that has just started.
pub(crate) fn desk() -> Sites {
    Sites::new(Arc::new(Stopped))
}

/// A connection of which only the end is of interest: the code with which the desk closed it.
#[derive(Debug, Default)]
struct Wire {
    closed: AtomicU32,
}

fn nothing_flows() -> CarrierError {
    CarrierError::Closed(Closed {
        by: consilium_io::net::ClosedBy::Us,
        code: 0,
        reason: "simulated links carry messages".to_owned(),
    })
}

#[async_trait]
impl Carrier for Wire {
    async fn open(&self, _: StreamKind) -> Result<Stream, CarrierError> {
        Err(nothing_flows())
    }

    async fn accept(&self) -> Result<Stream, CarrierError> {
        Err(nothing_flows())
    }

    fn peer_certificates(&self) -> Vec<CertificateDer<'static>> {
        Vec::new()
    }

    fn alpn(&self) -> Vec<u8> {
        Vec::new()
    }

    fn remote_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, 0).into()
    }

    fn close(&self, code: u32, _: &str) {
        self.closed.store(code, Ordering::Relaxed);
    }

    async fn closed(&self) -> Closed {
        std::future::pending().await
    }

    fn traffic(&self) -> Traffic {
        Traffic::default()
    }
}

/// The coordinator's end of a session.
pub(crate) struct Session {
    wire: Arc<Wire>,
    queue: Receiver<Message>,
    /// The site does not read what it is sent.
    stuck: bool,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} queued", self.queue.len())
    }
}

impl World {
    /// A site has said Hello: its session begins with `first`, and replaces an older one.
    pub(crate) fn arrive(&mut self, link: LinkId, first: Message) {
        let wire = Arc::new(Wire::default());
        let site = self.links[&link].site;
        let carrier = Arc::clone(&wire) as Arc<dyn Carrier>;
        let queue = self.desk.arrive(&self.sites[site].name, carrier, first).queue;
        let session = Session { wire, queue, stuck: false };
        self.links.get_mut(&link).unwrap().session = Some(session);
        self.flows(link);
    }

    /// Puts a message where the site's newest session will read it.
    pub(crate) fn send_down(&mut self, site: usize, message: Message) {
        self.desk.send(&self.sites[site].name, message);
        let mut links = self.links.iter().rev();
        let newest = links.find(|(_, link)| link.site == site && link.session.is_some());
        if let Some((link, _)) = newest {
            self.flows(*link);
        }
    }

    /// Takes out of a link's queue what its site has room for, or closes it.
    pub(crate) fn flows(&mut self, id: LinkId) {
        while let Some(message) = self.next_of(id) {
            self.carry_down(id, message);
        }
        let session = self.links.get(&id).and_then(|link| link.session.as_ref());
        let closed = session.map_or(0, |session| session.wire.closed.load(Ordering::Relaxed));
        if closed == u32::from(Code::SlowReader as u16) {
            let queued = session.map_or(0, |session| session.queue.len());
            assert_eq!(queued, FRAMES_QUEUED_MAX, "dropped although there was room");
            self.coverage.slow_readers += 1;
            self.drop_link(id);
        }
    }

    fn next_of(&mut self, id: LinkId) -> Option<Message> {
        let session = self.links.get_mut(&id)?.session.as_mut();
        session.filter(|session| !session.stuck)?.queue.try_recv().ok()
    }

    /// A site stops reading; its queue is as full as many rounds make it. It reads on later, unless the
    /// queue runs over before.
    pub(crate) fn stops_reading(&mut self, site: usize, room: u64, lasts: u64) {
        let Some(id) = self.sites[site].link else {
            return;
        };
        let Some(link) = self.links.get_mut(&id) else {
            return;
        };
        let Some(session) = &mut link.session else {
            return;
        };
        (session.stuck, link.was_slow) = (true, true);
        let wall = self.coordinator_wall();
        let name = &self.sites[site].name;
        let fill = FRAMES_QUEUED_MAX - usize::try_from(room).unwrap();
        fill_queue(&self.desk, name, fill, wall);
        self.sim.after(lasts, lasts, Event::Reads { link: id });
        self.flows(id);
    }

    /// A site reads on.
    pub(crate) fn reads(&mut self, id: LinkId) {
        if let Some(session) = self.links.get_mut(&id).and_then(|link| link.session.as_mut()) {
            session.stuck = false;
            self.flows(id);
        }
    }
}

fn fill_queue(desk: &Sites, site: &SiteId, messages: usize, wall: WallMillis) {
    for _ in 0..messages {
        desk.send(site, Heartbeat { wall }.into());
    }
}
