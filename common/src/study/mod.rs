//! The signed study: what a consortium agreed to train, and how.
//!
//! A person writes a draft (TOML, most fields have defaults). [`Study::resolve`] fills every default
//! in and adds the digests of layout and v0; [`Study::to_text`] gives the bytes that operators sign
//! and that nobody re-serialises. [`Study::parse`] (through [`crate::signed::Signed`]) reads them
//! back and checks them again from nothing.
//!
//! * [`model`]: the spec of every built-in family, its layout and v0
//! * [`data`]: the data contract
//! * [`augment`]: how pictures are changed for a training step
//! * [`buckets`]: words and items that are counted without being named
//! * [`catalogue`]: which items have a row of their own
//! * [`class_weights`]: how much a record of each class counts
//! * [`groups`]: for whom versions are scored apart
//! * [`governance`]: on what ground the study runs
//! * [`counts`]: what a preparation counts, and the constants that follow
//! * [`tokens`], [`segments`], [`vocabulary`]: from documents to rows of an embedding
//! * [`training`]: what a site does with its records in a round
//! * [`sections`]: the other sections, field by field
//! * [`strategy`]: which numbers of `[aggregation]` go with which strategy
//! * [`check`]: what must hold between fields, and what is not built yet
//! * [`tensors`]: which tensors travel, which are frozen, which stay at the site
//! * [`variants`]: combinations of values to try against one another
//! * [`preparation`]: what the sites count together before the first round trains
//! * [`reads`]: which columns of a site's tables it reads

pub mod augment;
pub mod buckets;
pub mod catalogue;
pub mod check;
pub mod class_weights;
pub mod counts;
pub mod data;
pub mod governance;
pub mod groups;
pub mod model;
pub mod preparation;
pub mod reads;
pub mod sections;
pub mod segments;
pub mod strategy;
pub mod tensors;
pub mod tokens;
pub mod training;
pub mod variants;
pub mod vocabulary;

use serde::{Deserialize, Serialize};

pub use augment::Augment;
pub use check::{StudyError, is_plain_text};
pub use class_weights::ClassWeights;
pub use data::{Column, ColumnKind, Data, DataKind, Missing, Normalize, Outside, Repeats};
pub use governance::Governance;
pub use model::{ModelSpec, Objective};
pub use preparation::{Preparation, PreparationError};
pub use sections::{
    Aggregation, Codec, Cohort, Evaluation, Header, Mode, Privacy, Share, Strategy,
};
pub use strategy::{SecondMoment, ServerOptimizer};
pub use training::{Schedule, Training};

use crate::config;
use crate::ids::{Digest, StudyId};
use crate::signed::Document;
use crate::tensor::flat::encode_model;

/// A study, draft or resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Study {
    /// Name, version, purpose.
    #[serde(rename = "study")]
    pub header: Header,
    /// Family and sizes.
    pub model: ModelSpec,
    /// The data contract.
    #[serde(default)]
    pub data: Data,
    /// Hyper-parameters at the site.
    #[serde(default)]
    pub training: Training,
    /// From deltas to the next version.
    pub aggregation: Aggregation,
    /// Who takes part, and how long a round waits.
    #[serde(default)]
    pub cohort: Cohort,
    /// Who sees what.
    #[serde(default)]
    pub privacy: Privacy,
    /// What is measured.
    #[serde(default)]
    pub evaluation: Evaluation,
    /// On what ground it runs.
    #[serde(default, skip_serializing_if = "Governance::is_empty")]
    pub governance: Governance,
    /// Digests that pin the model; `study sign` fills them in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial: Option<Initial>,
}

/// What the resolved study says about the initial model, v0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Initial {
    /// Digest of the layout.
    pub layout: Digest,
    /// Digest of v0.
    pub model: Digest,
    /// v0 was given to `study sign --start`: it does not follow from spec and seed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub given: bool,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl Study {
    /// Reads a draft or a resolved study and checks it.
    ///
    /// # Errors
    /// Not a study, a value out of range or not built yet, digests that do not follow from the
    /// spec. `origin` names the file.
    pub fn read(text: &str, origin: &str) -> Result<Self, StudyError> {
        let mut study: Self = config::parse(text, origin)?;
        study.aggregation.fill();
        study.data.fill();
        study.training.fill();
        check::plain_text(text)?;
        study.check()?;
        Ok(study)
    }

    /// Fills in the digests of layout and v0. Everything else was filled in by reading.
    ///
    /// # Errors
    /// The spec gives no valid layout.
    pub fn resolve(mut self) -> Result<Self, StudyError> {
        let layout = self.layout()?.digest();
        let model = Digest::of(&self.initial_model()?);
        self.initial = Some(Initial { layout, model, given: false });
        Ok(self)
    }

    /// The same with this v0, in the order of the layout, in place of the seeded one.
    ///
    /// # Errors
    /// The spec gives no valid layout, or the vector is none of it.
    pub fn resolve_from(mut self, vector: &[f32]) -> Result<Self, StudyError> {
        let layout = self.layout()?;
        let (have, need) = (vector.len(), layout.len());
        if have != need {
            let need = format!("the layout has {need}");
            return check::range("initial.model", format!("of {have} parameters"), &need);
        }
        if !vector.iter().all(|x| x.is_finite()) {
            let need = "rounds start from finite numbers";
            return check::range("initial.model", "NaN or infinity in places", need);
        }
        let model = Digest::of(&encode_model(&layout, vector));
        self.initial = Some(Initial { layout: layout.digest(), model, given: true });
        Ok(self)
    }

    /// The resolved study as text: the bytes to sign.
    ///
    /// # Errors
    /// A value that TOML cannot hold.
    pub fn to_text(&self) -> Result<String, StudyError> {
        toml::to_string(self).map_err(|error| StudyError::Write(error.to_string()))
    }

    /// The study's name.
    #[must_use]
    pub fn id(&self) -> &StudyId {
        &self.header.name
    }

    /// Digest of the `[model]` section of a signed study and of `frozen` and `local` in `[training]`,
    /// if they are there: BLAKE3 of `consilium/model-spec/1` ‖ these as TOML with sorted keys. It is
    /// taken from the signed bytes, so that a release with new defaults does not change it. Equal
    /// digests mean equal layouts.
    ///
    /// # Errors
    /// The bytes are no TOML.
    pub fn spec_digest(signed: &[u8]) -> Result<Digest, StudyError> {
        let text = std::str::from_utf8(signed).map_err(|_| StudyError::NotText)?;
        let whole: toml::Table = config::parse(text, "signed study")?;
        let mut spec = toml::Table::new();
        for (name, section) in whole {
            match (&*name, section) {
                ("model", section) => {
                    spec.insert(name, section);
                }
                ("training", toml::Value::Table(mut training)) => {
                    training.retain(|field, _| field == "frozen" || field == "local");
                    if !training.is_empty() {
                        spec.insert(name, training.into());
                    }
                }
                _ => {}
            }
        }
        let section = toml::to_string(&spec).map_err(|e| StudyError::Write(e.to_string()))?;
        Ok(Digest::of(format!("consilium/model-spec/1{section}").as_bytes()))
    }

    /// The v0 that follows from spec and seed, as a model file: 49 bytes of header and 4 bytes a parameter.
    ///
    /// # Errors
    /// The spec gives no valid layout.
    pub fn initial_model(&self) -> Result<Vec<u8>, StudyError> {
        let layout = self.layout()?;
        Ok(encode_model(&layout, &self.initial_vector()?))
    }
}

impl Document for Study {
    const DOMAIN: &'static str = "consilium/study/1";
    type Error = StudyError;

    /// Reads a *resolved* study.
    fn parse(bytes: &[u8]) -> Result<Self, StudyError> {
        let text = std::str::from_utf8(bytes).map_err(|_| StudyError::NotText)?;
        let study = Self::read(text, "signed study")?;
        let Some(initial) = study.initial else {
            return Err(StudyError::NotResolved);
        };
        // v0 itself is checked where it is made: a layout is cheap, two billion numbers are not.
        let layout = study.layout()?.digest();
        if initial.layout == layout {
            Ok(study)
        } else {
            Err(StudyError::Layout { have: initial.layout, need: layout })
        }
    }
}

#[cfg(test)]
mod tests;
