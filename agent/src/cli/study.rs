//! `study list | show | accept | refuse`: through the daemon while it runs, else on the state folder
//! itself.

use clap::Subcommand;
use consilium_common::time::Clock;
use consilium_io::SystemClock;

use super::{Common, Failure, daemon, output};
use crate::config::AgentConfig;
use crate::control_socket::{Reply, Request, Which};
use crate::driver::{find_study, study_rows};
use crate::policy::Person;
use crate::report::{StudyDetail, StudyRow};
use crate::state::{Decided, KeptStudy, StateFolder, look_at_studies};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Every study that was offered to this site
    List,
    /// One study: who signed it, and its text
    Show {
        /// NAME or NAME@DIGEST; the digest's first digits are enough
        #[arg(value_parser = which)]
        study: Which,
    },
    /// Take part in a study
    Accept {
        /// NAME@DIGEST: these exact bytes; the digest's first digits are enough
        #[arg(value_parser = exact)]
        study: Which,
    },
    /// Do not take part in a study
    Refuse {
        /// NAME@DIGEST: these exact bytes; the digest's first digits are enough
        #[arg(value_parser = exact)]
        study: Which,
    },
}

/// Digits of a digest that nobody types by chance.
const DIGITS_MIN: usize = 6;

fn which(text: &str) -> Result<Which, String> {
    let (name, digest) = text.split_once('@').unwrap_or((text, ""));
    let digits = digest.chars().all(|c| c.is_ascii_hexdigit());
    let enough = digest.is_empty() || (DIGITS_MIN..=64).contains(&digest.len());
    if !digits || !enough || text.ends_with('@') {
        return Err(format!(
            "after the @ come {DIGITS_MIN} to 64 hexadecimal digits of the study's digest"
        ));
    }
    Ok(Which {
        study: name.parse().map_err(|e: consilium_common::ids::IdError| e.to_string())?,
        digest: digest.to_ascii_lowercase(),
    })
}

/// Whoever decides says about which bytes.
fn exact(text: &str) -> Result<Which, String> {
    let which = which(text)?;
    if which.digest.is_empty() {
        return Err(
            "write NAME@DIGEST, as `consilium-agent study list` shows it: a decision is about \
             exact bytes"
                .to_owned(),
        );
    }
    Ok(which)
}

pub(super) async fn run(common: &Common, command: Command) -> Result<(), Failure> {
    let config = common.load()?;
    match command {
        Command::List => list(common, &config).await,
        Command::Show { study } => show(common, &config, study).await,
        Command::Accept { study } => decide(common, &config, study, Person::Accepted).await,
        Command::Refuse { study } => decide(common, &config, study, Person::Refused).await,
    }
}

async fn list(common: &Common, config: &AgentConfig) -> Result<(), Failure> {
    let rows = match daemon::asked(&config.site.state, &Request::StudyList).await {
        Ok(Reply::StudyList { studies }) => studies,
        Ok(_) => return Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => {
            let studies = look_at_studies(&config.site.state).map_err(Failure::failed)?;
            study_rows(&studies, |kept| has_data(config, kept))
        }
        Err(failure) => return Err(failure),
    };
    if common.json {
        return output::json(&rows);
    }
    if rows.is_empty() {
        output::line("no study has been offered to this site yet");
        return Ok(());
    }
    output::line(table(&rows));
    Ok(())
}

fn table(rows: &[StudyRow]) -> comfy_table::Table {
    let mut table =
        output::table(&["study", "version", "decided", "family", "mode", "data", "purpose"]);
    for row in rows {
        let data = if row.has_data { "yes" } else { "none configured" };
        table.add_row([
            format!("{}@{}", row.study, row.digest.short()),
            row.version.to_string(),
            row.decision().to_owned(),
            row.family.clone(),
            format!("{:?}", row.mode).to_lowercase(),
            data.to_owned(),
            row.purpose.clone(),
        ]);
    }
    table
}

async fn show(common: &Common, config: &AgentConfig, which: Which) -> Result<(), Failure> {
    let request = Request::StudyShow(which.clone());
    let detail = match daemon::asked(&config.site.state, &request).await {
        Ok(Reply::StudyShow(detail)) => *detail,
        Ok(_) => return Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => {
            let studies = look_at_studies(&config.site.state).map_err(Failure::failed)?;
            let kept = find_study(&studies, &which).map_err(Failure::Failed)?;
            StudyDetail::of(kept, has_data(config, kept))
        }
        Err(failure) => return Err(failure),
    };
    if common.json {
        return output::json(&detail);
    }
    output::line(table(std::slice::from_ref(&detail.row)));
    let keys: Vec<String> = detail.signed_by.iter().map(ToString::to_string).collect();
    output::line(format!("digest {}", detail.row.digest));
    if let Some(decided) = &detail.row.decided {
        output::line(format!("{} by {}", detail.row.decision(), decided.by));
    }
    output::line(format!("signed by {}\n", keys.join(", ")));
    output::line(detail.text);
    Ok(())
}

async fn decide(
    common: &Common,
    config: &AgentConfig,
    which: Which,
    person: Person,
) -> Result<(), Failure> {
    let request = Request::StudyDecide { which: which.clone(), person, by: user() };
    let row = match daemon::asked(&config.site.state, &request).await {
        Ok(Reply::StudyDecided(row)) => *row,
        Ok(_) => return Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => decide_alone(config, &which, person)?,
        Err(failure) => return Err(failure),
    };
    if common.json {
        return output::json(&row);
    }
    output::line(format!("{}@{}: {}", row.study, row.digest.short(), row.decision()));
    Ok(())
}

/// No daemon runs: the decision is written here, and judged by the policy when one starts.
fn decide_alone(config: &AgentConfig, which: &Which, person: Person) -> Result<StudyRow, Failure> {
    let mut state = StateFolder::open(&config.site.state).map_err(Failure::failed)?;
    let kept = find_study(&state.studies, which).map_err(Failure::Failed)?;
    let digest = kept.digest;
    let decided = Decided { person, at: SystemClock::open().wall(), by: user() };
    state.studies.decide(digest, decided).map_err(Failure::failed)?;
    let kept = state.studies.get(&digest);
    let kept = kept.ok_or_else(|| Failure::Failed("the study is gone".to_owned()))?;
    Ok(StudyRow::of(kept, has_data(config, kept)))
}

fn has_data(config: &AgentConfig, kept: &KeptStudy) -> bool {
    config.data.contains_key(kept.study.id())
}

/// Who decides, for the record: the user's name on this machine.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()))
        .unwrap_or_else(|| "an unnamed user".to_owned())
}
