//! One task from the study to the answer.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use consilium_common::limits::STUDY_BYTES_MAX;
use consilium_common::study::Study;
use consilium_common::tensor::layout::{Kind, Layout, Tensor as LayoutTensor};
use consilium_common::time::Clock as _;
use consilium_common::worker::{FailureCode, Outcome, Phase, Task, Work};
use consilium_io::SystemClock;
use tch::{Device, Tensor};

use crate::data::dataset::{Dataset, Loaded};
use crate::data::{patients, prints};
use crate::failure::Failure;
use crate::family::{self, Family, Job};
use crate::fit::Descent;
use crate::local::Kept;
use crate::model::Network;
use crate::optimizer::Optimizer;
use crate::protocol::Link;
use crate::score::Loss;
use crate::{fit, predict, preparation, score, weights};

/// More threads than any machine has; libtorch takes an i32.
const THREADS_MAX: u32 = 1024;

/// Does the task on `device`.
///
/// # Errors
/// The code and sentence of `Reply::Failed`.
pub(crate) fn perform(task: &Task, device: Device, link: &mut Link) -> Result<Outcome, Failure> {
    let study = read_study(&task.study)?;
    let family = family::of(&study)?;
    let preparation = preparation::read(task, &study)?;
    let preparation = preparation.as_ref();
    let local = task.local.as_deref();
    let source = &task.source;
    if source.validation.is_some_and(|share| !(share > 0.0 && share < 1.0)) {
        return Err(incomplete("has a validation part that is no share"));
    }
    let patients = patients::of(task, &study)?;
    let patients = patients.as_ref();
    let job = Job { study: &study, source, device, local, preparation, patients };
    link.moved(Phase::Loading, 0, 0, || Ok(None))?;
    let outcome = work(task, &job, &*family, link)?;
    if let (Some(census), Some(patients)) = (&task.census, patients) {
        patients.leave(census, task.work)?;
    }
    Ok(outcome)
}

fn work(
    task: &Task,
    job: &Job<'_>,
    family: &dyn Family,
    link: &mut Link,
) -> Result<Outcome, Failure> {
    let study = job.study;
    match task.work {
        Work::Check => return family.check(job, link),
        Work::Pin => return prints::leave(task, job, link),
        Work::Prepare => {
            let units = preparation::count(family, job, link)?;
            link.moved(Phase::Saving, 0, 1, || Ok(None))?;
            preparation::write(task, study, &units)?;
            return Ok(Outcome::default());
        }
        Work::Train | Work::TrainAlone | Work::Evaluate | Work::Predict => prepare_libtorch(task),
    }
    if task.work == Work::Predict {
        return ask(task, job, family, link);
    }
    let Loaded { train, holdout } = family.load(job, task.work != Work::Evaluate, link)?;
    let model = Model::from_base(study, family.network(job)?, task)?;
    model.take_local(family, task)?;
    if task.local.is_none() && model.network.local().is_some() {
        family.start_local(job, &*model.network, link)?;
    }
    let scored = |link: &mut Link| -> Result<Outcome, Failure> {
        let metrics = score::score(&*model.network, study, &holdout, link)?;
        Ok(Outcome { holdout: holdout.len() as u64, metrics, ..Outcome::default() })
    };
    let Some(train) = train else {
        return scored(link);
    };
    let of_base = if task.work == Work::Train { Some(scored(link)?) } else { None };
    let trained = model.train(job, task, &train, link)?;
    let Outcome { holdout, metrics, .. } = of_base.map_or_else(|| scored(link), Ok)?;
    Ok(Outcome { holdout, metrics, ..trained })
}

/// Says what the base makes of each record. Of a local state that the site does not have yet nothing
/// can be learnt here: the records have no labels.
fn ask(
    task: &Task,
    job: &Job<'_>,
    family: &dyn Family,
    link: &mut Link,
) -> Result<Outcome, Failure> {
    let out = task.out.as_deref().ok_or_else(|| incomplete("names no place for the result"))?;
    let asked = family.ask(job, link)?;
    let model = Model::from_base(job.study, family.network(job)?, task)?;
    model.take_local(family, task)?;
    let objective = job.study.model.objective();
    let examples = predict::predict(&*model.network, objective, &asked, out, link)?;
    Ok(Outcome { examples, ..Outcome::default() })
}

/// Threads and seed hold for the whole process, which does one task.
fn prepare_libtorch(task: &Task) {
    let threads = task.threads.clamp(1, THREADS_MAX);
    tch::set_num_threads(i32::try_from(threads).unwrap_or(1));
    tch::manual_seed(task.seed.cast_signed());
}

/// A network with the base's weights.
struct Model {
    network: Box<dyn Network>,
    layout: Layout,
    /// The network's variables, in the layout's order.
    shared: Vec<Tensor>,
    /// Those of them that the study leaves at the site.
    stays: Kept,
}

impl Model {
    fn from_base(study: &Study, network: Box<dyn Network>, task: &Task) -> Result<Self, Failure> {
        let layout = study.layout()?;
        let Some(base) = &task.base else {
            return Err(incomplete("names no base"));
        };
        let local = study.local_tensors()?;
        let (shared, stays) = weights::sort_out(network.store(), &layout, &local)?;
        weights::fill(&shared, &layout, &weights::read(base, &layout, "the base")?)?;
        Ok(Self { network, layout, shared, stays })
    }

    /// Takes what stays at the site, where the task brings it.
    fn take_local(&self, family: &dyn Family, task: &Task) -> Result<(), Failure> {
        match (&task.local, self.network.local()) {
            (None, _) => Ok(()),
            (Some(state), Some(store)) if self.stays.is_empty() => {
                family.restore_local(state, store)
            }
            (Some(_), None) if self.stays.is_empty() => {
                Err(incomplete("brings a local state to a model that has none"))
            }
            (Some(state), _) => self.kept()?.read(state),
        }
    }

    /// All that stays at the site, by the study's word or the family's.
    fn kept(&self) -> Result<Kept, Failure> {
        let family = self.network.local().map(Kept::of).unwrap_or_default();
        family.and(&self.stays)
    }

    /// The variables that the sites train together.
    fn trained(&self) -> Vec<Tensor> {
        let tensors = self.layout.tensors().iter().zip(&self.shared);
        let weights = tensors.filter(|(tensor, _)| tensor.kind == Kind::Weight);
        weights.map(|(_, variable)| variable.shallow_clone()).collect()
    }

    /// Trains and saves: what travels, and what stays.
    fn train(
        &self,
        job: &Job<'_>,
        task: &Task,
        records: &Dataset,
        link: &mut Link,
    ) -> Result<Outcome, Failure> {
        let Some(out) = &task.out else {
            return Err(incomplete("names no place for the result"));
        };
        let study = job.study;
        let mut optimizer = Optimizer::new(&study.training, task.round, self.trained())?;
        if let Some(mu) = study.aggregation.proximal_mu {
            optimizer = optimizer.near_base(mu)?;
        }
        if let Some(path) = &task.correction {
            optimizer = optimizer.corrected(self.correction(path, job.device)?);
        }
        let kept = self.kept()?;
        let kept = match (kept.is_empty() && self.network.local().is_none(), &task.local_out) {
            (true, _) => None,
            (false, Some(out)) => Some((kept, out)),
            (false, None) => return Err(incomplete("names no place for the next local state")),
        };
        if let Some((kept, _)) = &kept {
            optimizer = optimizer.and(kept.trained())?;
        }
        let network = &*self.network;
        let loss = Loss::new(study, preparation::class_weights(job)?);
        let mut descent = Descent { loss, optimizer };
        let clock = SystemClock::open();
        let loss = fit::train(network, records, study, task.seed, &mut descent, link)?;
        let train_seconds = Some(clock.now().as_secs_f64());
        link.moved(Phase::Saving, 0, 1, || Ok(None))?;
        let flat = weights::gather(&self.shared, &self.layout)?;
        weights::all_finite(&flat)?;
        if let Some((kept, out)) = kept {
            kept.write(out)?;
        }
        weights::write(out, &self.layout, &flat, "the model")?;
        let (examples, train_loss) = (records.len() as u64, Some(loss));
        let corrects = study.aggregation.control_grid().is_some();
        let steps = corrects.then(|| descent.optimizer.length());
        Ok(Outcome { examples, train_loss, train_seconds, steps, ..Outcome::default() })
    }

    /// What the file adds to the gradients of those that are trained, in their order.
    fn correction(&self, path: &Path, device: Device) -> Result<Vec<Tensor>, Failure> {
        let flat = weights::read(path, &self.layout, "the correction")?;
        let tensors = self.layout.tensors().iter().filter(|tensor| tensor.kind == Kind::Weight);
        let one = |tensor: &LayoutTensor| -> Result<Tensor, Failure> {
            let range = tensor.offset..tensor.offset + tensor.len;
            let shape: Vec<i64> = tensor.shape.iter().copied().map(i64::from).collect();
            let values = Tensor::f_from_slice(flat.get(range).unwrap_or_default())?;
            Ok(values.f_view(shape.as_slice())?.f_to_device(device)?)
        };
        tensors.map(one).collect()
    }
}

pub(crate) fn incomplete(what: &str) -> Failure {
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
