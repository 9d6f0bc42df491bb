//! Images and their labels for the cnn family, where one file holds many of them: labels all at once, images
//! one after another in the same order.

use std::path::Path;

use consilium_common::limits::EXAMPLES_MAX;
use consilium_common::study::Objective;
use consilium_common::study::model::cnn::Image;
use consilium_common::worker::{FailureCode, SourceKind};

use super::contract::Labelled;
use super::idx;
use super::label::{self, Labels};
use super::read::folder::FolderError;
use super::read::images::ImageError;
use super::read::npz::{Array, NpzError};
use super::select::Files;
use crate::failure::Failure;

impl From<NpzError> for Failure {
    fn from(error: NpzError) -> Self {
        let code = match error {
            NpzError::Open { .. } | NpzError::Missing { .. } => FailureCode::DataMissing,
            NpzError::Archive { .. }
            | NpzError::Header { .. }
            | NpzError::Dtype { .. }
            | NpzError::Truncated { .. }
            | NpzError::Damaged { .. } => FailureCode::DataInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FolderError> for Failure {
    fn from(error: FolderError) -> Self {
        let code = match error {
            FolderError::NoFolder(_)
            | FolderError::NoClasses(_)
            | FolderError::Nothing { .. }
            | FolderError::Open { .. } => FailureCode::DataMissing,
            FolderError::Link(_)
            | FolderError::Outside(_)
            | FolderError::Name(_)
            | FolderError::TooMany(_)
            | FolderError::TooDeep(_) => FailureCode::DataInvalid,
        };
        Self::new(code, error.to_string())
    }
}

impl From<ImageError> for Failure {
    fn from(error: ImageError) -> Self {
        let code = match error {
            ImageError::Open { .. } => FailureCode::DataMissing,
            ImageError::TooLarge { .. }
            | ImageError::Unreadable { .. }
            | ImageError::Size { .. } => FailureCode::DataInvalid,
        };
        Self::new(code, error.to_string())
    }
}

fn invalid<T>(message: String) -> Result<T, Failure> {
    Err(Failure::new(FailureCode::DataInvalid, message))
}

/// The label of every record.
pub(crate) fn labels(
    kind: SourceKind,
    path: &Path,
    files: Files,
    labelled: &Labelled<'_>,
) -> Result<Labels, Failure> {
    match (labelled.objective, kind) {
        (Objective::Multilabel, SourceKind::Npz) => {
            let name = format!("{}_labels", files.word());
            sets(path, &name, labelled.classes.len())
        }
        (Objective::Multilabel, SourceKind::Idx) => invalid(format!(
            "source: {kind} has one label for each picture: with `objective = \"multilabel\"` take \
             npz, whose labels have a 0 or 1 for each class, or an image-folder with a table of labels"
        )),
        _ => Ok(Labels::Classes(one_each(kind, path, files, labelled.classes)?)),
    }
}

/// The classes of every record of the array `name`.
fn sets(path: &Path, name: &str, classes: usize) -> Result<Labels, Failure> {
    let sets = label::sets(path, name, classes, None)?;
    match sets.iter().position(Option::is_none) {
        None => Ok(Labels::Sets(sets.into_iter().flatten().collect())),
        Some(record) => {
            let place = path.display();
            invalid(format!(
                "{place}, array {name:?}: record {record} has other labels than 0 and 1"
            ))
        }
    }
}

/// The class of every record, each the index of one of `classes`.
fn one_each(
    kind: SourceKind,
    path: &Path,
    files: Files,
    classes: &[String],
) -> Result<Vec<u8>, Failure> {
    match kind {
        SourceKind::Idx => {
            let labels = idx::labels(path, files.labels())?;
            let place = path.join(files.labels()).display().to_string();
            of_classes(labels.into_iter().map(i64::from), &place, classes)
        }
        SourceKind::Npz => {
            let name = format!("{}_labels", files.word());
            let mut array = Array::open(path, &name)?;
            let place = format!("{}, array {name:?}", path.display());
            match array.shape() {
                [count] | [count, 1] if *count <= EXAMPLES_MAX => {}
                shape => {
                    return invalid(format!(
                        "{place} has shape {shape:?}: one label a record was expected, of at most \
                         {EXAMPLES_MAX}"
                    ));
                }
            }
            let mut labels = Vec::new();
            array.next_rows_i64(EXAMPLES_MAX, &mut labels)?;
            of_classes(labels.into_iter(), &place, classes)
        }
        SourceKind::ImageFolder
        | SourceKind::Csv
        | SourceKind::Tsv
        | SourceKind::Text
        | SourceKind::Synthetic => unread(kind),
    }
}

fn unread<T>(kind: SourceKind) -> Result<T, Failure> {
    let kinds = "idx, npz or image-folder";
    invalid(format!("source: the cnn family reads {kinds}, not {kind}"))
}

fn of_classes(
    labels: impl Iterator<Item = i64>,
    place: &str,
    classes: &[String],
) -> Result<Vec<u8>, Failure> {
    let checked = |(record, label): (usize, i64)| match u8::try_from(label) {
        Ok(known) if usize::from(known) < classes.len() => Ok(known),
        Ok(_) | Err(_) => invalid(format!(
            "{place}: record {record} has label {label}, the study has {} classes (labels 0 to {})",
            classes.len(),
            classes.len().saturating_sub(1)
        )),
    };
    labels.enumerate().map(checked).collect()
}

/// Images one after another: channels × height × width bytes.
pub(crate) enum Pictures {
    Idx(idx::Records),
    Npz(Arrays),
}

impl Pictures {
    /// The images that belong to `labels` labels.
    pub(crate) fn open(
        kind: SourceKind,
        path: &Path,
        files: Files,
        size: Image,
        labels: usize,
    ) -> Result<Self, Failure> {
        match kind {
            SourceKind::Idx => {
                Ok(Self::Idx(idx::Records::images(path, files.images(), size, labels)?))
            }
            SourceKind::Npz => Ok(Self::Npz(Arrays::open(path, files, size, labels)?)),
            SourceKind::ImageFolder
            | SourceKind::Csv
            | SourceKind::Tsv
            | SourceKind::Text
            | SourceKind::Synthetic => unread(kind),
        }
    }

    /// The next image; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        match self {
            Self::Idx(records) => Ok(records.next()?),
            Self::Npz(arrays) => arrays.next(),
        }
    }

    /// Passes over the next image, unseen where its source allows that; `false` after the last.
    pub(crate) fn skip(&mut self) -> Result<bool, Failure> {
        match self {
            Self::Idx(records) => Ok(records.next()?.is_some()),
            Self::Npz(arrays) => Ok(arrays.next()?.is_some()),
        }
    }
}

/// An array of images.
pub(crate) struct Arrays {
    array: Array,
    /// Colours lie beside one another, as MedMNIST has them: brought to planes.
    interleaved: Option<usize>,
    stored: Vec<u8>,
    planes: Vec<u8>,
}

impl Arrays {
    fn open(path: &Path, files: Files, size: Image, labels: usize) -> Result<Self, Failure> {
        let name = format!("{}_images", files.word());
        let arrays = Self::named(path, &name, size)?;
        let count = arrays.array.shape().first().copied().unwrap_or(0);
        if count != labels as u64 {
            let place = path.display();
            return invalid(format!("{place}: {count} {name}, its labels are {labels}"));
        }
        Ok(arrays)
    }

    /// The array `name`, whose records must be of this size.
    pub(crate) fn named(path: &Path, name: &str, size: Image) -> Result<Self, Failure> {
        let array = Array::open(path, name)?;
        let [channels, height, width] = [size.channels, size.height, size.width].map(u64::from);
        let record = array.shape().get(1..).unwrap_or_default();
        let flat = channels == 1 && record == [height, width];
        let last = record == [height, width, channels];
        if !flat && !last && record != [channels, height, width] {
            return invalid(format!(
                "{}, array {name:?}: records of shape {record:?}, the study's data contract says \
                 [{channels}, {height}, {width}] or [{height}, {width}, {channels}]",
                path.display()
            ));
        }
        let interleaved = (last && channels > 1).then_some(size.channels as usize);
        Ok(Self { array, interleaved, stored: Vec::new(), planes: Vec::new() })
    }

    /// The next image; `None` after the last.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, Failure> {
        if self.array.next_rows_u8(1, &mut self.stored)? == 0 {
            return Ok(None);
        }
        let Some(channels) = self.interleaved else { return Ok(Some(&self.stored)) };
        let stored = &self.stored;
        let plane = |channel| stored.iter().skip(channel).step_by(channels);
        self.planes.clear();
        self.planes.extend((0..channels).flat_map(plane));
        Ok(Some(&self.planes))
    }
}
