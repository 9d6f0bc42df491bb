//! `[policy]` of agent.toml, field by field, and which values make sense. What each rule says of a
//! study is in `findings`.

use std::path::PathBuf;

use consilium_common::config::nearest;
use consilium_common::hours::Hours;
use consilium_common::ids::{Digest, SiteId, StudyId};
use consilium_common::limits::{APPROVERS_MAX, SIGNATURES_MAX};
use consilium_common::signed::PublicKey;
use consilium_common::study::governance::Field;
use consilium_common::study::{Mode, ModelSpec, Strategy};
use serde::Deserialize;
use serde::de::IgnoredAny;

/// Tasks at once at most: each has a worker with a model, its records and a share of the machine.
pub const SLOTS_MAX: u32 = 16;
/// Slower uploads would look like a lost connection.
const UPLOAD_MBIT_S_MIN: f64 = 0.1;
/// Faster than any hospital's line.
const UPLOAD_MBIT_S_MAX: f64 = 100_000.0;

/// `[policy]`. What is opened by name (studies, modes, models to start from) is closed unless it is
/// written down. The other rules bind where they are written.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// Whether a person accepts each study.
    #[serde(default)]
    pub accept: Accept,
    /// Whether a person accepts each roster.
    #[serde(default)]
    pub roster: AcceptRoster,
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
    /// The fewest sites that a round may be made of; in a mode that hides this site's updates among
    /// theirs [`PRIVATE_COHORT_MIN`](super::findings::PRIVATE_COHORT_MIN) if not given.
    #[serde(default)]
    pub min_cohort: Option<u32>,
    /// Sites that must take part in every round: the study requires each of them (`[cohort] required`).
    #[serde(default)]
    pub peers: Vec<SiteId>,
    /// Model families that may be trained.
    #[serde(default)]
    pub families: Option<Vec<String>>,
    /// The most parameters of a model.
    #[serde(default)]
    pub max_parameters: Option<u64>,
    /// Models, by digest, from which a study may start that does not start from its seed.
    #[serde(default)]
    pub initial_models: Vec<Digest>,
    /// Columns that may be read, as this site's files call them.
    #[serde(default)]
    pub columns: Option<Vec<String>>,
    /// Strategies by which deltas may become the next model.
    #[serde(default)]
    pub strategies: Option<Vec<Strategy>>,
    /// The most passes over the records in a round.
    #[serde(default)]
    pub max_local_epochs: Option<u32>,
    /// The largest step size.
    #[serde(default)]
    pub max_learning_rate: Option<f64>,
    /// The most versions of a study.
    #[serde(default)]
    pub max_rounds: Option<u64>,
    /// When plans are taken on.
    #[serde(default)]
    pub hours: Option<Hours>,
    /// Whether the coordinator is told `hours`, or that there are none: operators plan rounds by that.
    #[serde(default)]
    pub publish_hours: bool,
    /// Tasks at once: a plan that finds no slot is declined. Without it one task runs at a time, and
    /// the plans of other studies wait for it.
    #[serde(default)]
    pub slots: Option<u32>,
    /// Bytes of updates leave no faster than this, in Mbit/s, all uploads together.
    #[serde(default)]
    pub upload_mbit_s: Option<f64>,
    /// How many different people accept a study where people accept; 1 if not given.
    #[serde(default)]
    pub(super) approvers_needed: Option<usize>,
    /// Fields of `[governance]` without which a study is refused.
    #[serde(default)]
    pub require_governance: Vec<Field>,

    // Known, and not served yet: written down it stops the start, because a rule that is not kept
    // is worse than none.
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

/// Who accepts a roster of the consortium.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AcceptRoster {
    /// The signatures of k of n operators are enough.
    #[default]
    Signed,
    /// A person as well, with `consilium-agent roster accept`; plans are declined until then.
    Manual,
}

/// Why no study is accepted under this policy, and the daemon does not start.
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
    /// A family that no study can name.
    #[error("`policy.families` lists {family:?}, which no study can name{hint}")]
    Family {
        /// As given.
        family: String,
        /// The nearest known one.
        hint: String,
    },
    /// A bound that allows nothing, or makes no sense.
    #[error("`policy.{field} = {have}`: {need}")]
    Range {
        /// Which rule.
        field: &'static str,
        /// As given.
        have: String,
        /// What is accepted.
        need: String,
    },
    /// A number of people that cannot be.
    #[error("`policy.approvers_needed = {0}`: 1 to {APPROVERS_MAX} people is accepted")]
    ApproversNeeded(usize),
    /// A number of people where none is asked.
    #[error(
        "`policy.approvers_needed` means nothing with `accept = \"within-policy\"`, where nobody is \
         asked: write `accept = \"manual\"`, or take it out"
    )]
    ApproversUnasked,
}

fn private() -> Vec<Mode> {
    vec![Mode::Private]
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

    /// Checks what the types alone do not. Run at start, when the policy is read again, and before
    /// each judgement.
    ///
    /// # Errors
    /// A rule that is not served yet or allows nothing, or operators that cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.privacy_budget.is_some() {
            return Err(PolicyError::NotBuilt("privacy_budget"));
        }
        self.check_families()?;
        self.check_bounds()?;
        super::governance::check(self)?;
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

    fn check_families(&self) -> Result<(), PolicyError> {
        let known = |family: &&String| ModelSpec::families().any(|known| known == *family);
        let mut unknown = self.families.iter().flatten().filter(|family| !known(family));
        let Some(family) = unknown.next().cloned() else {
            return Ok(());
        };
        let near = nearest(&family, ModelSpec::families());
        let hint = near.map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        Err(PolicyError::Family { family, hint })
    }

    fn check_bounds(&self) -> Result<(), PolicyError> {
        let refuse = |field, have: &dyn ToString, need: &dyn ToString| {
            Err(PolicyError::Range { field, have: have.to_string(), need: need.to_string() })
        };
        let counts = [
            ("min_cohort", self.min_cohort.map(u64::from)),
            ("max_parameters", self.max_parameters),
            ("max_local_epochs", self.max_local_epochs.map(u64::from)),
            ("max_rounds", self.max_rounds),
        ];
        if let Some((field, _)) = counts.iter().find(|(_, bound)| *bound == Some(0)) {
            return refuse(field, &0, &"1 or more is accepted");
        }
        if let Some(rate) = self.max_learning_rate
            && !(rate > 0.0 && rate.is_finite())
        {
            return refuse("max_learning_rate", &rate, &"a number above 0 is accepted");
        }
        if let Some(slots) = self.slots
            && !(1..=SLOTS_MAX).contains(&slots)
        {
            return refuse("slots", &slots, &format!("1 to {SLOTS_MAX} is accepted"));
        }
        if let Some(rate) = self.upload_mbit_s
            && !(UPLOAD_MBIT_S_MIN..=UPLOAD_MBIT_S_MAX).contains(&rate)
        {
            let need = format!("{UPLOAD_MBIT_S_MIN} to {UPLOAD_MBIT_S_MAX} is accepted");
            return refuse("upload_mbit_s", &rate, &need);
        }
        Ok(())
    }
}
