//! What must hold of a federation that ran to its end, computed from the log, the disks and the
//! updates alone. [`super::watch`] looks after every step.

use std::collections::{BTreeMap, BTreeSet};

use consilium_common::audit::record::PlanMade;
use consilium_common::audit::{Outcome, Record, RollCall, Status};
use consilium_common::ids::{Digest, Round, SiteId, StudyId};
use consilium_common::time::Millis;
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_common::wire::reject::Code;
use consilium_coordinator::aggregate::Sum;
use consilium_coordinator::aggregate::sum::Coordinates;

use super::coverage::Coverage;
use super::terms::{Terms, preparation, units};
use super::world::World;
use crate::strategies::Expected;

/// Panics if a promise is broken; else what the run went through.
pub(crate) fn check(world: &mut World) -> Coverage {
    let mut coverage = std::mem::take(&mut world.coverage);
    let mut rounds = 0;
    for terms in &world.studies {
        let roll_calls = roll_calls(world, terms);
        local_states_moved_with_what_counted(world, terms, &roll_calls);
        every_round_ends_once(world, terms, &roll_calls);
        versions_are_exact_sums(world, terms, &roll_calls);
        ends_by_its_scores(world, terms, &roll_calls);
        preparations_are_exact_sums(world, terms, &roll_calls);
        what_counted_was_receipted(world, terms, &roll_calls);
        sites_settled_by_their_roll_calls(world, terms, &roll_calls);
        rounds += roll_calls.len() as u64;
        for call in &roll_calls {
            coverage.excluded += (call.sites.len() - counted(call).count()) as u64;
            match call.outcome {
                Outcome::Committed { .. } => coverage.committed += 1,
                Outcome::Abandoned { .. } => coverage.abandoned += 1,
                Outcome::Prepared { .. } => coverage.prepared += 1,
                Outcome::Evaluated { .. } => {}
            }
        }
    }
    coverage.resumed = world.coordinator.resumed;
    coverage.sizes = vec![[world.sites.len() as u64, rounds, world.faults_struck]];
    coverage
}

fn records<'a>(world: &'a World, study: &'a StudyId) -> impl Iterator<Item = &'a Record> {
    world.coordinator.log.iter().map(|(_, record)| record).filter(move |record| match record {
        Record::Plan(plan) => plan.study == *study,
        Record::Receipt(given) => given.signed.parse_unverified().unwrap().study == *study,
        Record::RollCall(ended) => ended.signed.parse_unverified().unwrap().study == *study,
        _ => false,
    })
}

fn roll_calls(world: &World, terms: &Terms) -> Vec<RollCall> {
    let known = [terms.key.public()];
    let signed = records(world, terms.study.id()).filter_map(|record| match record {
        Record::RollCall(ended) => Some(&ended.signed),
        _ => None,
    });
    signed.map(|signed| signed.verify(&known, 1).unwrap()).collect()
}

fn every_round_ends_once(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let invited = |plan: &PlanMade| (plan.round, plan.invited.iter().cloned().collect());
    let planned = records(world, terms.study.id()).filter_map(|record| match record {
        Record::Plan(plan) => Some(invited(plan)),
        _ => None,
    });
    let planned: Vec<(Round, BTreeSet<SiteId>)> = planned.collect();
    let ended = roll_calls.iter().map(|call| (call.round, call.sites.keys().cloned().collect()));
    let ended: Vec<(Round, BTreeSet<SiteId>)> = ended.collect();
    assert_eq!(planned, ended, "every plan has its roll call, with all invited");
    let rounds: BTreeSet<Round> = planned.iter().map(|(round, _)| *round).collect();
    assert_eq!(rounds.len(), planned.len(), "no round repeats");
}

/// Every roll call of a study in a list of records.
fn calls_in(log: &[(Millis, Record)], terms: &Terms) -> Vec<RollCall> {
    let calls = log.iter().filter_map(|(_, record)| match record {
        Record::RollCall(ended) => Some(ended.signed.parse_unverified().unwrap()),
        _ => None,
    });
    calls.filter(|call| call.study == *terms.study.id()).collect()
}

/// Weight and update of every site that counted.
fn counted(call: &RollCall) -> impl Iterator<Item = (&SiteId, u64, Digest)> {
    call.sites.iter().filter_map(|(site, entry)| match entry.status {
        Status::Counted { weight } => Some((site, weight.unwrap(), entry.update.unwrap())),
        Status::Excluded { .. } => None,
    })
}

fn bytes_of<'a>(world: &'a World, call: &RollCall, site: &SiteId, update: Digest) -> &'a [u8] {
    let site = world.sites.iter().find(|known| known.name == *site).unwrap();
    let made = site.bytes_of(&(call.study.clone(), call.round), update);
    made.unwrap_or_else(|| panic!("{} never made the bytes of {update}", site.name))
}

fn versions_are_exact_sums(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let mut expected = Expected::new(terms.study.clone());
    let mut head = terms.study.initial.unwrap().model;
    let mut versions = 0;
    for call in roll_calls {
        assert_eq!((call.base_version.0, call.base), (versions, head), "round {}", call.round);
        let lost = Status::Excluded { code: Code::ControlLost };
        let is_member = |site: &SiteId| expected.has_member(site);
        let begins_anew = call.task == TaskKind::Train
            && call.sites.iter().any(|(site, entry)| entry.status == lost && is_member(site));
        let Outcome::Committed { version, model, strategy_state, sum, weight } = &call.outcome
        else {
            if begins_anew {
                expected.begin_anew();
            }
            continue;
        };
        let len = terms.layout.len();
        let control = if expected.corrects() { len } else { 0 };
        let mut reference = Sum::of(Coordinates { shared: len, control });
        for (site, weight, update) in counted(call) {
            let share = reference.admit(weight).unwrap();
            let units = units(bytes_of(world, call, site, update), len + control);
            reference.add(share, 0, &units).unwrap();
        }
        let have = (reference.digest(), reference.weight());
        assert_eq!(have, (*sum, *weight), "round {}", call.round);
        assert!(counted(call).count() >= terms.study.cohort.min_sites as usize);
        let exact: Vec<i128> = reference.as_slice().iter().copied().map(i128::from).collect();
        let sites: Vec<&SiteId> = counted(call).map(|(site, ..)| site).collect();
        expected.commit(&exact, *weight, &sites);
        let have = (expected.model(), expected.strategy_state());
        assert_eq!(have, (*model, *strategy_state), "the version of round {}", call.round);
        if begins_anew {
            expected.begin_anew();
        }
        versions += 1;
        assert_eq!(version.0, versions);
        head = *model;
    }
    if world.coordinator.study(terms).state == RunState::Complete {
        let rounds = terms.study.training.rounds;
        let early = versions < rounds && terms.study.training.early_stopping.is_some();
        assert!(versions == rounds || early, "the study is complete");
    }
}

/// A study trains as long as it lacks versions and its best one is young enough, scores the newest
/// version when it is not, and is complete only then: by fractions of the roll calls' sums.
fn ends_by_its_scores(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let training = &terms.study.training;
    let mut scores: BTreeMap<u64, (u128, u128)> = BTreeMap::new();
    let mut newest = 0;
    let ends = |newest: u64, scores: &BTreeMap<u64, (u128, u128)>| {
        let mut best: Option<(u64, (u128, u128))> = None;
        for (version, (loss, records)) in scores {
            if best.is_none_or(|(_, (least, of))| loss * of < least * records) {
                best = Some((*version, (*loss, *records)));
            }
        }
        let age = best.map(|(version, _)| newest - version);
        let old = age.zip(training.early_stopping).is_some_and(|(age, most)| age >= most);
        newest >= training.rounds || old
    };
    for call in roll_calls.iter().filter(|call| call.task != TaskKind::Prepare) {
        let evaluates = call.task == TaskKind::Evaluate;
        assert_eq!(evaluates, ends(newest, &scores), "the task of round {}", call.round);
        let committed = matches!(call.outcome, Outcome::Committed { .. });
        if committed || matches!(call.outcome, Outcome::Evaluated { .. }) {
            let sum = |name: &str| u128::from(call.metrics[name]);
            scores.insert(call.base_version.0, (sum("loss"), sum("total")));
        }
        newest += u64::from(committed);
    }
    if world.coordinator.study(terms).state == RunState::Complete {
        assert!(ends(newest, &scores), "{} is complete too early", terms.study.id());
    }
}

/// The sites count once, before anything trains, each with weight 1; the preparation is what they
/// counted, and every later plan names it.
fn preparations_are_exact_sums(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let of_plan = |(_, record): &(Millis, Record)| match record {
        Record::Plan(plan) if plan.study == *terms.study.id() => {
            Some((plan.round, plan.preparation))
        }
        _ => None,
    };
    let named: BTreeMap<Round, Option<Digest>> =
        world.coordinator.log.iter().filter_map(of_plan).collect();
    let mut in_force: Option<Digest> = None;
    for call in roll_calls {
        assert_eq!(named[&call.round], in_force, "the plan of round {}", call.round);
        let due = terms.study.preparation_len().is_some() && in_force.is_none();
        assert_eq!(call.task == TaskKind::Prepare, due, "round {}", call.round);
        let Outcome::Prepared { preparation: made, sum } = call.outcome else {
            continue;
        };
        assert_eq!(call.task, TaskKind::Prepare, "round {}", call.round);
        let sums = terms.study.preparation_len().unwrap();
        let mut reference = Sum::new(sums);
        for (site, weight, update) in counted(call) {
            assert_eq!(weight, 1, "{site} counts once");
            let share = reference.admit(weight).unwrap();
            let units = units(bytes_of(world, call, site, update), sums);
            reference.add(share, 0, &units).unwrap();
        }
        assert_eq!(reference.digest(), sum, "the counts of round {}", call.round);
        let bytes = preparation(terms, &reference);
        assert_eq!(Digest::of(&bytes), made, "the preparation of round {}", call.round);
        assert_eq!(world.coordinator.blobs[&made], bytes);
        assert!(counted(call).count() >= terms.study.cohort.min_sites as usize);
        in_force = Some(made);
    }
}

fn what_counted_was_receipted(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let mut receipts: BTreeMap<(Round, SiteId), (Millis, Digest)> = BTreeMap::new();
    for (at, record) in &world.coordinator.log {
        if let Record::Receipt(given) = record {
            let receipt = given.signed.parse_unverified().unwrap();
            if receipt.study == *terms.study.id() {
                let key = (receipt.round, receipt.site);
                let before = receipts.insert(key, (*at, receipt.update));
                assert!(before.is_none_or(|(_, update)| update == receipt.update), "one receipt");
            }
        }
    }
    for call in roll_calls {
        for (site, _, update) in counted(call) {
            let receipt = receipts.get(&(call.round, site.clone()));
            assert_eq!(receipt.map(|(_, update)| *update), Some(update), "a receipt");
        }
        // What was receipted counts, unless nothing of the round does.
        if matches!(call.outcome, Outcome::Abandoned { .. }) {
            continue;
        }
        let of_round = receipts.iter().filter(|((round, _), _)| *round == call.round);
        for ((_, site), (at, _)) in of_round {
            // After a death the sum is made again from what sites offer again.
            let missed = world.coordinator.deaths.iter().any(|death| death >= at);
            let counts = call.counted(site);
            assert!(counts || missed, "{site} has a receipt of round {}", call.round);
        }
    }
}

/// The local state of a site says at each training, and in the end, in how many rounds before it the
/// site counted. A state that rotted in its update may be missing. A site that was ahead of a log that
/// came back from a copy has also counted in rounds that the log forgot.
fn local_states_moved_with_what_counted(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let lost = calls_in(&world.coordinator.lost, terms);
    let forked = world.coordinator.forgot > 0;
    for site in world.sites.iter().filter(|site| !site.restored) {
        let name = &site.name;
        let committed = |call: &&RollCall| matches!(call.outcome, Outcome::Committed { .. });
        let rounds = roll_calls.iter().chain(&lost).filter(committed);
        let rounds = rounds.filter(|call| call.counted(name)).map(|call| call.round);
        let rounds: Vec<Round> = rounds.collect();
        let counted: BTreeSet<Round> = rounds.iter().copied().collect();
        let is_sure = |round: &&Round| {
            !forked && !site.set_aside.contains(&(terms.study.id().clone(), **round))
        };
        let said = |counted: &BTreeSet<Round>, before: Round| {
            let earlier = counted.range(..before);
            let least = earlier.clone().filter(is_sure).count() as u64;
            // A restored log gives numbers again: what the site counted in may have later ones.
            least..=(if forked { rounds.len() } else { earlier.count() }) as u64
        };
        let of_study = site.made.iter().filter(|((study, _), _)| study == terms.study.id());
        for ((_, round), made) in of_study {
            assert!(made.len() == 1 || forked, "{name} made one update in round {round}");
            for made in made.values() {
                let (have, may) = (made.counted, said(&counted, *round));
                assert!(
                    may.contains(&have),
                    "{name} trained round {round} from a local state of \
                        {have} rounds, not {may:?}"
                );
            }
        }
        let (last, may) =
            (site.disk.local.counted(terms.study.id()), said(&counted, Round(u64::MAX)));
        assert!(
            may.contains(&last),
            "{name} ends with a local state of {last} rounds, not {may:?}"
        );
    }
}

/// A site's state moves with exactly the updates that counted; nothing is left, nothing twice. Where
/// the log was brought back from a copy, a round may have ended twice, and a site that heard of the
/// first end has followed that.
fn sites_settled_by_their_roll_calls(world: &World, terms: &Terms, roll_calls: &[RollCall]) {
    let forked = world.coordinator.forgot > 0;
    let lost = calls_in(&world.coordinator.lost, terms);
    for site in &world.sites {
        let mut settled = BTreeMap::new();
        for ((study, round), counted, there) in &site.settled {
            if study != terms.study.id() {
                continue;
            }
            let before = settled.insert(*round, *counted);
            let name = &site.name;
            // After a refusal that died with both processes the task is done, and refused, again.
            let refused = site.bad.contains(&(study.clone(), *round)) || world.stage_was_lost;
            let again = site.restored || refused || forked;
            assert!((*there && before.is_none()) || again, "{name} settled round {round} twice");
        }
        let of_study = |(study, _): &&(StudyId, Round)| study == terms.study.id();
        let mut made = site.made.keys().filter(of_study);
        let name = &site.name;
        let settles = |of: &(StudyId, Round)| {
            settled.contains_key(&of.1) || site.set_aside.contains(of) || site.restored
        };
        assert!(made.all(settles), "{name} settled all it made");
        if site.restored {
            continue;
        }
        for (round, counted) in settled {
            let of_round = |call: &&RollCall| call.round == round;
            let mut says = roll_calls.iter().chain(&lost).filter(of_round);
            // A log that went back refuses what comes of rounds that it has forgotten.
            let refused = !counted && world.coordinator.has_forgotten(terms.study.id(), round);
            let holds = says.any(|call| call.counted(name) == counted) || refused;
            assert!(holds, "{name} round {round} settled as {counted}");
        }
    }
}
