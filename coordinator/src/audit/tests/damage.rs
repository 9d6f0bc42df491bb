//! Damage on the way, and changes by somebody who cannot sign: none goes unseen.

use consilium_common::random::Generator;

use super::*;

#[test]
fn every_bit_and_every_byte_of_a_small_log_flipped_is_detected() {
    let made = made(&SMALL);
    let (log, checkpoint) = (made.log().unwrap(), made.checkpoint().unwrap());
    assert!(judge(&made, &log, &checkpoint).is_sound());
    let mut changed = log.clone();
    for at in 0..log.len() {
        for flip in (0..8).map(|bit| 1 << bit).chain([u8::MAX]) {
            changed[at] = log[at] ^ flip;
            let verdict = judge(&made, &changed, &checkpoint);
            assert!(!verdict.is_sound(), "byte {at} of the log as {}", changed[at]);
        }
        changed[at] = log[at];
    }
}

#[test]
fn every_byte_of_the_checkpoint_and_its_signature_as_every_other_value_is_detected() {
    let made = made(&SMALL);
    let checkpoint = made.checkpoint().unwrap();
    let mut changed = checkpoint.clone();
    for at in 0..checkpoint.len() {
        for flip in 1..=u8::MAX {
            changed[at] = checkpoint[at] ^ flip;
            let said = frames::read_checkpoint(&changed, &made.pinned);
            assert!(said.is_err(), "byte {at} of the checkpoint as {}", changed[at]);
        }
        changed[at] = checkpoint[at];
    }
}

#[test]
fn ten_thousand_flips_of_a_larger_log_are_detected() {
    let seed = std::env::var("CONSILIUM_SEED").unwrap_or_else(|_| "audit-flips".to_owned());
    println!("CONSILIUM_SEED={seed}");
    let mut random = Generator::new("audit test", seed.as_bytes());
    let made = made(&Script { sites: 5, rounds: 20, parameters: 3 });
    let (mut log, checkpoint) = (made.log().unwrap(), made.checkpoint().unwrap());
    let bits = u32::try_from(log.len() * 8).unwrap();
    for _ in 0..10_000 {
        let bit = random.below(bits) as usize;
        log[bit / 8] ^= 1 << (bit % 8);
        let verdict = judge(&made, &log, &checkpoint);
        assert!(!verdict.is_sound(), "bit {bit} of {bits}");
        log[bit / 8] ^= 1 << (bit % 8);
    }
    assert!(judge(&made, &log, &checkpoint).is_sound(), "all flips were taken back");
}

#[test]
fn a_log_that_is_cut_anywhere_is_detected_and_said_to_be_short() {
    let made = made(&SMALL);
    let (log, checkpoint) = (made.log().unwrap(), made.checkpoint().unwrap());
    for length in 0..log.len() {
        let verdict = judge(&made, &log[..length], &checkpoint);
        assert!(!verdict.is_sound(), "cut at {length}");
    }
    let without_the_last = log_of(&made.records[..made.records.len() - 1]).unwrap();
    let told = texts(&judge(&made, &without_the_last, &checkpoint));
    assert!(told[0].contains("the last 1 are missing"), "{told:?}");
}

#[test]
fn records_dropped_doubled_exchanged_or_added_are_detected() {
    let made = made(&Script { sites: 2, rounds: 2, parameters: 3 });
    let all = &made.records;
    for at in 0..all.len() {
        let mut without = all.clone();
        without.remove(at);
        assert!(!under_the_true_checkpoint(&made, &without).is_sound(), "without record {at}");
        let mut doubled = all.clone();
        doubled.insert(at, all[at].clone());
        assert!(!under_the_true_checkpoint(&made, &doubled).is_sound(), "record {at} twice");
        for other in at + 1..all.len() {
            let mut exchanged = all.clone();
            exchanged.swap(at, other);
            let verdict = under_the_true_checkpoint(&made, &exchanged);
            assert!(!verdict.is_sound(), "records {at} and {other} exchanged");
        }
    }
    let mut more = all.clone();
    more.push(all[0].clone());
    let told = texts(&under_the_true_checkpoint(&made, &more));
    assert!(told.iter().any(|told| told.contains("nothing vouches for them")), "{told:?}");
}

#[test]
fn damage_is_told_with_record_and_offset_and_nothing_else_is_claimed() {
    let made = made(&SMALL);
    let (mut log, checkpoint) = (made.log().unwrap(), made.checkpoint().unwrap());
    let third = log_of(&made.records[..3]).unwrap().len();
    log[third + 30] ^= 1;
    let verdict = judge(&made, &log, &checkpoint);
    let [fault] = verdict.faults() else {
        panic!("one fault: {:#?}", verdict.faults());
    };
    assert_eq!((fault.record, fault.offset), (Some(3), Some(third as u64)));
    assert_eq!(fault.check, Check::Frames);
    for check in Check::ALL.into_iter().filter(|check| *check > Check::Frames) {
        let count = verdict.count(check);
        assert_eq!((count.right, count.missing.values().sum::<u64>()), (0, 1), "{check}");
    }
}
