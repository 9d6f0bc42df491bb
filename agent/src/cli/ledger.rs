//! `ledger show | verify | export`: straight from the files, while the daemon runs and when it does not.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use consilium_certs::keys;
use consilium_common::ids::StudyId;
use consilium_common::signed::PublicKey;
use consilium_common::time::{Date, WallMillis};
use serde::Serialize;

use super::{Common, Failure, ledger_words, output};
use crate::config::AgentConfig;
use crate::ledger::entry::Entry;
use crate::ledger::read::Verified;
use crate::ledger::{Line, export, read};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every record in a line, and what has left in sum
    Show {
        /// Only what is of this study
        #[arg(long, value_name = "NAME")]
        study: Option<StudyId>,
        /// Only from this day (UTC) on, such as 2027-03-31
        #[arg(long, value_name = "DATE")]
        since: Option<Date>,
    },
    /// Read all of it: checksums, the tree, its signed head, and why each byte was allowed to leave
    Verify {
        /// An exported ledger instead of this site's own
        file: Option<PathBuf>,
        /// The site's public key for an exported ledger; the one beside this site's certificate if not
        /// given
        #[arg(long, value_name = "FILE", requires = "file")]
        key: Option<PathBuf>,
    },
    /// Write all of it to one file, which can be verified anywhere
    Export {
        /// Where to
        file: PathBuf,
    },
}

pub(super) fn run(common: &Common, command: &Command) -> Result<(), Failure> {
    match command {
        Command::Show { study, since } => show(common, study.as_ref(), *since),
        Command::Verify { file: None, .. } => verify(common),
        Command::Verify { file: Some(file), key } => verify_file(common, file, key.as_deref()),
        Command::Export { file } => write(common, file),
    }
}

/// What left for one study, in sum.
#[derive(Debug, Default, Serialize)]
struct Sum {
    /// Updates of which bytes were let go.
    updates: u64,
    /// Bytes that were let go. What a broken connection made go twice counts twice.
    bytes: u64,
}

/// One record, for scripts.
#[derive(Serialize)]
struct Row<'a> {
    record: u64,
    #[serde(flatten)]
    line: &'a Line,
}

fn show(common: &Common, study: Option<&StudyId>, since: Option<Date>) -> Result<(), Failure> {
    let config = common.load()?;
    let folder = read::folder(&config.site.state).map_err(Failure::failed)?;
    let from = since.map_or(WallMillis(0), Date::begin);
    let mut sums: BTreeMap<StudyId, Sum> = BTreeMap::new();
    let mut separator = "";
    if common.json {
        output::line("{\"entries\": [");
    }
    let shown = read::each(&folder, &mut |record, line| {
        let of_study = study.is_none_or(|study| line.entry.study() == Some(study));
        if line.at < from || !of_study {
            return Ok(());
        }
        if let Entry::Sending(range) = &line.entry {
            let sum = sums.entry(range.study.clone()).or_default();
            sum.updates += u64::from(range.offset == 0);
            sum.bytes += range.bytes;
        }
        if common.json {
            let row = serde_json::to_string(&Row { record, line })?;
            output::line(format!("{separator}  {row}"));
            separator = ",\n";
        } else {
            output::line(ledger_words::in_words(record, line));
        }
        Ok(())
    });
    shown.map_err(Failure::failed)?;
    if common.json {
        let sums = serde_json::to_string(&sums).map_err(Failure::failed)?;
        output::line(format!("],\n\"left\": {sums}}}"));
        return Ok(());
    }
    for (study, Sum { updates, bytes }) in sums {
        output::line(format!("{study}: {updates} updates, {} let go in sum", output::bytes(bytes)));
    }
    Ok(())
}

fn verify(common: &Common) -> Result<(), Failure> {
    let config = common.load()?;
    let folder = read::folder(&config.site.state).map_err(Failure::failed)?;
    let key = own_key(&config)?;
    let verified = read::verify(&folder, &config.site.name, &key).map_err(Failure::failed)?;
    tell(common, &verified)
}

fn verify_file(common: &Common, file: &Path, key: Option<&Path>) -> Result<(), Failure> {
    let key = match key {
        Some(path) => keys::load_public(path).map_err(Failure::usage)?,
        None => own_key(&common.load()?)?,
    };
    let verified = export::verify(file, &key).map_err(Failure::failed)?;
    tell(common, &verified)
}

fn tell(common: &Common, verified: &Verified) -> Result<(), Failure> {
    if common.json {
        return output::json(verified);
    }
    let Verified { records, bytes, root, signed, incomplete_bytes } = verified;
    output::line(format!("whole: {records} records, {}, root {root}", output::bytes(*bytes)));
    let unsigned = records.saturating_sub(*signed);
    output::line(match unsigned {
        0 => "the signed head covers all of them".to_owned(),
        _ => format!("the signed head covers all but the last {unsigned}"),
    });
    if *incomplete_bytes > 0 {
        output::line(format!(
            "{incomplete_bytes} bytes follow of a record that is being written, or that a killed agent \
             was writing"
        ));
    }
    Ok(())
}

fn write(common: &Common, file: &Path) -> Result<(), Failure> {
    if file.symlink_metadata().is_ok_and(|there| !there.is_file()) {
        return Err(Failure::Usage(format!(
            "{}: there is something that is no ordinary file; name a new one",
            file.display()
        )));
    }
    let config = common.load()?;
    let folder = read::folder(&config.site.state).map_err(Failure::failed)?;
    let (site, key) = (&config.site.name, own_key(&config)?);
    // What is handed out was whole when it was.
    read::verify(&folder, site, &key).map_err(Failure::failed)?;
    let records = export::export(&folder, site, &key, file).map_err(Failure::failed)?;
    if common.json {
        return output::json(&serde_json::json!({ "file": file, "records": records }));
    }
    output::line(format!("{records} records written to {}", file.display()));
    Ok(())
}

fn own_key(config: &AgentConfig) -> Result<PublicKey, Failure> {
    keys::load_public(&config.site.certificates().join("site.pub")).map_err(Failure::failed)
}
