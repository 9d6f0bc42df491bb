//! `roster show | accept`: who else is in the consortium, as this site goes by it.

use clap::Subcommand;

use super::person::Said;
use super::{Common, Failure, daemon, output};
use crate::control_socket::{Reply, Request};
use crate::roster::RosterStatus;

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// The roster that this site goes by, and the next one with what it changes
    Show,
    /// Go by the roster that waits for a person (`roster = "manual"` in [policy])
    Accept {
        /// The version that you looked at (`roster show`)
        #[arg(value_name = "VERSION")]
        number: u64,
        #[command(flatten)]
        said: Said,
    },
}

pub(super) async fn run(common: &Common, command: Command) -> Result<(), Failure> {
    let config = common.load()?;
    let request = match command {
        Command::Show => Request::Status,
        Command::Accept { number, said } => {
            Request::RosterAccept { version: number, word: said.word() }
        }
    };
    let reply = daemon::asked(&config.site.state, &request).await?;
    let roster = if let Reply::Status(status) = reply {
        status.roster
    } else if let Reply::Roster(roster) = reply {
        roster
    } else {
        return Err(daemon::unexpected());
    };
    if common.json {
        return output::json(&roster);
    }
    output::line(in_words(&roster));
    if !roster.sites.is_empty() {
        let mut table = output::table(&["site", "key"]);
        for member in &roster.sites {
            table.add_row([member.site.to_string(), member.key.clone()]);
        }
        output::line(table.to_string());
    }
    Ok(())
}

/// The roster, in a line.
pub(super) fn in_words(roster: &RosterStatus) -> String {
    let known = match roster.version {
        Some(version) => format!("roster version {version}, {} sites", roster.sites.len()),
        None => "roster: none is accepted yet".to_owned(),
    };
    match &roster.waiting {
        None => known,
        Some(next) => {
            let version = next.version;
            format!(
                "{known}; version {version} waits for a decision, {}: `consilium-agent roster accept {version} \
                 --by PERSON --reason TEXT`",
                next.change
            )
        }
    }
}
