//! The site's own rules: `[policy]` of agent.toml. Pure, and closed unless opened: what is not
//! written there is refused, and no study can relax it.
//!
//! ```text
//!   signed study ─► signatures (k of n) ─► judge (findings) ─► decide (people's words) ─► Decision
//!   plan ─────────► moment (hours, slots) ─► taken on, or declined with the next opening
//! ```
//!
//! * [`rules`]: `[policy]`, field by field
//! * [`findings`]: what each rule says of a study
//! * [`moment`]: what a plan is held against
//!
//! The edge (`crate::rules`) loads the operators' keys and the zone, keeps what people decided, and
//! judges every kept study again at each start and whenever the policy is read again.

pub mod approval;
pub mod findings;
mod governance;
pub mod moment;
pub mod rules;

#[cfg(test)]
mod tests;

pub use consilium_common::hours::{Hours, Window};
use consilium_common::signed::Signed;
use consilium_common::study::Study;
use consilium_common::time::WallMillis;
use consilium_common::wire::reject::Code;
use consilium_common::worker::Source;
use serde::{Deserialize, Serialize};

pub use approval::{Decided, Said, decide};
pub use findings::{Finding, Verdict};
pub use moment::{Decline, Moment};
pub use rules::{Accept, AcceptRoster, Policy, PolicyError, Signers};

/// What the policy says of a study.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// It is accepted without asking anybody.
    Allowed,
    /// A person has to accept it.
    NeedsPerson,
    /// It is not accepted, whoever asks.
    Refused(Refusal),
}

/// Why a study is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Refusal {
    /// For the coordinator.
    pub code: Code,
    /// For the site's people: what is wrong and what to change. Never sent.
    pub sentence: String,
}

impl Refusal {
    fn new(code: Code, sentence: impl Into<String>) -> Self {
        let sentence = sentence.into();
        Self { code, sentence }
    }
}

/// What a person at the site said of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Person {
    /// `consilium-agent study accept`
    Accepted,
    /// `consilium-agent study refuse`
    Refused,
}

/// Reads a signed study if enough operators signed it; [`Policy::signers`] says whose signatures
/// count.
///
/// # Errors
/// No policy, too few signatures, a forged one, or bytes that are no study this version serves.
pub fn open(
    policy: Option<&Policy>,
    signers: &Signers,
    signed: &Signed<Study>,
) -> Result<Study, Refusal> {
    policy.ok_or_else(no_policy)?;
    signed.verify(&signers.keys, signers.needed).map_err(|error| {
        use consilium_common::signed::SignedError;
        let code = match error {
            SignedError::Unreadable(_) => Code::NotSupported,
            SignedError::Forged(_)
            | SignedError::TooFew { .. }
            | SignedError::TooLarge { .. }
            | SignedError::Key(_) => Code::BadSignature,
        };
        Refusal::new(code, format!("{error} (policy.operators_needed)"))
    })
}

/// Holds a study, whose signatures were checked by [`open`], against the policy at the time `wall`.
/// `source` is the `[data.NAME]` that serves it, if the site has one.
#[must_use]
pub fn judge(
    policy: Option<&Policy>,
    study: &Study,
    source: Option<&Source>,
    wall: WallMillis,
) -> Judgement {
    let allowed = policy.ok_or_else(no_policy).and_then(|policy| {
        let accept = allows(policy, study, source)?;
        governance::allows(policy, study, wall)?;
        Ok(accept)
    });
    match allowed {
        Ok(Accept::WithinPolicy) => Judgement::Allowed,
        Ok(Accept::Manual) => Judgement::NeedsPerson,
        Err(refusal) => Judgement::Refused(refusal),
    }
}

/// Who accepts the study, if no rule is broken.
fn allows(policy: &Policy, study: &Study, source: Option<&Source>) -> Result<Accept, Refusal> {
    policy.check().map_err(|error| Refusal::new(Code::Policy, error.to_string()))?;
    let broken = policy.findings(study, source).into_iter().find_map(|finding| {
        let Verdict::Refused(code) = finding.verdict else {
            return None;
        };
        Some(Refusal::new(code, format!("{}: {}", study.id(), finding.sentence)))
    });
    broken.map_or(Ok(policy.accept), Err)
}

fn no_policy() -> Refusal {
    Refusal::new(
        Code::Policy,
        "agent.toml has no [policy] section, so every study is refused: add one with `studies`, \
         `operators` and `modes`",
    )
}
