//! `[policy]` of agent.toml, field by field, and what each field says of a study.

use std::path::PathBuf;

use consilium_common::ids::StudyId;
use consilium_common::limits::SIGNATURES_MAX;
use consilium_common::signed::PublicKey;
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
    /// Files with the public keys of the operators whose signatures count; the operators that the
    /// consortium file pins if none is listed.
    #[serde(default)]
    pub operators: Vec<PathBuf>,
    /// How many of them must have signed; if not given all that are listed, or as many as the
    /// consortium file says.
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

/// Whose signatures make a study, and how many of them are needed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signers {
    /// The operators' keys.
    pub keys: Vec<PublicKey>,
    /// So many distinct ones must have signed.
    pub needed: usize,
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
    /// More key files than any study has signatures.
    #[error("`policy.operators` lists {0} key files, at most {SIGNATURES_MAX} are read")]
    TooManyOperators(usize),
    /// A number of signatures that cannot be or means nothing.
    #[error(
        "`policy.operators_needed = {need}`: 1 to {have} is accepted, the number of operators whose keys are known here"
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
    /// Whose signatures count, and how many of them. `listed` are the keys in the files of
    /// `operators`; where the policy lists none, the consortium's own pins count.
    ///
    /// # Errors
    /// More signatures are asked for than there are keys.
    pub fn signers(&self, listed: Vec<PublicKey>, pinned: Signers) -> Result<Signers, PolicyError> {
        let base = if listed.is_empty() {
            pinned
        } else {
            let needed = listed.len();
            Signers { keys: listed, needed }
        };
        let (need, have) = (self.operators_needed.unwrap_or(base.needed), base.keys.len());
        if (1..=have).contains(&need) {
            let keys = base.keys;
            Ok(Signers { keys, needed: need })
        } else {
            Err(PolicyError::OperatorsNeeded { need, have })
        }
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
        if have > SIGNATURES_MAX {
            return Err(PolicyError::TooManyOperators(have));
        }
        match self.operators_needed {
            Some(need) if need == 0 || (have > 0 && need > have) => {
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
