//! What both sides of a simulated study agree on, and the arithmetic that the oracle repeats.

use consilium_common::ids::{Digest, SiteId};
use consilium_common::random::Generator;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::{Preparation, Study};
use consilium_common::tensor::flat::MODEL_HEADER_BYTES;
use consilium_common::tensor::layout::Layout;
use consilium_common::tensor::state::{STATE_HEADER_BYTES, state_header};
use consilium_common::update::sections::{Header, decode_i32};
use consilium_common::update::words::Schema;
use consilium_coordinator::aggregate::{Before, Members, Next, ServerStep, Sum, segments};

use super::sim::Sim;

/// Names of the studies of a federation.
const NAMES: [&str; 3] = ["thorax", "retina", "sepsis"];
/// Strategies of studies, beside `scaffold`. (`fedprox` is the sites' alone, and needs a loss.)
const STRATEGIES: [&str; 5] = ["fedavg", "fedavgm", "fedadam", "fedyogi", "fedadagrad"];

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

/// The studies of a federation of some sites. Strategies, what they prepare and how early they end
/// have sources of chance of their own: a seed without these is the federation that it was before them.
pub(crate) fn draw(seed: u64, sim: &mut Sim) -> Vec<Terms> {
    let mut strategies = Generator::new("simulation/strategies", &seed.to_le_bytes());
    let sites = sim.between(1, 6);
    let studies = if sim.happens(400) { sim.between(2, 3) } else { 1 };
    let mut patience = Generator::new("simulation/patience", &seed.to_le_bytes());
    let mut preparations = Generator::new("simulation/prepare", &seed.to_le_bytes());
    let mut corrections = Generator::new("simulation/scaffold", &seed.to_le_bytes());
    let names = NAMES.iter().zip(0..studies).map(|(name, _)| *name);
    let mut one = |name| {
        let strategy = STRATEGIES[strategies.below(5) as usize];
        let strategy = if corrections.below(6) == 0 { "scaffold" } else { strategy };
        let prepare = if preparations.below(3) == 0 { 1 + preparations.below(9) } else { 0 };
        let patience = if patience.below(3) == 0 { Some(1 + patience.below(3)) } else { None };
        one(name, sites, (strategy, prepare, patience), sim)
    };
    names.map(&mut one).collect()
}

fn one(
    name: &str,
    sites: u64,
    (strategy, prepare, patience): (&str, u32, Option<u32>),
    sim: &mut Sim,
) -> Terms {
    let min_sites = sim.between(1, sites);
    let rounds = sim.between(2, 8);
    let patience =
        patience.map(|versions| format!("early_stopping = {versions}\n")).unwrap_or_default();
    let corrects = strategy == "scaffold";
    let (steps, own) = if corrects { (1, "control_clip_norm = 1.0\n") } else { (0, "") };
    let optimizer = if corrects { "sgd" } else { "adam" };
    let text = format!(
        "[study]\nname = \"{name}\"\nseed = 7\n[model]\nfamily = \"synthetic\"\nparameters = 5\n\
         prepare = {prepare}\nsteps = {steps}\n[training]\nrounds = {rounds}\n\
         optimizer = \"{optimizer}\"\n{patience}[aggregation]\nclip_norm = 10.0\n\
         strategy = \"{strategy}\"\n{own}\
         [cohort]\nmin_sites = {min_sites}\nmax_examples = 1000\ndeadline = \"60s\"\n\
         idle_timeout = \"10s\"\n[privacy]\nmode = \"inspectable\"\n\
         [evaluation]\nmetric = \"loss\""
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
    let header = Header::decode(update, update.len() as u64).unwrap();
    decode_i32(&update[header.header_bytes_len()..]).take(coordinates).collect()
}

/// The preparation of a sum of counts.
pub(crate) fn preparation(terms: &Terms, sum: &Sum) -> Vec<u8> {
    let (terms, sites) = (terms.study.preparation_terms().unwrap(), sum.weight());
    let (sites, sums) = (u32::try_from(sites).unwrap(), sum.as_slice().to_vec());
    Preparation { terms, sites, sums }.encode()
}

/// The next model and strategy's state, by the coordinator's own arithmetic; the oracle has another.
pub(crate) fn next(
    terms: &Terms,
    (base, state): (&[u8], Option<&[u8]>),
    sum: &Sum,
    exponent: i32,
    members: Option<Members>,
) -> Next {
    let optimizer = terms.study.aggregation.server_optimizer();
    let mut step = ServerStep::new(optimizer, sum.weight(), exponent).unwrap();
    if let Some(members) = members {
        step = step.with_members(members).unwrap();
    }
    let (header, vector) = base.split_at(MODEL_HEADER_BYTES);
    let head = match optimizer.state_values() {
        0 => Vec::new(),
        _ => state_header(&terms.layout.digest()).to_vec(),
    };
    let mut next = Next { model: header.to_vec(), state: head };
    // Five weights are one segment.
    for segment in segments(&terms.layout) {
        let before =
            Before { base: vector, state: state.map(|state| &state[STATE_HEADER_BYTES..]) };
        step.next_segment(&segment, before, sum.as_slice(), &mut next).unwrap();
    }
    next
}
