//! What its engines ask for, and what comes of it: records, messages, sums, models.

use std::collections::BTreeSet;

use consilium_common::audit::Record;
use consilium_common::ids::{Digest, SiteId};
use consilium_common::planted::{self, Bug};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{self as m, Message};
use consilium_common::wire::reject::Code;
use consilium_coordinator::aggregate::sum::Coordinates;
use consilium_coordinator::aggregate::{Members, Sum, validate};
use consilium_coordinator::round::{Action, ActionId, Aggregated, Done, Fault, Prepared};

use super::super::sim::{Event, Sim, Work};
use super::super::terms::{Terms, next, preparation, units};
use super::Coordinator;

impl Coordinator {
    /// Begins what an engine asks for. What is to be sent comes back.
    pub(crate) fn perform(
        &mut self,
        study: usize,
        terms: &Terms,
        action: Action,
        sim: &mut Sim,
    ) -> Option<(SiteId, Message)> {
        let life = self.life;
        match action {
            Action::Persist { id, record } => {
                self.persist(study, id, record, sim);
                None
            }
            Action::Send { site, message } => {
                self.assert_durable(&message);
                Some((site, *message))
            }
            // The world has seen that the site deserves it, and lets it go on.
            Action::Strike { .. } => None,
            Action::SendRollCall { site, round, update } => {
                let message = self.old_roll_call(terms, round).unwrap_or_else(|| {
                    let (study, detail) = (terms.study.id().clone(), "no such round".to_owned());
                    let code = Code::WrongRound;
                    m::UpdateRefused { study, round, digest: update, code, detail }.into()
                });
                Some((site, message))
            }
            Action::Forget { .. } => {
                let running = &mut self.running[study];
                (running.sum, running.added) = (None, BTreeSet::new());
                self.stage.forget(study);
                None
            }
            Action::Look { id, .. }
            | Action::Verify { id, .. }
            | Action::Add { id, .. }
            | Action::Aggregate { id, .. }
            | Action::Prepare { id, .. } => {
                let work = Work::Other(Box::new(action));
                sim.after(0, 60, Event::Worked { life, study, id, work });
                None
            }
        }
    }

    fn persist(&mut self, study: usize, id: ActionId, record: Box<Record>, sim: &mut Sim) {
        let life = self.life;
        let done = sim.now + Millis(sim.between(1, 30));
        self.disk_free = self.disk_free.max(done);
        if planted::has(Bug::NoSync) {
            sim.at(self.disk_free, Event::Written { life, record });
            sim.after(0, 0, Event::Worked { life, study, id, work: Work::Early });
        } else {
            let work = Work::Persist(record);
            sim.at(self.disk_free, Event::Worked { life, study, id, work });
        }
    }

    /// The disk or the CPU is done; its answer.
    pub(crate) fn worked(&mut self, study: usize, terms: &Terms, work: Work, now: Millis) -> Done {
        let action = match work {
            Work::Persist(record) => {
                self.append(*record, now);
                return Done::Persisted;
            }
            Work::Early => return Done::Persisted,
            Work::Other(action) => *action,
        };
        match action {
            Action::Look { update, .. } => Done::Staged(self.stage.look(update)),
            Action::Verify { update, rules, .. } => {
                let staged = self.stage.read(update);
                Done::Verified(staged.and_then(|staged| validate(&rules, &terms.schema, staged)))
            }
            Action::Add { site, update, weight, coordinates, .. } => {
                Done::Added(self.add(study, site, update, (weight, coordinates)))
            }
            Action::Aggregate { base, strategy_state, weight, step_exponent, members, .. } => {
                let (head, step) = ((base, strategy_state), (weight, step_exponent, members));
                Done::Aggregated(self.aggregate(study, terms, head, step))
            }
            Action::Prepare { sites, .. } => Done::Prepared(Ok(self.prepare(study, terms, sites))),
            other => panic!("{other:?} has no answer"),
        }
    }

    fn add(
        &mut self,
        study: usize,
        site: SiteId,
        update: Digest,
        (weight, coordinates): (u64, Coordinates),
    ) -> Result<(), Fault> {
        let staged = self.stage.read(update)?;
        let running = &mut self.running[study];
        assert!(running.added.insert(site.clone()), "{site} was added twice");
        let sum = running.sum.get_or_insert_with(|| Sum::of(coordinates));
        let share = sum.admit(weight).unwrap();
        sum.add(share, 0, &units(staged, coordinates.all())).unwrap();
        Ok(())
    }

    /// A blob on disk.
    fn keep(&mut self, bytes: Vec<u8>) -> Digest {
        let digest = Digest::of(&bytes);
        self.blobs.insert(digest, bytes);
        self.rotten.remove(&digest);
        digest
    }

    /// A blob, hashed as it is read.
    fn read(&self, digest: Digest) -> Result<&[u8], Fault> {
        let bytes = self.blob(digest);
        if Digest::of(bytes) == digest {
            return Ok(bytes);
        }
        let detail = format!("{digest} has other content on disk");
        Err(Fault { code: Code::CoordinatorFault, detail })
    }

    fn aggregate(
        &mut self,
        study: usize,
        terms: &Terms,
        (base, state): (Digest, Option<Digest>),
        (weight, exponent, members): (u64, i32, Option<Members>),
    ) -> Result<Aggregated, Fault> {
        let sum = self.running[study].sum.as_ref().unwrap();
        assert_eq!(sum.weight(), weight, "the sum's weight is the round's");
        let state = state.map(|state| self.read(state)).transpose()?;
        let next = next(terms, (self.read(base)?, state), sum, exponent, members);
        let sum = sum.digest();
        let model = self.keep(next.model);
        let strategy_state = (!next.state.is_empty()).then(|| self.keep(next.state));
        Ok(Aggregated { model, strategy_state, sum })
    }

    fn prepare(&mut self, study: usize, terms: &Terms, sites: u64) -> Prepared {
        let sum = self.running[study].sum.as_ref().unwrap();
        assert_eq!(sum.weight(), sites, "every site counts once");
        let (made, sum) = (preparation(terms, sum), sum.digest());
        Prepared { preparation: self.keep(made), sum }
    }
}
