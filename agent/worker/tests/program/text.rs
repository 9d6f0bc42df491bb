//! `text-classifier`: documents of a table are counted, then learnt by each encoder; what is said of
//! documents that do not fit.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fmt::Write as _;

use crate::support::{REST, Room, bytes_of, put, run};
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::study::buckets::TALLY_UNITS;
use consilium_common::study::vocabulary::VOCABULARY_UNITS;
use consilium_common::tensor::file::from_safetensors;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{Encoding, FailureCode, Holdout, Source, SourceKind, Task, Work};

const MEAN: &str = "encoder = \"mean\"\nhidden = [6]";
const CNN: &str = "encoder = \"cnn\"\nfilters = 8\nkernels = [1, 3]";
const TFIDF: &str = "encoder = \"tfidf\"";
const LSTM: &str = "encoder = \"lstm\"\nunits = 12";

fn room(encoder: &str, training: &str) -> Room {
    room_of(encoder, "", training)
}

fn room_of(encoder: &str, data: &str, training: &str) -> Room {
    let text = format!(
        "[study]\nname = \"letters\"\nseed = 3\n[model]\nfamily = \"text-classifier\"\n\
         classes = [\"well\", \"ill\"]\nvocabulary = 60\nembedding = 12\ntokens = 20\n{encoder}\n\
         [data]\nkind = \"text\"\ntext = \"letter\"\nlabel = \"outcome\"\n{data}\n\
         [training]\nlearning_rate = 0.02\nbatch_size = 16\n{training}\n{REST}"
    );
    Room::new(&text, None)
}

/// Who coughs or has 肺炎 is ill; the other words say nothing.
fn letters(count: u32) -> String {
    let mut generator = Generator::new("letters", b"rows");
    let plain = ["patient", "the", "gehört", "day", "семь", "x7", "in", "fine", "stayed", "slept"];
    let mut text = String::from("letter,outcome\n");
    for _ in 0..count {
        let length = 4 + generator.below(12) as usize;
        let mut words: Vec<&str> = Vec::new();
        for _ in 0..length {
            words.push(plain[generator.below(10) as usize]);
        }
        let ill = generator.below(2) == 1;
        let at = generator.below(u32::try_from(length).unwrap()) as usize;
        if ill {
            words[at] = ["Coughs", "肺炎"][generator.below(2) as usize];
        }
        let label = if ill { "ill" } else { "well" };
        writeln!(text, "\"{}.\",{label}", words.join(", ")).unwrap();
    }
    text
}

/// The same in Chinese, without a space between words.
fn notes(count: u32) -> String {
    let mut generator = Generator::new("notes", b"rows");
    let plain = ["患者", "入院", "三天", "血压", "正常", "复查", "出院", "饮食", "睡眠", "可"];
    let mut text = String::from("letter,outcome\n");
    for _ in 0..count {
        let mut words: Vec<&str> = (0..6).map(|_| plain[generator.below(10) as usize]).collect();
        let ill = generator.below(2) == 1;
        if ill {
            words[generator.below(6) as usize] = ["咳嗽", "肺炎"][generator.below(2) as usize];
        }
        writeln!(text, "{}。,{}", words.concat(), if ill { "ill" } else { "well" }).unwrap();
    }
    text
}

fn task(room: &Room, work: Work, bytes: &[u8]) -> Task {
    room.put("letters.csv", bytes);
    let source = Source::new(SourceKind::Csv, room.data.join("letters.csv"));
    Task { source, ..room.task(work) }
}

/// The task with what its own site counts.
fn prepared(room: &Room, work: Work, bytes: &[u8]) -> Task {
    let out = room.folder.path().join("counts");
    let base = task(room, work, bytes);
    run(&Task {
        work: Work::Prepare,
        base: None,
        out: Some(out.clone()),
        local_out: None,
        ..base.clone()
    })
    .unwrap();
    let counts = bytes_of(&out);
    let sums: Vec<i64> = counts
        .chunks_exact(4)
        .map(|unit| i64::from(i32::from_le_bytes(unit.try_into().unwrap())))
        .collect();
    assert_eq!(sums.len(), VOCABULARY_UNITS);
    let terms = room.study.preparation_terms().unwrap();
    let preparation = room.folder.path().join("preparation");
    put(&preparation, &Preparation { terms, sites: 1, sums }.encode());
    Task { preparation: Some(preparation), ..base }
}

fn refusal(task: &Task) -> (FailureCode, String) {
    run(task).unwrap_err()
}

#[test]
fn every_encoder_learns_which_words_matter() {
    for encoder in [MEAN, TFIDF, CNN, LSTM] {
        let room = room(encoder, "local_epochs = 6");
        let task = prepared(&room, Work::Train, letters(300).as_bytes());
        let trained = run(&task).unwrap();
        assert_eq!((trained.examples, trained.holdout), (240, 60));
        let task = Task { work: Work::Evaluate, base: Some(room.out()), out: None, ..task };
        let accuracy = Schema::of(&room.study).accuracy(&run(&task).unwrap().metrics).unwrap();
        assert!(accuracy > 0.9, "{encoder}: {accuracy}");
    }
}

#[test]
fn words_are_learnt_where_no_space_stands_between_them() {
    let room = room(MEAN, "local_epochs = 6");
    let task = prepared(&room, Work::Train, notes(300).as_bytes());
    run(&task).unwrap();
    let task = Task { work: Work::Evaluate, base: Some(room.out()), out: None, ..task };
    let accuracy = Schema::of(&room.study).accuracy(&run(&task).unwrap().metrics).unwrap();
    assert!(accuracy > 0.9, "{accuracy}");
}

#[test]
fn the_same_task_gives_the_same_bits_and_padding_stays_zero() {
    for encoder in [MEAN, TFIDF, CNN, LSTM] {
        let room = room(&format!("{encoder}\nword_dropout = 0.3"), "");
        let task = prepared(&room, Work::Train, letters(100).as_bytes());
        run(&task).unwrap();
        let first = bytes_of(&room.out());
        run(&task).unwrap();
        assert_eq!(bytes_of(&room.out()), first, "{encoder}");
        let flat = from_safetensors(&first, &room.study.layout().unwrap()).unwrap();
        assert_ne!(flat, room.study.initial_vector().unwrap());
        assert!(flat[..12].iter().all(|x| *x == 0.0), "{encoder}: {:?}", &flat[..12]);
        assert!(flat[12..24].iter().any(|x| *x != 0.0));
    }
}

#[test]
fn the_same_letters_in_another_encoding_give_the_same_model() {
    let room = room(MEAN, "");
    let text = letters(60) + notes(60).split_once('\n').unwrap().1;
    run(&prepared(&room, Work::Train, text.as_bytes())).unwrap();
    let first = bytes_of(&room.out());
    let (gb18030, _, _) = encoding_rs::GB18030.encode(&text);
    assert_ne!(gb18030.as_ref(), text.as_bytes());
    let counted = prepared(&room, Work::Train, text.as_bytes()).preparation;
    let mut task = task(&room, Work::Train, &gb18030);
    task.source.format.encoding = Encoding::Gb18030;
    task.preparation = counted;
    run(&task).unwrap();
    assert_eq!(bytes_of(&room.out()), first);
}

#[test]
fn what_is_held_out_is_not_counted() {
    let counts = |holdout: Holdout| {
        let room = room(MEAN, "");
        let out = room.folder.path().join("counts");
        let mut task = task(&room, Work::Prepare, letters(50).as_bytes());
        task.source.holdout = holdout;
        task = Task { base: None, out: Some(out.clone()), local_out: None, ..task };
        run(&task).unwrap();
        let total = bytes_of(&out)[4 * TALLY_UNITS..][..4].to_vec();
        u32::from_le_bytes(total.try_into().unwrap())
    };
    assert_eq!(counts(Holdout::Fraction(0.0)), 50);
    assert_eq!(counts(Holdout::Fraction(0.4)), 30);
}

#[test]
fn a_test_file_beside_the_table_is_held_out_as_a_whole() {
    let room = room(MEAN, "");
    room.put("test.csv", letters(17).as_bytes());
    let mut task = task(&room, Work::Check, letters(60).as_bytes());
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let (code, message) = refusal(&task);
    assert!(code == FailureCode::DataInvalid && message.contains("test_path"), "{message}");
    task.source.test_path = Some(room.data.join("test.csv"));
    let found = run(&task).unwrap();
    assert_eq!((found.examples, found.holdout), (60, 17));
    task.source.holdout = Holdout::Fraction(0.5);
    assert!(refusal(&task).1.contains("goes with `holdout = \"test\"`"));
}

#[test]
fn letters_without_words_are_named_and_long_ones_cut() {
    let text = letters(30) + "\" -- ,. \",ill\n";
    let room = room(MEAN, "");
    let (code, message) = refusal(&task(&room, Work::Check, text.as_bytes()));
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("line 32: the document \"letter\" has no words"), "{message}");
    let text = letters(30) + &format!("\"{}\",ill\n", "word ".repeat(21));
    let said = run(&task(&room, Work::Check, text.as_bytes())).unwrap().findings.join("\n");
    assert!(
        said.contains("column \"letter\": longer than `model.tokens`, cut in 1 rows"),
        "{said}"
    );
    assert!(said.contains("class \"ill\""), "{said}");
}

#[test]
fn repeated_letters_are_seen_or_left_out() {
    let text = letters(40) + "\"Coughs, at home\",ill\n" + &"\"Coughs, at home\",well\n".repeat(2);
    let keep = room(MEAN, "");
    let found = run(&task(&keep, Work::Check, text.as_bytes())).unwrap();
    assert_eq!(found.examples + found.holdout, 43);
    let said = found.findings.join("\n");
    assert!(said.contains("duplicates") || said.contains("held out that are trained on"), "{said}");
    let drop = room_of(MEAN, "repeats = \"drop\"", "");
    let found = run(&task(&drop, Work::Check, text.as_bytes())).unwrap();
    assert_eq!(found.examples + found.holdout, 41);
    let said = found.findings.join("\n");
    assert!(
        said.contains("column \"letter\": repeats another, the row left out in 2 rows"),
        "{said}"
    );
}

#[test]
fn without_a_vocabulary_nothing_trains() {
    let room = room(MEAN, "");
    let (code, message) = refusal(&task(&room, Work::Train, letters(30).as_bytes()));
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("names no preparation"), "{message}");
}

#[test]
fn a_schedule_takes_the_step_size_down_from_round_to_round() {
    let room = room(MEAN, "schedule = \"cosine\"\nrounds = 10");
    let mut task = prepared(&room, Work::Train, letters(60).as_bytes());
    let initial = room.study.initial_vector().unwrap();
    let mut moved = |round| {
        task.round = round;
        run(&task).unwrap();
        let flat = from_safetensors(&bytes_of(&room.out()), &room.study.layout().unwrap()).unwrap();
        flat.iter().zip(&initial).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>().sqrt()
    };
    let (first, middle, last) = (moved(1), moved(6), moved(10));
    assert!(first > 1.5 * middle && middle > 5.0 * last && last > 0.0, "{first} {middle} {last}");
}
