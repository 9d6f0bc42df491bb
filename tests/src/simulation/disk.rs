//! The coordinator's log as bytes on a simulated disk. The real framing writes it and the real scan
//! reads it; a death tears what is not synced, and what rots is not what was written.

use std::path::Path;

use consilium_common::audit::Record;
use consilium_common::time::{Millis, WallMillis};
use consilium_io::disk::log::{Log, file_header, framed};

use super::sim::Sim;
use super::world::WALL;

/// How often the real store writes a signed head (coordinator `limits::CHECKPOINT_INTERVAL`).
const CHECKPOINT_INTERVAL: Millis = Millis::from_secs(1);
/// How old the operator's copy of the state folder may be.
const COPY_INTERVAL: Millis = Millis::from_secs(60);

/// A log, and what a federation knows of it that no disk does.
pub(crate) struct LogDisk {
    /// At rest.
    bytes: Vec<u8>,
    /// As the program wrote them.
    written: Vec<u8>,
    /// How many of them a sync has covered and the disk still has, to the end of a record.
    synced: usize,
    /// Where each whole record starts.
    starts: Vec<usize>,
    /// Records that the last signed checkpoint covers.
    covered: usize,
    covered_at: Millis,
    copy: Copy,
    /// Something is there that was never written, or what a checkpoint covers is gone: a start may be
    /// refused.
    damaged: bool,
}

/// The operator's copy, taken of a log that could be read.
#[derive(Clone, Default)]
struct Copy {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    covered: usize,
    at: Millis,
}

/// What power cuts put where written bytes should be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Death {
    /// Of the process: what it had written is there, in order.
    Process,
    /// Of the machine: the file may have grown by blocks that never came.
    Power,
}

/// What a start finds.
pub(crate) enum Found {
    /// These records, each with the time at which it was written.
    Records(Vec<(Millis, Record)>),
    /// Damage. The operator has brought back the copy, which holds so many records.
    Restored(usize),
}

fn frame(record: &Record, now: Millis) -> Vec<u8> {
    framed(record.kind(), WallMillis(WALL + now.0), &record.payload().unwrap()).unwrap()
}

impl LogDisk {
    pub(crate) fn new() -> Self {
        let head = file_header();
        let copy = Copy { bytes: head.clone(), ..Copy::default() };
        Self {
            synced: head.len(),
            written: head.clone(),
            bytes: head,
            starts: Vec::new(),
            covered: 0,
            covered_at: Millis::ZERO,
            copy,
            damaged: false,
        }
    }

    /// Writes and syncs a record; now and then, a checkpoint and the operator's copy follow.
    pub(crate) fn append(&mut self, record: &Record, now: Millis) {
        let frame = frame(record, now);
        self.starts.push(self.bytes.len());
        self.bytes.extend(&frame);
        self.written.extend(&frame);
        self.synced = self.bytes.len();
        if now.since(self.covered_at) >= CHECKPOINT_INTERVAL {
            (self.covered, self.covered_at) = (self.starts.len(), now);
        }
        if !self.damaged && now.since(self.copy.at) >= COPY_INTERVAL {
            self.take_copy(now);
        }
    }

    /// A checkpoint over all there is, and a copy of it: what a restored log begins with.
    pub(crate) fn cover(&mut self, at: Millis) {
        (self.covered, self.covered_at) = (self.starts.len(), at);
        self.take_copy(at);
    }

    fn take_copy(&mut self, at: Millis) {
        let (bytes, starts) = (self.bytes.clone(), self.starts.clone());
        self.copy = Copy { bytes, starts, covered: self.covered, at };
    }

    /// A death while `writes` were on their way: some are whole, the next is there in part.
    pub(crate) fn crash(&mut self, writes: &[Record], death: Death, sim: &mut Sim) {
        let whole = sim.between(0, writes.len() as u64);
        let mut keep = self.bytes.len();
        for (record, at) in writes.iter().zip(0..) {
            let frame = frame(record, sim.now);
            if at < whole {
                keep += frame.len();
            } else if at == whole {
                keep += usize::try_from(sim.between(0, frame.len() as u64 - 1)).unwrap();
            }
            self.written.extend(&frame);
        }
        let synced = self.bytes.len();
        let arrived = &self.written[synced..keep];
        self.bytes.extend(arrived);
        if death == Death::Power && synced < keep && sim.happens(500) {
            let from = sim.between(synced as u64, keep as u64 - 1);
            let to = sim.between(from + 1, keep as u64);
            let zeros = sim.happens(500);
            let hole = usize::try_from(from).unwrap()..usize::try_from(to).unwrap();
            for byte in &mut self.bytes[hole] {
                *byte = if zeros { 0 } else { sim.jitter().to_le_bytes()[0] };
            }
            self.damaged = true;
        }
    }

    /// A bit of what is synced turns over.
    pub(crate) fn rot(&mut self, which: u64) {
        flip(&mut self.bytes[..self.synced], which);
        self.damaged = true;
    }

    /// The end is gone, at most as far as the checkpoint covers the log if `is_uncovered`.
    pub(crate) fn cut(&mut self, which: u64, is_uncovered: bool) {
        let head = file_header().len();
        let covered = self.starts.get(self.covered).copied().unwrap_or(self.synced);
        let least = if is_uncovered { covered } else { 0 };
        let gone = self.bytes.len().saturating_sub(least);
        if gone > 0 {
            let keep = least + usize::try_from(which).unwrap() % gone;
            self.bytes.truncate(keep);
            // What is left whole: a record ends where the next one starts.
            let ends = self.starts.iter().skip(1).copied().chain([self.synced]);
            let records = ends.take_while(|end| *end <= keep).count();
            self.synced = self.starts.get(records).copied().unwrap_or(self.synced).min(keep);
            self.starts.truncate(records);
            self.damaged |= records < self.covered || keep < head;
        }
    }

    /// Whether a record can still be read, as `Log::read_at` would.
    pub(crate) fn reads(&self, index: usize) -> bool {
        let end = self.starts.get(index + 1).copied().unwrap_or(self.synced);
        let log = [&file_header(), &self.bytes[self.starts[index]..end]].concat();
        let read = Log::read_from(Path::new("log"), (&log[..], log.len() as u64), 1, |_| Ok(()));
        read.is_ok()
    }

    /// The real scan. It drops an incomplete tail and nothing else, never what a checkpoint covers, and
    /// takes nothing that was not written; it refuses only what is damaged.
    pub(crate) fn start(&mut self, now: Millis) -> Found {
        let (mut found, mut starts) = (Vec::new(), Vec::new());
        let log = (&self.bytes[..], self.bytes.len() as u64);
        let read = Log::read_from(Path::new("log"), log, self.covered as u64, |at| {
            let record = Record::decode(at.kind, at.payload)?.ok_or("a kind of no release")?;
            starts.push(usize::try_from(at.offset)?);
            found.push((Millis(at.wall.0.saturating_sub(WALL)), record));
            Ok(())
        });
        match read {
            Ok(report) => {
                let end = usize::try_from(report.bytes).unwrap();
                assert!(end >= self.synced, "a start dropped synced records of the log");
                assert!(starts.len() >= self.covered, "a start lost what its checkpoint covers");
                assert!(
                    self.bytes[..end] == self.written[..end],
                    "a start took damage for records"
                );
                self.bytes.truncate(end);
                self.written.truncate(end);
                (self.synced, self.starts, self.damaged) = (end, starts, false);
                self.cover(now);
                Found::Records(found)
            }
            Err(error) => {
                assert!(self.damaged, "refused a log that nothing has damaged: {error}");
                Found::Restored(self.restore())
            }
        }
    }

    fn restore(&mut self) -> usize {
        let Copy { bytes, starts, covered, .. } = self.copy.clone();
        self.written.clone_from(&bytes);
        self.synced = bytes.len();
        (self.bytes, self.starts) = (bytes, starts);
        (self.covered, self.damaged) = (covered, false);
        self.starts.len()
    }
}

/// Turns a bit over.
pub(crate) fn flip(bytes: &mut [u8], which: u64) {
    if !bytes.is_empty() {
        let bit = usize::try_from(which).unwrap() % (8 * bytes.len());
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}
