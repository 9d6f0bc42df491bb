//! The coordinator's simulated stage: updates by digest, whole or in part, never synced and never
//! believed. What the real one checks (`coordinator::stage`, `coordinator::compute`) is checked here
//! at the same points.

use std::collections::BTreeMap;

use consilium_common::ids::Digest;
use consilium_common::planted::{self, Bug};
use consilium_common::wire::reject::Code;
use consilium_coordinator::round::Fault;

use super::disk::{Death, flip};
use super::sim::Sim;

/// An update under its final name.
struct Staged {
    study: usize,
    bytes: Vec<u8>,
    /// This life of the process has seen that its digest is right.
    verified: bool,
}

#[derive(Default)]
pub(crate) struct Stage {
    whole: BTreeMap<Digest, Staged>,
    /// The first bytes of updates, each with its study.
    partial: BTreeMap<Digest, (usize, Vec<u8>)>,
}

/// Bytes of which the digest is not looked at, if that bug is planted.
fn holds(digest: Digest, bytes: &[u8]) -> bool {
    planted::has(Bug::PartialBlob) || Digest::of(bytes) == digest
}

impl Stage {
    /// True if the update is here, whole and right. What another life left is read through once.
    pub(crate) fn look(&mut self, digest: Digest) -> bool {
        let Some(staged) = self.whole.get_mut(&digest) else {
            return false;
        };
        if !staged.verified && !holds(digest, &staged.bytes) {
            self.whole.remove(&digest);
            return false;
        }
        staged.verified = true;
        true
    }

    /// The update's bytes, hashed as they are read.
    pub(crate) fn read(&self, digest: Digest) -> Result<&[u8], Fault> {
        let fault =
            |detail: &str| Fault { code: Code::CoordinatorFault, detail: detail.to_owned() };
        let staged = self.whole.get(&digest).ok_or_else(|| fault("the stage lost it"))?;
        if !holds(digest, &staged.bytes) {
            return Err(fault("it has other content on disk"));
        }
        Ok(&staged.bytes)
    }

    /// A push came to its end; it went on from what was here. False if that makes other bytes than
    /// were announced: then nothing is kept.
    pub(crate) fn take(&mut self, study: usize, digest: Digest, pushed: &[u8]) -> bool {
        let mut bytes = self.partial.remove(&digest).map(|(_, part)| part).unwrap_or_default();
        bytes.truncate(pushed.len());
        bytes.extend(&pushed[bytes.len()..]);
        if Digest::of(&bytes) != digest {
            return false;
        }
        self.whole.insert(digest, Staged { study, bytes, verified: true });
        true
    }

    /// A transfer that broke off leaves what arrived.
    pub(crate) fn keep_part(&mut self, study: usize, digest: Digest, bytes: &[u8]) {
        self.partial.insert(digest, (study, bytes[..bytes.len() / 2].to_vec()));
    }

    pub(crate) fn forget(&mut self, study: usize) {
        self.whole.retain(|_, staged| staged.study != study);
        self.partial.retain(|_, (of, _)| *of != study);
    }

    /// A death: of what was staged some is there, some in part, some under its name with other bytes.
    pub(crate) fn crash(&mut self, death: Death, sim: &mut Sim) {
        for (digest, staged) in std::mem::take(&mut self.whole) {
            let Staged { study, mut bytes, .. } = staged;
            match sim.between(0, if death == Death::Power { 3 } else { 2 }) {
                0 => drop(self.whole.insert(digest, Staged { study, bytes, verified: false })),
                1 => self.keep_part(study, digest, &bytes),
                2 => {}
                _ => {
                    bytes.truncate(usize::try_from(sim.between(0, bytes.len() as u64)).unwrap());
                    flip(&mut bytes, u64::from(sim.jitter()));
                    self.whole.insert(digest, Staged { study, bytes, verified: false });
                }
            }
        }
    }

    /// A bit turns over, of an update that is whole or of one that is not.
    pub(crate) fn rot(&mut self, which: u64) {
        let whole = self.whole.values_mut().map(|staged| &mut staged.bytes);
        let mut all: Vec<_> = whole.chain(self.partial.values_mut().map(|(_, b)| b)).collect();
        let count = all.len() as u64;
        if let Some(at) = which.checked_rem(count) {
            flip(all[usize::try_from(at).unwrap()], which / count);
        }
    }
}
