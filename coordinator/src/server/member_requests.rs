//! What operators ask and say of members. Each command is a record of the log, done or refused, beside
//! the records that it causes.

use consilium_certs::identity::Identity;
use consilium_common::wire::operator::Request;
use serde::Serialize;

use super::Server;
use super::operator_session::{Fault, commander, json, note};
use crate::document::{
    ApplicantLine, InvitationLine, InviteDocument, MembersDocument, ProposalDocument,
    RevocationLine, RevokeDocument, RosterSignDocument, SiteLine,
};
use crate::membership::MembershipError;

/// Everybody, in one document.
pub(super) fn document(server: &Server) -> Result<MembersDocument, Fault> {
    let (members, now) = (server.membership.members(), server.clock.wall());
    let proposal = members.proposal().map_err(Fault::failed)?;
    let sites = members.roster().sites().map(|(site, key)| SiteLine {
        site: site.clone(),
        key: *key,
        connected: server.sites.contact(site).is_some_and(|contact| contact.connected),
        revoked: members.revocation(site).is_some(),
    });
    let waiting = members.applicants().map(|(site, applicant)| ApplicantLine {
        site: site.clone(),
        key: applicant.request.site_key,
        fingerprint: applicant.fingerprint(),
        request: applicant.signed.digest(),
        approved: applicant.approval.is_some(),
        certificate_until: applicant.until,
    });
    let invited = members.invited(now);
    let revoked = members.revocations();
    Ok(MembersDocument {
        consortium: server.consortium.name.to_string(),
        roster_version: members.roster().version(),
        signatures_needed: server.consortium.operators_needed,
        sites: sites.collect(),
        requests: waiting.collect(),
        invitations: invited
            .map(|(site, until)| InvitationLine { site: site.clone(), until })
            .collect(),
        revoked: revoked
            .map(|word| RevocationLine {
                site: word.site.clone(),
                key: word.site_key,
                reason: word.reason.clone(),
            })
            .collect(),
        proposal: proposal.map(|next| ProposalDocument {
            version: next.version,
            joins: next.joins,
            leaves: next.leaves,
            signatures: next.signatures.len(),
            text: String::from_utf8_lossy(&next.text).into_owned(),
        }),
    })
}

/// A command, and its words for the log: only an operator's is heard.
#[expect(clippy::wildcard_enum_match_arm, reason = "the caller sends these four")]
pub(super) async fn command(
    server: &Server,
    identity: &Identity,
    request: Request,
    words: String,
) -> Result<Vec<u8>, Fault> {
    let membership = &server.membership;
    match request {
        Request::SiteInvite { site, token } => {
            let done = async {
                let by = commander(identity)?;
                let until = membership.invite(&site, token, &by).await.map_err(fault)?;
                Ok(InviteDocument { site, until })
            };
            noted(server, identity, words, done.await).await
        }
        Request::SiteApprove { signed } => {
            let done = async {
                let by = commander(identity)?;
                membership.approve(&signed, &by).await.map_err(fault)
            };
            noted(server, identity, words, done.await).await
        }
        Request::SiteRevoke { signed } => {
            let done = async {
                let by = commander(identity)?;
                let ca = membership.revoke(&signed, &by).await.map_err(fault)?;
                Ok(RevokeDocument { ca: ca.map(|error| error.to_string()) })
            };
            noted(server, identity, words, done.await).await
        }
        Request::RosterSign { text, signature } => {
            let done = async {
                let by = commander(identity)?;
                let in_force = membership.sign(&text, &signature, &by).await.map_err(fault)?;
                Ok(RosterSignDocument { in_force })
            };
            noted(server, identity, words, done.await).await
        }
        _ => Err(Fault::failed("not a command about members")),
    }
}

async fn noted<T: Serialize>(
    server: &Server,
    identity: &Identity,
    words: String,
    outcome: Result<T, Fault>,
) -> Result<Vec<u8>, Fault> {
    note(server, identity, words, outcome.as_ref().map(drop)).await?;
    json(&outcome?)
}

fn fault(error: MembershipError) -> Fault {
    if error.is_refusal() { Fault::refused(error) } else { Fault::failed(error) }
}
