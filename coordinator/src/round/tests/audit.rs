//! What the log of a world says, held against a reference.

use consilium_common::audit::record::StudyStateSet;
use consilium_common::audit::{Outcome, Record, RollCall, Status as Counted};
use consilium_common::ids::{Digest, Round};
use consilium_common::study::Preparation;
use consilium_common::tensor::flat::MODEL_HEADER_BYTES;
use consilium_common::tensor::state::{STATE_HEADER_BYTES, state_header};
use consilium_common::update::sections::{Header, decode_i32};
use consilium_common::wire::messages::{Message, RunState};

use super::super::Controls;
use super::world::{World, key};
use crate::aggregate::sum::Coordinates;
use crate::aggregate::{Before, Members, Next, ServerStep, Sum, segments};

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
    /// call over its base, and its strategy's state to follow from the one before.
    pub(super) fn commits(&self) -> Vec<Digest> {
        let (mut commits, mut state) = (Vec::new(), None);
        let grid = self.study.aggregation.control_grid();
        let (mut controls, shared) = (Controls::default(), self.layout.len());
        let coordinates = Coordinates { shared, control: grid.map_or(0, |_| shared) };
        for roll_call in self.roll_calls() {
            // Those of the round that c is made in, whether or not it begins anew after that.
            let counted = roll_call.sites.keys().filter(|site| roll_call.counted(site));
            let (before, after) = (controls.len(), controls.len_with(counted));
            let begins_anew = grid.is_some() && controls.follow(&roll_call);
            let Outcome::Committed { model, strategy_state, sum, weight, .. } = roll_call.outcome
            else {
                state = state.filter(|_| !begins_anew);
                continue;
            };
            let mut reference = Sum::of(coordinates);
            for entry in roll_call.sites.values() {
                if let Counted::Counted { weight } = entry.status {
                    let update = &self.made[&entry.update.unwrap()];
                    let share = reference.admit(weight.unwrap()).unwrap();
                    reference.add(share, 0, &units(update, coordinates.all())).unwrap();
                }
            }
            assert_eq!((reference.digest(), reference.weight()), (sum, weight));
            let members =
                grid.map(|grid| Members { before, after, step_exponent: grid.step_exponent });
            let (next, next_state) = next(self, (roll_call.base, state), &reference, -26, members);
            state = next_state.as_deref().map(Digest::of);
            assert_eq!((Digest::of(&next), state), (model, strategy_state));
            state = state.filter(|_| !begins_anew);
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
    let header = Header::decode(update, update.len() as u64).unwrap();
    decode_i32(&update[header.header_bytes_len()..]).take(coordinates).collect()
}

/// The next model and strategy's state.
pub(super) fn next(
    world: &World,
    (base, state): (Digest, Option<Digest>),
    sum: &Sum,
    exponent: i32,
    members: Option<Members>,
) -> (Vec<u8>, Option<Vec<u8>>) {
    let mut step = ServerStep::new(world.optimizer, sum.weight(), exponent).unwrap();
    if let Some(members) = members {
        step = step.with_members(members).unwrap();
    }
    let values = world.optimizer.state_values();
    let (header, vector) = world.models[&base].split_at(MODEL_HEADER_BYTES);
    let state = state.map(|state| &world.models[&state][STATE_HEADER_BYTES..]);
    let head = state_header(&world.layout.digest());
    let mut next = Next { model: header.to_vec(), state: head.to_vec() };
    for segment in segments(&world.layout) {
        let of_state = |sum: std::ops::Range<usize>| 4 * values * sum.start..4 * values * sum.end;
        let range = segment.sum.clone().map_or(0..0, of_state);
        let before = Before {
            base: &vector[4 * segment.vector.start..4 * segment.vector.end],
            state: state.map(|state| &state[range]),
        };
        step.next_segment(&segment, before, sum.as_slice(), &mut next).unwrap();
    }
    (next.model, (values > 0).then_some(next.state))
}
