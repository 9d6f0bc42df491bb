//! What a round's records must be, held against the study and what was before: each function gives what is
//! wrong, in sentences. That rounds and versions follow one another, the fold itself checks
//! ([`History::apply`](crate::round::History::apply)).

use std::collections::{BTreeMap, BTreeSet};

use consilium_certs::roster::Roster;
use consilium_common::audit::record::{PlanMade, TrainingBegun};
use consilium_common::audit::{Outcome, Receipt, RollCall, Status};
use consilium_common::ids::{Digest, SiteId};
use consilium_common::study::Cohort;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{RunState, TaskKind};

use crate::round::{Interrupted, Shape, StudyHistory};

/// What follows from a study's file, computed once.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) shape: Shape,
    pub(super) schema: Schema,
}

/// Notes a sentence if something is not as it must be.
struct Told(Vec<String>);

impl Told {
    fn unless(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.0.push(what());
        }
    }
}

/// A round begins.
pub(super) fn plan(
    study: &StudyHistory,
    known: &Known,
    roster: Option<&Roster>,
    plan: &PlanMade,
) -> Vec<String> {
    let mut told = Told(Vec::new());
    let (round, head) = (plan.round, &study.head);
    told.unless(study.state == RunState::Running, || {
        format!("round {round} begins while the study is {}", study.state)
    });
    told.unless(round <= study.next_round, || {
        format!("round {round} follows where round {} is due: rounds are missing", study.next_round)
    });
    told.unless(plan.study_digest == study.study_digest(), || {
        format!("it is of study file {}, {} is in force", plan.study_digest, study.study_digest())
    });
    told.unless((plan.base_version, plan.base) == (head.version, head.model), || {
        format!(
            "it starts from {} ({}), the newest version is {} ({})",
            plan.base_version, plan.base, head.version, head.model
        )
    });
    let prepares = known.shape.preparation_len().is_some() && head.preparation.is_none();
    told.unless((plan.task == TaskKind::Prepare) == prepares, || {
        let due = if prepares { "nothing is prepared yet" } else { "there is nothing to prepare" };
        format!("it asks to {}, and {due}", task_word(plan.task))
    });
    let cohort = &study.study.cohort;
    told.unless(plan.remaining == cohort.deadline, || "it has another deadline".to_owned());
    let invited: BTreeSet<&SiteId> = plan.invited.iter().collect();
    told.unless(invited.len() == plan.invited.len(), || "it invites a site twice".to_owned());
    told.0.extend(lacking(cohort, &invited, "invited"));
    match roster {
        None => told.0.push("it begins before any roster was in force".to_owned()),
        Some(roster) => {
            for site in invited.into_iter().filter(|site| !roster.contains(site)) {
                let version = roster.version();
                told.0.push(format!("it invites {site}, which is not in roster version {version}"));
            }
        }
    }
    told.0
}

/// Inviting ends.
pub(super) fn training(open: &Interrupted, training: &TrainingBegun) -> Vec<String> {
    let mut told = Told(Vec::new());
    told.unless(open.training.is_none(), || "inviting ends twice".to_owned());
    told.unless(training.remaining <= open.plan.remaining, || {
        "more time remains than there was".to_owned()
    });
    let named = training.accepted.iter().chain(training.excluded.iter().map(|(site, _)| site));
    let mut seen = BTreeSet::new();
    for site in named {
        told.unless(open.plan.invited.contains(site), || format!("{site} was not invited"));
        told.unless(seen.insert(site), || format!("{site} stands in it twice"));
    }
    told.0
}

/// A receipt is given.
pub(super) fn receipt(known: &Known, open: &Interrupted, receipt: &Receipt) -> Vec<String> {
    let mut told = Told(Vec::new());
    let (site, plan) = (&receipt.site, &open.plan);
    told.unless(receipt.format == 1, || format!("it has format {}", receipt.format));
    told.unless(receipt.study_digest == plan.study_digest, || {
        format!("it is of study file {}, the plan of {}", receipt.study_digest, plan.study_digest)
    });
    told.unless(plan.invited.contains(site), || format!("{site} was not invited"));
    told.unless(open.training.is_some(), || "it is given before inviting ended".to_owned());
    told.unless(!open.receipts.contains_key(site), || format!("{site} has a receipt already"));
    let need = known.shape.rules(plan).update_bytes_len();
    told.unless(receipt.bytes == need, || {
        format!("it is for {} bytes, an update of this round has {need}", receipt.bytes)
    });
    told.0
}

/// A round ends.
pub(super) fn roll_call(
    study: &StudyHistory,
    known: &Known,
    open: &Interrupted,
    call: &RollCall,
) -> Vec<String> {
    let mut told = Told(Vec::new());
    let plan = &open.plan;
    told.unless(call.format == 1, || format!("it has format {}", call.format));
    let as_planned = call.study_digest == plan.study_digest
        && call.task == plan.task
        && (call.base_version, call.base) == (plan.base_version, plan.base);
    told.unless(as_planned, || "study file, task or base are not those of its plan".to_owned());
    for site in plan.invited.iter().filter(|site| !call.sites.contains_key(*site)) {
        told.0.push(format!("{site} was invited and is not in it"));
    }
    for site in call.sites.keys().filter(|site| !plan.invited.contains(site)) {
        told.0.push(format!("{site} is in it and was not invited"));
    }
    let receipts = receipted(open);
    for (site, entry) in &call.sites {
        let given = receipts.get(site);
        told.unless(entry.update.as_ref() == given, || match (entry.update, given) {
            (Some(update), Some(given)) => {
                format!("it names update {update} of {site}, whose receipt is for {given}")
            }
            (Some(update), None) => {
                format!("it names update {update} of {site}, which has no receipt")
            }
            (None, _) => format!("it does not name the update of {site}, which has a receipt"),
        });
        let counted = matches!(entry.status, Status::Counted { .. });
        told.unless(!counted || entry.update.is_some(), || {
            format!("{site} counted without an update")
        });
    }
    outcome(&mut told, study, known, call);
    told.0
}

/// Digests of the receipted updates. The fold has read them before.
fn receipted(open: &Interrupted) -> BTreeMap<&SiteId, Digest> {
    let read = open.receipts.iter();
    read.filter_map(|(site, signed)| Some((site, signed.parse_unverified().ok()?.update))).collect()
}

fn outcome(told: &mut Told, study: &StudyHistory, known: &Known, call: &RollCall) {
    let fits = match call.outcome {
        Outcome::Committed { .. } => call.task == TaskKind::Train,
        Outcome::Evaluated { .. } => call.task == TaskKind::Evaluate,
        Outcome::Prepared { .. } => call.task == TaskKind::Prepare,
        Outcome::Abandoned { .. } => true,
    };
    told.unless(fits, || {
        format!("{} cannot come of a task to {}", call.outcome, task_word(call.task))
    });
    let counted: BTreeSet<&SiteId> = call.sites.keys().filter(|site| call.counted(site)).collect();
    told.unless(call.clipped <= counted.len() as u64, || {
        format!("{} updates were clipped and {} counted", call.clipped, counted.len())
    });
    told.unless(measures(known, call), || "it has other sums than the study measures".to_owned());
    if matches!(call.outcome, Outcome::Abandoned { .. }) {
        told.unless(counted.is_empty(), || "sites counted in an abandoned round".to_owned());
        return;
    }
    told.0.extend(lacking(&study.study.cohort, &counted, "counted"));
    let (most, mut sum) = (known.shape.weight_max(call.task), 0_u64);
    for (site, entry) in &call.sites {
        let Status::Counted { weight } = entry.status else { continue };
        let weight = weight.unwrap_or(0);
        told.unless((1..=most).contains(&weight), || {
            format!("{site} counted with weight {weight}, 1 to {most} is possible")
        });
        sum = sum.saturating_add(weight);
    }
    match call.outcome {
        Outcome::Committed { weight, .. } | Outcome::Evaluated { weight } => {
            told.unless(weight == sum, || format!("the weights add up to {sum}, it says {weight}"));
        }
        Outcome::Prepared { .. } | Outcome::Abandoned { .. } => {}
    }
    if let Outcome::Committed { strategy_state, .. } = call.outcome {
        let has_state = study.study.aggregation.server_optimizer().state_values() > 0;
        told.unless(strategy_state.is_some() == has_state, || {
            "it names a state and the strategy has none, or the other way round".to_owned()
        });
    }
}

/// Whether the roll call has the sums of the study's schema, all by name and no others; none where nothing
/// was measured.
fn measures(known: &Known, call: &RollCall) -> bool {
    if matches!(call.outcome, Outcome::Abandoned { .. } | Outcome::Prepared { .. }) {
        return call.metrics.is_empty() && call.clipped == 0;
    }
    let names = known.schema.names();
    names.len() == call.metrics.len() && names.iter().all(|name| call.metrics.contains_key(name))
}

/// What the rule of the cohort misses.
fn lacking(rule: &Cohort, sites: &BTreeSet<&SiteId>, what: &str) -> Vec<String> {
    let mut lacking = Vec::new();
    let (have, need) = (sites.len(), rule.min_sites as usize);
    if have < need {
        lacking.push(format!("{have} sites {what}, the study asks for {need}"));
    }
    for site in rule.required.iter().filter(|site| !sites.contains(site)) {
        lacking.push(format!("the required site {site} was not {what}"));
    }
    lacking
}

pub(super) fn task_word(task: TaskKind) -> &'static str {
    match task {
        TaskKind::Train => "train",
        TaskKind::Evaluate => "evaluate",
        TaskKind::Prepare => "prepare",
    }
}
