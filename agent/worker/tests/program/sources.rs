//! The same records from every kind of source, by the real program.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a fixture that cannot be made is a failed test"
)]

use std::fs;
use std::io::Cursor;
use std::path::Path;

use crate::support::{REST, Room, bytes_of, idx, put_npz, run};
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{FailureCode, Holdout, SourceKind, Task, Work};
use image::{GrayImage, ImageFormat};

/// A .npy file of bytes.
fn npy(shape: &str, elements: &[u8]) -> Vec<u8> {
    crate::support::npy("|u1", shape, elements)
}

/// Elements of an IDX file in the room.
fn elements(room: &Room, name: &str, dimensions: usize) -> Vec<u8> {
    bytes_of(&room.data.join(name)).split_off(4 + 4 * dimensions)
}

/// The task on the .npz file of the room.
fn on_npz(room: &Room, work: Work) -> Task {
    let mut task = room.task(work);
    task.source.source = SourceKind::Npz;
    task.source.path = room.data.join("tiny.npz");
    task
}

fn npz_of(room: &Room) -> Vec<(&'static str, Vec<u8>)> {
    let images = |name: &str| elements(room, name, 3);
    let labels = |name: &str| elements(room, name, 1);
    vec![
        ("train_images", npy("(320, 12, 12)", &images("train-images-idx3-ubyte"))),
        ("train_labels", npy("(320, 1)", &labels("train-labels-idx1-ubyte"))),
        ("val_images", npy("(80, 12, 12)", &images("t10k-images-idx3-ubyte"))),
        ("val_labels", npy("(80,)", &labels("t10k-labels-idx1-ubyte"))),
    ]
}

#[test]
fn an_npz_file_trains_to_the_bits_of_the_idx_files_that_it_was_made_of() {
    let room = Room::tiny("");
    put_npz(&room.data.join("tiny.npz"), &npz_of(&room));
    let by_idx = run(&room.task(Work::Train)).unwrap();
    let trained = bytes_of(&room.out());
    fs::remove_file(room.out()).unwrap();
    let by_npz = run(&on_npz(&room, Work::Train)).unwrap();
    assert_eq!(by_npz, by_idx);
    assert!(bytes_of(&room.out()) == trained, "models differ");

    let mut task = room.task(Work::Evaluate);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let by_idx = run(&task).unwrap();
    let mut task = on_npz(&room, Work::Evaluate);
    task.source.holdout = Holdout::Own(OwnTest::Val);
    assert_eq!(run(&task).unwrap(), by_idx);
}

#[test]
fn colours_beside_one_another_are_the_colours_of_planes() {
    let text = format!(
        "[study]\nname = \"colours\"\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 3, height = 5, width = 4 }}\nclasses = [\"a\", \"b\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n{REST}"
    );
    let room = Room::new(&text, None);
    let planes: Vec<u8> = (0..20 * 60_u32).map(|i| (i * i % 251) as u8).collect();
    let labels: Vec<u8> = (0..20).map(|i| i % 2).collect();
    room.put("train-images-idx3-ubyte", &idx(&[20, 3, 5, 4], &planes));
    room.put("train-labels-idx1-ubyte", &idx(&[20], &labels));
    let beside = |image: &[u8]| -> Vec<u8> {
        (0..20).flat_map(|pixel| [image[pixel], image[20 + pixel], image[40 + pixel]]).collect()
    };
    let beside: Vec<u8> = planes.chunks(60).flat_map(beside).collect();
    let by_idx = run(&room.task(Work::Evaluate)).unwrap();
    for (shape, images) in [("(20, 5, 4, 3)", &beside), ("(20, 3, 5, 4)", &planes)] {
        let arrays =
            [("train_images", npy(shape, images)), ("train_labels", npy("(20,)", &labels))];
        put_npz(&room.data.join("tiny.npz"), &arrays);
        assert_eq!(run(&on_npz(&room, Work::Evaluate)).unwrap(), by_idx, "{shape}");
    }
}

#[test]
fn an_npz_file_that_does_not_fit_the_study_is_refused() {
    let room = Room::tiny("");
    let refused = |name: &str, array: Vec<u8>| {
        let mut arrays = npz_of(&room);
        arrays.iter_mut().find(|(known, _)| *known == name).unwrap().1 = array;
        put_npz(&room.data.join("tiny.npz"), &arrays);
        let (code, message) = run(&on_npz(&room, Work::Check)).unwrap_err();
        assert_eq!(code, FailureCode::DataInvalid);
        message
    };
    let message = refused("train_labels", npy("(320,)", &[4; 320]));
    assert!(
        message.ends_with(
            "array \"train_labels\": record 0 has label 4, the study has 4 classes \
                               (labels 0 to 3)"
        ),
        "{message}"
    );
    let message = refused("train_labels", npy("(160, 2)", &[0; 320]));
    assert!(message.contains("has shape [160, 2]: one label a record"), "{message}");
    let message = refused("train_images", npy("(320, 12, 11)", &[0; 320 * 132]));
    assert!(message.contains("records of shape [12, 11]"), "{message}");
    let message = refused("train_images", npy("(319, 12, 12)", &[0; 319 * 144]));
    assert!(message.ends_with("319 train_images, its labels are 320"), "{message}");
    let mut task = on_npz(&room, Work::Check);
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let (code, message) = run(&task).unwrap_err();
    assert_eq!(code, FailureCode::DataMissing);
    assert!(message.contains("has no array \"test_labels\", it has train_images"), "{message}");
}

/// The room's training records as files, `size` pixels wide and high, and the task on them.
fn folder_of(room: &Room, size: u32, work: Work) -> Task {
    let folder = room.data.join("images");
    let labels = elements(room, "train-labels-idx1-ubyte", 1);
    let images = elements(room, "train-images-idx3-ubyte", 3);
    for (number, (label, image)) in labels.into_iter().zip(images.chunks(144)).enumerate() {
        let class = folder.join(["n", "e", "s", "w"][usize::from(label)]);
        fs::create_dir_all(&class).unwrap();
        let scale = size / 12;
        let pixel = |x, y| image::Luma([image[((y / scale) * 12 + x / scale) as usize]]);
        let (format, ending) =
            if number % 2 == 0 { (ImageFormat::Png, "png") } else { (ImageFormat::Jpeg, "JPG") };
        let mut bytes = Cursor::new(Vec::new());
        GrayImage::from_fn(size, size, pixel).write_to(&mut bytes, format).unwrap();
        crate::support::put(&class.join(format!("{number}.{ending}")), bytes.get_ref());
    }
    let mut task = room.task(work);
    task.source.source = SourceKind::ImageFolder;
    task.source.path = folder;
    task
}

#[test]
fn a_folder_of_images_of_another_size_is_learnt_from() {
    let room = Room::tiny("learning_rate = 0.01\nlocal_epochs = 6");
    let task = folder_of(&room, 24, Work::Train);
    let outcome = run(&task).unwrap();
    assert_eq!((outcome.examples, outcome.holdout), (256, 64));
    let loss = outcome.train_loss.unwrap();
    assert!(loss < 1.0, "ln 4 = 1.386 is chance: {loss}");
    let found = run(&folder_of(&room, 24, Work::Check)).unwrap();
    assert_eq!(found.findings.len(), 4, "{:?}", found.findings);
}

#[test]
fn a_folder_of_images_that_does_not_fit_the_study_is_refused() {
    let room = Room::tiny("");
    let mut task = folder_of(&room, 12, Work::Check);
    run(&task).unwrap();
    let refused = |task: &Task| {
        let (code, message) = run(task).unwrap_err();
        assert_eq!(code, FailureCode::DataInvalid);
        message
    };
    task.source.holdout = Holdout::Own(OwnTest::Test);
    let message = refused(&task);
    assert!(message.contains("this `holdout` needs a table of labels"), "{message}");
    task.source.holdout = Holdout::default();
    crate::support::put(&task.source.path.join("n/broken.png"), b"\x89PNG\r\n\x1a\n");
    let message = refused(&task);
    assert!(message.contains("1 of 321 pictures cannot be read"), "{message}");
    assert!(message.contains("n/broken.png is no readable PNG or JPEG"), "{message}");
    fs::create_dir(task.source.path.join("north")).unwrap();
    let said = "\"north\" is no class of the study, which has n, e, s, w";
    let message = refused(&task);
    assert!(message.contains(said), "{message}");
}

#[test]
fn a_picture_that_cannot_be_read_is_named_and_left_out_within_the_tolerance() {
    let text = format!(
        "[study]\nname = \"tiny\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 12, width = 12 }}\nclasses = [\"n\", \"e\", \"s\", \"w\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nkind = \"images\"\ntolerance = 0.01\n{REST}"
    );
    let room = Room::new(&text, None);
    room.put_records("train", 320);
    let task = folder_of(&room, 12, Work::Check);
    crate::support::put(&task.source.path.join("n/broken.png"), b"\x89PNG\r\n\x1a\n");
    crate::support::put(&task.source.path.join("n/notes.txt"), b"");
    let found = run(&task).unwrap();
    assert_eq!(found.examples + found.holdout, 320);
    let said = found.findings.join("\n");
    for what in ["broken.png", ": left out", "1 other files than .png, .jpg, .jpeg: passed over"] {
        assert!(said.contains(what), "{what} is missing in {said}");
    }
    let task = Task { source: task.source, ..room.task(Work::Train) };
    assert_eq!(run(&task).unwrap().examples, 256);
}

#[test]
fn pneumoniamnist_is_checked_as_it_was_published() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../../shared/data/cnn/pneumoniamnist/pneumoniamnist.npz");
    if !data.exists() {
        println!("skipped: no {}", data.display());
        return;
    }
    let text = format!(
        "[study]\nname = \"xray\"\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 28, width = 28 }}\nclasses = [\"normal\", \"pneumonia\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n{REST}"
    );
    let room = Room::new(&text, Some(data));
    let mut task = room.task(Work::Check);
    task.source.source = SourceKind::Npz;
    for (own, holdout) in [(OwnTest::Val, 524), (OwnTest::Test, 624)] {
        task.source.holdout = Holdout::Own(own);
        let outcome = run(&task).unwrap();
        assert_eq!((outcome.examples, outcome.holdout), (4708, holdout), "{:?}", outcome.findings);
        assert!(outcome.findings[1].contains("\"pneumonia\": 3494 training records"));
    }
}
