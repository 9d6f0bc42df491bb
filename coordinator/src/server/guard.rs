//! What `conduct` decides, with the clock and a lock: who is in quarantine, what sites may still do,
//! and from where handshakes are rationed. Held for moments only.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::SiteId;
use consilium_common::time::{Clock, Millis};
use consilium_common::wire::reject::Code;
use consilium_io::net::Gate;

use crate::conduct::{Addresses, Conduct, Deed, Quarantine, RoundBlob, Term};

/// One for all sites.
#[derive(Debug)]
pub struct Guard {
    clock: Arc<dyn Clock>,
    book: Mutex<Book>,
}

/// Entries are made for sites of the roster and for addresses, and both are bounded.
#[derive(Debug, Default)]
struct Book {
    quarantine: Quarantine,
    conduct: BTreeMap<SiteId, Conduct>,
    /// Places that are taken, by whom.
    places: BTreeMap<String, usize>,
    addresses: Addresses,
}

impl Book {
    fn conduct(&mut self, site: &SiteId, now: Millis) -> &mut Conduct {
        self.conduct.entry(site.clone()).or_insert_with(|| Conduct::new(now))
    }
}

impl Guard {
    /// Nobody has misbehaved yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, book: Mutex::default() }
    }

    fn book(&self) -> (MutexGuard<'_, Book>, Millis) {
        let book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        (book, self.clock.now())
    }

    /// Puts a site out for what no agent does. Returns the term that begins with it.
    pub fn strike(&self, site: &SiteId, code: Code, detail: &str) -> Option<Term> {
        let (mut book, now) = self.book();
        book.quarantine.strike(site, code, detail, now)
    }

    /// Notes what happens to honest sites too. Returns the term if it happened too often.
    pub fn fault(&self, site: &SiteId, code: Code, detail: &str) -> Option<Term> {
        let (mut book, now) = self.book();
        book.quarantine.fault(site, code, detail, now)
    }

    /// The site's term, if one runs.
    #[must_use]
    pub fn term(&self, site: &SiteId) -> Option<Term> {
        let (book, now) = self.book();
        book.quarantine.term(site, now)
    }

    /// Every term that runs.
    #[must_use]
    pub fn terms(&self) -> Vec<(SiteId, Term)> {
        let (book, now) = self.book();
        book.quarantine.terms(now)
    }

    /// Counts a deed of a site; false if it is one too many.
    #[must_use]
    pub fn allows(&self, site: &SiteId, deed: Deed) -> bool {
        let (mut book, now) = self.book();
        book.conduct(site, now).allows(deed, now)
    }

    /// How long the site's next stream has to wait.
    #[must_use]
    pub fn stream_delay(&self, site: &SiteId) -> Millis {
        let (mut book, now) = self.book();
        book.conduct(site, now).stream_delay(now)
    }

    /// Whether a site may fetch `bytes` of a blob of `length` bytes, which is one of an open round or
    /// not.
    #[must_use]
    pub fn may_fetch(
        &self,
        site: &SiteId,
        of: Option<&RoundBlob>,
        length: u64,
        bytes: u64,
    ) -> bool {
        let (mut book, now) = self.book();
        book.conduct(site, now).fetches.reserve(of, length, bytes, now)
    }

    /// So many bytes of a fetch were not sent.
    pub fn not_fetched(&self, site: &SiteId, of: Option<&RoundBlob>, bytes: u64) {
        let (mut book, now) = self.book();
        book.conduct(site, now).fetches.give_back(of, bytes);
    }

    /// Takes one of `max` places that `who` has; `None` if all are taken.
    #[must_use]
    pub fn place(self: &Arc<Self>, who: String, max: usize) -> Option<Place> {
        let (mut book, _) = self.book();
        let taken = book.places.entry(who.clone()).or_default();
        if *taken >= max {
            return None;
        }
        *taken += 1;
        Some(Place { guard: Arc::clone(self), who })
    }

    /// A quarantined site came from there: handshakes are rationed while its term runs.
    pub fn ration(&self, address: IpAddr, term: &Term) {
        let (mut book, now) = self.book();
        book.addresses.ration(address, now + term.left, now);
    }

    /// A handshake from there led to nobody who belongs here.
    pub fn failed_handshake(&self, address: IpAddr) {
        let (mut book, now) = self.book();
        book.addresses.failed(address, now);
    }
}

impl Gate for Guard {
    fn rations(&self, address: IpAddr) -> bool {
        let (book, now) = self.book();
        book.addresses.is_rationed(address, now)
    }

    fn admits(&self, address: IpAddr) -> bool {
        let (mut book, now) = self.book();
        book.addresses.admit(address, now)
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub struct Place {
    guard: Arc<Guard>,
    who: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let (mut book, _) = self.guard.book();
        if let Some(taken) = book.places.get_mut(&self.who) {
            *taken = taken.saturating_sub(1);
            if *taken == 0 {
                book.places.remove(&self.who);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use consilium_io::SystemClock;

    use super::*;

    #[test]
    fn everybody_has_some_places_and_nothing_stays_of_those_who_left() {
        let guard = Arc::new(Guard::new(Arc::new(SystemClock::open())));
        let place = |who: &str| guard.place(who.to_owned(), 3);
        let mut held = [place("a"), place("a"), place("a")];
        assert!(held.iter().all(Option::is_some) && place("a").is_none());
        assert!(place("b").is_some(), "each has its own");
        held[1] = None;
        assert!(place("a").is_some());
        drop(held);
        assert!(guard.book().0.places.is_empty());
    }
}
