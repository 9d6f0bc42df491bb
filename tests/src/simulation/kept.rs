//! What a site's simulated disk holds of updates, bases and preparations, in bytes: retained updates, with
//! the next local state in them, in the real file format, read by the real reader; what was fetched is
//! believed only by its digest.

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::PathBuf;

use consilium_agent::session::{NextLocal, Retained};
use consilium_agent::state::retained::{Record, verify, write_record};
use consilium_common::ids::Digest;
use consilium_common::update::words::Words;

use super::disk::flip;
use super::sim::Sim;

/// A retained update's file.
#[derive(Clone)]
pub(crate) struct Kept {
    path: PathBuf,
    file: Vec<u8>,
    /// Bytes of the update at its head.
    update: usize,
    /// What the record says of the local state behind it.
    next: Option<NextLocal>,
    /// What comes after both, as it was written.
    record: Digest,
}

/// The local state in a retained update.
pub(crate) enum NextState {
    None,
    /// In how many rounds it says that the site has counted.
    Left(u64, NextLocal),
    /// It, or what the site knows of it, is not what was written.
    Rotten,
}

impl Kept {
    /// Written whole and synced, or not at all.
    pub(crate) fn write(
        retained: &Retained,
        (study_digest, words): (Digest, Words),
        update: &[u8],
        next: Option<(u64, NextLocal)>,
    ) -> Self {
        let (local, next) = next.unzip();
        let record = Record {
            study: retained.study.clone(),
            study_digest,
            round: retained.round,
            digest: retained.digest,
            bytes: retained.bytes,
            rounding_seed: Digest([0; 32]),
            weight: words.weight,
            norm: 1.0,
            control_norm: None,
            clipped: words.clipped != 0,
            metrics: words.metrics,
            local: next.clone(),
        };
        let mut trailer = Vec::new();
        write_record(&mut trailer, &record).unwrap();
        let local = local.map(u64::to_le_bytes);
        let file = [update, local.as_ref().map_or(&[][..], |bytes| &bytes[..]), &trailer].concat();
        let path = format!("{}-{}.update", retained.study, retained.round).into();
        Self { path, file, update: update.len(), next, record: Digest::of(&trailer) }
    }

    /// As the agent's start reads it; none if it has rotted.
    pub(crate) fn read(&self) -> Option<Retained> {
        let length = self.file.len() as u64;
        let record = verify(&self.path, &mut Cursor::new(&self.file), length).ok()?;
        let Record { study, round, digest, bytes, .. } = record;
        Some(Retained { study, round, digest, bytes })
    }

    /// As a push reads it: by position, and what is there is sent.
    pub(crate) fn update(&self) -> &[u8] {
        &self.file[..self.update]
    }

    /// As a promotion reads it: the record and the state, and not the update.
    pub(crate) fn next_state(&self) -> NextState {
        let Some(next) = &self.next else {
            return NextState::None;
        };
        let (local, trailer) = self.file[self.update..].split_first_chunk().unwrap();
        if Digest::of(local) == next.digest && Digest::of(trailer) == self.record {
            NextState::Left(u64::from_le_bytes(*local), next.clone())
        } else {
            NextState::Rotten
        }
    }

    pub(crate) fn rot(&mut self, which: u64) {
        flip(&mut self.file, which);
    }
}

/// The cache of bases and preparations.
#[derive(Clone, Default)]
pub(crate) struct Cache(BTreeMap<Digest, Vec<u8>>);

impl Cache {
    /// Whether one is here with the bytes that its name says. A damaged one is removed.
    pub(crate) fn holds(&mut self, digest: Digest) -> bool {
        let here = self.is_sound(digest);
        if !here {
            self.0.remove(&digest);
        }
        here
    }

    /// The same, for those who read it through and leave it.
    pub(crate) fn is_sound(&self, digest: Digest) -> bool {
        self.0.get(&digest).is_some_and(|bytes| Digest::of(bytes) == digest)
    }

    /// What a fetch brought; false if it is something else, and nothing is kept then.
    pub(crate) fn put(&mut self, digest: Digest, bytes: &[u8]) -> bool {
        let right = Digest::of(bytes) == digest;
        if right {
            self.0.insert(digest, bytes.to_vec());
        }
        right
    }

    /// A power cut: none of them was ever synced.
    pub(crate) fn crash(&mut self, sim: &mut Sim) {
        for bytes in self.0.values_mut() {
            if sim.happens(200) {
                bytes.truncate(usize::try_from(sim.between(0, bytes.len() as u64)).unwrap());
            }
        }
    }

    pub(crate) fn rot(&mut self, which: u64) {
        if let Some(at) = which.checked_rem(self.0.len() as u64) {
            let bytes = self.0.values_mut().nth(usize::try_from(at).unwrap()).unwrap();
            flip(bytes, which / 7);
        }
    }
}
