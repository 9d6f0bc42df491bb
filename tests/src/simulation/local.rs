//! Local states on a simulated disk: numbers that should say in how many rounds the site has counted,
//! moved by the daemon's own rule.

use std::collections::BTreeMap;

use consilium_agent::session::{NextLocal, Promotion, Stamp, promotion};
use consilium_common::ids::{Digest, Round, StudyId};

use super::site::Of;

/// What a site keeps of its studies.
#[derive(Clone, Default)]
pub(crate) struct LocalStates(BTreeMap<StudyId, (u64, Stamp)>);

impl LocalStates {
    /// What a worker of the study is given.
    pub(crate) fn counted(&self, study: &StudyId) -> u64 {
        self.0.get(study).map_or(0, |(counted, _)| *counted)
    }

    /// The round whose update left the current state.
    pub(crate) fn round(&self, study: &StudyId) -> Option<Round> {
        self.0.get(study).map(|(_, stamp)| stamp.round)
    }

    /// The next state that a worker leaves, which is retained in its update.
    pub(crate) fn next(&self, study: &StudyId) -> (u64, NextLocal) {
        let counted = self.counted(study) + 1;
        let digest = Digest::of(&counted.to_le_bytes());
        let from = self.0.get(study).map(|(_, stamp)| *stamp);
        (counted, NextLocal { digest, bytes: 8, spec: Digest([3; 32]), from, control: None })
    }

    /// The update in which `next` lies counted.
    pub(crate) fn promote(&mut self, of: &Of, counted: u64, next: &NextLocal) {
        let stamp = Stamp { round: of.1, digest: next.digest };
        let current = self.0.get(&of.0).map(|(_, stamp)| *stamp);
        if promotion(current, of.1, next) == Promotion::Due {
            self.0.insert(of.0.clone(), (counted, stamp));
        }
    }
}
