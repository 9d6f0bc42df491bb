//! What must hold after every step: looked at over what is new in the log.

use consilium_common::audit::record::ReceiptGiven;
use consilium_common::audit::{Record, RollCall, Status};
use consilium_common::time::Millis;
use consilium_common::wire::reject::Code;

use super::world::World;

/// Idle is who shows nothing for the idle timeout of the simulated studies; messages take a moment.
const IDLE: Millis = Millis::from_secs(10);
pub(crate) const SLACK: Millis = Millis::from_secs(3);

impl World {
    /// Looks at the records that are new in the log.
    pub(crate) fn audit(&mut self) {
        while let Some((at, record)) = self.coordinator.log.get(self.audited) {
            let (at, record) = (*at, record.clone());
            self.audited += 1;
            if let Record::RollCall(ended) = &record {
                let call = ended.signed.parse_unverified().unwrap();
                self.nobody_left_out_without_cause(&call, at);
            }
            if let Record::Receipt(given) = &record {
                self.what_is_receipted_is_retained(given);
            }
        }
    }

    fn nobody_left_out_without_cause(&self, call: &RollCall, at: Millis) {
        let began = self.coordinator.log.iter().rev().find_map(|(at, record)| match record {
            Record::Plan(plan) if (&plan.study, plan.round) == (&call.study, call.round) => {
                Some(*at)
            }
            _ => None,
        });
        let lasted = at.since(began.expect("a roll call has a plan before it"));
        let study = self.index_of(&call.study);
        let deadline = self.studies[study].study.cohort.deadline;
        for (name, entry) in &call.sites {
            let Status::Excluded { code } = entry.status else {
                continue;
            };
            let site = self.sites.iter().find(|site| site.name == *name).unwrap();
            let round = (call.study.clone(), call.round);
            match code {
                Code::Late => assert!(lasted >= deadline, "{name} is late after {lasted}"),
                Code::Idle | Code::NoAnswer => {
                    let moves = self.downloads(site, &call.study, call.round);
                    assert!(!moves, "{name} was passed over while its base came, slowly");
                    assert!(lasted >= IDLE, "{name} is idle after {lasted}");
                    let ready = self.ready_since.get(&(site.index, study));
                    let long = ready.is_some_and(|since| *since + IDLE + SLACK <= at);
                    let link = site.link.and_then(|link| self.links.get(&link));
                    let well = link
                        .is_some_and(|link| link.is_healthy() && link.opened + IDLE + SLACK <= at);
                    let told = code == Code::NoAnswer && long && well && site.session.is_some();
                    assert!(!told, "{name} was there all the time and was not told of {round:?}");
                }
                Code::WorkerFailed | Code::SiteFault | Code::Diverged => {
                    assert!(site.gave_up.contains(&round), "{name} never gave {round:?} up");
                }
                Code::ControlLost => {
                    let lost = site.restored || !site.set_aside.is_empty();
                    let excused = lost || self.coordinator.forgot > 0;
                    assert!(excused, "{name} has lost a control variate that nothing took");
                }
                Code::CoordinatorFault => {
                    let lost = self.stage_was_lost || self.coordinator.blob_rotted;
                    assert!(lost, "{name} suffers from a fault that there was not");
                }
                _ => {}
            }
        }
    }

    /// A receipt is given for what its site retains, and nothing but a rotten disk takes it from there.
    fn what_is_receipted_is_retained(&self, given: &ReceiptGiven) {
        let receipt = given.signed.parse_unverified().unwrap();
        let site = self.sites.iter().find(|site| site.name == receipt.site).unwrap();
        let of = (receipt.study.clone(), receipt.round);
        let excused = site.restored || site.set_aside.contains(&of) || self.coordinator.forgot > 0;
        let there = site.disk.retained.contains_key(&of);
        assert!(there || excused, "{} has a receipt of {of:?} and no update", site.name);
    }
}
