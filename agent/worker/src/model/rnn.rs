//! `rnn`: the layer that `consilium_common::study::model::rnn` describes, with the same names and
//! shapes: LSTM or GRU over values, masks and times since, a summary of the whole, dropout, output.

use consilium_common::study::counts::Standard;
use consilium_common::study::model::Rnn;
use consilium_common::study::model::rnn::{Cell, INPUTS};
use consilium_common::study::{Data, Objective};
use tch::nn::VarStore;
use tch::{Device, Kind, TchError, Tensor};

use super::{Mode, Network, only};
use crate::failure::Failure;

/// The layer and its output.
#[derive(Debug)]
pub(crate) struct Recurrent {
    store: VarStore,
    /// The output's bias, where it stays at the site.
    local: Option<VarStore>,
    cell: Cell,
    hidden: i64,
    /// weight_ih, weight_hh, bias_ih, bias_hh.
    layer: [Tensor; 4],
    output: Tensor,
    bias: Tensor,
    dropout: f64,
    summary: bool,
    /// Of the summary's numbers.
    scale: Option<Scale>,
    objective: Objective,
}

/// What standardises the numbers of a summary: factor and shift of each, records are rows.
#[derive(Debug)]
pub(crate) struct Scale {
    factor: Tensor,
    shift: Tensor,
}

impl Scale {
    /// For values that `values` standardise; `summary` says how the five numbers of each variable are,
    /// in the order of [`Seen::summary`]. The fourth, a share of steps, does not follow its values.
    pub(crate) fn new(
        values: &[Standard],
        summary: &[Standard],
        device: Device,
    ) -> Result<Self, TchError> {
        let numbers = summary.chunks(values.len().max(1)).enumerate().flat_map(|(at, numbers)| {
            let is_share = at == 3;
            numbers
                .iter()
                .zip(values)
                .map(move |(number, value)| number.after((!is_share).then_some(value)))
        });
        let (factor, shift): (Vec<f64>, Vec<f64>) = numbers.unzip();
        let tensor = |numbers: &[f64]| {
            Tensor::f_from_slice(numbers)?.f_to_kind(Kind::Float)?.f_to_device(device)
        };
        Ok(Self { factor: tensor(&factor)?, shift: tensor(&shift)? })
    }
}

impl Recurrent {
    pub(crate) fn new(spec: &Rnn, data: &Data, device: Device) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let variables = u32::try_from(data.columns.len()).unwrap_or(u32::MAX);
        let hidden = i64::from(spec.hidden);
        let rows = i64::from(spec.cell.gates()) * hidden;
        let rnn = store.root() / "rnn";
        let layer = [
            rnn.f_zeros("weight_ih_l0", &[rows, i64::from(INPUTS) * i64::from(variables)])?,
            rnn.f_zeros("weight_hh_l0", &[rows, hidden])?,
            rnn.f_zeros("bias_ih_l0", &[rows])?,
            rnn.f_zeros("bias_hh_l0", &[rows])?,
        ];
        let (outputs, features) = (i64::from(spec.outputs()), spec.features(variables));
        let path = store.root() / "output";
        let output = path.f_zeros("weight", &[outputs, i64::from(features)])?;
        let local = spec.local_bias.then(|| VarStore::new(device));
        let path = local.as_ref().map_or(path, |local| local.root() / "output");
        let bias = path.f_zeros("bias", &[outputs])?;
        Ok(Self {
            store,
            local,
            cell: spec.cell,
            hidden,
            layer,
            output,
            bias,
            dropout: spec.dropout,
            summary: spec.summary,
            scale: None,
            objective: spec.objective,
        })
    }

    /// Standardises the numbers of the summary.
    pub(crate) fn scaled(self, scale: Scale) -> Self {
        Self { scale: Some(scale), ..self }
    }

    /// Records × steps × inputs to the last hidden state, records × hidden.
    fn last_state(&self, inputs: &Tensor, mode: Mode) -> Result<Tensor, TchError> {
        let train = mode == Mode::Train;
        let records = inputs.size().first().copied().unwrap_or(0);
        let options = (Kind::Float, inputs.device());
        let start = Tensor::f_zeros([1, records, self.hidden], options)?;
        let layer = &self.layer;
        let states = match self.cell {
            Cell::Gru => inputs.f_gru(&start, layer, true, 1, 0.0, train, false, true)?.1,
            Cell::Lstm => {
                let start = [start.shallow_clone(), start];
                inputs.f_lstm(&start, layer, true, 1, 0.0, train, false, true)?.1
            }
        };
        states.f_squeeze_dim(0)
    }
}

impl Network for Recurrent {
    fn store(&self) -> &VarStore {
        &self.store
    }

    fn local(&self) -> Option<&VarStore> {
        self.local.as_ref()
    }

    /// Scaled values (f32, records × steps × variables, NaN where there is none) to logits (records ×
    /// classes) or numbers (records).
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError> {
        let seen = Seen::of(only(inputs)?)?;
        let mut features = self.last_state(&seen.inputs()?, mode)?;
        if self.summary {
            features = Tensor::f_cat(&[features, seen.summary(self.scale.as_ref())?], 1)?;
        }
        let dropout = mode.dropout(self.dropout);
        if dropout > 0.0 {
            features = features.f_dropout(dropout, true)?;
        }
        let outputs = features.f_linear(&self.output, Some(&self.bias))?;
        match self.objective {
            Objective::Classify | Objective::Multilabel => Ok(outputs),
            Objective::Regress | Objective::Rank => outputs.f_squeeze_dim(1),
        }
    }
}

/// What was observed of some records; each tensor is records × steps × variables.
struct Seen {
    /// 0 where there is none.
    values: Tensor,
    /// Whether there is one.
    mask: Tensor,
    /// The last step at which there was one, this one included; 0 before the first.
    last: Tensor,
    steps: i64,
}

impl Seen {
    fn of(values: &Tensor) -> Result<Self, TchError> {
        let (_, steps, _) = values.size3()?;
        let mask = values.f_isnan()?.f_logical_not()?;
        let numbers = step_numbers(steps, values.device())?;
        let (last, _) = mask.f_to_kind(Kind::Int64)?.f_mul(&numbers)?.f_cummax(1)?;
        let values = values.f_nan_to_num(0.0, None, None)?;
        Ok(Self { values, mask, last, steps })
    }

    /// Values, masks and times since, beside one another: records × steps × 3 variables. The time at
    /// step t is t less the last step *before* t that has a value, as a share of the grid: it says how
    /// old the value is that this step replaces (Che et al. 2018, δ).
    fn inputs(&self) -> Result<Tensor, TchError> {
        let first = self.last.f_narrow(1, 0, 1)?.f_zeros_like()?;
        let before = self.last.f_narrow(1, 0, self.steps - 1)?;
        let before = Tensor::f_cat(&[first, before], 1)?;
        let since = step_numbers(self.steps, self.values.device())?.f_sub(&before)?;
        let since = since.f_to_kind(Kind::Float)?.f_div_scalar(self.steps)?;
        let mask = self.mask.f_to_kind(Kind::Float)?;
        Tensor::f_cat(&[self.values.shallow_clone(), mask, since], 2)
    }

    /// Mean, minimum, maximum, share of steps with a value, and last value of each variable (records ×
    /// 5 variables), standardised if they are to be; all 0 for a variable that was never observed, but
    /// for the share of a standardised one.
    fn summary(&self, scale: Option<&Scale>) -> Result<Tensor, TchError> {
        let sums = |x: &Tensor| x.f_sum_dim_intlist(1_i64, false, Kind::Float);
        let count = sums(&self.mask.f_to_kind(Kind::Float)?)?;
        let mean = sums(&self.values)?.f_div(&count.f_clamp_min(1)?)?;
        let never = count.f_eq(0)?;
        let gap = self.mask.f_logical_not()?;
        let extreme = |filler: f64, which: fn(&Tensor) -> Result<Tensor, TchError>| {
            let filled = self.values.f_masked_fill(&gap, filler)?;
            which(&filled)?.f_masked_fill(&never, 0.0)
        };
        let least = extreme(f64::INFINITY, |x| x.f_amin(1_i64, false))?;
        let most = extreme(f64::NEG_INFINITY, |x| x.f_amax(1_i64, false))?;
        let at = self.last.f_narrow(1, self.steps - 1, 1)?;
        let last = self.values.f_gather(1, &at, false)?.f_squeeze_dim(1)?;
        let share = count.f_div_scalar(self.steps)?;
        let numbers = Tensor::f_cat(&[mean, least, most, share, last], 1)?;
        let Some(Scale { factor, shift }) = scale else { return Ok(numbers) };
        let numbers = numbers.f_mul(factor)?.f_add(shift)?;
        let none = never.f_zeros_like()?;
        let absent = Tensor::f_cat(&[&never, &never, &never, &none, &never], 1)?;
        numbers.f_masked_fill(&absent, 0.0)
    }
}

#[cfg(test)]
pub(crate) fn summary_of(values: &Tensor, scale: Option<&Scale>) -> Result<Tensor, TchError> {
    Seen::of(values)?.summary(scale)
}

/// 0, 1, … along the axis of steps.
fn step_numbers(steps: i64, device: Device) -> Result<Tensor, TchError> {
    Tensor::f_arange(steps, (Kind::Int64, device))?.f_view([1, steps, 1])
}

#[cfg(test)]
mod tests {
    use consilium_common::study::{ModelSpec, Study};

    use super::*;
    use crate::weights::{load, variables};

    const NAN: f32 = f32::NAN;

    fn study(model: &str) -> Study {
        let text = format!(
            "[study]\nname = \"icu\"\n[model]\nfamily = \"rnn\"\nsteps = 4\n{model}\n[data]\n\
             kind = \"series\"\ncolumns = [{{ name = \"hr\", min = 0, max = 1 }}, \
             {{ name = \"ph\", min = 0, max = 1 }}]\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n[evaluation]\nmetric = \"loss\"\n"
        );
        Study::read(&text, "icu.toml").unwrap()
    }

    fn network(study: &Study) -> Recurrent {
        let ModelSpec::Rnn(spec) = &study.model else { unreachable!() };
        Recurrent::new(spec, &study.data, Device::Cpu).unwrap()
    }

    const SPECS: [&str; 4] = [
        "classes = [\"n\", \"y\"]",
        "classes = [\"a\", \"b\", \"c\"]\ncell = \"lstm\"\nhidden = 5\nsummary = true",
        "classes = [\"n\", \"y\"]\nlocal_bias = true\nsummary = true",
        "objective = \"regress\"\nhidden = 3",
    ];

    #[test]
    fn names_and_shapes_are_those_of_the_studys_layout() {
        for spec in SPECS {
            let study = study(spec);
            variables(network(&study).store(), &study.layout().unwrap()).unwrap();
        }
    }

    #[test]
    fn a_local_bias_is_in_the_local_store_alone() {
        assert!(network(&study(SPECS[0])).local().is_none());
        let network = network(&study(SPECS[2]));
        assert!(!network.store().variables().contains_key("output.bias"));
        let local = network.local().unwrap().variables();
        assert_eq!(local.keys().collect::<Vec<_>>(), ["output.bias"]);
    }

    fn numbers(tensor: &Tensor) -> Vec<f32> {
        tensor.contiguous().view(-1).try_into().unwrap()
    }

    /// One record of four steps: a variable with gaps, and one that was never observed.
    fn record() -> Tensor {
        Tensor::from_slice(&[NAN, NAN, 3.0, NAN, NAN, NAN, 1.0, NAN]).view([1, 4, 2])
    }

    #[test]
    fn a_step_reads_values_masks_and_how_long_ago() {
        let inputs = Seen::of(&record()).unwrap().inputs().unwrap();
        let expected = [
            [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
            [3.0, 0.0, 1.0, 0.0, 0.25, 0.25],
            [0.0, 0.0, 0.0, 0.0, 0.25, 0.5],
            [1.0, 0.0, 1.0, 0.0, 0.5, 0.75],
        ];
        assert_eq!(numbers(&inputs), expected.concat());
    }

    #[test]
    fn a_summary_is_of_what_was_observed_and_nothing_where_nothing_was() {
        let summary = Seen::of(&record()).unwrap().summary(None).unwrap();
        let pairs = [[2.0, 0.0], [1.0, 0.0], [3.0, 0.0], [0.5, 0.0], [1.0, 0.0]];
        assert_eq!(numbers(&summary), pairs.concat());
    }

    /// PyTorch's GRU written out in f64, from the same weights.
    #[test]
    fn the_recurrence_is_the_one_that_the_names_promise() {
        let study = study("classes = [\"n\", \"y\"]\nhidden = 1");
        let network = network(&study);
        let layout = study.layout().unwrap();
        #[expect(clippy::cast_precision_loss, reason = "a few small integers")]
        let flat: Vec<f32> = (0..layout.len()).map(|i| (i % 7) as f32 / 10.0 - 0.3).collect();
        load(network.store(), &layout, &flat).unwrap();
        let weight = |at: usize| f64::from(flat[at]);
        let inputs = numbers(&Seen::of(&record()).unwrap().inputs().unwrap());
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let mut h = 0.0;
        for step in inputs.chunks(6) {
            // Rows of weight_ih start at 0, weight_hh at 18, bias_ih at 21, bias_hh at 24.
            let of_input = |gate: usize| {
                let terms =
                    step.iter().enumerate().map(|(i, x)| weight(6 * gate + i) * f64::from(*x));
                terms.sum::<f64>() + weight(21 + gate)
            };
            let of_state = |gate: usize| weight(18 + gate) * h + weight(24 + gate);
            let reset = sigmoid(of_input(0) + of_state(0));
            let update = sigmoid(of_input(1) + of_state(1));
            let new = (of_input(2) + reset * of_state(2)).tanh();
            h = (1.0 - update) * new + update * h;
        }
        let logits = tch::no_grad(|| network.forward(&[record()], Mode::Score).unwrap());
        for (class, logit) in numbers(&logits).into_iter().enumerate() {
            let need = weight(27 + class) * h + weight(29 + class);
            assert!((f64::from(logit) - need).abs() < 1e-6, "{logit} {need}");
        }
    }
}
