use std::fs::{self, File};
use std::os::unix::fs::FileExt;

use consilium_common::limits::{LEDGER_MARK_BYTES, RECORD_BYTES_MAX};
use consilium_common::signed::PublicKey;
use consilium_common::wire::reject::Code;
use tempfile::TempDir;

use super::entry::tests::one_of_each;
use super::entry::{Sending, Stands, Word};
use super::*;

struct Bench {
    _dir: TempDir,
    folder: PathBuf,
    key: SecretKey,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ledger");
        Self { _dir: dir, folder, key: SecretKey::from_seed(&[7; 32]) }
    }

    /// With one record of each kind, closed.
    fn written() -> Self {
        let bench = Self::new();
        let ledger = bench.open().unwrap();
        for (n, entry) in (0..).zip(one_of_each()) {
            assert_eq!(ledger.record(entry, WallMillis(1_000 + n)).unwrap(), n);
        }
        drop(ledger);
        bench
    }

    fn site() -> SiteId {
        "st-mary".parse().unwrap()
    }

    fn public(&self) -> PublicKey {
        self.key.public()
    }

    fn open(&self) -> Result<Ledger, LedgerError> {
        Ledger::open(&self.folder, &Self::site(), &self.key)
    }

    fn verify(&self) -> Result<read::Verified, LedgerError> {
        read::verify(&self.folder, &Self::site(), &self.public())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn cut(&self, name: &str, bytes: u64) {
        let file = File::options().write(true).open(self.path(name)).unwrap();
        file.set_len(bytes).unwrap();
    }

    fn bytes(&self, name: &str) -> u64 {
        fs::metadata(self.path(name)).unwrap().len()
    }
}

fn word(reason: &str) -> Word {
    let Some(Entry::Word(word)) = one_of_each().into_iter().nth(1) else { panic!() };
    Word { reason: reason.to_owned(), ..word }
}

fn said(stands: Stands) -> StudyStands {
    let Some(Entry::Study(said)) = one_of_each().into_iter().nth(2) else { panic!() };
    StudyStands { stands, ..said }
}

#[test]
fn what_was_recorded_is_there_at_every_later_start_and_what_was_said_is_said_once() {
    let bench = Bench::written();
    let verified = bench.verify().unwrap();
    assert_eq!((verified.records, verified.signed, verified.incomplete_bytes), (10, 10, 0));
    let ledger = bench.open().unwrap();
    let (accepted, study) = (said(Stands::Accepted), "mnist".parse().unwrap());
    assert_eq!(ledger.accepted(&study, &accepted.digest).unwrap(), 2);
    ledger.stands(accepted.clone(), WallMillis(9)).unwrap();
    assert_eq!(ledger.status().records, 10, "that was its last word already");
    let refused = said(Stands::Refused { code: Code::RefusedBySite });
    ledger.stands(refused.clone(), WallMillis(9)).unwrap();
    ledger.stands(refused, WallMillis(9)).unwrap();
    assert_eq!(ledger.status().records, 11);
    let told = ledger.accepted(&study, &accepted.digest).unwrap_err().to_string();
    assert!(told.contains("no acceptance of study mnist"), "{told}");
    drop(ledger);
    let mut seen = Vec::new();
    read::each(&bench.folder, &mut |record, line| {
        seen.push((record, line.entry.name()));
        Ok(())
    })
    .unwrap();
    assert_eq!(seen.len(), 11);
    assert_eq!(seen[7], (7, "sending"));
}

#[test]
fn every_flipped_byte_of_a_small_ledger_is_found_and_the_damaged_record_named() {
    let bench = Bench::written();
    let head = bench.bytes(head::CHECKPOINT);
    let mark = Mark::read(&bench.path(head::MARK)).unwrap();
    assert_eq!(mark, None, "a small ledger has no mark");
    let mut named = 0;
    for (name, length) in [(head::LOG, bench.bytes(head::LOG)), (head::CHECKPOINT, head)] {
        let path = bench.path(name);
        let good = fs::read(&path).unwrap();
        let file = File::options().write(true).open(&path).unwrap();
        for at in 0..length {
            let byte = good[usize::try_from(at).unwrap()];
            for bit in [0x01, 0x20, 0x80] {
                file.write_all_at(&[byte ^ bit], at).unwrap();
                let told = bench.verify().expect_err("a flipped byte went unnoticed").to_string();
                named += usize::from(told.contains("record ") && told.contains(" at byte "));
            }
            file.write_all_at(&[byte], at).unwrap();
        }
    }
    assert!(named as u64 >= 3 * (bench.bytes(head::LOG) - 16), "record and offset are named");
    bench.verify().unwrap();
}

#[test]
fn a_ledger_without_its_last_records_is_refused_and_without_its_head_too() {
    let bench = Bench::written();
    let mut ends = Vec::new();
    Log::read(&bench.path(head::LOG), 0, |at| {
        ends.push(at.offset);
        Ok(())
    })
    .unwrap();
    bench.cut(head::LOG, ends[9]);
    for told in [bench.verify().unwrap_err(), bench.open().unwrap_err()] {
        let told = told.to_string();
        assert!(told.contains("ends after 9 whole records") && told.contains("10 were"), "{told}");
    }
    fs::remove_file(bench.path(head::CHECKPOINT)).unwrap();
    for told in [bench.verify().unwrap_err(), bench.open().unwrap_err()] {
        assert!(matches!(told, LedgerError::NoHead { records: 9, .. }), "{told}");
    }
    fs::remove_file(bench.path(head::LOG)).unwrap();
    assert!(bench.open().is_ok(), "a folder without anything is a new ledger's");
}

#[test]
fn an_incomplete_record_of_a_killed_agent_is_dropped_and_a_half_written_one_mended() {
    let bench = Bench::written();
    let whole = fs::read(bench.path(head::LOG)).unwrap();
    let append = |bytes: &[u8]| {
        let file = File::options().write(true).open(bench.path(head::LOG)).unwrap();
        file.write_all_at(bytes, bench.bytes(head::LOG)).unwrap();
    };
    append(&whole[16..60]);
    assert_eq!(bench.verify().unwrap().incomplete_bytes, 44);
    let ledger = bench.open().unwrap();
    assert_eq!(fs::read(bench.path(head::LOG)).unwrap(), whole);

    // What a full disk leaves of a record, and the next one once there is room again.
    append(&whole[16..60]);
    ledger.keeper().torn = true;
    assert_eq!(ledger.record(word("room again"), WallMillis(7)).unwrap(), 10);
    drop(ledger);
    assert_eq!(bench.verify().unwrap().records, 11);
}

#[test]
fn what_cannot_be_written_is_told_and_the_next_is_tried_anew() {
    let bench = Bench::written();
    let ledger = bench.open().unwrap();
    let told = ledger.record(word(&"x".repeat(RECORD_BYTES_MAX)), WallMillis(7)).unwrap_err();
    assert!(matches!(told, LedgerError::Unwritten(_)), "{told}");
    assert!(told.to_string().contains("nothing leaves that is not in it"), "{told}");
    assert!(ledger.status().trouble.is_some());
    assert_eq!(ledger.record(word("short"), WallMillis(7)).unwrap(), 10);
    assert_eq!(ledger.status().trouble, None);
}

#[test]
fn another_key_s_ledger_is_not_opened_and_a_forged_record_shows() {
    let bench = Bench::written();
    let other = SecretKey::from_seed(&[8; 32]);
    assert!(Ledger::open(&bench.folder, &Bench::site(), &other).is_err());

    // The same records but for one word, all checksums right.
    let forged = Bench::new();
    let ledger = forged.open().unwrap();
    for (n, entry) in (0..).zip(one_of_each()) {
        let entry = if n == 1 { word("another reason").into() } else { entry };
        ledger.record(entry, WallMillis(1_000 + n)).unwrap();
    }
    drop(ledger);
    fs::copy(forged.path(head::LOG), bench.path(head::LOG)).unwrap();
    for told in [bench.verify().unwrap_err(), bench.open().unwrap_err()] {
        assert!(matches!(told, LedgerError::OtherLedger { size: 10 }), "{told}");
    }
}

#[test]
fn bytes_that_name_no_acceptance_in_force_are_found() {
    let bench = Bench::written();
    let ledger = bench.open().unwrap();
    ledger.stands(said(Stands::Refused { code: Code::RefusedBySite }), WallMillis(7)).unwrap();
    let Some(Entry::Sending(range)) = one_of_each().into_iter().nth(7) else { panic!() };
    ledger.record(Sending { offset: 0, ..range }, WallMillis(8)).unwrap();
    drop(ledger);
    let told = bench.verify().unwrap_err().to_string();
    assert!(
        told.contains("record 11 at byte") && told.contains("no acceptance of mnist"),
        "{told}"
    );
}

/// So large that a start no longer reads all of it.
fn long() -> Bench {
    let bench = Bench::written();
    let ledger = bench.open().unwrap();
    let reason = "x".repeat(RECORD_BYTES_MAX / 2);
    for n in 0..=2 * LEDGER_MARK_BYTES / RECORD_BYTES_MAX as u64 {
        ledger.record(word(&reason), WallMillis(n)).unwrap();
    }
    drop(ledger);
    bench
}

#[test]
fn a_start_reads_from_the_mark_on_and_verify_reads_all() {
    let bench = long();
    let mark = Mark::read(&bench.path(head::MARK)).unwrap().expect("a mark");
    assert!(mark.at.records > 10);
    bench.verify().unwrap();
    let log = bench.path(head::LOG);
    let file = File::options().write(true).open(&log).unwrap();
    let byte = fs::read(&log).unwrap()[100];
    file.write_all_at(&[byte ^ 1], 100).unwrap();
    let ledger = bench.open().expect("what lies before the mark is not read");
    let digest = said(Stands::Accepted).digest;
    assert_eq!(ledger.accepted(&"mnist".parse().unwrap(), &digest).unwrap(), 2);
    ledger.record(word("after"), WallMillis(9)).unwrap();
    drop(ledger);
    let told = bench.verify().unwrap_err().to_string();
    assert!(told.contains("record 0 at byte 16"), "{told}");
    file.write_all_at(&[byte], 100).unwrap();
    bench.verify().unwrap();

    // A mark that is no longer what was written is passed over; one of other records is found.
    let mark = bench.path(head::MARK);
    let text = fs::read_to_string(&mark).unwrap();
    consilium_io::disk::replace_private(&mark, text.replace(':', ";").as_bytes()).unwrap();
    assert!(bench.verify().is_err());
    drop(bench.open().unwrap());
    fs::remove_file(&mark).unwrap();
    drop(bench.open().unwrap());
    bench.verify().unwrap();
}

#[test]
fn an_exported_ledger_is_verified_without_the_site_and_every_change_of_it_is_found() {
    let bench = Bench::written();
    let file = bench.folder.with_extension("txt");
    assert_eq!(export::export(&bench.folder, &Bench::site(), &bench.public(), &file).unwrap(), 10);
    let exported = export::verify(&file, &bench.public()).unwrap();
    assert_eq!((exported.records, exported.root), (10, bench.verify().unwrap().root));
    assert!(export::verify(&file, &SecretKey::from_seed(&[8; 32]).public()).is_err());

    let good = fs::read(&file).unwrap();
    let refused = |bytes: &[u8], what: &str| {
        // No sync: thousands of them would take minutes.
        File::create(&file).unwrap().write_all_at(bytes, 0).unwrap();
        assert!(export::verify(&file, &bench.public()).is_err(), "{what} went unnoticed");
    };
    let lines: Vec<&[u8]> = good.split_inclusive(|byte| *byte == b'\n').collect();
    for n in 1..lines.len() {
        let mut fewer = lines.clone();
        fewer.remove(n);
        refused(&fewer.concat(), "a missing line");
        let mut twice = lines.clone();
        twice.insert(n, lines[n]);
        refused(&twice.concat(), "a line twice");
        refused(&lines[..n].concat(), "a cut");
        if n > 1 {
            let mut swapped = lines.clone();
            swapped.swap(n - 1, n);
            refused(&swapped.concat(), "two lines exchanged");
        }
    }
    // The first line holds JSON, in which a few flips (of blanks, none here) could mean the same.
    for at in 0..good.len() {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        refused(&flipped, &format!("byte {at}"));
    }
}
