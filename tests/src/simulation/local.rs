//! Local states on a simulated disk: numbers that should say in how many rounds the site has counted,
//! moved by the daemon's own rule.

use std::collections::BTreeMap;

use consilium_agent::session::{NextLocal, Promotion, Stamp, promotion};
use consilium_common::ids::{Digest, StudyId};

use super::site::Of;

/// What a site keeps of its studies.
#[derive(Clone, Default)]
pub(crate) struct LocalStates {
    current: BTreeMap<StudyId, (u64, Stamp)>,
    /// Those that lie in retained updates.
    next: BTreeMap<Of, (u64, NextLocal)>,
}

impl LocalStates {
    /// What a worker of the study is given.
    pub(crate) fn counted(&self, study: &StudyId) -> u64 {
        self.current.get(study).map_or(0, |(counted, _)| *counted)
    }

    /// A worker left the next state, which is retained with its update.
    pub(crate) fn keep_next(&mut self, of: Of) {
        let counted = self.counted(&of.0) + 1;
        let digest = Digest::of(&counted.to_le_bytes());
        let from = self.current.get(&of.0).map(|(_, stamp)| *stamp);
        let next = NextLocal { digest, bytes: 8, spec: Digest([3; 32]), from };
        self.next.insert(of, (counted, next));
    }

    /// The update counted.
    pub(crate) fn promote(&mut self, of: &Of) {
        let Some((counted, next)) = self.next.get(of) else {
            return;
        };
        let stamp = Stamp { round: of.1, digest: next.digest };
        let current = self.current.get(&of.0).map(|(_, stamp)| *stamp);
        if promotion(current, of.1, next) == Promotion::Due {
            self.current.insert(of.0.clone(), (*counted, stamp));
        }
    }

    /// The update is erased.
    pub(crate) fn erase(&mut self, of: &Of) {
        self.next.remove(of);
    }
}
