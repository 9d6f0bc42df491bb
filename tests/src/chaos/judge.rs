//! What the log of a federation must say after everything that happened to it.

use std::collections::BTreeMap;

use consilium_common::audit::{Outcome, RollCall};
use consilium_common::ids::Round;

use crate::harness::{Draft, History, World};

/// What became of rounds and receipts.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// Rounds that ended in a version, each the exact sum of its roll call.
    pub committed: u64,
    /// Rounds that were abandoned, with their reason.
    pub abandoned: u64,
    /// Updates that were acknowledged.
    pub receipts: u64,
    /// Of these, in committed rounds that do not count them.
    pub lost: u64,
    /// Of these, in abandoned rounds.
    pub in_abandoned: u64,
}

impl Verdict {
    /// Takes another's figures in.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.abandoned += other.abandoned;
        self.receipts += other.receipts;
        self.lost += other.lost;
        self.in_abandoned += other.in_abandoned;
    }
}

/// Judges one study. An update that is counted twice, or not at all, makes its version's sum another
/// than the reference's, and panics in [`World::assert_reference`]; reading the history panics when
/// two updates of one site were receipted in one round.
#[must_use]
pub fn judge(world: &World, draft: &Draft, history: &History) -> Verdict {
    let calls = history.of(draft.name);
    for (expected, call) in (1..).zip(&calls) {
        assert_eq!(call.round, Round(expected), "{}: rounds follow one another", draft.name);
    }
    let _vector = world.assert_reference(draft, history);
    let by_round: BTreeMap<Round, &RollCall> =
        calls.iter().map(|call| (call.round, *call)).collect();
    let mut verdict = Verdict::default();
    for call in &calls {
        match call.outcome {
            Outcome::Abandoned { .. } => verdict.abandoned += 1,
            Outcome::Committed { .. } | Outcome::Evaluated { .. } | Outcome::Prepared { .. } => {
                verdict.committed += 1;
            }
        }
    }
    for (study, round, site) in history.receipts.keys() {
        if study.as_str() != draft.name {
            continue;
        }
        verdict.receipts += 1;
        // The last round may not have its roll call yet.
        let Some(call) = by_round.get(round) else { continue };
        if matches!(call.outcome, Outcome::Abandoned { .. }) {
            verdict.in_abandoned += 1;
        } else if !call.counted(site) {
            eprintln!("LOST: {study} {round} {site}: acknowledged, not counted: {call:?}");
            verdict.lost += 1;
        }
    }
    verdict
}
