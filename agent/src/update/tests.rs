use consilium_common::ids::Version;
use consilium_common::limits::GRID_MAX;
use consilium_common::tensor::file::to_safetensors;
use consilium_common::tensor::flat::encode_model;
use consilium_common::tensor::layout::Kind;
use consilium_common::time::Millis;
use consilium_common::update::delta::DeltaError;
use consilium_common::update::sections::{HEADER_BYTES, decode_i32, decode_words};

use super::*;

fn study() -> Study {
    let text = "[study]\nname = \"load\"\nseed = 7\n[model]\nfamily = \"synthetic\"\n\
                parameters = 4\n[aggregation]\nclip_norm = 1.0\n[cohort]\nmax_examples = 500\n\
                [privacy]\nmode = \"inspectable\"\n";
    Study::read(text, "load.toml").unwrap()
}

fn plan(task: TaskKind) -> Plan {
    Plan {
        study: "load".parse().unwrap(),
        study_digest: Digest([1; 32]),
        round: Round(3),
        task,
        base_version: Version(2),
        base: Digest::of(&base(&study().layout().unwrap())),
        base_bytes: 65,
        preparation: None,
        control: None,
        remaining: Millis(1000),
    }
}

fn outcome(examples: u64) -> Outcome {
    Outcome {
        examples,
        holdout: 25,
        metrics: Metrics(vec![25, 0x1_0002_0003]),
        ..Outcome::default()
    }
}

/// An update whole in memory.
#[derive(Debug)]
struct Written {
    record: Record,
    update: Vec<u8>,
}

fn written(encoding: &Encoding<'_>) -> Written {
    let mut update = Vec::new();
    Written { record: encoding.write(&mut update).unwrap(), update }
}

fn base(layout: &Layout) -> Vec<u8> {
    encode_model(layout, &[1.0, 1.0, 1.0, 1.0])
}

/// The update of a training from `base` whose worker left `result`.
fn encoded(base: &[u8], result: &[u8], examples: u64) -> Result<Written, UpdateError> {
    let (study, site) = (study(), "st-mary".parse().unwrap());
    let layout = study.layout().unwrap();
    let plan = plan(TaskKind::Train);
    let purpose = Purpose { study: &study, plan: &plan, site: &site };
    let variates = Variates::default();
    training(purpose, &layout, &base, &result, variates, &outcome(examples))
        .map(|update| written(&update))
}

fn trained(values: [f32; 4], examples: u64) -> Result<Written, UpdateError> {
    let layout = study().layout().unwrap();
    let metadata = std::collections::HashMap::<String, String>::new();
    let result = to_safetensors(&layout, &values, metadata).unwrap();
    encoded(&base(&layout), &result, examples)
}

fn shared(update: &[u8]) -> Vec<i32> {
    decode_i32(&update[HEADER_BYTES..HEADER_BYTES + 16]).collect()
}

/// Reviewed by hand against `common/src/update/sections.rs` and `words.rs`.
const GOLDEN: [&str; 12] = [
    "4355504401000200", // magic, format 1, two sections
    "0300000000000000", // round 3
    "e2ffffff00000000", // step 2^-30, reserved
    "0101010101010101010101010101010101010101010101010101010101010101", // study
    "1ec62b9e48e19e5259a42fa5e25eef60a35a39b0a9592d0d269d8b5a78412800", // base
    "d4e9e7a6f965971146b43051cdbdfa230cd48a4282608d95d2d2f6790370dab7", // layout
    "01000100000000001000000000000000", // shared: i32, 16 bytes
    "04000200000000002800000000000000", // words: u32, 40 bytes
    "80666606809999f90000000000333313", // 0.1, -0.1, 0, 0.3 in units of 2^-30
    "c800000000000000", // weight 200, not clipped
    "19000000000000000000000000000000", // total 25 in 16-bit limbs
    "03000000020000000100000000000000", // loss 0x1_0002_0003 in limbs
];

#[test]
fn an_update_is_these_bytes_and_the_same_when_the_task_is_redone() {
    let first = trained([1.1, 0.9, 1.0, 1.3], 200).unwrap();
    let again = trained([1.1, 0.9, 1.0, 1.3], 200).unwrap();
    assert_eq!(first.update, again.update);
    assert_eq!(first.record, again.record);
    let hex: String = first.update.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, GOLDEN.concat());
    assert_eq!(first.record.digest, Digest::of(&first.update));
    assert_eq!(first.record.bytes, first.update.len() as u64);
    assert!(!first.record.clipped);
}

#[test]
fn grid_units_are_the_delta_within_one_step() {
    let retention = trained([1.1, 0.9, 1.0, 1.3], 200).unwrap();
    let step = 2_f64.powi(-30); // clip_norm 1
    for (unit, delta) in shared(&retention.update).into_iter().zip([0.1, -0.1, 0.0, 0.3]) {
        assert!((f64::from(unit) * step - delta).abs() < 1e-6, "{unit} {delta}");
    }
}

#[test]
fn a_large_delta_is_clipped_by_its_global_norm_and_says_so() {
    let retention = trained([4.0, 5.0, 1.0, 1.0], 200).unwrap();
    assert!(retention.record.clipped);
    assert!((retention.record.norm - 5.0).abs() < 1e-6);
    let units = shared(&retention.update);
    let unit = 2_f64.powi(30);
    assert!((f64::from(units[0]) / unit - 0.6).abs() < 1e-6);
    assert!((f64::from(units[1]) / unit - 0.8).abs() < 1e-6);
    let words = decode_words(&retention.update[HEADER_BYTES + 16..]);
    assert_eq!(words[..2], [200, 1]);
    assert_eq!(words[6..10], [3, 2, 1, 0], "the loss in 16-bit limbs, low first");
}

#[test]
fn a_weight_is_capped_by_the_study() {
    assert_eq!(trained([1.0; 4], 501).unwrap().record.weight, 500);
    assert!(matches!(trained([1.0; 4], 0), Err(UpdateError::NoExamples)));
}

#[test]
fn a_diverged_or_foreign_result_is_no_update() {
    let error = trained([f32::NAN, 1.0, 1.0, 1.0], 1).unwrap_err();
    assert!(matches!(error, UpdateError::Delta(DeltaError::NotFinite(0))));
    let layout = study().layout().unwrap();
    for junk in [&b""[..], b"junk", &[0xff; 64], &[0; 64]] {
        let error = encoded(&base(&layout), junk, 1).unwrap_err();
        assert!(matches!(error, UpdateError::Result(_)), "{error}");
        let error = encoded(junk, junk, 1).unwrap_err();
        assert!(matches!(error, UpdateError::Base(_)), "{error}");
    }
    let none = std::collections::HashMap::<String, String>::new();
    let result = to_safetensors(&layout, &[1.0; 4], none).unwrap();
    let rotten = encode_model(&layout, &[1.0, 1.0, 1.0, 1.5]);
    let error = encoded(&rotten, &result, 1).unwrap_err();
    assert!(matches!(error, UpdateError::OtherBase { .. }), "{error}");
}

/// More than one piece a tensor, frozen tensors between, tensors in another order in the worker's
/// file: piece by piece gives what the whole vectors give.
#[test]
#[expect(clippy::cast_possible_truncation, reason = "any f32 serves")]
fn an_update_made_in_pieces_is_that_of_the_whole() {
    let large = 300_000; // more than a piece
    let spec = |name: &str, len: u32, kind| (name.to_owned(), vec![len], kind);
    let layout = Layout::new([
        spec("b.weight", 3, Kind::Weight),
        spec("b.mean", 5, Kind::Frozen),
        spec("a.weight", large, Kind::Weight),
    ])
    .unwrap();
    let mut generator = Generator::new("test", b"pieces");
    let mut vector =
        || -> Vec<f32> { (0..layout.len()).map(|_| generator.unit() as f32 - 0.5).collect() };
    let (base, trained) = (vector(), vector());
    let bytes = encode_model(&layout, &base);
    let none = std::collections::HashMap::<String, String>::new();
    let result = to_safetensors(&layout, &trained, none).unwrap();
    let (base_file, result) = (bytes.as_slice(), result.as_slice());
    let pair = Pair::open(&layout, &base_file, &result).unwrap();
    let mut pieces = Vec::new();
    let digest = pair.read_through(|piece| pieces.extend_from_slice(piece)).unwrap();
    assert_eq!(digest, Digest::of(&bytes));
    let whole = delta(&layout, &base, &trained).unwrap();
    assert_eq!(pieces, whole);
    let mut again = Vec::new();
    pair.deltas(|piece| again.extend_from_slice(piece)).unwrap();
    assert_eq!(again, whole);
}

#[test]
fn an_evaluation_has_words_alone() {
    let (study, site, plan) = (study(), "a".parse().unwrap(), plan(TaskKind::Evaluate));
    let purpose = Purpose { study: &study, plan: &plan, site: &site };
    let layout = study.layout().unwrap();
    let retention = written(&evaluation(purpose, &layout, &outcome(0)).unwrap());
    let header = Header::decode(&retention.update, retention.record.bytes).unwrap();
    assert_eq!((header.shared_len, header.words_len), (0, 10));
    assert_eq!(retention.record.weight, 25);
    let wrong = Outcome::default();
    let error = evaluation(purpose, &layout, &wrong).unwrap_err();
    assert!(matches!(error, UpdateError::Metrics { have: 0, need: 2 }));
}

/// The update of a study with three counts whose worker left these bytes.
fn counted(file: &[u8]) -> Result<Written, UpdateError> {
    let mut study = study();
    let consilium_common::study::ModelSpec::Synthetic(spec) = &mut study.model else {
        unreachable!("the study is synthetic");
    };
    spec.prepare = 3;
    let (site, plan) = ("a".parse().unwrap(), plan(TaskKind::Prepare));
    let purpose = Purpose { study: &study, plan: &plan, site: &site };
    let layout = study.layout().unwrap();
    preparation(purpose, &layout, &file).map(|update| written(&update))
}

fn file_of(counts: &[i32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    le::extend_i32(&mut bytes, counts);
    bytes
}

#[test]
fn counts_travel_as_they_are_with_weight_one_and_nothing_measured() {
    let counts = [GRID_MAX, -GRID_MAX, 7];
    let made = counted(&file_of(&counts)).unwrap();
    let header = Header::decode(&made.update, made.record.bytes).unwrap();
    assert_eq!((header.shared_len, header.words_len, header.step_exponent), (3, 10, 0));
    let units: Vec<i32> = decode_i32(&made.update[HEADER_BYTES..]).take(3).collect();
    assert_eq!(units, counts);
    let words = decode_words(&made.update[HEADER_BYTES + 12..]);
    assert_eq!((words[0], words[1..].iter().max()), (1, Some(&0)));
    assert_eq!((made.record.weight, made.record.clipped), (1, false));
    assert_eq!(made.record.digest, Digest::of(&made.update));
    assert_eq!(read_counts(3, &file_of(&counts).as_slice()).unwrap(), counts);
}

#[test]
fn counts_that_do_not_fit_the_study_never_leave() {
    let refused = |file: &[u8]| counted(file).unwrap_err().to_string();
    let bytes = "bytes, the study's have 12";
    assert_eq!(refused(&[0; 8]), format!("the worker's counts have 8 {bytes}"));
    assert_eq!(refused(&[0; 13]), format!("the worker's counts have 13 {bytes}"));
    let most = "±1073741824 is the most that one site may count";
    assert_eq!(refused(&file_of(&[0, GRID_MAX + 1, 0])), format!("count 1 is 1073741825: {most}"));
    let least = format!("count 2 is -2147483648: {most}");
    assert_eq!(refused(&file_of(&[0, 0, i32::MIN])), least);
    // In another piece of a long file.
    let mut long = vec![0; 300_000];
    long[299_999] = -GRID_MAX - 1;
    let error = read_counts(long.len(), &file_of(&long).as_slice()).unwrap_err();
    assert!(matches!(error, UpdateError::Count { index: 299_999, .. }), "{error}");
    let (study, site, plan) = (study(), "a".parse().unwrap(), plan(TaskKind::Prepare));
    let purpose = Purpose { study: &study, plan: &plan, site: &site };
    let none = preparation(purpose, &study.layout().unwrap(), &&[0_u8; 12][..]).unwrap_err();
    assert_eq!(none.to_string(), "study load prepares nothing, so no counts of it leave this site");
}

#[test]
fn seeds_differ_by_study_round_and_site_and_never_else() {
    let (a, b): (SiteId, SiteId) = ("a".parse().unwrap(), "b".parse().unwrap());
    let seed = task_seed(7, Round(3), &a);
    assert_eq!(seed, task_seed(7, Round(3), &a));
    for other in
        [task_seed(8, Round(3), &a), task_seed(7, Round(4), &a), task_seed(7, Round(3), &b)]
    {
        assert_ne!(seed, other);
    }
}
