//! What can happen to a federation, and how often it does.

use std::time::Duration;

use consilium_common::random::Generator;

use super::Weather;
use crate::harness::Daemon;

/// Something that happens.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Strike {
    /// SIGKILL, and a start right after.
    Kill(Daemon),
    /// SIGKILL to the worker of a site, at its next task.
    KillWorker(usize),
    /// SIGKILL to the coordinator and an agent at once.
    KillBoth(usize),
    /// SIGSTOP for so many milliseconds.
    Freeze(Daemon, u32),
    /// The network of a site changes.
    Weather(usize, Weather),
    /// No site reaches the coordinator for so many milliseconds.
    Partition(u32),
    /// A site's NAT forgets.
    Rebind(usize),
    /// A daemon's disk is full for so many milliseconds.
    FullDisk(Daemon, u32),
    /// A site's folders refuse for so many milliseconds.
    Refuse(usize, u32),
}

/// No freeze, partition or disk fault lasts longer.
const FAULT_MS_MAX: u32 = 800;

impl Strike {
    /// How many processes it kills.
    #[must_use]
    pub fn kills(&self) -> u64 {
        match self {
            Self::Kill(_) | Self::KillWorker(_) => 1,
            Self::KillBoth(_) => 2,
            Self::Freeze(..)
            | Self::Weather(..)
            | Self::Partition(_)
            | Self::Rebind(_)
            | Self::FullDisk(..)
            | Self::Refuse(..) => 0,
        }
    }

    /// The name of its kind, for tallies.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Kill(Daemon::Coordinator) => "kill the coordinator",
            Self::Kill(Daemon::Agent(_)) => "kill an agent",
            Self::KillWorker(_) => "kill a worker",
            Self::KillBoth(_) => "kill coordinator and agent",
            Self::Freeze(..) => "freeze",
            Self::Weather(..) => "weather",
            Self::Partition(_) => "partition",
            Self::Rebind(_) => "NAT rebinding",
            Self::FullDisk(..) => "full disk",
            Self::Refuse(..) => "folders refuse",
        }
    }

    /// The next one, over `sites` sites.
    pub fn draw(generator: &mut Generator, sites: usize) -> Self {
        let site = index(generator, sites);
        let millis = 50 + generator.below(FAULT_MS_MAX - 50);
        match generator.below(100) {
            0..25 => Self::Kill(Daemon::Coordinator),
            25..48 => Self::Kill(Daemon::Agent(site)),
            48..60 => Self::KillWorker(site),
            60..66 => Self::KillBoth(site),
            66..72 => Self::Freeze(daemon(generator, site), millis),
            72..84 => Self::Weather(site, weather(generator)),
            84..88 => Self::Partition(millis),
            88..93 => Self::Rebind(site),
            93..97 => Self::FullDisk(daemon(generator, site), millis),
            _ => Self::Refuse(site, millis),
        }
    }
}

fn index(generator: &mut Generator, bound: usize) -> usize {
    generator.below(u32::try_from(bound).unwrap()) as usize
}

fn daemon(generator: &mut Generator, site: usize) -> Daemon {
    if generator.below(2) == 0 { Daemon::Coordinator } else { Daemon::Agent(site) }
}

/// Calm every third time, so that no site stays in bad weather for long.
fn weather(generator: &mut Generator) -> Weather {
    let millis =
        |generator: &mut Generator, most| Duration::from_millis(generator.below(most).into());
    match generator.below(6) {
        0 => Weather { loss: 0.1 * generator.unit(), ..Weather::CALM },
        1 => Weather { reorder: 0.2, duplicate: 0.1, ..Weather::CALM },
        2 => Weather { delay: millis(generator, 60), ..Weather::CALM },
        3 => Weather { mtu: 1300, loss: 0.02, delay: millis(generator, 20), ..Weather::CALM },
        _ => Weather::CALM,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn every_kind_of_strike_comes_up() {
        let mut generator = Generator::new("tests/strikes", &[]);
        let mut kinds = BTreeMap::new();
        for _ in 0..1000 {
            *kinds.entry(Strike::draw(&mut generator, 4).kind()).or_insert(0) += 1;
        }
        assert_eq!(kinds.len(), 10, "{kinds:?}");
    }
}
