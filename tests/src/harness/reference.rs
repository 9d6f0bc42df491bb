//! The models that a history must have led to, computed apart from the product's aggregation: the
//! known optimum of each site, half of the way there, clipped and rounded as the site does, then
//! the exact weighted sum in 128 bits over those that the roll call says counted, and the study's
//! strategy (`strategies.rs`). A site's local state is the number of rounds in which it counted, and
//! shifts its optimum. Under SCAFFOLD each site has a control variate, which moves by what it sent in the
//! rounds in which it counted.

use std::collections::BTreeMap;

use consilium_agent::update::task_root;
use consilium_agent::worker::synthetic::{Descent, counts, curvature, half_way, optimum, shifted};
use consilium_common::audit::{Entry, Outcome, RollCall, Status};
use consilium_common::config;
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::random::Generator;
use consilium_common::study::{ModelSpec, Preparation, Study};
use consilium_common::update::delta::{clip_scale, delta, l2_norm};
use consilium_common::update::grid::{quantise, step_exponent};
use consilium_common::wire::reject::Code;
use consilium_common::worker::Source;

use crate::strategies::Expected;

/// Computes versions from v0 on.
#[derive(Debug)]
pub struct Reference {
    study: Study,
    sources: BTreeMap<SiteId, Source>,
    /// In how many rounds each site has counted, where the study keeps a local state.
    counted: BTreeMap<SiteId, u32>,
    /// The control variates of sites that have counted since c began.
    controls: BTreeMap<SiteId, Vec<f32>>,
    newest: Expected,
    /// What the sites counted, once they have.
    pub preparation: Option<Preparation>,
}

impl Reference {
    /// At v0. `sources`: the `[data]` section of each site.
    #[must_use]
    pub fn new(study: Study, sections: &BTreeMap<SiteId, String>) -> Self {
        let source = |text: &String| config::parse::<Source>(text, "data").unwrap();
        let sources = sections.iter().map(|(site, text)| (site.clone(), source(text))).collect();
        let newest = Expected::new(study.clone());
        let (counted, controls) = (BTreeMap::new(), BTreeMap::new());
        Self { newest, study, sources, counted, controls, preparation: None }
    }

    /// Follows the roll calls of the study: each committed one must name exactly the sum and the
    /// model that follow from those that counted.
    pub fn follow(&mut self, calls: &[&RollCall]) {
        for call in calls {
            if let Outcome::Committed { model, strategy_state, sum, weight, version } = call.outcome
            {
                let base = self.newest.model();
                assert_eq!(call.base, base, "{version}: the base is the version before");
                let (expected_sum, expected_weight) = self.commit(call);
                assert_eq!(weight, expected_weight, "{version}: the sum of weights");
                assert_eq!(sum, expected_sum, "{version}: the exact sum");
                assert_eq!(model, self.newest.model(), "{version}: the model");
                let expected = self.newest.strategy_state();
                assert_eq!(strategy_state, expected, "{version}: the strategy's state");
            }
            let lost = |(site, entry): (&SiteId, &Entry)| {
                entry.status == LOST && self.controls.contains_key(site)
            };
            if call.sites.iter().any(lost) {
                self.newest.begin_anew();
                self.controls.clear();
            }
            if let Outcome::Prepared { preparation, sum } = call.outcome {
                assert!(self.preparation.is_none(), "sites count once");
                let made = self.prepare(call);
                let bytes = made.sums.iter().flat_map(|sum| sum.to_le_bytes());
                assert_eq!(sum, Digest::of(&bytes.collect::<Vec<u8>>()), "the exact counts");
                assert_eq!(preparation, Digest::of(&made.encode()), "the preparation");
                self.preparation = Some(made);
            }
        }
    }

    /// The counts of those that counted, added up.
    fn prepare(&self, call: &RollCall) -> Preparation {
        let (len, terms) = (self.study.preparation_len(), self.study.preparation_terms());
        let (mut sums, mut sites) = (vec![0; len.unwrap()], 0);
        for (site, entry) in &call.sites {
            let Status::Counted { weight } = entry.status else {
                continue;
            };
            assert_eq!(weight, Some(1), "{site}: every site counts once");
            let counted = counts(self.study.header.seed, &self.sources[site], sums.len());
            for (sum, count) in sums.iter_mut().zip(counted) {
                *sum += i64::from(count);
            }
            sites += 1;
        }
        Preparation { terms: terms.unwrap(), sites, sums }
    }

    /// The newest version's vector.
    #[must_use]
    pub fn vector(&self) -> &[f32] {
        &self.newest.vector
    }

    /// SCAFFOLD's c, and the mean of the control variates of all sites that have counted, which it must
    /// be; `None` while it is zero.
    #[must_use]
    pub fn common_and_mean(&self) -> Option<(Vec<f32>, Vec<f64>)> {
        let common = self.newest.common()?;
        let mut mean = vec![0.0; common.len()];
        for own in self.controls.values() {
            for (mean, own) in mean.iter_mut().zip(own) {
                *mean += f64::from(*own) / self.controls.len() as f64;
            }
        }
        Some((common, mean))
    }

    /// One round: its sum's digest and weight; the newest version is the one that it makes.
    fn commit(&mut self, call: &RollCall) -> (Digest, u64) {
        let sections = if self.newest.corrects() { 2 } else { 1 };
        let mut sum = vec![0_i128; sections * self.vector().len()];
        let (mut total, mut counted, mut moved) = (0, Vec::new(), BTreeMap::new());
        for (site, entry) in &call.sites {
            let Status::Counted { weight } = entry.status else {
                continue;
            };
            let expected = self.weight(site);
            assert_eq!(weight, Some(expected), "{site}: its records");
            total += expected;
            counted.push(site);
            let Delivered { units, changes, own } = self.delivered(site, call);
            let (shared, control) = sum.split_at_mut(units.len());
            for (sum, units) in shared.iter_mut().zip(units) {
                *sum += i128::from(expected) * i128::from(units);
            }
            for (sum, units) in control.iter_mut().zip(changes) {
                *sum += i128::from(units);
            }
            moved.insert(site.clone(), own);
        }
        self.newest.commit(&sum, total, &counted);
        if self.newest.corrects() {
            self.controls.extend(moved);
        }
        let keeps = matches!(&self.study.model, ModelSpec::Synthetic(sizes) if sizes.local > 0);
        for site in call.sites.keys().filter(|site| keeps && call.counted(site)) {
            *self.counted.entry(site.clone()).or_default() += 1;
        }
        let bytes = sum.iter().flat_map(|sum| i64::try_from(*sum).unwrap().to_le_bytes());
        (Digest::of(&bytes.collect::<Vec<u8>>()), total)
    }

    /// The site's update in grid units, and what its control variate becomes.
    fn delivered(&self, site: &SiteId, call: &RollCall) -> Delivered {
        let base = self.vector();
        let zero = || vec![0.0; base.len()];
        let start = Start {
            base,
            version: call.base_version.next(),
            counted: self.counted.get(site).copied().unwrap_or_default(),
            common: self.newest.common().unwrap_or_else(zero),
            own: self.controls.get(site).cloned().unwrap_or_else(zero),
        };
        start.deliver(&self.study, &self.sources[site], call.round, site)
    }

    fn weight(&self, site: &SiteId) -> u64 {
        weight(&self.sources[site])
    }
}

/// A site that has lost its control variate.
const LOST: Status = Status::Excluded { code: Code::ControlLost };

/// What a site starts a round from.
#[derive(Debug)]
pub struct Start<'a> {
    /// The model.
    pub base: &'a [f32],
    /// The version that the round is to make.
    pub version: Version,
    /// In how many rounds the site has counted, where it keeps that.
    pub counted: u32,
    /// SCAFFOLD's c.
    pub common: Vec<f32>,
    /// The site's own variate.
    pub own: Vec<f32>,
}

/// What a site delivers, in grid units.
#[derive(Debug)]
pub struct Delivered {
    /// The delta.
    pub units: Vec<i32>,
    /// The change of its control variate; none under another strategy.
    pub changes: Vec<i32>,
    /// Its control variate if it counts.
    pub own: Vec<f32>,
}

impl Start<'_> {
    /// What comes of it at a site.
    #[must_use]
    pub fn deliver(self, study: &Study, source: &Source, round: Round, site: &SiteId) -> Delivered {
        let (seed, len) = (study.header.seed, self.base.len());
        let drawn = optimum(seed, source, len);
        let goal: Vec<f32> = drawn.iter().map(|o| shifted(*o, self.counted)).collect();
        let corrections = self.common.iter().zip(&self.own).map(|(common, own)| common - own);
        let descent = Descent::of(study, self.version.0);
        let trained = match descent {
            None => half_way(self.base, &goal),
            Some(descent) => {
                let curved = curvature(seed, source, len);
                let site = goal.iter().zip(&curved).zip(corrections);
                let ways = self.base.iter().zip(site);
                ways.map(|(w, ((goal, h), d))| descent.run(*w, *goal, *h, d)).collect()
            }
        };
        let moved = delta(&study.layout().unwrap(), self.base, &trained).unwrap();
        let root = task_root(seed, round, site).0;
        let units = on_grid(&moved, study.aggregation.clip_norm, "rounding", &root);
        let clip = study.aggregation.control_clip_norm;
        let Some((clip, descent)) = clip.zip(descent) else {
            return Delivered { units, changes: Vec::new(), own: self.own };
        };
        let change = |(common, moved): (&f32, &f32)| {
            narrow(-f64::from(*common) - f64::from(*moved) / descent.length())
        };
        let changes: Vec<f32> = self.common.iter().zip(&moved).map(change).collect();
        let changes = on_grid(&changes, clip, "rounding/control", &root);
        let step = 2_f64.powi(step_exponent(clip));
        let next = |(own, units): (&f32, &i32)| narrow(f64::from(*own) + f64::from(*units) * step);
        let own = self.own.iter().zip(&changes).map(next).collect();
        Delivered { units, changes, own }
    }
}

/// Clipped and rounded as a site does.
fn on_grid(values: &[f32], clip: f64, purpose: &str, root: &[u8]) -> Vec<i32> {
    let mut generator = Generator::new(purpose, root);
    quantise(values, clip_scale(l2_norm(values), clip), step_exponent(clip), &mut generator)
}

#[expect(clippy::cast_possible_truncation, reason = "the one rounding to f32")]
fn narrow(value: f64) -> f32 {
    value as f32
}

/// Training records: what the default hold-out of a fifth leaves.
#[must_use]
pub fn weight(source: &Source) -> u64 {
    let all = source.examples.unwrap();
    all - all / 5
}
