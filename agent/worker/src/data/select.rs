//! From labels alone: which records of which file are for training, and which are held out. Images
//! are read after this, and only these are kept.

use consilium_common::limits::SITES_MAX;
use consilium_common::worker::source::OwnTest;
use consilium_common::worker::{FailureCode, Holdout, Part, SourceKind};

use super::contract::Labelled;
use super::label::Labels;
use super::pictures;
use super::split::{deal, hold_out, validate};
use crate::failure::Failure;
use crate::family::Job;

/// A pair of files, or of arrays: images and their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Files {
    Train,
    Val,
    Test,
}

impl Files {
    pub(crate) fn images(self) -> &'static str {
        match self {
            Self::Train => "train-images-idx3-ubyte",
            Self::Val => "val-images-idx3-ubyte",
            Self::Test => "t10k-images-idx3-ubyte",
        }
    }

    pub(crate) fn labels(self) -> &'static str {
        match self {
            Self::Train => "train-labels-idx1-ubyte",
            Self::Val => "val-labels-idx1-ubyte",
            Self::Test => "t10k-labels-idx1-ubyte",
        }
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Val => "val",
            Self::Test => "test",
        }
    }
}

/// Records of one file.
#[derive(Debug)]
pub(crate) struct Picks {
    pub(crate) files: Files,
    /// Records in the file, picked or not.
    pub(crate) of: usize,
    /// The picked ones, ascending.
    pub(crate) records: Vec<u32>,
    /// Their labels.
    pub(crate) labels: Labels,
}

impl Picks {
    fn new(files: Files, all: &Labels, records: Vec<u32>) -> Self {
        Self { files, of: all.len(), labels: all.pick(&records), records }
    }
}

/// What a task works on.
#[derive(Debug)]
pub(crate) struct Selection {
    pub(crate) kind: SourceKind,
    /// `None` where the task does not train.
    pub(crate) train: Option<Picks>,
    pub(crate) holdout: Picks,
}

/// Reads labels and deals. `with_train` is whether the task needs training records.
pub(crate) fn select(job: &Job<'_>, with_train: bool) -> Result<Selection, Failure> {
    let seed = job.study.header.seed;
    let Some(fraction) = job.source.validation else {
        return held_out(job, with_train);
    };
    let Selection { kind, train, .. } = held_out(job, true)?;
    let Some(Picks { files, of, records, labels }) = train else {
        return Err(Failure::new(FailureCode::Internal, "the training records were not selected"));
    };
    let picks = |picked: Vec<u32>| {
        // Both ascend.
        let place = |record: &u32| records.binary_search(record).ok();
        let places = picked.iter().filter_map(place).filter_map(|at| u32::try_from(at).ok());
        let labels = labels.pick(&places.collect::<Vec<_>>());
        Picks { files, of, records: picked, labels }
    };
    let (train, validation) = validate(records.clone(), fraction, seed);
    Ok(Selection { kind, train: with_train.then(|| picks(train)), holdout: picks(validation) })
}

/// The records to train on and those of the hold-out.
fn held_out(job: &Job<'_>, with_train: bool) -> Result<Selection, Failure> {
    let (source, seed) = (job.source, job.study.header.seed);
    let labelled = Labelled::of(job.study, source);
    let invalid = |message: String| Err(Failure::new(FailureCode::DataInvalid, message));
    if let Some(part) = &source.part {
        check_part(part)?;
    }
    let kind = source.source;
    let dealt = |files| -> Result<(Labels, Vec<u32>), Failure> {
        let labels = pictures::labels(kind, &source.path, files, &labelled)?;
        let records = match &source.part {
            Some(part) => {
                let (keys, kinds) = labels.keys(labelled.classes.len());
                deal(part, files.word(), &keys, kinds)
            }
            None => (0..u32::try_from(labels.len()).unwrap_or(u32::MAX)).collect(),
        };
        Ok((labels, records))
    };
    if source.only.is_some() {
        return invalid(
            "only: images have no columns to pick records by; a table of labels (`labels` in agent.toml) \
             of an image-folder has"
                .to_owned(),
        );
    }
    match source.holdout {
        Holdout::Own(own) => {
            let own = match own {
                OwnTest::Test => Files::Test,
                OwnTest::Val => Files::Val,
            };
            let train = if with_train {
                let (labels, records) = dealt(Files::Train)?;
                Some(Picks::new(Files::Train, &labels, records))
            } else {
                None
            };
            let (labels, records) = dealt(own)?;
            let holdout = Picks::new(own, &labels, records);
            Ok(Selection { kind, train, holdout })
        }
        Holdout::Fraction(fraction) if (0.0..1.0).contains(&fraction) => {
            let (labels, records) = dealt(Files::Train)?;
            let (train, held) = hold_out(records, fraction, seed);
            let train = with_train.then(|| Picks::new(Files::Train, &labels, train));
            let holdout = Picks::new(Files::Train, &labels, held);
            Ok(Selection { kind, train, holdout })
        }
        Holdout::Fraction(fraction) => {
            invalid(format!("holdout is {fraction}: write 0 to below 1, \"test\" or \"val\""))
        }
        Holdout::Where(_) | Holdout::Every(_) | Holdout::OfUser(_) => invalid(
            "holdout: images have no columns; write a fraction, \"test\" or \"val\"".to_owned(),
        ),
    }
}

pub(crate) fn check_part(part: &Part) -> Result<(), Failure> {
    let of = 1..=u32::try_from(SITES_MAX).unwrap_or(u32::MAX);
    if of.contains(&part.of) && part.index < part.of {
        return Ok(());
    }
    let (index, of) = (part.index, part.of);
    let message = format!("part {index} of {of}: `of` is 1 to {SITES_MAX}, `index` counts from 0");
    Err(Failure::new(FailureCode::DataInvalid, message))
}
