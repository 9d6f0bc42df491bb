//! `consilium roster`: who takes part, and the next list that operators sign.

use clap::Subcommand;
use consilium_certs::roster::Roster;
use consilium_common::signed::{Document, SecretKey};
use consilium_common::wire::operator::Request;

use super::output::{self, Format};
use super::site::signer;
use super::study::ask;
use super::{Connection, Failure};
use crate::document::{MembersDocument, ProposalDocument, RosterSignDocument};

/// `consilium roster …`
#[derive(Debug, Subcommand)]
pub(super) enum RosterCommand {
    /// The roster in force, and the next one with what it changes.
    Show {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Sign the next roster. It is in force once as many operators as needed have.
    Sign {
        /// The version that you looked at (`consilium roster show`).
        #[arg(long, value_name = "N")]
        version: u64,
        #[command(flatten)]
        connection: Connection,
    },
}

pub(super) fn run(command: RosterCommand) -> Result<(), Failure> {
    match command {
        RosterCommand::Show { connection, format } => {
            let members: MembersDocument = ask(&connection, &Request::Members)?;
            output::show(format, &members, roster_text)
        }
        RosterCommand::Sign { version, connection } => {
            let (_, key) = signer(&connection)?;
            let members: MembersDocument = ask(&connection, &Request::Members)?;
            let next = members.proposal.filter(|next| next.version == version);
            let next = next.ok_or_else(|| {
                Failure::refused(format!(
                    "no roster of version {version} waits for signatures: look at `consilium roster \
                     show` again"
                ))
            })?;
            sign(&connection, &key, &next, members.signatures_needed)
        }
    }
}

/// Signs the next roster if it is the change that the operator has just made and nothing else; says
/// what is to be done otherwise.
pub(super) fn sign_if_only(
    connection: &Connection,
    key: &SecretKey,
    is_it: impl FnOnce(&ProposalDocument) -> bool,
) -> Result<(), Failure> {
    let members: MembersDocument = ask(connection, &Request::Members)?;
    let Some(next) = members.proposal else {
        return Ok(());
    };
    if is_it(&next) {
        return sign(connection, key, &next, members.signatures_needed);
    }
    output::line(proposal_line(&next, members.signatures_needed));
    Ok(())
}

fn sign(
    connection: &Connection,
    key: &SecretKey,
    next: &ProposalDocument,
    needed: usize,
) -> Result<(), Failure> {
    let text = next.text.clone().into_bytes();
    // What is signed is what is shown: a coordinator that proposes another text is found out here.
    let roster = Roster::parse(&text).map_err(Failure::failed)?;
    let names = |site| roster.contains(site);
    if roster.version() != next.version || !next.joins.iter().all(names) {
        return Err(Failure::failed(
            "the proposed roster does not say what the coordinator says of it",
        ));
    }
    let signature = key.sign(Roster::DOMAIN, &text);
    let done: RosterSignDocument = ask(connection, &Request::RosterSign { text, signature })?;
    output::line(if done.in_force {
        format!("roster version {} is signed and in force", next.version)
    } else {
        format!(
            "roster version {} is signed; {needed} operators are needed, the others run `consilium \
             roster sign --version {}`",
            next.version, next.version
        )
    });
    Ok(())
}

/// What the next roster changes, and what is to be done.
pub(super) fn proposal_line(next: &ProposalDocument, needed: usize) -> String {
    let names = |sites: &[consilium_common::ids::SiteId]| {
        sites.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let mut changes = Vec::new();
    if !next.joins.is_empty() {
        changes.push(format!("{} in", names(&next.joins)));
    }
    if !next.leaves.is_empty() {
        changes.push(format!("{} out", names(&next.leaves)));
    }
    format!(
        "roster version {} waits ({}): {} of {needed} signatures; `consilium roster sign --version {}`",
        next.version,
        changes.join(", "),
        next.signatures,
        next.version
    )
}

fn roster_text(members: &MembersDocument) -> String {
    let mut table = output::table(&["site", "key"]);
    for one in &members.sites {
        table.add_row([one.site.to_string(), one.key.to_string()]);
    }
    let mut text = format!(
        "consortium {}, roster version {}\n{table}",
        members.consortium, members.roster_version
    );
    if let Some(next) = &members.proposal {
        text.push('\n');
        text.push_str(&proposal_line(next, members.signatures_needed));
        text.push_str("\n\n");
        text.push_str(&next.text);
    }
    text
}
