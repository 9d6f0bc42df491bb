//! `text-classifier`: documents as vectors of words, made one vector by an encoder, then dense layers.
//!
//! * `mean`: the mean of the word vectors, each weighted by its inverse document frequency
//! * `tfidf`: the sum of the word vectors, each weighted by term frequency × inverse document frequency,
//!   over the length of all these weights (Salton & Buckley 1988, `tfc`); with `hidden = []` it is a
//!   linear model of the bag of words
//! * `cnn`: for each kernel, filters over so many words → ReLU → the largest over the document
//!   (Kim 2014)
//! * `lstm`: the mean of an LSTM's states over the document (Hochreiter & Schmidhuber 1997)

use serde::{Deserialize, Serialize};

use super::dense;
use super::{ModelSpec, Objective, Parameter, StudyError};
use crate::limits::DOCUMENT_TOKENS_MAX;
use crate::study::buckets::BUCKETS;
use crate::study::vocabulary::FIRST_ROW;
use crate::study::{Data, Repeats};
use crate::tensor::init::Init;

/// Words, an encoder, and dense layers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TextClassifier {
    /// What is predicted: `classify` or `multilabel`.
    #[serde(default, skip_serializing_if = "Objective::is_default")]
    pub objective: Objective,
    /// Labels in the order of the outputs.
    pub classes: Vec<String>,
    /// How a document becomes one vector.
    #[serde(default)]
    pub encoder: Encoder,
    /// Words that may have a vector of their own; which, the sites learn together before round 1.
    #[serde(default = "default_vocabulary")]
    pub vocabulary: u32,
    /// Length of a word's vector.
    #[serde(default = "default_embedding")]
    pub embedding: u32,
    /// Tokens of a document that are read; the rest of a longer one is not.
    #[serde(default = "default_tokens")]
    pub tokens: u32,
    /// Share of a document's tokens left out of a training step. 0 to below 1.
    #[serde(default)]
    pub word_dropout: f64,
    // Each of these is one encoder's and filled in for it ([`TextClassifier::filled`]).
    /// `cnn`: output channels of each kernel, 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filters: Option<u32>,
    /// `cnn`: how many words each kernel sees, 3, 4 and 5.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Vec<u32>>,
    /// `lstm`: length of its state, 128.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub units: Option<u32>,
    /// Widths of the hidden dense layers, each followed by ReLU.
    #[serde(default)]
    pub hidden: Vec<u32>,
}

/// How a document becomes one vector.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Encoder {
    /// The weighted mean of its words.
    #[default]
    Mean,
    /// Convolutions and a maximum.
    Cnn,
    /// A recurrent network.
    Lstm,
    /// The sum of its words, weighted by how often each stands there and how rare it is elsewhere.
    Tfidf,
}

const SIZE_MAX: u32 = 4096;
const KERNEL_MAX: u32 = 64;
const KERNELS_MAX: usize = 16;

fn default_vocabulary() -> u32 {
    20_000
}

fn default_embedding() -> u32 {
    100
}

fn default_tokens() -> u32 {
    512
}

impl TextClassifier {
    /// With the encoder's own sizes.
    pub(super) fn filled(mut self) -> Self {
        match self.encoder {
            Encoder::Mean | Encoder::Tfidf => {}
            Encoder::Cnn => {
                self.filters.get_or_insert(100);
                self.kernels.get_or_insert_with(|| vec![3, 4, 5]);
            }
            Encoder::Lstm => {
                self.units.get_or_insert(128);
            }
        }
        self
    }

    /// Words each convolution sees; none but for `cnn`.
    #[must_use]
    pub fn kernels(&self) -> &[u32] {
        self.kernels.as_deref().unwrap_or_default()
    }

    /// Rows of the embedding.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.vocabulary.saturating_add(FIRST_ROW)
    }

    /// Elements of an encoded document.
    #[must_use]
    pub fn features(&self) -> u32 {
        match self.encoder {
            Encoder::Mean | Encoder::Tfidf => self.embedding,
            Encoder::Cnn => {
                let kernels = u32::try_from(self.kernels().len()).unwrap_or(u32::MAX);
                self.filters.unwrap_or(0).saturating_mul(kernels)
            }
            Encoder::Lstm => self.units.unwrap_or(0),
        }
    }

    /// What the counts follow from, a line each: which column, and how much of it is read. What becomes
    /// of the sums (`vocabulary`, `min_site_support`) may change without counting again.
    pub(in crate::study) fn describe_counts(&self, data: &Data) -> String {
        let text = data.text.as_deref().unwrap_or_default();
        let drops = data.repeats == Some(Repeats::Drop);
        format!("text {text}\ntokens {}\ndrops repeats {drops}\n", self.tokens)
    }

    fn check(&self) -> Result<(), StudyError> {
        super::check_labels(self.objective, &self.classes)?;
        super::check_share("model.word_dropout", self.word_dropout)?;
        dense::check(&self.hidden, "model.hidden")?;
        let buckets = u32::try_from(BUCKETS).unwrap_or(u32::MAX);
        for (field, have, most) in [
            ("model.vocabulary", Some(self.vocabulary), buckets),
            ("model.embedding", Some(self.embedding), SIZE_MAX),
            ("model.tokens", Some(self.tokens), DOCUMENT_TOKENS_MAX),
            ("model.filters", self.filters, SIZE_MAX),
            ("model.units", self.units, SIZE_MAX),
        ] {
            if let Some(have) = have.filter(|have| !(1..=most).contains(have)) {
                return Err(ModelSpec::refuse(field, have, &format!("1 to {most} is accepted")));
            }
        }
        self.check_encoder()
    }

    fn check_encoder(&self) -> Result<(), StudyError> {
        for (field, is_there, of) in [
            ("model.filters", self.filters.is_some(), Encoder::Cnn),
            ("model.kernels", self.kernels.is_some(), Encoder::Cnn),
            ("model.units", self.units.is_some(), Encoder::Lstm),
        ] {
            if is_there && self.encoder != of {
                let need = "this `encoder` has none: leave it out";
                return Err(ModelSpec::refuse(field, "given", need));
            }
        }
        if self.encoder != Encoder::Cnn {
            return Ok(());
        }
        let fits = |kernel: &u32| (1..=KERNEL_MAX).contains(kernel);
        let kernels = self.kernels();
        if (1..=KERNELS_MAX).contains(&kernels.len()) && kernels.iter().all(fits) {
            return Ok(());
        }
        let need = "1 to 16 kernels of 1 to 64 words are accepted";
        Err(ModelSpec::refuse("model.kernels", format!("{kernels:?}"), need))
    }

    pub(super) fn parameters(&self) -> Result<Vec<Parameter>, StudyError> {
        self.check()?;
        let words = self.embedding;
        let init = Init::Embedding { width: words };
        let mut parameters = vec![Parameter::new("embedding.weight", [self.rows(), words], init)];
        for (i, &kernel) in (1..).zip(self.kernels()) {
            let filters = self.filters.unwrap_or(0);
            let init = Init::GlorotUniform {
                fan_in: words.saturating_mul(kernel),
                fan_out: filters.saturating_mul(kernel),
            };
            let weight = Parameter::new(format!("conv{i}.weight"), [filters, words, kernel], init);
            parameters.push(weight);
            parameters.push(Parameter::new(format!("conv{i}.bias"), [filters], Init::Zeros));
        }
        if let Some(units) = self.units {
            parameters.extend(lstm(words, units));
        }
        let outputs = u32::try_from(self.classes.len()).unwrap_or(u32::MAX);
        parameters.extend(dense::parameters(self.features(), &self.hidden, outputs));
        Ok(parameters)
    }
}

/// One layer with PyTorch's names: the gates in, forget, cell and out, one above the other.
fn lstm(inputs: u32, units: u32) -> [Parameter; 4] {
    let gates = units.saturating_mul(4);
    let init = |fan_in| Init::GlorotUniform { fan_in, fan_out: units };
    [
        Parameter::new("lstm.weight_ih_l0", [gates, inputs], init(inputs)),
        Parameter::new("lstm.weight_hh_l0", [gates, units], init(units)),
        Parameter::new("lstm.bias_ih_l0", [gates], Init::Zeros),
        Parameter::new("lstm.bias_hh_l0", [gates], Init::Zeros),
    ]
}
