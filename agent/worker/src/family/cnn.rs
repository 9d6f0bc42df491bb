//! `cnn`: images with a label each.

use consilium_common::study::counts::Moments;
use consilium_common::study::model::Cnn;
use consilium_common::worker::{FailureCode, Outcome, SourceKind};
use tch::{TchError, Tensor};

use super::{Family, Job, prepares_nothing};
use crate::data::asked::{Questions, pictures};
use crate::data::check::{Seen, check, enough, support};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::files;
use crate::data::groups::shown;
use crate::data::label::Label;
use crate::data::rows::Rows;
use crate::data::select::{Selection, select};
use crate::data::{self, Role, load};
use crate::failure::Failure;
use crate::model::cnn::{BYTE, Convolutions};
use crate::model::{Network, only};
use crate::preparation::standards;
use crate::protocol::Link;

/// Values of a byte.
const BYTES: i64 = 256;
/// Pictures whose pixels are counted at once.
const PICTURES: i64 = 1024;

/// The family with its spec.
pub(super) struct Images<'a>(pub(super) &'a Cnn);

impl Images<'_> {
    fn images<'a>(&self, job: &Job<'a>) -> data::Images<'a> {
        let classes = self.0.classes.len();
        data::Images { folder: &job.source.path, size: self.0.input, classes }
    }

    fn check_files(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let rows = files::read(job, self.0.input, link)?;
        enough(job.study, rows.train.len())?;
        let (train, held) = (files::labels(&rows.train), files::labels(&rows.holdout));
        let mut findings = rows.findings;
        findings.extend(support(&self.0.classes, train, held));
        let mut seen = Seen::default();
        for (role, records) in [(Role::Train, &rows.train), (Role::Holdout, &rows.holdout)] {
            records.iter().for_each(|record| seen.look_at(role, &record.pixels));
        }
        findings.extend(seen.findings("images"));
        let (examples, holdout) = (rows.train.len() as u64, rows.holdout.len() as u64);
        Ok(Outcome { examples, holdout, findings, ..Outcome::default() })
    }

    fn load_files(
        &self,
        job: &Job<'_>,
        with_train: bool,
        link: &mut Link,
    ) -> Result<Loaded, Failure> {
        let Rows { train, holdout, members, .. } = files::read(job, self.0.input, link)?;
        if with_train {
            enough(job.study, train.len())?;
        }
        let of = (self.0.input, self.0.classes.len());
        let dataset = |records| files::dataset(records, of, job.device);
        let train = Some(train).filter(|_| with_train).map(dataset).transpose()?;
        let apart = shown(job.study, members.iter());
        Ok(Loaded { train, holdout: dataset(holdout)?.grouped(apart) })
    }
}

/// All that is known of pictures in one file is their labels.
fn selected(job: &Job<'_>, with_train: bool) -> Result<Selection, Failure> {
    let wants = if job.study.data.patient.is_some() {
        "`data.patient`"
    } else if !job.study.evaluation.groups.is_empty() {
        "`evaluation.groups`"
    } else {
        return select(job, with_train);
    };
    let message = format!(
        "{}: it says nothing else of a picture than its label: {wants} needs an image-folder with a table of \
         labels (`labels` in agent.toml)",
        job.source.path.display()
    );
    Err(Failure::new(FailureCode::DataInvalid, message))
}

/// Whether the site's pictures are files of their own.
fn in_files(job: &Job<'_>) -> bool {
    job.source.source == SourceKind::ImageFolder
}

impl Family for Images<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        if in_files(job) {
            return self.check_files(job, link);
        }
        let selection = selected(job, true)?;
        check(job.study, self.images(job), &selection, link)
    }

    /// The moments of each channel's pixels, over the pictures to train on.
    fn prepare(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<i32>, Failure> {
        let loaded = self.load(job, true, link)?;
        match loaded.train {
            Some(train) if job.study.family_sums().is_some() => {
                Ok(moments(&train, self.0.input.channels)?)
            }
            _ => Err(prepares_nothing(job.study)),
        }
    }

    fn labels(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<Label>, Failure> {
        if in_files(job) {
            return Ok(files::labels(&files::read(job, self.0.input, link)?.train).collect());
        }
        let train = selected(job, true)?.train;
        Ok(train.iter().flat_map(|train| train.labels.iter()).collect())
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        if in_files(job) {
            return self.load_files(job, with_train, link);
        }
        let selection = selected(job, with_train)?;
        if let Some(train) = &selection.train {
            enough(job.study, train.records.len())?;
        }
        load(self.images(job), &selection, job.device, link)
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
        let (augment, standards) = (job.study.training.augment, standards(job)?);
        Ok(Box::new(Convolutions::new(self.0, augment, standards.as_deref(), job.device)?))
    }
}

/// Units of the moments of every channel, as shares of the largest byte.
fn moments(pictures: &Dataset, channels: u32) -> Result<Vec<i32>, TchError> {
    let mut moments = vec![Moments::default(); channels as usize];
    let (mut start, len) = (0, i64::try_from(pictures.len()).unwrap_or(i64::MAX));
    while start < len {
        let batch = pictures.range(start, PICTURES.min(len - start))?;
        let pixels = only(&batch.inputs)?;
        for (channel, moments) in (0..).zip(&mut moments) {
            let bytes = pixels.f_select(1, channel)?.f_flatten(0, -1)?;
            let counts = Vec::<i64>::try_from(bytes.f_bincount::<Tensor>(None, BYTES)?)?;
            for (byte, count) in (0_u8..=u8::MAX).zip(counts) {
                moments.add_times(f64::from(byte) / BYTE, count.cast_unsigned());
            }
        }
        start = start.saturating_add(PICTURES);
    }
    Ok(moments.iter().flat_map(Moments::units).collect())
}
