//! Who may train what: a study is fetched by digest, its signatures and the site's policy are held
//! against it, and it is kept with what people decided.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consilium_common::limits::{LEDGER_UNSIGNED_MAX, STUDY_BYTES_MAX};
use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::time::WallMillis;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::{Plan, StudyOffer};
use consilium_common::wire::reject::Code;
use consilium_io::net::Carrier;

use super::shared::{Shared, blocking};
use crate::ledger::LedgerError;
use crate::ledger::entry::{Fetched, Made, Part, Stands, StudyStands};
use crate::link::transfer;
use crate::policy::{self, Judgement, Policy, Refusal};
use crate::rules::Rules;
use crate::session::{Decision, Fault, Judged, KnownStudy, Retained, Setup};
use crate::state::{KeptStudy, Record};

/// A study is some kilobytes: it moves at once or not at all.
const STUDY_IDLE: Duration = Duration::from_secs(20);

/// Program and version, as peers and people see it.
pub const AGENT: &str = concat!("consilium-agent ", env!("CARGO_PKG_VERSION"));

/// What is durable at the site, judged under the present policy.
pub(super) fn setup(shared: &Shared) -> Setup {
    let state = shared.state();
    let retained = state
        .retained
        .iter()
        .map(|record| Retained {
            study: record.study.clone(),
            round: record.round,
            digest: record.digest,
            bytes: record.bytes,
        })
        .collect();
    let withdrawals = state.withdrawals.iter().cloned().collect();
    drop(state);
    Setup {
        site: shared.site().clone(),
        agent: AGENT.to_owned(),
        studies: known(shared),
        data: shared.config.data.keys().cloned().collect(),
        retained,
        moment: super::Driver::moment(shared),
        withdrawals,
    }
}

/// Every kept study, judged by the rules that are in force. What the rules refuse is logged: nobody
/// would notice otherwise that a study which ran yesterday does not run today.
pub(super) fn known(shared: &Shared) -> Vec<KnownStudy> {
    let kept: Vec<KeptStudy> = shared.state().studies.iter().cloned().collect();
    let wall = shared.clock.wall();
    let known = |kept: &KeptStudy| {
        let judged = judged(shared, kept, wall);
        if matches!(judged.decision, Decision::Refused { code } if code != Code::RefusedBySite) {
            announce(kept, &judged);
        }
        KnownStudy {
            digest: kept.digest,
            study: kept.study.id().clone(),
            version: kept.study.header.version,
            judged,
        }
    };
    kept.iter().map(known).collect()
}

/// Fetches, verifies, judges and keeps an offered study.
pub(super) async fn judge(
    shared: &Arc<Shared>,
    carrier: Option<Arc<dyn Carrier>>,
    offer: StudyOffer,
) -> Result<Judged, Fault> {
    let known = shared.kept(&offer.digest);
    let is_new = known.is_none();
    let bytes = match known {
        Some(kept) => kept.signed.bytes,
        None => fetch(carrier, &offer).await?,
    };
    let signed = Signed::<Study>::from_parts(bytes, offer.signatures.clone());
    let shared = Arc::clone(shared);
    blocking(move || {
        let passing =
            |error: &dyn std::fmt::Display| Fault::passing(Code::SiteFault, error.to_string());
        let wall = shared.clock.wall();
        if let Err(refusal) = verify(&shared.rules(), &signed, &offer) {
            let judged = refused(refusal);
            enter_unsigned(&shared, &offer, &judged, wall).map_err(|error| passing(&error))?;
            return Ok(judged);
        }
        let kept = shared.state().studies.keep(signed).cloned();
        let kept = kept.map_err(|error| passing(&error))?;
        if is_new {
            let fetched = Fetched {
                study: kept.study.id().clone(),
                round: None,
                part: Part::Study,
                digest: kept.digest,
                bytes: kept.signed.bytes.len() as u64,
            };
            shared.ledger.record(fetched, wall).map_err(|error| passing(&error))?;
        }
        let judged = judged(&shared, &kept, wall);
        // The coordinator hears what stands in the ledger. A study that was forgotten and came again
        // is entered again.
        let entered = if is_new {
            shared.ledger.record(said(&kept, &judged), wall).map(drop)
        } else {
            enter(&shared, &kept, &judged)
        };
        entered.map_err(|error| passing(&error))?;
        announce(&kept, &judged);
        Ok(judged)
    })
    .await?
}

/// Writes into the ledger what the site says of a kept study, if it is something new.
pub(super) fn enter(shared: &Shared, kept: &KeptStudy, judged: &Judged) -> Result<(), LedgerError> {
    shared.ledger.stands(said(kept, judged), shared.clock.wall())
}

fn said(kept: &KeptStudy, judged: &Judged) -> StudyStands {
    StudyStands {
        study: kept.study.id().clone(),
        version: kept.study.header.version,
        digest: kept.digest,
        stands: stands(judged.decision),
        why: judged.why.clone(),
    }
}

/// The same of a study that is not kept, by the name that the coordinator gives it.
fn enter_unsigned(
    shared: &Shared,
    offer: &StudyOffer,
    judged: &Judged,
    wall: WallMillis,
) -> Result<(), LedgerError> {
    if shared.unsigned.fetch_add(1, Ordering::Relaxed) >= LEDGER_UNSIGNED_MAX {
        tracing::warn!(
            study = %offer.study, digest = %offer.digest.short(),
            "refused, and not written into the ledger: this run has written {LEDGER_UNSIGNED_MAX} \
             studies without signatures"
        );
        return Ok(());
    }
    let StudyOffer { study, version, digest, .. } = offer.clone();
    let (stands, why) = (stands(judged.decision), judged.why.clone());
    shared.ledger.stands(StudyStands { study, version, digest, stands, why }, wall)
}

fn stands(decision: Decision) -> Stands {
    match decision {
        Decision::Accepted => Stands::Accepted,
        Decision::NeedsPerson => Stands::Waits,
        Decision::Refused { code } => Stands::Refused { code },
    }
}

/// Writes into the ledger what the site says of each kept study under the present policy, where that
/// is something new, and each retained update that a killed agent had not written there yet.
///
/// # Errors
/// The ledger cannot be written.
pub(super) fn enter_all(shared: &Shared) -> Result<(), LedgerError> {
    let kept: Vec<KeptStudy> = shared.state().studies.iter().cloned().collect();
    kept.iter().try_for_each(|kept| {
        let judged = judged(shared, kept, shared.clock.wall());
        enter(shared, kept, &judged)
    })?;
    let retained: Vec<Arc<Record>> = shared.state().retained.iter().cloned().collect();
    let lacking = retained.iter().filter(|record| !shared.ledger.has_made(&record.digest));
    lacking
        .map(|record| made(record, None))
        .try_for_each(|made| shared.ledger.record(made, shared.clock.wall()).map(drop))
}

/// An update as the ledger keeps it; the plan, where it is still known.
pub(super) fn made(record: &Record, plan: Option<&Plan>) -> Made {
    Made {
        study: record.study.clone(),
        study_digest: record.study_digest,
        round: record.round,
        task: plan.map(|plan| plan.task),
        base: plan.map(|plan| plan.base),
        digest: record.digest,
        bytes: record.bytes,
        weight: record.weight,
    }
}

async fn fetch(carrier: Option<Arc<dyn Carrier>>, offer: &StudyOffer) -> Result<Vec<u8>, Fault> {
    if offer.bytes > STUDY_BYTES_MAX as u64 {
        let detail =
            format!("a study of {} bytes: at most {STUDY_BYTES_MAX} are read", offer.bytes);
        return Err(Fault::lasting(Code::TooLarge, detail));
    }
    let carrier = carrier
        .ok_or_else(|| Fault::passing(Code::Idle, "the connection went before the study came"))?;
    transfer::fetch_study(&*carrier, offer.digest, STUDY_IDLE)
        .await
        .map_err(|error| transfer::fault(&error))
}

/// Signatures first: nothing else in the bytes is looked at before.
fn verify(rules: &Rules, signed: &Signed<Study>, offer: &StudyOffer) -> Result<(), Refusal> {
    let study = policy::open(rules.policy.as_ref(), &rules.signers, signed)?;
    if *study.id() == offer.study && study.header.version == offer.version {
        return Ok(());
    }
    let sentence = format!(
        "the coordinator calls it {} version {}, its signed text {} version {}",
        offer.study,
        offer.version,
        study.id(),
        study.header.version
    );
    Err(Refusal { code: Code::StudyMismatch, sentence })
}

/// What signatures, policy and people say of a kept study at the time `wall`.
pub(super) fn judged(shared: &Shared, kept: &KeptStudy, wall: WallMillis) -> Judged {
    let rules = shared.rules();
    let policy = rules.policy.as_ref();
    let study = match policy::open(policy, &rules.signers, &kept.signed) {
        Ok(study) => study,
        Err(refusal) => return refused(refusal),
    };
    let source = shared.config.data.get(study.id());
    let judgement = policy::judge(policy, &study, source, wall);
    let needed = policy.map_or(1, Policy::approvers_needed);
    let decided = kept.decided.as_ref();
    let decision = policy::decide(&judgement, decided, needed);
    let said = decided.map_or_else(String::new, |decided| decided.in_words(needed));
    let why = match (&judgement, decision) {
        (Judgement::Refused(refusal), _) => refusal.sentence.clone(),
        (_, Decision::Refused { .. }) | (Judgement::NeedsPerson, Decision::Accepted) => said,
        (_, Decision::NeedsPerson) => {
            let name = name(kept);
            let before = if said.is_empty() { said } else { format!("{said}; ") };
            format!(
                "{before}waits for a person: `consilium-agent study accept {name} --by … --reason …`"
            )
        }
        (Judgement::Allowed, Decision::Accepted) => {
            "accepted within the policy of agent.toml".to_owned()
        }
    };
    Judged { decision, why, schema: Some(Schema::of(&study)) }
}

fn refused(refusal: Refusal) -> Judged {
    Judged {
        decision: Decision::Refused { code: refusal.code },
        why: refusal.sentence,
        schema: None,
    }
}

/// NAME@DIGEST as people type it.
pub(super) fn name(kept: &KeptStudy) -> String {
    format!("{}@{}", kept.study.id(), kept.digest.short())
}

fn announce(kept: &KeptStudy, judged: &Judged) {
    let study = name(kept);
    match judged.decision {
        Decision::Accepted => tracing::info!(study, "study accepted: {}", judged.why),
        Decision::NeedsPerson => tracing::warn!(study, "study offered: it {}", judged.why),
        Decision::Refused { code } => {
            tracing::warn!(study, %code, "study refused: {}", judged.why);
        }
    }
}
