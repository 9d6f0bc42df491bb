//! What both sides of a simulated study agree on, and the arithmetic that the oracle repeats.

use consilium_common::ids::{Digest, SiteId};
use consilium_common::random::Generator;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::flat::MODEL_HEADER_BYTES;
use consilium_common::tensor::layout::Layout;
use consilium_common::update::sections::{HEADER_BYTES, decode_i32};
use consilium_common::update::words::Schema;
use consilium_coordinator::aggregate::fedavg::segments;
use consilium_coordinator::aggregate::{FedAvg, Sum};

use super::sim::Sim;

/// Names of the studies of a federation.
const NAMES: [&str; 3] = ["thorax", "retina", "sepsis"];

/// One study, and the key that signs receipts and roll calls.
pub(crate) struct Terms {
    pub(crate) study: Study,
    pub(crate) signed: Signed<Study>,
    pub(crate) digest: Digest,
    pub(crate) layout: Layout,
    pub(crate) schema: Schema,
    pub(crate) key: SecretKey,
    pub(crate) roster: Vec<SiteId>,
}

/// The studies of a federation of some sites. What they prepare is drawn from the seed apart: a seed
/// without a preparation is the federation that it was before there were any.
pub(crate) fn draw(seed: u64, sim: &mut Sim) -> Vec<Terms> {
    let sites = sim.between(1, 6);
    let studies = if sim.happens(400) { sim.between(2, 3) } else { 1 };
    let mut preparations = Generator::new("simulation/prepare", &seed.to_le_bytes());
    let names = NAMES.iter().zip(0..studies).map(|(name, _)| *name);
    names
        .map(|name| {
            let prepare = if preparations.below(3) == 0 { 1 + preparations.below(9) } else { 0 };
            one(name, sites, prepare, sim)
        })
        .collect()
}

fn one(name: &str, sites: u64, prepare: u32, sim: &mut Sim) -> Terms {
    let min_sites = sim.between(1, sites);
    let rounds = sim.between(2, 8);
    let text = format!(
        "[study]\nname = \"{name}\"\nseed = 7\n[model]\nfamily = \"synthetic\"\nparameters = 5\n\
         prepare = {prepare}\n[training]\nrounds = {rounds}\n[aggregation]\nclip_norm = 10.0\n\
         [cohort]\nmin_sites = {min_sites}\nmax_examples = 1000\ndeadline = \"60s\"\n\
         idle_timeout = \"10s\"\n[privacy]\nmode = \"inspectable\""
    );
    let study = Study::read(&text, "demo.toml").unwrap().resolve().unwrap();
    let key = SecretKey::from_seed(&[9; 32]);
    let signed = Signed::<Study>::sign(study.to_text().unwrap().into_bytes(), &key);
    Terms {
        digest: signed.digest(),
        layout: study.layout().unwrap(),
        schema: Schema::of(&study),
        roster: (0..sites).map(|n| format!("site-{n}").parse().unwrap()).collect(),
        study,
        signed,
        key,
    }
}

/// The first coordinates of an update.
pub(crate) fn units(update: &[u8], coordinates: usize) -> Vec<i32> {
    decode_i32(&update[HEADER_BYTES..]).take(coordinates).collect()
}

/// The preparation of a sum of counts.
pub(crate) fn preparation(terms: &Terms, sum: &Sum) -> Vec<u8> {
    let (terms, sites) = (terms.study.preparation_terms().unwrap(), sum.weight());
    let (sites, sums) = (u32::try_from(sites).unwrap(), sum.as_slice().to_vec());
    Preparation { terms, sites, sums }.encode()
}

/// base + step · sum / weight.
pub(crate) fn next_model(terms: &Terms, base: &[u8], sum: &Sum, exponent: i32) -> Vec<u8> {
    let step = FedAvg::new(sum.weight(), exponent).unwrap();
    let (header, vector) = base.split_at(MODEL_HEADER_BYTES);
    let mut next = header.to_vec();
    for segment in segments(&terms.layout) {
        let base = &vector[4 * segment.vector.start..4 * segment.vector.end];
        step.next_segment(&segment, base, sum.as_slice(), &mut next).unwrap();
    }
    next
}
