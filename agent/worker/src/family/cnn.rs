//! `cnn`: images with a label each.

use consilium_common::study::model::Cnn;
use consilium_common::worker::Outcome;

use super::{Family, Job};
use crate::data::check::{check, enough};
use crate::data::dataset::Loaded;
use crate::data::select::select;
use crate::data::{self, load};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::cnn::Convolutions;
use crate::protocol::Link;

/// The family with its spec.
pub(super) struct Images<'a>(pub(super) &'a Cnn);

impl Images<'_> {
    fn files<'a>(&self, job: &Job<'a>) -> data::Images<'a> {
        data::Images { folder: &job.source.path, size: self.0.input }
    }
}

impl Family for Images<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let selection = select(job, &self.0.classes, true)?;
        check(job.study, self.files(job), &selection, link)
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let selection = select(job, &self.0.classes, with_train)?;
        if let Some(train) = &selection.train {
            enough(job.study, train.records.len())?;
        }
        load(self.files(job), &selection, job.device, link)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        Ok(Box::new(Convolutions::new(self.0, job.device)?))
    }
}
