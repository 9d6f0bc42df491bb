//! A site's records, from files to batches.
//!
//! ```text
//!  pictures images and labels, from idx and .npz
//!  idx      one file, record by record
//!  split    parts and hold-outs, pure          select   labels → which records are for what
//!  read     tables, arrays, files in folders    check    the records against the data contract
//!  rows     a table's rows                     contract one row → inputs, with repairs
//!  series   a .npz file's series               picking  records → who gets which
//!  images   bytes in memory                    dataset  records on the device → batches
//!  augment  pictures of a training step, changed
//!  label    a class, several of them, or a number
//!  users    parts and hold-outs by whose records they are, pure
//!  documents a table's, or a file each         files    pictures in a file each
//!  folders  files in a folder for each class
//!  asked    records without labels, for predictions
//!  patients whose a record is, and who does not take part
//!  prints   what a source's files are, to who has the key
//!  groups   which rows are scored apart, pure
//! ```
//!
//! Of images in one file the labels are read first and decide which are kept, so memory follows the site's
//! own part. Files of their own are read whole to know which can be, and those of no use go before a copy is made.

pub(crate) mod asked;
pub(crate) mod augment;
pub(crate) mod check;
pub(crate) mod contract;
pub(crate) mod dataset;
pub(crate) mod documents;
pub(crate) mod files;
pub(crate) mod folders;
pub(crate) mod groups;
pub(crate) mod idx;
pub(crate) mod images;
pub(crate) mod label;
pub(crate) mod patients;
pub(crate) mod picking;
pub(crate) mod pictures;
pub(crate) mod prints;
pub(crate) mod read;
pub(crate) mod rows;
pub(crate) mod select;
pub(crate) mod series;
pub(crate) mod split;
pub(crate) mod users;

use std::path::Path;

use consilium_common::study::model::cnn::Image;
use consilium_common::worker::{FailureCode, Phase};
use tch::Device;

use self::dataset::Loaded;
use self::idx::IdxError;
use self::images::Filler;
use self::pictures::Pictures;
use self::select::{Files, Picks, Selection};
use crate::failure::Failure;
use crate::protocol::Link;

/// Records between two looks at stop and clock.
const RECORDS_PER_STEP: u32 = 256;

impl From<IdxError> for Failure {
    fn from(error: IdxError) -> Self {
        let code = match error {
            IdxError::NoFolder(_) | IdxError::Missing { .. } | IdxError::Open { .. } => {
                FailureCode::DataMissing
            }
            IdxError::Damaged { .. }
            | IdxError::Magic { .. }
            | IdxError::Shape { .. }
            | IdxError::Count { .. }
            | IdxError::TooMany { .. }
            | IdxError::NoHeader { .. }
            | IdxError::Truncated { .. }
            | IdxError::Trailing { .. } => FailureCode::DataInvalid,
        };
        Self::new(code, error.to_string())
    }
}

/// Where images are (a folder, or the file of a `.npz`), of what size, and of how many classes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Images<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) size: Image,
    pub(crate) classes: usize,
}

/// Reads the selected images: training records if any were asked for, and the hold-out.
pub(crate) fn load(
    images: Images<'_>,
    selection: &Selection,
    device: Device,
    link: &mut Link,
) -> Result<Loaded, Failure> {
    let filler =
        |picks: &Picks| Filler::new(images.size, &picks.labels.tensor(images.classes)?, device);
    let mut train = selection.train.as_ref().map(filler).transpose()?;
    let mut holdout = filler(&selection.holdout)?;
    read(images, selection, link, &mut |role, record| {
        match (role, train.as_mut()) {
            (Role::Holdout, _) => holdout.push(record)?,
            (Role::Train, Some(train)) => train.push(record)?,
            (Role::Train, None) => {}
        }
        Ok(())
    })?;
    Ok(Loaded { train: train.map(Filler::finish).transpose()?, holdout: holdout.finish()? })
}

/// What a record is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    Train,
    Holdout,
}

/// Takes one selected record; the bytes are its image.
type Each<'a> = dyn FnMut(Role, &[u8]) -> Result<(), Failure> + 'a;

/// Reads every file of the selection once, to its end, and hands the selected records to `each` in
/// the file's order.
pub(crate) fn read(
    images: Images<'_>,
    selection: &Selection,
    link: &mut Link,
    each: &mut Each<'_>,
) -> Result<(), Failure> {
    for files in [Files::Train, Files::Val, Files::Test] {
        let of_train = selection.train.as_ref().map(|picks| (Role::Train, picks));
        let of_both = of_train.into_iter().chain([(Role::Holdout, &selection.holdout)]);
        let wanted: Vec<_> = of_both.filter(|(_, picks)| picks.files == files).collect();
        if !wanted.is_empty() {
            let of = wanted.first().map_or(0, |(_, picks)| picks.of);
            let file = Pictures::open(selection.kind, images.folder, files, images.size, of)?;
            read_file(file, &wanted, link, each)?;
        }
    }
    Ok(())
}

fn read_file(
    mut file: Pictures,
    wanted: &[(Role, &Picks)],
    link: &mut Link,
    each: &mut Each<'_>,
) -> Result<(), Failure> {
    let of = wanted.first().map_or(0, |(_, picks)| picks.of);
    let picked = |(role, picks): &(Role, &Picks)| {
        let role = *role;
        let tagged = move |record: &u32| (*record, role);
        picks.records.iter().map(tagged).collect::<Vec<_>>()
    };
    let mut roles: Vec<(u32, Role)> = wanted.iter().flat_map(picked).collect();
    roles.sort_unstable_by_key(|(record, _)| *record);
    let mut roles = roles.into_iter().peekable();
    let mut number = 0_u32;
    loop {
        match roles.next_if(|(picked, _)| *picked == number) {
            Some((_, role)) => match file.next()? {
                Some(record) => each(role, record)?,
                None => return Ok(()),
            },
            None if file.skip()? => {}
            None => return Ok(()),
        }
        if number.is_multiple_of(RECORDS_PER_STEP) {
            let (done, total) = (u64::from(number), of as u64);
            link.moved(Phase::Loading, done, total, || Ok(None))?;
        }
        number += 1;
    }
}
