//! libFuzzer around the targets of `consilium_tests::fuzz`. `cargo xtask fuzz` builds and starts it;
//! two variables say what to do:
//!
//! * `CONSILIUM_FUZZ_TARGET`: the target's name
//! * `CONSILIUM_FUZZ_SEEDS`: a folder into which the target's seeds are written first
//!
//! Nothing in this process may hold more than [`HEAP_BYTES_MAX`] of Rust's heap: an allocation over
//! it fails, which libFuzzer reports with the input that asked for it.

#![no_main]
#![deny(unsafe_code)]

use std::alloc::System;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use cap::Cap;
use consilium_tests::fuzz::{Target, corpus, find};
use libfuzzer_sys::fuzz_target;

/// The acceptance: whatever the input, memory grows by less.
const HEAP_BYTES_MAX: usize = 64 << 20;
/// The peak is told again when it has grown by so much.
const TOLD_BYTES: usize = 64 << 10;

#[global_allocator]
static HEAP: Cap<System> = Cap::new(System, HEAP_BYTES_MAX);
static TARGET: LazyLock<&'static Target> = LazyLock::new(|| {
    let name = std::env::var("CONSILIUM_FUZZ_TARGET").unwrap_or_default();
    find(&name).unwrap_or_else(|| panic!("no target is called {name:?}"))
});
static TOLD: AtomicUsize = AtomicUsize::new(0);

fn begin() {
    if let Some(folder) = std::env::var_os("CONSILIUM_FUZZ_SEEDS") {
        corpus::write_seeds(&TARGET, Path::new(&folder));
    }
    eprintln!("heap before: {} bytes", HEAP.max_allocated());
}

fn tell_the_peak() {
    let (peak, told) = (HEAP.max_allocated(), TOLD.load(Ordering::Relaxed));
    if peak >= told + TOLD_BYTES {
        TOLD.store(peak, Ordering::Relaxed);
        eprintln!("heap peak: {peak} bytes");
    }
}

fuzz_target!(init: begin(), |input: &[u8]| {
    (TARGET.run)(input);
    tell_the_peak();
});
