//! `consilium site`: invite hospitals, approve their requests, put them out.

use clap::{Args, Subcommand};
use consilium_certs::bundle::OperatorBundle;
use consilium_common::enrol::{Approval, Fingerprint, Revocation, Secret, Token};
use consilium_common::ids::{ConsortiumId, SiteId};
use consilium_common::limits::TEXT_BYTES_MAX;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::is_plain_text;
use consilium_common::time::Clock;
use consilium_common::wire::operator::Request;
use consilium_io::SystemClock;
use zeroize::Zeroizing;

use super::output::{self, Format};
use super::study::ask;
use super::{Connection, Failure, roster};
use crate::document::{InviteDocument, MembersDocument, RevokeDocument};

/// `consilium site …`
#[derive(Debug, Subcommand)]
pub(super) enum SiteCommand {
    /// Make a one-time token with which a hospital's agent enrols. It works for one day.
    Invite(InviteArgs),
    /// Who belongs, who waits for approval, who was put out.
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Vouch for a site's request: its certificate is made, and the next roster has it.
    Approve(ApproveArgs),
    /// Put a site out: its connection ends, and its key works no more. It comes back only if it is invited anew
    /// and enrols with a new key.
    Revoke(RevokeArgs),
}

/// `consilium site invite`
#[derive(Debug, Args)]
pub(super) struct InviteArgs {
    /// The site's name: 1 to 63 of a-z, 0-9 and '-'.
    name: SiteId,
    /// Where the site's agent finds the coordinator, if not where you do.
    #[arg(long, value_name = "HOST:PORT")]
    address: Option<String>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// `consilium site approve`
#[derive(Debug, Args)]
pub(super) struct ApproveArgs {
    /// The site's name.
    name: SiteId,
    /// What the site's admin reads to you: not what this coordinator shows.
    #[arg(long, value_name = "FINGERPRINT")]
    fingerprint: Fingerprint,
    #[command(flatten)]
    connection: Connection,
}

/// `consilium site revoke`
#[derive(Debug, Args)]
pub(super) struct RevokeArgs {
    /// The site's name.
    name: SiteId,
    /// In a sentence; it stands in the log, and the site is told.
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    reason: String,
    #[command(flatten)]
    connection: Connection,
}

pub(super) fn run(command: SiteCommand) -> Result<(), Failure> {
    match command {
        SiteCommand::Invite(args) => invite(args),
        SiteCommand::List { connection, format } => {
            let members: MembersDocument = ask(&connection, &Request::Members)?;
            output::show(format, &members, members_text)
        }
        SiteCommand::Approve(args) => approve(&args),
        SiteCommand::Revoke(args) => revoke(args),
    }
}

/// Who signs, of which consortium.
pub(super) fn signer(connection: &Connection) -> Result<(ConsortiumId, SecretKey), Failure> {
    let bundle = operator(connection)?;
    Ok((bundle.credentials.identity.consortium, bundle.operator_key))
}

/// The operator's bundle.
fn operator(connection: &Connection) -> Result<OperatorBundle, Failure> {
    let now = SystemClock::open().wall();
    OperatorBundle::load(connection.bundle()?, now).map_err(Failure::failed)
}

fn invite(args: InviteArgs) -> Result<(), Failure> {
    let bundle = operator(&args.connection)?;
    let mut bytes = Zeroizing::new([0; 32]);
    getrandom::fill(&mut *bytes)
        .map_err(|error| Failure::failed(format!("the system gives no random bytes: {error}")))?;
    let secret = Secret::new(*bytes);
    let request = Request::SiteInvite { site: args.name.clone(), token: secret.hash() };
    let invited: InviteDocument = ask(&args.connection, &request)?;
    let token = Token {
        consortium: bundle.credentials.identity.consortium.clone(),
        site: args.name,
        coordinator: args.address.unwrap_or_else(|| args.connection.coordinator.clone()),
        root: bundle.credentials.root_fingerprint(),
        secret,
    };
    let document = serde_json::json!({
        "site": invited.site, "until": invited.until, "token": token.to_string(),
    });
    output::show(args.format, &document, |_| {
        format!(
            "{token}\n\nThis works once, for site {}, until {}. Whoever has it can ask to be {}: give \
             it to the\nsite's admin by a way that you trust. There: `consilium-agent enroll TOKEN`, \
             which shows a fingerprint.\nHave it read to you, then: `consilium site approve {} \
             --fingerprint …`",
            invited.site,
            output::date(invited.until),
            invited.site,
            invited.site
        )
    })
}

fn approve(args: &ApproveArgs) -> Result<(), Failure> {
    let (consortium, key) = signer(&args.connection)?;
    let members: MembersDocument = ask(&args.connection, &Request::Members)?;
    let waiting = members.requests.iter().find(|request| request.site == args.name);
    let request = waiting.ok_or_else(|| {
        Failure::refused(format!("site {} has no request: has it enrolled yet?", args.name))
    })?;
    // The digest comes from the coordinator, and what people compared is its head.
    if Fingerprint::of(request.request) != args.fingerprint {
        return Err(Failure::refused(format!(
            "the request of site {} that came here has another fingerprint ({}). Have it read to you once \
             more. If it still differs, somebody else may have used the token: do not approve, invite the \
             site anew",
            args.name, request.fingerprint
        )));
    }
    let word = Approval { consortium, site: args.name.clone(), request: request.request };
    let signed = Signed::sign(word.to_bytes().map_err(Failure::failed)?, &key);
    let _done: () = ask(&args.connection, &Request::SiteApprove { signed })?;
    output::line(format_args!("approved {}: its certificate is made", args.name));
    roster::sign_if_only(&args.connection, &key, |next| {
        next.joins == [args.name.clone()] && next.leaves.is_empty()
    })
}

/// A sentence that hospitals and auditors read on their terminals.
fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() || text.len() > TEXT_BYTES_MAX {
        return Err(format!("1 to {TEXT_BYTES_MAX} bytes are accepted"));
    }
    if !is_plain_text(text) {
        return Err("control and direction characters are not accepted".to_owned());
    }
    Ok(text.to_owned())
}

fn revoke(args: RevokeArgs) -> Result<(), Failure> {
    let (consortium, key) = signer(&args.connection)?;
    let members: MembersDocument = ask(&args.connection, &Request::Members)?;
    let asking = members.requests.iter().find(|one| one.site == args.name).map(|one| one.key);
    let in_roster = members.sites.iter().find(|one| one.site == args.name).map(|one| one.key);
    let site_key = asking.or(in_roster).ok_or_else(|| nobody(&members, &args.name))?;
    let word = Revocation { consortium, site: args.name.clone(), site_key, reason: args.reason };
    let signed = Signed::sign(word.to_bytes().map_err(Failure::failed)?, &key);
    let done: RevokeDocument = ask(&args.connection, &Request::SiteRevoke { signed })?;
    output::line(format_args!("{} is out", args.name));
    if let Some(trouble) = done.ca {
        output::line(format_args!(
            "the issuing CA was not told ({trouble}): the coordinator refuses the site all the same"
        ));
    }
    roster::sign_if_only(&args.connection, &key, |next| {
        next.leaves == [args.name.clone()] && next.joins.is_empty()
    })
}

/// Why there is nobody to put out.
fn nobody(members: &MembersDocument, name: &SiteId) -> Failure {
    Failure::refused(match members.revoked.iter().find(|one| one.site == *name) {
        Some(one) => format!("site {name} is out already ({})", one.reason),
        None => format!("there is no site {name}: `consilium site list` shows all"),
    })
}

fn members_text(members: &MembersDocument) -> String {
    let mut table = output::table(&["site", "", "fingerprint", "certificate until"]);
    let approved = |site: &SiteId| members.requests.iter().find(|one| one.site == *site);
    for one in &members.sites {
        let state = match (one.revoked, one.connected) {
            (true, _) => "revoked",
            (false, true) => "connected",
            (false, false) => "absent",
        };
        let enrolled = approved(&one.site);
        let fingerprint = enrolled.map(|one| one.fingerprint.to_string()).unwrap_or_default();
        let until = enrolled.and_then(|one| one.certificate_until).map(output::date);
        table.add_row([one.site.to_string(), state.into(), fingerprint, until.unwrap_or_default()]);
    }
    let in_roster = |site: &SiteId| members.sites.iter().any(|one| one.site == *site);
    for one in members.requests.iter().filter(|one| !in_roster(&one.site)) {
        let state = if one.approved { "waits for the roster" } else { "waits for approval" };
        let until = one.certificate_until.map(output::date).unwrap_or_default();
        table.add_row([one.site.to_string(), state.into(), one.fingerprint.to_string(), until]);
    }
    for one in &members.invitations {
        let state = format!("invited until {}", output::date(one.until));
        table.add_row([one.site.to_string(), state, String::new(), String::new()]);
    }
    let mut text = format!(
        "consortium {}, roster version {}\n{table}",
        members.consortium, members.roster_version
    );
    for one in &members.revoked {
        let (site, key, reason) = (&one.site, one.key.id(), &one.reason);
        text.push_str(&format!("\nrevoked: {site} with the key {key} ({reason})"));
    }
    if let Some(next) = &members.proposal {
        text.push('\n');
        text.push_str(&roster::proposal_line(next, members.signatures_needed));
    }
    text
}
