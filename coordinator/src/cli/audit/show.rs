//! `consilium audit show`: the records of an export, in words. Says nothing about whether they hold: that is
//! what `audit verify` is for.

use std::path::PathBuf;

use clap::Args;
use consilium_common::audit::tree::leaf_hash;
use consilium_common::audit::{Checkpoint, Prover, Record};
use consilium_common::ids::StudyId;
use consilium_common::time::WallMillis;
use consilium_io::disk::text::read_file;
use consilium_io::disk::{Log, RecordRef};
use serde::Serialize;
use serde_json::Value;

use super::super::Failure;
use super::super::output::{self, Format};
use super::{CHECKPOINT_BYTES_MAX, export_at};
use crate::audit::{Folder, words};

/// `consilium audit show`
#[derive(Debug, Args)]
pub(in crate::cli) struct ShowArgs {
    /// The export's folder.
    folder: PathBuf,
    /// Only the records of this study.
    #[arg(long, value_name = "NAME")]
    study: Option<StudyId>,
    /// Only this record, counted from 0, with everything that is in it and the proof that the checkpoint
    /// covers it (RFC 6962 §2.1.1).
    #[arg(long, value_name = "N")]
    record: Option<u64>,
    #[command(flatten)]
    format: Format,
}

/// One record.
#[derive(Serialize)]
struct Shown {
    record: u64,
    offset: u64,
    /// By the coordinator's clock; nothing vouches for it.
    wall: WallMillis,
    kind: u16,
    name: String,
    study: Option<StudyId>,
    words: String,
    document: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    inclusion: Option<Inclusion>,
}

/// What shows whoever has the checkpoint that the record is in its log.
#[derive(Serialize)]
struct Inclusion {
    leaf: String,
    size: u64,
    root: String,
    /// Lowest first.
    path: Vec<String>,
}

pub(super) fn run(args: &ShowArgs) -> Result<(), Failure> {
    let folder = export_at(&args.folder)?;
    match args.record {
        Some(record) => one(&folder, record, args.format),
        None => all(&folder, args.study.as_ref(), args.format),
    }
}

/// A line for each, as it is read: a log may be larger than memory.
fn all(folder: &Folder, study: Option<&StudyId>, format: Format) -> Result<(), Failure> {
    let mut shown = 0_u64;
    Log::read(&folder.log(), 0, |at| {
        let record = read(&at);
        if study.is_some_and(|study| record.study.as_ref() != Some(study)) {
            return Ok(());
        }
        if format.json {
            let start = if shown == 0 { "[" } else { "," };
            output::line(format_args!("{start}{}", serde_json::to_string(&record)?));
        } else {
            let wall = output::date(record.wall);
            output::line(format_args!(
                "{:>7}  {wall}  {:<14}  {}",
                record.record, record.name, record.words
            ));
        }
        shown += 1;
        Ok(())
    })
    .map_err(Failure::failed)?;
    if format.json {
        output::line(if shown == 0 { "[]" } else { "]" });
    }
    Ok(())
}

fn one(folder: &Folder, record: u64, format: Format) -> Result<(), Failure> {
    let file = read_file(&folder.checkpoint(), CHECKPOINT_BYTES_MAX).map_err(Failure::failed)?;
    let signed = Checkpoint::from_file(&file).map_err(Failure::failed)?;
    let head = signed.parse_unverified().map_err(Failure::failed)?;
    let mut prover = Prover::inclusion(record, head.size).map_err(Failure::failed)?;
    let mut found = None;
    Log::read(&folder.log(), 0, |at| {
        let leaf = leaf_hash(at.kind, at.payload);
        prover.push(leaf);
        if at.index == record {
            found = Some((read(&at), leaf));
        }
        Ok(())
    })
    .map_err(Failure::failed)?;
    let path = prover.finish().map_err(Failure::failed)?;
    let (mut shown, leaf) =
        found.ok_or_else(|| Failure::failed(format!("the log has no record {record}")))?;
    shown.inclusion = Some(Inclusion {
        leaf: hex::encode(leaf),
        size: head.size,
        root: hex::encode(head.root),
        path: path.iter().map(hex::encode).collect(),
    });
    let pretty = serde_json::to_string_pretty(&shown.document).map_err(Failure::failed)?;
    output::show(format, &shown, |shown| {
        let Shown { record, offset, kind, name, words, .. } = shown;
        let wall = output::date(shown.wall);
        format!("record {record} at byte {offset}, {wall}, {name} (kind {kind})\n{words}\n{pretty}")
    })
}

fn read(at: &RecordRef<'_>) -> Shown {
    let record = Record::decode(at.kind, at.payload);
    let (name, study, told, document) = match &record {
        Ok(Some(record)) => (
            record.name().to_owned(),
            words::study_of(record),
            words::sentence(record),
            words::document(record),
        ),
        Ok(None) => {
            let told = "of a kind that a later version writes".to_owned();
            ("unknown".to_owned(), None, told, Value::Null)
        }
        Err(error) => ("unreadable".to_owned(), None, error.to_string(), Value::Null),
    };
    Shown {
        record: at.index,
        offset: at.offset,
        wall: at.wall,
        kind: at.kind,
        name,
        study,
        words: told,
        document,
        inclusion: None,
    }
}
