//! A family: from a study and a site's files to records and a network. Everything behind it
//! (`task`, `fit`, `score`, `optimizer`, `weights`) is the same for all families.

mod cnn;
mod recommender;
mod rnn;
mod tabular;
mod text;

use std::path::Path;

use consilium_common::study::{ModelSpec, Preparation, Study};
use consilium_common::worker::{FailureCode, Outcome, Source};
use tch::Device;
use tch::nn::VarStore;

use crate::data::asked::Questions;
use crate::data::dataset::Loaded;
use crate::data::label::Label;
use crate::data::patients::Patients;
use crate::failure::Failure;
use crate::local::Kept;
use crate::model::Network;
use crate::protocol::Link;

/// What a family works from.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) study: &'a Study,
    pub(crate) source: &'a Source,
    pub(crate) device: Device,
    /// What the sites counted together, where the study has it and the task trains or scores.
    pub(crate) preparation: Option<&'a Preparation>,
    /// What the site kept of the study's last round that counted.
    pub(crate) local: Option<&'a Path>,
    /// Whose records are, where the files say so and somebody asks.
    pub(crate) patients: Option<&'a Patients>,
}

/// One of the families, with its spec.
pub(crate) trait Family {
    /// Holds every record against the data contract. Nothing trains.
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure>;

    /// This site's share of what the sites count together: as many units as the study has sums, each
    /// within ±2^30.
    fn prepare(&self, job: &Job<'_>, _link: &mut Link) -> Result<Vec<i32>, Failure> {
        Err(prepares_nothing(job.study))
    }

    /// The label of every record to train on, for families that tell classes apart.
    fn labels(&self, job: &Job<'_>, _link: &mut Link) -> Result<Vec<Label>, Failure> {
        Err(prepares_nothing(job.study))
    }

    /// Reads the records: those to train on if `with_train`, and those held out. Fails with
    /// `too-few-examples` before it reads what would not be used.
    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure>;

    /// Reads the records of the source's file to predict: no labels, no picks, no hold-out.
    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure>;

    /// The network, its parameters zero until weights are loaded.
    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure>;

    /// Gives [`Network::local`] the values that the site kept in `state`.
    fn restore_local(&self, state: &Path, store: &VarStore) -> Result<(), Failure> {
        Kept::of(store).read(state)
    }

    /// Gives [`Network::local`] its values where the site has no local state yet; without this they
    /// are as `network` made them.
    fn start_local(
        &self,
        _job: &Job<'_>,
        _network: &dyn Network,
        _link: &mut Link,
    ) -> Result<(), Failure> {
        Ok(())
    }
}

fn prepares_nothing(study: &Study) -> Failure {
    let (name, family) = (study.id(), study.model.family());
    let message = format!("the {family} family prepares nothing for study {name}");
    Failure::new(FailureCode::ModelMismatch, message)
}

/// The study's family.
///
/// # Errors
/// The study is none for this worker.
pub(crate) fn of(study: &Study) -> Result<Box<dyn Family + '_>, Failure> {
    match &study.model {
        ModelSpec::Cnn(spec) => Ok(Box::new(cnn::Images(spec))),
        ModelSpec::Recommender(spec) => Ok(Box::new(recommender::Choices::new(spec))),
        ModelSpec::Rnn(spec) => Ok(Box::new(rnn::OverTime(spec))),
        ModelSpec::Tabular(spec) => Ok(Box::new(tabular::Table(spec))),
        ModelSpec::TextClassifier(spec) => Ok(Box::new(text::Documents(spec))),
        ModelSpec::Synthetic(_) => {
            let message = "this worker does not train `synthetic`: the daemon has its own";
            Err(Failure::new(FailureCode::ModelMismatch, message))
        }
    }
}
