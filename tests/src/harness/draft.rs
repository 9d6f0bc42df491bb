//! Study files as an operator would write them: the synthetic family, which needs no libtorch and
//! has a known optimum.

use consilium_common::study::Study;

/// A study to be.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Its name.
    pub name: &'static str,
    /// Length of the model.
    pub parameters: u32,
    /// Committed versions after which it is complete.
    pub rounds: u64,
    /// Sites without which no round starts or commits.
    pub min_sites: u32,
    /// Batches of a round.
    pub batches: u32,
    /// Milliseconds of a batch.
    pub batch_ms: u32,
    /// Counters that each site keeps as its local state, so that the models show whether it moved with
    /// exactly the updates that counted.
    pub local: u32,
    /// Sums that the sites count before the first round; 0 for none.
    pub prepare: u32,
    /// Steps of a round down a quadratic, by plain descent; 0 for half of the way to the optimum.
    pub steps: u32,
    /// A bound that the first rounds exceed and the later ones keep.
    pub clip_norm: f64,
    /// The strategy and its numbers, as lines of `[aggregation]`.
    pub strategy: &'static str,
    /// When a silent site is idle. Long by default: no test of kills may lose a site to it.
    pub idle_timeout: &'static str,
}

impl Draft {
    /// 1,000 parameters, four sites, all of them needed.
    #[must_use]
    pub fn new(name: &'static str, rounds: u64) -> Self {
        Self {
            name,
            parameters: 1_000,
            rounds,
            min_sites: 4,
            batches: 2,
            batch_ms: 0,
            local: 3,
            prepare: 0,
            steps: 0,
            clip_norm: 8.0,
            strategy: "",
            idle_timeout: "60s",
        }
    }

    /// The file.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { name, parameters, rounds, min_sites, batches, batch_ms, .. } = self;
        let (clip_norm, strategy) = (self.clip_norm, self.strategy);
        let (idle_timeout, local, prepare) = (self.idle_timeout, self.local, self.prepare);
        let steps = self.steps;
        let training = if steps > 0 { "optimizer = \"sgd\"\nlearning_rate = 0.1\n" } else { "" };
        format!(
            "[study]\nname = \"{name}\"\npurpose = \"Tests of the protocol\"\nseed = 7\n\n\
             [model]\nfamily = \"synthetic\"\nparameters = {parameters}\nbatches = {batches}\n\
             batch_ms = {batch_ms}\nlocal = {local}\nprepare = {prepare}\nsteps = {steps}\n\n\
             [training]\nrounds = {rounds}\n{training}\n\
             [aggregation]\nclip_norm = {clip_norm:?}\n{strategy}\n\
             [cohort]\nmin_sites = {min_sites}\nmax_examples = 100000\ndeadline = \"1h\"\n\
             idle_timeout = \"{idle_timeout}\"\n\n[privacy]\nmode = \"inspectable\"\n"
        )
    }

    /// The file, read.
    #[must_use]
    pub fn study(&self) -> Study {
        Study::read(&self.text(), self.name).unwrap()
    }
}
