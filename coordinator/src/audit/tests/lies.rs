//! A coordinator that signs another history than the one that happened. It has the log key, so bytes and
//! tree are in order: what gives it away is that operators' signatures cannot be had, and that plans,
//! receipts and roll calls have to tell one story.

#![expect(clippy::wildcard_enum_match_arm, reason = "all records but those that are changed")]

use consilium_common::audit::record::{
    PlanMade, Proposed, ReceiptGiven, Retrained, RosterSet, RoundEnded,
};
use consilium_common::audit::{Outcome, Receipt, RollCall, Status};
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::study::Study;
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::reject::Code;

use super::*;

/// A history of two sites and two versions, of which one record is another; signed again.
fn told(change: impl Fn(&mut Record, &Made) -> bool) -> Vec<String> {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    let mut records = made.records.clone();
    let changed = records.iter_mut().any(|record| change(record, &made));
    assert!(changed, "there is nothing to change");
    texts(&signed_again(&made, &records))
}

#[track_caller]
fn assert_told(told: &[String], words: &str) {
    assert!(told.iter().any(|told| told.contains(words)), "{words:?} is not in {told:#?}");
}

/// Changes the plan of a round.
fn plan(round: u64, change: impl Fn(&mut PlanMade)) -> Vec<String> {
    told(|record, _| match record {
        Record::Plan(plan) if plan.round == Round(round) => {
            change(plan);
            true
        }
        _ => false,
    })
}

/// Changes the first receipt of a round, and signs it.
fn receipt(round: u64, change: impl Fn(&mut Receipt)) -> Vec<String> {
    told(|record, made| match record {
        Record::Receipt(ReceiptGiven { signed }) => {
            let mut receipt = signed.parse_unverified().unwrap();
            if receipt.round != Round(round) {
                return false;
            }
            change(&mut receipt);
            *signed = Signed::sign(receipt.to_bytes().unwrap(), &made.log_key);
            true
        }
        _ => false,
    })
}

/// Changes the roll call of a round, and signs it.
fn roll_call(round: u64, change: impl Fn(&mut RollCall)) -> Vec<String> {
    told(|record, made| match record {
        Record::RollCall(RoundEnded { signed }) => {
            let mut call = signed.parse_unverified().unwrap();
            if call.round != Round(round) {
                return false;
            }
            change(&mut call);
            *signed = Signed::sign(call.to_bytes().unwrap(), &made.log_key);
            true
        }
        _ => false,
    })
}

fn site(name: &str) -> SiteId {
    name.parse().unwrap()
}

#[test]
fn plans_that_were_made_up_are_found() {
    assert_told(&plan(2, |plan| plan.base = Digest([9; 32])), "the newest version is v1");
    assert_told(&plan(2, |plan| plan.base_version = Version(0)), "it starts from v0");
    assert_told(&plan(2, |plan| plan.study_digest = Digest([9; 32])), "is in force");
    assert_told(&plan(2, |plan| plan.invited.push(site("ghost"))), "ghost, which is not in roster");
    assert_told(&plan(2, |plan| plan.invited.push(site("site-0"))), "invites a site twice");
    assert_told(&plan(2, |plan| plan.invited.truncate(1)), "1 sites invited, the study asks for 2");
    assert_told(&plan(2, |plan| plan.remaining = Millis(1)), "another deadline");
    assert_told(&plan(2, |plan| plan.round = Round(1)), "about round 1");
    assert_told(&plan(2, |plan| plan.round = Round(5)), "rounds are missing");
    assert_told(&plan(1, |plan| plan.control = Some(Digest([9; 32]))), "corrects by");
    assert_told(&plan(1, |plan| plan.preparation = Some(Digest([9; 32]))), "preparation");
}

/// The true history, and then training goes on from v1 with this model.
fn gone_back(model: Digest) -> Vec<String> {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    let (study, by) = (crate::local::made::STUDY.parse().unwrap(), "ada".to_owned());
    let (from, version) = (Version(1), Version(3));
    let mut records = made.records.clone();
    records.push(Record::Retrained(Retrained { study, from, version, model, by }));
    texts(&signed_again(&made, &records))
}

#[test]
fn a_return_to_a_version_with_another_model_is_found() {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    let first = made.records.iter().find_map(|record| match record {
        Record::RollCall(ended) => match ended.signed.parse_unverified().unwrap().outcome {
            Outcome::Committed { model, .. } => Some(model),
            _ => None,
        },
        _ => None,
    });
    assert_eq!(gone_back(first.unwrap()), Vec::<String>::new());
    assert_told(&gone_back(Digest([9; 32])), "goes on from v1 with model");
}

#[test]
fn receipts_that_were_made_up_are_found() {
    assert_told(&receipt(1, |receipt| receipt.site = site("ghost")), "ghost was not invited");
    assert_told(
        &receipt(1, |receipt| receipt.site = site("site-1")),
        "site-1 has a receipt already",
    );
    assert_told(&receipt(1, |receipt| receipt.bytes += 1), "an update of this round has");
    assert_told(&receipt(1, |receipt| receipt.update = Digest([9; 32])), "whose receipt is for");
    assert_told(&receipt(1, |receipt| receipt.study_digest = Digest([9; 32])), "the plan of");
    assert_told(&receipt(2, |receipt| receipt.round = Round(1)), "about round 1");
    assert_told(&receipt(1, |receipt| receipt.format = 2), "format 2");
}

fn out(call: &mut RollCall, name: &str, status: Status) {
    call.sites.get_mut(&site(name)).unwrap().status = status;
}

fn committed(call: &mut RollCall, change: impl Fn(&mut Version, &mut Option<Digest>, &mut u64)) {
    if let Outcome::Committed { version, strategy_state, weight, .. } = &mut call.outcome {
        change(version, strategy_state, weight);
    }
}

#[test]
fn roll_calls_that_were_made_up_are_found() {
    let late = Status::Excluded { code: Code::Late };
    assert_told(
        &roll_call(1, |call| {
            call.sites.remove(&site("site-0"));
        }),
        "site-0 was invited and is not in it",
    );
    let ghost = |call: &mut RollCall| {
        let own = call.sites[&site("site-0")].clone();
        call.sites.insert(site("ghost"), own);
    };
    let found = roll_call(1, ghost);
    assert_told(&found, "ghost is in it and was not invited");
    assert_told(&found, "of ghost, which has no receipt");
    assert_told(&roll_call(1, |call| out(call, "site-1", late)), "1 sites counted");
    assert_told(&roll_call(1, |call| out(call, "site-1", late)), "the weights add up to 100");
    let other = |call: &mut RollCall| {
        call.sites.get_mut(&site("site-0")).unwrap().update = Some(Digest([9; 32]));
    };
    assert_told(&roll_call(1, other), "whose receipt is for");
    let none = |call: &mut RollCall| call.sites.get_mut(&site("site-0")).unwrap().update = None;
    assert_told(&roll_call(1, none), "does not name the update of site-0");
    let heavy = Status::Counted { weight: Some(5000) };
    assert_told(&roll_call(1, |call| out(call, "site-1", heavy)), "1 to 1000 is possible");
    let weight = |call: &mut RollCall| committed(call, |_, _, weight| *weight += 1);
    assert_told(&roll_call(1, weight), "the weights add up to 201, it says 202");
    let version = |call: &mut RollCall| committed(call, |version, _, _| *version = Version(2));
    assert_told(&roll_call(1, version), "committed v2, v1 expected");
    let state = |call: &mut RollCall| committed(call, |_, state, _| *state = Some(Digest([9; 32])));
    assert_told(&roll_call(1, state), "the strategy has none");
    assert_told(&roll_call(1, |call| call.clipped = 3), "3 updates were clipped and 2 counted");
    assert_told(&roll_call(1, |call| call.metrics.clear()), "other sums than the study measures");
    assert_told(&roll_call(1, |call| call.base = Digest([9; 32])), "not those of its plan");
    assert_told(&roll_call(3, |call| call.round = Round(2)), "about round 2");
    let reason = || Outcome::Abandoned { reason: "x".to_owned() };
    assert_told(&roll_call(1, |call| call.outcome = reason()), "counted in an abandoned round");
    let scored = || Outcome::Evaluated { weight: 201 };
    assert_told(&roll_call(1, |call| call.outcome = scored()), "cannot come of a task to train");
}

#[test]
fn what_operators_did_not_sign_is_found() {
    let eve = SecretKey::from_seed(&[66; 32]);
    let roster = told(|record, _| match record {
        Record::Roster(RosterSet { bytes, signatures }) => {
            let signed = Signed::<consilium_certs::roster::Roster>::sign(bytes.clone(), &eve);
            *signatures = signed.signatures;
            true
        }
        _ => false,
    });
    assert_told(&roster, "rosters: the roster is refused: signed by 0 of the known keys");
    let study = told(|record, _| match record {
        Record::StudySubmitted(submitted) => {
            let text = String::from_utf8(submitted.signed.bytes.clone()).unwrap();
            submitted.signed.bytes = text.replace("rounds = 2", "rounds = 3").into_bytes();
            true
        }
        _ => false,
    });
    assert_told(&study, "studies: the signature by key");
}

#[test]
fn what_the_log_key_did_not_sign_is_found() {
    let found = told(|record, _| match record {
        Record::Receipt(ReceiptGiven { signed }) => {
            signed.signatures[0].signature[5] ^= 1;
            true
        }
        _ => false,
    });
    assert_told(&found, "receipts: the signature by key");
    let found = told(|record, _| match record {
        Record::RollCall(RoundEnded { signed }) => {
            signed.signatures.clear();
            true
        }
        _ => false,
    });
    assert_told(&found, "roll-calls: signed by 0");
}

#[test]
fn a_signed_history_without_one_of_its_records_is_found() {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    // The last two records end the study: nothing comes after them that would miss them.
    for at in 0..made.records.len() - 2 {
        let mut without = made.records.clone();
        let gone = without.remove(at);
        let verdict = signed_again(&made, &without);
        assert!(!verdict.is_sound(), "without record {at}, {}", gone.name());
    }
}

#[test]
fn a_signed_history_with_one_of_its_records_twice_is_found() {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    for at in 0..made.records.len() {
        // A roster in force, or a state that a study is in, may be said again.
        if matches!(made.records[at], Record::Roster(_) | Record::StudyState(_)) {
            continue;
        }
        let mut doubled = made.records.clone();
        doubled.insert(at, made.records[at].clone());
        let verdict = signed_again(&made, &doubled);
        assert!(!verdict.is_sound(), "record {at} twice, {}", made.records[at].name());
    }
}

#[test]
fn a_record_that_does_not_fit_is_told_once_and_the_rest_of_its_study_is_not_judged() {
    let made = made(&Script { sites: 2, rounds: 3, parameters: 3 });
    let mut records = made.records.clone();
    let first = records.iter().position(|record| matches!(record, Record::RollCall(_))).unwrap();
    records.remove(first);
    let verdict = signed_again(&made, &records);
    assert_eq!(verdict.faults().len(), 2, "{:#?}", verdict.faults());
    assert!(verdict.count(Check::Order).missing.values().sum::<u64>() > 5);
}

/// A proposal of `study` by rosa at the end of a true history, changed.
fn proposal(study: &str, change: impl Fn(&mut Proposed)) -> Vec<String> {
    let made = made(&SMALL);
    let draft = format!(
        "[study]\nname = \"{study}\"\nresearchers = [\"rosa\"]\n[model]\nfamily = \"synthetic\"\n\
         parameters = 4\n[aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n"
    );
    let resolved = Study::read(&draft, "draft").unwrap().resolve().unwrap();
    let mut proposed = Proposed {
        by: "rosa".parse().unwrap(),
        study: study.parse().unwrap(),
        version: 1,
        text: resolved.to_text().unwrap().into_bytes(),
        at: WallMillis(1),
    };
    change(&mut proposed);
    let records = [made.records.clone(), vec![Record::Proposal(proposed)]].concat();
    texts(&signed_again(&made, &records))
}

#[test]
fn proposals_that_were_made_up_are_found_and_true_ones_are_sound() {
    assert_eq!(proposal("idea", |_| ()), [""; 0]);
    let other = proposal("idea", |proposed| proposed.version = 2);
    assert_told(&other, "a proposal of study idea version 2: its text is study idea version 1");
    let emmy = proposal("idea", |proposed| proposed.by = "emmy".parse().unwrap());
    assert_told(&emmy, "by emmy, whom its text does not list");
    assert_told(&proposal("idea", |proposed| proposed.text.clear()), "cannot be read");
    assert_told(&proposal("made", |_| ()), "it does not list researcher rosa");
}
