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
        study_digest: Digest([1; 32]),
        round: Round(5),
        base: Digest([2; 32]),
        layout: Digest([3; 32]),
        shared_len: 4,
        words_len: schema().words_len(),
        step_exponent: -26,
        clip_norm: 16.0,
        max_examples: 1000,
    }
}

/// correct, total, loss, confusion 2×2.
fn good_words() -> Words {
    Words {
        weight: 300,
        clipped: 1,
        metrics: Metrics(vec![7, 10, 65_536, 4, 2, 1, 3]),
    }
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
    let rules = Rules {
        shared_len: 0,
        ..rules()
    };
    let bytes = update(|_, units, _| units.clear());
    assert_eq!(validate(&rules, &schema(), &bytes), Ok(good_words()));
}

#[test]
fn more_bytes_are_too_large_and_fewer_are_a_wrong_shape() {
    assert_eq!(
        code(&update(|_, units, _| units.push(1))),
        Err(Code::TooLarge)
    );
    assert_eq!(
        code(&update(|_, units, _| units.truncate(3))),
        Err(Code::WrongShape)
    );
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
    assert_eq!(
        code(&update(|header, _, _| header.step_exponent = -25)),
        Err(Code::WrongShape)
    );
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
        assert!(
            fault.detail.starts_with("coordinate 2 "),
            "{}",
            fault.detail
        );
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
        assert_eq!(
            code(&update(|_, _, words| words[0] = weight)),
            Err(Code::WeightOutOfRange)
        );
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
