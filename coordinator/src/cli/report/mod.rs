//! `consilium report`: what became of a study, as one HTML file that needs nothing else: no network, no
//! script, no mouse. It holds what `status` shows and no more.

mod chart;
mod markup;
mod page;

use std::io::Write;
use std::path::PathBuf;

use clap::Args;
use consilium_common::ids::StudyId;
use consilium_common::study::Study;
use consilium_common::wire::operator::Request;
use consilium_io::disk::{Access, replace_with};
use serde::Serialize;

use super::output::{self, Format};
use super::{Connection, Failure, refuse_special, study};
use crate::document::ReportDocument;

/// `consilium report`
#[derive(Debug, Args)]
pub(super) struct ReportArgs {
    /// The study's name.
    study: StudyId,
    /// The file; NAME-report.html if not given.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connection: Connection,
    #[command(flatten)]
    format: Format,
}

#[derive(Serialize)]
struct Written {
    study: StudyId,
    file: PathBuf,
    bytes: usize,
}

pub(super) fn run(args: &ReportArgs) -> Result<(), Failure> {
    let request = Request::Report { study: args.study.clone() };
    let document: ReportDocument = study::ask(&args.connection, &request)?;
    let origin = "the coordinator's study";
    let study = Study::read(&document.study.text, origin).map_err(Failure::failed)?;
    let page = page::whole(&document, &study);
    let named = || PathBuf::from(format!("{}-report.html", args.study));
    let file = args.out.clone().unwrap_or_else(named);
    refuse_special(&file)?;
    replace_with(&file, Access::Umask, |out| out.write_all(page.as_bytes()))
        .map_err(Failure::failed)?;
    let written = Written { study: args.study.clone(), file, bytes: page.len() };
    output::show(args.format, &written, |written| {
        format!("wrote the report of {}: {}", written.study, written.file.display())
    })
}

#[cfg(test)]
mod tests;
