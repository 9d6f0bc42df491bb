//! One task from the study to the answer.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::study::model::Cnn;
use consilium_common::study::{ModelSpec, Study};
use consilium_common::tensor::layout::Layout;
use consilium_common::worker::{FailureCode, Outcome, Phase, Task, Work};
use tch::Device;

use crate::data::check::{check, enough};
use crate::data::dataset::Dataset;
use crate::data::select::select;
use crate::data::{Images, load};
use crate::failure::Failure;
use crate::model::cnn::Network;
use crate::optimizer::Optimizer;
use crate::protocol::Link;
use crate::{fit, metrics, weights};

/// More threads than any machine has; libtorch takes an i32.
const THREADS_MAX: u32 = 1024;

/// Does the task on `device`.
///
/// # Errors
/// The code and sentence of `Reply::Failed`.
pub(crate) fn perform(task: &Task, device: Device, link: &mut Link) -> Result<Outcome, Failure> {
    let study = read_study(&task.study)?;
    let ModelSpec::Cnn(spec) = &study.model else {
        let family = study.model.family();
        let message = format!("this worker trains `cnn`, not `{family}`: the daemon has its own");
        return Err(Failure::new(FailureCode::ModelMismatch, message));
    };
    if task.work == Work::Prepare {
        let message = "the cnn family prepares nothing".to_owned();
        return Err(Failure::new(FailureCode::ModelMismatch, message));
    }
    let with_train = task.work != Work::Evaluate;
    link.moved(Phase::Loading, 0, 0, || Ok(None))?;
    let selection = select(&task.source, &spec.classes, study.header.seed, with_train)?;
    let images = Images { folder: &task.source.path, size: spec.input };
    if task.work == Work::Check {
        return check(&study, images, &selection, link);
    }
    if let Some(train) = &selection.train {
        enough(&study, train.records.len())?;
    }
    prepare_libtorch(task);
    let model = Model::from_base(&study, spec, task, device)?;
    let (train, holdout) = load(images, &selection, device, link)?;
    let metrics = metrics::score(&model.network, &holdout, spec.classes.len(), link)?;
    let scored = Outcome { holdout: holdout.len() as u64, metrics, ..Outcome::default() };
    match train {
        None => Ok(scored),
        Some(train) => model.train(&study, task, &train, scored, link),
    }
}

/// Threads and seed hold for the whole process, which does one task.
fn prepare_libtorch(task: &Task) {
    let threads = task.threads.clamp(1, THREADS_MAX);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    tch::manual_seed(task.seed.cast_signed());
}

/// A network with the base's weights.
struct Model {
    network: Network,
    layout: Layout,
}

impl Model {
    fn from_base(study: &Study, spec: &Cnn, task: &Task, device: Device) -> Result<Self, Failure> {
        let layout = study.layout()?;
        let Some(base) = &task.base else {
            return Err(incomplete("names no base"));
        };
        let network = Network::new(spec, device)?;
        weights::load(network.store(), &layout, &weights::read(base, &layout)?)?;
        Ok(Self { network, layout })
    }

    /// Trains and saves. `scored` is what the base was worth.
    fn train(
        self,
        study: &Study,
        task: &Task,
        records: &Dataset,
        scored: Outcome,
        link: &mut Link,
    ) -> Result<Outcome, Failure> {
        let Some(out) = &task.out else {
            return Err(incomplete("names no place for the result"));
        };
        let parameters = weights::variables(self.network.store(), &self.layout)?;
        let optimizer = Optimizer::new(&study.training, parameters)?;
        let (network, training) = (&self.network, &study.training);
        let loss = fit::train(network, records, training, task.seed, optimizer, link)?;
        link.moved(Phase::Saving, 0, 1, || Ok(None))?;
        let flat = weights::flatten(network.store(), &self.layout)?;
        if flat.iter().any(|x| !x.is_finite()) {
            let message = "a weight became NaN or infinite: lower training.learning_rate";
            return Err(Failure::new(FailureCode::Diverged, message));
        }
        weights::write(out, &self.layout, &flat)?;
        Ok(Outcome { examples: records.len() as u64, train_loss: Some(loss), ..scored })
    }
}

fn incomplete(what: &str) -> Failure {
    let message = format!("the task {what}: daemon and worker do not fit together");
    Failure::new(FailureCode::ModelMismatch, message)
}

fn read_study(path: &Path) -> Result<Study, Failure> {
    let origin = path.display().to_string();
    let broken = |error: std::io::Error| {
        Failure::new(FailureCode::Internal, format!("the study {origin}: {error}"))
    };
    let mut text = String::new();
    let bound = u64::try_from(STUDY_BYTES_MAX).unwrap_or(u64::MAX);
    let file = File::open(path).map_err(broken)?;
    // One byte more than is read: a longer file is refused for its length.
    file.take(bound + 1).read_to_string(&mut text).map_err(broken)?;
    Ok(Study::read(&text, &origin)?)
}
