//! Update files: the header, the whole file as the coordinator validates it, and the words.

use std::sync::LazyLock;

use consilium_common::ids::{Digest, Round};
use consilium_common::limits::{GRID_MAX, PARAMETERS_MAX, WORDS_MAX};
use consilium_common::update::control::Grid;
use consilium_common::update::sections::{
    ControlSection, Header, UpdateError, decode_i32, decode_words, encode_update,
};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::TaskKind;
use consilium_coordinator::aggregate::validate::{Validator, validate};
use consilium_coordinator::round::{Fault, Rules};

use super::{shown, study};

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| Schema::of(&study::tiny()));
static RULES: LazyLock<Rules> = LazyLock::new(|| Rules {
    study_digest: Digest([1; 32]),
    round: Round(5),
    task: TaskKind::Train,
    base: Digest([2; 32]),
    layout: Digest([3; 32]),
    shared_len: 4,
    control: None,
    words_len: SCHEMA.words_len(),
    step_exponent: -26,
    clip_norm: 16.0,
    max_examples: 1000,
});

/// Those of a study under SCAFFOLD.
static CORRECTED: LazyLock<Rules> =
    LazyLock::new(|| Rules { control: Some(Grid::of(0.25)), ..RULES.clone() });

/// A header has one encoding, and never speaks of more than a model may have.
pub(super) fn header(bytes: &[u8]) {
    let header = match Header::decode(bytes, bytes.len() as u64) {
        // A header alone is as good as one before its sections.
        Err(UpdateError::Length { need, .. }) => Header::decode(bytes, need),
        decoded => decoded,
    };
    match header {
        Ok(header) => {
            assert!(bytes.starts_with(&header.encode()), "another encoding");
            assert!(header.shared_len as u64 <= PARAMETERS_MAX && header.words_len <= WORDS_MAX);
            assert!(header.words_offset() <= header.update_bytes_len());
        }
        Err(error) => shown(&error, bytes),
    }
}

/// An update gets the same verdict in pieces of any size; one that passes keeps every rule.
pub(super) fn update(bytes: &[u8]) {
    for rules in [&*RULES, &*CORRECTED] {
        let whole = validate(rules, &SCHEMA, bytes);
        for piece in [1, 5, 160] {
            let pieces = in_pieces(rules, bytes, piece);
            assert_eq!(pieces, whole, "another verdict in pieces of {piece}");
        }
        match whole {
            Ok(_) => keeps_the_rules(rules, bytes.split_at(rules.header_bytes_len()).1),
            Err(fault) => shown(&fault.detail, bytes),
        }
    }
}

fn keeps_the_rules(rules: &Rules, body: &[u8]) {
    let (units, words) = body.split_at(4 * rules.coordinates().all());
    assert!(decode_i32(units).all(|unit| unit.unsigned_abs() <= GRID_MAX.unsigned_abs()));
    let words = SCHEMA.decode(&decode_words(words)).unwrap();
    assert!((1..=rules.max_examples).contains(&words.weight));
}

fn in_pieces(rules: &Rules, bytes: &[u8], piece: usize) -> Result<Words, Fault> {
    let mut validator = Validator::new(rules, &SCHEMA, bytes.len() as u64)?;
    bytes.chunks(piece).try_for_each(|piece| validator.feed(piece))?;
    validator.finish()
}

/// Words that are accepted have one encoding and do not contradict one another.
pub(super) fn words(bytes: &[u8]) {
    let encoded = decode_words(bytes);
    match SCHEMA.decode(&encoded) {
        Ok(words) => {
            assert_eq!(SCHEMA.encode(&words), encoded);
            let accuracy = SCHEMA.accuracy(&words.metrics).unwrap_or(0.0);
            assert!((0.0..=1.0).contains(&accuracy), "{accuracy}");
            assert!(SCHEMA.loss(&words.metrics).unwrap_or(0.0) >= 0.0);
            drop(words.checked_add(&words));
        }
        Err(error) => shown(&error, bytes),
    }
}

/// correct, total, loss, confusion 2×2.
fn good_words() -> Vec<u32> {
    let metrics = Metrics(vec![7, 10, 65_536, 4, 2, 1, 3]);
    SCHEMA.encode(&Words { weight: 300, clipped: 1, metrics })
}

pub(super) fn updates() -> Vec<Vec<u8>> {
    let rules = &*RULES;
    let header = Header {
        round: rules.round,
        step_exponent: rules.step_exponent,
        study: rules.study_digest,
        base: rules.base,
        layout: rules.layout,
        shared_len: rules.shared_len,
        control: None,
        words_len: rules.words_len,
    };
    let words = good_words();
    let good = encode_update(&header, &[1, -2, 3, GRID_MAX / 2], &words);
    let far = encode_update(&header, &[GRID_MAX, GRID_MAX, 0, 0], &words);
    let outside = encode_update(&header, &[0, i32::MIN, 0, 0], &words);
    let other = Header { round: Round(6), ..header };
    let late = encode_update(&other, &[0; 4], &words);
    let shape = Header { layout: Digest([9; 32]), ..header };
    let shape = encode_update(&shape, &[0; 4], &words);
    let mut weight = words;
    if let Some(first) = weight.first_mut() {
        *first = 0;
    }
    let weightless = encode_update(&header, &[0; 4], &weight);
    let section = ControlSection { step_exponent: Grid::of(0.25).step_exponent, len: 4 };
    let corrected = Header { control: Some(section), ..header };
    let units = [1, -2, 3, 4, 5, -6, GRID_MAX, 7];
    let corrected = encode_update(&corrected, &units, &good_words());
    vec![good, far, outside, late, shape, weightless, corrected]
}

pub(super) fn word_lists() -> Vec<Vec<u8>> {
    let good: Vec<u8> = good_words().into_iter().flat_map(u32::to_le_bytes).collect();
    let mut contradiction = good.clone();
    if let Some(correct) = contradiction.get_mut(8) {
        *correct = 11;
    }
    vec![good, contradiction]
}
