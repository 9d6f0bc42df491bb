//! Patients who do not take part: nothing of theirs is opened, what the others are there for does not change,
//! and where nobody can know who they are, nothing is read. And what is left of whose records were used.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::PermissionsExt;

use consilium_common::worker::patients::{PATIENT_KEY_BYTES, PatientHash, PatientSet};
use consilium_common::worker::source::Every;
use consilium_common::worker::{Census, FailureCode, Holdout, Source, SourceKind, Task, Work};
use image::{GrayImage, ImageFormat};

use crate::support::{REST, Room, bytes_of, npy, put, put_npz, run};

const KEY: [u8; PATIENT_KEY_BYTES] = [7; PATIENT_KEY_BYTES];
const PATIENTS: u32 = 100;
const RECORDS: u32 = 3;

fn room(patient: &str) -> Room {
    let text = format!(
        "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\nclasses = [\"well\", \"ill\"]\n\
         hidden = []\n[data]\nkind = \"table\"\nlabel = \"outcome\"\n{patient}\n\
         columns = [{{ name = \"age\", min = 0, max = 200 }}]\n\
         [training]\nlearning_rate = 0.03\n{REST}"
    );
    let room = Room::new(&text, None);
    let mut table = "pid,age,outcome\n".to_owned();
    for record in 0..PATIENTS * RECORDS {
        let outcome = if record % 5 > 2 { "ill" } else { "well" };
        writeln!(table, "{},{},{outcome}", name(record % PATIENTS), record % 90).unwrap();
    }
    room.put("ward.csv", table.as_bytes());
    put(&room.folder.path().join("key"), &KEY);
    room
}

fn name(patient: u32) -> String {
    format!("patient-{patient}")
}

/// Patients of these numbers, as a set has them.
fn hashes(patients: impl Iterator<Item = u32>) -> BTreeSet<PatientHash> {
    patients.map(|patient| PatientHash::of(&KEY, &name(patient))).collect()
}

fn on(room: &Room, work: Work, source: Source) -> Task {
    let file = |name: &str| room.folder.path().join(name);
    let census = Census { key: file("key"), used: file("used"), scored: file("scored") };
    Task { source, census: Some(census), ..room.task(work) }
}

/// Without these patients, or with all.
fn table(room: &Room, excluded: Option<&str>) -> Source {
    let exclude = excluded.map(|text| {
        room.put("optout.csv", text.as_bytes());
        room.data.join("optout.csv")
    });
    Source { exclude, ..Source::new(SourceKind::Csv, room.data.join("ward.csv")) }
}

/// Who was trained on, and who scored.
fn left(room: &Room) -> [BTreeSet<PatientHash>; 2] {
    ["used", "scored"].map(|name| {
        let path = room.folder.path().join(name);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        PatientSet::read(&bytes_of(&path)).unwrap().0
    })
}

fn out_of(excluded: &[u32]) -> String {
    excluded.iter().fold("pid\n".to_owned(), |text, patient| text + &name(*patient) + "\n")
}

const OUT: [u32; 10] = [0, 7, 13, 22, 39, 41, 58, 60, 77, 99];

#[test]
fn the_weight_falls_by_exactly_the_records_of_who_opted_out_and_nobody_changes_sides() {
    // Of a study that keeps patients together, and of one that knows none: there the site names the column.
    for (patient, own) in [("patient = \"pid\"", None), ("", Some("pid".to_owned()))] {
        let room = room(patient);
        for holdout in [Holdout::Fraction(0.2), Holdout::Every(Every { every: 4 })] {
            let source = |excluded: Option<&str>| {
                let (patient, holdout) = (own.clone(), holdout.clone());
                Source { patient, holdout, ..table(&room, excluded) }
            };
            let all = run(&on(&room, Work::Train, source(None))).unwrap();
            let [used, scored] = left(&room);
            assert_eq!(used.len() + scored.difference(&used).count(), 100);

            let mut task = on(&room, Work::Train, source(Some(&out_of(&OUT))));
            let without = run(&task).unwrap();
            let gone = hashes(OUT.into_iter());
            let rest = |set: &BTreeSet<PatientHash>| set.difference(&gone).copied().collect();
            assert_eq!(left(&room), [rest(&used), rest(&scored)], "{holdout:?}");
            let records =
                |outcome: &consilium_common::worker::Outcome| outcome.examples + outcome.holdout;
            assert_eq!(records(&all), u64::from(PATIENTS * RECORDS));
            assert_eq!(records(&without), u64::from((PATIENTS - 10) * RECORDS));
            if own.is_none() && matches!(holdout, Holdout::Fraction(_)) {
                let of = |set: &BTreeSet<PatientHash>| set.len() as u64 * u64::from(RECORDS);
                assert_eq!((all.examples, all.holdout), (of(&used), of(&scored)));
                let [used, scored] = left(&room);
                assert_eq!((without.examples, without.holdout), (of(&used), of(&scored)));
            }

            task.work = Work::Check;
            let said = run(&Task { base: None, out: None, ..task }).unwrap().findings.join("\n");
            assert!(said.contains("30 rows of 10 excluded patients were not read"), "{said}");
        }
    }
}

#[test]
fn a_record_of_nobody_is_not_read_where_somebody_is_excluded() {
    let room = room("patient = \"pid\"");
    let text = bytes_of(&room.data.join("ward.csv"));
    room.put("ward.csv", &[&text[..], b" ,50,ill\n"].concat());
    assert_eq!(run(&on(&room, Work::Check, table(&room, None))).unwrap().examples % 3, 1);
    let (code, said) = run(&on(&room, Work::Check, table(&room, Some("patient-1\n")))).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(said.contains("line 302: column \"pid\" is empty"), "{said}");
}

#[test]
fn without_a_list_that_can_be_read_or_records_that_name_patients_nothing_is_read() {
    let room = room("patient = \"pid\"");
    let refused = |source: Source| {
        for work in [Work::Check, Work::Train, Work::TrainAlone, Work::Evaluate] {
            let (code, said) = run(&on(&room, work, source.clone())).unwrap_err();
            assert_eq!(code, FailureCode::OptOutUnreadable, "{work:?}: {said}");
            assert!(!room.out().exists(), "nothing was trained");
            assert!(said.contains("optout.csv") || said.contains("`patient`"), "{said}");
        }
    };
    refused(table(&room, Some("")));
    refused(table(&room, Some("pid,why\npatient-1\n")));
    let mut source = table(&room, Some("pid\n"));
    refused(Source { patient: Some("age".to_owned()), ..source.clone() });
    source.exclude = Some(room.data.join("none/optout.csv"));
    refused(source.clone());
    source.source = SourceKind::Idx;
    refused(source.clone());
    // Reading what to predict is no part of a study.
    source.source = SourceKind::Csv;
    assert!(run(&on(&room, Work::Predict, source)).is_ok());
    let of_nobody = self::room("");
    let told = run(&on(&of_nobody, Work::Check, table(&of_nobody, Some("pid\n")))).unwrap_err();
    assert!(told.1.contains("name the column with the patient"), "{}", told.1);
}

#[test]
fn no_picture_of_who_opted_out_is_opened() {
    let text = format!(
        "[study]\nname = \"tiny\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
         input = {{ channels = 1, height = 12, width = 12 }}\nclasses = [\"n\", \"e\"]\n\
         conv = [{{ filters = 2 }}]\ndense = [4]\n[data]\nkind = \"images\"\n\
         [training]\nlearning_rate = 0.01\n{REST}"
    );
    let room = Room::new(&text, None);
    put(&room.folder.path().join("key"), &KEY);
    let mut table = "file,label,pid\n".to_owned();
    for number in 0..40_u32 {
        let mut bytes = Cursor::new(Vec::new());
        let level = if number % 2 == 0 { 10 } else { 200 };
        let pixels = GrayImage::from_pixel(12, 12, image::Luma([level]));
        pixels.write_to(&mut bytes, ImageFormat::Png).unwrap();
        room.put(&format!("{number}.png"), bytes.get_ref());
        let label = if number % 2 == 0 { "n" } else { "e" };
        writeln!(table, "{number}.png,{label},{}", name(number / 4)).unwrap();
    }
    room.put("labels.csv", table.as_bytes());
    room.put("optout.csv", b"patient-2\npatient-5\n");
    let source = Source {
        labels: Some(room.data.join("labels.csv")),
        patient: Some("pid".to_owned()),
        exclude: Some(room.data.join("optout.csv")),
        ..Source::new(SourceKind::ImageFolder, room.data.clone())
    };
    // Gone altogether: to open one would be to fail, `tolerance` being 0.
    for number in (8..12).chain(20..24) {
        fs::remove_file(room.data.join(format!("{number}.png"))).unwrap();
    }
    let outcome = run(&on(&room, Work::Train, source.clone())).unwrap();
    assert_eq!(outcome.examples + outcome.holdout, 32);
    let [used, scored] = left(&room);
    let there = hashes((0..10).filter(|patient| ![2, 5].contains(patient)));
    assert_eq!(used.union(&scored).copied().collect::<BTreeSet<_>>(), there);
    let all = Source { exclude: None, ..source };
    assert_eq!(run(&on(&room, Work::Check, all)).unwrap_err().0, FailureCode::DataInvalid);
}

#[test]
fn series_are_excluded_by_the_number_of_their_patient() {
    let text = format!(
        "[study]\nname = \"icu\"\nseed = 3\n[model]\nfamily = \"rnn\"\nsteps = 2\nhidden = 4\n\
         classes = [\"well\", \"ill\"]\n[data]\nkind = \"series\"\nlabel = \"death\"\npatient = \"stay\"\n\
         label_codes = {{ \"0\" = \"well\", \"1\" = \"ill\" }}\n\
         columns = [{{ name = \"rate\", min = 0, max = 160 }}]\n\
         [training]\nlearning_rate = 0.02\n{REST}"
    );
    let room = Room::new(&text, None);
    put(&room.folder.path().join("key"), &KEY);
    let integers = |of: fn(i64) -> i64| -> Vec<u8> {
        npy(
            "<i8",
            "(60,)",
            &(0..60).flat_map(|number| of(number).to_le_bytes()).collect::<Vec<u8>>(),
        )
    };
    let values: Vec<u8> = (0..120).flat_map(|_| 60_f32.to_le_bytes()).collect();
    let path = room.data.join("icu.npz");
    let arrays = [
        ("X", npy("<f4", "(60, 2, 1)", &values)),
        ("death", integers(|number| number % 2)),
        ("stay", integers(|number| 1000 + number / 6)),
    ];
    put_npz(&path, &arrays);
    room.put("optout.csv", b"1003\n1008\n");
    let exclude = Some(room.data.join("optout.csv"));
    let source = Source { exclude, ..Source::new(SourceKind::Npz, path) };
    let outcome = run(&on(&room, Work::Train, source)).unwrap();
    assert_eq!(outcome.examples + outcome.holdout, 48);
    let [used, scored] = left(&room);
    assert_eq!(used.len() + scored.len(), 8, "ten stays without two");
    assert!(!used.contains(&PatientHash::of(&KEY, "1003")));
}
