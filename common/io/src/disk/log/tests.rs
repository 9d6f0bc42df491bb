//! The log against kills at every byte, flips of every bit, and disks that fail.

use std::fs;
use std::path::Path;

use consilium_common::random::Generator;

use super::*;
use crate::disk::replace;

/// A log of `payloads`, synced; the offsets of its records.
fn written(path: &Path, payloads: &[Vec<u8>]) -> Vec<u64> {
    let (mut log, _) = Log::open(path, 0, |_| Ok(())).unwrap();
    let offsets = (1_u16..)
        .zip(payloads)
        .map(|(kind, payload)| log.append(kind, WallMillis(kind.into()), payload).unwrap())
        .collect();
    log.sync().unwrap();
    offsets
}

fn payloads() -> Vec<Vec<u8>> {
    vec![b"studies".to_vec(), vec![], b"CREC in a payload is only text".to_vec(), vec![0xff; 300]]
}

fn reopened(path: &Path, known: u64) -> Result<(Vec<Vec<u8>>, LogReport), LogError> {
    let mut seen = Vec::new();
    let (_, report) = Log::open(path, known, |record| {
        assert_eq!(record.index, seen.len() as u64);
        assert_eq!(u64::from(record.kind), record.wall.0);
        seen.push(record.payload.to_vec());
        Ok(())
    })?;
    Ok((seen, report))
}

#[test]
fn what_was_appended_is_read_back_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let offsets = written(&path, &payloads());
    let (seen, report) = reopened(&path, 4).unwrap();
    assert_eq!(seen, payloads());
    assert_eq!((report.records, report.dropped_bytes), (4, 0));

    let (mut log, _) = Log::open(&path, 4, |_| Ok(())).unwrap();
    for (offset, payload) in offsets.iter().zip(payloads()) {
        assert_eq!(log.read_at(*offset).unwrap().payload, payload);
    }
    let offset = log.append(9, WallMillis(9), b"more").unwrap();
    let record = log.read_at(offset).unwrap();
    assert_eq!(record, Record { kind: 9, wall: WallMillis(9), payload: b"more".to_vec() });
    assert_eq!((log.records(), log.bytes()), (5, fs::metadata(&path).unwrap().len()));
    for absent in [0, offset - 1, offset + 1, u64::MAX] {
        assert!(matches!(log.read_at(absent), Err(LogError::NoRecord { .. })), "{absent}");
    }
}

#[test]
fn a_log_is_read_from_a_mark_on_and_grows_from_its_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let offsets = written(&path, &payloads());
    for (records, offset) in
        (0..).zip(offsets.iter().copied().chain([fs::metadata(&path).unwrap().len()]))
    {
        let mark = LogMark { records, bytes: offset };
        let mut seen = Vec::new();
        let (log, report) = Log::open_from(&path, mark, 0, |at| {
            seen.push((at.index, at.offset, at.payload.to_vec()));
            Ok(())
        })
        .unwrap();
        assert_eq!((report.records, log.records()), (4, 4));
        let all = (0..).zip(&offsets).zip(payloads());
        let after: Vec<_> = all.map(|((index, at), payload)| (index, *at, payload)).collect();
        assert_eq!(seen, after[usize::try_from(records).unwrap()..]);
    }
    // Shorter than the mark: the error says where the file ends.
    let mark = LogMark { records: 4, bytes: fs::metadata(&path).unwrap().len() };
    let whole = fs::read(&path).unwrap();
    replace(&path, &whole[..usize::try_from(offsets[2]).unwrap()]).unwrap();
    let told = Log::open_from(&path, mark, 0, |_| Ok(())).unwrap_err();
    assert!(matches!(told, LogError::Short { records: 2, known: 4, .. }), "{told}");
}

#[test]
fn a_torn_tail_is_dropped_only_past_the_last_checkpoint() {
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    let offsets = written(&whole, &payloads());
    let bytes = fs::read(&whole).unwrap();
    let path = folder.path().join("log");
    for cut in 16..=bytes.len() {
        let records = offsets.iter().filter(|&&o| o < cut as u64).count();
        let ends_whole = cut == bytes.len() || offsets.contains(&(cut as u64));
        let kept = if ends_whole { records } else { records - 1 };
        for checkpoint in 0..=4 {
            replace(&path, &bytes[..cut]).unwrap();
            let result = reopened(&path, checkpoint as u64);
            if checkpoint > kept {
                assert!(
                    matches!(result, Err(LogError::Short { records, .. }) if records == kept as u64),
                    "cut {cut}, checkpoint {checkpoint}: {result:?}"
                );
                assert_eq!(fs::read(&path).unwrap(), bytes[..cut], "nothing was changed");
                continue;
            }
            let (seen, report) = result.unwrap();
            assert_eq!(seen, payloads()[..kept]);
            let end = offsets.get(kept).map_or(bytes.len() as u64, |&end| end);
            assert_eq!(report.dropped_bytes, cut as u64 - end);
            assert_eq!(reopened(&path, checkpoint as u64).unwrap().1.dropped_bytes, 0);
        }
    }
}

#[test]
fn the_log_goes_on_after_a_dropped_tail() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &payloads());
    let bytes = fs::read(&path).unwrap();
    replace(&path, &bytes[..bytes.len() - 1]).unwrap();
    let (mut log, report) = Log::open(&path, 3, |_| Ok(())).unwrap();
    assert_eq!((report.records, report.dropped_bytes), (3, 327));
    log.append(4, WallMillis(4), b"again").unwrap();
    drop(log);
    assert_eq!(reopened(&path, 4).unwrap().0[3], b"again");
}

#[test]
fn any_flipped_bit_stops_the_start_and_names_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let offsets = written(&path, &payloads());
    let good = fs::read(&path).unwrap();
    for bit in 0..good.len() * 8 {
        let at = bit / 8;
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (bit % 8);
        replace(&path, &bytes).unwrap();
        let error = reopened(&path, 0).unwrap_err();
        if at < 16 {
            let named = matches!(error, LogError::NotALog { .. } | LogError::Format { .. });
            assert!(named, "bit {bit}: {error}");
        } else {
            let LogError::Damaged { index, offset, .. } = error else { panic!("{bit}: {error}") };
            let expected = offsets.iter().filter(|&&o| o <= at as u64).count() - 1;
            assert_eq!((index, offset), (expected as u64, offsets[expected]), "bit {bit}");
            assert!(error.to_string().contains("back from a copy"), "{error}");
        }
        assert_eq!(fs::read(&path).unwrap(), bytes, "nothing was changed");
    }
}

#[test]
fn two_flipped_bits_of_the_last_record_are_not_taken_for_a_torn_tail() {
    // One of them may be in its length, and nothing stands behind it that could tell.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let offsets = written(&path, &[b"first".to_vec(), b"last".to_vec()]);
    let good = fs::read(&path).unwrap();
    let bits = usize::try_from(offsets[1]).unwrap() * 8..good.len() * 8;
    for first in bits.clone() {
        for second in first + 1..bits.end {
            let mut bytes = good.clone();
            bytes[first / 8] ^= 1 << (first % 8);
            bytes[second / 8] ^= 1 << (second % 8);
            let log = (&bytes[..], bytes.len() as u64);
            let result = Log::read_from(&path, log, 0, |_| Ok(()));
            let named = matches!(result, Err(LogError::Damaged { index: 1, .. }));
            assert!(named, "bits {first} and {second}: {result:?}");
        }
    }
}

#[test]
fn random_garbage_never_panics() {
    let seed = std::env::var("CONSILIUM_SEED").unwrap_or_else(|_| "log-garbage".to_owned());
    println!("CONSILIUM_SEED={seed}");
    let mut random = Generator::new("log test", seed.as_bytes());
    let folder = tempfile::tempdir().unwrap();
    let whole = folder.path().join("whole");
    written(&whole, &payloads());
    let good = fs::read(&whole).unwrap();
    let path = folder.path().join("log");
    for _ in 0..300 {
        let mut bytes = good.clone();
        for _ in 0..=random.below(8) {
            let at = random.below(u32::try_from(bytes.len()).unwrap()) as usize;
            bytes[at] = random.next_u32().to_le_bytes()[0];
        }
        bytes.truncate(random.below(u32::try_from(bytes.len()).unwrap() + 1) as usize);
        File::create(&path).and_then(|mut f| std::io::Write::write_all(&mut f, &bytes)).unwrap();
        let _ = Log::read(&path, 0, |_| Ok(()));
    }
}

#[test]
fn a_log_that_had_records_is_not_created_anew() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    assert!(matches!(Log::open(&path, 1, |_| Ok(())), Err(LogError::Missing { known: 1, .. })));
    assert!(!path.exists());
}

#[test]
fn reading_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &payloads());
    let mut bytes = fs::read(&path).unwrap();
    bytes.pop();
    replace(&path, &bytes).unwrap();
    let report = Log::read(&path, 0, |_| Ok(())).unwrap();
    assert_eq!((report.records, report.dropped_bytes), (3, 327));
    assert_eq!(fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_visitor_that_refuses_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    written(&path, &payloads());
    let error = Log::open(&path, 0, |record| match record.index {
        2 => Err("kind 3 is not known".into()),
        _ => Ok(()),
    });
    let text = error.unwrap_err().to_string();
    assert!(text.contains("record 2 at byte") && text.contains("kind 3 is not known"), "{text}");
}

#[test]
fn after_a_failed_write_every_call_fails_and_says_restart() {
    // A file that is open for reading only stands for a disk that refuses writes.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let offsets = written(&path, &payloads());
    let (mut log, _) = Log::open(&path, 0, |_| Ok(())).unwrap();
    log.file = File::open(&path).unwrap();
    assert!(matches!(log.append(1, WallMillis(1), b"x"), Err(LogError::Io(_))));
    assert!(matches!(log.append(1, WallMillis(1), b"x"), Err(LogError::Poisoned { .. })));
    assert!(matches!(log.read_at(offsets[0]), Err(LogError::Poisoned { .. })));
    let text = log.sync().unwrap_err().to_string();
    assert!(text.contains("restart"), "{text}");
}

#[test]
fn a_payload_over_the_limit_is_refused_and_the_log_stays_usable() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("log");
    let (mut log, _) = Log::open(&path, 0, |_| Ok(())).unwrap();
    let large = vec![0; RECORD_BYTES_MAX + 1];
    assert!(matches!(log.append(1, WallMillis(1), &large), Err(LogError::TooLarge { .. })));
    log.append(1, WallMillis(1), &large[1..]).unwrap();
    log.sync().unwrap();
    assert_eq!(reopened(&path, 1).unwrap().0[0].len(), RECORD_BYTES_MAX);
}
