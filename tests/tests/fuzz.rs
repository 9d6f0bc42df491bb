//! Every decoder against hostile input: what the fuzzer found before, and inputs made from it by a
//! seed. Bounded to seconds; `cargo xtask fuzz` goes on where this ends.

use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use consilium_common::random::Generator;
use consilium_io::disk::log::file_header;
use consilium_tests::fuzz::mutate::mutate;
use consilium_tests::fuzz::{TARGETS, Target, corpus};
use consilium_tests::harness::memory::kib;

/// Mutated inputs for each target.
const RUNS: u32 = 3_000;
/// What all of them together may add to this process's peak.
const GROWTH_KIB_MAX: u64 = 64 << 10;
/// What the repository may carry of committed inputs.
const CORPUS_BYTES_MAX: usize = 1 << 20;

/// Runs one input; a panic names target and input, to be replayed and kept.
fn run(target: &Target, input: &[u8]) {
    let ran = catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    assert!(ran.is_ok(), "target {} fails on {}", target.name, hex::encode(input));
}

#[test]
fn no_input_of_the_past_and_none_made_from_it_breaks_a_decoder() {
    let seed = consilium_tests::seed(1);
    let peak = || kib(std::process::id(), "VmHWM");
    let start = peak();
    for target in TARGETS {
        let before = peak();
        let inputs = [(target.seeds)(), corpus::of(target)].concat();
        inputs.iter().for_each(|input| run(target, input));
        let mut random = Generator::new(target.name, &seed.to_le_bytes());
        let pick = |random: &mut Generator| {
            let at = random.below(u32::try_from(inputs.len()).unwrap());
            inputs[at as usize].clone()
        };
        for _ in 0..RUNS {
            let (mut input, other) = (pick(&mut random), pick(&mut random));
            mutate(&mut random, &mut input, &other);
            run(target, &input);
        }
        println!("{}: {} inputs, peak grown by {} KiB", target.name, inputs.len(), peak() - before);
    }
    let growth = peak() - start;
    assert!(growth < GROWTH_KIB_MAX, "the peak grew by {growth} KiB");
}

/// A corpus of another format ends at the first check and tries nothing behind it.
#[test]
fn the_corpus_of_logs_is_of_the_format_that_is_read() {
    let target = TARGETS.iter().find(|target| target.name == "log-file").unwrap();
    let head = file_header();
    let of_format = corpus::of(target).iter().filter(|input| input.starts_with(&head)).count();
    assert!(of_format >= 10, "{of_format} inputs begin as a log does");
}

#[test]
fn every_target_has_seeds_and_a_small_corpus_of_its_own() {
    let entries = fs::read_dir(corpus::folder()).unwrap();
    let folders: BTreeSet<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    let names: BTreeSet<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    assert_eq!(folders, names);
    let mut bytes = 0;
    for target in TARGETS {
        assert!(!(target.seeds)().is_empty(), "{} has no seeds", target.name);
        let inputs = corpus::of(target);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        bytes += inputs.iter().map(Vec::len).sum::<usize>();
    }
    assert!(bytes <= CORPUS_BYTES_MAX, "{bytes} bytes of corpora");
}
