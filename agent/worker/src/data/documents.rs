//! Documents with their labels: a row of a table each, or a file each, whose label is the sub-folder that
//! it lies in or stands in a table of labels. A file that cannot be read is a record that cannot be read.

use std::path::Path;

use consilium_common::worker::{Source, SourceKind};

use super::asked::Asked;
use super::contract::{Field, Trouble};
use super::folders;
use super::read::folder::{DOCUMENTS, all_of, root, within};
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
        (SourceKind::Text, None) => {
            folders::read(job, (DOCUMENTS, "documents"), link, &mut |path, class| {
                parse(document(&whole(path, source)?), class)
            })
        }
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
        folders::tick(done, of, link)?;
    }
    Ok(asked)
}

/// What the study calls the column with the document.
fn name<'a>(job: &Job<'a>) -> &'a str {
    job.study.data.text.as_deref().unwrap_or_default()
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
