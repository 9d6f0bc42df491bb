//! What the end-to-end tests share: federations of real processes, and oracles over what they leave
//! behind.
//!
//! ```text
//!  world      a federation in a folder of its own, its studies, and waiting for it
//!  draft      study files as an operator would write them
//!  films      a hospital's pictures, patients and their opt-outs
//!  history    the coordinator's log, read as an auditor would: the oracle
//!  reference  the models that a history must have led to, computed apart
//!  hostile    a site with a valid certificate that is no agent, and `attacks`, by name
//!  chaos      processes that die at fail points, at random moments and by signals
//!  memory     what a process maps and holds
//!  command    one command to its end: exit code and what it said
//! ```
//!
//! Everything in here fails by panicking: what fails here is a failed test.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "only tests run this: a panic is a failed test, and waiting is what it is for"
)]

pub mod attacks;
pub mod chaos;
pub mod command;
pub mod draft;
pub mod films;
pub mod history;
pub mod hostile;
pub mod memory;
pub mod reference;
pub mod world;

pub use attacks::Attack;
pub use chaos::Daemon;
pub use command::{Said, consilium, consilium_agent};
pub use draft::Draft;
pub use history::History;
pub use hostile::Hostile;
pub use world::World;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use consilium_coordinator::local::Programs;

/// How often a wait looks.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// Looks until there is something to see.
pub fn wait_for<T>(what: &str, seconds: u64, mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        let waited = started.elapsed().as_secs();
        assert!(waited < seconds, "waited {seconds} s for {what}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Lets time pass.
pub fn pause(millis: u64) {
    std::thread::sleep(Duration::from_millis(millis));
}

/// The binaries beside the test (`target/debug`), or in `CONSILIUM_BIN`.
#[must_use]
pub fn programs() -> Programs {
    let folder = std::env::var_os("CONSILIUM_BIN").map_or_else(beside, PathBuf::from);
    let programs = Programs::in_folder(&folder);
    if let Err(missing) = programs.check(false) {
        panic!("{missing}\nbuild the daemons with their fail points: {BUILD}");
    }
    programs
}

/// The command that builds what these tests start.
pub const BUILD: &str = "cargo build -p consilium-coordinator -p consilium-agent --features \
                         consilium-io/failpoints";

fn beside() -> PathBuf {
    // target/debug/deps/e2e_rounds-0123456789abcdef, or target/release/chaos
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    if folder.ends_with("deps") { folder.parent().unwrap() } else { folder }.to_owned()
}

/// The worker, if it was built; else says that the test skips.
#[must_use]
pub fn with_worker() -> Option<Programs> {
    let programs = programs();
    match programs.check(true) {
        Ok(()) => Some(programs),
        Err(missing) => {
            eprintln!("SKIPPED, needs libtorch: {missing}");
            None
        }
    }
}
