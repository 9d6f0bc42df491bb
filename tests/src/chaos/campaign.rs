//! One federation under many strikes: four sites, each behind a network of its own, two studies that
//! need all of them; in the end everything is healed, the studies go on, and the log is judged.

use std::collections::BTreeMap;
use std::process::Command;

use consilium_common::random::Generator;

use super::disk::{Locked, SmallDisk};
use super::judge::{Verdict, judge};
use super::proxy::network_seed;
use super::{Proxy, Strike, Weather};
use crate::harness::{Daemon, Draft, World, memory, pause, wait_for};

const SITES: usize = 4;
const STUDIES: [&str; 2] = ["thorax", "retina"];
/// Its state lies on a small disk of its own.
const SMALL_DISK_SITE: usize = 1;
/// After so many strikes both studies must have got on: progress is shown, not hoped for.
const PROGRESS_EVERY: u64 = 12;
/// Until the sites are back and a round is done, on a busy machine.
const PROGRESS_SECONDS: u64 = 150;

/// What happened in a campaign and what came of it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tally {
    /// Strikes by kind.
    pub strikes: BTreeMap<&'static str, u64>,
    /// Processes killed.
    pub kills: u64,
    /// Daemons that ended by themselves in a fault and were started again.
    pub gave_up: u64,
    /// Datagrams that the networks did not pass on as they were.
    pub disturbed: u64,
    /// Strikes that this system does not let us try, and why.
    pub untried: BTreeMap<&'static str, String>,
    /// Rounds and receipts.
    pub verdict: Verdict,
}

impl Tally {
    /// Takes another's figures in.
    pub fn add(&mut self, other: &Self) {
        for (kind, count) in &other.strikes {
            *self.strikes.entry(kind).or_default() += count;
        }
        self.kills += other.kills;
        self.gave_up += other.gave_up;
        self.disturbed += other.disturbed;
        self.untried.extend(other.untried.clone());
        self.verdict.add(&other.verdict);
    }
}

/// A federation that is being struck.
#[derive(Debug)]
pub struct Campaign {
    /// Dropped first: a full or locked folder could not be removed.
    disks: BTreeMap<&'static str, SmallDisk>,
    networks: Vec<Proxy>,
    world: World,
    drafts: Vec<Draft>,
    generator: Generator,
    tally: Tally,
}

impl Campaign {
    /// Lays the federation out and starts its studies. Everything random follows from `seed`, but
    /// not what the machine makes of it.
    #[must_use]
    pub fn start(seed: u64) -> Self {
        let mut world = World::new(&STUDIES);
        let mut tally = Tally::default();
        let coordinator = world.federation.address().parse().unwrap();
        let networks: Vec<Proxy> =
            (0..SITES).map(|site| Proxy::start(coordinator, network_seed(seed, site))).collect();
        for (site, network) in networks.iter().enumerate() {
            world.route(site, network.address());
        }
        let folders = [
            ("coordinator", world.federation.coordinator_state()),
            ("agent", world.federation.site_folder(SMALL_DISK_SITE).join("state")),
        ];
        let mut disks = BTreeMap::new();
        for (name, folder) in folders {
            match SmallDisk::over(&folder) {
                Ok(disk) => drop(disks.insert(name, disk)),
                Err(why) => drop(tally.untried.insert("full disk", why)),
            }
        }
        world.federation.start().unwrap();
        let draft = |name| Draft {
            batches: 4,
            batch_ms: 10,
            prepare: 1_000,
            ..Draft::new(name, 1_000_000)
        };
        let drafts: Vec<Draft> = STUDIES.map(draft).into();
        drafts.iter().for_each(|draft| world.run(draft));
        let generator = Generator::new("tests/chaos", &seed.to_le_bytes());
        Self { disks, networks, world, drafts, generator, tally }
    }

    /// Strikes until `kills` processes were killed, heals, waits for both studies, and judges.
    #[must_use]
    pub fn run(mut self, kills: u64) -> Tally {
        let mut strikes = 0;
        while self.tally.kills < kills {
            let strike = Strike::draw(&mut self.generator, SITES);
            self.strike(strike);
            self.restart_the_dead();
            strikes += 1;
            if strikes % PROGRESS_EVERY == 0 {
                self.see_progress();
            } else {
                pause(self.generator.below(400).into());
            }
        }
        self.networks.iter().for_each(|network| network.set(Weather::CALM));
        self.see_progress();
        for study in STUDIES {
            let _said = self.world.operator(&["study", "pause", study]).done();
        }
        let history = self.world.history();
        for draft in &self.drafts {
            self.tally.verdict.add(&judge(&self.world, draft, &history));
        }
        for network in &self.networks {
            let seen = network.tally();
            self.tally.disturbed += seen.lost + seen.duplicated + seen.reordered + seen.too_large;
        }
        self.world.stop();
        self.tally
    }

    fn strike(&mut self, strike: Strike) {
        match strike {
            Strike::Kill(daemon) => self.world.kill_and_restart(daemon),
            Strike::KillWorker(site) => {
                wait_for("a round in which a worker starts", PROGRESS_SECONDS, || {
                    self.restart_the_dead(); // as below: without its coordinator no site trains
                    let agent = self.world.process(Daemon::Agent(site)).pid();
                    (!memory::children(agent).is_empty()).then_some(())
                });
                self.world.strike_worker(site, "KILL", &mut self.generator);
            }
            Strike::KillBoth(site) => {
                self.world.kill(Daemon::Agent(site));
                self.world.kill_and_restart(Daemon::Coordinator);
                self.world.start(Daemon::Agent(site), &[]).unwrap();
            }
            Strike::Freeze(daemon, millis) => {
                let pid = self.world.process(daemon).pid();
                signal(pid, "STOP");
                pause(millis.into());
                signal(pid, "CONT");
            }
            Strike::Weather(site, weather) => self.network(site).set(weather),
            Strike::Partition(millis) => self.partition(millis),
            Strike::Rebind(site) => self.network(site).rebind(),
            Strike::FullDisk(daemon, millis) => self.fill(daemon, millis),
            Strike::Refuse(site, millis) => self.refuse(site, millis),
        }
        *self.tally.strikes.entry(strike.kind()).or_default() += 1;
        self.tally.kills += strike.kills();
    }

    fn network(&self, site: usize) -> &Proxy {
        self.networks.get(site).unwrap()
    }

    fn partition(&self, millis: u32) {
        for network in &self.networks {
            network.set(Weather { partition: true, ..Weather::CALM });
        }
        pause(millis.into());
        self.networks.iter().for_each(|network| network.set(Weather::CALM));
    }

    fn fill(&self, daemon: Daemon, millis: u32) {
        let name = match daemon {
            Daemon::Coordinator => "coordinator",
            Daemon::Agent(_) => "agent",
        };
        if let Some(disk) = self.disks.get(name) {
            disk.fill();
            pause(millis.into());
            disk.clear();
        }
    }

    fn refuse(&mut self, site: usize, millis: u32) {
        if site == SMALL_DISK_SITE {
            return; // tmpfs knows no immutable folders
        }
        match Locked::lock(&self.world.federation.site_folder(site).join("state")) {
            Ok(locked) => {
                pause(millis.into());
                drop(locked);
            }
            Err(why) => drop(self.tally.untried.insert("folders refuse", why)),
        }
    }

    /// As systemd would: a daemon that a fault made end is started again.
    fn restart_the_dead(&mut self) {
        let daemons = (0..SITES).map(Daemon::Agent).chain([Daemon::Coordinator]);
        for daemon in daemons {
            if self.world.process(daemon).ended().is_some() {
                self.tally.gave_up += 1;
                self.world.start(daemon, &[]).unwrap();
            }
        }
    }

    /// Both studies get a version further, whatever the weather.
    fn see_progress(&mut self) {
        let before = self.world.history();
        wait_for("both studies to get on", PROGRESS_SECONDS, || {
            self.restart_the_dead(); // a daemon takes a moment to end
            let now = self.world.history();
            STUDIES.iter().all(|study| now.version(study) > before.version(study)).then_some(())
        });
    }
}

fn signal(pid: u32, name: &str) {
    let done = Command::new("kill").arg(format!("-{name}")).arg(pid.to_string()).status().unwrap();
    assert!(done.success(), "kill -{name} {pid}");
}
