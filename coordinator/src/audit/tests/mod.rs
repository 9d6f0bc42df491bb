//! Audits of histories that were changed in every way: by accident, by somebody without the log key, and by
//! a coordinator that has it.

mod damage;
mod lies;
mod models;

use consilium_common::audit::{Checkpoint, Record};
use consilium_common::signed::{SecretKey, Signed};

use super::*;
use crate::local::made::{Made, Script, log_of};

const SMALL: Script = Script { sites: 2, rounds: 1, parameters: 3 };

fn made(script: &Script) -> Made {
    Made::new(script, None).unwrap()
}

fn judge(made: &Made, log: &[u8], checkpoint: &[u8]) -> Verdict {
    verify(|| Ok((log, log.len() as u64)), checkpoint, &[], &made.pinned, None).unwrap()
}

/// These records, whole, under the checkpoint of the true history.
fn under_the_true_checkpoint(made: &Made, records: &[Record]) -> Verdict {
    judge(made, &log_of(records).unwrap(), &made.checkpoint().unwrap())
}

/// These records, signed by the coordinator as if nothing had happened.
fn signed_again(made: &Made, records: &[Record]) -> Verdict {
    judge(made, &log_of(records).unwrap(), &made.checkpoint_over(records).unwrap())
}

fn texts(verdict: &Verdict) -> Vec<String> {
    verdict.faults().iter().map(ToString::to_string).collect()
}

#[test]
fn a_true_history_is_sound_and_says_what_it_could_not_check() {
    let made = made(&Script { sites: 3, rounds: 4, parameters: 3 });
    let verdict = judge(&made, &made.log().unwrap(), &made.checkpoint().unwrap());
    assert!(verdict.is_sound(), "{:#?}", verdict.faults());
    let right = |check| verdict.count(check).right;
    let records = made.records.len() as u64;
    assert_eq!([Check::Frames, Check::Tree, Check::Order].map(right), [records; 3]);
    assert_eq!([Check::Checkpoint, Check::Rosters, Check::Studies].map(right), [1; 3]);
    assert_eq!([Check::Plans, Check::RollCalls].map(right), [5, 5]);
    assert_eq!((right(Check::Receipts), right(Check::Sums)), (15, 0));
    let missing: u64 = verdict.count(Check::Sums).missing.values().sum();
    assert_eq!(missing, 5, "no round could be recomputed, and that is said");
}

#[test]
fn a_history_of_a_thousand_rounds_and_ten_sites_is_sound() {
    let made = made(&Script { sites: 10, rounds: 1000, parameters: 3 });
    let verdict = judge(&made, &made.log().unwrap(), &made.checkpoint().unwrap());
    assert!(verdict.is_sound(), "{:#?}", verdict.faults().first());
    assert_eq!(verdict.count(Check::Receipts).right, 10_010);
    assert_eq!(verdict.count(Check::RollCalls).right, 1001);
}

#[test]
fn a_checkpoint_of_another_key_or_consortium_vouches_for_nothing() {
    let made = made(&SMALL);
    let log = made.log().unwrap();
    let head = frames::read_checkpoint(&made.checkpoint().unwrap(), &made.pinned).unwrap();
    let sign = |head: &Checkpoint, key: &SecretKey| {
        Checkpoint::to_file(&Signed::sign(head.to_bytes(), key)).unwrap()
    };
    let stranger = sign(&head, &SecretKey::from_seed(&[9; 32]));
    let other = Checkpoint { origin: "elsewhere".to_owned(), ..head };
    for (file, word) in [(stranger, "signed by 0"), (sign(&other, &made.log_key), "elsewhere")] {
        let verdict = judge(&made, &log, &file);
        assert_eq!(verdict.faults()[0].check, Check::Checkpoint);
        assert!(texts(&verdict)[0].contains(word), "{:?}", texts(&verdict));
        let missing: u64 = verdict.count(Check::Tree).missing.values().sum();
        assert_eq!(missing, 1, "what the tree should be is not known");
    }
}

#[test]
fn an_earlier_checkpoint_must_be_of_the_same_history() {
    let made = made(&SMALL);
    let (log, file) = (made.log().unwrap(), made.checkpoint().unwrap());
    let of = |records: &[Record]| {
        frames::read_checkpoint(&made.checkpoint_over(records).unwrap(), &made.pinned).unwrap()
    };
    let with = |other: Checkpoint| {
        let open = || Ok((log.as_slice(), log.len() as u64));
        verify(open, &file, &[other], &made.pinned, None).unwrap()
    };
    for size in 0..=made.records.len() {
        assert!(with(of(&made.records[..size])).is_sound(), "the first {size} records");
    }
    let mut forked = made.records[..5].to_vec();
    forked.swap(3, 4);
    let told = texts(&with(of(&forked)));
    assert!(told[0].contains("the first 5 records lead to root"), "{told:?}");
    let mut longer = made.records.clone();
    longer.push(made.records[0].clone());
    let told = texts(&with(of(&longer)));
    assert!(told[0].contains("the last 1 are missing"), "{told:?}");
}
