//! `consilium model`: look at and export models.

use std::collections::HashMap;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use consilium_common::audit::withdrawal::Remedy;
use consilium_common::ids::{StudyId, Version};
use consilium_common::study::Study;
use consilium_common::tensor::file::to_safetensors;
use consilium_common::tensor::flat::decode_model;
use consilium_common::wire::operator::Request;
use consilium_io::disk::{Access, Blobs, replace_with};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::client::Client;
use super::output::{self, Format};
use super::{Connection, Failure, refuse_special, status, study};
use crate::document::{ModelListDocument, ModelShowDocument};
use crate::round::Affect;

/// `consilium model …`
#[derive(Debug, Subcommand)]
pub(super) enum ModelCommand {
    /// A study's versions with their metrics.
    List {
        /// The study's name.
        study: StudyId,
        #[command(flatten)]
        connection: Connection,
        #[command(flatten)]
        format: Format,
    },
    /// Write a version as a safetensors file, names and shapes as PyTorch has them.
    Export(ExportArgs),
}

/// `consilium model export`
#[derive(Debug, Args)]
pub(super) struct ExportArgs {
    /// The study's name.
    study: StudyId,
    /// Which version, such as v3; the newest if not given.
    #[arg(long, id = "model_version", value_name = "VERSION")]
    version: Option<Version>,
    /// The version with the best score by the study's metric
    #[arg(long, conflicts_with = "model_version")]
    best: bool,
    /// The file; NAME-vN.safetensors if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also if a site asks that this version is not used any more
    #[arg(long)]
    retired: bool,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

pub(super) fn run(command: ModelCommand) -> Result<(), Failure> {
    match command {
        ModelCommand::List { study, connection, format } => {
            let list: ModelListDocument = study::ask(&connection, &Request::ModelList { study })?;
            output::show(format, &list, |list| {
                let table = status::version_table(&list.versions);
                let best = list.best.map(|best| format!("\nbest version {best}"));
                table + &best.unwrap_or_default()
            })
        }
        ModelCommand::Export(args) => export(&args),
    }
}

#[derive(Serialize)]
struct Exported {
    study: StudyId,
    version: Version,
    model: String,
    tensors: usize,
    parameters: usize,
    file: PathBuf,
    /// What withdrawals of consent say of this version.
    #[serde(skip_serializing_if = "Option::is_none")]
    affected: Option<Affect>,
}

fn export(args: &ExportArgs) -> Result<(), Failure> {
    let (document, model) = super::on_runtime(fetch(args))?;
    let study =
        Study::read(&document.study_text, "the coordinator's study").map_err(Failure::failed)?;
    let layout = study.layout().map_err(Failure::failed)?;
    let vector = decode_model(&model, &layout).map_err(Failure::failed)?;
    drop(model);
    let affected = document.version.affected;
    let mut metadata = HashMap::from([
        ("study".to_owned(), document.study.to_string()),
        ("version".to_owned(), document.version.version.to_string()),
        ("model_digest".to_owned(), document.version.model.to_string()),
    ]);
    if let Some(affect) = affected {
        metadata.insert("withdrawals".to_owned(), status::affect_text(affect));
    }
    let bytes = to_safetensors(&layout, &vector, metadata).map_err(Failure::failed)?;
    let file = args.out.clone().unwrap_or_else(|| {
        PathBuf::from(format!("{}-{}.safetensors", document.study, document.version.version))
    });
    refuse_special(&file)?;
    replace_with(&file, Access::Umask, |out| out.write_all(&bytes)).map_err(Failure::failed)?;
    let exported = Exported {
        study: document.study,
        version: document.version.version,
        model: document.version.model.to_string(),
        tensors: layout.tensors().len(),
        parameters: layout.len(),
        file,
        affected,
    };
    output::show(args.format, &exported, |exported| {
        let affected = exported.affected.map(|affect| format!("\n{}", status::affect_text(affect)));
        format!(
            "exported {} {} ({} tensors, {} parameters, model {}): {}{}",
            exported.study,
            exported.version,
            exported.tensors,
            exported.parameters,
            exported.model,
            exported.file.display(),
            affected.unwrap_or_default()
        )
    })
}

/// The model's description and its bytes, whose digest was checked.
async fn fetch(args: &ExportArgs) -> Result<(ModelShowDocument, Vec<u8>), Failure> {
    let client = Client::connect(&args.connection).await?;
    let version = if args.best { Some(best(&client, &args.study).await?) } else { args.version };
    let request = Request::ModelShow { study: args.study.clone(), version };
    let document: ModelShowDocument = client.ask(&request).await?;
    not_retired(args, &document)?;
    let beside = args.out.as_deref().and_then(Path::parent);
    let beside = beside.filter(|folder| !folder.as_os_str().is_empty());
    let folder = tempfile::Builder::new()
        .prefix(".consilium-export-")
        .tempdir_in(beside.unwrap_or_else(|| Path::new(".")))
        .map_err(|error| Failure::failed(format!("cannot write here: {error}")))?;
    let blobs = Blobs::open(folder.path()).map_err(Failure::failed)?;
    let bar = progress_bar(document.bytes);
    let mut through = |at| bar.set_position(at);
    client.fetch(&blobs, document.version.model, document.bytes, &mut through).await?;
    bar.finish_and_clear();
    client.close().await;
    let model =
        blobs.read_verified(document.version.model, document.bytes).map_err(Failure::failed)?;
    Ok((document, model))
}

/// A version that a site asks to retire leaves only by a word more.
fn not_retired(args: &ExportArgs, document: &ModelShowDocument) -> Result<(), Failure> {
    match document.version.affected {
        Some(affect) if affect.remedy == Remedy::Retire && !args.retired => {
            Err(Failure::refused(format!(
                "{} {} is {}: a site asks that it is not used any more; `--retired` exports it all the same",
                document.study,
                document.version.version,
                status::affect_text(affect)
            )))
        }
        _ => Ok(()),
    }
}

async fn best(client: &Client, study: &StudyId) -> Result<Version, Failure> {
    let list: ModelListDocument = client.ask(&Request::ModelList { study: study.clone() }).await?;
    let best = list.best.ok_or_else(|| {
        Failure::refused(format!(
            "no version of study {study} was scored yet: there is no best one"
        ))
    })?;
    if best == Version(0) {
        return Err(Failure::refused(format!(
            "the best version of study {study} that was scored so far is v0, the model before any training: wait \
             for a round more, or ask for it by `--version v0`"
        )));
    }
    Ok(best)
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress_bar(bytes: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes} {bytes_per_sec}");
    let bar = ProgressBar::new(bytes);
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}
