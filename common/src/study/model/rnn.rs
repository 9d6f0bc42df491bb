//! `rnn`: one LSTM or GRU layer over an irregular series of several variables, on a grid of `steps`
//! equal steps. At each step it reads three inputs a variable: the value, scaled (0 where it was not
//! observed); 1 where it was observed, else 0; and the time since it was observed last, as a share of
//! the grid (Che et al. 2018, "Recurrent Neural Networks for Multivariate Time Series with Missing
//! Values", δ and m). The last hidden state and, with `summary`, five numbers a variable go through
//! dropout to the output.
//!
//! Names and shapes are PyTorch's: `rnn.weight_ih_l0` (gates · hidden × inputs), `rnn.weight_hh_l0`,
//! `rnn.bias_ih_l0`, `rnn.bias_hh_l0`, `output.weight`, `output.bias`. A GRU has 3 gates (reset,
//! update, new), an LSTM 4 (input, forget, cell, output).

use serde::{Deserialize, Serialize};

use super::{ModelSpec, Objective, Parameter, StudyError};
use crate::limits::ARRAY_RECORD_ELEMENTS_MAX;
use crate::study::check::word;
use crate::study::counts::MOMENTS_UNITS;
use crate::study::{Column, ColumnKind, Data, Missing, Normalize};
use crate::tensor::init::Init;

/// A recurrent layer over variables.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rnn {
    /// What is predicted.
    #[serde(default)]
    pub objective: Objective,
    /// `classify`, `multilabel`: the labels, in the order of the outputs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub classes: Vec<String>,
    /// Kind of the recurrent units.
    #[serde(default)]
    pub cell: Cell,
    /// How many of them.
    #[serde(default = "thirty_two")]
    pub hidden: u32,
    /// Steps of the time grid: hours of two days are 48.
    pub steps: u32,
    /// Share of the output's inputs left out of a training step. 0 to below 1.
    #[serde(default)]
    pub dropout: f64,
    /// Whether each variable's mean, minimum, maximum, share of observed steps and last value over the
    /// whole series go to the output too. With `normalize = "federated"` these are standardised as the
    /// values are, each by its own mean and deviation over the records of all sites.
    #[serde(default)]
    pub summary: bool,
    /// The output's bias stays at each site. It starts at the logarithms of the classes' shares among
    /// the site's training records (`multilabel`: at each class's log-odds), is trained there and is no
    /// part of the model.
    #[serde(default)]
    pub local_bias: bool,
}

/// Kind of recurrent units.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cell {
    /// Cho et al. 2014, in PyTorch's form.
    #[default]
    Gru,
    /// Hochreiter & Schmidhuber 1997, with a forget gate.
    Lstm,
}

/// Numbers of a summary, each of every variable.
pub const SUMMARY: u32 = 5;
/// Inputs of a variable at each step.
pub const INPUTS: u32 = 3;

const HIDDEN_MAX: u32 = 4096;
const STEPS_MAX: u32 = 1 << 16;

fn thirty_two() -> u32 {
    32
}

impl Cell {
    /// Blocks of the weights, one below the other.
    #[must_use]
    pub fn gates(self) -> u32 {
        match self {
            Self::Gru => 3,
            Self::Lstm => 4,
        }
    }
}

impl Rnn {
    /// Units of the output.
    #[must_use]
    pub fn outputs(&self) -> u32 {
        match self.objective {
            Objective::Classify | Objective::Multilabel => {
                u32::try_from(self.classes.len()).unwrap_or(u32::MAX)
            }
            Objective::Regress | Objective::Rank => 1,
        }
    }

    /// Inputs of the output, over so many variables.
    #[must_use]
    pub fn features(&self, variables: u32) -> u32 {
        let summary = if self.summary { SUMMARY } else { 0 };
        self.hidden.saturating_add(variables.saturating_mul(summary))
    }

    /// Sums that the sites count together: the moments of every variable, in order; then those of the
    /// summary's numbers, each of every variable.
    pub(in crate::study) fn preparation_len(&self, data: &Data) -> Option<usize> {
        let each = if self.summary { 1 + SUMMARY as usize } else { 1 };
        (data.normalize == Normalize::Federated)
            .then_some(MOMENTS_UNITS * each * data.columns.len())
    }

    /// What decides which records count, and with which values.
    pub(in crate::study) fn describe_counts(&self, data: &Data) -> String {
        let objective = format!("objective {}\nsteps {}\n", word(&self.objective), self.steps);
        let classes = self.classes.iter().map(|class| format!("class {}\n", word(class)));
        std::iter::once(objective).chain(classes).chain([data.describe()]).collect()
    }

    fn check(&self, data: &Data) -> Result<(), StudyError> {
        super::check_objective(self.objective, &self.classes)?;
        super::check_share("model.dropout", self.dropout)?;
        if self.local_bias && !self.objective.has_classes() {
            let need = "a number to predict has no class shares that it could start at";
            return Err(ModelSpec::refuse("model.local_bias", true, need));
        }
        for (field, have, most) in
            [("model.hidden", self.hidden, HIDDEN_MAX), ("model.steps", self.steps, STEPS_MAX)]
        {
            if !(1..=most).contains(&have) {
                return Err(ModelSpec::refuse(field, have, &format!("1 to {most} is accepted")));
            }
        }
        if data.columns.is_empty() {
            let need = "the rnn family needs at least one variable";
            return Err(ModelSpec::refuse("data.columns", "empty", need));
        }
        let values = u64::from(self.steps) * data.columns.len() as u64;
        if values > ARRAY_RECORD_ELEMENTS_MAX {
            let need = format!("at most {ARRAY_RECORD_ELEMENTS_MAX} values a record are read");
            return Err(ModelSpec::refuse("model.steps", self.steps, &need));
        }
        data.columns.iter().try_for_each(check_variable)
    }

    pub(super) fn parameters(&self, data: &Data) -> Result<Vec<Parameter>, StudyError> {
        self.check(data)?;
        let variables = u32::try_from(data.columns.len()).unwrap_or(u32::MAX);
        let (hidden, outputs) = (self.hidden, self.outputs());
        let (rows, inputs) = (self.cell.gates() * hidden, INPUTS * variables);
        // Glorot's bound of one gate: the gates share a tensor and nothing else.
        let gate = |fan_in| Init::GlorotUniform { fan_in, fan_out: hidden };
        let features = self.features(variables);
        let output = Init::GlorotUniform { fan_in: features, fan_out: outputs };
        let mut parameters = vec![
            Parameter::new("rnn.weight_ih_l0", [rows, inputs], gate(inputs)),
            Parameter::new("rnn.weight_hh_l0", [rows, hidden], gate(hidden)),
            Parameter::new("rnn.bias_ih_l0", [rows], Init::Zeros),
            Parameter::new("rnn.bias_hh_l0", [rows], Init::Zeros),
            Parameter::new("output.weight", [outputs, features], output),
        ];
        if !self.local_bias {
            parameters.push(Parameter::new("output.bias", [outputs], Init::Zeros));
        }
        Ok(parameters)
    }
}

/// Variables are numbers. A gap is no fault of a series, so that none can be left out for one:
/// `missing` says nothing here, and `impute` is what happens (a gap reads as 0, the mean).
fn check_variable(column: &Column) -> Result<(), StudyError> {
    let refuse = |need: &str| {
        let need = format!("variable {:?}: {need}", column.name);
        Err(ModelSpec::refuse("data.columns", "not one of a series", &need))
    };
    if !matches!(column.kind(), ColumnKind::Number { .. }) {
        return refuse("give it `min` and `max`: words are not read from a series");
    }
    if column.missing == Missing::Drop {
        return refuse("`missing = \"drop\"` would leave out every series: leave it out");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use crate::study::Study;

    fn study(model: &str) -> Result<Study, String> {
        let text = format!(
            "[study]\nname = \"icu\"\n[model]\nfamily = \"rnn\"\nclasses = [\"n\", \"y\"]\n{model}\n\
             [data]\nkind = \"series\"\ncolumns = [{{ name = \"hr\", min = 0, max = 300 }}, \
             {{ name = \"ph\", min = 6, max = 8 }}]\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n"
        );
        Study::read(&text, "icu.toml").map_err(|error| error.to_string())
    }

    fn layout(model: &str) -> Vec<String> {
        let layout = study(model).unwrap().layout().unwrap();
        layout.describe().lines().skip(1).map(str::to_owned).collect()
    }

    #[test]
    fn the_layout_is_pytorchs() {
        assert_eq!(
            layout("steps = 48"),
            [
                "rnn.weight_ih_l0 weight f32 96x6",
                "rnn.weight_hh_l0 weight f32 96x32",
                "rnn.bias_ih_l0 weight f32 96",
                "rnn.bias_hh_l0 weight f32 96",
                "output.weight weight f32 2x32",
                "output.bias weight f32 2",
            ]
        );
        let lstm = layout("steps = 48\ncell = \"lstm\"\nhidden = 5\nsummary = true");
        assert_eq!(lstm[0], "rnn.weight_ih_l0 weight f32 20x6");
        assert_eq!(lstm[4], "output.weight weight f32 2x15");
    }

    #[test]
    fn a_local_bias_is_outside_the_layout_and_its_digest() {
        let (with, without) = (layout("steps = 4"), layout("steps = 4\nlocal_bias = true"));
        assert_eq!(without, with[..5]);
    }

    #[test]
    fn the_gates_start_within_glorots_bound_of_one_gate_and_not_at_zero() {
        let study = study("steps = 4\nhidden = 10").unwrap();
        let vector = study.initial_vector().unwrap();
        let input = &vector[..30 * 6];
        let bound = (6.0_f32 / 16.0).sqrt();
        let most = input.iter().fold(0.0_f32, |most, x| most.max(x.abs()));
        assert!(most <= bound && most > 0.9 * bound, "{most} {bound}");
    }

    #[test]
    fn sizes_that_make_no_sense_name_their_field() {
        for (model, field) in [
            ("", "missing field `steps`"),
            ("steps = 0", "model.steps"),
            ("steps = 70000", "model.steps"),
            ("steps = 4\nhidden = 0", "model.hidden"),
            ("steps = 4\ndropout = 1.0", "model.dropout"),
            ("steps = 4\ncell = \"rnn\"", "unknown variant"),
            ("steps = 4\nlayers = 2", "unknown field"),
        ] {
            let error = study(model).unwrap_err();
            assert!(error.contains(field), "{model}: {error}");
        }
    }
}
