//! What the log of a world says, held against a reference.

use consilium_common::audit::record::StudyStateSet;
use consilium_common::audit::{Outcome, Record, RollCall, Status as Counted};
use consilium_common::ids::{Digest, Round};
use consilium_common::study::Preparation;
use consilium_common::tensor::flat::MODEL_HEADER_BYTES;
use consilium_common::tensor::layout::Layout;
use consilium_common::update::sections::{HEADER_BYTES, decode_i32};
use consilium_common::wire::messages::{Message, RunState};

use super::world::{World, key};
use crate::aggregate::fedavg::segments;
use crate::aggregate::{FedAvg, Sum};

impl World {
    /// Every roll call of the log.
    pub(super) fn roll_calls(&self) -> Vec<RollCall> {
        let signed = self.log.iter().filter_map(|record| match record {
            Record::RollCall(ended) => Some(&ended.signed),
            _ => None,
        });
        let public = key().public();
        signed.map(|signed| signed.verify(&[public], 1).unwrap()).collect()
    }

    pub(super) fn roll_call_message(&self, round: Round) -> Option<Message> {
        let signed = self.log.iter().find_map(|record| match record {
            Record::RollCall(ended) => {
                let roll_call = ended.signed.parse_unverified().unwrap();
                (roll_call.round == round).then(|| ended.signed.clone())
            }
            _ => None,
        })?;
        Some(consilium_common::wire::messages::RollCall { signed }.into())
    }

    /// Digests of the committed models, in order; each is checked to be the exact sum of its roll
    /// call over its base.
    pub(super) fn commits(&self) -> Vec<Digest> {
        let mut commits = Vec::new();
        for roll_call in self.roll_calls() {
            let Outcome::Committed { model, sum, weight, .. } = roll_call.outcome else {
                continue;
            };
            let mut reference = Sum::new(self.layout.len());
            for entry in roll_call.sites.values() {
                if let Counted::Counted { weight } = entry.status {
                    let update = &self.made[&entry.update.unwrap()];
                    let share = reference.admit(weight.unwrap()).unwrap();
                    reference.add(share, 0, &units(update, self.layout.len())).unwrap();
                }
            }
            assert_eq!((reference.digest(), reference.weight()), (sum, weight));
            let base = &self.models[&roll_call.base];
            let next = next_model(&self.layout, base, &reference, -26);
            assert_eq!(Digest::of(&next), model);
            commits.push(model);
        }
        commits
    }

    /// The preparations of the log, in order; each is checked to be the exact sum of its roll call, to
    /// be made once for its terms, and to be named by every later plan until the next.
    pub(super) fn prepared(&self) -> Vec<Preparation> {
        let (mut made, mut in_force) = (Vec::new(), None);
        for record in &self.log {
            match record {
                Record::Plan(plan) => assert_eq!(plan.preparation, in_force, "{}", plan.round),
                Record::RollCall(ended) => {
                    let roll_call = ended.signed.parse_unverified().unwrap();
                    let Outcome::Prepared { preparation, sum } = roll_call.outcome else {
                        continue;
                    };
                    assert!(roll_call.metrics.is_empty() && roll_call.clipped == 0);
                    let read = Preparation::decode(&self.preparations[&preparation]).unwrap();
                    let mut reference = Sum::new(read.sums.len());
                    for entry in roll_call.sites.values() {
                        if let Counted::Counted { weight } = entry.status {
                            assert_eq!(weight, Some(1));
                            let update = &self.made[&entry.update.unwrap()];
                            let share = reference.admit(1).unwrap();
                            reference.add(share, 0, &units(update, read.sums.len())).unwrap();
                        }
                    }
                    assert_eq!((reference.as_slice(), reference.digest()), (&*read.sums, sum));
                    assert_eq!(reference.weight(), u64::from(read.sites));
                    in_force = Some(preparation);
                    made.push(read);
                }
                _ => {}
            }
        }
        made
    }

    pub(super) fn state_in_log(&self) -> RunState {
        let states = self.log.iter().rev().find_map(|record| match record {
            Record::StudyState(StudyStateSet { state, .. }) => Some(*state),
            _ => None,
        });
        states.unwrap_or(RunState::Submitted)
    }
}

pub(super) fn units(update: &[u8], coordinates: usize) -> Vec<i32> {
    decode_i32(&update[HEADER_BYTES..]).take(coordinates).collect()
}

pub(super) fn next_model(layout: &Layout, base: &[u8], sum: &Sum, exponent: i32) -> Vec<u8> {
    let step = FedAvg::new(sum.weight(), exponent).unwrap();
    let (header, vector) = base.split_at(MODEL_HEADER_BYTES);
    let mut next = header.to_vec();
    for segment in segments(layout) {
        let base = &vector[4 * segment.vector.start..4 * segment.vector.end];
        step.next_segment(&segment, base, sum.as_slice(), &mut next).unwrap();
    }
    next
}
