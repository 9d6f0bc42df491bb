//! What a site's deeds leave on its disk and answer to its session.

use consilium_agent::session::{Decision, Done, Fault, Judged, Retained, Trained};
use consilium_common::ids::Digest;
use consilium_common::update::grid::{COUNT_STEP_EXPONENT, step_exponent};
use consilium_common::update::sections::{ControlSection, Header, encode_update};
use consilium_common::update::words::{Metrics, Words};
use consilium_common::wire::messages::{Plan, TaskKind};
use consilium_common::wire::reject::Code;
use consilium_common::worker::Outcome;

use super::super::kept::{Kept, NextState};
use super::super::sim::Deed;
use super::super::terms::Terms;
use super::{Made, Of, Reached, Site, named, of_plan};

impl Site {
    /// A deed is done, and on disk where it belongs there; its answer.
    pub(crate) fn did(&mut self, studies: &[Terms], deed: Deed, reached: Reached<'_>) -> Done {
        let fault = |detail: &str| Fault::passing(Code::SiteFault, detail);
        match deed {
            Deed::Judge { .. } if !reached.coordinator => {
                Done::Judged(Err(fault("connection lost")))
            }
            Deed::Judge { study, .. } => {
                self.disk.judged.insert(studies[study].study.id().clone());
                Done::Judged(Ok(judged(&studies[study])))
            }
            Deed::Fetch { plan, .. } => {
                assert_ne!(plan.task, TaskKind::Prepare, "counts start from nothing");
                for digest in named(&plan) {
                    if self.disk.cache.holds(digest) {
                        continue;
                    }
                    let Some(sent) = reached.sent else {
                        return Done::Fetched(Err(fault("connection lost")));
                    };
                    if !self.disk.cache.put(digest, &sent[&digest]) {
                        let told = "other bytes than asked for";
                        return Done::Fetched(Err(Fault::passing(Code::CoordinatorFault, told)));
                    }
                }
                Done::Fetched(Ok(()))
            }
            Deed::Train { plan, .. } if !self.has_all_of(&plan) => {
                Done::Trained(Err(Fault::lasting(Code::SiteFault, "the cached base has rotted")))
            }
            Deed::Train { plan, .. } if !self.has_variate_for(&plan) => Done::Trained(Err(
                Fault::lasting(Code::ControlLost, "another control variate than the plan's"),
            )),
            Deed::Train { crashes: true, .. } => {
                Done::Trained(Err(Fault::passing(Code::WorkerFailed, "killed by signal 9")))
            }
            Deed::Train { crashes: false, .. } => Done::Trained(Ok(Trained {
                outcome: Outcome {
                    examples: 100,
                    holdout: 100,
                    metrics: Metrics(vec![100, 65_536]),
                    ..Outcome::default()
                },
                path: None,
            })),
            Deed::Encode { disk_full: true, .. } => {
                Done::Encoded(Err(Fault::lasting(Code::SiteFault, "no space left on device")))
            }
            Deed::Encode { plan, .. } if !self.has_base_for(&plan) => {
                Done::Encoded(Err(Fault::lasting(Code::SiteFault, "the cached base has rotted")))
            }
            Deed::Encode { plan, .. } => {
                let terms = super::super::world::terms_of(studies, &plan.study);
                Done::Encoded(Ok(self.encode(terms, &plan)))
            }
            Deed::Pushed { went: true } => Done::Pushed(Ok(())),
            Deed::Pushed { went: false } => Done::Pushed(Err(fault("the stream was reset"))),
            Deed::Settle { study, round, counted } => {
                self.settle((study, round), counted);
                Done::Settled
            }
        }
    }

    pub(super) fn settle(&mut self, of: Of, counted: bool) {
        if counted {
            self.promote(&of);
        }
        let there = self.disk.retained.remove(&of).is_some();
        self.settled.push((of, counted, there));
    }

    /// The next local state in a retained update becomes the current one, if it can be read.
    pub(super) fn promote(&mut self, of: &Of) {
        match self.disk.retained.get(of).map(Kept::next_state) {
            None | Some(NextState::None) => {}
            Some(NextState::Left(counted, next)) => self.disk.local.promote(of, counted, &next),
            Some(NextState::Rotten) => drop(self.set_aside.insert(of.clone())),
        }
    }

    /// Whether what a worker is given is sound. Who counts starts from nothing.
    fn has_all_of(&self, plan: &Plan) -> bool {
        let is_sound = |digest| self.disk.cache.is_sound(digest);
        plan.task == TaskKind::Prepare || named(plan).all(is_sound)
    }

    /// The control variate that a plan names is the one that moved with the last update that counted.
    fn has_variate_for(&self, plan: &Plan) -> bool {
        let own = plan.control.and_then(|control| control.own);
        own.is_none() || own == self.disk.local.round(&plan.study)
    }

    /// An update is made over its base; a score and counts are not.
    pub(super) fn has_base_for(&self, plan: &Plan) -> bool {
        plan.task != TaskKind::Train || self.disk.cache.is_sound(plan.base)
    }

    /// The update of a plan: it follows from site, base and local state alone, as a seed makes it do.
    pub(super) fn encode(&mut self, terms: &Terms, plan: &Plan) -> Retained {
        let unsettled = self.disk.retained.keys().any(|(study, _)| *study == plan.study);
        assert!(!unsettled, "trained over site state that is not settled");
        let mut seed = blake3::Hasher::new();
        let counted = self.disk.local.counted(&plan.study);
        seed.update(self.name.as_str().as_bytes()).update(&plan.base.0);
        seed.update(&counted.to_le_bytes());
        let seed = *seed.finalize().as_bytes();
        let shared_len = match plan.task {
            TaskKind::Train => terms.layout.weights_len(),
            TaskKind::Evaluate => 0,
            TaskKind::Prepare => terms.study.preparation_len().unwrap(),
        };
        let counts = plan.task == TaskKind::Prepare;
        let control = plan.control.and_then(|_| terms.study.aggregation.control_grid());
        let control = control
            .map(|grid| ControlSection { step_exponent: grid.step_exponent, len: shared_len });
        let all = shared_len + control.map_or(0, |control| control.len);
        let units: Vec<i32> = seed.iter().take(all).map(|b| (i32::from(*b) - 128) << 18).collect();
        let is_bad = self.bad.contains(&of_plan(plan));
        let honest = if counts { 1 } else { 10 + u64::from(seed[30]) };
        let said = Words {
            weight: if is_bad { 1_001 } else { honest },
            clipped: if counts { 0 } else { u64::from(seed[31] & 1) },
            metrics: Metrics(if counts { vec![0, 0] } else { vec![100, loss_of(plan.base)] }),
        };
        let words = terms.schema.encode(&said);
        let exponent = step_exponent(terms.study.aggregation.clip_norm);
        let header = Header {
            round: plan.round,
            step_exponent: if counts { COUNT_STEP_EXPONENT } else { exponent },
            study: plan.study_digest,
            base: plan.base,
            layout: terms.layout.digest(),
            shared_len,
            control,
            words_len: words.len(),
        };
        let bytes = encode_update(&header, &units, &words);
        let retained = Retained {
            study: plan.study.clone(),
            round: plan.round,
            digest: Digest::of(&bytes),
            bytes: bytes.len() as u64,
        };
        let next = (plan.task == TaskKind::Train).then(|| self.disk.local.next(&plan.study));
        let kept = Kept::write(&retained, (plan.study_digest, said), &bytes, next);
        self.disk.retained.insert(of_plan(plan), kept);
        let made = self.made.entry(of_plan(plan)).or_default();
        made.entry(retained.digest).or_insert(Made { bytes, counted });
        retained
    }
}

pub(super) fn judged(terms: &Terms) -> Judged {
    Judged {
        decision: Decision::Accepted,
        why: "within policy".to_owned(),
        schema: Some(terms.schema.clone()),
    }
}

/// What a version is worth on 100 records, the same at every site: its digest decides.
fn loss_of(base: Digest) -> u64 {
    65_536 * (1 + u64::from(base.0[0]))
}
