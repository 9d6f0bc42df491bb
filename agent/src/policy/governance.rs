//! What the policy asks of a study's `[governance]`, and of how many people who accept one.

use consilium_common::limits::APPROVERS_MAX;
use consilium_common::study::Study;
use consilium_common::study::governance::Field;
use consilium_common::time::WallMillis;
use consilium_common::wire::reject::Code;

use super::Refusal;
use super::rules::{Accept, Policy, PolicyError};

/// A study must name what the policy requires, and its approval must not have ended at `wall`, this
/// site's own clock.
pub(super) fn allows(policy: &Policy, study: &Study, wall: WallMillis) -> Result<(), Refusal> {
    let lacks = |field: &&Field| !study.governance.has(**field);
    if let Some(field) = policy.require_governance.iter().find(lacks) {
        let sentence = format!(
            "{} names no `{field}` in [governance], and `require_governance` in [policy] of \
             agent.toml asks for it: the operators sign a version that does",
            study.id()
        );
        return Err(Refusal::new(Code::Policy, sentence));
    }
    match study.governance.approval(wall).and_then(|approval| approval.notice()) {
        Some(ended) if study.governance.has_expired(wall) => {
            Err(Refusal::new(Code::ApprovalExpired, ended))
        }
        _ => Ok(()),
    }
}

/// How many people can be asked for.
pub(super) fn check(policy: &Policy) -> Result<(), PolicyError> {
    match (policy.approvers_needed, policy.accept) {
        (Some(need), _) if !(1..=APPROVERS_MAX).contains(&need) => {
            Err(PolicyError::ApproversNeeded(need))
        }
        (Some(_), Accept::WithinPolicy) => Err(PolicyError::ApproversUnasked),
        _ => Ok(()),
    }
}

impl Policy {
    /// How many different people must accept a study before it runs.
    #[must_use]
    pub fn approvers_needed(&self) -> usize {
        self.approvers_needed.unwrap_or(1)
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::config;
    use consilium_common::time::Date;

    use super::*;
    use crate::policy::{Judgement, judge};

    const NOW: WallMillis = WallMillis(1_764_000_000_000); // 2025-11-24

    fn study(governance: &str) -> Study {
        let text = format!(
            "[study]\nname = \"load\"\n[model]\nfamily = \"synthetic\"\nparameters = 5\n\
             [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n{governance}"
        );
        Study::read(&text, "load.toml").unwrap()
    }

    fn policy(more: &str) -> Policy {
        let text = format!("studies = [\"load\"]\nmodes = [\"inspectable\"]\n{more}");
        config::parse(&text, "agent.toml").unwrap()
    }

    #[test]
    fn a_study_that_lacks_a_required_field_is_refused_and_the_field_named() {
        let strict = policy("require_governance = [\"ethics\", \"approved_until\"]");
        let lacking = study("[governance]\nethics = { committee = \"EK\", reference = \"1\" }\n");
        let Judgement::Refused(refusal) = judge(Some(&strict), &lacking, None, NOW) else {
            panic!("allowed");
        };
        assert_eq!(refusal.code, Code::Policy);
        assert!(refusal.sentence.contains("no `approved_until`"), "{refusal}");
        assert_eq!(judge(Some(&policy("")), &lacking, None, NOW), Judgement::NeedsPerson);
        let full = "[governance]\napproved_until = \"2027-03-31\"\n\
                    ethics = { committee = \"EK\", reference = \"1\" }\n";
        assert_eq!(judge(Some(&strict), &study(full), None, NOW), Judgement::NeedsPerson);
    }

    #[test]
    fn an_approval_that_has_ended_by_the_sites_own_clock_refuses_whatever_the_policy_says() {
        let study = study("[governance]\napproved_until = \"2027-03-31\"\n");
        let end = "2027-03-31".parse::<Date>().unwrap().end();
        for open in ["", "accept = \"within-policy\""] {
            let policy = policy(open);
            let before = judge(Some(&policy), &study, None, WallMillis(end.0 - 1));
            assert!(!matches!(before, Judgement::Refused(_)), "{before:?}");
            let Judgement::Refused(refusal) = judge(Some(&policy), &study, None, end) else {
                panic!("allowed");
            };
            assert_eq!(refusal.code, Code::ApprovalExpired);
            assert!(refusal.sentence.contains("2027-03-31"), "{refusal}");
        }
    }

    #[test]
    fn an_unknown_field_and_a_senseless_number_of_people_stop_the_start() {
        let told = config::parse::<Policy>("require_governance = [\"ethic\"]", "agent.toml");
        let told = told.unwrap_err().to_string();
        assert!(told.contains("did you mean `ethics`"), "{told}");
        for need in [0, APPROVERS_MAX + 1] {
            let told = policy(&format!("approvers_needed = {need}")).check();
            assert_eq!(told, Err(PolicyError::ApproversNeeded(need)));
        }
        let idle = policy("approvers_needed = 2\naccept = \"within-policy\"");
        assert_eq!(idle.check(), Err(PolicyError::ApproversUnasked));
        assert_eq!(policy("approvers_needed = 2").check(), Ok(()));
        assert_eq!(
            (policy("approvers_needed = 2").approvers_needed(), policy("").approvers_needed()),
            (2, 1)
        );
    }
}
