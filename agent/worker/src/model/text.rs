//! `text-classifier`: an embedding, the encoder that `consilium_common::study::model::text` describes,
//! and dense layers. What a document is filled up with to the length of its batch changes nothing.

use std::collections::BTreeMap;

use consilium_common::study::model::TextClassifier;
use consilium_common::study::model::text::Encoder;
use consilium_common::study::vocabulary::PADDING;
use tch::nn::{Path, VarStore};
use tch::{Device, Kind, TchError, Tensor};

use super::dense::{Affine, Dense};
use super::{Mode, Network, only};
use crate::failure::Failure;

/// Below any sum of weights of a document that has words.
const WEIGHT_MIN: f64 = 1e-6;

/// The layers.
#[derive(Debug)]
pub(crate) struct Reader {
    store: VarStore,
    embedding: Tensor,
    /// How much each row of the embedding says (f32).
    weights: Tensor,
    encoder: Layers,
    head: Dense,
    word_dropout: f64,
}

#[derive(Debug)]
enum Layers {
    Mean,
    Tfidf,
    /// Kernels, each with the number of words that it sees.
    Cnn(Vec<(Affine, i64)>),
    Lstm(Lstm),
}

/// One layer, named as PyTorch's.
#[derive(Debug)]
struct Lstm {
    /// Input weights, state weights, and a bias of each.
    parameters: [Tensor; 4],
    units: i64,
}

impl Reader {
    /// `weights`: one for each row of the embedding.
    pub(crate) fn new(
        spec: &TextClassifier,
        weights: &[f32],
        device: Device,
    ) -> Result<Self, Failure> {
        let store = VarStore::new(device);
        let root = store.root();
        let (rows, width) = (i64::from(spec.rows()), i64::from(spec.embedding));
        let embedding = (&root / "embedding").f_zeros("weight", &[rows, width])?;
        let encoder = match spec.encoder {
            Encoder::Mean => Layers::Mean,
            Encoder::Tfidf => Layers::Tfidf,
            Encoder::Cnn => Layers::Cnn(kernels(&root, spec)?),
            Encoder::Lstm => Layers::Lstm(Lstm::new(&(&root / "lstm"), spec)?),
        };
        let outputs = u32::try_from(spec.classes.len()).unwrap_or(u32::MAX);
        let head = Dense::new(&root, spec.features(), &spec.hidden, outputs)?;
        let weights = Tensor::f_from_slice(weights)?.f_to_device(device)?;
        let word_dropout = spec.word_dropout;
        Ok(Self { store, embedding, weights, encoder, head, word_dropout })
    }
}

fn kernels(root: &Path<'_>, spec: &TextClassifier) -> Result<Vec<(Affine, i64)>, TchError> {
    let filters = spec.filters.unwrap_or(0);
    let kernel = |(i, &kernel): (usize, &u32)| {
        let shape = [filters, spec.embedding, kernel];
        Ok((Affine::new(&(root / format!("conv{i}")), &shape)?, i64::from(kernel)))
    };
    (1..).zip(spec.kernels()).map(kernel).collect()
}

impl Lstm {
    fn new(path: &Path<'_>, spec: &TextClassifier) -> Result<Self, TchError> {
        let units = i64::from(spec.units.unwrap_or(0));
        let gates = 4 * units;
        let parameters = [
            path.f_zeros("weight_ih_l0", &[gates, i64::from(spec.embedding)])?,
            path.f_zeros("weight_hh_l0", &[gates, units])?,
            path.f_zeros("bias_ih_l0", &[gates])?,
            path.f_zeros("bias_hh_l0", &[gates])?,
        ];
        Ok(Self { parameters, units })
    }

    /// Records × tokens × embedding to the states, records × tokens × units.
    fn forward(&self, words: &Tensor) -> Result<Tensor, TchError> {
        let records = words.size().first().copied().unwrap_or(0);
        let zeros = || Tensor::f_zeros([1, records, self.units], (Kind::Float, words.device()));
        let start = [zeros()?, zeros()?];
        let (states, _, _) =
            words.f_lstm(&start, &self.parameters, true, 1, 0.0, false, false, true)?;
        Ok(states)
    }
}

impl Network for Reader {
    fn store(&self) -> &VarStore {
        &self.store
    }

    /// Ids (i32, records × tokens) and, for `tfidf`, each token's share ([`shares`], f32, as many) to
    /// logits (records × classes).
    fn forward(&self, inputs: &[Tensor], mode: Mode) -> Result<Tensor, TchError> {
        let ids = trim(only(inputs)?)?;
        let is_word = ids.f_ne(i64::from(PADDING))?;
        let ids = leave_out(&ids, mode.dropout(self.word_dropout))?;
        let padding = i64::from(PADDING);
        let words = Tensor::f_embedding(&self.embedding, &ids, padding, false, false)?;
        let document = match &self.encoder {
            Layers::Mean => {
                let weights = self.weights.f_index_select(0, &ids.f_view(-1)?)?;
                mean(&words, &weights.f_view_as(&ids)?)?
            }
            Layers::Tfidf => {
                let told = || TchError::Shape("the loader gave no shares of words".to_owned());
                let shares = inputs.get(1).ok_or_else(told)?;
                let width = ids.size().get(1).copied().unwrap_or(0);
                sum(&words, &shares.f_narrow(1, 0, width)?)?
            }
            Layers::Cnn(kernels) => largest(&words, &is_word, kernels)?,
            Layers::Lstm(lstm) => mean(&lstm.forward(&words)?, &is_word.f_to_kind(Kind::Float)?)?,
        };
        self.head.forward(&document, 0.0)
    }
}

/// Without the columns that are padding in every record, but one: i64.
fn trim(ids: &Tensor) -> Result<Tensor, TchError> {
    let used = ids.f_ne(i64::from(PADDING))?.f_sum_dim_intlist(1, false, Kind::Int64)?;
    let longest = if used.numel() == 0 { 0 } else { used.f_max()?.f_int64_value(&[])? };
    ids.f_narrow(1, 0, longest.max(1))?.f_to_kind(Kind::Int64)
}

/// Puts padding in the place of a `share` of the words, chosen at random.
fn leave_out(ids: &Tensor, share: f64) -> Result<Tensor, TchError> {
    if share <= 0.0 {
        return Ok(ids.shallow_clone());
    }
    let drawn = Tensor::f_rand(ids.size().as_slice(), (Kind::Float, ids.device()))?;
    ids.f_masked_fill(&drawn.f_lt(share)?, i64::from(PADDING))
}

/// Σ w·x / Σ w over the tokens: records × tokens × features and weights (records × tokens) to
/// records × features; zero where all weights are.
fn mean(x: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
    let weight = weights.f_sum_dim_intlist(1, true, Kind::Float)?.f_clamp_min(WEIGHT_MIN)?;
    sum(x, weights)?.f_div(&weight)
}

/// Σ w·x over the tokens.
fn sum(x: &Tensor, weights: &Tensor) -> Result<Tensor, TchError> {
    weights.f_unsqueeze(1)?.f_bmm(x)?.f_squeeze_dim(1)
}

/// What each token of a document adds to the unit vector of its words: weight(row) / ‖tf · weight‖, so that
/// a row that stands there tf times has tf · weight(row) / ‖tf · weight‖.
pub(crate) fn shares(rows: &[u32], weights: &[f32]) -> Vec<f32> {
    let weight = |row: u32| weights.get(row as usize).copied().unwrap_or(0.0);
    let mut often: BTreeMap<u32, f32> = BTreeMap::new();
    for row in rows {
        *often.entry(*row).or_default() += 1.0;
    }
    let squares = often.iter().map(|(row, often)| (often * weight(*row)).powi(2));
    let norm = squares.sum::<f32>().sqrt().max(f32::MIN_POSITIVE);
    rows.iter().map(|row| weight(*row) / norm).collect()
}

/// For every kernel, the largest value that each filter has where it starts at a word: records ×
/// (kernels · filters). Behind the last word it sees zeros.
fn largest(
    words: &Tensor,
    is_word: &Tensor,
    kernels: &[(Affine, i64)],
) -> Result<Tensor, TchError> {
    let words = words.f_transpose(1, 2)?;
    let starts = is_word.f_to_kind(Kind::Float)?.f_unsqueeze(1)?;
    let mut features = Vec::with_capacity(kernels.len());
    for (Affine { weight, bias }, kernel) in kernels {
        let padded = words.f_constant_pad_nd([0, kernel - 1])?;
        let found = padded.f_conv1d(weight, Some(bias), [1], [0], [1], 1)?.f_relu()?;
        // What ReLU lets through is 0 or above: a 0 hides what starts at padding.
        features.push(found.f_mul(&starts)?.f_amax([2], false)?);
    }
    Tensor::f_cat(&features, 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::weights::{flatten, load, variables};
    use consilium_common::study::{ModelSpec, Study};

    const MEAN: &str = "hidden = [5]";
    const CNN: &str = "encoder = \"cnn\"\nfilters = 3\nkernels = [2, 4]";
    const LSTM: &str = "encoder = \"lstm\"\nunits = 5";
    const TFIDF: &str = "encoder = \"tfidf\"";

    fn study(encoder: &str) -> Study {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"text-classifier\"\nclasses = [\"n\", \"y\"]\n\
             vocabulary = 6\nembedding = 4\n{encoder}\n[data]\nkind = \"text\"\n[aggregation]\n\
             clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "a.toml").unwrap()
    }

    const WEIGHTS: [f32; 8] = [0.0, 1.0, 1.5, 2.0, 3.0, 1.0, 2.5, 0.5];

    fn reader(study: &Study) -> Reader {
        let ModelSpec::TextClassifier(spec) = &study.model else { unreachable!() };
        Reader::new(spec, &WEIGHTS, Device::Cpu).unwrap()
    }

    fn loaded(encoder: &str) -> Reader {
        let study = study(encoder);
        let reader = reader(&study);
        load(&reader.store, &study.layout().unwrap(), &study.initial_vector().unwrap()).unwrap();
        reader
    }

    fn logits(reader: &Reader, ids: &[i32], width: i64, mode: Mode) -> Vec<f32> {
        let rows: Vec<u32> = ids.iter().map(|id| id.unsigned_abs()).collect();
        let documents = rows.chunks(usize::try_from(width).unwrap());
        let shares: Vec<f32> = documents.flat_map(|rows| shares(rows, &WEIGHTS)).collect();
        let inputs = [Tensor::from_slice(ids), Tensor::from_slice(&shares)];
        let inputs = inputs.map(|input| input.view([-1, width]));
        let logits = tch::no_grad(|| reader.forward(&inputs, mode).unwrap());
        Vec::try_from(logits.view(-1)).unwrap()
    }

    #[test]
    fn names_and_shapes_are_those_of_the_studys_layout() {
        for encoder in [MEAN, TFIDF, CNN, LSTM] {
            let study = study(encoder);
            let (reader, layout) = (reader(&study), study.layout().unwrap());
            variables(&reader.store, &layout).unwrap();
            let flat = study.initial_vector().unwrap();
            load(&reader.store, &layout, &flat).unwrap();
            assert_eq!(flatten(&reader.store, &layout).unwrap(), flat);
        }
    }

    #[test]
    fn what_a_document_is_filled_up_with_changes_nothing() {
        for encoder in [MEAN, TFIDF, CNN, LSTM] {
            let reader = loaded(encoder);
            let alone = logits(&reader, &[3, 1, 7], 3, Mode::Score);
            let beside =
                logits(&reader, &[3, 1, 7, 0, 0, 0, 0, 2, 2, 2, 5, 6, 0, 0], 7, Mode::Score);
            for (a, b) in alone.iter().zip(&beside) {
                assert!((a - b).abs() < 1e-6, "{encoder}: {alone:?} {beside:?}");
            }
            assert_ne!(beside[..2], beside[2..], "{encoder}");
        }
    }

    #[test]
    fn the_mean_is_weighted_and_the_order_of_words_matters_where_it_should() {
        let close = |a: &[f32], b: &[f32]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        for (encoder, is_bag) in [(MEAN, true), (TFIDF, true), (CNN, false), (LSTM, false)] {
            let reader = loaded(encoder);
            let of = |ids: &[i32]| logits(&reader, ids, 4, Mode::Score);
            assert_eq!(close(&of(&[2, 3, 4, 5]), &of(&[5, 3, 4, 2])), is_bag, "{encoder}");
        }
        let x = Tensor::from_slice(&[1.0_f32, 10.0, 2.0, 20.0]).view([1, 2, 2]);
        let mean = mean(&x, &Tensor::from_slice(&[1.0_f32, 3.0]).view([1, 2])).unwrap();
        assert_eq!(Vec::<f32>::try_from(mean.view(-1)).unwrap(), [1.75, 17.5]);
    }

    #[test]
    fn shares_are_the_unit_vector_of_term_frequency_times_inverse_document_frequency() {
        // Row 2 twice at 1.5, row 4 once at 3: both 3, over 3·√2; padding weighs nothing.
        let half = 0.5_f32.sqrt();
        let expected = [half / 2.0, half, half / 2.0, 0.0];
        for (have, need) in shares(&[2, 4, 2, 0], &WEIGHTS).iter().zip(expected) {
            assert!((have - need).abs() < 1e-6, "{have} {need}");
        }
        assert_eq!(shares(&[0, 0], &WEIGHTS), [0.0, 0.0]);
    }

    #[test]
    fn words_are_left_out_of_training_alone_and_never_make_nonsense() {
        tch::manual_seed(1);
        for encoder in [MEAN, TFIDF, CNN, LSTM] {
            let reader = loaded(&format!("{encoder}\nword_dropout = 0.9"));
            let of = |mode| logits(&reader, &[2, 3, 4, 5], 4, mode);
            assert_eq!(of(Mode::Score), of(Mode::Score));
            let drawn: Vec<Vec<f32>> = (0..50).map(|_| of(Mode::Train)).collect();
            assert!(drawn.iter().flatten().all(|x| x.is_finite()), "{encoder}");
            assert!(drawn.iter().any(|logits| *logits != drawn[0]), "{encoder}");
        }
    }
}
