//! What must hold between the fields of a study, and what is parsed but not built yet.

use std::collections::BTreeSet;

use super::sections::{Codec, Metric, Mode, Share, Strategy};
use super::strategy::Use;
use super::training::Optimizer;
use super::{ModelSpec, Normalize, Objective, Study};
use crate::config::ConfigError;
use crate::ids::Digest;
use crate::limits::{EXAMPLES_MAX, RESEARCHERS_MAX, SITES_MAX, TEXT_BYTES_MAX, WEIGHT_SUM_MAX};
use crate::tensor::layout::LayoutError;

/// Why a study was refused.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum StudyError {
    /// Not the TOML of a study.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Not UTF-8.
    #[error("the study is not UTF-8 text")]
    NotText,
    /// A value that this version knows and does not serve.
    #[error("`{field} = {value}` is not built yet{instead}")]
    NotBuilt {
        /// Section and field.
        field: &'static str,
        /// As it would be written.
        value: String,
        /// What to write, where there is one answer; else nothing.
        instead: &'static str,
    },
    /// A value that makes no sense.
    #[error("`{field}` is {have}: {need}")]
    Range {
        /// Section and field.
        field: &'static str,
        /// What was given.
        have: String,
        /// What is accepted.
        need: String,
    },
    /// The model spec gives no layout.
    #[error("[model]: {0}")]
    Model(#[from] LayoutError),
    /// A draft where a resolved study is needed.
    #[error("the study is a draft: `consilium study sign` fills in its defaults and [initial]")]
    NotResolved,
    /// A resolved study whose layout digest does not follow from its spec.
    #[error("[initial] names layout {have:?}, the spec gives {need:?}")]
    Layout {
        /// In the file.
        have: Digest,
        /// From the spec.
        need: Digest,
    },
    /// A value that TOML cannot hold.
    #[error("the study cannot be written as TOML: {0}")]
    Write(String),
}

pub(super) fn range<T>(
    field: &'static str,
    have: impl ToString,
    need: &str,
) -> Result<T, StudyError> {
    Err(StudyError::Range { field, have: have.to_string(), need: need.to_owned() })
}

/// The word that a file would hold, with quotes.
pub(super) fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn not_built(field: &'static str, value: &impl serde::Serialize) -> Result<(), StudyError> {
    Err(StudyError::NotBuilt { field, value: word(value), instead: "" })
}

impl Study {
    /// Checks what the types alone do not.
    pub(super) fn check(&self) -> Result<(), StudyError> {
        if self.header.format != 1 {
            return range("study.format", self.header.format, "this version reads format 1");
        }
        if self.header.version == 0 {
            return range("study.version", 0, "versions count from 1");
        }
        self.check_texts()?;
        self.check_researchers()?;
        self.governance.check()?;
        self.check_built()?;
        self.check_data()?;
        self.check_groups()?;
        self.check_training()?;
        self.check_strategy()?;
        self.check_cohort()?;
        self.check_local()?;
        self.layout()?;
        // Behind the layout, which bounds the classes: the sums are named one by one.
        self.check_sums()
    }

    /// People decide by these words on a terminal: nothing in them may move its cursor or turn its
    /// lines around.
    fn check_texts(&self) -> Result<(), StudyError> {
        let purpose = [("study.purpose", &self.header.purpose)];
        let classes = self.model.classes().iter().map(|class| ("model.classes", class));
        let groups = self.evaluation.groups.iter().map(|entry| ("evaluation.groups", entry));
        let patterns =
            [("training.frozen", &self.training.frozen), ("training.local", &self.training.local)];
        let patterns =
            patterns.into_iter().flat_map(|(field, all)| all.iter().map(move |one| (field, one)));
        let own = purpose.into_iter().chain(classes).chain(groups).chain(patterns);
        for (field, text) in own.chain(self.data.texts()).chain(self.governance.texts()) {
            if text.len() > TEXT_BYTES_MAX {
                let need = format!("at most {TEXT_BYTES_MAX} bytes are accepted");
                return range(field, format!("{} bytes long", text.len()), &need);
            }
            if let Some(bad) = text.chars().find(|c| !is_plain(*c)) {
                let have = format!("text with {}", bad.escape_unicode());
                return range(field, have, "control and direction characters are not accepted");
            }
        }
        Ok(())
    }

    fn check_researchers(&self) -> Result<(), StudyError> {
        let (field, listed) = ("study.researchers", &self.header.researchers);
        if listed.len() > RESEARCHERS_MAX {
            let need = format!("at most {RESEARCHERS_MAX} are accepted");
            return range(field, format!("a list of {}", listed.len()), &need);
        }
        if listed.iter().collect::<BTreeSet<_>>().len() != listed.len() {
            return range(field, "a list", "a researcher stands there twice");
        }
        Ok(())
    }

    fn check_built(&self) -> Result<(), StudyError> {
        if self.privacy.mode != Mode::Inspectable {
            return Err(StudyError::NotBuilt {
                field: "privacy.mode",
                value: word(&self.privacy.mode),
                instead: ": write `inspectable`",
            });
        }
        match self.aggregation.strategy {
            Strategy::Fedavg
            | Strategy::Fedprox
            | Strategy::Fedavgm
            | Strategy::Fedadam
            | Strategy::Fedyogi
            | Strategy::Fedadagrad
            | Strategy::Scaffold => {}
            Strategy::TrimmedMean | Strategy::Median | Strategy::MultiKrum | Strategy::Rfa => {
                return not_built("aggregation.strategy", &self.aggregation.strategy);
            }
        }
        match self.aggregation.codec {
            Codec::Grid32 => {}
            Codec::Bf16 | Codec::Int8 | Codec::Topk => {
                return not_built("aggregation.codec", &self.aggregation.codec);
            }
            Codec::Ring32 | Codec::Ring24 | Codec::Ring16 => {
                let codec = word(&self.aggregation.codec);
                return range("aggregation.codec", codec, "rings go with `mode = \"private\"`");
            }
        }
        if self.evaluation.share != Share::Sum {
            return not_built("evaluation.share", &self.evaluation.share);
        }
        Ok(())
    }

    fn check_data(&self) -> Result<(), StudyError> {
        if let Some(kind) = self.model.reads()
            && kind != self.data.kind
        {
            let need = format!("the {} family reads {}", self.model.family(), word(&kind));
            return range("data.kind", word(&self.data.kind), &need);
        }
        let metric = self.evaluation.metric;
        let fits = match self.model.objective() {
            None => matches!(metric, Metric::Accuracy | Metric::Loss),
            Some(Objective::Classify | Objective::Multilabel) => {
                matches!(metric, Metric::Accuracy | Metric::Loss | Metric::Auc)
            }
            Some(Objective::Regress) => matches!(metric, Metric::Rmse | Metric::Loss),
            Some(Objective::Rank) => matches!(metric, Metric::Hr | Metric::Ndcg),
        };
        if !fits {
            let need = "this model has no such metric (regress: rmse, loss; rank: hr, ndcg)";
            return range("evaluation.metric", word(&metric), need);
        }
        if let Some(threshold) = self.evaluation.threshold {
            let of_two = self.model.objective() == Some(Objective::Classify)
                && self.model.classes().len() == 2;
            if !(of_two && threshold > 0.0 && threshold < 1.0) {
                let need = "a probability above 0 and below 1, of the second of two classes";
                return range("evaluation.threshold", threshold.to_string(), need);
            }
        }
        self.data.check(&self.model)?;
        self.check_normalize()
    }

    /// Sites count together only where there is something to count.
    fn check_normalize(&self) -> Result<(), StudyError> {
        let normalize = &self.data.normalize;
        if *normalize != Normalize::Federated {
            return Ok(());
        }
        let need = match &self.model {
            ModelSpec::Cnn(_) | ModelSpec::Rnn(_) => return Ok(()),
            ModelSpec::Tabular(_) if self.data.numbers().next().is_some() => return Ok(()),
            ModelSpec::Tabular(_) => "no column is a number: there is nothing to standardise",
            ModelSpec::Recommender(_) => "ratings are centred as they are: leave it out",
            ModelSpec::TextClassifier(_) => "a document has no numbers to standardise",
            ModelSpec::Synthetic(_) => "the synthetic trainer reads no numbers to standardise",
        };
        range("data.normalize", word(normalize), need)
    }

    /// Every number that the strategy uses lies in its range, and no other is there: what a person
    /// wrote is never passed over.
    fn check_strategy(&self) -> Result<(), StudyError> {
        let clip = self.aggregation.clip_norm;
        if !(1e-20..=1e20).contains(&clip) {
            return range("aggregation.clip_norm", clip, "1e-20 to 1e20 is accepted");
        }
        let strategy = word(&self.aggregation.strategy);
        for number in self.aggregation.clone().numbers() {
            let field = number.field;
            match (number.used, *number.value) {
                (Use::No, Some(value)) => {
                    let need = format!("`strategy = {strategy}` does not use it: leave it out");
                    return range(field, value, &need);
                }
                (Use::Needed, None) => return range(field, "missing", number.span.need()),
                (_, Some(value)) if !number.span.holds(value) => {
                    return range(field, value, number.span.need());
                }
                _ => {}
            }
        }
        let need = match (self.aggregation.strategy, &self.model) {
            (Strategy::Fedprox, ModelSpec::Synthetic(_)) => {
                "the synthetic trainer goes down no loss that it could be added to: take another \
                 family"
            }
            (Strategy::Scaffold, ModelSpec::Synthetic(sizes)) if sizes.steps == 0 => {
                "the synthetic trainer takes no steps that it could correct: write `steps` in [model]"
            }
            _ => return self.check_corrected(),
        };
        range("aggregation.strategy", strategy, need)
    }

    /// SCAFFOLD takes the way of a round, divided by its step sizes, for the mean gradient: that it is
    /// for plain descent alone.
    fn check_corrected(&self) -> Result<(), StudyError> {
        let optimizer = self.training.optimizer;
        if self.aggregation.strategy != Strategy::Scaffold || optimizer == Optimizer::Sgd {
            return Ok(());
        }
        let need = "`strategy = \"scaffold\"` corrects plain steps down the gradient: write \
                    `optimizer = \"sgd\"`";
        range("training.optimizer", word(&optimizer), need)
    }

    fn check_cohort(&self) -> Result<(), StudyError> {
        let c = &self.cohort;
        let sites = u64::from(c.min_sites).max(c.required.len() as u64);
        if c.min_sites == 0 || sites > SITES_MAX as u64 {
            return range("cohort.min_sites", sites, &format!("1 to {SITES_MAX} is accepted"));
        }
        let mut required = c.required.clone();
        required.sort();
        required.dedup();
        if required.len() != c.required.len() {
            return range("cohort.required", "a list", "a site stands there twice");
        }
        if !(1..=EXAMPLES_MAX).contains(&c.max_examples) {
            let need = format!("1 to {EXAMPLES_MAX} is accepted");
            return range("cohort.max_examples", c.max_examples, &need);
        }
        if u64::from(c.min_sites).saturating_mul(c.max_examples) >= WEIGHT_SUM_MAX {
            let need = format!("times min_sites it must stay below {WEIGHT_SUM_MAX}");
            return range("cohort.max_examples", c.max_examples, &need);
        }
        if self.data.min_examples > c.max_examples {
            let need = "it cannot exceed cohort.max_examples";
            return range("data.min_examples", self.data.min_examples, need);
        }
        for (field, value) in
            [("cohort.deadline", c.deadline), ("cohort.idle_timeout", c.idle_timeout)]
        {
            if value.0 < 100 {
                return range(field, value, "at least 100ms is needed");
            }
        }
        Ok(())
    }
}

/// The file itself may be shown too, comments and all.
pub(super) fn plain_text(text: &str) -> Result<(), StudyError> {
    let line_end = |c: char| matches!(c, '\n' | '\r' | '\t');
    match text.chars().find(|c| !is_plain(*c) && !line_end(*c)) {
        Some(bad) => {
            let have = format!("text with {}", bad.escape_unicode());
            range("the study", have, "control and direction characters are not accepted")
        }
        None => Ok(()),
    }
}

/// Whether people can read the text on any terminal: no control characters, none that turn it around.
#[must_use]
pub fn is_plain_text(text: &str) -> bool {
    text.chars().all(is_plain)
}

/// Neither a control character (C0, C1) nor one that turns text around (Unicode TR 9, "Bidi_Control").
fn is_plain(c: char) -> bool {
    let turns = matches!(
        c,
        '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    );
    !c.is_control() && !turns
}

impl ModelSpec {
    pub(super) fn refuse(field: &'static str, have: impl ToString, need: &str) -> StudyError {
        StudyError::Range { field, have: have.to_string(), need: need.to_owned() }
    }
}
