//! `objective = "multilabel"`: several labels at once, or none, by each family that tells classes apart,
//! from each source that can carry them.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use crate::support::{REST, Room, bytes_of, npy, put, put_npz, run};
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{
    FailureCode, Holdout, Part, Prediction, Source, SourceKind, Split, Task, Work, from_line,
};

const CLASSES: &str = "objective = \"multilabel\"\nclasses = [\"edema\", \"mass\"]";

fn study(model: &str, data: &str, rest: &str) -> String {
    format!(
        "[study]\nname = \"chest\"\nseed = 3\n[model]\n{model}\n{CLASSES}\n[data]\n{data}\n\
         [training]\nlearning_rate = 0.02\nbatch_size = 16\n{rest}\n{REST}[evaluation]\n\
         metric = \"auc\"\n"
    )
}

/// Whether each record has edema and a mass: one in two, and one in four.
fn sets(count: usize) -> Vec<[bool; 2]> {
    let mut generator = Generator::new("chest", b"sets");
    (0..count).map(|_| [generator.below(2) == 0, generator.below(4) == 0]).collect()
}

fn written(set: [bool; 2], separator: &str) -> String {
    let names = [("mass", set[1]), ("edema", set[0])];
    let there: Vec<&str> =
        names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect();
    if there.is_empty() { "No Finding".to_owned() } else { there.join(separator) }
}

/// The task with what its own site counts, where the study prepares.
fn prepared(room: &Room, task: Task) -> Task {
    if room.study.preparation_len().is_none() {
        return task;
    }
    let out = room.folder.path().join("counts");
    let count = Task { work: Work::Prepare, base: None, out: Some(out.clone()), ..task.clone() };
    run(&Task { local_out: None, ..count }).unwrap();
    let unit = |unit: &[u8]| i64::from(i32::from_le_bytes(unit.try_into().unwrap()));
    let sums = bytes_of(&out).chunks_exact(4).map(unit).collect();
    let terms = room.study.preparation_terms().unwrap();
    let preparation = room.folder.path().join("preparation");
    put(&preparation, &Preparation { terms, sites: 1, sums }.encode());
    Task { preparation: Some(preparation), ..task }
}

/// Trains, scores, and says what became of it; the sums must be such as travel.
fn learnt(room: &Room, task: Task) -> (Schema, Metrics) {
    let task = prepared(room, task);
    run(&task).unwrap();
    let local = task.local_out.clone().filter(|path| path.exists());
    let base = Some(room.out());
    let task = Task { work: Work::Evaluate, base, out: None, local, local_out: None, ..task };
    let (schema, metrics) = (Schema::of(&room.study), run(&task).unwrap().metrics);
    let words = Words { weight: 1, clipped: 0, metrics: metrics.clone() };
    assert_eq!(schema.decode(&schema.encode(&words)).unwrap(), words);
    (schema, metrics)
}

fn is_learnt(room: &Room, task: Task) {
    let (schema, metrics) = learnt(room, task);
    let (area, accuracy) = (schema.auc(&metrics).unwrap(), schema.accuracy(&metrics).unwrap());
    assert!(area > 0.95 && accuracy > 0.85, "{area} {accuracy}");
    for class in 0..2 {
        assert!(schema.label_counts(&metrics, class).unwrap().sensitivity().unwrap() > 0.5);
    }
}

const TABLE: &str = "kind = \"table\"\nlabel = \"findings\"\n\
    label_codes = { \"No Finding\" = \"\" }\n\
    columns = [{ name = \"a\", min = 0, max = 1 }, { name = \"b\", min = 0, max = 1 }]";

fn table(sets: &[[bool; 2]], separator: &str) -> String {
    let mut generator = Generator::new("chest", b"noise");
    let mut text = String::from("a;b;findings\n");
    for set in sets {
        let [a, b] = set.map(|there| 0.6 * f64::from(u8::from(there)) + 0.4 * generator.unit());
        text += &format!("{a:.3};{b:.3};{}\n", written(*set, separator));
    }
    text
}

fn csv(room: &Room, name: &str, text: &str) -> Source {
    room.put(name, text.as_bytes());
    Source::new(SourceKind::Csv, room.data.join(name))
}

#[test]
fn a_tables_labels_are_words_between_separators_and_each_is_learnt_by_itself() {
    let rest = "local_epochs = 20\nclass_weights = \"balanced\"";
    let room = Room::new(&study("family = \"tabular\"\nhidden = [8]", TABLE, rest), None);
    assert_eq!(room.study.preparation_len(), Some(3));
    let source = csv(&room, "chest.csv", &table(&sets(400), "|"));
    let task = Task { source, ..room.task(Work::Train) };
    is_learnt(&room, task.clone());
    let sums =
        Preparation::decode(&bytes_of(&room.folder.path().join("preparation"))).unwrap().sums;
    assert_eq!(sums[2], 320, "the records to train on, behind those of each class");
    let trained = bytes_of(&room.out());
    // Another site writes them in another way; what is learnt is the same to the bit.
    let mut source = csv(&room, "other.csv", &table(&sets(400), ", "));
    source.format.label_separator = ',';
    source.format.delimiter = Some(';');
    learnt(&room, Task { source, ..task });
    assert!(bytes_of(&room.out()) == trained, "models differ");
}

#[test]
fn check_counts_each_class_and_those_of_none_and_names_what_cannot_be_read() {
    let data = format!("{TABLE}\ntolerance = 0.1");
    let room = Room::new(&study("family = \"tabular\"", &data, ""), None);
    let mut text = table(&sets(100), "|");
    text += "0.1;0.2;mass|rash\n0.1;0.2;NA\n0.3;0.4;\n";
    let source = csv(&room, "chest.csv", &text);
    let task = Task { source, ..room.task(Work::Check) };
    let found = run(&task).unwrap();
    assert_eq!(found.examples + found.holdout, 101);
    let said = found.findings.join("\n");
    let count = |of: &str| {
        let line = found.findings.iter().find(|line| line.starts_with(of)).unwrap();
        let numbers =
            line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<usize>().ok());
        numbers.sum::<usize>()
    };
    let all = sets(100);
    let of = |class: usize| all.iter().filter(|set| set[class]).count();
    assert_eq!((count("class \"edema\""), count("class \"mass\"")), (of(0), of(1)), "{said}");
    let none = all.iter().filter(|set| !set[0] && !set[1]).count();
    assert_eq!(count("none of the classes"), none + 1, "{said}");
    assert!(said.contains("line 102: the label \"findings\" names what is none"), "{said}");
    assert!(said.contains("line 103: the label \"findings\" is not known"), "{said}");
    let evaluated = Task { work: Work::Evaluate, ..room.task(Work::Evaluate) };
    let part = Part { of: 2, index: 0, split: Split::Dirichlet(1.0), seed: 1 };
    let source = Source { part: Some(part), ..task.source };
    run(&Task { source, ..evaluated }).unwrap();
}

#[test]
fn predictions_are_one_probability_a_class_and_say_what_is_scored() {
    let room = Room::new(&study("family = \"tabular\"", TABLE, "local_epochs = 60"), None);
    let (train, test) = (table(&sets(200), "|"), table(&sets(90), "|"));
    let holdout = Holdout::Own(OwnTest::Test);
    let test_path = Some(csv(&room, "test.csv", &test).path);
    let source = Source { holdout, test_path, ..csv(&room, "train.csv", &train) };
    let (schema, metrics) = learnt(&room, Task { source, ..room.task(Work::Train) });
    let source = csv(&room, "test.csv", &test);
    run(&Task { source, base: Some(room.out()), ..room.task(Work::Predict) }).unwrap();
    let bytes = bytes_of(&room.predictions());
    let lines: Vec<Prediction> =
        bytes.split_inclusive(|byte| *byte == b'\n').map(|line| from_line(line).unwrap()).collect();
    assert_eq!(lines.len(), 90);
    let right = |class: usize| {
        let is_right =
            |(line, set): &(&Prediction, [bool; 2])| line.classes().contains(&class) == set[class];
        lines.iter().zip(sets(90)).filter(is_right).count() as u64
    };
    for class in 0..2 {
        let of = schema.label_counts(&metrics, class).unwrap();
        assert_eq!(of.total - of.missed - of.mistaken, right(class));
    }
    let sum = |line: &Prediction| line.outputs.as_ref().unwrap().iter().sum::<f64>();
    assert!(lines.iter().any(|line| sum(line) > 1.2), "both can be likely at once");
}

#[test]
fn pictures_take_a_zero_or_one_for_each_class_and_other_sources_are_refused() {
    let model = "family = \"cnn\"\ninput = { channels = 1, height = 8, width = 8 }\n\
                 conv = [{ filters = 4 }]\ndense = [8]";
    let room = Room::new(&study(model, "kind = \"images\"", "local_epochs = 12"), None);
    let sets = sets(300);
    let mut generator = Generator::new("chest", b"pixels");
    let mut pixels = Vec::new();
    for set in &sets {
        for at in 0..64 {
            // Edema: the upper half is bright; a mass: the left half.
            let bright = (set[0] && at < 32) || (set[1] && at % 8 < 4);
            let level = generator.below(100) + if bright { 155 } else { 0 };
            pixels.push(u8::try_from(level).unwrap());
        }
    }
    let bytes: Vec<u8> = sets.iter().flatten().map(|there| u8::from(*there)).collect();
    let path = room.data.join("chest.npz");
    let put = |shape: &str, labels: &[u8]| {
        let images = npy("|u1", "(300, 8, 8)", &pixels);
        put_npz(&path, &[("train_images", images), ("train_labels", npy("|u1", shape, labels))]);
    };
    put("(300, 2)", &bytes);
    let source = Source::new(SourceKind::Npz, path.clone());
    let task = Task { source, ..room.task(Work::Train) };
    is_learnt(&room, task.clone());
    let check = Task { work: Work::Check, base: None, out: None, local_out: None, ..task };
    assert_eq!(run(&check).unwrap().findings.len(), 3);
    let part = Source { validation: Some(0.25), ..check.source.clone() };
    let validated = Task { source: part, ..check.clone() };
    assert_eq!(run(&validated).unwrap().holdout, 60);
    let part = Part { of: 3, index: 1, split: Split::Dirichlet(0.5), seed: 1 };
    let dealt = Source { part: Some(part), ..check.source.clone() };
    assert!(run(&Task { source: dealt, ..check.clone() }).unwrap().examples < 240);
    let refused = |task: &Task| {
        let (code, message) = run(task).unwrap_err();
        assert_eq!(code, FailureCode::DataInvalid);
        message
    };
    put("(300,)", &bytes[..300]);
    assert!(refused(&check).contains("has shape [300]: records × 2 of 0 and 1"));
    put("(300, 2)", &[&[2], &bytes[1..]].concat());
    assert!(refused(&check).contains("record 0 has other labels than 0 and 1"));
    for (kind, said) in [
        (
            SourceKind::Idx,
            "has one label for each picture: with `objective = \"multilabel\"` take npz",
        ),
        (SourceKind::ImageFolder, "`objective = \"multilabel\"` needs a table of labels"),
    ] {
        let source = Source::new(kind, room.data.clone());
        let message = refused(&Task { source, ..check.clone() });
        assert!(message.contains(said), "{message}");
    }
}

#[test]
fn series_take_an_array_of_zeros_and_ones_and_a_sites_own_bias() {
    let model = "family = \"rnn\"\nsteps = 4\nhidden = 8\nsummary = true\nlocal_bias = true";
    let data = "kind = \"series\"\nlabel = \"y\"\ntolerance = 0.02\n\
                columns = [{ name = \"a\", min = 0, max = 1 }, { name = \"b\", min = 0, max = 1 }]";
    let room = Room::new(&study(model, data, "local_epochs = 20"), None);
    let sets = sets(300);
    let mut generator = Generator::new("chest", b"series");
    let mut values = Vec::new();
    for set in sets.iter().flat_map(|set| [set; 4]) {
        let step = set.map(|there| 0.6 * f64::from(u8::from(there)) + 0.4 * generator.unit());
        #[expect(clippy::cast_possible_truncation, reason = "arrays are f32")]
        values.extend(step.iter().flat_map(|value| (*value as f32).to_le_bytes()));
    }
    let mut labels: Vec<u8> = sets.iter().flatten().map(|there| u8::from(*there)).collect();
    let path = room.data.join("icu.npz");
    let put = |labels: &[u8]| {
        let arrays =
            [("X", npy("<f4", "(300, 4, 2)", &values)), ("y", npy("|u1", "(300, 2)", labels))];
        put_npz(&path, &arrays);
    };
    put(&labels);
    let source = Source::new(SourceKind::Npz, path.clone());
    let task = Task { source, ..room.task(Work::Train) };
    is_learnt(&room, task.clone());
    labels[0] = 7;
    put(&labels);
    let check = Task { work: Work::Check, base: None, out: None, local_out: None, ..task };
    let found = run(&check).unwrap();
    assert_eq!(found.examples + found.holdout, 299);
    assert!(found.findings.join("\n").contains("record 0: the label \"y\" is not 0s and 1s"));
}

#[test]
fn documents_have_several_labels_too() {
    let model = "family = \"text-classifier\"\nvocabulary = 60\nembedding = 12\ntokens = 20";
    let data = "kind = \"text\"\ntext = \"letter\"\nlabel = \"findings\"\n\
                label_codes = { \"No Finding\" = \"\" }";
    let room = Room::new(&study(model, data, "local_epochs = 12"), None);
    let plain = ["the", "patient", "slept", "well", "today", "and", "stayed", "home"];
    let mut generator = Generator::new("chest", b"letters");
    let mut text = String::from("letter,findings\n");
    for set in sets(300) {
        let mut words: Vec<&str> = (0..6).map(|_| plain[generator.below(8) as usize]).collect();
        words.extend(set[0].then_some("swollen"));
        words.extend(set[1].then_some("lump"));
        text += &format!("{},{}\n", words.join(" "), written(set, "|"));
    }
    let source = csv(&room, "letters.csv", &text);
    is_learnt(&room, Task { source, ..room.task(Work::Train) });
}
