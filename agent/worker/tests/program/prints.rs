//! The prints of a source's files: which files there are, and what is no change.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::fs;

use consilium_common::worker::patients::PATIENT_KEY_BYTES;
use consilium_common::worker::prints::{Difference, Prints};
use consilium_common::worker::{Census, Source, SourceKind, Task, Work};

use crate::support::{Room, bytes_of, put, run};

fn prints(room: &Room, source: Source) -> Prints {
    let file = |name: &str| room.folder.path().join(name);
    put(&file("key"), &[7; PATIENT_KEY_BYTES]);
    let census = Census { key: file("key"), used: file("used"), scored: file("scored") };
    let out = Some(file("prints"));
    let task = Task { source, out, base: None, census: Some(census), ..room.task(Work::Pin) };
    let found = run(&task).unwrap();
    let prints = Prints::read(&bytes_of(&file("prints"))).unwrap();
    assert_eq!(found.examples, prints.0.len() as u64);
    prints
}

#[test]
fn each_file_has_a_print_and_those_of_who_opted_out_are_not_opened() {
    let room = Room::tiny("learning_rate = 0.01");
    let idx = Source::new(SourceKind::Idx, room.data.clone());
    let before = prints(&room, idx.clone());
    assert_eq!(before.0.len(), 4);
    room.put("t10k-labels-idx1-ubyte", b"other");
    room.put("more", b"new");
    let difference = before.difference(&prints(&room, idx));
    assert_eq!(difference, Difference { changed: 1, added: 1, missing: 0 });

    let folder = room.data.join("films");
    for class in ["n", "e"] {
        fs::create_dir_all(folder.join(class)).unwrap();
        put(&folder.join(class).join("1.png"), class.as_bytes());
    }
    let classes = Source::new(SourceKind::ImageFolder, folder.clone());
    assert_eq!(prints(&room, classes.clone()).0.len(), 2);
    room.put("films.csv", b"file,label,pid\nn/1.png,n,1\ne/1.png,e,2\ne/none.png,e,3\n");
    room.put("optout.csv", b"pid\n");
    let listed = Source {
        labels: Some(room.data.join("films.csv")),
        patient: Some("pid".to_owned()),
        exclude: Some(room.data.join("optout.csv")),
        ..classes
    };
    let before = prints(&room, listed.clone());
    assert_eq!(before.0.len(), 4, "the table and what it lists");
    room.put("optout.csv", b"pid\n2\n");
    fs::remove_file(folder.join("e/1.png")).unwrap();
    let after = prints(&room, listed.clone());
    assert!(before.difference(&after).is_none(), "an opt-out is no change");
    room.put("optout.csv", b"pid\n");
    let difference = before.difference(&prints(&room, listed));
    assert_eq!(
        difference,
        Difference { changed: 1, added: 0, missing: 0 },
        "it cannot be read now"
    );
}
