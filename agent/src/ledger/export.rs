//! A ledger as one text file that an auditor keeps and verifies without this machine: what signs it in
//! the first line, then each record's payload as it was written, a line each.
//!
//! The tree over the lines is the ledger's own: leaf = SHA-256(0x00 ‖ kind u16 LE ‖ payload).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;

use consilium_common::audit::Checkpoint;
use consilium_common::ids::SiteId;
use consilium_common::limits::RECORD_BYTES_MAX;
use consilium_common::signed::{PublicKey, Signed};
use consilium_io::IoError;
use consilium_io::disk::{Access, Log, checkpoint, replace_with};
use serde::{Deserialize, Serialize};

use super::LedgerError;
use super::entry::Line;
use super::head::{CHECKPOINT, LOG};
use super::read::{Chain, Verified};

/// Lines are read in pieces of this size.
const READ_BYTES: usize = 1 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct First {
    /// Of this file: 1.
    format: u32,
    site: SiteId,
    /// The site's key; whoever verifies has it from elsewhere.
    key: PublicKey,
    /// The signed head, as text and signature.
    head: Signed<Checkpoint>,
    records: u64,
}

/// Writes the ledger in `folder` to `to`; how many records. Verify the ledger before.
///
/// # Errors
/// The ledger is damaged or has no signed head, or a disk refused.
pub fn export(
    folder: &Path,
    site: &SiteId,
    key: &PublicKey,
    to: &Path,
) -> Result<u64, LedgerError> {
    let head = checkpoint::load(&folder.join(CHECKPOINT), site.as_str(), key)?;
    let log = folder.join(LOG);
    // What is written meanwhile is another export's.
    let records = Log::read(&log, 0, |_| Ok(()))?.records;
    let Some((head, _)) = head else {
        return Err(LedgerError::NoHead { path: folder.join(CHECKPOINT), records });
    };
    let first = First { format: 1, site: site.clone(), key: *key, head, records };
    let first = serde_json::to_string(&first)?;
    replace_with(to, Access::Private, |out| {
        writeln!(out, "{first}")?;
        let copied = Log::read(&log, records, |at| {
            if at.index < records {
                out.write_all(at.payload)?;
                out.write_all(b"\n")?;
            }
            Ok(())
        });
        copied.map(drop).map_err(std::io::Error::other)
    })?;
    Ok(records)
}

/// Verifies an exported file as [`super::read::verify`] does a ledger; `key` is the site's, from
/// elsewhere than the file.
///
/// # Errors
/// The first line that does not fit.
pub fn verify(path: &Path, key: &PublicKey) -> Result<Verified, LedgerError> {
    let refuse =
        |line: u64, what: String| LedgerError::Export { path: path.to_owned(), line, what };
    let file = File::open(path).map_err(IoError::at("open", path))?;
    let bytes = file.metadata().map_err(IoError::at("inspect", path))?.len();
    let mut lines = Lines { reader: BufReader::with_capacity(READ_BYTES, file), line: Vec::new() };
    let first = lines.next().map_err(|what| refuse(1, what))?;
    let first: First = serde_json::from_slice(first.unwrap_or_default())
        .map_err(|error| refuse(1, format!("not the head of an exported ledger: {error}")))?;
    if first.format != 1 {
        return Err(refuse(1, format!("format {}, this program reads 1", first.format)));
    }
    let signed = first.head.verify(&[*key], 1).map_err(|error| refuse(1, error.to_string()))?;
    if signed.origin != first.site.as_str() || first.key != *key {
        let what = format!("it is of {} and another key than {key}", signed.origin);
        return Err(refuse(1, what));
    }
    let size = signed.size;
    let mut chain = Chain::new(Some(signed));
    let mut at = 1;
    while let Some(payload) = {
        at += 1;
        lines.next().map_err(|what| refuse(at, what))?
    } {
        let taken = read(payload).and_then(|(kind, line)| {
            chain.take(kind, payload, &line).map_err(|error| error.to_string())
        });
        taken.map_err(|what| refuse(at, what))?;
    }
    let records = chain.tree.size();
    if records < size || records != first.records {
        let what = format!(
            "{records} records, where the first line says {} and {size} were signed: some are missing \
             or were added",
            first.records
        );
        return Err(refuse(at, what));
    }
    let root = consilium_common::ids::Digest(chain.tree.root()).to_string();
    Ok(Verified { records, bytes, root, signed: size, incomplete_bytes: 0 })
}

/// A payload's kind follows from its name.
fn read(payload: &[u8]) -> Result<(u16, Line), String> {
    let line: Line = serde_json::from_slice(payload).map_err(|error| error.to_string())?;
    Ok((line.entry.kind(), line))
}

/// Lines of bounded length.
struct Lines {
    reader: BufReader<File>,
    line: Vec<u8>,
}

impl Lines {
    fn next(&mut self) -> Result<Option<&[u8]>, String> {
        self.line.clear();
        let most = RECORD_BYTES_MAX as u64 + 1;
        let read = (&mut self.reader).take(most).read_until(b'\n', &mut self.line);
        match read.map_err(|error| error.to_string())? {
            0 => Ok(None),
            _ => match self.line.strip_suffix(b"\n") {
                Some(line) => Ok(Some(line)),
                None => Err("the line is cut short, or longer than any record".to_owned()),
            },
        }
    }
}
