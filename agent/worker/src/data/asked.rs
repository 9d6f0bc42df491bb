//! Records that a model is asked about: no labels, no picks, no hold-out. Each has a name, and either
//! a row of inputs or a reason why it has none.

use std::path::Path;

use consilium_common::limits::EXAMPLES_MAX;
use consilium_common::study::model::cnn::Image;
use consilium_common::worker::{FailureCode, Phase, Source, SourceKind};

use super::RECORDS_PER_STEP;
use super::contract::Trouble;
use super::dataset::Dataset;
use super::pictures::Arrays;
use super::read::folder::{PICTURES, all_of};
use super::read::images::{Shape, decode};
use crate::failure::Failure;
use crate::protocol::Link;

/// What a record is called, and why it cannot be read, if it cannot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) id: String,
    pub(crate) trouble: Option<String>,
}

/// Records in the order of their file; those that can be read have something each.
#[derive(Debug)]
pub(crate) struct Asked<T> {
    pub(crate) names: Vec<Named>,
    /// Of the readable ones, in their order.
    pub(crate) read: T,
}

/// What a network is asked.
pub(crate) type Questions = Asked<Dataset>;

impl<T> Asked<Vec<T>> {
    pub(crate) fn none() -> Self {
        Self { names: Vec::new(), read: Vec::new() }
    }

    /// Takes the next record.
    pub(crate) fn take(&mut self, id: String, record: Result<T, Trouble>) -> Result<(), Failure> {
        if self.names.len() as u64 == EXAMPLES_MAX {
            let message = format!("the input has over {EXAMPLES_MAX} records: split it");
            return Err(Failure::new(FailureCode::DataInvalid, message));
        }
        let trouble = match record {
            Ok(record) => {
                self.read.push(record);
                None
            }
            Err(Trouble::Unreadable(why)) => Some(why),
            Err(Trouble::Dropped) => Some("the data contract leaves such a record out".to_owned()),
        };
        self.names.push(Named { id, trouble });
        Ok(())
    }
}

impl<T> Asked<T> {
    /// The same records as something else.
    pub(crate) fn map<U, E>(self, into: impl FnOnce(T) -> Result<U, E>) -> Result<Asked<U>, E> {
        Ok(Asked { names: self.names, read: into(self.read)? })
    }
}

/// The name of the `number`th record, from 0, of a file: people count from 1.
pub(crate) fn numbered(number: u32) -> String {
    (u64::from(number) + 1).to_string()
}

/// The pixels of images (channels × height × width bytes, one after another): of a picture, of every
/// picture below a folder, or of the array `images` of a .npz file.
pub(crate) fn pictures(
    source: &Source,
    size: Image,
    link: &mut Link,
) -> Result<Asked<Vec<Vec<u8>>>, Failure> {
    match source.source {
        SourceKind::ImageFolder => files(&source.path, size, link),
        SourceKind::Npz => array(source, size, link),
        SourceKind::Idx
        | SourceKind::Csv
        | SourceKind::Tsv
        | SourceKind::Text
        | SourceKind::Synthetic => {
            let kind = source.source;
            let message = format!("pictures are predicted from PNG, JPEG or npz, not {kind}");
            Err(Failure::new(FailureCode::DataInvalid, message))
        }
    }
}

fn files(path: &Path, size: Image, link: &mut Link) -> Result<Asked<Vec<Vec<u8>>>, Failure> {
    let Image { channels, height, width } = size;
    let shape = Shape { channels, height, width, resize: true };
    let mut asked = Asked::none();
    let files = all_of(path, PICTURES)?;
    let of = files.len() as u64;
    for (done, (path, name)) in (0_u32..).zip(files) {
        let unreadable =
            |error: super::read::images::ImageError| Trouble::Unreadable(error.to_string());
        asked.take(name, decode(&path, shape).map_err(unreadable))?;
        if done.is_multiple_of(RECORDS_PER_STEP) {
            link.moved(Phase::Loading, done.into(), of, || Ok(None))?;
        }
    }
    Ok(asked)
}

fn array(source: &Source, size: Image, link: &mut Link) -> Result<Asked<Vec<Vec<u8>>>, Failure> {
    let mut images = Arrays::named(&source.path, source.column("images"), size)?;
    let mut asked = Asked::none();
    let mut number = 0_u32;
    while let Some(pixels) = images.next()? {
        asked.take(numbered(number), Ok(pixels.to_vec()))?;
        if number.is_multiple_of(RECORDS_PER_STEP) {
            link.moved(Phase::Loading, number.into(), 0, || Ok(None))?;
        }
        number = number.saturating_add(1);
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_that_cannot_be_read_keep_their_place_and_say_why() {
        let mut asked = Asked::none();
        asked.take("1".to_owned(), Ok('a')).unwrap();
        asked.take("2".to_owned(), Err(Trouble::Unreadable("torn".to_owned()))).unwrap();
        asked.take("3".to_owned(), Err(Trouble::Dropped)).unwrap();
        asked.take("4".to_owned(), Ok('d')).unwrap();
        let troubles: Vec<bool> = asked.names.iter().map(|name| name.trouble.is_some()).collect();
        assert_eq!((troubles, asked.read), (vec![false, true, true, false], vec!['a', 'd']));
        assert_eq!(numbered(0), "1");
    }
}
