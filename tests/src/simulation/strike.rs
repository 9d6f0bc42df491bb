//! What each kind of fault does.

use consilium_common::random::Generator;
use consilium_common::time::Millis;
use consilium_coordinator::round::Command;

use super::disk::Death;
use super::fault::{Fault, Kind};
use super::rot::PARTS_MAX;
use super::sim::{Event, between};
use super::world::World;

/// Which bit rots is drawn below this.
const BITS_MAX: u64 = 1 << 24;
/// Most that a calendar clock is off: a day.
const JUMP_MAX_MS: u64 = 24 * 3600 * 1000;

impl World {
    /// Deaths are done where the action is; all others here.
    pub(crate) fn strike(&mut self, fault: Fault) {
        let mut generator = Generator::new("simulation/fault", &fault.seed.to_le_bytes());
        let mut draw = |from, to| between(&mut generator, from, to);
        let last = self.sites.len() as u64 - 1;
        let site = usize::try_from(draw(0, last)).unwrap();
        let study = usize::try_from(draw(0, self.studies.len() as u64 - 1)).unwrap();
        let now = self.sim.now;
        match fault.kind {
            Kind::DiesBefore | Kind::DiesAfter => {}
            Kind::OldBackup => self.restore(site, draw(0, 9)),
            Kind::Cut => self.cut(site),
            Kind::HalfOpen => self.freeze(site),
            Kind::Partition => {
                // From seconds to many rounds.
                let scale = [20, 200, 1_800][usize::try_from(draw(0, 2)).unwrap()];
                self.sites[site].cut_off_until = now + Millis::from_secs(draw(1, scale));
                self.cut(site);
            }
            Kind::SlowLink => {
                let extra = Millis(draw(500, 20_000));
                let lasts = draw(5_000, 600_000);
                if let (Some(id), Some(link)) = (self.sites[site].link, self.link_of(site)) {
                    (link.extra, link.was_slow) = (extra, true);
                    self.sim.after(lasts, lasts, Event::Quick { link: id });
                }
            }
            Kind::Duplicates => {
                self.is_disturbed = true;
                if let Some(link) = self.link_of(site) {
                    link.twice = true;
                }
            }
            Kind::Replay => self.repeat(site, draw(0, 99)),
            Kind::WorkerDies => {
                self.sites[site].workers_to_die += u32::try_from(draw(1, 3)).unwrap();
            }
            Kind::WorkerHangs => self.sites[site].workers_to_hang += 1,
            Kind::SiteDiskFull => self.sites[site].disk_full = true,
            Kind::CoordinatorDisk => self.coordinator.disk_fails = true,
            Kind::StageLost => {
                self.stage_was_lost = true;
                self.coordinator.stage.crash(Death::Process, &mut self.sim);
            }
            Kind::ClockJump => {
                let by = i64::try_from(draw(0, 2 * JUMP_MAX_MS)).unwrap();
                self.coordinator.wall_offset = by - i64::try_from(JUMP_MAX_MS).unwrap();
                self.sim.after(1_000, 600_000, Event::ClockRight);
            }
            Kind::Pause => self.commanded(study, Command::Pause),
            Kind::Stop => self.commanded(study, Command::Stop),
            Kind::BadUpdate => self.sites[site].next_is_bad = true,
            Kind::PowerCut => self.power_cut(site, draw(0, 1) == 0),
            Kind::LogRot => self.log_rots(draw(0, BITS_MAX), draw(0, 1) == 0),
            Kind::LogCut => self.log_is_cut(draw(0, BITS_MAX), draw(0, 1) == 0),
            Kind::BlobRot => self.blob_rots(study, draw(0, BITS_MAX), draw(0, 1) == 0),
            Kind::SiteRot => self.site_rots(site, draw(0, BITS_MAX), draw(0, 1) == 0),
            Kind::SlowReader => self.stops_reading(site, draw(0, 6), draw(1_000, 300_000)),
            Kind::SlowFetch => self.sites[site].slow_fetch = draw(1, PARTS_MAX),
        }
    }

    fn link_of(&mut self, site: usize) -> Option<&mut super::links::Link> {
        self.links.get_mut(&self.sites[site].link?)
    }

    fn restore(&mut self, site: usize, back: u64) {
        self.site_dies(site, Death::Process);
        let here = &mut self.sites[site];
        if here.session.is_none() && !here.backups.is_empty() {
            let at = usize::try_from(back).unwrap() % here.backups.len();
            here.disk = here.backups[at].clone();
            here.restored = true;
        }
    }

    /// A site says again what it said once, while it is connected.
    fn repeat(&mut self, site: usize, which: u64) {
        let said = &self.said[site];
        if said.is_empty() || self.sites[site].link.is_none() || !self.coordinator.is_up() {
            return;
        }
        let message = said[usize::try_from(which).unwrap() % said.len()].clone();
        self.is_disturbed = true;
        self.says(site, message);
    }
}
