//! `[training]`: what a site does with its records in a round.

use serde::{Deserialize, Serialize};

use super::check::range;
use super::sections::Metric;
use super::{Augment, ClassWeights, DataKind, ModelSpec, Study, StudyError};
use crate::limits::{BATCH_SCORES_MAX, LOCAL_STEPS_MAX, ROUNDS_MAX};

/// `[training]`: hyper-parameters at the site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Training {
    /// How weights follow gradients.
    pub optimizer: Optimizer,
    /// Step size.
    pub learning_rate: f64,
    /// How the step size changes over the rounds.
    pub schedule: Schedule,
    /// Records a step.
    pub batch_size: u32,
    /// Passes over the site's records a round; without this and `local_steps` one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_epochs: Option<u32>,
    /// Steps of the optimizer a round, in place of passes: as many at a small site as at a large one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub local_steps: Option<u32>,
    /// Committed versions after which the study is complete.
    pub rounds: u64,
    /// How much a record of each class counts in the loss; all alike without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class_weights: Option<ClassWeights>,
    /// Bound on the L2 norm of a batch's gradient, all weights together: a longer one is shortened to
    /// it (Pascanu et al. 2013, algorithm 1).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clip_gradient: Option<f64>,
    /// λ of the L2 regularisation λ/2·‖w‖²: the gradient of each weight has λ·w more, after it was
    /// shortened (`weight_decay` of PyTorch's Adam and SGD). Tensors of one dimension (biases, scales)
    /// keep their size.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub weight_decay: Option<f64>,
    /// How pictures are changed for a training step.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub augment: Option<Augment>,
    /// The study is complete before that when its best version is so many versions old.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub early_stopping: Option<u64>,
    /// Tensors that stay as v0 has them, by patterns over their names: `conv1.*`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub frozen: Vec<String>,
    /// Tensors that each site trains and keeps for itself, by patterns over their names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub local: Vec<String>,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            optimizer: Optimizer::Adam,
            learning_rate: 1e-3,
            schedule: Schedule::Constant,
            batch_size: 32,
            local_epochs: None,
            local_steps: None,
            rounds: 20,
            class_weights: None,
            clip_gradient: None,
            weight_decay: None,
            augment: None,
            early_stopping: None,
            frozen: Vec::new(),
            local: Vec::new(),
        }
    }
}

/// How weights follow gradients; state is reset each round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Optimizer {
    /// Kingma & Ba 2015, β = (0.9, 0.999), ε = 1e-8.
    Adam,
    /// Plain stochastic gradient descent.
    Sgd,
}

/// How the step size changes over the rounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Schedule {
    /// Not at all.
    Constant,
    /// Down half a wave: η · ½(1 + cos π(r − 1)/R) in round r of R (Loshchilov & Hutter 2017, eq. 5,
    /// without restarts).
    Cosine,
}

impl Training {
    /// One pass a round, where a study says nothing.
    pub(super) fn fill(&mut self) {
        if self.local_steps.is_none() {
            self.local_epochs.get_or_insert(1);
        }
    }

    /// Steps of a round at a site whose records are so many batches.
    #[must_use]
    pub fn steps_of_round(&self, batches: u64) -> u64 {
        match self.local_steps {
            Some(steps) => steps.into(),
            None => batches.saturating_mul(self.local_epochs.unwrap_or(1).into()),
        }
    }

    /// Whether a round is one pass over the site's records.
    #[must_use]
    pub fn is_epoch(&self) -> bool {
        self.local_steps.is_none() && self.local_epochs.unwrap_or(1) == 1
    }

    /// The step size of a study's `round`, counted from 1 by the versions that it would make; that of
    /// the first for 0, which is outside of them.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "rounds are below 2^53")]
    pub fn learning_rate_of(&self, round: u64) -> f64 {
        match self.schedule {
            Schedule::Constant => self.learning_rate,
            Schedule::Cosine => {
                let done = round.clamp(1, self.rounds.max(1)) - 1;
                let share = done as f64 / self.rounds.max(1) as f64;
                self.learning_rate * 0.5 * (1.0 + (std::f64::consts::PI * share).cos())
            }
        }
    }
}

impl Study {
    pub(super) fn check_training(&self) -> Result<(), StudyError> {
        let t = &self.training;
        if !(t.learning_rate.is_finite() && t.learning_rate > 0.0) {
            return range("training.learning_rate", t.learning_rate, "a number above 0 is needed");
        }
        if !(1..=1 << 20).contains(&t.batch_size) {
            return range("training.batch_size", t.batch_size, "1 to 1048576 is accepted");
        }
        if let ModelSpec::Recommender(spec) = &self.model
            && spec.is_multinomial()
            && u64::from(t.batch_size) * (u64::from(spec.items) + 1) > BATCH_SCORES_MAX
        {
            let need = format!(
                "with `loss = \"multinomial\"` at most {} records of {} items are accepted",
                BATCH_SCORES_MAX / (u64::from(spec.items) + 1),
                spec.items
            );
            return range("training.batch_size", t.batch_size, &need);
        }
        self.check_local_work()?;
        if !(1..=ROUNDS_MAX).contains(&t.rounds) {
            let need = format!("1 to {ROUNDS_MAX} is accepted");
            return range("training.rounds", t.rounds, &need);
        }
        self.check_loss()?;
        self.check_early_stopping()
    }

    /// How long a site trains in a round.
    fn check_local_work(&self) -> Result<(), StudyError> {
        let t = &self.training;
        if let Some(epochs) = t.local_epochs.filter(|epochs| !(1..=10_000).contains(epochs)) {
            return range("training.local_epochs", epochs, "1 to 10000 is accepted");
        }
        let Some(steps) = t.local_steps else {
            return Ok(());
        };
        let need = if matches!(self.model, ModelSpec::Synthetic(_)) {
            "the synthetic trainer takes no such steps: leave it out"
        } else if t.local_epochs.is_some() {
            "`training.local_epochs` is given too: leave one out"
        } else if !(1..=LOCAL_STEPS_MAX).contains(&steps) {
            "1 to 10000000 is accepted"
        } else {
            return Ok(());
        };
        range("training.local_steps", steps, need)
    }

    /// What changes the way down the loss goes with families that have one, and pictures with theirs.
    fn check_loss(&self) -> Result<(), StudyError> {
        let t = &self.training;
        if let Some(weights) = &t.class_weights {
            weights.check(&self.model)?;
        }
        let synthetic = matches!(self.model, ModelSpec::Synthetic(_));
        if let Some(clip) = t.clip_gradient {
            if synthetic {
                let need = "the synthetic trainer has no gradient: leave it out";
                return range("training.clip_gradient", clip, need);
            }
            if !(1e-20..=1e20).contains(&clip) {
                return range("training.clip_gradient", clip, "1e-20 to 1e20 is accepted");
            }
        }
        if let Some(decay) = t.weight_decay {
            if synthetic {
                let need = "the synthetic trainer goes down no loss: leave it out";
                return range("training.weight_decay", decay, need);
            }
            if !(0.0..=1e20).contains(&decay) {
                return range("training.weight_decay", decay, "0 to 1e20 is accepted");
            }
        }
        match &t.augment {
            Some(_) if self.model.reads() != Some(DataKind::Images) => {
                let need =
                    format!("the {} family has no pictures: leave it out", self.model.family());
                range("training.augment", "given", &need)
            }
            Some(augment) => augment.check(),
            None => Ok(()),
        }
    }

    fn check_early_stopping(&self) -> Result<(), StudyError> {
        let Some(versions) = self.training.early_stopping else {
            return Ok(());
        };
        if !(1..=ROUNDS_MAX).contains(&versions) {
            let need = format!("1 to {ROUNDS_MAX} versions are accepted");
            return range("training.early_stopping", versions, &need);
        }
        if self.model.objective().is_none() && self.evaluation.metric == Metric::Accuracy {
            let need = "the synthetic trainer measures no accuracy: write `metric = \"loss\"`";
            return range("training.early_stopping", versions, need);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(training: &str) -> Result<Training, StudyError> {
        let text = format!(
            "[study]\nname = \"a\"\n[model]\nfamily = \"tabular\"\nclasses = [\"n\", \"y\"]\n[data]\n\
             kind = \"table\"\nlabel = \"ill\"\ncolumns = [{{ name = \"age\", min = 0, max = 120 }}]\n\
             [training]\n{training}\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
             mode = \"inspectable\"\n"
        );
        Study::read(&text, "a.toml").map(|study| study.training)
    }

    #[test]
    fn values_out_of_range_name_their_field() {
        let cases = [
            ("learning_rate = inf", "`training.learning_rate` is inf"),
            ("batch_size = 0", "`training.batch_size` is 0"),
            ("weight_decay = -1.0", "`training.weight_decay` is -1"),
            ("weight_decay = nan", "`training.weight_decay` is NaN"),
            ("weight_decay = 1e30", "`training.weight_decay` is 1"),
            ("local_epochs = 0", "`training.local_epochs` is 0"),
            ("local_epochs = 10001", "`training.local_epochs` is 10001"),
            ("local_steps = 0", "`training.local_steps` is 0"),
            ("local_steps = 10000001", "`training.local_steps` is 10000001"),
            ("local_steps = 5\nlocal_epochs = 1", "`training.local_epochs` is given too"),
        ];
        for (training, said) in cases {
            let text = read(training).unwrap_err().to_string();
            assert!(text.contains(said), "{training}: {text}");
        }
    }

    #[test]
    fn a_round_is_epochs_or_steps_and_one_epoch_where_nothing_is_said() {
        let steps = |training: &str| {
            let training = read(training).unwrap();
            (training.steps_of_round(7), training.is_epoch())
        };
        assert_eq!(steps(""), (7, true));
        assert_eq!(steps("local_epochs = 1"), (7, true));
        assert_eq!(steps("local_epochs = 3"), (21, false));
        assert_eq!(steps("local_steps = 3"), (3, false));
    }

    #[test]
    fn a_cosine_takes_the_step_size_from_all_of_it_to_almost_none() {
        let schedule = |word: &str| {
            let training = read(&format!("schedule = \"{word}\"\nrounds = 4")).unwrap();
            [0, 1, 2, 3, 4, 9].map(|round| training.learning_rate_of(round) / 1e-3)
        };
        assert!(schedule("constant").iter().all(|share| (share - 1.0).abs() < 1e-12));
        let need = [1.0, 1.0, 0.853_553, 0.5, 0.146_447, 0.146_447];
        for (have, need) in schedule("cosine").iter().zip(need) {
            assert!((have - need).abs() < 1e-6, "{have} {need}");
        }
    }
}
