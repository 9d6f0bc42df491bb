//! The simulated clock, the one source of chance, and everything that is on its way.

use std::collections::BTreeMap;

use consilium_agent::session as agent;
use consilium_common::audit::Record;
use consilium_common::ids::{Round, StudyId};
use consilium_common::random::Generator;
use consilium_common::time::Millis;
use consilium_common::wire::messages::{Message, Plan};
use consilium_coordinator::round::{self, Command};

use super::rot::Trickle;

/// A connection between one site and the coordinator; never used again once it is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// What happens at some time. `life` counts the starts of a process: what was on its way to a life
/// that is over is nothing. `study` is an index into the federation's studies.
#[derive(Debug)]
pub(crate) enum Event {
    /// A site's attempt to connect comes to its end.
    Opened { site: usize, life: u64 },
    /// A control message reaches the coordinator.
    Up { link: LinkId, message: Box<Message> },
    /// A control message reaches the site.
    Down { link: LinkId, message: Box<Message> },
    /// The site notices that its connection is gone.
    Lost { site: usize, life: u64, link: LinkId },
    /// The coordinator notices it.
    Gone { site: usize, life: u64, link: LinkId },
    /// A slow connection is quick again.
    Quick { link: LinkId },
    /// A connection has carried nothing for too long.
    IdleOut { link: LinkId },
    /// An action of an engine is done.
    Worked { life: u64, study: usize, id: round::ActionId, work: Work },
    /// A record is on the coordinator's disk although nobody waits for it (a planted bug).
    Written { life: u64, record: Box<Record> },
    /// An action of a session is done.
    Did { site: usize, life: u64, id: agent::ActionId, deed: Deed },
    /// A worker reports batches.
    Moves { site: usize, life: u64, id: agent::ActionId, batch: u64 },
    /// A part of a slow download.
    Trickles { trickle: Trickle },
    /// A site reads on.
    Reads { link: LinkId },
    /// The operator has brought rotten blobs back from a copy.
    BlobsMended,
    /// A blob stream with an update opens at the coordinator.
    PushBegins { push: Push },
    /// Its last byte arrived.
    PushEnds { push: Push },
    /// The coordinator's process starts.
    CoordinatorStarts,
    /// A site's process starts.
    SiteStarts { site: usize },
    /// The coordinator's calendar clock is set right.
    ClockRight,
    /// An operator commands.
    Commanded { study: usize, command: Command },
}

/// An update on a blob stream.
#[derive(Debug, Clone)]
pub(crate) struct Push {
    pub(crate) site: usize,
    pub(crate) life: u64,
    pub(crate) link: LinkId,
    pub(crate) id: agent::ActionId,
    pub(crate) retained: agent::Retained,
}

/// What the coordinator's disk and CPU are at.
#[derive(Debug)]
pub(crate) enum Work {
    Persist(Box<Record>),
    /// Answered before the disk has it (a planted bug).
    Early,
    Other(Box<round::Action>),
}

/// What a site's disk, network and worker are at.
#[derive(Debug)]
pub(crate) enum Deed {
    Judge { study: usize, link: Option<LinkId> },
    Fetch { link: Option<LinkId>, plan: Box<Plan> },
    Train { plan: Box<Plan>, crashes: bool },
    Encode { plan: Box<Plan>, disk_full: bool },
    Pushed { went: bool },
    Settle { study: StudyId, round: Round, counted: bool },
}

pub(crate) struct Sim {
    pub(crate) now: Millis,
    chance: Generator,
    events: BTreeMap<(Millis, u64), Event>,
    sequence: u64,
}

impl Sim {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            now: Millis(1),
            chance: Generator::new("simulation", &seed.to_le_bytes()),
            events: BTreeMap::new(),
            sequence: 0,
        }
    }

    /// Uniform in `from..=to`.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        between(&mut self.chance, from, to)
    }

    /// True `per_mille` times in a thousand.
    pub(crate) fn happens(&mut self, per_mille: u64) -> bool {
        self.between(0, 999) < per_mille
    }

    pub(crate) fn jitter(&mut self) -> u32 {
        self.chance.next_u32()
    }

    pub(crate) fn at(&mut self, at: Millis, event: Event) {
        self.sequence += 1;
        self.events.insert((at, self.sequence), event);
    }

    /// Something that takes `from..=to` milliseconds.
    pub(crate) fn after(&mut self, from: u64, to: u64, event: Event) {
        let at = self.now + Millis(self.between(from, to));
        self.at(at, event);
    }

    pub(crate) fn next_time(&self) -> Option<Millis> {
        self.events.keys().next().map(|(at, _)| *at)
    }

    pub(crate) fn next(&mut self) -> Option<Event> {
        let ((at, _), event) = self.events.pop_first()?;
        self.now = self.now.max(at);
        Some(event)
    }

    /// Takes out what a predicate names, in order of time.
    pub(crate) fn take(&mut self, wanted: impl Fn(&Event) -> bool) -> Vec<Event> {
        let keys: Vec<_> =
            self.events.iter().filter(|(_, event)| wanted(event)).map(|(key, _)| *key).collect();
        keys.iter().filter_map(|key| self.events.remove(key)).collect()
    }

    /// How much is on its way.
    pub(crate) fn pending(&self) -> usize {
        self.events.len()
    }
}

/// Uniform in `from..=to`.
pub(crate) fn between(generator: &mut Generator, from: u64, to: u64) -> u64 {
    from + u64::from(generator.below(u32::try_from(to - from + 1).unwrap_or(u32::MAX)))
}
