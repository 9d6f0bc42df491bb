//! Pictures in a file each: in a folder for each class, or listed by a table of labels, a row each with
//! its file, its label, and what records are picked, grouped and held out by. A picture that cannot be read
//! is a record that cannot be read.

use std::path::Path;

use consilium_common::study::model::cnn::Image;
use tch::Device;

use super::contract::{Field, Labelled, Trouble};
use super::dataset::Dataset;
use super::documents::FILE;
use super::folders;
use super::images::Filler;
use super::label::Label;
use super::read::folder::{PICTURES, root, within};
use super::read::images::{Shape, decode};
use super::rows::{self, Parsed, Rows};
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;

/// One picture.
pub(crate) struct Record {
    /// Channels × height × width bytes.
    pub(crate) pixels: Vec<u8>,
    pub(crate) label: Label,
}

/// Reads the site's pictures, brought to this size.
pub(crate) fn read(job: &Job<'_>, size: Image, link: &mut Link) -> Result<Rows<Record>, Failure> {
    let (source, labelled) = (job.source, Labelled::of(job.study, job.source));
    let Image { channels, height, width } = size;
    let shape = Shape { channels, height, width, resize: true };
    let record = |path: &Path, label: Field<'_>| {
        let label = labelled.read(label)?;
        let pixels = decode(path, shape).map_err(|error| unreadable(&error))?;
        Ok(Parsed { class: label.key(labelled.classes.len()), record: Record { pixels, label } })
    };
    if source.labels.is_none() {
        return folders::read(job, (PICTURES, "pictures"), link, &mut |path, class| {
            record(path, class)
        });
    }
    root(&source.path)?;
    rows::read(job, &[FILE, &job.study.data.label], link, |fields| {
        let &[file, label] = fields else { return Err(Trouble::Dropped) };
        let path = within(&source.path, file.text).map_err(|error| unreadable(&error))?;
        record(&path, label)
    })
}

/// The labels of these records.
pub(crate) fn labels(records: &[Record]) -> impl Iterator<Item = Label> + Clone {
    records.iter().map(|record| record.label)
}

/// Pictures (u8, records × channels × height × width) and labels, on the device. Each record goes as soon as
/// it is copied: there is no time at which all pictures are there twice.
pub(crate) fn dataset(
    records: Vec<Record>,
    (size, classes): (Image, usize),
    device: Device,
) -> Result<Dataset, Failure> {
    let mut filler = Filler::new(size, &Label::tensor(labels(&records), classes)?, device)?;
    for record in records {
        filler.push(&record.pixels)?;
    }
    Ok(filler.finish()?)
}

fn unreadable(error: &dyn std::fmt::Display) -> Trouble {
    Trouble::Unreadable(error.to_string())
}
