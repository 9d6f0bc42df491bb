//! `cnn`: images with a label each.

use consilium_common::study::model::Cnn;
use consilium_common::worker::Outcome;
use tch::Tensor;

use super::{Family, Job};
use crate::data::asked::{Questions, pictures};
use crate::data::check::{check, enough};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::label::Label;
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
        let classes = self.0.classes.len();
        data::Images { folder: &job.source.path, size: self.0.input, classes }
    }
}

impl Family for Images<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let selection = select(job, true)?;
        check(job.study, self.files(job), &selection, link)
    }

    fn labels(&self, job: &Job<'_>, _link: &mut Link) -> Result<Vec<Label>, Failure> {
        let train = select(job, true)?.train;
        Ok(train.iter().flat_map(|train| train.labels.iter()).collect())
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let selection = select(job, with_train)?;
        if let Some(train) = &selection.train {
            enough(job.study, train.records.len())?;
        }
        load(self.files(job), &selection, job.device, link)
    }

    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure> {
        let size = self.0.input;
        let dataset = |pixels: Vec<Vec<u8>>| {
            let sides = [size.channels, size.height, size.width].map(i64::from);
            let [channels, height, width] = sides;
            let bytes = Tensor::f_from_slice(&pixels.concat())?;
            let images = bytes.f_view([-1, channels, height, width])?.f_to_device(job.device)?;
            Dataset::unlabelled(vec![images])
        };
        Ok(pictures(job.source, size, link)?.map(dataset)?)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        Ok(Box::new(Convolutions::new(self.0, job.study.training.augment, job.device)?))
    }
}
