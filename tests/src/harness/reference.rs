//! The models that a history must have led to, computed apart from the product's aggregation: the
//! known optimum of each site, half of the way there, clipped and rounded as the site does, then
//! the exact weighted sum in 128 bits over those that the roll call says counted, and the study's
//! strategy (`strategies.rs`). A site's local state is the number of rounds in which it counted, and
//! shifts its optimum.

use std::collections::BTreeMap;

use consilium_agent::update::task_root;
use consilium_agent::worker::synthetic::{counts, half_way, optimum, shifted};
use consilium_common::audit::{Outcome, RollCall, Status};
use consilium_common::config;
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::random::Generator;
use consilium_common::study::{ModelSpec, Preparation, Study};
use consilium_common::update::delta::{clip_scale, delta, l2_norm};
use consilium_common::update::grid::{quantise, step_exponent};
use consilium_common::worker::Source;

use crate::strategies::Expected;

/// Computes versions from v0 on.
#[derive(Debug)]
pub struct Reference {
    study: Study,
    sources: BTreeMap<SiteId, Source>,
    /// In how many rounds each site has counted, where the study keeps a local state.
    counted: BTreeMap<SiteId, u32>,
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
        Self { newest, study, sources, counted: BTreeMap::new(), preparation: None }
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

    /// One round: its sum's digest and weight; the newest version is the one that it makes.
    fn commit(&mut self, call: &RollCall) -> (Digest, u64) {
        let mut sum = vec![0_i128; self.vector().len()];
        let mut total = 0;
        for (site, entry) in &call.sites {
            let Status::Counted { weight } = entry.status else {
                continue;
            };
            let expected = self.weight(site);
            assert_eq!(weight, Some(expected), "{site}: its records");
            total += expected;
            for (sum, units) in sum.iter_mut().zip(self.units(site, call.round)) {
                *sum += i128::from(expected) * i128::from(units);
            }
        }
        self.newest.commit(&sum, total);
        let keeps = matches!(&self.study.model, ModelSpec::Synthetic(sizes) if sizes.local > 0);
        for site in call.sites.keys().filter(|site| keeps && call.counted(site)) {
            *self.counted.entry(site.clone()).or_default() += 1;
        }
        let bytes = sum.iter().flat_map(|sum| i64::try_from(*sum).unwrap().to_le_bytes());
        (Digest::of(&bytes.collect::<Vec<u8>>()), total)
    }

    /// The site's update in grid units.
    fn units(&self, site: &SiteId, round: Round) -> Vec<i32> {
        let counted = self.counted.get(site).copied().unwrap_or_default();
        units(&self.study, &self.sources[site], (self.vector(), counted), round, site)
    }

    fn weight(&self, site: &SiteId) -> u64 {
        weight(&self.sources[site])
    }
}

/// What a site that trains from `base`, after so many rounds in which it counted, delivers, in grid
/// units.
#[must_use]
pub fn units(
    study: &Study,
    source: &Source,
    (base, counted): (&[f32], u32),
    round: Round,
    site: &SiteId,
) -> Vec<i32> {
    let seed = study.header.seed;
    let drawn = optimum(seed, source, base.len());
    let goal: Vec<f32> = drawn.iter().map(|optimum| shifted(*optimum, counted)).collect();
    let trained = half_way(base, &goal);
    let layout = study.layout().unwrap();
    let delta = delta(&layout, base, &trained).unwrap();
    let clip = study.aggregation.clip_norm;
    let scale = clip_scale(l2_norm(&delta), clip);
    let mut generator = Generator::new("rounding", &task_root(seed, round, site).0);
    quantise(&delta, scale, step_exponent(clip), &mut generator)
}

/// Training records: what the default hold-out of a fifth leaves.
#[must_use]
pub fn weight(source: &Source) -> u64 {
    let all = source.examples.unwrap();
    all - all / 5
}
