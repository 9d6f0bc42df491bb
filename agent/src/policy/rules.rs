//! `[policy]` of agent.toml, field by field, and what each field says of a study.

use std::path::PathBuf;

use consilium_common::ids::StudyId;
use consilium_common::limits::SIGNATURES_MAX;
use consilium_common::study::{Mode, Study};
use consilium_common::wire::reject::Code;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Refusal;

/// `[policy]`. Every default is the strictest value.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whether a person accepts each study.
    #[serde(default)]
    pub accept: Accept,
    /// Studies that may run here.
    #[serde(default)]
    pub studies: Vec<StudyId>,
    /// Files with the public keys of the operators whose signatures count.
    #[serde(default)]
    pub operators: Vec<PathBuf>,
    /// How many of them must have signed; all if not given.
    #[serde(default)]
    pub operators_needed: Option<usize>,
    /// Modes in which an update may leave.
    #[serde(default = "private")]
    pub modes: Vec<Mode>,

    // Known, and not served yet: written down they stop the start, because a rule that is not kept
    // is worse than none.
    #[serde(default)]
    hours: Option<IgnoredAny>,
    #[serde(default)]
    upload_mbit_s: Option<IgnoredAny>,
    #[serde(default)]
    max_rounds: Option<IgnoredAny>,
    #[serde(default)]
    min_cohort: Option<IgnoredAny>,
    #[serde(default)]
    privacy_budget: Option<IgnoredAny>,
}

/// Who accepts a study that the policy allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Accept {
    /// A person, with `consilium-agent study accept`.
    #[default]
    Manual,
    /// The policy itself.
    WithinPolicy,
}

/// Why the daemon does not start under this policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// A rule that this version knows and cannot keep.
    #[error(
        "`policy.{0}` is not built yet: without it the rule would not be kept; take it out to run without"
    )]
    NotBuilt(&'static str),
    /// Nobody could sign a study.
    #[error(
        "`policy.operators` lists no key file: name the .pub file of each consortium operator whose signature counts"
    )]
    NoOperators,
    /// More key files than any study has signatures.
    #[error("`policy.operators` lists {0} key files, at most {SIGNATURES_MAX} are read")]
    TooManyOperators(usize),
    /// A number of signatures that cannot be or means nothing.
    #[error(
        "`policy.operators_needed = {need}`: 1 to {have} is accepted, as `policy.operators` lists {have}"
    )]
    OperatorsNeeded {
        /// As given.
        need: usize,
        /// Keys listed.
        have: usize,
    },
}

fn private() -> Vec<Mode> {
    vec![Mode::Private]
}

/// A mode as agent.toml writes it.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Private => "private",
        Mode::Inspectable => "inspectable",
        Mode::Grouped => "grouped",
    }
}

impl Policy {
    /// How many operators must have signed.
    #[must_use]
    pub fn needed(&self) -> usize {
        self.operators_needed.unwrap_or(self.operators.len()).max(1)
    }

    /// Checks what the types alone do not. Run at start.
    ///
    /// # Errors
    /// Rules that are not served yet, or operators that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        let not_built = [
            ("hours", self.hours.is_some()),
            ("upload_mbit_s", self.upload_mbit_s.is_some()),
            ("max_rounds", self.max_rounds.is_some()),
            ("min_cohort", self.min_cohort.is_some()),
            ("privacy_budget", self.privacy_budget.is_some()),
        ];
        if let Some((field, _)) = not_built.iter().find(|(_, given)| *given) {
            return Err(PolicyError::NotBuilt(field));
        }
        let have = self.operators.len();
        if have == 0 {
            return Err(PolicyError::NoOperators);
        }
        if have > SIGNATURES_MAX {
            return Err(PolicyError::TooManyOperators(have));
        }
        match self.operators_needed {
            Some(need) if !(1..=have).contains(&need) => {
                Err(PolicyError::OperatorsNeeded { need, have })
            }
            _ => Ok(()),
        }
    }

    /// Who accepts the study, if the rules allow it.
    pub(super) fn allows(&self, study: &Study) -> Result<Accept, Refusal> {
        let refuse = |sentence: String| Err(Refusal::new(Code::Policy, sentence));
        if let Err(error) = self.check() {
            return refuse(error.to_string());
        }
        let name = study.id();
        if !self.studies.contains(name) {
            return refuse(format!(
                "policy.studies does not list {name}: add \"{name}\" to `studies` in [policy] of \
                 agent.toml to allow it"
            ));
        }
        if !self.modes.contains(&study.privacy.mode) {
            let mode = word(study.privacy.mode);
            let meaning = match study.privacy.mode {
                Mode::Inspectable => " (the coordinator sees this site's own updates)",
                Mode::Private | Mode::Grouped => "",
            };
            return refuse(format!(
                "{name} runs in {mode} mode{meaning}: add \"{mode}\" to `modes` in [policy] of \
                 agent.toml to allow it"
            ));
        }
        Ok(self.accept)
    }
}
