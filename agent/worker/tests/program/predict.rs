//! `predict`: what a version says of records without labels is what it is scored by, record by record;
//! what cannot be read keeps its place and says why.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Cursor;

use crate::support::{REST, Room, bytes_of, npy, put, put_npz, run};
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::worker::source::{Every, OwnTest};
use consilium_common::worker::{
    FailureCode, Holdout, Prediction, Source, SourceKind, Task, Work, from_line,
};
use image::{GrayImage, ImageFormat};

fn ward(model: &str, data: &str) -> Room {
    let metric = if model.contains("regress") { "rmse" } else { "accuracy" };
    let text = format!(
        "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\n{model}\n\
         [data]\nkind = \"table\"\nlabel = \"outcome\"\n{data}\n\
         columns = [{{ name = \"age\", min = 0, max = 100 }}, \
         {{ name = \"sex\", values = [\"f\", \"m\"], missing = \"drop\" }}]\n\
         [training]\nlearning_rate = 0.05\nlocal_epochs = 10\n{REST}\
         [evaluation]\nmetric = \"{metric}\"\n"
    );
    Room::new(&text, None)
}

/// Age and sex; old men are ill.
fn people(count: u32) -> Vec<(u32, &'static str, &'static str)> {
    let mut generator = Generator::new("ward", b"predict");
    let mut person = |_| {
        let (age, sex) = (generator.below(100), generator.below(2));
        let ill = age + 40 * sex > 80;
        (age, ["f", "m"][sex as usize], if ill { "ill" } else { "well" })
    };
    (0..count).map(&mut person).collect()
}

fn labelled(people: &[(u32, &str, &str)]) -> String {
    let row = |(age, sex, outcome): &(u32, &str, &str)| format!("{age},{sex},{outcome}\n");
    format!("age,sex,outcome\n{}", people.iter().map(row).collect::<String>())
}

fn csv(room: &Room, name: &str, text: &str) -> Source {
    room.put(name, text.as_bytes());
    Source::new(SourceKind::Csv, room.data.join(name))
}

/// What the trained model of the room says of the source, and how many records were read.
fn said(room: &Room, source: Source, like: &Task) -> (Vec<Prediction>, u64) {
    let task = Task { source, base: Some(room.out()), ..room.task(Work::Predict) };
    let task = Task { preparation: like.preparation.clone(), local: like.local.clone(), ..task };
    let outcome = run(&task).unwrap();
    let bytes = bytes_of(&room.predictions());
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    (lines.map(|line| from_line(line).unwrap()).collect(), outcome.examples)
}

/// Metric sums of the room's trained model on records that are all held out.
fn scored(room: &Room, source: Source, like: &Task) -> Vec<u64> {
    let task = Task { source, base: Some(room.out()), ..room.task(Work::Evaluate) };
    let task = Task { preparation: like.preparation.clone(), local: like.local.clone(), ..task };
    run(&task).unwrap().metrics.0
}

#[test]
fn a_tables_rows_are_said_to_be_what_they_are_scored_as() {
    let room = ward("classes = [\"well\", \"ill\"]\nhidden = [4]", "");
    let people = people(700);
    let (train, test) = people.split_at(100);
    let train = csv(&room, "train.csv", &labelled(train));
    let task = Task { source: train.clone(), ..room.task(Work::Train) };
    run(&task).unwrap();
    // Another order of columns, no label, and a column that nobody asked for.
    let mut text = String::from("sex,note,age\n");
    test.iter().for_each(|(age, sex, _)| writeln!(text, "{sex},x,{age}").unwrap());
    let (lines, read) = said(&room, csv(&room, "new.csv", &text), &task);
    assert_eq!((lines.len(), read), (600, 600));
    let right = |(line, (_, _, outcome)): &(&Prediction, &(u32, &str, &str))| {
        let sum: f64 = line.outputs.as_ref().unwrap().iter().sum();
        assert!((sum - 1.0).abs() < 1e-9, "{line:?}");
        ["well", "ill"][line.class().unwrap()] == *outcome
    };
    let right = lines.iter().zip(test).filter(right).count();
    let test = csv(&room, "test.csv", &labelled(test));
    let holdout = Holdout::Own(OwnTest::Test);
    let evaluated = Source { test_path: Some(test.path), holdout, ..train };
    let sums = scored(&room, evaluated, &task);
    assert_eq!(sums[..2], [right as u64, 600]);
    assert!(right > 500, "{right}");
    assert_eq!([lines[0].id.as_str(), lines[599].id.as_str()], ["1", "600"]);
}

#[test]
fn rows_that_cannot_be_read_keep_their_place_and_say_why() {
    let room = ward("classes = [\"well\", \"ill\"]", "");
    let train = csv(&room, "train.csv", &labelled(&people(50)));
    let task = Task { source: train, ..room.task(Work::Train) };
    run(&task).unwrap();
    let new = csv(&room, "new.csv", "age,sex\n30,f\nold,m\n999,m\n40,\n50,m\n");
    let (lines, read) = said(&room, new, &task);
    let troubles: Vec<&str> =
        lines.iter().map(|line| line.trouble.as_deref().unwrap_or("")).collect();
    assert_eq!((lines.len(), read), (5, 2));
    assert!(troubles[1].contains("line 3") && troubles[1].contains("no number"), "{troubles:?}");
    assert!(troubles[2].contains("outside") && troubles[3].contains("leaves"), "{troubles:?}");
    let there: Vec<bool> = lines.iter().map(|line| line.outputs.is_some()).collect();
    assert_eq!(there, [true, false, false, false, true]);
    let (lines, read) = said(&room, csv(&room, "bad.csv", "age,sex\nold,f\n"), &task);
    assert_eq!((lines.len(), read), (1, 0), "a file of which nothing can be read");
    let none = csv(&room, "none.csv", "sex\nf\n");
    let task = Task { source: none, base: Some(room.out()), ..room.task(Work::Predict) };
    let (code, message) = run(&task).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("no column \"age\""), "{message}");
}

#[test]
fn a_number_is_said_in_units_of_its_label_and_standardised_as_it_was_trained() {
    let room = ward("objective = \"regress\"", "normalize = \"federated\"");
    let rows: String = (0..200).map(|i| format!("{},f,{}\n", i % 100, i % 100)).collect();
    let train = csv(&room, "train.csv", &format!("age,sex,outcome\n{rows}"));
    let like = counted(&room, Task { source: train, ..room.task(Work::Train) });
    run(&Task { round: 1, ..like.clone() }).unwrap();
    let (lines, _) = said(&room, csv(&room, "new.csv", "age,sex\n0,f\n99,f\n"), &like);
    let value = |line: &Prediction| line.outputs.as_ref().unwrap()[0];
    assert!(value(&lines[1]) > value(&lines[0]) + 1.0, "{lines:?}");
    let task = Task { preparation: None, ..room.task(Work::Predict) };
    let (code, message) = run(&task).unwrap_err();
    assert_eq!(code, FailureCode::ModelMismatch);
    assert!(message.contains("preparation"), "{message}");
}

/// The task with what its own site counts.
fn counted(room: &Room, task: Task) -> Task {
    let out = room.folder.path().join("counts");
    let prepare = Task { work: Work::Prepare, base: None, local_out: None, ..task.clone() };
    run(&Task { out: Some(out.clone()), ..prepare }).unwrap();
    let sum = |unit: &[u8]| i64::from(i32::from_le_bytes(unit.try_into().unwrap()));
    let sums = bytes_of(&out).chunks_exact(4).map(sum).collect();
    let terms = room.study.preparation_terms().unwrap();
    let preparation = room.folder.path().join("preparation");
    put(&preparation, &Preparation { terms, sites: 1, sums }.encode());
    Task { preparation: Some(preparation), ..task }
}

#[test]
fn documents_are_said_to_be_what_they_are_scored_as() {
    let text = format!(
        "[study]\nname = \"letters\"\nseed = 3\n[model]\nfamily = \"text-classifier\"\n\
         classes = [\"well\", \"ill\"]\nvocabulary = 20\nembedding = 6\ntokens = 20\n\
         encoder = \"mean\"\n[data]\nkind = \"text\"\ntext = \"letter\"\nlabel = \"outcome\"\n\
         [training]\nlearning_rate = 0.05\nlocal_epochs = 8\n{REST}"
    );
    let room = Room::new(&text, None);
    let document = |i: u32| ["slept well", "coughs a lot", "ate", "coughs, ate"][i as usize % 4];
    let label = |i: u32| ["well", "ill"][i as usize % 2];
    let rows: String = (0..80).map(|i| format!("\"{}\",{}\n", document(i), label(i))).collect();
    let train = csv(&room, "letters.csv", &format!("letter,outcome\n{rows}"));
    let like = counted(&room, Task { source: train, ..room.task(Work::Train) });
    run(&like).unwrap();
    let new = csv(&room, "new.csv", "letter\nslept\n\"\"\ncoughs\n");
    let (lines, read) = said(&room, new, &like);
    assert_eq!((lines.len(), read), (3, 2));
    assert!(lines[1].trouble.as_ref().unwrap().contains("no words"), "{lines:?}");
    assert_eq!((lines[0].class(), lines[2].class()), (Some(0), Some(1)));
}

#[test]
fn pictures_of_a_folder_are_called_by_their_paths_and_a_torn_one_stands_alone() {
    let room = Room::tiny("learning_rate = 0.01\nlocal_epochs = 8");
    let task = room.task(Work::Train);
    run(&task).unwrap();
    let pixels = bytes_of(&room.data.join("t10k-images-idx3-ubyte")).split_off(16);
    let labels = bytes_of(&room.data.join("t10k-labels-idx1-ubyte")).split_off(8);
    let folder = room.folder.path().join("pictures");
    fs::create_dir_all(folder.join("b")).unwrap();
    let png = |record: usize| {
        let pixels = pixels[record * 144..(record + 1) * 144].to_vec();
        let mut bytes = Cursor::new(Vec::new());
        let image = GrayImage::from_raw(12, 12, pixels).unwrap();
        image.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    };
    for record in 0..80 {
        put(&folder.join("b").join(format!("{record:02}.png")), &png(record));
    }
    put(&folder.join("a.png"), &png(0)[..40]);
    put(&folder.join("notes.txt"), b"no picture");
    let (lines, read) = said(&room, Source::new(SourceKind::ImageFolder, folder.clone()), &task);
    assert_eq!((lines.len(), read), (81, 80));
    assert_eq!((lines[0].id.as_str(), lines[1].id.as_str()), ("a.png", "b/00.png"));
    assert!(lines[0].trouble.as_ref().unwrap().contains("a.png"), "{:?}", lines[0]);
    let right = |(line, label): &(&Prediction, &u8)| line.class() == Some(usize::from(**label));
    let right = lines[1..].iter().zip(&labels).filter(right).count();
    let test = Source { holdout: Holdout::Own(OwnTest::Test), ..task.source.clone() };
    assert_eq!(scored(&room, test, &task)[..2], [right as u64, 80]);
    assert!(right > 60, "{right} of 80");

    let (one, _) =
        said(&room, Source::new(SourceKind::ImageFolder, folder.join("b/07.png")), &task);
    assert_eq!((one.len(), &*one[0].id), (1, "07.png"));
    // A batch of another size adds up in another order.
    let both = one[0].outputs.iter().flatten().zip(lines[8].outputs.iter().flatten());
    assert!(both.clone().count() == 4 && both.clone().all(|(a, b)| (a - b).abs() < 1e-5));
    let arrays = [("images", npy("|u1", "(80, 12, 12)", &pixels))];
    put_npz(&room.data.join("new.npz"), &arrays);
    let (array, _) = said(&room, Source::new(SourceKind::Npz, room.data.join("new.npz")), &task);
    let outputs = |lines: &[Prediction]| -> Vec<Option<Vec<f64>>> {
        lines.iter().map(|line| line.outputs.clone()).collect()
    };
    assert_eq!(outputs(&array), outputs(&lines[1..]));
}

#[test]
fn series_are_said_to_be_what_they_are_scored_as_with_what_the_site_kept() {
    let text = format!(
        "[study]\nname = \"icu\"\nseed = 3\n[model]\nfamily = \"rnn\"\nsteps = 2\nhidden = 4\n\
         classes = [\"0\", \"1\"]\nlocal_bias = true\n[data]\nkind = \"series\"\nlabel = \"ill\"\n\
         columns = [{{ name = \"rate\", min = 0, max = 1 }}]\n\
         [training]\nlearning_rate = 0.05\nlocal_epochs = 8\n{REST}"
    );
    let room = Room::new(&text, None);
    let rises = |i: u32| i.is_multiple_of(3);
    let step = |i: u32| [0.5, if rises(i) { 0.9 } else { f32::NAN }];
    let values: Vec<u8> = (0..90).flat_map(step).flat_map(f32::to_le_bytes).collect();
    let labels: Vec<u8> = (0..90).flat_map(|i| i64::from(rises(i)).to_le_bytes()).collect();
    let values = npy("<f4", "(90, 2, 1)", &values);
    let with_labels = [("X", values.clone()), ("ill", npy("<i8", "(90,)", &labels))];
    put_npz(&room.data.join("icu.npz"), &with_labels);
    put_npz(&room.data.join("new.npz"), &[("X", values)]);
    let source = Source::new(SourceKind::Npz, room.data.join("icu.npz"));
    let task = Task { source: source.clone(), ..room.task(Work::Train) };
    run(&task).unwrap();
    let like = Task { local: task.local_out.clone(), ..task };
    let new = Source::new(SourceKind::Npz, room.data.join("new.npz"));
    let (lines, read) = said(&room, new.clone(), &like);
    assert_eq!((lines.len(), read), (90, 90));
    let right = |i: &u32| lines[*i as usize].class() == Some(usize::from(rises(*i)));
    let held = (0..90).step_by(2).filter(right).count() as u64;
    let holdout = Holdout::Every(Every { every: 2 });
    assert_eq!(scored(&room, Source { holdout, ..source }, &like)[..2], [held, 45]);
    let (without, _) = said(&room, new, &Task { local: None, ..like });
    assert_ne!(without[0].outputs, lines[0].outputs, "the site's own bias counts");
}
