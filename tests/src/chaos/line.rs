//! Whole studies over one kind of bad line, timed.

use std::time::{Duration, Instant};

use super::judge::{Verdict, judge};
use super::proxy::{Tally, network_seed};
use super::{Proxy, Weather};
use crate::harness::{Draft, World};
use consilium_coordinator::local::Policy;

/// A study over a line.
#[derive(Debug, Clone, Copy)]
pub struct Trip {
    /// Sites, each behind a line of its own.
    pub sites: usize,
    /// Parameters of the model.
    pub parameters: u32,
    /// Versions to make.
    pub rounds: u64,
    /// The line.
    pub weather: Weather,
    /// When the study must be complete.
    pub seconds: u64,
}

/// How it went.
#[derive(Debug, Clone, Copy)]
pub struct Line {
    /// From the start of the study to its completion, the last version's evaluation included.
    pub took: Duration,
    /// What the lines did, all together.
    pub tally: Tally,
    /// What the log says.
    pub verdict: Verdict,
}

impl Trip {
    /// Runs the study to its end and judges its log.
    #[must_use]
    pub fn go(&self, seed: u64) -> Line {
        let mut world = World::with(self.sites, &["thorax"], Policy::Within);
        let coordinator = world.federation.address().parse().unwrap();
        let lines: Vec<Proxy> = (0..self.sites)
            .map(|site| Proxy::start(coordinator, network_seed(seed, site)))
            .collect();
        for (site, line) in lines.iter().enumerate() {
            line.set(self.weather);
            world.route(site, line.address());
        }
        world.federation.start().unwrap();
        let draft = Draft {
            parameters: self.parameters,
            min_sites: u32::try_from(self.sites).unwrap(),
            ..Draft::new("thorax", self.rounds)
        };
        #[expect(clippy::disallowed_methods, reason = "how long a study took")]
        let began = Instant::now();
        world.run(&draft);
        let history = world.complete("thorax", self.seconds);
        let took = began.elapsed();
        let verdict = judge(&world, &draft, &history);
        world.stop();
        let mut tally = Tally::default();
        lines.iter().for_each(|line| tally.add(&line.tally()));
        Line { took, tally, verdict }
    }
}
