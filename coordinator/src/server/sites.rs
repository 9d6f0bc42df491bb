//! Who is connected: one session a site, the newest. Drivers send through here and never wait: a
//! site that does not read what it is sent is disconnected.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::{SiteId, StudyId};
use consilium_common::limits::FRAMES_QUEUED_MAX;
use consilium_common::time::{Clock, Millis};
use consilium_common::wire::messages::{Answer, Message};
use consilium_common::wire::reject::Code;
use consilium_io::net::{Carrier, Traffic};
use tokio::sync::mpsc;

use super::broken::{Blame, Broken};
use super::guard::Guard;
use crate::planning::Open;

/// Where drivers put messages for sites.
pub trait Outbox: Send + Sync + fmt::Debug {
    /// Sends to one site if it is connected.
    fn send(&self, site: &SiteId, message: Message);
    /// Sends to every connected site.
    fn broadcast(&self, message: &Message);
    /// Puts a site out for a time, for what no agent does.
    fn strike(&self, site: &SiteId, code: Code, detail: &str);
}

/// Names a session; a site's newer session has a higher number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SessionId(u64);

/// What the status screen says of a site's connection.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Contact {
    /// Connected now.
    pub connected: bool,
    /// When something was heard last.
    pub last: Option<Millis>,
    /// Bytes received from it and sent to it since this coordinator started, overhead included.
    pub traffic: Traffic,
    /// Its word on studies, since it connected.
    pub answers: BTreeMap<StudyId, Answer>,
    /// When it takes plans on, by what it said last.
    pub hours: Open,
}

/// The sites' connections.
#[derive(Debug)]
pub struct Sites {
    clock: Arc<dyn Clock>,
    guard: Arc<Guard>,
    desk: Mutex<Desk>,
}

#[derive(Debug, Default)]
struct Desk {
    sites: BTreeMap<SiteId, Site>,
    sessions: u64,
}

#[derive(Debug, Default)]
struct Site {
    session: Option<Session>,
    last: Option<Millis>,
    /// Of sessions that are over.
    traffic: Traffic,
    /// What its newest connection published.
    hours: Open,
}

#[derive(Debug)]
struct Session {
    id: SessionId,
    outbox: mpsc::Sender<Message>,
    carrier: Arc<dyn Carrier>,
    ready: BTreeSet<StudyId>,
    answers: BTreeMap<StudyId, Answer>,
}

/// A session that has just begun.
#[derive(Debug)]
pub struct Arrival {
    /// Its name.
    pub id: SessionId,
    /// What is to be sent, in order.
    pub queue: mpsc::Receiver<Message>,
    /// Studies that an older session of the site was ready for: it is gone now.
    pub replaced: BTreeSet<StudyId>,
}

impl Sites {
    /// Nobody is connected.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let guard = Arc::new(Guard::new(Arc::clone(&clock)));
        Self { clock, guard, desk: Mutex::default() }
    }

    /// Who may do what, and who is in quarantine.
    #[must_use]
    pub fn guard(&self) -> &Arc<Guard> {
        &self.guard
    }

    /// Holds against a site why a session of it, on `carrier`, ended. True if it is put out for that:
    /// this connection is closed, and its session if that is another.
    pub(super) fn blame(
        &self,
        site: &SiteId,
        broken: &Broken,
        carrier: Option<&dyn Carrier>,
    ) -> bool {
        let Broken { code, detail, blame } = broken;
        let term = match blame {
            Blame::Nobody => None,
            Blame::Fault => self.guard.fault(site, *code, detail),
            // In a term that runs already, nothing is added to it; the site is put out all the same.
            Blame::Strike => {
                self.guard.strike(site, *code, detail).or_else(|| self.guard.term(site))
            }
        };
        let Some(term) = term else {
            return false;
        };
        tracing::warn!(%site, code = %Code::Quarantined, "{term}");
        let desk = self.desk();
        let session = desk.sites.get(site).and_then(|site| site.session.as_ref());
        for carrier in carrier.into_iter().chain(session.map(|session| &*session.carrier)) {
            self.guard.ration(carrier.remote_address().ip(), &term);
            close(carrier, Code::Quarantined, &term.to_string());
        }
        true
    }

    fn desk(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A site has connected. An older connection of it is closed; `first` is sent before anything.
    pub fn arrive(&self, site: &SiteId, carrier: Arc<dyn Carrier>, first: Message) -> Arrival {
        let (outbox, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        // The queue is empty: there is room for one.
        let _room = outbox.try_send(first);
        let now = self.clock.now();
        let mut desk = self.desk();
        desk.sessions += 1;
        let id = SessionId(desk.sessions);
        let entry = desk.sites.entry(site.clone()).or_default();
        entry.last = Some(now);
        // Whoever does not say it again does not publish it any more.
        entry.hours = Open::Unknown;
        let older = entry.session.replace(Session {
            id,
            outbox,
            carrier,
            ready: BTreeSet::new(),
            answers: BTreeMap::new(),
        });
        let replaced = older.map_or_else(BTreeSet::new, |older| {
            entry.traffic = plus(entry.traffic, older.carrier.traffic());
            close(&*older.carrier, Code::Replaced, "a newer connection of this site took over");
            older.ready
        });
        Arrival { id, queue, replaced }
    }

    /// A site publishes when it takes plans on.
    pub(super) fn publishes(&self, site: &SiteId, id: SessionId, hours: Open) {
        let mut desk = self.desk();
        let is_newest = |entry: &&mut Site| entry.session.as_ref().is_some_and(|own| own.id == id);
        if let Some(entry) = desk.sites.get_mut(site).filter(is_newest) {
            entry.hours = hours;
        }
    }

    /// A session is over. Returns the studies it was ready for, unless a newer one took over.
    pub fn leave(&self, site: &SiteId, id: SessionId) -> Option<BTreeSet<StudyId>> {
        let mut desk = self.desk();
        let entry = desk.sites.get_mut(site)?;
        let session = entry.session.take_if(|session| session.id == id)?;
        entry.traffic = plus(entry.traffic, session.carrier.traffic());
        Some(session.ready)
    }

    /// Something was heard from the site.
    pub fn heard(&self, site: &SiteId) {
        let now = self.clock.now();
        if let Some(entry) = self.desk().sites.get_mut(site) {
            entry.last = Some(now);
        }
    }

    /// Notes a site's word on a study. Returns whether its readiness changed, and to what; `None`
    /// also if the session is not the newest.
    pub fn answered(
        &self,
        site: &SiteId,
        id: SessionId,
        study: &StudyId,
        answer: Answer,
    ) -> Option<bool> {
        let mut desk = self.desk();
        let session = desk.sites.get_mut(site)?.session.as_mut()?;
        if session.id != id {
            return None;
        }
        let ready = matches!(answer, Answer::Accepted);
        session.answers.insert(study.clone(), answer);
        let changed = match ready {
            true => session.ready.insert(study.clone()),
            false => session.ready.remove(study),
        };
        changed.then_some(ready)
    }

    /// A study has a new version: what sites said of the old one says nothing of it.
    pub fn forget_answers(&self, study: &StudyId) {
        for entry in self.desk().sites.values_mut() {
            if let Some(session) = &mut entry.session {
                session.ready.remove(study);
                session.answers.remove(study);
            }
        }
    }

    /// Ends a site's connection, if it has one.
    pub fn cut(&self, site: &SiteId, code: Code, reason: &str) {
        let desk = self.desk();
        if let Some(session) = desk.sites.get(site).and_then(|site| site.session.as_ref()) {
            close(&*session.carrier, code, reason);
        }
    }

    /// Ends every session: the coordinator goes down.
    pub fn close_all(&self, code: Code, reason: &str) {
        for entry in self.desk().sites.values() {
            if let Some(session) = &entry.session {
                close(&*session.carrier, code, reason);
            }
        }
    }

    /// How many sites are connected.
    #[must_use]
    pub fn connected(&self) -> usize {
        self.desk().sites.values().filter(|site| site.session.is_some()).count()
    }

    /// What is known of a site's connection; `None` if it never connected.
    #[must_use]
    pub fn contact(&self, site: &SiteId) -> Option<Contact> {
        let desk = self.desk();
        let entry = desk.sites.get(site)?;
        let session = entry.session.as_ref();
        let now = session.map_or_else(Traffic::default, |session| session.carrier.traffic());
        Some(Contact {
            connected: session.is_some(),
            last: entry.last,
            traffic: plus(entry.traffic, now),
            answers: session.map(|session| session.answers.clone()).unwrap_or_default(),
            hours: entry.hours.clone(),
        })
    }
}

impl Outbox for Sites {
    fn send(&self, site: &SiteId, message: Message) {
        let desk = self.desk();
        if let Some(session) = desk.sites.get(site).and_then(|site| site.session.as_ref()) {
            put(site, session, message);
        }
    }

    fn broadcast(&self, message: &Message) {
        for (site, entry) in &self.desk().sites {
            if let Some(session) = &entry.session {
                put(site, session, message.clone());
            }
        }
    }

    fn strike(&self, site: &SiteId, code: Code, detail: &str) {
        self.blame(site, &Broken::strike(code, detail), None);
    }
}

fn put(site: &SiteId, session: &Session, message: Message) {
    let kind = message.name();
    match session.outbox.try_send(message) {
        Ok(()) => tracing::trace!(%site, kind, "queued"),
        Err(mpsc::error::TrySendError::Closed(_)) => {
            tracing::debug!(%site, kind, "not sent: the connection is ending");
        }
        Err(mpsc::error::TrySendError::Full(_)) => {
            tracing::warn!(%site, code = %Code::SlowReader, "disconnected");
            close(&*session.carrier, Code::SlowReader, "it does not read what it is sent");
        }
    }
}

/// Ends a connection with a code of the protocol.
pub(super) fn close(carrier: &dyn Carrier, code: Code, reason: &str) {
    carrier.close(u32::from(code as u16), &format!("{code}: {reason}"));
}

fn plus(a: Traffic, b: Traffic) -> Traffic {
    Traffic { sent: a.sent.saturating_add(b.sent), received: a.received.saturating_add(b.received) }
}
