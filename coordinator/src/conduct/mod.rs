//! How sites and strangers behave: what is no agent's behaviour, and what follows. Pure: `now` is an
//! argument, and `server/guard` acts on what is decided here.
//!
//! ```text
//!   deeds of a site ──► Conduct (rates, fetches) ──► flood ─┐
//!   malformed frames, refused updates, … ───────────────────┴─► Quarantine ──► put out, told, shown
//!   its address, failed handshakes ──► Addresses ──► a ration of handshakes
//! ```
//!
//! The rates are far above what agents need, whatever their link or machine; all numbers with their
//! reasons are in `limits`. Nothing here is written down: a restart forgives.

mod addresses;
mod fetches;
mod quarantine;

use consilium_common::bucket::Bucket;
use consilium_common::time::Millis;

pub use addresses::Addresses;
pub use fetches::{Fetches, Part, RoundBlob};
pub use quarantine::{Quarantine, Term};

use crate::limits::{
    CONNECTIONS, HEADS, MESSAGES, OLD_OFFERS, READINESS_CHANGES, STREAMS, VAIN, WITHDRAWALS,
};

/// What a site does, as far as it is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// Connects.
    Connect,
    /// Sends a control message, whatever it says.
    Message,
    /// Becomes ready for a study, or not ready any more.
    Readiness,
    /// Offers an update of a round that is not open.
    OldOffer,
    /// Asks how the log stands.
    HeadWanted,
    /// Reports a withdrawal.
    Withdrawal,
    /// Sends or asks for something that had to be refused.
    Vain,
}

impl Deed {
    /// What too much of it is called.
    #[must_use]
    pub fn flood(self) -> &'static str {
        match self {
            Self::Connect => {
                "connects again and again: does a second agent run with this site's identity?"
            }
            Self::Message => "sends more messages than an agent has use for",
            Self::Readiness => "accepts and declines studies without end",
            Self::OldOffer => "offers updates of old rounds without end",
            Self::HeadWanted => "asks again and again how the log stands",
            Self::Withdrawal => "reports withdrawals without end",
            Self::Vain => "goes on sending and asking for what is refused",
        }
    }
}

/// What one site has done lately, over all of its connections.
#[derive(Debug)]
pub struct Conduct {
    connections: Bucket,
    messages: Bucket,
    readiness: Bucket,
    old_offers: Bucket,
    heads: Bucket,
    withdrawals: Bucket,
    vain: Bucket,
    streams: Bucket,
    /// What it may fetch.
    pub fetches: Fetches,
}

impl Conduct {
    /// Nothing yet.
    #[must_use]
    pub fn new(now: Millis) -> Self {
        Self {
            connections: Bucket::new(CONNECTIONS, now),
            messages: Bucket::new(MESSAGES, now),
            readiness: Bucket::new(READINESS_CHANGES, now),
            old_offers: Bucket::new(OLD_OFFERS, now),
            heads: Bucket::new(HEADS, now),
            withdrawals: Bucket::new(WITHDRAWALS, now),
            vain: Bucket::new(VAIN, now),
            streams: Bucket::new(STREAMS, now),
            fetches: Fetches::new(now),
        }
    }

    /// Counts a deed; false if it is one too many.
    pub fn allows(&mut self, deed: Deed, now: Millis) -> bool {
        let bucket = match deed {
            Deed::Connect => &mut self.connections,
            Deed::Message => &mut self.messages,
            Deed::Readiness => &mut self.readiness,
            Deed::OldOffer => &mut self.old_offers,
            Deed::HeadWanted => &mut self.heads,
            Deed::Withdrawal => &mut self.withdrawals,
            Deed::Vain => &mut self.vain,
        };
        bucket.take(now)
    }

    /// How long the site's next stream has to wait. A site that opens more than it may is slowed
    /// down, not put out: its transport holds the rest back.
    pub fn stream_delay(&mut self, now: Millis) -> Millis {
        self.streams.delay(1, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The busiest honest site that was ever measured: 70 rounds a second of a tiny study, each with
    /// some ten messages and two streams, for an hour; and 64 studies told after each of its
    /// reconnects, one a minute.
    #[test]
    fn the_busiest_agent_is_never_hindered() {
        let mut conduct = Conduct::new(Millis(0));
        for round in 0..70 * 3600 {
            let now = Millis(round * 1000 / 70);
            for _ in 0..10 {
                assert!(conduct.allows(Deed::Message, now), "messages of round {round}");
            }
            for _ in 0..2 {
                assert_eq!(conduct.stream_delay(now), Millis::ZERO, "streams of round {round}");
            }
            if round % 700 == 0 {
                assert!(conduct.allows(Deed::HeadWanted, now), "the log's head in round {round}");
            }
            if round % (70 * 60) == 0 {
                let told = (0..64).all(|_| {
                    conduct.allows(Deed::Readiness, now)
                        && conduct.allows(Deed::OldOffer, now)
                        && conduct.allows(Deed::Vain, now)
                });
                assert!(told && conduct.allows(Deed::Connect, now), "reconnect before {round}");
            }
        }
    }

    #[test]
    fn every_flood_is_noticed_within_seconds() {
        for deed in [
            Deed::Connect,
            Deed::Message,
            Deed::Readiness,
            Deed::OldOffer,
            Deed::HeadWanted,
            Deed::Withdrawal,
            Deed::Vain,
        ] {
            let mut conduct = Conduct::new(Millis(0));
            let until = (0..100_000).find(|n| !conduct.allows(deed, Millis(n / 20)));
            assert!(until.is_some(), "{}", deed.flood());
        }
        let mut conduct = Conduct::new(Millis(0));
        let last = (0..3_000).map(|_| conduct.stream_delay(Millis(0))).last();
        assert_eq!(last, Some(Millis::from_secs(10)), "streams wait instead");
    }
}
