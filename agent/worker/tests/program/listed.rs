//! Pictures that a table of labels lists are what the same pictures are in one file.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fmt::Write as _;
use std::fs;
use std::io::Cursor;

use crate::support::{REST, Room, bytes_of, put, run};
use consilium_common::update::words::Schema;
use consilium_common::worker::source::{OwnTest, Where};
use consilium_common::worker::{FailureCode, Holdout, Source, SourceKind, Task, Work};
use image::{GrayImage, ImageFormat};

const CLASSES: [&str; 4] = ["n", "e", "s", "w"];

/// The room's records of `files` as PNG files, in folders that say nothing, and the table that lists them.
fn listed(room: &Room, files: &str) -> String {
    let elements = |name: String, head: usize| bytes_of(&room.data.join(name)).split_off(head);
    let labels = elements(format!("{files}-labels-idx1-ubyte"), 8);
    let images = elements(format!("{files}-images-idx3-ubyte"), 16);
    let mut table = "patient,ward,file,label\n".to_owned();
    for (number, (label, image)) in labels.into_iter().zip(images.chunks(144)).enumerate() {
        let file = format!("{files}/{}/{number}.png", number % 3);
        let pixel = |x, y| image::Luma([image[(y * 12 + x) as usize]]);
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::from_fn(12, 12, pixel).write_to(&mut bytes, ImageFormat::Png).unwrap();
        let path = room.data.join("pictures").join(&file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, bytes.get_ref());
        let (patient, ward) = (number / 10, ["icu", "surgery"][number % 2]);
        writeln!(table, "{patient},{ward},{file},{}", CLASSES[usize::from(label)]).unwrap();
    }
    room.put(&format!("{files}.csv"), table.as_bytes());
    table
}

fn source(room: &Room) -> Source {
    let labels = Some(room.data.join("train.csv"));
    Source { labels, ..Source::new(SourceKind::ImageFolder, room.data.join("pictures")) }
}

fn on(room: &Room, work: Work, source: Source) -> Task {
    Task { source, ..room.task(work) }
}

#[test]
fn pictures_that_a_table_lists_train_to_the_bits_of_the_file_that_holds_them() {
    let room = Room::tiny("learning_rate = 0.01\nlocal_epochs = 2");
    let mut task = room.task(Work::Train);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let of_file = run(&task).unwrap();
    let trained = bytes_of(&room.out());
    fs::remove_file(room.out()).unwrap();
    listed(&room, "train");
    listed(&room, "t10k");
    let test_path = Some(room.data.join("t10k.csv"));
    let source = Source { test_path, holdout: task.source.holdout, ..source(&room) };
    let of_table = run(&on(&room, Work::Train, source)).unwrap();
    assert_eq!((of_table.examples, of_table.holdout), (of_file.examples, of_file.holdout));
    assert!(bytes_of(&room.out()) == trained, "models differ");
}

#[test]
fn a_table_of_pictures_picks_and_holds_out_and_leads_nowhere_else() {
    let text = |data: &str| {
        format!(
            "[study]\nname = \"tiny\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
             input = {{ channels = 1, height = 12, width = 12 }}\nclasses = [\"n\", \"e\", \"s\", \"w\"]\n\
             conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nkind = \"images\"\n{data}\n{REST}"
        )
    };
    let room = Room::new(&text("tolerance = 0.2\npatient = \"patient\""), None);
    room.put_records("train", 80);
    let table = listed(&room, "train");
    let ward = |equals: &str| Where { column: "ward".to_owned(), equals: equals.to_owned() };
    let check = |source: Source| run(&on(&room, Work::Check, source));
    let source = source(&room);
    // 8 patients of 10 pictures each: of pictures a fifth would be 16, patients are held out whole.
    let found = check(Source { holdout: Holdout::Fraction(0.2), ..source.clone() }).unwrap();
    assert_eq!((found.examples % 10, found.examples + found.holdout), (0, 80));
    assert!(found.holdout > 0, "some are held out");
    let only = Some(ward("surgery"));
    let found = check(Source { only, holdout: Holdout::Fraction(0.0), ..source.clone() }).unwrap();
    assert_eq!((found.examples, found.holdout), (40, 0));

    put(&room.data.join("pictures/broken.png"), b"\x89PNG\r\n\x1a\n");
    let more = "90,icu,none.png,n\n91,icu,../train.csv,n\n92,icu,train,n\n93,icu,broken.png,n\n\
                94,icu,train/0/0.png,north\n";
    room.put("train.csv", format!("{table}{more}").as_bytes());
    let found = check(source.clone()).unwrap();
    assert_eq!(found.examples + found.holdout, 80);
    let said = found.findings.join("\n");
    for what in [
        "line 82: ",
        "none.png cannot be opened",
        "\"../train.csv\" is no path within the data folder",
        "train cannot be opened: it is no file",
        "broken.png is no readable PNG or JPEG",
        "the label \"label\" is none of the classes",
    ] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
    let (code, message) = check(Source { labels: None, ..source }).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("`data.patient` needs a table of labels"), "{message}");
}

#[test]
fn the_groups_of_a_table_of_pictures_are_scored_apart() {
    let text = format!(
        "[study]\nname = \"tiny\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 12, width = 12 }}\nclasses = [\"n\", \"e\", \"s\", \"w\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nkind = \"images\"\n{REST}\
         [evaluation]\ngroups = [\"ward:icu,surgery\"]\n"
    );
    let room = Room::new(&text, None);
    room.put_records("train", 200);
    listed(&room, "train");
    let schema = Schema::of(&room.study);
    let source = Source { holdout: Holdout::Fraction(0.5), ..source(&room) };
    let whole = run(&on(&room, Work::Evaluate, source.clone())).unwrap();
    let [icu, surgery] = [0, 1].map(|at| schema.group_rows(&whole.metrics)[at].records);
    assert_eq!(icu + surgery, whole.holdout);
    assert!(icu > 0 && surgery > 0, "{icu} and {surgery}");
    let unlisted =
        Source { source: SourceKind::Idx, path: room.data.clone(), labels: None, ..source };
    let (code, message) = run(&on(&room, Work::Evaluate, unlisted)).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("`evaluation.groups` needs an image-folder"), "{message}");
}

#[test]
fn pictures_of_several_findings_each_come_from_a_table() {
    let room = Room::new(
        &format!(
            "[study]\nname = \"tiny\"\nseed = 3\n[model]\nfamily = \"cnn\"\nobjective = \"multilabel\"\n\
             input = {{ channels = 1, height = 12, width = 12 }}\nclasses = [\"n\", \"e\", \"s\", \"w\"]\n\
             conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nkind = \"images\"\n{REST}"
        ),
        None,
    );
    room.put_records("train", 40);
    let table = listed(&room, "train").replace(",n\n", ",n|e\n").replace(",w\n", ",\n");
    room.put("train.csv", table.as_bytes());
    let mut source = source(&room);
    source.format.label_separator = '|';
    source.holdout = Holdout::Fraction(0.0);
    let found = run(&on(&room, Work::Check, source.clone())).unwrap();
    let count = |ends: &[&str]| {
        table.lines().skip(1).filter(|line| ends.iter().any(|end| line.ends_with(end))).count()
    };
    let both = format!("class \"e\": {} training records", count(&["|e", ",e"]));
    let none = format!("none of the classes: {} training records", count(&[","]));
    for what in [both, none] {
        assert!(found.findings.iter().any(|line| line.contains(&what)), "{what}: {found:?}");
    }
    assert_eq!(run(&on(&room, Work::Train, source)).unwrap().examples, 40);
}
