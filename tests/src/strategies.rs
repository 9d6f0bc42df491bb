//! Every strategy once more, apart from the product's: the papers' formulas over whole vectors, in
//! the order of operations that `coordinator/src/aggregate/server_opt.rs` documents. A version that
//! a history leads to must have these bits.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "strategies that a study is refused for are in no federation"
)]

use std::collections::BTreeSet;

use consilium_common::ids::{Digest, SiteId};
use consilium_common::study::{Strategy, Study};
use consilium_common::tensor::flat::encode_model;
use consilium_common::update::grid::step_exponent;

/// A version: the model's vector, and the strategy's moments once it has made a version.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    study: Study,
    /// The model.
    pub(crate) vector: Vec<f32>,
    /// m and v of each coordinate. FedAvgM has no v, SCAFFOLD c alone.
    moments: Option<Vec<[f32; 2]>>,
    /// Sites whose control variate is part of SCAFFOLD's c.
    members: BTreeSet<SiteId>,
}

impl Expected {
    /// At v0.
    #[expect(clippy::unwrap_used, reason = "tests alone run this")]
    pub(crate) fn new(study: Study) -> Self {
        let vector = study.initial_vector().unwrap();
        Self { study, vector, moments: None, members: BTreeSet::new() }
    }

    /// Whether the updates have a `control` section.
    pub(crate) fn corrects(&self) -> bool {
        self.study.aggregation.strategy == Strategy::Scaffold
    }

    /// SCAFFOLD's c; `None` while it is zero.
    pub(crate) fn common(&self) -> Option<Vec<f32>> {
        let kept = self.moments.as_ref().filter(|_| self.corrects())?;
        Some(kept.iter().map(|[c, _]| *c).collect())
    }

    /// Whether a site's control variate is part of c.
    pub(crate) fn has_member(&self, site: &SiteId) -> bool {
        self.members.contains(site)
    }

    /// A site has lost its control variate: c begins anew.
    pub(crate) fn begin_anew(&mut self) {
        (self.moments, self.members) = (None, BTreeSet::new());
    }

    /// The next version, from a round's sum of weight · grid units (under SCAFFOLD those of the change
    /// of the control variates follow) over these sites.
    pub(crate) fn commit(&mut self, sum: &[i128], weight: u64, counted: &[&SiteId]) {
        let before = exact(self.members.len() as i128);
        self.members.extend(counted.iter().map(|site| (*site).clone()));
        let after = exact(self.members.len() as i128);
        let (sum, changes) = sum.split_at(self.vector.len());
        let step = 2_f64.powi(step_exponent(self.study.aggregation.clip_norm));
        let tau = self.study.aggregation.tau.unwrap_or(0.0);
        let mut moments = self.moments.take().map(|kept| {
            kept.into_iter().map(|[m, v]| [f64::from(m), f64::from(v)]).collect::<Vec<_>>()
        });
        let moments = moments.get_or_insert_with(|| vec![[0.0, tau * tau]; self.vector.len()]);
        for ((value, moments), sum) in self.vector.iter_mut().zip(moments.iter_mut()).zip(sum) {
            let mean = exact(*sum) / exact(weight.into()) * step;
            *value = narrow(added(&self.study, moments, mean) + f64::from(*value));
        }
        let step = self
            .study
            .aggregation
            .control_clip_norm
            .map_or(0.0, |clip| 2_f64.powi(step_exponent(clip)));
        for ([c, _], change) in moments.iter_mut().zip(changes) {
            *c = (before * *c + exact(*change) * step) / after;
        }
        let kept = moments.iter().map(|[m, v]| [narrow(*m), narrow(*v)]);
        self.moments = Some(kept.collect());
    }

    /// Digest of the model.
    #[expect(clippy::unwrap_used, reason = "tests alone run this")]
    pub(crate) fn model(&self) -> Digest {
        Digest::of(&encode_model(&self.study.layout().unwrap(), &self.vector))
    }

    /// Digest of the strategy's state, if it has one.
    #[expect(clippy::unwrap_used, reason = "tests alone run this")]
    pub(crate) fn strategy_state(&self) -> Option<Digest> {
        let values = match self.study.aggregation.strategy {
            Strategy::Fedavgm | Strategy::Scaffold => 1,
            Strategy::Fedadam | Strategy::Fedyogi | Strategy::Fedadagrad => 2,
            _ => return None,
        };
        let mut bytes = b"consilium/strategy/1".to_vec();
        bytes.extend(self.study.layout().unwrap().digest().0);
        for moments in self.moments.as_ref()? {
            bytes.extend(moments.iter().take(values).flat_map(|value| value.to_le_bytes()));
        }
        Some(Digest::of(&bytes))
    }
}

/// What one coordinate moves by; its moments move too.
fn added(study: &Study, [m, v]: &mut [f64; 2], mean: f64) -> f64 {
    let numbers = &study.aggregation;
    let number = |value: Option<f64>| value.unwrap_or(f64::NAN);
    let rate = number(numbers.server_learning_rate);
    let square = mean * mean;
    let fresh = |beta2: f64| (1.0 - beta2) * square;
    match numbers.strategy {
        Strategy::Fedavgm => {
            *m = number(numbers.momentum) * *m + mean;
            return rate * *m;
        }
        Strategy::Fedadam => {
            let beta2 = number(numbers.beta2);
            *v = beta2 * *v + fresh(beta2);
        }
        Strategy::Fedyogi if *v > square => *v -= fresh(number(numbers.beta2)),
        Strategy::Fedyogi if *v < square => *v += fresh(number(numbers.beta2)),
        Strategy::Fedyogi => {}
        Strategy::Fedadagrad => *v += square,
        _ => return rate * mean,
    }
    let beta1 = number(numbers.beta1);
    *m = beta1 * *m + (1.0 - beta1) * mean;
    rate * *m / (v.sqrt() + number(numbers.tau))
}

#[expect(clippy::cast_precision_loss, reason = "one rounding of an exact sum")]
fn exact(integer: i128) -> f64 {
    integer as f64
}

#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}
