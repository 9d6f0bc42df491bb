//! `consilium audit verify`: an export against what is pinned, offline.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use consilium_common::audit::Checkpoint;
use consilium_common::signed::{KeyId, PublicKey};
use consilium_io::disk::text::read_file;
use serde::Serialize;

use super::super::Failure;
use super::super::output::{self, Format};
use super::{CHECKPOINT_BYTES_MAX, export_at, pinned};
use crate::audit::{self, Check, Fault, Verdict, frames};

/// `consilium audit verify`
#[derive(Debug, Args)]
pub(in crate::cli) struct VerifyArgs {
    /// The export's folder.
    folder: PathBuf,
    /// What you trust: a consortium.toml from your own bundle. If it is not given, the one that whoever
    /// exported put into the folder.
    #[arg(long, value_name = "FILE")]
    consortium: Option<PathBuf>,
    /// A checkpoint that was kept from earlier: the log must go on from it. Several are possible.
    #[arg(long, value_name = "CHECKPOINT")]
    also: Vec<PathBuf>,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Verified {
    sound: bool,
    consortium: String,
    /// The pinned log key.
    log_key: PublicKey,
    log_key_id: KeyId,
    /// The file with what is pinned, and whether it came with the export.
    pinned_by: PathBuf,
    pinned_by_export: bool,
    /// Of the export, if it is one.
    checkpoint: Option<Head>,
    checks: Vec<Row>,
    faults_in_all: u64,
    faults: Vec<Fault>,
}

#[derive(Serialize)]
struct Head {
    records: u64,
    root: String,
}

#[derive(Serialize)]
struct Row {
    check: Check,
    right: u64,
    wrong: u64,
    not_checked: BTreeMap<&'static str, u64>,
}

pub(super) fn run(args: &VerifyArgs) -> Result<(), Failure> {
    let folder = export_at(&args.folder)?;
    let pinned_by_export = args.consortium.is_none();
    let file = args.consortium.clone().unwrap_or_else(|| folder.consortium());
    let (pinned, pinned_by) = pinned(Some(&file), None)?;
    let file = read_file(&folder.checkpoint(), CHECKPOINT_BYTES_MAX).map_err(Failure::failed)?;
    let mut others: Vec<Checkpoint> = Vec::new();
    for path in &args.also {
        let other = read_file(path, CHECKPOINT_BYTES_MAX).map_err(Failure::failed)?;
        let read = frames::read_checkpoint(&other, &pinned);
        others
            .push(read.map_err(|error| Failure::refused(format!("{}: {error}", path.display())))?);
    }
    let kept = folder.kept();
    let verdict = audit::verify(|| folder.open_log(), &file, &others, &pinned, kept.as_ref())
        .map_err(Failure::failed)?;
    let head = frames::read_checkpoint(&file, &pinned).ok();
    let document = Verified {
        sound: verdict.is_sound(),
        consortium: pinned.name.to_string(),
        log_key: pinned.coordinator_log_key,
        log_key_id: pinned.coordinator_log_key.id(),
        pinned_by,
        pinned_by_export,
        checkpoint: head.map(|head| Head { records: head.size, root: hex::encode(head.root) }),
        checks: Check::ALL.iter().map(|check| row(*check, &verdict)).collect(),
        faults_in_all: verdict.faults_in_all(),
        faults: verdict.faults().to_vec(),
    };
    output::show(args.format, &document, words)?;
    if document.sound {
        return Ok(());
    }
    let faults = document.faults_in_all;
    let many = if faults == 1 { "fault was" } else { "faults were" };
    Err(Failure::failed(format!("{faults} {many} found in {}", args.folder.display())))
}

fn row(check: Check, verdict: &Verdict) -> Row {
    let count = verdict.count(check);
    Row { check, right: count.right, wrong: count.wrong, not_checked: count.missing }
}

fn words(document: &Verified) -> String {
    let mut told = format!(
        "consortium {}, log key {} (pinned by {})\n",
        document.consortium,
        document.log_key_id,
        document.pinned_by.display()
    );
    if document.pinned_by_export {
        told += "That file came with the export: if somebody else made it, name your own with --consortium\n";
    }
    if let Some(Head { records, root }) = &document.checkpoint {
        told += &format!("checkpoint over {records} records, root {root}\n");
    }
    let mut table = output::table(&["check", "right", "wrong", "not checked"]);
    for row in &document.checks {
        let missing: Vec<String> =
            row.not_checked.iter().map(|(why, many)| format!("{many} {why}")).collect();
        table.add_row([
            row.check.describe().to_owned(),
            row.right.to_string(),
            row.wrong.to_string(),
            missing.join("\n"),
        ]);
    }
    told += &table.to_string();
    for fault in &document.faults {
        told += &format!("\n{}", clean(&fault.to_string()));
    }
    let untold = document.faults_in_all.saturating_sub(document.faults.len() as u64);
    if untold > 0 {
        told += &format!("\nand {untold} faults more");
    }
    if document.sound {
        told += "\nnothing is wrong with what was checked";
    }
    told
}

/// Fit for a terminal, whatever an export's texts hold.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
