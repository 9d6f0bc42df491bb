//! What the federations of a run went through: a run that reached nothing proves nothing.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use consilium_coordinator::round::status::PhaseName;

use super::fault::{KINDS, Kind};

/// Where a study's round was when something happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Moment {
    /// The coordinator is not running.
    Down,
    /// No round is open.
    Idle,
    /// Sites answer the plan.
    Inviting,
    /// Sites work and deliver.
    Training,
    /// The next model is being made.
    Aggregating,
    /// The roll call is being written.
    Closing,
}

/// All moments, in order.
pub const MOMENTS: [Moment; 6] = [
    Moment::Down,
    Moment::Idle,
    Moment::Inviting,
    Moment::Training,
    Moment::Aggregating,
    Moment::Closing,
];

impl From<PhaseName> for Moment {
    fn from(phase: PhaseName) -> Self {
        match phase {
            PhaseName::Idle => Self::Idle,
            PhaseName::Inviting => Self::Inviting,
            PhaseName::Training => Self::Training,
            PhaseName::Aggregating => Self::Aggregating,
            PhaseName::Closing => Self::Closing,
        }
    }
}

/// A death: whose, at which action, and on which side of it.
pub type Crash = (&'static str, &'static str, Kind);

/// Counts over any number of federations.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    /// Faults by the moment in which they struck.
    pub faults: BTreeMap<(Kind, Moment), u64>,
    /// Deaths by actor, action and side.
    pub crashes: BTreeMap<Crash, u64>,
    /// Per federation: sites, committed and abandoned rounds, faults.
    pub sizes: Vec<[u64; 3]>,
    /// Rounds in which the sites counted.
    pub prepared: u64,
    /// Rounds that committed a version.
    pub committed: u64,
    /// Rounds that were abandoned.
    pub abandoned: u64,
    /// Sites that were left out of a round's sum.
    pub excluded: u64,
    /// Rounds that went on after a death of the coordinator.
    pub resumed: u64,
    /// Logs that were damaged and brought back from a copy.
    pub restored: u64,
    /// Logs that went on without an end that no checkpoint had covered.
    pub shortened: u64,
    /// Connections that were closed because their site did not read.
    pub slow_readers: u64,
}

impl Coverage {
    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        for (key, count) in &other.faults {
            *self.faults.entry(*key).or_default() += count;
        }
        for (key, count) in &other.crashes {
            *self.crashes.entry(*key).or_default() += count;
        }
        self.sizes.extend(&other.sizes);
        self.prepared += other.prepared;
        self.committed += other.committed;
        self.abandoned += other.abandoned;
        self.excluded += other.excluded;
        self.resumed += other.resumed;
        self.restored += other.restored;
        self.shortened += other.shortened;
        self.slow_readers += other.slow_readers;
    }

    /// Medians over the federations: sites, rounds, faults.
    #[must_use]
    pub fn medians(&self) -> [u64; 3] {
        let median = |which: usize| {
            let mut values: Vec<u64> =
                self.sizes.iter().filter_map(|sizes| sizes.get(which).copied()).collect();
            values.sort_unstable();
            values.get(values.len() / 2).copied().unwrap_or_default()
        };
        [median(0), median(1), median(2)]
    }

    /// What was reached less than `least` times: faults in moments, and deaths at actions.
    #[must_use]
    pub fn gaps(&self, least: u64) -> Vec<String> {
        let mut gaps = Vec::new();
        for (kind, moment) in pairs() {
            let count = self.faults.get(&(kind, moment)).copied().unwrap_or_default();
            if count < least {
                gaps.push(format!("{kind:?} while {moment:?}: {count}"));
            }
        }
        for ((actor, action, kind), count) in &self.crashes {
            if *count < least {
                gaps.push(format!("{actor} {kind:?} {action}: {count}"));
            }
        }
        gaps
    }

    /// The table that a run prints.
    #[must_use]
    pub fn table(&self) -> String {
        let mut text = format!("{:16}", "fault");
        for moment in MOMENTS {
            let _ = write!(text, "{:>12}", format!("{moment:?}"));
        }
        text.push('\n');
        for kind in KINDS {
            let _ = write!(text, "{:16}", format!("{kind:?}"));
            for moment in MOMENTS {
                let count = self.faults.get(&(kind, moment)).copied().unwrap_or_default();
                let _ = write!(text, "{count:>12}");
            }
            text.push('\n');
        }
        let _ = writeln!(text, "\n{:12}{:24}{:>12}{:>12}", "dies", "at", "before", "after");
        for (actor, action) in self.actions() {
            let count = |kind| self.crashes.get(&(actor, action, kind)).copied().unwrap_or(0);
            let (before, after) = (count(Kind::DiesBefore), count(Kind::DiesAfter));
            let _ = writeln!(text, "{actor:12}{action:24}{before:>12}{after:>12}");
        }
        let [sites, rounds, faults] = self.medians();
        let _ = write!(
            text,
            "\n{} federations (median: {sites} sites, {rounds} rounds, {faults} faults): \
             {} rounds committed, {} prepared, {} abandoned, {} resumed after a death, {} sites left \
             out, {} logs brought back from a copy, {} shortened past their checkpoint, \
             {} slow readers put off",
            self.sizes.len(),
            self.committed,
            self.prepared,
            self.abandoned,
            self.resumed,
            self.excluded,
            self.restored,
            self.shortened,
            self.slow_readers
        );
        text
    }

    fn actions(&self) -> Vec<(&'static str, &'static str)> {
        let mut actions: Vec<_> =
            self.crashes.keys().map(|(actor, action, _)| (*actor, *action)).collect();
        actions.dedup();
        actions
    }
}

/// Every fault in every moment in which it can strike: nothing acts for the coordinator while it is
/// down, and operators reach it only while it runs.
fn pairs() -> impl Iterator<Item = (Kind, Moment)> {
    let all = KINDS.into_iter().flat_map(|kind| MOMENTS.map(|moment| (kind, moment)));
    all.filter(|(kind, moment)| {
        let needs_coordinator =
            matches!(kind, Kind::Pause | Kind::Stop | Kind::CoordinatorDisk | Kind::Replay);
        !(needs_coordinator && *moment == Moment::Down)
    })
}
