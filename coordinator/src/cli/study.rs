//! `consilium study`: sign, submit, run and look at studies. Proposing them is in [`super::proposals`].

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use consilium_certs::consortium::{CONSORTIUM_FILE, Consortium};
use consilium_certs::signed_file::SignedFileError;
use consilium_certs::{keys, signed_file};
use consilium_common::ids::{Digest, StudyId, Version};
use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::tensor::flat::encode_model;
use consilium_common::time::Clock as _;
use consilium_common::wire::messages::RunState;
use consilium_common::wire::operator::Request;
use consilium_io::SystemClock;
use consilium_io::disk::{create_folder, read_safetensors, read_text};
use consilium_io::net::transfer::Source;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::client::Client;
use super::output::{self, Format};
use super::proposals::{self, ProposalsArgs, ProposeArgs};
use super::{Connection, Failure, model, status};
use crate::document::{
    CommandDocument, InitialDocument, RetrainDocument, StudyLine, StudyListDocument,
    StudyShowDocument,
};

const RESOLVED: &str = ".study.toml";

/// `consilium study …`
#[derive(Debug, Subcommand)]
pub(super) enum StudyCommand {
    /// Fill in a study's defaults and sign the result, or add a signature to a signed one.
    Sign(SignArgs),
    /// Hand a signed study to the coordinator.
    Submit {
        /// The signed file, `NAME.study.toml`; its `.sig` lies beside it.
        file: PathBuf,
        /// The model that the study was signed with, if it was with one
        #[arg(long, value_name = "MODEL.safetensors")]
        start: Option<PathBuf>,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Run rounds.
    Start(OneStudy),
    /// Finish the open round and begin no other until started again.
    Pause(OneStudy),
    /// Abandon the open round and end the study.
    Stop(OneStudy),
    /// When rounds can begin, by the hours that sites publish.
    ///
    /// Only beginnings are planned: a round that is under way when hours end is carried to its end. Where no time has
    /// enough sites, it says which sites have none in common (exit code 1).
    Plan(super::plan::PlanArgs),
    /// Go on training from an earlier version, which becomes the newest again.
    ///
    /// For versions that are not to be built on any more: because records that went into them were withdrawn,
    /// or because they are spoilt. The study must be paused or complete, with no round open. The versions in
    /// between stay where they are; the strategy's state begins anew. `study start` then runs rounds.
    Retrain {
        /// Its name.
        study: StudyId,
        /// The version to go on from, such as v4.
        #[arg(long, value_name = "VERSION")]
        from: Version,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Every study in a line.
    List {
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// One study with its text and last rounds.
    Show(OneStudy),
    /// Propose a study to the operators, as a researcher whom it lists under `researchers`.
    Propose(ProposeArgs),
    /// The studies that researchers propose and nobody has submitted yet, or the text of one.
    Proposals(ProposalsArgs),
}

/// `consilium study sign`
#[derive(Debug, Args)]
pub(super) struct SignArgs {
    /// A draft, or a file that an operator has signed already.
    file: PathBuf,
    /// The operator's key, `operator.key`.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// A model to start from in place of the seeded one: exactly the study's tensors, as
    /// `consilium model export` writes them
    #[arg(long, value_name = "MODEL.safetensors")]
    start: Option<PathBuf>,
    /// Where the signed files go; beside the draft if not given.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    format: Format,
}

/// A study at the coordinator.
#[derive(Debug, Args)]
pub(super) struct OneStudy {
    /// Its name.
    study: StudyId,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(command: StudyCommand) -> Result<(), Failure> {
    match command {
        StudyCommand::Sign(args) => sign(&args),
        StudyCommand::Submit { file, start, connection, format } => {
            submit(&file, start.as_deref(), &connection, format)
        }
        StudyCommand::Start(one) => change(&one, |study| Request::StudyStart { study }),
        StudyCommand::Pause(one) => change(&one, |study| Request::StudyPause { study }),
        StudyCommand::Stop(one) => change(&one, |study| Request::StudyStop { study }),
        StudyCommand::Plan(args) => super::plan::run(&args),
        StudyCommand::Retrain { study, from, connection, format } => {
            let request = Request::StudyRetrain { study, from };
            let gone_back: RetrainDocument = ask(&connection, &request)?;
            output::show(format, &gone_back, retrain_text)
        }
        StudyCommand::List { connection, format } => {
            let list: StudyListDocument = ask(&connection, &Request::StudyList)?;
            output::show(format, &list, |list| study_table(&list.studies))
        }
        StudyCommand::Show(one) => {
            let request = Request::StudyShow { study: one.study };
            let document: StudyShowDocument = ask(&one.connection, &request)?;
            output::show(one.format, &document, study_text)
        }
        StudyCommand::Propose(args) => proposals::propose(&args),
        StudyCommand::Proposals(args) => proposals::proposals(&args),
    }
}

/// One request on a connection of its own.
pub(super) fn ask<T: DeserializeOwned>(
    connection: &Connection,
    request: &Request,
) -> Result<T, Failure> {
    super::on_runtime(async {
        let client = Client::connect(connection).await?;
        let answer = client.ask(request).await;
        client.close().await;
        answer
    })
}

#[derive(Serialize)]
struct SignedStudy {
    study: StudyId,
    version: u64,
    digest: String,
    signatures: usize,
    file: PathBuf,
    signature_file: PathBuf,
}

fn sign(args: &SignArgs) -> Result<(), Failure> {
    let key = keys::load(&args.key).map_err(Failure::failed)?;
    refuse_a_sites_key(&args.key, &key)?;
    let text = read_text(&args.file, STUDY_BYTES_MAX).map_err(Failure::failed)?;
    let origin = args.file.display().to_string();
    let study = Study::read(&text, &origin).map_err(Failure::refused)?;
    let folder = match &args.out {
        Some(out) => {
            create_folder(out).map_err(Failure::failed)?;
            out.clone()
        }
        None => args.file.parent().map(Path::to_owned).unwrap_or_default(),
    };
    let target = folder.join(format!("{}{RESOLVED}", study.id()));
    let (id, version) = (study.id().clone(), study.header.version);
    let governance = study.governance.clone();
    if study.initial.is_some() {
        if args.start.is_some() {
            let told = "--start goes with a draft: this study is signed with the model that it has";
            return Err(Failure::usage(told));
        }
        // Resolved already: these bytes are what is signed, with whatever signatures it has.
        if target != args.file {
            let signed = already_signed(&args.file, &text)?;
            signed_file::store(&target, &signed).map_err(Failure::failed)?;
        }
    } else {
        let resolved = resolve(study, args.start.as_deref())?;
        let resolved = resolved.to_text().map_err(Failure::refused)?;
        let same = read_text(&target, STUDY_BYTES_MAX).is_ok_and(|known| known == resolved);
        if !same {
            signed_file::store_unsigned(&target, resolved.as_bytes()).map_err(Failure::failed)?;
        }
    }
    let signed: Signed<Study> = signed_file::sign(&target, &key).map_err(Failure::failed)?;
    let approval = governance.approval(SystemClock::open().wall());
    if let Some(notice) = approval.and_then(|approval| approval.notice()) {
        output::notice(&notice);
    }
    let document = SignedStudy {
        study: id,
        version,
        digest: signed.digest().to_string(),
        signatures: signed.signatures.len(),
        signature_file: signed_file::sig_path(&target),
        file: target,
    };
    output::show(args.format, &document, |document| {
        let file = document.file.display();
        let start = args.start.as_ref().map(|start| format!(" --start {}", start.display()));
        format!(
            "signed study {} version {} ({}), digest {}: {file}\nnext: `consilium study submit {file}{}`",
            document.study,
            document.version,
            output::count(document.signatures, "signature"),
            document.digest,
            start.unwrap_or_default()
        )
    })
}

/// Fills in the digests: of the seeded v0, or of the one in the file.
pub(super) fn resolve(study: Study, start: Option<&Path>) -> Result<Study, Failure> {
    let Some(file) = start else {
        return study.resolve().map_err(Failure::refused);
    };
    let layout = study.layout().map_err(Failure::refused)?;
    let vector = read_safetensors(file, &layout).map_err(Failure::refused)?;
    study.resolve_from(&vector).map_err(Failure::refused)
}

/// A resolved study with the signatures beside it, if there are any.
fn already_signed(file: &Path, text: &str) -> Result<Signed<Study>, Failure> {
    match signed_file::load(file) {
        Ok(signed) => Ok(signed),
        Err(SignedFileError::NotSigned { .. }) => {
            Ok(Signed::from_parts(text.as_bytes().to_vec(), Vec::new()))
        }
        Err(other) => Err(Failure::refused(other)),
    }
}

fn submit(
    file: &Path,
    start: Option<&Path>,
    connection: &Connection,
    format: Format,
) -> Result<(), Failure> {
    let signed: Signed<Study> = signed_file::load(file).map_err(|error| match error {
        SignedFileError::NotSigned { .. } => not_signed(file, &error),
        SignedFileError::Changed { .. } | SignedFileError::Refused { .. } => {
            Failure::refused(error)
        }
        SignedFileError::File(_)
        | SignedFileError::Malformed { .. }
        | SignedFileError::TooMany { .. } => Failure::failed(error),
    })?;
    let model = start.map(|start| given_model(start, &signed)).transpose()?;
    let changed: CommandDocument = super::on_runtime(async {
        let client = Client::connect(connection).await?;
        if let Some((digest, model)) = model {
            bring(&client, &signed, digest, model).await?;
        }
        let answer = client.ask(&Request::StudySubmit { signed }).await;
        client.close().await;
        answer
    })?;
    changed.notice.iter().for_each(|notice| output::notice(notice));
    output::show(format, &changed, |changed| {
        let study = format!("{} ({})", changed.study, changed.digest);
        if changed.state == RunState::Submitted {
            return format!("submitted {study}: `consilium study start {}` runs it", changed.study);
        }
        format!("{study} was submitted before and is {}", changed.state)
    })
}

/// Who names the draft is told which file to submit.
fn not_signed(file: &Path, error: &SignedFileError) -> Failure {
    let text = read_text(file, STUDY_BYTES_MAX).unwrap_or_default();
    let file = file.display();
    match Study::read(&text, &file.to_string()) {
        Ok(study) if study.initial.is_none() => Failure::refused(format!(
            "{file} is a draft: sign it (`consilium study sign {file} --key operator.key`) and submit \
             {}{RESOLVED}",
            study.id()
        )),
        Ok(_) | Err(_) => Failure::refused(error),
    }
}

/// The model of a file, as the bytes that the signed study names.
fn given_model(start: &Path, signed: &Signed<Study>) -> Result<(Digest, Vec<u8>), Failure> {
    let study = signed.parse_unverified().map_err(Failure::refused)?;
    let layout = study.layout().map_err(Failure::refused)?;
    let vector = read_safetensors(start, &layout).map_err(Failure::refused)?;
    let model = encode_model(&layout, &vector);
    let digest = Digest::of(&model);
    match study.initial {
        Some(initial) if initial.model == digest => Ok((digest, model)),
        _ => Err(Failure::refused(format!(
            "{} is model {digest}, and the study was not signed with it",
            start.display()
        ))),
    }
}

/// Brings the model, unless the coordinator has it.
async fn bring(
    client: &Client,
    signed: &Signed<Study>,
    digest: Digest,
    model: Vec<u8>,
) -> Result<(), Failure> {
    let request = Request::InitialOffer { signed: signed.clone() };
    let offered: InitialDocument = client.ask(&request).await?;
    if !offered.wanted {
        return Ok(());
    }
    let bar = model::progress_bar(offered.bytes);
    let mut through = |at| bar.set_position(at);
    client.push(&Source::Bytes(model.into()), digest, &mut through).await?;
    bar.finish_and_clear();
    Ok(())
}

/// Bundles of sites and of the coordinator hold other keys than operators' ones, and beside them the
/// list of those.
fn refuse_a_sites_key(file: &Path, key: &SecretKey) -> Result<(), Failure> {
    let beside = file.with_file_name(CONSORTIUM_FILE);
    if !beside.is_file() {
        return Ok(());
    }
    let consortium = Consortium::load(&beside).map_err(Failure::failed)?;
    if consortium.operator_keys().contains(&key.public()) {
        return Ok(());
    }
    let file = file.display();
    Err(Failure::usage(format!("{file} is no operator's key: sign with an operator.key")))
}

fn change(one: &OneStudy, request: impl FnOnce(StudyId) -> Request) -> Result<(), Failure> {
    let changed: CommandDocument = ask(&one.connection, &request(one.study.clone()))?;
    changed.notice.iter().for_each(|notice| output::notice(notice));
    output::show(one.format, &changed, |changed| {
        let ends = match changed.state {
            RunState::Paused => "; a round that is open goes on to its end",
            RunState::Submitted | RunState::Running | RunState::Stopped | RunState::Complete => "",
        };
        format!("study {} is {}{ends}", changed.study, changed.state)
    })
}

fn retrain_text(RetrainDocument { study, from, version, state, .. }: &RetrainDocument) -> String {
    format!(
        "{study} goes on from {from}, which is {version} now, and is {state}: `consilium study start \
         {study}` runs rounds"
    )
}

fn study_table(studies: &[StudyLine]) -> String {
    if studies.is_empty() {
        return "no studies".to_owned();
    }
    let mut table = output::table(&["study", "state", "version", "digest", "purpose"]);
    for study in studies {
        table.add_row([
            format!("{} (file version {})", study.study, study.study_version),
            study.state.to_string(),
            format!("{} of v{}", study.version, study.rounds_goal),
            study.digest.short(),
            study.purpose.clone(),
        ]);
    }
    table.to_string()
}

fn study_text(document: &StudyShowDocument) -> String {
    format!(
        "{}\n\ndigest {}, signed by {}\n\n{}",
        status::study_text(&document.status),
        document.status.digest,
        document.signed_by.join(", "),
        document.text
    )
}
