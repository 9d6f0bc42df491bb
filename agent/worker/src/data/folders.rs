//! Files in a folder for each class: records that have a class each, and nothing else is known of them. A
//! file that cannot be read is a record that cannot be read.

use std::path::Path;

use consilium_common::study::Objective;
use consilium_common::worker::{FailureCode, Holdout, Phase};

use super::RECORDS_PER_STEP;
use super::contract::{Field, Labelled, Trouble};
use super::groups::Places;
use super::picking::{Mark, Picking};
use super::read::folder::{Endings, Folder};
use super::rows::{Parsed, Rows};
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

/// What a family makes of a file and its class.
type Parse<'p, T> = dyn FnMut(&Path, Field<'_>) -> Result<Parsed<T>, Trouble> + 'p;

/// Reads the site's files of these endings; `what` they are called.
pub(crate) fn read<T>(
    job: &Job<'_>,
    (endings, what): (Endings, &'static str),
    link: &mut Link,
    parse: &mut Parse<'_, T>,
) -> Result<Rows<T>, Failure> {
    let (source, labelled) = (job.source, Labelled::of(job.study, job.source));
    has_no_columns(job)?;
    let folder = Folder::open(&source.path, endings)?;
    let is_strange = |class: &&String| labelled.read(named(class)).is_err();
    if let Some(stranger) = folder.classes.iter().find(is_strange) {
        return invalid(format!(
            "{}: the sub-folder {stranger:?} is no class of the study, which has {}",
            source.path.display(),
            labelled.classes.join(", ")
        ));
    }
    let mut picking = Picking::new(job, what)?;
    let of = folder.records.len() as u64;
    for (number, record) in (0_u32..).zip(&folder.records) {
        let class = folder.classes.get(record.class).map_or("", String::as_str);
        let groups = Places::default();
        let mark = Mark { number, held: false, patient: None, whose: None, groups };
        let parse = || parse(&record.path, named(class));
        picking.take(mark, parse, || record.path.display().to_string());
        tick(number, of, link)?;
    }
    let mut rows = picking.finish()?;
    if folder.others > 0 {
        let endings = endings.join(", .");
        rows.findings.push(format!("{} other files than .{endings}: passed over", folder.others));
    }
    Ok(rows)
}

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
    } else if matches!(source.holdout, Holdout::Where(_) | Holdout::Own(_)) {
        "this `holdout`"
    } else {
        return Ok(());
    };
    invalid(format!(
        "{}: a folder for each class says nothing else of its files: {wants} needs a table of labels \
         (`labels` in agent.toml)",
        source.path.display()
    ))
}

fn named(class: &str) -> Field<'_> {
    Field { text: class, missing: false, number: None }
}

/// Tells now and then how far reading is.
pub(crate) fn tick(done: u32, of: u64, link: &mut Link) -> Result<(), Failure> {
    if done.is_multiple_of(RECORDS_PER_STEP) {
        link.moved(Phase::Loading, done.into(), of, || Ok(None))?;
    }
    Ok(())
}

fn invalid<T>(message: String) -> Result<T, Failure> {
    Err(Failure::new(FailureCode::DataInvalid, message))
}
