//! `tabular`: a study's contract, a hospital's file, what is learnt and what
//! is said of rows that do not fit.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use crate::support::{REST, Room, bytes_of, put, run};
use consilium_common::ids::Digest;
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::study::counts::MOMENTS_UNITS;
use consilium_common::tensor::file::to_safetensors;
use consilium_common::update::sections::decode_i32;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::{Every, Where};
use consilium_common::worker::{Encoding, FailureCode, Holdout, Source, SourceKind, Task, Work};

const CONTRACT: &str = "\
kind = \"table\"
label = \"outcome\"
label_codes = { \"0\" = \"well\", \"1\" = \"ill\" }
columns = [
  { name = \"age\", min = 0, max = 100 },
  { name = \"sex\", values = [\"女\", \"男\"], missing = \"impute\" },
]";

fn study(model: &str, contract: &str) -> String {
    format!(
        "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\n{model}\n\
         [data]\n{contract}\n[training]\nlearning_rate = 0.05\nlocal_epochs = 12\n{REST}"
    )
}

fn classifier(contract: &str) -> Room {
    Room::new(&study("classes = [\"well\", \"ill\"]\nhidden = [8]", contract), None)
}

/// Old men are ill; every fifth row of patient n is of patient n − 1 too.
fn rows(count: u32) -> String {
    let mut generator = Generator::new("ward", b"rows");
    let mut text = String::from("id,age,sex,outcome,split\n");
    for row in 0..count {
        let (age, sex) = (generator.below(100), generator.below(2));
        let ill = u32::from(age + 40 * sex > 80);
        let (sex, id) = (["女", "男"][sex as usize], row - row % 5 % 2);
        let split = ["train", "test"][usize::from(row % 4 == 0)];
        text += &format!("{id},{age},{sex},{ill},{split}\n");
    }
    text
}

fn task(room: &Room, work: Work, text: &[u8]) -> Task {
    room.put("ward.csv", text);
    Task { source: Source::new(SourceKind::Csv, room.data.join("ward.csv")), ..room.task(work) }
}

fn refusal(task: &Task) -> (FailureCode, String) {
    run(task).unwrap_err()
}

#[test]
fn a_table_is_learnt_and_scored_by_accuracy_and_area() {
    let text = study("classes = [\"well\", \"ill\"]\nhidden = [8]", CONTRACT);
    let room = Room::new(&(text + "[evaluation]\nmetric = \"auc\"\n"), None);
    let mut task = task(&room, Work::Train, rows(400).as_bytes());
    let trained = run(&task).unwrap();
    assert_eq!((trained.examples, trained.holdout), (320, 80));
    task = Task { work: Work::Evaluate, base: Some(room.out()), out: None, ..task };
    let schema = Schema::of(&room.study);
    let metrics = run(&task).unwrap().metrics;
    assert_eq!(metrics.0.len(), schema.names().len());
    let (accuracy, area) = (schema.accuracy(&metrics).unwrap(), schema.auc(&metrics).unwrap());
    assert!(accuracy > 0.9 && area > 0.97, "{accuracy} {area}");
    assert!(
        schema
            .encode(&consilium_common::update::words::Words { weight: 1, clipped: 0, metrics })
            .len()
            == schema.words_len()
    );
}

#[test]
fn a_number_is_learnt_and_scored_in_its_own_unit() {
    let contract =
        "kind = \"table\"\nlabel = \"y\"\ncolumns = [{ name = \"x\", min = 0, max = 10 }]";
    let text = study("objective = \"regress\"", contract).replace("epochs = 12", "epochs = 200");
    let room = Room::new(&(text + "[evaluation]\nmetric = \"rmse\"\n"), None);
    let text: String = (0..200)
        .map(|i| format!("{:.2},{:.3}\n", f64::from(i) / 20.0, f64::from(i) / 40.0))
        .collect();
    let mut task = task(&room, Work::Train, format!("x,y\n{text}").as_bytes());
    run(&task).unwrap();
    task = Task { work: Work::Evaluate, base: Some(room.out()), out: None, ..task };
    let schema = Schema::of(&room.study);
    let rmse = schema.rmse(&run(&task).unwrap().metrics).unwrap();
    assert!(rmse < 0.2, "y = x / 2 from 0 to 5: {rmse}");
}

#[test]
fn the_same_table_in_another_encoding_gives_the_same_model() {
    let room = classifier(CONTRACT);
    let text = rows(200);
    run(&task(&room, Work::Train, text.as_bytes())).unwrap();
    let first = bytes_of(&room.out());
    let (gb18030, _, _) = encoding_rs::GB18030.encode(&text);
    assert_ne!(gb18030.as_ref(), text.as_bytes());
    let mut task = task(&room, Work::Train, &gb18030);
    task.source.format.encoding = Encoding::Gb18030;
    run(&task).unwrap();
    assert_eq!(bytes_of(&room.out()), first);
}

#[test]
fn rows_are_held_out_by_what_they_say_by_their_number_and_by_patient() {
    let patient = format!("{CONTRACT}\npatient = \"id\"");
    for (contract, holdout, expected) in [
        (CONTRACT, Holdout::Where(by("split", "test")), (150, 50)),
        (CONTRACT, Holdout::Every(Every { every: 5 }), (160, 40)),
        (patient.as_str(), Holdout::Fraction(0.5), (100, 100)),
    ] {
        let room = classifier(contract);
        let mut task = task(&room, Work::Check, rows(200).as_bytes());
        task.source.holdout = holdout;
        let found = run(&task).unwrap();
        let near = |have: u64, need: u64| have.abs_diff(need) <= 8;
        assert!(
            near(found.examples, expected.0) && near(found.holdout, expected.1),
            "{expected:?} {found:?}"
        );
        assert_eq!(found.examples + found.holdout, 200);
    }
}

#[test]
fn a_validation_part_is_taken_from_the_training_rows_and_the_hold_out_is_in_neither() {
    let patient = format!("{CONTRACT}\npatient = \"id\"");
    for (contract, holdout) in [
        (CONTRACT, Holdout::Where(by("split", "test"))),
        (CONTRACT, Holdout::Fraction(0.2)),
        (patient.as_str(), Holdout::Fraction(0.5)),
    ] {
        let room = classifier(contract);
        let mut task = task(&room, Work::Check, rows(200).as_bytes());
        task.source.holdout = holdout;
        let whole = run(&task).unwrap();
        task.source.validation = Some(0.25);
        let split = run(&task).unwrap();
        assert_eq!(split.examples + split.holdout, whole.examples);
        let near = split.holdout.abs_diff(whole.examples / 4);
        assert!(near <= 8, "{split:?} of {whole:?}");
        assert_eq!(run(&task).unwrap(), split, "the same in every task");
        task.source.validation = Some(1.0);
        assert_eq!(refusal(&task).0, FailureCode::ModelMismatch);
    }
}

fn by(column: &str, equals: &str) -> Where {
    Where { column: column.to_owned(), equals: equals.to_owned() }
}

#[test]
fn one_hospitals_rows_of_a_shared_file_are_taken_alone() {
    let room = classifier(CONTRACT);
    let mut task = task(&room, Work::Check, rows(200).as_bytes());
    task.source.only = Some(by("split", "test"));
    let found = run(&task).unwrap();
    assert_eq!(found.examples + found.holdout, 50);
}

#[test]
fn what_a_file_calls_a_column_is_said_in_the_source() {
    let room = classifier(CONTRACT);
    let text = rows(100).replacen("age", "Alter", 1);
    let mut task = task(&room, Work::Check, text.as_bytes());
    let (code, message) = refusal(&task);
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("has no column \"age\""), "{message}");
    task.source.columns.insert("age".to_owned(), "Alter".to_owned());
    assert_eq!(run(&task).unwrap().examples, 80);
}

#[test]
fn rows_that_break_the_contract_are_named_and_stop_a_site_that_has_too_many() {
    let room = classifier(CONTRACT);
    let text = rows(99) + "7,120,女,1,train\n";
    let (code, message) = refusal(&task(&room, Work::Check, text.as_bytes()));
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("1 of 100 rows") && message.contains("line 101"), "{message}");
    let room = classifier(&format!("{CONTRACT}\ntolerance = 0.05"));
    let found = run(&task(&room, Work::Check, text.as_bytes())).unwrap();
    assert_eq!(found.examples + found.holdout, 99);
    let said = found.findings.join("\n");
    assert!(said.contains("line 101: column \"age\" is outside the study's range"), "{said}");
    assert!(said.contains("class \"ill\""), "{said}");
}

#[test]
fn repairs_are_counted_and_a_repeated_row_is_seen() {
    let room = classifier(CONTRACT);
    let text = rows(100) + "1000,50,,1,train\n1001,50,,1,train\n";
    let said = run(&task(&room, Work::Check, text.as_bytes())).unwrap().findings.join("\n");
    assert!(said.contains("column \"sex\": missing, imputed in 2 rows"), "{said}");
    assert!(said.contains("duplicates") || said.contains("held out that are trained on"), "{said}");
}

/// Rows of patients from `youngest` on, the fourth of unknown age; `target` gives the number to predict.
fn aged(youngest: u32, target: impl Fn(Option<u32>) -> f64) -> (Vec<Option<u32>>, String) {
    let mut generator = Generator::new("aged", &youngest.to_le_bytes());
    let age = |row| (row != 3).then(|| youngest + generator.below(50));
    let ages: Vec<Option<u32>> = (0..100).map(age).collect();
    let row = |age: &Option<u32>| {
        let written = age.map(|age| age.to_string()).unwrap_or_default();
        format!("{written},{}\n", target(*age))
    };
    let text = format!("age,y\n{}", ages.iter().map(row).collect::<String>());
    (ages, text)
}

const STANDARDISED: &str = "kind = \"table\"\nnormalize = \"federated\"\nlabel = \"y\"\n\
    columns = [{ name = \"age\", min = 0, max = 100, missing = \"impute\" }]";

fn regression() -> Room {
    let text = study("objective = \"regress\"", STANDARDISED);
    Room::new(&(text + "[evaluation]\nmetric = \"rmse\"\n"), None)
}

/// A task over a table of which every fifth row is held out.
fn fifths(room: &Room, work: Work, text: &str, preparation: Option<&Preparation>) -> Task {
    let mut task = task(room, work, text.as_bytes());
    task.source.holdout = Holdout::Every(Every { every: 5 });
    task.preparation = preparation.map(|preparation| {
        put(&room.folder.path().join("preparation"), &preparation.encode());
        room.folder.path().join("preparation")
    });
    if work == Work::Prepare {
        task.out = Some(room.folder.path().join("counts.i32"));
    }
    task
}

/// Both sites count; the sums of what they counted, and the ages in it.
fn count_together(room: &Room) -> (Preparation, Vec<f64>) {
    let (mut sums, mut counted) = (vec![0; MOMENTS_UNITS], Vec::new());
    for youngest in [0, 50] {
        let (ages, text) = aged(youngest, |_| 0.0);
        run(&fifths(room, Work::Prepare, &text, None)).unwrap();
        let bytes = bytes_of(&room.folder.path().join("counts.i32"));
        assert_eq!(bytes.len(), 4 * MOMENTS_UNITS);
        for (sum, unit) in sums.iter_mut().zip(decode_i32(&bytes)) {
            *sum += i64::from(unit);
        }
        let trained_on = ages.iter().enumerate().filter(|(row, _)| row % 5 != 0);
        counted.extend(trained_on.filter_map(|(_, age)| age.map(f64::from)));
    }
    let terms = room.study.preparation_terms().unwrap();
    (Preparation { terms, sites: 2, sums }, counted)
}

#[test]
fn sites_of_different_ages_count_together_and_give_an_age_the_same_number() {
    let room = regression();
    let (preparation, counted) = count_together(&room);
    let mean = counted.iter().sum::<f64>() / counted.len() as f64;
    let squares = counted.iter().map(|age| (age - mean).powi(2)).sum::<f64>();
    let deviation = (squares / counted.len() as f64).sqrt();
    // This model answers with its input, and the mean, 0, stands for an unknown age.
    let none = std::collections::HashMap::<String, String>::new();
    let identity = to_safetensors(&room.study.layout().unwrap(), &[1.0, 0.0], none).unwrap();
    put(&room.folder.path().join("base.safetensors"), &identity);
    let standardised =
        |age: Option<u32>| age.map_or(0.0, |age| (f64::from(age) - mean) / deviation);
    let schema = Schema::of(&room.study);
    for youngest in [0, 50] {
        let (_, text) = aged(youngest, standardised);
        let scored = run(&fifths(&room, Work::Evaluate, &text, Some(&preparation))).unwrap();
        let rmse = schema.rmse(&scored.metrics).unwrap();
        assert!(rmse < 0.01, "from {youngest} on: {rmse}");
        let trained = run(&fifths(&room, Work::Train, &text, Some(&preparation))).unwrap();
        assert_eq!((trained.examples, trained.holdout), (80, 20));
        // The row of unknown age is trained on: NaN would have been refused as divergence.
        assert!(trained.train_loss.is_some_and(|loss| loss < 0.01), "{trained:?}");
    }
}

#[test]
fn a_table_to_standardise_is_not_trained_without_its_own_preparation() {
    let room = regression();
    let (preparation, _) = count_together(&room);
    let (_, text) = aged(0, |_| 0.0);
    let other = Preparation { terms: Digest([7; 32]), ..preparation.clone() };
    let negative = Preparation { sums: vec![-1; MOMENTS_UNITS], ..preparation };
    for (given, told) in [
        (None, "names no preparation"),
        (Some(&other), "the study has"),
        (Some(&negative), "column \"age\" cannot come from counting"),
    ] {
        for work in [Work::Train, Work::Evaluate] {
            let (code, message) = refusal(&fifths(&room, work, &text, given));
            assert_eq!(code, FailureCode::ModelMismatch);
            assert!(message.contains(told), "{message}");
        }
    }
    let plain = classifier(CONTRACT);
    let mut task = task(&plain, Work::Prepare, rows(50).as_bytes());
    task.out = Some(plain.folder.path().join("counts.i32"));
    let (code, message) = refusal(&task);
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("prepares nothing"), "{message}");
}
