//! The coordinator's log: records, files as they are and as a killed process leaves them, and the
//! signed checkpoint beside.

use std::fs::{File, remove_file};
use std::os::unix::fs::FileExt;
use std::path::Path;

use consilium_common::audit::tree::Tree;
use consilium_common::audit::{Checkpoint, Record};
use consilium_common::signed::Document;
use consilium_common::time::WallMillis;
use consilium_coordinator::round::history::History;
use consilium_coordinator::store::checkpoint;
use consilium_io::disk::log::{LogReport, file_header};
use consilium_io::disk::{Log, LogError};

use super::documents::{self, KEY};
use super::{scratch, shown, text};
use crate::samples::Samples;

/// A payload under any kind: two bytes of kind, then the payload.
pub(super) fn record(bytes: &[u8]) {
    let Some((kind, payload)) = bytes.split_first_chunk() else {
        return;
    };
    match Record::decode(u16::from_le_bytes(*kind), payload) {
        Ok(Some(record)) => {
            let again = record.payload().unwrap();
            assert!(again.len() <= payload.len(), "a longer encoding of {}", record.name());
            assert_eq!(Record::decode(record.kind(), &again), Ok(Some(record)));
        }
        Ok(None) => {}
        Err(error) => shown(&error, payload),
    }
}

/// Records in a row, each kind u16, length u16, payload: what a start makes of them.
pub(super) fn history(bytes: &[u8]) {
    let (mut history, mut rest) = (History::new(), bytes);
    while let Some(([k0, k1, l0, l1], after)) = rest.split_first_chunk() {
        let length = usize::from(u16::from_le_bytes([*l0, *l1])).min(after.len());
        let (payload, after) = after.split_at(length);
        rest = after;
        let Ok(Some(record)) = Record::decode(u16::from_le_bytes([*k0, *k1]), payload) else {
            continue;
        };
        if let Err(error) = history.apply(&record) {
            shown(&error, bytes);
        }
    }
    for study in history.studies() {
        assert_eq!(history.study(study.study.id()).map(|found| &found.head), Some(&study.head));
    }
}

/// One record as it was read: kind, wall, payload.
type Read = (u16, WallMillis, Vec<u8>);

fn read(path: &Path, covered: u64) -> Result<(Vec<Read>, LogReport), LogError> {
    let mut records = Vec::new();
    let report = Log::read(path, covered, |at| {
        assert_eq!(at.index, records.len() as u64);
        records.push((at.kind, at.wall, at.payload.to_vec()));
        Ok(())
    })?;
    assert_eq!(report.records, records.len() as u64);
    Ok((records, report))
}

/// Any file: what is read of it is read again after the tail was cut and a record was appended.
pub(super) fn file(bytes: &[u8]) {
    let path = scratch::write("log", bytes);
    let (mut records, report) = match read(&path, 0) {
        Ok(read) => read,
        Err(error) => return shown(&error, &vec![0; bytes.len() + 256]),
    };
    assert_eq!(report.bytes + report.dropped_bytes, bytes.len() as u64);
    assert!(matches!(read(&path, report.records + 1), Err(LogError::Short { .. })));
    let (mut log, opened) = Log::open(&path, report.records, |_| Ok(())).unwrap();
    assert_eq!(opened, report);
    let offset = log.append(9, WallMillis(1), b"one more").unwrap();
    assert_eq!(log.read_at(offset).unwrap().payload, b"one more");
    drop(log.read_at(offset.saturating_sub(1)));
    drop(log);
    records.push((9, WallMillis(1), b"one more".to_vec()));
    let (again, report) = read(&path, report.records + 1).unwrap();
    assert!(again == records && report.dropped_bytes == 0, "the log changed");
}

/// A good log, cut or damaged at one place: four bytes where, one how, then payloads, each behind
/// its length. Cut it loses the records that were cut and no other; damaged it is refused.
pub(super) fn torn(bytes: &[u8]) {
    let Some(([a0, a1, a2, a3, how], mut rest)) = bytes.split_first_chunk() else {
        return;
    };
    let (path, mut payloads, mut ends) = (scratch::path("torn"), Vec::new(), Vec::new());
    if path.exists() {
        remove_file(&path).unwrap();
    }
    let (mut log, _) = Log::open(&path, 0, |_| Ok(())).unwrap();
    let head = log.bytes();
    while let Some((length, after)) = rest.split_first() {
        let (payload, after) = after.split_at(usize::from(*length).min(after.len()));
        log.append(u16::from(*length), WallMillis(7), payload).unwrap();
        payloads.push(payload);
        ends.push(log.bytes());
        rest = after;
    }
    let length = log.bytes();
    drop(log);
    let at = u64::from(u32::from_le_bytes([*a0, *a1, *a2, *a3])) % length;
    if *how == 0 {
        cut(&path, at.max(head), &payloads, &ends);
    } else {
        damage(&path, at, *how);
    }
}

fn cut(path: &Path, at: u64, payloads: &[&[u8]], ends: &[u64]) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_len(at).unwrap();
    let whole = ends.iter().filter(|end| **end <= at).count();
    let (records, report) = read(path, whole as u64).unwrap();
    let read: Vec<&[u8]> = records.iter().map(|(_, _, payload)| payload.as_slice()).collect();
    assert_eq!(Some(read.as_slice()), payloads.get(..whole), "cut at {at}");
    assert_eq!(report.bytes + report.dropped_bytes, at);
}

fn damage(path: &Path, at: u64, how: u8) {
    let file = File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&byte.map(|byte| byte ^ how), at).unwrap();
    shown(&read(path, 0).expect_err("a damaged log was read"), &[0; 512]);
}

/// The checkpoint's file, in which the word `SIGNATURE` stands for the right one.
pub(super) fn checkpoint_file(bytes: &[u8]) {
    let signature = text(bytes).and_then(|text| text.split_once("\n\n")).map(|(body, _)| {
        serde_json::to_string(&KEY.sign(Checkpoint::DOMAIN, format!("{body}\n").as_bytes()))
            .unwrap()
    });
    let sealed = match (text(bytes), signature) {
        (Some(text), Some(signature)) => text.replace("SIGNATURE", &signature).into_bytes(),
        _ => bytes.to_vec(),
    };
    let path = scratch::write("checkpoint", &sealed);
    match checkpoint::read(&path, "thorax", &KEY.public()) {
        Ok(found) => {
            let found = found.unwrap();
            assert_eq!(found.origin, "thorax");
            assert!(sealed.starts_with(&found.to_bytes()));
        }
        Err(error) => shown(&error, &sealed),
    }
}

fn samples() -> Vec<(u16, Vec<u8>)> {
    let records = Samples::new().unwrap().records();
    records.iter().map(|record| (record.kind(), record.payload().unwrap())).collect()
}

pub(super) fn records() -> Vec<Vec<u8>> {
    let with_kind =
        |(kind, payload): &(u16, Vec<u8>)| [&kind.to_le_bytes(), payload.as_slice()].concat();
    samples().iter().map(with_kind).collect()
}

pub(super) fn histories() -> Vec<Vec<u8>> {
    use consilium_common::audit::record::{StudyStateSet, StudySubmitted};
    use consilium_common::wire::messages::RunState;
    let by = || "operator/ada".to_owned();
    let study = "tiny".parse().unwrap();
    let begun = [
        Record::StudySubmitted(StudySubmitted { signed: documents::signed_study(), by: by() }),
        Record::StudyState(StudyStateSet {
            study,
            state: RunState::Running,
            by: by(),
            completion: None,
        }),
    ];
    let begun = begun.iter().map(|record| (record.kind(), record.payload().unwrap()));
    let row = |records: &mut dyn Iterator<Item = (u16, Vec<u8>)>| {
        let mut row = Vec::new();
        for (kind, payload) in records {
            row.extend_from_slice(&kind.to_le_bytes());
            row.extend_from_slice(&u16::try_from(payload.len()).unwrap().to_le_bytes());
            row.extend_from_slice(&payload);
        }
        row
    };
    vec![row(&mut samples().into_iter()), row(&mut begun.into_iter())]
}

pub(super) fn files() -> Vec<Vec<u8>> {
    let path = scratch::path("seed-log");
    let (mut log, _) = Log::open(&path, 0, |_| Ok(())).unwrap();
    for (kind, payload) in samples() {
        log.append(kind, WallMillis(1_795_000_000_000), &payload).unwrap();
    }
    drop(log);
    let whole = std::fs::read(&path).unwrap();
    remove_file(&path).unwrap();
    let cut = |left: usize| whole.split_at(left).0.to_vec();
    let mut damaged = whole.clone();
    if let Some(byte) = damaged.get_mut(60) {
        *byte ^= 1;
    }
    let mut later = file_header();
    if let Some(format) = later.get_mut(14) {
        *format += 1;
    }
    vec![cut(16), cut(9), cut(30), cut(whole.len() - 3), damaged, later, whole.clone()]
}

pub(super) fn torn_ones() -> Vec<Vec<u8>> {
    let payloads = b"\x03one\x00\x05three\x08CREC\x02\x00..".as_slice();
    [([50, 0, 0, 0], 0), ([0, 0, 0, 0], 1), ([24, 0, 0, 0], 4), ([16, 0, 0, 0], 0x20)]
        .iter()
        .map(|(at, how)| [at.as_slice(), &[*how], payloads].concat())
        .collect()
}

pub(super) fn checkpoint_files() -> Vec<Vec<u8>> {
    let body =
        |origin: &str| String::from_utf8(Checkpoint::of(origin, &Tree::new()).to_bytes()).unwrap();
    [
        format!("{}\nSIGNATURE\n", body("thorax")),
        format!("{}\nSIGNATURE\n", body("cardio")),
        format!("{}\n{{}}\n", body("thorax")),
        body("thorax"),
        "thorax\n0\n\nSIGNATURE".to_owned(),
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .collect()
}
