//! `source = "text"`: a file for each document, by sub-folders of classes or by a table of labels, is
//! what the same documents are in one table.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fs;
use std::path::PathBuf;

use crate::support::{REST, Room, bytes_of, put, run};
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::update::words::Schema;
use consilium_common::worker::source::{OwnTest, Where};
use consilium_common::worker::{
    Encoding, FailureCode, Holdout, Prediction, Source, SourceKind, Task, Work, from_line,
};

fn room(model: &str, data: &str, training: &str) -> Room {
    let text = format!(
        "[study]\nname = \"letters\"\nseed = 3\n[model]\nfamily = \"text-classifier\"\n{model}\n\
         classes = [\"well\", \"ill\"]\nvocabulary = 60\nembedding = 12\ntokens = 20\n\
         [data]\nkind = \"text\"\ntext = \"letter\"\nlabel = \"outcome\"\n{data}\n\
         [training]\nlearning_rate = 0.02\nbatch_size = 16\n{training}\n{REST}"
    );
    Room::new(&text, None)
}

/// Who coughs is ill; the other words say nothing.
fn letters(count: u32) -> Vec<(String, &'static str)> {
    let mut generator = Generator::new("letters", b"files");
    let plain =
        ["patient", "the", "gehört", "day", "Fieber", "x7", "in", "fine", "stayed", "slept"];
    let mut letter = |number: u32| {
        let mut words: Vec<&str> = (0..6).map(|_| plain[generator.below(10) as usize]).collect();
        let is_ill = generator.below(2) == 1;
        if is_ill {
            words[generator.below(6) as usize] = "hustet";
        }
        (format!("Brief {number}\n{}.\n", words.join(" ")), if is_ill { "ill" } else { "well" })
    };
    (0..count).map(&mut letter).collect()
}

fn in_table(room: &Room, letters: &[(String, &str)]) -> Source {
    let row = |(letter, label): &(String, &str)| format!("\"{letter}\",{label}\n");
    let rows: String = letters.iter().map(row).collect();
    room.put("letters.csv", format!("letter,outcome\n{rows}").as_bytes());
    Source::new(SourceKind::Csv, room.data.join("letters.csv"))
}

/// The letters as files of one folder in this encoding, and a table that names them.
fn listed(
    room: &Room,
    letters: &[(String, &str)],
    encoding: &'static encoding_rs::Encoding,
) -> Source {
    let folder = room.data.join("files");
    fs::create_dir_all(folder.join("2019")).unwrap();
    let mut table = String::from("outcome,ward,file\n");
    for (number, (letter, label)) in letters.iter().enumerate() {
        put(&folder.join(format!("2019/{number}.txt")), &encoding.encode(letter).0);
        table += &format!("{label},{},2019/{number}.txt\n", ["icu", "surgery"][number % 2]);
    }
    room.put("labels.csv", table.as_bytes());
    let labels = Some(room.data.join("labels.csv"));
    Source { labels, ..Source::new(SourceKind::Text, folder) }
}

/// The letters as files in a folder for each class.
fn in_folders(room: &Room, letters: &[(String, &str)]) -> Source {
    let folder = room.data.join("classes");
    for (number, (letter, label)) in letters.iter().enumerate() {
        fs::create_dir_all(folder.join(label)).unwrap();
        put(&folder.join(format!("{label}/{number}.txt")), letter.as_bytes());
    }
    Source::new(SourceKind::Text, folder)
}

/// A task with what its own site counts.
fn prepared(room: &Room, work: Work, source: Source) -> Task {
    let out = room.folder.path().join("counts");
    let task = Task { source, ..room.task(work) };
    let count = Task { work: Work::Prepare, base: None, local_out: None, ..task.clone() };
    run(&Task { out: Some(out.clone()), ..count }).unwrap();
    let unit = |unit: &[u8]| i64::from(i32::from_le_bytes(unit.try_into().unwrap()));
    let sums = bytes_of(&out).chunks_exact(4).map(unit).collect();
    let terms = room.study.preparation_terms().unwrap();
    let preparation = room.folder.path().join("preparation");
    put(&preparation, &Preparation { terms, sites: 1, sums }.encode());
    Task { preparation: Some(preparation), ..task }
}

fn checking(room: &Room, source: Source) -> Task {
    Task { source, ..room.task(Work::Check) }
}

fn refusal(room: &Room, source: Source) -> String {
    let (code, message) = run(&checking(room, source)).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid, "{message}");
    message
}

#[test]
fn files_that_a_table_names_train_to_the_bits_of_the_table_that_holds_them() {
    let room = room("", "", "local_epochs = 2");
    let letters = letters(60);
    run(&prepared(&room, Work::Train, in_table(&room, &letters))).unwrap();
    let trained = bytes_of(&room.out());
    for (encoding, declared) in [
        (encoding_rs::UTF_8, Encoding::Auto),
        (encoding_rs::WINDOWS_1252, Encoding::Windows1252),
        (encoding_rs::GB18030, Encoding::Gb18030),
    ] {
        let mut source = listed(&room, &letters, encoding);
        source.format.encoding = declared;
        fs::remove_file(room.out()).unwrap();
        run(&prepared(&room, Work::Train, source)).unwrap();
        assert!(bytes_of(&room.out()) == trained, "{declared:?}: models differ");
    }
}

#[test]
fn a_folder_for_each_class_is_learnt_from_and_new_files_are_predicted() {
    let room = room("", "label_codes = { \"sick\" = \"ill\" }", "local_epochs = 6");
    let source = in_folders(&room, &letters(240));
    // What the site calls a class its folder may be called.
    fs::rename(source.path.join("ill"), source.path.join("sick")).unwrap();
    let task = prepared(&room, Work::Train, source);
    let trained = run(&task).unwrap();
    assert_eq!((trained.examples, trained.holdout), (192, 48));
    let base = Some(room.out());
    let scored = Task { work: Work::Evaluate, base: base.clone(), out: None, ..task.clone() };
    let accuracy = Schema::of(&room.study).accuracy(&run(&scored).unwrap().metrics).unwrap();
    assert!(accuracy > 0.9, "{accuracy}");

    let new = room.data.join("new");
    fs::create_dir_all(new.join("ward")).unwrap();
    put(&new.join("a.txt"), b"Brief 1\npatient hustet in the day.");
    put(&new.join("b.txt"), b"bro\0ken");
    put(&new.join("ward/c.TXT"), b"Brief 2\npatient slept fine the day.");
    put(&new.join("notes.csv"), b"x");
    let ask = |path: PathBuf| {
        let source = Source::new(SourceKind::Text, path);
        let preparation = task.preparation.clone();
        let task = Task { source, base: base.clone(), preparation, ..room.task(Work::Predict) };
        run(&task).unwrap();
        let bytes = bytes_of(&room.predictions());
        let lines = bytes.split_inclusive(|byte| *byte == b'\n');
        lines.map(|line| from_line(line).unwrap()).collect::<Vec<Prediction>>()
    };
    let lines = ask(new.clone());
    let said: Vec<(&str, Option<usize>)> =
        lines.iter().map(|line| (line.id.as_str(), line.class())).collect();
    assert_eq!(said, [("a.txt", Some(1)), ("b.txt", None), ("ward/c.TXT", Some(0))]);
    assert!(lines[1].trouble.as_ref().unwrap().contains("b.txt has a zero byte"));
    // Alone in its batch it is the same up to the order of additions.
    let alone = &ask(new.join("a.txt"))[0];
    assert_eq!((alone.id.as_str(), alone.class()), ("a.txt", lines[0].class()));
    let sick = |line: &Prediction| line.outputs.as_ref().unwrap()[1];
    assert!((sick(alone) - sick(&lines[0])).abs() < 1e-5);
}

#[test]
fn files_that_cannot_be_read_are_named_and_count_against_the_tolerance() {
    let room = room("", "tolerance = 0.2", "");
    let source = in_folders(&room, &letters(40));
    let found = run(&checking(&room, source.clone())).unwrap();
    assert_eq!((found.examples + found.holdout, found.findings.len()), (40, 2));
    let place = |name: &str| source.path.join("ill").join(name);
    put(&place("empty.txt"), b" \n");
    put(&place("latin.txt"), b"Brief\nge\xf6");
    put(&place("long.txt"), &vec![b'a'; (4 << 20) + 1]);
    put(&place("zero.txt"), b"a\0b");
    put(&place("notes.doc"), b"other");
    let mut utf8 = source.clone();
    utf8.format.encoding = Encoding::Utf8;
    let found = run(&checking(&room, utf8)).unwrap();
    assert_eq!(found.examples + found.holdout, 40);
    let said = found.findings.join("\n");
    for what in [
        "ill/empty.txt: the document \"letter\" has no words: left out",
        "latin.txt is not valid UTF-8 at byte 8",
        "long.txt is longer than the 4 MiB that a document may have",
        "zero.txt has a zero byte",
        "1 other files than .txt: passed over",
    ] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
    let strict = self::room("", "", "");
    assert!(refusal(&strict, source).contains("of 44 documents cannot be read"));
}

#[test]
fn a_table_of_labels_picks_and_holds_out_and_leads_nowhere_else() {
    let room = room("", "tolerance = 0.2", "");
    let mut source = listed(&room, &letters(40), encoding_rs::UTF_8);
    let ward = |equals: &str| Where { column: "ward".to_owned(), equals: equals.to_owned() };
    source.holdout = Holdout::Where(ward("icu"));
    let found = run(&checking(&room, source.clone())).unwrap();
    assert_eq!((found.examples, found.holdout), (20, 20));
    source.only = Some(ward("surgery"));
    assert_eq!(run(&checking(&room, source.clone())).unwrap().holdout, 0);
    let labels = bytes_of(source.labels.as_ref().unwrap());
    let more = "ill,icu,2019/none.txt\nill,icu,../labels.csv\nill,icu,/etc/passwd\nill,icu,2019\n";
    room.put("labels.csv", &[&labels, more.as_bytes()].concat());
    let source = Source { only: None, holdout: Holdout::default(), ..source };
    let found = run(&checking(&room, source.clone())).unwrap();
    assert_eq!(found.examples + found.holdout, 40);
    let said = found.findings.join("\n");
    for what in [
        "line 42: ",
        "none.txt cannot be opened",
        "\"../labels.csv\" is no path within the data folder",
        "\"/etc/passwd\" is no path within",
        "2019 cannot be opened: it is no file",
    ] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
    room.put("test.csv", "file,outcome\n2019/0.txt,well\n2019/1.txt,ill\n".as_bytes());
    let holdout = Holdout::Own(OwnTest::Test);
    let test_path = Some(room.data.join("test.csv"));
    let found = run(&checking(&room, Source { holdout, test_path, ..source.clone() })).unwrap();
    assert_eq!((found.examples, found.holdout), (40, 2));
    room.put("labels.csv", b"path,outcome\n2019/0.txt,well\n");
    assert!(refusal(&room, source.clone()).contains("has no column \"file\""));
    let source = Source { path: room.data.join("nowhere"), ..source };
    assert_eq!(run(&checking(&room, source)).unwrap_err().0, FailureCode::DataMissing);
}

#[test]
fn what_a_folder_of_classes_cannot_say_is_refused() {
    let several = "objective = \"multilabel\"";
    let plain = in_folders;
    for (model, data, wants) in [
        (several, "", "`objective = \"multilabel\"` needs a table of labels"),
        ("", "patient = \"id\"", "`data.patient` needs a table"),
        ("", "[evaluation]\ngroups = [\"ward:a,b\"]", "`evaluation.groups` needs a table"),
    ] {
        let room = room(model, data, "");
        let message = refusal(&room, plain(&room, &letters(20)));
        assert!(message.contains(wants), "{message}");
    }
    let room = room("", "", "");
    let source = in_folders(&room, &letters(20));
    let by = Where { column: "ward".to_owned(), equals: "icu".to_owned() };
    let only = Source { only: Some(by.clone()), ..source.clone() };
    assert!(refusal(&room, only).contains("`only` needs a table"));
    let held = Source { holdout: Holdout::Where(by), ..source.clone() };
    assert!(refusal(&room, held).contains("this `holdout` needs a table"));
    fs::create_dir(source.path.join("dead")).unwrap();
    let said = "the sub-folder \"dead\" is no class of the study, which has well, ill";
    assert!(refusal(&room, source.clone()).contains(said));
    let table = Room::new(
        &format!(
            "[study]\nname = \"ward\"\n[model]\nfamily = \"tabular\"\nclasses = [\"a\", \"b\"]\n[data]\n\
             kind = \"table\"\ncolumns = [{{ name = \"x\", min = 0, max = 1 }}]\n{REST}"
        ),
        None,
    );
    assert!(refusal(&table, source).contains("the tabular family reads tables, not text"));
}

#[test]
fn several_labels_of_a_document_stand_in_the_table() {
    let room = room("objective = \"multilabel\"", "", "");
    let letters: Vec<(String, &str)> = letters(30)
        .into_iter()
        .zip(["", "ill", "well|ill"].iter().cycle())
        .map(|((letter, _), labels)| (letter, *labels))
        .collect();
    let found = run(&checking(&room, listed(&room, &letters, encoding_rs::UTF_8))).unwrap();
    assert!(found.findings.iter().any(|line| line.starts_with("none of the classes")));
    assert_eq!(found.examples + found.holdout, 30);
}
