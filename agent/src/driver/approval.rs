//! Approvals that end while the daemon runs: nothing more of such a study is taken on or leaves, and
//! people hear of it a month before. By this site's own clock.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::ids::Digest;
use consilium_common::time::{Date, WallMillis};

use super::Driver;
use super::shared::blocking;
use super::study;
use crate::state::KeptStudy;

/// How often the calendar is looked at; every plan and every transfer looks too.
pub(super) const LOOK_EVERY: Duration = Duration::from_secs(60);

impl Driver {
    /// Tells the session of each study whose approval has ended, and people of each that ends soon,
    /// once a day.
    pub(super) fn look_at_approvals(&mut self) {
        let (wall, now) = (self.shared.clock.wall(), self.shared.clock.now());
        self.announce(wall);
        for digest in self.ended(wall) {
            let Some(judged) = self.shared.judged(&digest) else {
                continue;
            };
            self.enter(digest, judged.clone());
            self.session.handle_decision(digest, judged, now);
        }
    }

    fn ended(&self, wall: WallMillis) -> Vec<Digest> {
        let state = self.shared.state();
        let ended = state.studies.iter().filter(|kept| kept.study.governance.has_expired(wall));
        ended.map(|kept| kept.digest).collect()
    }

    fn announce(&mut self, wall: WallMillis) {
        let today = Some(Date::of(wall));
        if self.announced == today {
            return;
        }
        self.announced = today;
        let notice = |kept: &KeptStudy| {
            let notice = kept.study.governance.approval(wall)?.notice()?;
            Some((study::name(kept), notice))
        };
        let notices: Vec<_> = self.shared.state().studies.newest().filter_map(notice).collect();
        for (study, notice) in notices {
            tracing::warn!(study, "{notice}");
        }
    }

    /// Beside the driver: a sync may take its time.
    fn enter(&self, digest: Digest, judged: crate::session::Judged) {
        let shared = Arc::clone(&self.shared);
        self.tasks.spawn(async move {
            let entered = blocking(move || match shared.kept(&digest) {
                Some(kept) => study::enter(&shared, &kept, &judged),
                None => Ok(()),
            });
            match entered.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    tracing::error!(%error, "the end of an approval is not in the ledger")
                }
                Err(fault) => tracing::error!("{}", fault.detail),
            }
        });
    }
}
