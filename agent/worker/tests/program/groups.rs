//! `[evaluation] groups`: a group's sums are those of scoring its records alone, to the last unit, and
//! groups in which people could be singled out are empty.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use crate::support::{REST, Room, bytes_of, npy, put, put_npz, run};
use consilium_common::random::Generator;
use consilium_common::study::Preparation;
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::worker::source::{OfUser, Where};
use consilium_common::worker::{FailureCode, Holdout, Source, SourceKind, Task, Work};

fn ward(evaluation: &str, data: &str) -> Room {
    let text = format!(
        "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\n\
         classes = [\"well\", \"ill\"]\nhidden = [4]\n\
         [data]\nkind = \"table\"\nlabel = \"outcome\"\n{data}\n\
         columns = [{{ name = \"age\", min = 0, max = 100 }}, \
         {{ name = \"sex\", values = [\"F\", \"M\"], codes = {{ \"2\" = \"F\" }} }}]\n\
         {REST}[evaluation]\n{evaluation}\n"
    );
    Room::new(&text, None)
}

/// Rows of which those of `test` are held out; a record of patient n − n % 3 each.
fn rows(count: u32) -> String {
    let mut generator = Generator::new("ward", b"groups");
    let mut text = String::from("id,age,sex,ward,outcome,split\n");
    for row in 0..count {
        let (age, sex) = (generator.below(100), ["2", "M"][generator.below(2) as usize]);
        let ward = ["icu", "surgery", "", "icu"][generator.below(4) as usize];
        let outcome = if age > 50 { "ill" } else { "well" };
        let split = if row % 2 == 0 { "test" } else { "train" };
        text += &format!("{},{age},{sex},{ward},{outcome},{split}\n", row - row % 3);
    }
    text
}

fn by(column: &str, equals: &str) -> Where {
    Where { column: column.to_owned(), equals: equals.to_owned() }
}

/// The task of scoring v0 on these rows.
fn scoring(room: &Room, text: &str) -> Task {
    room.put("ward.csv", text.as_bytes());
    let holdout = Holdout::Where(by("split", "test"));
    let source = Source::new(SourceKind::Csv, room.data.join("ward.csv"));
    Task { source: Source { holdout, ..source }, ..room.task(Work::Evaluate) }
}

/// The sums of the whole hold-out where only records with this value are the site's.
fn alone(task: &Task, schema: &Schema, pick: Where) -> Vec<u64> {
    let source = Source { only: Some(pick), ..task.source.clone() };
    let metrics = run(&Task { source, ..task.clone() }).unwrap().metrics;
    metrics.0[..schema.sums_each()].to_vec()
}

fn travels(schema: &Schema, metrics: &Metrics) {
    let words = Words { weight: 1, clipped: 0, metrics: metrics.clone() };
    assert_eq!(schema.decode(&schema.encode(&words)).unwrap(), words);
}

#[test]
fn a_groups_sums_are_those_of_its_records_alone() {
    let evaluation = "metric = \"auc\"\ngroups = [\"sex\", \"ward:icu,surgery\", \"age:30,60.5\"]";
    let room = ward(evaluation, "");
    // More than a batch of hold-out records, so that a group lies across two.
    let task = scoring(&room, &rows(1400));
    let outcome = run(&task).unwrap();
    let schema = Schema::of(&room.study);
    assert_eq!((outcome.holdout, outcome.metrics.0.len()), (700, schema.names().len()));
    travels(&schema, &outcome.metrics);
    let group = |at: usize| schema.of_group(&outcome.metrics, at).0;
    assert_eq!(group(0), alone(&task, &schema, by("sex", "2")));
    assert_eq!(group(1), alone(&task, &schema, by("sex", "M")));
    assert_eq!(group(2), alone(&task, &schema, by("ward", "icu")));
    assert_eq!(group(3), alone(&task, &schema, by("ward", "surgery")));
    let total = |at: usize| schema.group_rows(&outcome.metrics)[at].records;
    assert_eq!(total(0) + total(1), 700);
    assert_eq!(total(4) + total(5) + total(6), 700);
    assert!(total(2) + total(3) < 600, "a row without a ward is in neither");
}

#[test]
fn groups_of_few_patients_are_empty_and_check_says_so() {
    let evaluation = "groups = [\"sex\"]";
    for (data, told) in [("", true), ("patient = \"id\"", false)] {
        let room = ward(evaluation, data);
        // 12 hold-out records of 8 patients.
        let text: String = rows(25).lines().map(|line| format!("{line}\n")).collect();
        let text = text.replace(",2,", ",M,");
        let task = scoring(&room, &text);
        let metrics = run(&task).unwrap().metrics;
        let schema = Schema::of(&room.study);
        travels(&schema, &metrics);
        let records = |at: usize| schema.group_rows(&metrics)[at].records;
        let men = if told { schema.get(&metrics, "total").unwrap() } else { 0 };
        assert_eq!((records(0), records(1)), (0, men), "{data}");
        let check = Task { work: Work::Check, base: None, ..task };
        let findings = run(&check).unwrap().findings.join("\n");
        assert!(findings.contains("group sex \"F\": 0 held out: not told apart"), "{findings}");
    }
}

#[test]
fn a_table_without_the_column_is_refused() {
    let room = ward("groups = [\"race:a,b\"]", "");
    let (code, message) = run(&scoring(&room, &rows(40))).unwrap_err();
    assert_eq!(code, FailureCode::DataInvalid);
    assert!(message.contains("no column \"race\""), "{message}");
}

#[test]
fn groups_of_series_come_from_arrays_beside_them() {
    let text = format!(
        "[study]\nname = \"icu\"\nseed = 3\n[model]\nfamily = \"rnn\"\nsteps = 2\nhidden = 4\n\
         classes = [\"0\", \"1\"]\n[data]\nkind = \"series\"\nlabel = \"ill\"\n\
         columns = [{{ name = \"rate\", min = 0, max = 1 }}]\n\
         {REST}[evaluation]\ngroups = [\"sex:F=0,M=1\", \"age:64.5\"]\n"
    );
    let room = Room::new(&text, None);
    let values: Vec<u8> = (0..240_u8).flat_map(|i| (f32::from(i) / 240.0).to_le_bytes()).collect();
    let integers = |of: fn(i64) -> i64| -> Vec<u8> {
        let bytes: Vec<u8> = (0..120).flat_map(|i| of(i).to_le_bytes()).collect();
        npy("<i8", "(120,)", &bytes)
    };
    let ages: Vec<u8> = (0..120_u8).flat_map(|i| f32::from(i).to_le_bytes()).collect();
    let arrays = [
        ("X", npy("<f4", "(120, 2, 1)", &values)),
        ("ill", integers(|i| i % 2)),
        ("sex", integers(|i| i / 3 % 2)),
        ("age", npy("<f4", "(120,)", &ages)),
        ("split", integers(|i| i % 2)),
    ];
    put_npz(&room.data.join("icu.npz"), &arrays);
    let holdout = Holdout::Where(by("split", "1"));
    let source = Source::new(SourceKind::Npz, room.data.join("icu.npz"));
    let task = Task { source: Source { holdout, ..source }, ..room.task(Work::Evaluate) };
    let schema = Schema::of(&room.study);
    let metrics = run(&task).unwrap().metrics;
    travels(&schema, &metrics);
    for (at, code) in [(0, "0"), (1, "1")] {
        assert_eq!(schema.of_group(&metrics, at).0, alone(&task, &schema, by("sex", code)));
    }
    let records = |at: usize| schema.group_rows(&metrics)[at].records;
    assert_eq!((records(2), records(3)), (32, 28), "below 64.5, and from it on");
}

#[test]
fn choices_are_scored_apart_in_the_order_in_which_they_are_ranked() {
    let text = format!(
        "[study]\nname = \"films\"\nseed = 3\n[model]\nfamily = \"recommender\"\nitems = 150\n\
         factors = 4\nobjective = \"rank\"\n[data]\nkind = \"ratings\"\nmin_site_support = 1\n\
         {REST}[evaluation]\nmetric = \"ndcg\"\ngroups = [\"ward:a,b\"]\n"
    );
    let room = Room::new(&text, None);
    let mut rows = String::from("user,item,time,ward\n");
    for time in 0..10_u32 {
        for user in 0..40_u32 {
            let item = (user * 7 + time * 13) % 130;
            let ward = if user % 3 == 0 { "a" } else { "b" };
            rows += &format!("u{user},film {item},{time},{ward}\n");
        }
    }
    room.put("films.csv", rows.as_bytes());
    let holdout = Holdout::OfUser(OfUser::Last);
    let source = Source::new(SourceKind::Csv, room.data.join("films.csv"));
    let task = Task { source: Source { holdout, ..source }, ..room.task(Work::Evaluate) };
    let [counts, preparation] = ["counts", "preparation"].map(|name| room.folder.path().join(name));
    let out = Some(counts.clone());
    run(&Task { work: Work::Prepare, base: None, out, ..task.clone() }).unwrap();
    let sum = |unit: &[u8]| i64::from(i32::from_le_bytes(unit.try_into().unwrap()));
    let sums = bytes_of(&counts).chunks_exact(4).map(sum).collect();
    let terms = room.study.preparation_terms().unwrap();
    put(&preparation, &Preparation { terms, sites: 1, sums }.encode());
    let task = Task { preparation: Some(preparation), ..task };
    let schema = Schema::of(&room.study);
    let metrics = run(&task).unwrap().metrics;
    travels(&schema, &metrics);
    let total = schema.get(&metrics, "total").unwrap();
    assert_eq!(total, 40, "one choice of each user");
    for (at, ward) in [(0, "a"), (1, "b")] {
        assert_eq!(schema.of_group(&metrics, at).0, alone(&task, &schema, by("ward", ward)));
    }
}
