//! Studies that researchers propose: taken from them, and shown to operators, auditors and whoever proposed.

use std::sync::Arc;

use consilium_certs::identity::Identity;
use consilium_common::audit::record::Proposed;
use consilium_common::ids::{Digest, OperatorId, StudyId};

use super::Server;
use super::operator_session::{Fault, json, note, submit_fault};
use super::roles::Sight;
use crate::document::{StudyProposalDocument, StudyProposalLine, StudyProposalsDocument};
use crate::round::history::proposal_over;

/// Takes a researcher's study. It stands in the log before the answer, and so does a refusal, unless there
/// are too many.
pub(super) async fn propose(
    server: &Server,
    identity: &Identity,
    sight: &Sight,
    words: String,
    text: Vec<u8>,
) -> Result<Vec<u8>, Fault> {
    let Sight::Own(by) = sight else {
        return Err(Fault::Refused(format!("{identity} is no researcher")));
    };
    if !server.researchers.may_write(by, server.clock.now()) {
        let why = format!("{identity} proposes often: try again in a minute");
        tracing::warn!(by = %identity, words, "refused, and not recorded: {why}");
        return Err(Fault::Refused(why));
    }
    let done = server.studies.propose(by, text).await.map_err(submit_fault);
    note(server, identity, words, done.as_ref().map(drop)).await?;
    let proposed = done?;
    json(&line(&proposed))
}

/// The open proposals that are seen.
fn open(server: &Server, sight: &Sight) -> Vec<Arc<Proposed>> {
    let mut open = server.studies.proposals();
    if let Sight::Own(name) = sight {
        open.retain(|proposed| proposed.by == *name);
    }
    open
}

pub(super) fn list(server: &Server, sight: &Sight) -> StudyProposalsDocument {
    let open = open(server, sight);
    StudyProposalsDocument { proposals: open.iter().map(|proposed| line(proposed)).collect() }
}

/// The proposal of a study, by this researcher if one is named.
pub(super) fn show(
    server: &Server,
    sight: &Sight,
    study: &StudyId,
    by: Option<&OperatorId>,
) -> Result<StudyProposalDocument, Fault> {
    let mut open = open(server, sight);
    open.retain(|proposed| proposed.study == *study && by.is_none_or(|by| proposed.by == *by));
    match open.as_slice() {
        [one] => {
            let text = String::from_utf8(one.text.clone()).map_err(Fault::failed)?;
            Ok(StudyProposalDocument { proposal: line(one), text })
        }
        [] => {
            let by = by.map(|by| format!(" by {by}")).unwrap_or_default();
            let told = "`consilium study proposals` lists those that there are";
            Err(Fault::Refused(format!("no proposal of study {study}{by} is open: {told}")))
        }
        several => {
            let names: Vec<&str> = several.iter().map(|proposed| proposed.by.as_str()).collect();
            let names = names.join(", ");
            Err(Fault::Refused(format!("study {study} is proposed by {names}: name one (`--by`)")))
        }
    }
}

fn line(proposed: &Proposed) -> StudyProposalLine {
    StudyProposalLine {
        study: proposed.study.clone(),
        study_version: proposed.version,
        digest: Digest::of(&proposed.text),
        by: proposed.by.clone(),
        at: proposed.at,
        until: proposal_over(proposed),
    }
}
