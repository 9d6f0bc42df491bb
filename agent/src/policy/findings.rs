//! What each rule of `[policy]` says of a study. A refusal is the first rule that is broken;
//! `consilium-agent policy explain` shows them all.

use std::fmt::Display;

use consilium_common::study::{DataKind, Mode, Study, Training};
use consilium_common::wire::reject::Code;
use consilium_common::worker::{Source, SourceKind};

use super::rules::Policy;

/// The fewest sites among which an update is hidden, where `min_cohort` does not say (PRIVACY.md §2).
pub const PRIVATE_COHORT_MIN: u32 = 4;
/// Names in one sentence at most: a table may have thousands of columns.
const NAMES_SHOWN: usize = 12;
/// What ends the sentence of a refusal.
const TO_ALLOW: &str = "in [policy] of agent.toml to allow it";

/// What one rule says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The field of `[policy]`.
    pub rule: &'static str,
    /// Allowed or not.
    pub verdict: Verdict,
    /// What the study has, and what to change where it is refused.
    pub sentence: String,
}

/// Whether a rule allows a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It does.
    Allowed,
    /// The policy does not have this rule.
    NoRule,
    /// It does not, with this code.
    Refused(Code),
}

/// One rule, on the way to its finding.
#[derive(Debug, Clone, Copy)]
struct Rule {
    field: &'static str,
    code: Code,
}

impl Rule {
    fn says(self, verdict: Verdict, sentence: String) -> Finding {
        Finding { rule: self.field, verdict, sentence }
    }

    fn refuses(self, sentence: String) -> Finding {
        self.says(Verdict::Refused(self.code), sentence)
    }

    /// A bound that `have` must not exceed.
    fn bound<T: PartialOrd + Display>(self, limit: Option<T>, have: T, what: &str) -> Finding {
        let field = self.field;
        match limit {
            None => self.says(Verdict::NoRule, format!("{what}: {have}")),
            Some(limit) if have <= limit => {
                self.says(Verdict::Allowed, format!("{what}: {have}, at most {limit}"))
            }
            Some(limit) => self.refuses(format!(
                "{what}: {have}, and `{field} = {limit}` is the most that is allowed: raise it {TO_ALLOW}"
            )),
        }
    }

    /// A list on which everything must stand that the study has of a kind.
    fn list(self, allowed: Option<&[String]>, have: &[String], what: &str) -> Finding {
        let field = self.field;
        let all = quoted(have);
        let Some(allowed) = allowed else {
            return self.says(Verdict::NoRule, format!("{what}: {all}"));
        };
        let missing: Vec<String> =
            have.iter().filter(|one| !allowed.contains(one)).cloned().collect();
        if missing.is_empty() {
            return self.says(Verdict::Allowed, format!("{what}: {all}"));
        }
        let missing = quoted(&missing);
        self.refuses(format!("{what}: {missing}: add it to `{field}` {TO_ALLOW}"))
    }
}

impl Policy {
    /// What every rule about the signed study says, in the order in which they are held against it.
    /// `source` is `[data.NAME]` of the study, if the site has one.
    #[must_use]
    pub fn findings(&self, study: &Study, source: Option<&Source>) -> Vec<Finding> {
        vec![
            self.of_name(study),
            self.of_mode(study),
            self.of_cohort(study),
            self.of_peers(study),
            self.of_family(study),
            self.of_parameters(study),
            self.of_start(study),
            self.of_columns(study, source),
            self.of_strategy(study),
            self.of_epochs(study),
            self.of_learning_rate(study),
            self.of_rounds(study),
        ]
    }

    fn of_name(&self, study: &Study) -> Finding {
        let rule = Rule { field: "studies", code: Code::PolicyStudies };
        let allowed: Vec<String> = self.studies.iter().map(ToString::to_string).collect();
        rule.list(Some(&allowed), &[study.id().to_string()], "the study's name")
    }

    fn of_mode(&self, study: &Study) -> Finding {
        let rule = Rule { field: "modes", code: Code::PolicyModes };
        let allowed: Vec<String> = self.modes.iter().map(|mode| word(*mode).to_owned()).collect();
        let what = match study.privacy.mode {
            Mode::Inspectable => "the mode, in which the coordinator sees this site's own updates",
            Mode::Private | Mode::Grouped => "the mode",
        };
        rule.list(Some(&allowed), &[word(study.privacy.mode).to_owned()], what)
    }

    fn of_cohort(&self, study: &Study) -> Finding {
        let rule = Rule { field: "min_cohort", code: Code::PolicyCohort };
        let sites = study.cohort.min_sites;
        let (have, what, default) = match study.privacy.mode {
            Mode::Private | Mode::Grouped => {
                let have = study.privacy.min_cohort.min(sites);
                (have, "the fewest sites whose sum may be seen", Some(PRIVATE_COHORT_MIN))
            }
            Mode::Inspectable => (sites, "the fewest sites of a round", None),
        };
        match self.min_cohort.or(default) {
            None => rule.says(Verdict::NoRule, format!("{what}: {have}")),
            Some(need) if have >= need => {
                rule.says(Verdict::Allowed, format!("{what}: {have}, at least {need}"))
            }
            Some(need) => rule.refuses(format!(
                "{what}: {have}, and `min_cohort = {need}` is the least that is allowed: lower it \
                 {TO_ALLOW}, or ask the operators for a larger cohort (`min_sites`, `min_cohort`)"
            )),
        }
    }

    fn of_peers(&self, study: &Study) -> Finding {
        let rule = Rule { field: "peers", code: Code::PolicyPeers };
        let required = &study.cohort.required;
        let names =
            |sites: &[_]| quoted(&sites.iter().map(ToString::to_string).collect::<Vec<String>>());
        let what = "sites without which no round runs";
        if self.peers.is_empty() {
            return rule.says(Verdict::NoRule, format!("{what}: {}", names(required)));
        }
        let missing: Vec<_> =
            self.peers.iter().filter(|peer| !required.contains(peer)).cloned().collect();
        if missing.is_empty() {
            return rule.says(Verdict::Allowed, format!("{what}: {}", names(required)));
        }
        let missing = names(&missing);
        rule.refuses(format!(
            "rounds may run without {missing}, whom `peers` names: take them out {TO_ALLOW}, or ask \
             the operators to add them to `required` in [cohort] of the study"
        ))
    }

    fn of_family(&self, study: &Study) -> Finding {
        let rule = Rule { field: "families", code: Code::PolicyFamilies };
        rule.list(
            self.families.as_deref(),
            &[study.model.family().to_owned()],
            "the model's family",
        )
    }

    fn of_parameters(&self, study: &Study) -> Finding {
        let rule = Rule { field: "max_parameters", code: Code::PolicyParameters };
        match study.layout() {
            Ok(layout) => rule.bound(self.max_parameters, layout.len() as u64, "parameters"),
            Err(error) => rule.refuses(format!("the model cannot be laid out: {error}")),
        }
    }

    fn of_start(&self, study: &Study) -> Finding {
        let rule = Rule { field: "initial_models", code: Code::PolicyInitialModels };
        let Some(initial) = study.initial.filter(|initial| initial.given) else {
            let sentence = "rounds start from the study's own seed".to_owned();
            return rule.says(Verdict::Allowed, sentence);
        };
        let allowed: Vec<String> = self.initial_models.iter().map(ToString::to_string).collect();
        rule.list(Some(&allowed), &[initial.model.to_string()], "the model that rounds start from")
    }

    fn of_columns(&self, study: &Study, source: Option<&Source>) -> Finding {
        let rule = Rule { field: "columns", code: Code::PolicyColumns };
        let read: Vec<String> = study
            .columns_read()
            .into_iter()
            .filter(|name| source.is_none_or(|source| is_read(name, study, source)))
            .map(|name| {
                source.map_or_else(|| name.clone(), |source| source.column(&name).to_owned())
            })
            .collect();
        rule.list(self.columns.as_deref(), &read, "columns that it reads")
    }

    fn of_strategy(&self, study: &Study) -> Finding {
        let rule = Rule { field: "strategies", code: Code::PolicyStrategies };
        let allowed: Option<Vec<String>> =
            self.strategies.as_ref().map(|all| all.iter().map(ToString::to_string).collect());
        rule.list(allowed.as_deref(), &[study.aggregation.strategy.to_string()], "the strategy")
    }

    fn of_epochs(&self, study: &Study) -> Finding {
        let rule = Rule { field: "max_local_epochs", code: Code::PolicyEpochs };
        let what = "passes over the records in a round";
        match (epochs(&study.training), self.max_local_epochs) {
            (Some(epochs), limit) => rule.bound(limit, epochs, what),
            (None, None) => rule.says(Verdict::NoRule, format!("{what}: the study counts steps")),
            (None, Some(_)) => rule.refuses(format!(
                "{what}: the study counts steps (`local_steps`), and `max_local_epochs` bounds passes: \
                 take it out {TO_ALLOW}"
            )),
        }
    }

    fn of_learning_rate(&self, study: &Study) -> Finding {
        let rule = Rule { field: "max_learning_rate", code: Code::PolicyLearningRate };
        // No schedule goes above it.
        rule.bound(self.max_learning_rate, study.training.learning_rate, "step size")
    }

    fn of_rounds(&self, study: &Study) -> Finding {
        let rule = Rule { field: "max_rounds", code: Code::PolicyRounds };
        rule.bound(self.max_rounds, study.training.rounds, "versions")
    }
}

/// Passes over the records in a round, where the study says how many.
fn epochs(training: &Training) -> Option<u32> {
    training.local_epochs
}

/// Whether this source has the column (of series: the variable or array), which the study names.
fn is_read(name: &str, study: &Study, source: &Source) -> bool {
    let data = &study.data;
    match source.source {
        SourceKind::Csv | SourceKind::Tsv => true,
        // Pictures in a .npz file are arrays of fixed names.
        SourceKind::Npz => data.kind != DataKind::Images,
        SourceKind::ImageFolder => source.labels.is_some(),
        // The document is a file of its own, not a column.
        SourceKind::Text => source.labels.is_some() && data.text.as_deref() != Some(name),
        SourceKind::Idx | SourceKind::Synthetic => false,
    }
}

/// A mode as agent.toml writes it.
fn word(mode: Mode) -> &'static str {
    match mode {
        Mode::Private => "private",
        Mode::Inspectable => "inspectable",
        Mode::Grouped => "grouped",
    }
}

/// Names in a sentence; of many the first.
fn quoted(words: &[String]) -> String {
    if words.is_empty() {
        return "none".to_owned();
    }
    let shown: Vec<String> =
        words.iter().take(NAMES_SHOWN).map(|word| format!("{word:?}")).collect();
    let more = match words.len().saturating_sub(NAMES_SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    shown.join(", ") + &more
}
