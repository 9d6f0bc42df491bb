//! From what the log says to an engine, back into a round that was interrupted.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::{PlanMade, TrainingBegun};
use consilium_common::audit::{Receipt, Record};
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::planted::{self, Bug};
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Study, StudyError};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::update::best::Best;
use consilium_common::wire::messages::RunState;
use consilium_common::wire::reject::Code;

use super::command::stopped_by;
use super::controls::Controls;
use super::engine::Engine;
use super::idle::Attempts;
use super::open_round::{OpenRound, Phase};
use super::outbox::{Awaited, Outbox};
use super::site::{Site, SiteState, Why};
use super::terms::Terms;

/// What the log says of a study; [`StudyHistory::setup`](super::StudyHistory::setup) makes it.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The study.
    pub study: Study,
    /// Digest of its signed bytes.
    pub study_digest: Digest,
    /// Whether it runs.
    pub state: RunState,
    /// Who set that state.
    pub state_by: String,
    /// The newest version.
    pub version: Version,
    /// Digest of its model.
    pub model: Digest,
    /// Digest of its strategy's state; none before the strategy's first version.
    pub strategy_state: Option<Digest>,
    /// Under SCAFFOLD: what that state is made of.
    pub controls: Controls,
    /// The best version, from the roll calls.
    pub best: Best,
    /// The newest version when the study's file was submitted, or training went back.
    pub begun: Version,
    /// Rounds of training that are in the newest version.
    pub trained: u64,
    /// Digest of the preparation, once the sites have counted.
    pub preparation: Option<Digest>,
    /// The newest version was scored.
    pub evaluated: bool,
    /// Evaluate rounds of the newest version that were abandoned in a row.
    pub evaluations_abandoned: u32,
    /// No round of the study has this number yet.
    pub next_round: Round,
    /// The round that has a plan and no roll call.
    pub interrupted: Option<Interrupted>,
    /// Sites that may take part.
    pub roster: BTreeSet<SiteId>,
    /// The log key. Ed25519 signatures are deterministic, so signing is pure.
    pub key: SecretKey,
}

/// A round that the log does not end.
#[derive(Debug, Clone)]
pub struct Interrupted {
    /// Its plan.
    pub plan: PlanMade,
    /// The end of its inviting, if it came so far.
    pub training: Option<TrainingBegun>,
    /// The receipts given in it.
    pub receipts: BTreeMap<SiteId, Signed<Receipt>>,
}

impl Interrupted {
    /// The time that its deadline leaves; the coordinator's downtime does not count.
    fn remaining(&self) -> Millis {
        let training = self.training.as_ref();
        training.map_or(self.plan.remaining, |training| training.remaining)
    }

    /// Where a site stood when training began; each may still come back and deliver.
    fn state_of(&self, site: &SiteId) -> SiteState {
        let Some(training) = &self.training else {
            return SiteState::Working;
        };
        if training.accepted.contains(site) {
            return SiteState::Working;
        }
        let excluded = training.excluded.iter().find(|(excluded, _)| excluded == site);
        SiteState::Out(match excluded {
            None | Some((_, Code::NoAnswer)) => Why::NoAnswer,
            Some((_, Code::Idle)) => Why::Idle,
            Some((_, code)) => Why::Declined(*code),
        })
    }
}

impl Engine {
    /// The engine of a study. An interrupted round goes on in Training: receipted updates are looked
    /// for at once, the others wait for their sites.
    ///
    /// # Errors
    /// A study that gives no layout, or whose required sites' weights could exceed the sum's bound.
    pub fn open(setup: Setup, now: Millis) -> Result<Self, StudyError> {
        let terms = Terms::new(setup.study, setup.study_digest, setup.key)?;
        let mut engine = Self {
            terms,
            roster: setup.roster,
            sessions: BTreeMap::new(),
            state: setup.state,
            target: setup.state,
            state_since: None,
            version: setup.version,
            model: setup.model,
            strategy_state: setup.strategy_state.filter(|_| !planted::has(Bug::FreshState)),
            controls: setup.controls,
            best: setup.best,
            begun: setup.begun,
            beside: setup.version.0.saturating_sub(setup.trained),
            preparation: setup.preparation,
            next_round: setup.next_round,
            attempts: Attempts {
                abandoned: 0,
                not_before: now,
                evaluations_abandoned: setup.evaluations_abandoned,
                evaluated: setup.evaluated,
            },
            open: None,
            outbox: Outbox::default(),
            now,
            wall: WallMillis::default(),
        };
        if let Some(interrupted) = setup.interrupted {
            engine.resume(&interrupted, &setup.state_by);
        }
        engine.advance();
        Ok(engine)
    }

    fn resume(&mut self, interrupted: &Interrupted, state_by: &str) {
        let plan = interrupted.plan.clone();
        let mut open = OpenRound::new(plan, Phase::Training, interrupted.remaining(), self.now);
        for (id, site) in &mut open.sites {
            *site = self.resume_site(id, interrupted);
        }
        if interrupted.training.is_none() {
            let record = TrainingBegun {
                study: open.plan.study.clone(),
                round: open.plan.round,
                accepted: open.plan.invited.clone(),
                excluded: Vec::new(),
                remaining: open.plan.remaining,
            };
            self.outbox.persist(Awaited::Record, Record::Training(record));
        }
        let receipted: Vec<(SiteId, Digest)> =
            open.sites.iter().filter_map(|(id, site)| Some((id.clone(), site.bound?))).collect();
        if self.state == RunState::Stopped {
            open.abandon = Some(stopped_by(state_by));
        } else if open.plan.study_digest != self.terms.digest {
            open.abandon = Some("the study was replaced by its next version".to_owned());
        }
        self.open = Some(open);
        for (site, update) in receipted {
            self.look_for(&site, update);
        }
    }

    fn resume_site(&self, id: &SiteId, interrupted: &Interrupted) -> Site {
        let mut site = Site::new(interrupted.state_of(id), self.now);
        let signed = interrupted.receipts.get(id);
        // The history has read it before; were it unreadable, the site would be given another.
        let receipt = signed.and_then(|signed| signed.parse_unverified().ok());
        if let Some(receipt) = receipt {
            site.bound = Some(receipt.update);
            site.receipt = signed.cloned();
            site.receipt_durable = true;
        }
        site
    }
}
