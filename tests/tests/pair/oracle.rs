//! What must hold of any federation that ran to its end, computed from the log, the disks and the
//! updates alone.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::{Outcome, Record, RollCall, Status};
use consilium_common::ids::{Digest, Round, SiteId};
use consilium_common::update::grid::step_exponent;
use consilium_coordinator::aggregate::Sum;

use super::coordinator::{next_model, units};
use super::world::World;

/// How a federation went.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) committed: u64,
    pub(crate) abandoned: u64,
    pub(crate) counted: u64,
    pub(crate) excluded: u64,
    pub(crate) crashes: u64,
    pub(crate) cuts: u64,
    pub(crate) resumed: u64,
    pub(crate) trainings: u64,
}

impl Summary {
    pub(crate) fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.abandoned += other.abandoned;
        self.counted += other.counted;
        self.excluded += other.excluded;
        self.crashes += other.crashes;
        self.cuts += other.cuts;
        self.resumed += other.resumed;
        self.trainings += other.trainings;
    }
}

/// Panics if a promise is broken.
pub(crate) fn check(world: &World) -> Summary {
    let roll_calls = roll_calls(world);
    every_round_ends_once(world, &roll_calls);
    versions_are_exact_sums(world, &roll_calls);
    what_counted_was_receipted(world, &roll_calls);
    sites_settled_each_once(world, &roll_calls);
    summary(world, &roll_calls)
}

fn roll_calls(world: &World) -> Vec<RollCall> {
    let known = [world.terms.key.public()];
    let signed = world.coordinator.log.iter().filter_map(|record| match record {
        Record::RollCall(ended) => Some(&ended.signed),
        _ => None,
    });
    signed.map(|signed| signed.verify(&known, 1).unwrap()).collect()
}

fn every_round_ends_once(world: &World, roll_calls: &[RollCall]) {
    let planned = world.coordinator.log.iter().filter_map(|record| match record {
        Record::Plan(plan) => Some((plan.round, plan.invited.iter().cloned().collect())),
        _ => None,
    });
    let planned: Vec<(Round, BTreeSet<SiteId>)> = planned.collect();
    let ended = roll_calls.iter().map(|call| (call.round, call.sites.keys().cloned().collect()));
    assert_eq!(
        planned,
        ended.collect::<Vec<_>>(),
        "every plan has its roll call, with all invited"
    );
    let rounds: BTreeSet<Round> = planned.iter().map(|(round, _)| *round).collect();
    assert_eq!(rounds.len(), planned.len(), "no round repeats");
}

/// Weight and update of every site that counted.
fn counted(call: &RollCall) -> impl Iterator<Item = (&SiteId, u64, Digest)> {
    call.sites.iter().filter_map(|(site, entry)| match entry.status {
        Status::Counted { weight } => Some((site, weight.unwrap(), entry.update.unwrap())),
        Status::Excluded { .. } => None,
    })
}

fn bytes_of<'a>(world: &'a World, site: &SiteId, round: Round, update: Digest) -> &'a [u8] {
    let site = world.sites.iter().find(|known| known.name == *site).unwrap();
    let (digest, bytes) = &site.made[&round];
    assert_eq!(*digest, update, "{} never made these bytes", site.name);
    bytes
}

fn versions_are_exact_sums(world: &World, roll_calls: &[RollCall]) {
    let terms = &world.terms;
    let mut head = terms.study.initial.unwrap().model;
    let mut versions = 0;
    for call in roll_calls {
        assert_eq!((call.base_version.0, call.base), (versions, head), "round {}", call.round);
        let Outcome::Committed { version, model, sum, weight } = &call.outcome else {
            continue;
        };
        let mut reference = Sum::new(terms.layout.len());
        for (site, weight, update) in counted(call) {
            let share = reference.admit(weight).unwrap();
            let units = units(bytes_of(world, site, call.round, update), terms);
            reference.add(share, 0, &units).unwrap();
        }
        assert_eq!(
            (reference.digest(), reference.weight()),
            (*sum, *weight),
            "round {}",
            call.round
        );
        assert!(counted(call).count() >= terms.study.cohort.min_sites as usize);
        let exponent = step_exponent(terms.study.aggregation.clip_norm);
        let next = next_model(terms, &world.coordinator.models[&head], &reference, exponent);
        assert_eq!(Digest::of(&next), *model);
        versions += 1;
        assert_eq!(version.0, versions);
        head = *model;
    }
    assert_eq!(versions, terms.study.training.rounds, "the study is complete");
}

fn what_counted_was_receipted(world: &World, roll_calls: &[RollCall]) {
    let mut receipts: BTreeMap<(Round, SiteId), Digest> = BTreeMap::new();
    for record in &world.coordinator.log {
        if let Record::Receipt(given) = record {
            let receipt = given.signed.parse_unverified().unwrap();
            let before = receipts.insert((receipt.round, receipt.site), receipt.update);
            assert!(before.is_none_or(|before| before == receipt.update), "one receipt");
        }
    }
    for call in roll_calls {
        for (site, _, update) in counted(call) {
            assert_eq!(receipts.get(&(call.round, site.clone())), Some(&update));
        }
    }
}

/// A site's state moves with exactly the updates that counted; nothing is left, nothing twice.
fn sites_settled_each_once(world: &World, roll_calls: &[RollCall]) {
    for site in &world.sites {
        let mut settled = BTreeMap::new();
        for (round, counted, there) in &site.settled {
            assert!(there, "{} settled round {round} twice", site.name);
            assert!(settled.insert(*round, *counted).is_none(), "{} {round}", site.name);
        }
        assert_eq!(settled.len(), site.made.len(), "{} settled all it made", site.name);
        let promoted = settled.iter().filter(|(_, counted)| **counted);
        let promoted: BTreeSet<Round> = promoted.map(|(round, _)| *round).collect();
        let by_roll_call = roll_calls.iter().filter(|call| call.counted(&site.name));
        let by_roll_call: BTreeSet<Round> = by_roll_call.map(|call| call.round).collect();
        assert_eq!(promoted, by_roll_call, "{}", site.name);
    }
}

fn summary(world: &World, roll_calls: &[RollCall]) -> Summary {
    let of = |wanted: fn(&Outcome) -> bool| {
        let calls = roll_calls.iter().filter(|call| wanted(&call.outcome));
        calls.count() as u64
    };
    let counted: usize = roll_calls.iter().map(|call| counted(call).count()).sum();
    let invited: usize = roll_calls.iter().map(|call| call.sites.len()).sum();
    Summary {
        committed: of(|outcome| matches!(outcome, Outcome::Committed { .. })),
        abandoned: of(|outcome| matches!(outcome, Outcome::Abandoned { .. })),
        counted: counted as u64,
        excluded: (invited - counted) as u64,
        crashes: world.crashes,
        cuts: world.cuts,
        resumed: world.coordinator.resumed,
        trainings: world.sites.iter().map(|site| site.trainings).sum(),
    }
}
