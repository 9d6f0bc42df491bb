//! Documents with their labels: a row of a table each, or a file each, whose label is the sub-folder that
//! it lies in or stands in a table of labels. A file that cannot be read is a record that cannot be read.

use std::path::Path;

use consilium_common::study::Objective;
use consilium_common::worker::{FailureCode, Holdout, Phase, Source, SourceKind};

use super::RECORDS_PER_STEP;
use super::asked::Asked;
use super::contract::{Field, Labelled, Trouble};
use super::groups::Places;
use super::picking::{Mark, Picking};
use super::read::folder::{DOCUMENTS, Folder, all_of, root, within};
use super::read::text;
use super::rows::{self, Parsed, Rows};
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

/// The column of a table of labels that names a record's file, by its path from the data folder.
pub(crate) const FILE: &str = "file";

/// What a family makes of a document and its label.
type Parse<'p, T> = dyn FnMut(Field<'_>, Field<'_>) -> Result<Parsed<T>, Trouble> + 'p;

/// Reads the site's documents.
pub(crate) fn read<T>(
    job: &Job<'_>,
    link: &mut Link,
    parse: &mut Parse<'_, T>,
) -> Result<Rows<T>, Failure> {
    let (source, label) = (job.source, job.study.data.label.as_str());
    match (source.source, &source.labels) {
        (SourceKind::Text, Some(_)) => {
            root(&source.path)?;
            rows::read(job, &[FILE, label], link, |fields| {
                let &[file, label] = fields else { return Err(Trouble::Dropped) };
                let path = within(&source.path, file.text);
                let text = whole(&path.map_err(|error| unreadable(&error))?, source)?;
                parse(document(&text), label)
            })
        }
        (SourceKind::Text, None) => in_folders(job, link, parse),
        _ => rows::read(job, &[name(job), label], link, |fields| {
            let &[text, label] = fields else { return Err(Trouble::Dropped) };
            parse(text, label)
        }),
    }
}

/// Reads every document of the source without labels or picks.
pub(crate) fn ask<T>(
    job: &Job<'_>,
    link: &mut Link,
    mut parse: impl FnMut(Field<'_>) -> Result<T, Trouble>,
) -> Result<Asked<Vec<T>>, Failure> {
    let source = job.source;
    if source.source != SourceKind::Text {
        return rows::ask(job, &[name(job)], link, |fields| {
            parse(fields.first().copied().ok_or(Trouble::Dropped)?)
        });
    }
    let files = all_of(&source.path, DOCUMENTS)?;
    let (mut asked, of) = (Asked::none(), files.len() as u64);
    for (done, (path, name)) in (0_u32..).zip(files) {
        asked.take(name, whole(&path, source).and_then(|text| parse(document(&text))))?;
        tick(done, of, link)?;
    }
    Ok(asked)
}

/// What the study calls the column with the document.
fn name<'a>(job: &Job<'a>) -> &'a str {
    job.study.data.text.as_deref().unwrap_or_default()
}

fn in_folders<T>(
    job: &Job<'_>,
    link: &mut Link,
    parse: &mut Parse<'_, T>,
) -> Result<Rows<T>, Failure> {
    let (source, labelled) = (job.source, Labelled::of(job.study, job.source));
    has_no_columns(job)?;
    let folder = Folder::open(&source.path, DOCUMENTS)?;
    let label = |class: &'_ str| labelled.read(named(class));
    if let Some(stranger) = folder.classes.iter().find(|class| label(class).is_err()) {
        return invalid(format!(
            "{}: the sub-folder {stranger:?} is no class of the study, which has {}",
            source.path.display(),
            labelled.classes.join(", ")
        ));
    }
    let mut picking = Picking::new(job, "documents")?;
    let of = folder.records.len() as u64;
    for (number, record) in (0_u32..).zip(&folder.records) {
        let class = folder.classes.get(record.class).map_or("", String::as_str);
        let parsed =
            whole(&record.path, source).and_then(|text| parse(document(&text), named(class)));
        let groups = Places::default();
        let mark = Mark { number, held: false, patient: None, groups };
        picking.take(mark, parsed, || record.path.display().to_string());
        tick(number, of, link)?;
    }
    let mut rows = picking.finish()?;
    if folder.others > 0 {
        rows.findings.push(format!("{} other files than .txt: passed over", folder.others));
    }
    Ok(rows)
}

/// Files in folders have a class each, and nothing else is known of them.
fn has_no_columns(job: &Job<'_>) -> Result<(), Failure> {
    let source = job.source;
    let wants = if job.study.model.objective() == Some(Objective::Multilabel) {
        "`objective = \"multilabel\"`"
    } else if job.study.data.patient.is_some() {
        "`data.patient`"
    } else if !job.study.evaluation.groups.is_empty() {
        "`evaluation.groups`"
    } else if source.only.is_some() {
        "`only`"
    } else if matches!(source.holdout, Holdout::Where(_)) {
        "this `holdout`"
    } else {
        return Ok(());
    };
    invalid(format!(
        "{}: a folder for each class says nothing else of a document: {wants} needs a table of labels \
         (`labels` in agent.toml)",
        source.path.display()
    ))
}

fn whole(path: &Path, source: &Source) -> Result<String, Trouble> {
    text::whole(path, source.format.encoding).map_err(|error| unreadable(&error))
}

fn unreadable(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Unreadable(error.to_string())
}

fn document(text: &str) -> Field<'_> {
    let text = text.trim();
    Field { text, missing: text.is_empty(), number: None }
}

fn named(class: &str) -> Field<'_> {
    Field { text: class, missing: false, number: None }
}

fn tick(done: u32, of: u64, link: &mut Link) -> Result<(), Failure> {
    if done.is_multiple_of(RECORDS_PER_STEP) {
        link.moved(Phase::Loading, done.into(), of, || Ok(None))?;
    }
    Ok(())
}

fn invalid<T>(message: String) -> Result<T, Failure> {
    Err(Failure::new(FailureCode::DataInvalid, message))
}
