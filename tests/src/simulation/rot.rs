//! Power cuts, rot and slow transfers: what happens to bytes at rest and to those who wait for them.

use consilium_agent::session::ActionId;
use consilium_common::ids::{Round, StudyId};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{Plan, SitePhase};

use super::disk::Death;
use super::sim::{Deed, Event, LinkId};
use super::site::{Sent, Site, named};
use super::watch::SLACK;
use super::world::World;

/// Pauses of a slow download; the idle timeout of the simulated studies, 10 s, waits for each.
const PAUSE_MS: (u64, u64) = (1_000, 8_000);
/// Most parts in which a slow download comes.
pub(crate) const PARTS_MAX: u64 = 9;

/// A slow download that moves.
pub(crate) struct Download {
    study: StudyId,
    round: Round,
    since: Millis,
    over: LinkId,
}

/// A download that takes its time.
#[derive(Debug, Clone)]
pub(crate) struct Trickle {
    pub(crate) site: usize,
    pub(crate) life: u64,
    pub(crate) id: ActionId,
    pub(crate) link: Option<LinkId>,
    pub(crate) plan: Box<Plan>,
    /// Parts that are still to come.
    pub(crate) left: u64,
}

impl World {
    /// A machine loses its power: the coordinator's, or a site's.
    pub(crate) fn power_cut(&mut self, site: usize, coordinator: bool) {
        if coordinator {
            self.coordinator_dies(Death::Power);
        } else {
            self.site_dies(site, Death::Power);
        }
    }

    /// A bit of the log turns over. It shows when the log is read: at the next start, or when an old
    /// roll call is wanted.
    pub(crate) fn log_rots(&mut self, which: u64, dies: bool) {
        self.coordinator.disk.rot(which);
        if dies {
            self.coordinator_dies(Death::Process);
        }
    }

    /// The end of the log is gone: half of the time no more of it than what its checkpoint does not
    /// cover yet. It shows at the next start, which comes at once.
    pub(crate) fn log_is_cut(&mut self, which: u64, is_uncovered: bool) {
        self.coordinator_dies(Death::Process);
        self.coordinator.disk.cut(which, is_uncovered);
    }

    /// A bit of a staged update turns over, or of a model.
    pub(crate) fn blob_rots(&mut self, study: usize, which: u64, is_model: bool) {
        if is_model {
            self.coordinator.rot_blob(&self.studies[study], which);
        } else {
            self.stage_was_lost = true;
            self.coordinator.stage.rot(which);
        }
    }

    /// A bit of what a site holds turns over; half of the time it looks at its disk anew.
    pub(crate) fn site_rots(&mut self, site: usize, which: u64, dies: bool) {
        let disk = &mut self.sites[site].disk;
        match which % 2 {
            0 => disk.cache.rot(which / 2),
            _ => {
                let count = disk.retained.len() as u64;
                if let Some(at) = (which / 2).checked_rem(count) {
                    let kept = disk.retained.values_mut().nth(usize::try_from(at).unwrap());
                    kept.unwrap().rot(which / 2 / count);
                }
            }
        }
        if dies {
            self.site_dies(site, Death::Process);
        }
    }

    /// Somebody has seen that a blob is not what its digest says: the operator fetches the copy.
    pub(crate) fn rot_is_noticed(&mut self) {
        self.sim.after(5_000, 120_000, Event::BlobsMended);
    }

    /// What a plan names, as the coordinator sends it now, if the connection holds.
    pub(crate) fn blobs_for(&self, link: Option<LinkId>, plan: &Plan) -> Option<Sent> {
        let link = link.and_then(|link| self.links.get(&link)).filter(|link| !link.half_open);
        let sent = |digest| (digest, self.coordinator.blob(digest).to_vec());
        link.map(|_| named(plan).map(sent).collect())
    }

    /// One part of a slow download came, and both ends have seen it move.
    pub(crate) fn trickles(&mut self, trickle: Trickle) {
        let Trickle { site, life, id, link, plan, left } = trickle;
        if self.sites[site].life != life || self.sites[site].session.is_none() {
            return;
        }
        let holds = link.filter(|id| self.links.get(id).is_some_and(|link| !link.half_open));
        let Some(over) = holds.filter(|_| left > 0) else {
            self.sites[site].downloads = None;
            let deed = Deed::Fetch { link, plan };
            return self.sim.after(0, 0, Event::Did { site, life, id, deed });
        };
        let now = self.sim.now;
        self.sites[site].downloads.get_or_insert_with(|| Download {
            study: plan.study.clone(),
            round: plan.round,
            since: now,
            over,
        });
        if let Some(session) = &mut self.sites[site].session {
            session.handle_progress(id, SitePhase::Fetching, PARTS_MAX - left, PARTS_MAX, now);
        }
        let (study, name) = (self.index_of(&plan.study), &self.sites[site].name);
        let now = self.coordinator.clock(now);
        if let Some(engine) = self.coordinator.engine(study) {
            engine.handle_transfer(name, plan.round, 0, 1, now);
        }
        let trickle = Trickle { site, life, id, link, plan, left: left - 1 };
        let (least, most) = PAUSE_MS;
        self.sim.after(least, most, Event::Trickles { trickle });
    }

    /// Whether a download for a round moves, and has for a while.
    pub(crate) fn downloads(&self, site: &Site, study: &StudyId, round: Round) -> bool {
        site.downloads.as_ref().is_some_and(|download| {
            (&download.study, download.round) == (study, round)
                && self.sim.now.since(download.since) >= SLACK
                && self.links.get(&download.over).is_some_and(|link| !link.half_open)
        })
    }
}
