//! An update against the rules of its round, while its bytes stream by: header, grid, norm, words.
//! Nothing is added before all of it holds (DESIGN.md §1, P8).

use consilium_common::limits::GRID_MAX;
use consilium_common::update::control::Grid;
use consilium_common::update::grid::norm_bound_units;
use consilium_common::update::sections::{ControlSection, Header};
use consilium_common::update::words::{Schema, Words, WordsError};
use consilium_common::wire::messages::TaskKind;
use consilium_common::wire::reject::Code;

use super::sum::Coordinates;
use crate::round::{Fault, Rules};

impl Rules {
    /// What of the update is added up.
    #[must_use]
    pub fn coordinates(&self) -> Coordinates {
        let control = if self.control.is_some() { self.shared_len } else { 0 };
        Coordinates { shared: self.shared_len, control }
    }

    /// The header that the update must have.
    fn header(&self) -> Header {
        Header {
            round: self.round,
            step_exponent: self.step_exponent,
            study: self.study_digest,
            base: self.base,
            layout: self.layout,
            shared_len: self.shared_len,
            control: self.control.map(|grid| ControlSection {
                step_exponent: grid.step_exponent,
                len: self.shared_len,
            }),
            words_len: self.words_len,
        }
    }

    /// Bytes before the first section of every update of the round.
    #[must_use]
    pub fn header_bytes_len(&self) -> usize {
        self.header().header_bytes_len()
    }

    /// Bytes of every update of the round.
    #[must_use]
    pub fn update_bytes_len(&self) -> u64 {
        self.header().update_bytes_len()
    }
}

/// Takes an update's bytes in order, in pieces of any size. Memory: the words, some kilobytes.
#[derive(Debug)]
pub struct Validator<'a> {
    rules: &'a Rules,
    schema: &'a Schema,
    header: Vec<u8>,
    header_holds: bool,
    sections: [Section; 2],
    words: Vec<u32>,
    /// The bytes of a coordinate or word that the last piece ended in.
    partial: Vec<u8>,
    seen: u64,
}

/// `shared` or `control`: coordinates seen so far, and their Σ x²: exact, so that no order or chunk
/// changes a verdict.
#[derive(Debug)]
struct Section {
    /// Before the places of its coordinates, in what people read.
    name: &'static str,
    len: usize,
    coordinates: usize,
    squares: u128,
    grid: Grid,
}

/// Holds a whole update against the rules.
///
/// # Errors
/// The rule that it breaks.
pub fn validate(rules: &Rules, schema: &Schema, update: &[u8]) -> Result<Words, Fault> {
    let mut validator = Validator::new(rules, schema, update.len() as u64)?;
    validator.feed(update)?;
    validator.finish()
}

impl<'a> Validator<'a> {
    /// For an update of `bytes` bytes in all.
    ///
    /// # Errors
    /// No update of the round has this size.
    pub fn new(rules: &'a Rules, schema: &'a Schema, bytes: u64) -> Result<Self, Fault> {
        let need = rules.update_bytes_len();
        if bytes != need {
            let code = if bytes > need { Code::TooLarge } else { Code::WrongShape };
            return fault(code, format!("the update has {bytes} bytes, {need} expected"));
        }
        Ok(Self {
            rules,
            schema,
            header: Vec::with_capacity(rules.header_bytes_len()),
            header_holds: false,
            sections: Section::of(rules),
            words: Vec::with_capacity(rules.words_len),
            partial: Vec::with_capacity(4),
            seen: 0,
        })
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// The first rule that they break; the update is of no more use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.seen = self.seen.saturating_add(bytes.len() as u64);
        if self.seen > self.rules.update_bytes_len() {
            return fault(Code::TooLarge, "more bytes follow the update".to_owned());
        }
        let missing = self.rules.header_bytes_len() - self.header.len();
        let (header, mut body) = bytes.split_at(missing.min(bytes.len()));
        self.header.extend_from_slice(header);
        if header.len() < missing {
            return Ok(());
        }
        self.check_header()?;
        if !self.partial.is_empty() {
            let (first, rest) = body.split_at((4 - self.partial.len()).min(body.len()));
            self.partial.extend_from_slice(first);
            body = rest;
            let partial = std::mem::take(&mut self.partial);
            match <[u8; 4]>::try_from(partial.as_slice()) {
                Ok(word) => self.take(&[word])?,
                Err(_) => self.partial = partial,
            }
        }
        let (whole, ragged) = body.as_chunks::<4>();
        self.take(whole)?;
        self.partial.extend_from_slice(ragged);
        Ok(())
    }

    /// The verdict, once all bytes were fed.
    ///
    /// # Errors
    /// The update ended early, its norm is over the bound, or its words break a rule.
    pub fn finish(self) -> Result<Words, Fault> {
        let need = self.rules.update_bytes_len();
        if self.seen != need {
            let detail = format!("the update ended after {} of {need} bytes", self.seen);
            return fault(Code::WrongShape, detail);
        }
        let words = self.schema.decode(&self.words).map_err(words_fault)?;
        if self.rules.task == TaskKind::Prepare {
            check_bare(&words)?;
        } else {
            self.sections.iter().try_for_each(Section::check_norm)?;
        }
        let cap = self.rules.max_examples;
        if !(1..=cap).contains(&words.weight) {
            let detail = format!("the weight is {}, 1 to {cap} is accepted", words.weight);
            return fault(Code::WeightOutOfRange, detail);
        }
        Ok(words)
    }

    fn check_header(&mut self) -> Result<(), Fault> {
        if self.header_holds {
            return Ok(());
        }
        let need = self.rules.header();
        let have = Header::decode(&self.header, need.update_bytes_len());
        let have = have.or_else(|error| fault(Code::WrongShape, error.to_string()))?;
        if (have.round, have.study, have.base) != (need.round, need.study, need.base) {
            let detail = format!(
                "the update is for round {}, study {:?}, base {:?}; the plan says {}, {:?}, {:?}",
                have.round, have.study, have.base, need.round, need.study, need.base
            );
            return fault(Code::WrongRound, detail);
        }
        if have.control != need.control {
            let detail = format!(
                "the update has control section {:?}, the study {:?}",
                have.control, need.control
            );
            return fault(Code::WrongShape, detail);
        }
        if have != need {
            let detail = format!(
                "the update has layout {:?}, step 2^{}, {} coordinates and {} words; the study has \
                 {:?}, 2^{}, {} and {}",
                have.layout,
                have.step_exponent,
                have.shared_len,
                have.words_len,
                need.layout,
                need.step_exponent,
                need.shared_len,
                need.words_len
            );
            return fault(Code::WrongShape, detail);
        }
        self.header_holds = true;
        Ok(())
    }

    /// Takes whole 4-byte items: coordinates first, then words.
    fn take(&mut self, mut items: &[[u8; 4]]) -> Result<(), Fault> {
        for section in &mut self.sections {
            items = section.take(items)?;
        }
        self.words.extend(items.iter().map(|word| u32::from_le_bytes(*word)));
        Ok(())
    }
}

impl Section {
    fn of(rules: &Rules) -> [Self; 2] {
        let shared = Grid { clip_norm: rules.clip_norm, step_exponent: rules.step_exponent };
        let Coordinates { shared: len, control } = rules.coordinates();
        let one = |name, len, grid| Self { name, len, coordinates: 0, squares: 0, grid };
        [one("", len, shared), one("control ", control, rules.control.unwrap_or(shared))]
    }

    /// Takes what is left of its coordinates off the front.
    fn take<'a>(&mut self, items: &'a [[u8; 4]]) -> Result<&'a [[u8; 4]], Fault> {
        let left = self.len.saturating_sub(self.coordinates);
        let (units, rest) = items.split_at(left.min(items.len()));
        let mut outside = None;
        for (at, unit) in units.iter().enumerate() {
            let size = u64::from(i32::from_le_bytes(*unit).unsigned_abs());
            self.squares += u128::from(size * size);
            if size > u64::from(GRID_MAX.unsigned_abs()) {
                outside = outside.or(Some(at));
            }
        }
        if let Some(at) = outside {
            let (name, at) = (self.name, self.coordinates + at);
            let detail = format!("{name}coordinate {at} lies outside of the grid of ±{GRID_MAX}");
            return fault(Code::OutOfGrid, detail);
        }
        self.coordinates += units.len();
        Ok(rest)
    }

    #[expect(
        clippy::cast_precision_loss,
        reason = "one rounding of an exact sum, the same everywhere; the bound has slack for it"
    )]
    fn check_norm(&self) -> Result<(), Fault> {
        let Grid { clip_norm, step_exponent } = self.grid;
        let bound = norm_bound_units(clip_norm, step_exponent, self.len);
        let norm = (self.squares as f64).sqrt();
        if norm <= bound {
            return Ok(());
        }
        let name = self.name;
        let detail =
            format!("the {name}norm is {norm:.0} grid units, the clip bound is {bound:.0}");
        fault(Code::NormTooLarge, detail)
    }
}

/// Counts come alone: what a site measures belongs to a version.
fn check_bare(words: &Words) -> Result<(), Fault> {
    if words.clipped == 0 && words.metrics.0.iter().all(|sum| *sum == 0) {
        return Ok(());
    }
    let detail = "counts have metric sums or a clipped-flag beside them; none belong there";
    fault(Code::BadMetrics, detail.to_owned())
}

fn words_fault(error: WordsError) -> Fault {
    let code = match error {
        WordsError::Count { .. } => Code::WrongShape,
        WordsError::Limb { .. } | WordsError::Flag | WordsError::Contradiction(_) => {
            Code::BadMetrics
        }
    };
    Fault { code, detail: error.to_string() }
}

fn fault<T>(code: Code, detail: String) -> Result<T, Fault> {
    Err(Fault { code, detail })
}

#[cfg(test)]
mod tests {
    //! One test per way of breaking a rule; whatever the bytes and the pieces, no panic.

    use consilium_common::ids::{Digest, Round};
    use consilium_common::study::Study;
    use consilium_common::update::sections::encode_update;
    use consilium_common::update::words::Metrics;
    use proptest::prelude::*;

    use super::*;

    const CNN: &str = r#"
[study]
name = "tiny"
[model]
family = "cnn"
input = { channels = 1, height = 8, width = 8 }
classes = ["no", "yes"]
[aggregation]
clip_norm = 16.0
[privacy]
mode = "inspectable"
"#;

    fn schema() -> Schema {
        Schema::of(&Study::read(CNN, "tiny.toml").unwrap())
    }

    fn rules() -> Rules {
        Rules {
            task: TaskKind::Train,
            study_digest: Digest([1; 32]),
            round: Round(5),
            base: Digest([2; 32]),
            layout: Digest([3; 32]),
            shared_len: 4,
            control: None,
            words_len: schema().words_len(),
            step_exponent: -26,
            clip_norm: 16.0,
            max_examples: 1000,
        }
    }

    fn corrected() -> Rules {
        Rules { control: Some(Grid::of(0.25)), ..rules() }
    }

    /// An update under SCAFFOLD whose last four units are Δc.
    fn with_control(change: impl Fn(&mut Header, &mut Vec<i32>)) -> Result<Words, Code> {
        let (mut header, mut units) = (corrected().header(), vec![1, -2, 3, 4, 5, -6, 7, GRID_MAX]);
        change(&mut header, &mut units);
        let update = encode_update(&header, &units, &schema().encode(&good_words()));
        validate(&corrected(), &schema(), &update).map_err(|fault| fault.code)
    }

    #[test]
    fn a_control_section_is_held_against_its_own_grid_and_norm() {
        assert_eq!(with_control(|_, _| {}), Ok(good_words()));
        for unit in [GRID_MAX + 1, i32::MIN] {
            assert_eq!(with_control(|_, units| units[6] = unit), Err(Code::OutOfGrid));
        }
        let over = with_control(|_, units| units[6] = GRID_MAX / 100);
        assert_eq!(over, Err(Code::NormTooLarge));
        let fault = |update: &[u8]| validate(&corrected(), &schema(), update).unwrap_err();
        let units = [1, -2, 3, 4, 0, 0, GRID_MAX, GRID_MAX];
        let words = schema().encode(&good_words());
        let detail = fault(&encode_update(&corrected().header(), &units, &words)).detail;
        assert!(detail.starts_with("the control norm is "), "{detail}");
    }

    #[test]
    fn a_control_section_that_is_missing_or_of_another_step_is_a_wrong_shape() {
        let step = with_control(|header, _| {
            header.control = header.control.map(|c| ControlSection { step_exponent: -31, ..c });
        });
        assert_eq!(step, Err(Code::WrongShape));
        let shifted = with_control(|header, _| {
            header.shared_len = 5;
            header.control = header.control.map(|c| ControlSection { len: 3, ..c });
        });
        assert_eq!(shifted, Err(Code::WrongShape));
        // As long as it has to be, but all of it `shared`.
        let mut plain = Header { control: None, ..corrected().header() };
        plain.shared_len = 12;
        let words = schema().encode(&good_words());
        let update = encode_update(&plain, &[0; 12], &words);
        let verdict = validate(&corrected(), &schema(), &update).unwrap_err();
        assert_eq!(verdict.code, Code::WrongShape, "{verdict:?}");
        assert_eq!(code(&update), Err(Code::TooLarge));
    }

    /// correct, total, loss, confusion 2×2.
    fn good_words() -> Words {
        Words { weight: 300, clipped: 1, metrics: Metrics(vec![7, 10, 65_536, 4, 2, 1, 3]) }
    }

    fn update(change: impl Fn(&mut Header, &mut Vec<i32>, &mut Vec<u32>)) -> Vec<u8> {
        let mut header = rules().header();
        let mut units = vec![1, -2, 3, GRID_MAX / 2];
        let mut words = schema().encode(&good_words());
        change(&mut header, &mut units, &mut words);
        header.shared_len = units.len();
        header.words_len = words.len();
        encode_update(&header, &units, &words)
    }

    fn code(update: &[u8]) -> Result<Words, Code> {
        validate(&rules(), &schema(), update).map_err(|fault| fault.code)
    }

    #[test]
    fn a_good_update_gives_its_words_in_pieces_of_any_size() {
        let bytes = update(|_, _, _| {});
        assert_eq!(code(&bytes), Ok(good_words()));
        let (rules, schema) = (rules(), schema());
        for size in 1..40 {
            let mut validator = Validator::new(&rules, &schema, bytes.len() as u64).unwrap();
            for piece in bytes.chunks(size) {
                validator.feed(piece).unwrap();
            }
            assert_eq!(validator.finish(), Ok(good_words()), "pieces of {size}");
        }
    }

    #[test]
    fn an_evaluation_has_no_coordinates() {
        let rules = Rules { shared_len: 0, ..rules() };
        let bytes = update(|_, units, _| units.clear());
        assert_eq!(validate(&rules, &schema(), &bytes), Ok(good_words()));
    }

    #[test]
    fn more_bytes_are_too_large_and_fewer_are_a_wrong_shape() {
        assert_eq!(code(&update(|_, units, _| units.push(1))), Err(Code::TooLarge));
        assert_eq!(code(&update(|_, units, _| units.truncate(3))), Err(Code::WrongShape));
        assert_eq!(code(&[]), Err(Code::WrongShape));
        let bytes = update(|_, _, _| {});
        let (rules, schema) = (rules(), schema());
        let mut early = Validator::new(&rules, &schema, bytes.len() as u64).unwrap();
        early.feed(&bytes[..bytes.len() - 1]).unwrap();
        assert_eq!(early.finish().unwrap_err().code, Code::WrongShape);
        let mut late = Validator::new(&rules, &schema, bytes.len() as u64).unwrap();
        late.feed(&bytes).unwrap();
        assert_eq!(late.feed(&[0]).unwrap_err().code, Code::TooLarge);
    }

    #[test]
    fn another_shape_of_the_same_size_is_a_wrong_shape() {
        let mut magic = update(|_, _, _| {});
        magic[0] = b'X';
        assert_eq!(code(&magic), Err(Code::WrongShape));
        let layout = update(|header, _, _| header.layout = Digest([9; 32]));
        assert_eq!(code(&layout), Err(Code::WrongShape));
        assert_eq!(code(&update(|header, _, _| header.step_exponent = -25)), Err(Code::WrongShape));
        let shifted = update(|_, units, words| {
            units.pop();
            words.push(0);
        });
        assert_eq!(code(&shifted), Err(Code::WrongShape));
    }

    #[test]
    fn another_round_study_or_base_is_the_wrong_round() {
        for bytes in [
            update(|header, _, _| header.round = Round(4)),
            update(|header, _, _| header.study = Digest([9; 32])),
            update(|header, _, _| header.base = Digest([9; 32])),
        ] {
            assert_eq!(code(&bytes), Err(Code::WrongRound));
        }
    }

    #[test]
    fn a_coordinate_beyond_the_grid_is_told_with_its_place() {
        for unit in [GRID_MAX + 1, -GRID_MAX - 1, i32::MIN, i32::MAX] {
            let bytes = update(|_, units, _| units[2] = unit);
            let fault = validate(&rules(), &schema(), &bytes).unwrap_err();
            assert_eq!(fault.code, Code::OutOfGrid);
            assert!(fault.detail.starts_with("coordinate 2 "), "{}", fault.detail);
        }
    }

    #[test]
    fn a_norm_over_the_clip_bound_is_too_large_and_one_at_it_is_not() {
        // C = 16 and step 2^-26: the bound is 2^30 units and what rounding may add, √4.
        assert!(code(&update(|_, units, _| *units = vec![GRID_MAX, 1, 0, 0])).is_ok());
        let over = update(|_, units, _| *units = vec![GRID_MAX, GRID_MAX / 100, 0, 0]);
        assert_eq!(code(&over), Err(Code::NormTooLarge));
    }

    #[test]
    fn a_weight_of_none_or_over_the_cap_is_out_of_range() {
        for weight in [0, 1001, u32::MAX] {
            assert_eq!(code(&update(|_, _, words| words[0] = weight)), Err(Code::WeightOutOfRange));
        }
        assert!(code(&update(|_, _, words| words[0] = 1000)).is_ok());
    }

    #[test]
    fn metrics_that_contradict_one_another_are_bad() {
        let flag = update(|_, _, words| words[1] = 2);
        let limb = update(|_, _, words| words[2] = 1 << 16);
        let more_correct_than_total = update(|_, _, words| words[2] = 11);
        let confusion = update(|_, _, words| words[14] = 5);
        for bytes in [flag, limb, more_correct_than_total, confusion] {
            assert_eq!(code(&bytes), Err(Code::BadMetrics));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(code(&bytes).is_err());
        }

        #[test]
        fn a_good_update_with_changed_bytes_never_panics_in_any_pieces(
            changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
            cut in any::<prop::sample::Index>(),
        ) {
            let mut bytes = update(|_, _, _| {});
            for (at, value) in changes {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            let (rules, schema) = (rules(), schema());
            let mut validator = Validator::new(&rules, &schema, bytes.len() as u64).unwrap();
            let (first, second) = bytes.split_at(cut.index(bytes.len()));
            let pieces = validator.feed(first).and_then(|()| validator.feed(second));
            let verdict = pieces.and_then(|()| validator.finish());
            let whole = validate(&rules, &schema, &bytes);
            prop_assert_eq!(verdict.map_err(|fault| fault.code), whole.map_err(|fault| fault.code));
        }
    }
}
