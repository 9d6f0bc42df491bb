//! Who may train what: a study is fetched by digest, its signatures and the site's policy are held
//! against it, and it is kept with what people decided.

use std::sync::Arc;
use std::time::Duration;

use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::update::words::Schema;
use consilium_common::wire::messages::StudyOffer;
use consilium_common::wire::reject::Code;
use consilium_io::net::Carrier;

use super::shared::{Shared, blocking};
use crate::link::transfer;
use crate::policy::{self, Judgement, Refusal};
use crate::rules::Rules;
use crate::session::{Decision, Fault, Judged, KnownStudy, Retained, Setup};
use crate::state::KeptStudy;

/// A study is some kilobytes: it moves at once or not at all.
const STUDY_IDLE: Duration = Duration::from_secs(20);

/// Program and version, as peers and people see it.
pub(crate) const AGENT: &str = concat!("consilium-agent ", env!("CARGO_PKG_VERSION"));

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
    drop(state);
    Setup {
        site: shared.site().clone(),
        agent: AGENT.to_owned(),
        studies: known(shared),
        data: shared.config.data.keys().cloned().collect(),
        retained,
        moment: shared.rules().moment.clone(),
    }
}

/// Every kept study, judged by the rules that are in force. What the rules refuse is logged: nobody
/// would notice otherwise that a study which ran yesterday does not run today.
pub(super) fn known(shared: &Shared) -> Vec<KnownStudy> {
    let kept: Vec<KeptStudy> = shared.state().studies.iter().cloned().collect();
    let known = |kept: &KeptStudy| {
        let judged = judged(shared, kept);
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
    let bytes = match shared.kept(&offer.digest) {
        Some(kept) => kept.signed.bytes,
        None => fetch(carrier, &offer).await?,
    };
    let signed = Signed::<Study>::from_parts(bytes, offer.signatures.clone());
    if let Err(refusal) = verify(&shared.rules(), &signed, &offer) {
        tracing::warn!(study = %offer.study, code = %refusal.code, "study refused: {refusal}");
        return Ok(refused(refusal));
    }
    let shared = Arc::clone(shared);
    blocking(move || {
        let kept = shared.state().studies.keep(signed).cloned();
        let kept = kept.map_err(|error| Fault::passing(Code::SiteFault, error.to_string()))?;
        let judged = judged(&shared, &kept);
        announce(&kept, &judged);
        Ok(judged)
    })
    .await?
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

/// What signatures, policy and people say of a kept study.
pub(super) fn judged(shared: &Shared, kept: &KeptStudy) -> Judged {
    let rules = shared.rules();
    let policy = rules.policy.as_ref();
    let study = match policy::open(policy, &rules.signers, &kept.signed) {
        Ok(study) => study,
        Err(refusal) => return refused(refusal),
    };
    let source = shared.config.data.get(study.id());
    let judgement = policy::judge(policy, &study, source);
    let person = kept.decided.as_ref().map(|decided| decided.person);
    let decision = policy::decide(&judgement, person);
    let by = kept.decided.as_ref().map_or("", |decided| &decided.by);
    let why = match (&judgement, decision) {
        (Judgement::Refused(refusal), _) => refusal.sentence.clone(),
        (_, Decision::Refused { .. }) => format!("refused by {by}"),
        (_, Decision::NeedsPerson) => {
            let name = name(kept);
            format!("waits for a person: `consilium-agent study accept {name}`")
        }
        (Judgement::NeedsPerson, Decision::Accepted) => format!("accepted by {by}"),
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
