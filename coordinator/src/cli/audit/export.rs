//! `consilium audit export`: the log up to a signed checkpoint, checked against what was exported before.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args;
use consilium_certs::consortium::Consortium;
use consilium_common::audit::{Checkpoint, Outcome, Record, RollCall};
use consilium_common::ids::Digest;
use consilium_io::IoError;
use consilium_io::disk::text::{TextError, read_file};
use consilium_io::disk::{Log, create_folder, replace};
use serde::Serialize;

use super::super::client::Client;
use super::super::output::{self, Format};
use super::super::{Connection, Failure};
use super::fetch::{self, Brought, Part};
use super::{CHECKPOINT_BYTES_MAX, pinned};
use crate::audit::{Folder, frames};

/// What comes, before it is believed.
const INCOMING: &str = "incoming";
/// Folders of evidence that two histories were signed.
const CONTRADICTION: &str = "contradiction-";

/// `consilium audit export`
#[derive(Debug, Args)]
pub(in crate::cli) struct ExportArgs {
    /// The folder: a new one, or one with an earlier export, which the log must go on from.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// Also bring models, strategies' states and preparations, and the updates that the coordinator
    /// retained: what is needed to recompute rounds.
    #[arg(long)]
    models: bool,
    /// What you trust: the consortium's name, its log key and operators' keys; from your own bundle if not
    /// given. Never take it from the coordinator.
    #[arg(long, value_name = "FILE")]
    consortium: Option<PathBuf>,
    /// Read the state folder of a coordinator, or a copy of it, instead of asking a running one.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// The coordinator, as HOST:PORT.
    #[arg(
        long,
        env = "CONSILIUM_COORDINATOR",
        value_name = "HOST:PORT",
        required_unless_present = "state"
    )]
    coordinator: Option<String>,
    /// The auditor's or operator's bundle folder, from `consilium ca issue`.
    #[arg(long, env = "CONSILIUM_IDENTITY", value_name = "DIR", required_unless_present = "state")]
    identity: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Exported {
    folder: PathBuf,
    consortium: String,
    records: u64,
    root: String,
    /// Of an earlier export in the folder that this one goes on from.
    goes_on_from: Option<u64>,
    models: u64,
    updates: u64,
    /// All that are not there, and how many of them are updates: those were not retained.
    missing: u64,
    updates_missing: u64,
}

pub(super) fn run(args: &ExportArgs) -> Result<(), Failure> {
    let (pinned, _) = pinned(args.consortium.as_deref(), args.identity.as_deref())?;
    refuse_foreign(&args.out)?;
    create_folder(&args.out).map_err(Failure::failed)?;
    let folder = Folder::at(&args.out);
    let earlier = earlier(&folder, &pinned)?;
    let incoming = Incoming::new(&folder)?;
    let (checkpoint, brought) = match (&args.state, &args.coordinator, &args.identity) {
        (Some(state), _, _) => {
            let file = fetch::from_state(state, &incoming.0)?;
            let checkpoint = incoming.install(&folder, &file, &pinned, earlier.as_ref())?;
            let wanted = wanted(args.models, &folder)?;
            let brought = wanted.map(|wanted| fetch::copy(state, &folder, &wanted));
            (checkpoint, brought.transpose()?)
        }
        (None, Some(coordinator), Some(identity)) => super::super::on_runtime(async {
            let (coordinator, identity) = (coordinator.clone(), identity.clone());
            let client = Client::connect(&Connection { coordinator, identity }).await?;
            let file = fetch::from_coordinator(&client, &incoming.0).await?;
            let checkpoint = incoming.install(&folder, &file, &pinned, earlier.as_ref())?;
            let brought = match wanted(args.models, &folder)? {
                Some(wanted) => Some(fetch::bring(&client, &folder, &wanted).await?),
                None => None,
            };
            client.close().await;
            Ok((checkpoint, brought))
        })?,
        (None, _, _) => return Err(Failure::usage("--coordinator and --identity, or --state")),
    };
    let Brought { models, updates, models_missing, updates_missing } = brought.unwrap_or_default();
    let exported = Exported {
        folder: args.out.clone(),
        consortium: pinned.name.to_string(),
        records: checkpoint.size,
        root: hex::encode(checkpoint.root),
        goes_on_from: earlier.map(|earlier| earlier.size),
        models,
        updates,
        missing: models_missing + updates_missing,
        updates_missing,
    };
    output::show(args.format, &exported, |exported| words(exported, args.models))
}

fn words(exported: &Exported, with_models: bool) -> String {
    let folder = exported.folder.display();
    let (records, root) = (exported.records, &exported.root);
    let mut told = format!("exported {records} records, root {root}: {folder}");
    if let Some(earlier) = exported.goes_on_from {
        told += &format!("\nthey go on from the {earlier} that were exported before");
    }
    if with_models {
        let Exported { models, updates, missing, updates_missing, .. } = exported;
        told += &format!("\n{models} models and states, {updates} updates");
        match missing.saturating_sub(*updates_missing) {
            0 => {}
            missing => told += &format!("; {missing} models or states are not there"),
        }
        match updates_missing {
            0 => {}
            1 => told += "; 1 update was not retained",
            many => told += &format!("; {many} updates were not retained"),
        }
    }
    told + &format!("\nnext: `consilium audit verify {folder}`")
}

/// A folder with anything in it that no export has is somebody else's: a coordinator's state, whose log this
/// would exchange under it, or the CA's.
fn refuse_foreign(out: &Path) -> Result<(), Failure> {
    if !out.exists() {
        return Ok(());
    }
    let read = |error| Failure::failed(IoError::at("read the folder", out)(error));
    for entry in out.read_dir().map_err(read)? {
        let name = entry.map_err(read)?.file_name();
        let name = name.to_string_lossy();
        if !Folder::has(&name) && name != INCOMING && !name.starts_with(CONTRADICTION) {
            return Err(Failure::refused(format!(
                "{} is no export: {name} is in it. Name a new folder, or one with an earlier export and nothing \
                 else",
                out.display()
            )));
        }
    }
    Ok(())
}

/// The checkpoint of an earlier export.
fn earlier(folder: &Folder, pinned: &Consortium) -> Result<Option<Checkpoint>, Failure> {
    let path = folder.checkpoint();
    let file = match read_file(&path, CHECKPOINT_BYTES_MAX) {
        Ok(file) => file,
        Err(TextError::Missing { .. }) => return Ok(None),
        Err(error) => return Err(Failure::failed(error)),
    };
    let read = frames::read_checkpoint(&file, pinned).map(Some);
    read.map_err(|error| {
        let path = path.display();
        Failure::refused(format!(
            "{path} is no checkpoint that you can rely on: {error}. Name a new folder"
        ))
    })
}

/// What came, before it is believed.
struct Incoming(Folder);

impl Incoming {
    fn new(folder: &Folder) -> Result<Self, Failure> {
        let path = folder.path().join(INCOMING);
        if path.is_dir() {
            let cleared = std::fs::remove_dir_all(&path);
            cleared.map_err(IoError::at("remove", &path)).map_err(Failure::failed)?;
        }
        create_folder(&path).map_err(Failure::failed)?;
        Ok(Self(Folder::at(&path)))
    }

    /// Puts what came in the place of the earlier export, if it is what its checkpoint says and goes on from
    /// that one. If it does not, two signed checkpoints contradict each other, and both are kept.
    fn install(
        &self,
        folder: &Folder,
        file: &[u8],
        pinned: &Consortium,
        earlier: Option<&Checkpoint>,
    ) -> Result<Checkpoint, Failure> {
        let checkpoint = frames::read_checkpoint(file, pinned)
            .map_err(|error| Failure::refused(format!("the checkpoint is refused: {error}")))?;
        let sizes: Vec<u64> =
            earlier.into_iter().chain([&checkpoint]).map(|head| head.size).collect();
        let log = self.0.open_log().map_err(Failure::failed)?;
        let found = frames::read(&self.0.log(), log, &sizes).map_err(Failure::failed)?;
        let whole = (found.report.records, found.report.dropped_bytes) == (checkpoint.size, 0);
        if !whole || found.root != checkpoint.root {
            let told =
                "the log is not the one that its checkpoint was signed over: nothing was kept";
            return Err(Failure::refused(told));
        }
        let holds = |earlier: &Checkpoint| found.roots.get(&earlier.size) == Some(&earlier.root);
        if let Some(earlier) = earlier.filter(|earlier| !holds(earlier)) {
            return Err(self.keep_as_evidence(folder, file, (earlier, &checkpoint)));
        }
        let (from, to) = (self.0.log(), folder.log());
        let moved = std::fs::rename(&from, &to).map_err(IoError::at("rename a file to", &to));
        moved.map_err(Failure::failed)?;
        replace(&folder.checkpoint(), file).map_err(Failure::failed)?;
        pinned.store(&folder.consortium()).map_err(Failure::failed)?;
        self.clear()?;
        Ok(checkpoint)
    }

    fn clear(&self) -> Result<(), Failure> {
        let path = self.0.path();
        std::fs::remove_dir_all(path).map_err(IoError::at("remove", path)).map_err(Failure::failed)
    }

    fn keep_as_evidence(
        &self,
        folder: &Folder,
        file: &[u8],
        (earlier, later): (&Checkpoint, &Checkpoint),
    ) -> Failure {
        let root = hex::encode(later.root.get(..6).unwrap_or_default());
        let name = format!("{CONTRADICTION}{}-{root}", later.size);
        let place = folder.path().join(name);
        let kept = replace(&self.0.checkpoint(), file).map_err(Failure::failed).and_then(|()| {
            std::fs::rename(self.0.path(), &place)
                .map_err(IoError::at("rename a folder to", &place))
                .map_err(Failure::failed)
        });
        let where_to = match kept {
            Ok(()) => format!("what came now is kept in {}", place.display()),
            Err(error) => format!("what came now could not be kept: {error}"),
        };
        Failure::refused(format!(
            "the coordinator's history is another than the one exported before: it signed {} records with \
             root {}, and now {} records that do not begin with those. The export is as it was, and \
             {where_to}. Together the two checkpoints prove it",
            earlier.size,
            hex::encode(earlier.root),
            later.size
        ))
    }
}

/// The blobs that the records name, if they are wanted.
fn wanted(with_models: bool, folder: &Folder) -> Result<Option<BTreeMap<Digest, Part>>, Failure> {
    with_models.then(|| named(&folder.log())).transpose()
}

fn named(log: &Path) -> Result<BTreeMap<Digest, Part>, Failure> {
    let mut wanted = BTreeMap::new();
    Log::read(log, 0, |at| {
        match Record::decode(at.kind, at.payload)? {
            Some(Record::StudySubmitted(submitted)) => {
                if let Some(initial) = submitted.signed.parse_unverified()?.initial {
                    wanted.insert(initial.model, Part::Model);
                }
            }
            Some(Record::RollCall(ended)) => {
                of_roll_call(&ended.signed.parse_unverified()?, &mut wanted)
            }
            Some(
                Record::Roster(_)
                | Record::StudyState(_)
                | Record::Plan(_)
                | Record::Training(_)
                | Record::Receipt(_)
                | Record::Command(_)
                | Record::Refusal(_)
                | Record::Invitation(_)
                | Record::EnrolRequest(_)
                | Record::Approval(_)
                | Record::Certificate(_)
                | Record::Revocation(_)
                | Record::RosterSignature(_)
                | Record::Withdrawal(_)
                | Record::Retrained(_)
                | Record::Proposal(_),
            )
            | None => {}
        }
        Ok(())
    })
    .map_err(Failure::failed)?;
    Ok(wanted)
}

fn of_roll_call(call: &RollCall, wanted: &mut BTreeMap<Digest, Part>) {
    let counted = call.sites.iter().filter(|(site, _)| call.counted(site));
    wanted.extend(counted.filter_map(|(_, entry)| Some((entry.update?, Part::Update))));
    let (first, second) = match call.outcome {
        Outcome::Committed { model, strategy_state, .. } => (Some(model), strategy_state),
        Outcome::Prepared { preparation, .. } => (Some(preparation), None),
        Outcome::Evaluated { .. } | Outcome::Abandoned { .. } => (None, None),
    };
    wanted.extend(first.into_iter().chain(second).map(|blob| (blob, Part::Model)));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_with_anything_else_in_it_is_no_export() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path();
        assert!(refuse_foreign(&out.join("new")).is_ok());
        for name in ["log", "checkpoint", "consortium.toml", "blobs", "updates", "incoming"] {
            create_folder(&out.join(name)).unwrap();
        }
        create_folder(&out.join("contradiction-7-ab")).unwrap();
        assert!(refuse_foreign(out).is_ok(), "an export, and what it may have left");
        create_folder(&out.join("lock")).unwrap();
        let told = refuse_foreign(out).unwrap_err().message;
        assert!(told.contains("is no export: lock is in it"), "{told}");
    }
}
