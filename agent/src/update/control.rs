//! SCAFFOLD at the site (`consilium_common::update::control` has the formulas): c and cᵢ beside a round's
//! delta, read a piece at a time.

use std::io::{self, Write};

use consilium_common::le;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::random::Generator;
use consilium_common::tensor::layout::{Kind, Layout};
use consilium_common::tensor::state::{STATE_HEADER_BYTES, state_bytes_len, state_header};
use consilium_common::update::control::{Grid, advanced, change, correction};
use consilium_common::update::delta::{Norm, clip_scale};
use consilium_common::update::grid::quantise_into;

use super::{ReadAt, UpdateError};

/// Coordinates of one piece.
const PIECE: usize = CHUNK_BYTES / 4;

/// c and cᵢ over a layout's weights; zero where there is none.
#[derive(Clone, Copy, Default)]
pub struct Variates<'a> {
    /// The strategy's state, as the coordinator sent it.
    pub common: Option<&'a dyn ReadAt>,
    /// The site's own: little-endian f32, nothing else.
    pub own: Option<&'a dyn ReadAt>,
}

impl std::fmt::Debug for Variates<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let there = |file: Option<_>| if file.is_some() { "a file" } else { "zero" };
        let (common, own) = (there(self.common.map(drop)), there(self.own.map(drop)));
        f.debug_struct("Variates").field("common", &common).field("own", &own).finish()
    }
}

/// Bytes of a site's own variate.
#[must_use]
pub fn own_bytes_len(layout: &Layout) -> u64 {
    4 * layout.weights_len() as u64
}

impl Variates<'_> {
    /// Both are zero: nothing is corrected.
    #[must_use]
    pub fn are_zero(&self) -> bool {
        self.common.is_none() && self.own.is_none()
    }

    /// Whether both are of this layout.
    ///
    /// # Errors
    /// One of them is not, or cannot be read.
    pub fn check(&self, layout: &Layout) -> Result<(), UpdateError> {
        if let Some(common) = self.common {
            let (have, need) = (common.bytes()?, state_bytes_len(layout, 1));
            let mut header = [0; STATE_HEADER_BYTES];
            if have == need {
                common.read_at(&mut header, 0)?;
            }
            if header != state_header(&layout.digest()) {
                return Err(UpdateError::Common);
            }
        }
        match self.own.map(ReadAt::bytes).transpose()? {
            Some(have) if have != own_bytes_len(layout) => {
                Err(UpdateError::Own { have, need: own_bytes_len(layout) })
            }
            _ => Ok(()),
        }
    }

    /// Writes c − cᵢ as the numbers of a model in this layout, zero outside of the weights.
    ///
    /// # Errors
    /// A file cannot be read, or `out` takes no more.
    pub fn write_correction(&self, layout: &Layout, out: &mut dyn Write) -> io::Result<()> {
        let mut pieces = Pieces::new(*self);
        let (mut values, mut bytes) = (Vec::new(), Vec::new());
        for tensor in layout.tensors() {
            for first in (0..tensor.len).step_by(PIECE) {
                let len = PIECE.min(tensor.len - first);
                values.clear();
                if tensor.kind == Kind::Weight {
                    pieces.read(len)?;
                    let pairs = pieces.common.iter().zip(&pieces.own);
                    values.extend(pairs.map(|(common, own)| correction(*common, *own)));
                } else {
                    values.resize(len, 0.0);
                }
                bytes.clear();
                le::extend_f32(&mut bytes, &values);
                out.write_all(&bytes)?;
            }
        }
        Ok(())
    }
}

/// Both variates, piece by piece.
struct Pieces<'a> {
    variates: Variates<'a>,
    at: usize,
    bytes: Vec<u8>,
    common: Vec<f32>,
    own: Vec<f32>,
}

impl<'a> Pieces<'a> {
    fn new(variates: Variates<'a>) -> Self {
        Self { variates, at: 0, bytes: Vec::new(), common: Vec::new(), own: Vec::new() }
    }

    /// The next `len` coordinates of both.
    fn read(&mut self, len: usize) -> io::Result<()> {
        let Variates { common, own } = self.variates;
        let sides = [(common, STATE_HEADER_BYTES, &mut self.common), (own, 0, &mut self.own)];
        for (file, header, values) in sides {
            values.clear();
            match file {
                None => values.resize(len, 0.0),
                Some(file) => {
                    self.bytes.resize(4 * len, 0);
                    file.read_at(&mut self.bytes, (header + 4 * self.at) as u64)?;
                    values.extend(le::f32s(&self.bytes));
                }
            }
        }
        self.at += len;
        Ok(())
    }
}

/// What a round changes cᵢ by, measured.
#[derive(Debug, Clone, Copy)]
pub(super) struct Change<'a> {
    pub(super) variates: Variates<'a>,
    pub(super) grid: Grid,
    /// Σ of the step sizes.
    pub(super) steps: f64,
    /// Its L2 norm before clipping.
    pub(super) norm: f64,
}

impl<'a> Change<'a> {
    /// Walks over the delta that comes, piece by piece, and measures the change.
    pub(super) fn measure(&self) -> Measure<'a> {
        Measure { pieces: Pieces::new(self.variates), steps: self.steps, norm: Norm::default() }
    }

    pub(super) fn is_clipped(&self) -> bool {
        self.norm > self.grid.clip_norm
    }

    /// Walks over the delta that comes once more, and makes units of the change: the same every time.
    pub(super) fn encode(&self, root: &[u8]) -> Encode<'a> {
        Encode {
            pieces: Pieces::new(self.variates),
            steps: self.steps,
            factor: clip_scale(self.norm, self.grid.clip_norm) / self.grid.step(),
            step: self.grid.step(),
            generator: Generator::new("rounding/control", root),
            units: Vec::new(),
        }
    }
}

/// A walk that measures.
pub(super) struct Measure<'a> {
    pieces: Pieces<'a>,
    steps: f64,
    norm: Norm,
}

impl Measure<'_> {
    pub(super) fn add(&mut self, moved: &[f32]) -> io::Result<()> {
        self.pieces.read(moved.len())?;
        self.norm.add(&changes(&self.pieces.common, moved, self.steps));
        Ok(())
    }

    pub(super) fn norm(&self) -> f64 {
        self.norm.l2()
    }
}

/// A walk that encodes.
pub(super) struct Encode<'a> {
    pieces: Pieces<'a>,
    steps: f64,
    factor: f64,
    step: f64,
    generator: Generator,
    units: Vec<i32>,
}

impl Encode<'_> {
    /// The units of Δcᵢ.
    pub(super) fn units(&mut self, moved: &[f32]) -> io::Result<&[i32]> {
        self.pieces.read(moved.len())?;
        let changes = changes(&self.pieces.common, moved, self.steps);
        self.units.resize(changes.len(), 0);
        quantise_into(&mut self.units, &changes, self.factor, &mut self.generator);
        Ok(&self.units)
    }

    /// cᵢ⁺, which moves by them.
    pub(super) fn next(&mut self, moved: &[f32]) -> io::Result<Vec<f32>> {
        self.units(moved)?;
        let pairs = self.pieces.own.iter().zip(&self.units);
        Ok(pairs.map(|(own, unit)| advanced(*own, *unit, self.step)).collect())
    }
}

fn changes(common: &[f32], moved: &[f32], steps: f64) -> Vec<f32> {
    common.iter().zip(moved).map(|(common, moved)| change(*common, *moved, steps)).collect()
}

#[cfg(test)]
mod tests {
    //! A round of one site, from both variates to the update and the next variate, against the formulas
    //! in plain f64.

    use std::collections::HashMap;

    use consilium_common::ids::{Digest, Round, Version};
    use consilium_common::study::Study;
    use consilium_common::tensor::file::to_safetensors;
    use consilium_common::tensor::flat::encode_model;
    use consilium_common::time::Millis;
    use consilium_common::update::sections::{HEADER_BYTES_MAX, Header, decode_i32, decode_words};
    use consilium_common::update::words::Metrics;
    use consilium_common::wire::messages::{ControlPlan, Plan, TaskKind};
    use consilium_common::worker::Outcome;

    use super::super::{Purpose, training};
    use super::*;
    use crate::state::Record;

    const BASE: [f32; 4] = [1.0, -1.0, 0.5, 2.0];
    const TRAINED: [f32; 4] = [0.9, -0.8, 0.5, 1.4];
    const COMMON: [f32; 4] = [0.25, -0.5, 1.0, 0.0];
    const OWN: [f32; 4] = [0.5, 0.5, -1.0, 2.0];
    /// Σ of the step sizes.
    const STEPS: f64 = 0.4;

    fn study(clip: &str) -> Study {
        let text = format!(
            "[study]\nname = \"load\"\nseed = 7\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
             steps = 4\n[training]\noptimizer = \"sgd\"\nlearning_rate = 0.1\n[aggregation]\n\
             clip_norm = 1.0\nstrategy = \"scaffold\"\ncontrol_clip_norm = {clip}\n\
             [privacy]\nmode = \"inspectable\"\n"
        );
        Study::read(&text, "load.toml").unwrap()
    }

    fn le_bytes(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|x| x.to_le_bytes()).collect()
    }

    fn state_of(layout: &Layout, values: &[f32]) -> Vec<u8> {
        [&state_header(&layout.digest())[..], &le_bytes(values)].concat()
    }

    struct Round1 {
        record: Record,
        update: Vec<u8>,
        next: Vec<f32>,
    }

    /// One round; `common` and `own` are the files.
    fn round(
        clip: &str,
        (common, own): (Option<&[u8]>, Option<&[u8]>),
        steps: Option<f64>,
    ) -> Result<Round1, UpdateError> {
        let (study, site) = (study(clip), "st-mary".parse().unwrap());
        let layout = study.layout().unwrap();
        let base = encode_model(&layout, &BASE);
        let plan = Plan {
            study: "load".parse().unwrap(),
            study_digest: Digest([1; 32]),
            round: Round(3),
            task: TaskKind::Train,
            base_version: Version(2),
            base: Digest::of(&base),
            base_bytes: base.len() as u64,
            preparation: None,
            control: Some(ControlPlan { common: None, own: None }),
            remaining: Millis(1000),
        };
        let metadata = HashMap::<String, String>::new();
        let result = to_safetensors(&layout, &TRAINED, metadata).unwrap();
        let metrics = Metrics(vec![25, 3]);
        let outcome = Outcome { examples: 10, holdout: 25, metrics, steps, ..Outcome::default() };
        let purpose = Purpose { study: &study, plan: &plan, site: &site };
        let common = common.as_ref().map(|file| file as &dyn ReadAt);
        let own = own.as_ref().map(|file| file as &dyn ReadAt);
        let (base, result) = (base.as_slice(), result.as_slice());
        let variates = Variates { common, own };
        let encoding = training(purpose, &layout, &base, &result, variates, &outcome)?;
        let (mut update, mut next) = (Vec::new(), Vec::new());
        let record = encoding.write(&mut update).unwrap();
        encoding.write_next_control(&mut next).unwrap();
        Ok(Round1 { record, update, next: le::f32s(&next).collect() })
    }

    /// What cᵢ changes by: −c − (y − x)/Σηₖ.
    fn paper(common: &[f32]) -> Vec<f64> {
        let moved = BASE.iter().zip(&TRAINED).map(|(x, y)| f64::from(*y) - f64::from(*x));
        common.iter().zip(moved).map(|(c, moved)| -f64::from(*c) - moved / STEPS).collect()
    }

    fn near(have: &[f64], need: &[f64]) {
        assert_eq!(have.len(), need.len());
        for (have, need) in have.iter().zip(need) {
            assert!((have - need).abs() < 1e-5, "{have} {need}");
        }
    }

    #[test]
    fn the_change_goes_beside_the_delta_and_the_variate_moves_by_it() {
        let layout = study("8.0").layout().unwrap();
        let (common, own) = (state_of(&layout, &COMMON), le_bytes(&OWN));
        let made = round("8.0", (Some(&common), Some(&own)), Some(STEPS)).unwrap();
        let header = Header::decode(&made.update, made.update.len() as u64).unwrap();
        let control = header.control.unwrap();
        assert_eq!((control.len, control.step_exponent), (4, -27));
        let units: Vec<i32> = decode_i32(&made.update[HEADER_BYTES_MAX..]).take(8).collect();
        let sent = |unit: i32| f64::from(unit) * 2_f64.powi(-27);
        let changes: Vec<f64> = units[4..].iter().copied().map(sent).collect();
        near(&changes, &paper(&COMMON));
        let next: Vec<f64> = made.next.iter().copied().map(f64::from).collect();
        let need: Vec<f64> =
            OWN.iter().zip(&changes).map(|(own, change)| f64::from(*own) + change).collect();
        near(&next, &need);
        let norm = paper(&COMMON).iter().map(|x| x * x).sum::<f64>().sqrt();
        assert!((made.record.control_norm.unwrap() - norm).abs() < 1e-5);
        assert!(!made.record.clipped);
        let again = round("8.0", (Some(&common), Some(&own)), Some(STEPS)).unwrap();
        assert_eq!((again.update, again.next), (made.update, made.next), "redone, the same");
    }

    #[test]
    fn a_change_over_its_bound_is_clipped_and_the_variate_moves_by_what_was_sent() {
        let layout = study("0.5").layout().unwrap();
        let common = state_of(&layout, &COMMON);
        let made = round("0.5", (Some(&common), None), Some(STEPS)).unwrap();
        let paper = paper(&COMMON);
        let norm = paper.iter().map(|x| x * x).sum::<f64>().sqrt();
        let clipped: Vec<f64> = paper.iter().map(|x| x * 0.5 / norm).collect();
        let next: Vec<f64> = made.next.iter().copied().map(f64::from).collect();
        near(&next, &clipped);
        assert!(made.record.clipped && made.record.norm < 1.0);
        let header = Header::decode(&made.update, made.update.len() as u64).unwrap();
        let words = usize::try_from(header.words_offset()).unwrap();
        assert_eq!(decode_words(&made.update[words..])[..2], [10, 1], "weight, clipped");
    }

    #[test]
    fn both_variates_begin_at_zero() {
        let made = round("8.0", (None, None), Some(STEPS)).unwrap();
        let next: Vec<f64> = made.next.iter().copied().map(f64::from).collect();
        near(&next, &paper(&[0.0; 4]));
    }

    #[test]
    fn what_gives_no_change_is_told() {
        let layout = study("8.0").layout().unwrap();
        for steps in [None, Some(0.0), Some(-1.0), Some(f64::NAN)] {
            let told = round("8.0", (None, None), steps).err().unwrap();
            assert!(matches!(told, UpdateError::Steps(_)), "{told}");
        }
        let told = round("8.0", (None, None), Some(1e-300)).err().unwrap();
        assert!(matches!(told, UpdateError::Change), "{told}");
        let mut other = state_of(&layout, &COMMON);
        other[30] ^= 1;
        let short = state_of(&layout, &COMMON[1..]);
        for file in [other, short, Vec::new()] {
            let told = round("8.0", (Some(&file), None), Some(STEPS)).err().unwrap();
            assert!(matches!(told, UpdateError::Common), "{told}");
        }
        let own = le_bytes(&OWN[1..]);
        let told = round("8.0", (None, Some(&own)), Some(STEPS)).err().unwrap();
        assert!(matches!(told, UpdateError::Own { have: 12, need: 16 }), "{told}");
    }

    #[test]
    fn the_correction_is_c_less_the_sites_own_and_zero_where_nothing_is_sent() {
        let kinds = [("a", 2, Kind::Weight), ("fixed", 3, Kind::Frozen), ("b", 2, Kind::Weight)];
        let tensors = kinds.map(|(name, len, kind)| (name.to_owned(), vec![len], kind));
        let layout = Layout::new(tensors).unwrap();
        let (common, own) = (state_of(&layout, &COMMON), le_bytes(&OWN));
        let written = |variates: Variates<'_>| {
            variates.check(&layout).unwrap();
            let mut out = Vec::new();
            variates.write_correction(&layout, &mut out).unwrap();
            le::f32s(&out).collect::<Vec<f32>>()
        };
        let (common, own) = (&common.as_slice() as &dyn ReadAt, &own.as_slice() as &dyn ReadAt);
        let both = Variates { common: Some(common), own: Some(own) };
        assert_eq!(written(both), [-0.25, -1.0, 0.0, 0.0, 0.0, 2.0, -2.0]);
        let late = Variates { common: Some(common), own: None };
        assert_eq!(written(late), [0.25, -0.5, 0.0, 0.0, 0.0, 1.0, 0.0]);
        assert!(Variates::default().are_zero() && !late.are_zero());
    }
}
