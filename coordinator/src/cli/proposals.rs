//! `consilium study propose` and `study proposals`: the way of a study from a researcher to the operators, who
//! sign and submit it as any other.

use std::path::{Path, PathBuf};

use clap::Args;
use consilium_certs::credentials::Credentials;
use consilium_certs::identity::Role;
use consilium_certs::signed_file;
use consilium_common::ids::{OperatorId, StudyId};
use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::study::Study;
use consilium_common::time::Clock;
use consilium_common::wire::operator::Request;
use consilium_io::SystemClock;
use consilium_io::disk::read_text;

use super::output::{self, Format};
use super::{Connection, Failure, refuse_special, study};
use crate::document::{StudyProposalDocument, StudyProposalLine, StudyProposalsDocument};

/// `consilium study propose`
#[derive(Debug, Args)]
pub(super) struct ProposeArgs {
    /// A draft, or a resolved file; nobody needs to have signed it.
    file: PathBuf,
    /// A model to start from in place of the seeded one. Hand it to the operators too: it is not sent
    #[arg(long, value_name = "MODEL.safetensors")]
    start: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

/// `consilium study proposals`
#[derive(Debug, Args)]
pub(super) struct ProposalsArgs {
    /// The text of this study's proposal.
    study: Option<StudyId>,
    /// Of this researcher, where several propose the study
    #[arg(long, value_name = "RESEARCHER", requires = "study")]
    by: Option<OperatorId>,
    /// Write the text to this file, which `study sign` takes
    #[arg(long, value_name = "FILE", requires = "study")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

pub(super) fn propose(args: &ProposeArgs) -> Result<(), Failure> {
    let name = researcher(&args.connection)?;
    let text = resolved(&args.file, args.start.as_deref(), &name)?;
    let request = Request::StudyPropose { text: text.into_bytes() };
    let proposed: StudyProposalLine = study::ask(&args.connection, &request)?;
    output::show(args.format, &proposed, |proposed| {
        format!(
            "proposed study {} version {}, digest {}, open until {}: the operators see it with \
             `consilium study proposals`",
            proposed.study,
            proposed.study_version,
            proposed.digest,
            output::date(proposed.until)
        )
    })
}

/// The researcher whose bundle this is.
fn researcher(connection: &Connection) -> Result<OperatorId, Failure> {
    let now = SystemClock::open().wall();
    let identity = Credentials::load(connection.bundle()?, now).map_err(Failure::failed)?.identity;
    match identity.role {
        Role::Researcher(name) => Ok(name),
        Role::Site(_) | Role::Operator(_) | Role::Auditor(_) | Role::Coordinator => {
            Err(Failure::usage(format!(
                "{} is the bundle of {identity}: studies are proposed with a researcher's, and operators \
                 sign and submit them",
                connection.identity.display()
            )))
        }
    }
}

/// The study's resolved text, as `study sign` would sign it.
fn resolved(file: &Path, start: Option<&Path>, by: &OperatorId) -> Result<String, Failure> {
    let text = read_text(file, STUDY_BYTES_MAX).map_err(Failure::failed)?;
    let study = Study::read(&text, &file.display().to_string()).map_err(Failure::refused)?;
    if !study.header.researchers.contains(by) {
        return Err(Failure::refused(format!(
            "{} does not list {by}, who could not see the study: write {by} into `researchers` of its [study] \
             section",
            file.display()
        )));
    }
    match (study.initial.is_some(), start) {
        (false, start) => study::resolve(study, start)?.to_text().map_err(Failure::refused),
        (true, None) => Ok(text),
        (true, Some(_)) => {
            let told =
                "--start goes with a draft: this study is resolved with the model that it has";
            Err(Failure::usage(told))
        }
    }
}

pub(super) fn proposals(args: &ProposalsArgs) -> Result<(), Failure> {
    let Some(study) = args.study.clone() else {
        let list: StudyProposalsDocument = study::ask(&args.connection, &Request::StudyProposals)?;
        return output::show(args.format, &list, |list| table(&list.proposals));
    };
    let request = Request::StudyProposal { study, by: args.by.clone() };
    let document: StudyProposalDocument = study::ask(&args.connection, &request)?;
    if let Some(file) = &args.out {
        refuse_special(file)?;
        signed_file::store_unsigned(file, document.text.as_bytes()).map_err(Failure::failed)?;
    }
    output::show(args.format, &document, |document| {
        let StudyProposalDocument { proposal, text } = document;
        let head = format!(
            "study {} version {}, proposed by {} at {}, digest {}",
            proposal.study,
            proposal.study_version,
            proposal.by,
            output::date(proposal.at),
            proposal.digest
        );
        match args.out.as_deref().map(Path::display) {
            None => format!("{head}\n\n{text}"),
            Some(file) => format!(
                "{head}: {file}\nnext: read it, then `consilium study sign {file} --key operator.key` and \
                 `consilium study submit`"
            ),
        }
    })
}

fn table(proposals: &[StudyProposalLine]) -> String {
    if proposals.is_empty() {
        return "no proposals".to_owned();
    }
    let mut table = output::table(&["study", "proposed by", "at", "open until", "digest"]);
    for proposal in proposals {
        table.add_row([
            format!("{} (file version {})", proposal.study, proposal.study_version),
            proposal.by.to_string(),
            output::date(proposal.at),
            output::date(proposal.until),
            proposal.digest.short(),
        ]);
    }
    table.to_string()
}
