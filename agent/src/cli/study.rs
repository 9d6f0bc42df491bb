//! `study list | show | accept | refuse`: through the daemon while it runs, else on the state folder
//! itself.

use clap::{Args, Subcommand};
use consilium_certs::keys;
use consilium_common::time::Clock;
use consilium_io::SystemClock;

use super::person::Said;
use super::{Common, Failure, daemon, output};
use crate::config::AgentConfig;
use crate::control_socket::{Reply, Request, Which, Word};
use crate::driver::{find_study, ledger_word, said, study_rows};
use crate::ledger::Ledger;
use crate::policy::Person;
use crate::report::{StudyDetail, StudyRow};
use crate::state::{StateFolder, look_at_studies};

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
    Accept(Decision),
    /// Do not take part in a study
    Refuse(Decision),
}

/// A person's decision about exact bytes; it is written into the site's ledger.
#[derive(Debug, Args)]
pub(super) struct Decision {
    /// NAME@DIGEST: these exact bytes; the digest's first 8 digits are enough
    #[arg(value_parser = exact)]
    study: Which,
    #[command(flatten)]
    said: Said,
}

/// Digits of a digest that nobody types by chance.
const DIGITS_MIN: usize = 8;

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
        Command::Accept(decision) => decide(common, &config, decision, Person::Accepted).await,
        Command::Refuse(decision) => decide(common, &config, decision, Person::Refused).await,
    }
}

async fn list(common: &Common, config: &AgentConfig) -> Result<(), Failure> {
    let rows = match daemon::asked(&config.site.state, &Request::StudyList).await {
        Ok(Reply::StudyList { studies }) => studies,
        Ok(_) => return Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => {
            let studies = look_at_studies(&config.site.state).map_err(Failure::failed)?;
            study_rows(&studies, config, config.policy.as_ref())
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
            row.decision(),
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
            StudyDetail::of(kept, config, config.policy.as_ref())
        }
        Err(failure) => return Err(failure),
    };
    if common.json {
        return output::json(&detail);
    }
    output::line(table(std::slice::from_ref(&detail.row)));
    let keys: Vec<String> = detail.signed_by.iter().map(ToString::to_string).collect();
    output::line(format!("digest {}", detail.row.digest));
    show_decided(&detail.row);
    if let Some(until) = detail.row.governance.approved_until {
        output::line(format!("approved until {until} (UTC)"));
    }
    output::line(format!("signed by {}\n", keys.join(", ")));
    output::line(detail.text);
    Ok(())
}

/// Who said what, when and why.
fn show_decided(row: &StudyRow) {
    let Some(decided) = &row.decided else {
        return;
    };
    let words = decided.accepted.iter().map(|said| ("accepted", said));
    for (word, said) in words.chain(decided.refused.iter().map(|said| ("refused", said))) {
        let at = output::instant(said.at);
        let reason =
            if said.reason.is_empty() { "no reason was asked for then" } else { &said.reason };
        output::line(format!("{word} by {} at {at}: {reason} [{}]", said.by, said.account));
    }
    if decided.refused.is_none() && !decided.is_accepted(row.approvers_needed) {
        output::line(format!("{} people are needed, each another one", row.approvers_needed));
    }
}

async fn decide(
    common: &Common,
    config: &AgentConfig,
    decision: Decision,
    person: Person,
) -> Result<(), Failure> {
    let Decision { study: which, said } = decision;
    let word = said.word();
    let request = Request::StudyDecide { which: which.clone(), person, word: word.clone() };
    let row = match daemon::asked(&config.site.state, &request).await {
        Ok(Reply::StudyDecided(row)) => *row,
        Ok(_) => return Err(daemon::unexpected()),
        Err(Failure::Unreachable(_)) => decide_alone(config, &which, person, word)?,
        Err(failure) => return Err(failure),
    };
    if common.json {
        return output::json(&row);
    }
    output::line(format!("{}@{}: {}", row.study, row.digest.short(), row.decision()));
    Ok(())
}

/// No daemon runs: the decision is written here, and judged by the policy when one starts.
fn decide_alone(
    config: &AgentConfig,
    which: &Which,
    person: Person,
    word: Word,
) -> Result<StudyRow, Failure> {
    let mut state = StateFolder::open(&config.site.state).map_err(Failure::failed)?;
    let kept = find_study(&state.studies, which).cloned().map_err(Failure::Failed)?;
    let key = keys::load(&config.site.certificates().join("site.key")).map_err(Failure::failed)?;
    let at = SystemClock::open().wall();
    // In the ledger first, as the daemon does.
    let ledger = Ledger::open(&state.ledger(), &config.site.name, &key).map_err(Failure::failed)?;
    ledger.record(ledger_word(&kept, person, &word), at).map_err(Failure::failed)?;
    let decided = kept.decided.clone().unwrap_or_default().with(person, said(word, at));
    state.studies.decide(kept.digest, decided).map_err(Failure::failed)?;
    let kept = state.studies.get(&kept.digest).unwrap_or(&kept);
    Ok(StudyRow::of(kept, config, config.policy.as_ref()))
}
