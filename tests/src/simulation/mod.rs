//! The whole federation in one thread: real `Engine`s and real `Session`s on a simulated clock, with
//! simulated disks, links, workers and operators, all from one seed. `cargo xtask sim` runs many.
//!
//! ```text
//!   fault ─► strike ─► world ─┬─ coordinator: engines; disk: its log   watch: after each step over
//!   (what, when) rot          │      in bytes; stage: updates                      the log; oracle: at the
//!                             ├─ site (any number): session; kept:             end over everything
//!                             │      its files                           coverage: what was reached
//!                             ├─ links: what passes, how late; reader: queues of those who do not read
//!                             └─ sim: clock, chance, what is on its way
//! ```
//!
//! Bytes are real where they decide: the log is framed and scanned by consilium-io, a retained update is
//! written and read in the agent's file format, every digest is computed, and the queues to the sites
//! are those of the coordinator's server.
//!
//! # What counts as a failure
//! * Anything is announced before its record is durable.
//! * An update counts that its site never made, counts twice, or counts without a receipt; one with a
//!   receipt does not count although its round committed.
//! * A version is not the exact sum of its roll call, or two versions have one number.
//! * A preparation is not the exact sum of its roll call, sites count twice, something trains before
//!   they have, or a later plan does not name what they counted.
//! * A round does not end in exactly one roll call that names every invited site, with a cause that
//!   happened: nobody is late before the deadline, idle before the idle timeout or while it was there
//!   and was not told, failed without having said so.
//! * An honest update is refused. A site trains over state that is not settled, settles twice, or
//!   otherwise than its roll call says; or from a local state that is not the one of its last round
//!   that counted.
//! * A receipt is given of an update that its site does not retain. A site is passed over as idle while
//!   its base comes, however slowly.
//! * A start loses a synced record that its disk still has, or goes on without one that its checkpoint
//!   covers; takes for a record what was not written, or is refused by a log that
//!   nothing has damaged. A reader is put off while its queue has room.
//! * Anything panics, or the federation does not come to rest within a simulated day.
//!
//! # What does not
//! A round may be abandoned and a site left out, if the roll call says so; also a site with a receipt,
//! if the coordinator died after it and the site did not come back with its update in time (staged
//! bytes are a cache, DESIGN.md §5). A site that went back to an old backup may do again what it has
//! done, and from an older local state: if that gives other bytes in a round that has a receipt of it,
//! it is refused as equivocation. If the log has a receipt of what it does not retain any more, and the
//! staged bytes are lost too, it says that it has no such update; also where it let the update go after
//! a roll call that the log has forgotten.
//!
//! # What rot may cost
//! Never a sum: bytes count only while they have their digest or checksum.
//! * *The log.* An incomplete tail is dropped. Any other damage, also garbage where a power cut left
//!   unsynced bytes, or an end that is gone although a checkpoint covers it, stops the start; the
//!   operator brings back a copy up to a minute old. An end that is gone and that no checkpoint covers
//!   yet (of the last second) cannot be told. What the log had said since is forgotten, receipts and roll calls too, and numbers of rounds and versions are
//!   given again. A site that is ahead has followed the roll call that was lost; what it retains of a
//!   forgotten round is refused (`wrong-round`, `not-invited`; if the number was given again by then, the
//!   other base or size also counts as a strike), and it declines that number until a later one. The oracle holds
//!   such a site against the forgotten roll calls too, and allows refusals of forgotten rounds only.
//! * *A model, a strategy's state, a preparation.* It is noticed when it is aggregated or when a site's fetch
//!   has another digest. Rounds are abandoned, or sites left out (`coordinator-fault`), until the operator
//!   has brought the file back.
//! * *A staged update.* A start that looks for it asks its site again. After that its site is left out
//!   (`coordinator-fault`), or, if it rots between verification and addition, the round is abandoned.
//! * *A retained update.* A start sets it aside, and the site trains again if the round is open. If it
//!   is not, that round never settles there: this one loss the oracle allows, by name. A push of it is
//!   refused by its digest until the round is over.
//!   If the round counted, the local state in it is lost too, and the older one stays in force.
//! * *A cached base or preparation.* It is fetched again, or the round fails at the site (`site-fault`).
//!
//! # What is not modelled
//! Bytes on the wire (frames, blob offsets: the goldens), the index and the checkpoint's signature (the
//! tests of the store), operators who read slowly, quarantine, TLS and certificates, threads and their
//! timing, the worker's own arithmetic, sites as witnesses of the log (a coordinator that was brought back
//! from a copy has had every site's word that it goes on with it): the kill tests run the real programs for those.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::wildcard_enum_match_arm,
    reason = "what the simulation itself put there, it finds; what it does not is a failed test"
)]

mod coordinator;
pub mod coverage;
mod disk;
mod events;
pub mod fault;
mod kept;
mod links;
mod local;
mod oracle;
mod reader;
mod rot;
mod sim;
mod site;
mod stage;
mod strike;
mod terms;
mod watch;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use coverage::Coverage;
use fault::Fault;
use world::World;

/// A federation that broke a promise, with the fewest of its faults that still do.
#[derive(Debug, Clone)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// Indices into the seed's faults.
    pub faults: Vec<usize>,
    /// What was found.
    pub what: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { seed, faults, what } = self;
        let plan = fault::plan(*seed);
        let named: Vec<String> = faults
            .iter()
            .filter_map(|index| plan.get(*index))
            .map(|fault| format!("{:?} at action {}", fault.kind, fault.at))
            .collect();
        write!(f, "seed {seed}, faults {faults:?} ({}): {what}", named.join(", "))
    }
}

/// Runs the federation of a seed to its end.
///
/// # Errors
/// It breaks a promise.
pub fn run(seed: u64) -> Result<Coverage, Box<Violation>> {
    let all: Vec<usize> = (0..fault::plan(seed).len()).collect();
    run_with(seed, &all)
}

/// The same with some of its faults only.
///
/// # Errors
/// It breaks a promise.
fn run_with(seed: u64, faults: &[usize]) -> Result<Coverage, Box<Violation>> {
    let plan = fault::plan(seed);
    let chosen: Vec<Fault> = faults.iter().filter_map(|index| plan.get(*index).copied()).collect();
    let ran = catch_unwind(AssertUnwindSafe(|| {
        let mut world = World::new(seed, &chosen);
        world.run();
        oracle::check(&mut world)
    }));
    ran.map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let what = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let what = what.unwrap_or_else(|| "a panic without words".to_owned());
        Box::new(Violation { seed, faults: faults.to_vec(), what })
    })
}

/// Leaves faults out as long as what remains still fails.
#[must_use]
pub fn shrink(violation: Violation) -> Violation {
    let mut least = violation;
    let mut index = 0;
    while index < least.faults.len() {
        let mut fewer = least.faults.clone();
        fewer.remove(index);
        match run_with(least.seed, &fewer) {
            Err(still) => least = *still,
            Ok(_) => index += 1,
        }
    }
    least
}
