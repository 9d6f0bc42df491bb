//! Processes that die: at fail points (feature `failpoints` of consilium-io), at random moments,
//! and workers by signal. Each is started again at once.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use consilium_common::random::Generator;
use consilium_coordinator::local::LocalError;

use super::{BUILD, World, memory, pause, wait_for};

/// How long a death or a birth may take on a busy machine.
const PATIENCE_SECONDS: u64 = 90;

/// One of the long-running processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Daemon {
    /// The coordinator.
    Coordinator,
    /// A site's agent, by index.
    Agent(usize),
}

impl World {
    /// Starts `daemon` so that it writes the name of every fail point that it passes.
    #[must_use]
    pub fn start_traced(&mut self, daemon: Daemon) -> PathBuf {
        let path = self.root().join(format!("{daemon:?}.trace"));
        self.start(daemon, &[("CONSILIUM_FAILPOINT_TRACE", path.clone().into())]).unwrap();
        path
    }

    /// Starts `daemon` (again) armed at `point`, such as `before:train`, lets it die there, and
    /// leaves it dead.
    pub fn die_at(&mut self, daemon: Daemon, point: &str) {
        self.kill(daemon);
        match self.start(daemon, &[("CONSILIUM_FAILPOINT", OsString::from(point))]) {
            Ok(()) => {}
            Err(LocalError::NotReady { what, .. }) if what.contains("SIGABRT") => return,
            Err(error) => panic!("{daemon:?} armed at {point}: {error}"),
        }
        let what = format!("{daemon:?} to die at {point}");
        let status = wait_for(&what, PATIENCE_SECONDS, || self.process(daemon).ended());
        assert!(status.to_string().contains("SIGABRT"), "{daemon:?} at {point} ended: {status}");
    }

    /// Kills a daemon (SIGKILL) if it runs.
    pub fn kill(&mut self, daemon: Daemon) {
        let process = match daemon {
            Daemon::Coordinator => self.federation.coordinator(),
            Daemon::Agent(site) => self.federation.agent(site),
        };
        if let Some(process) = process {
            process.kill();
        }
    }

    /// Kills a daemon (SIGKILL) and starts it again.
    pub fn kill_and_restart(&mut self, daemon: Daemon) {
        self.kill(daemon);
        self.start(daemon, &[]).unwrap();
    }

    /// Takes from a site what it knows of studies and models, as before its first start. Its updates
    /// and local states stay: nothing brings those back.
    pub fn forget(&mut self, site: usize) {
        self.kill(Daemon::Agent(site));
        let state = self.federation.site_folder(site).join("state");
        for folder in ["studies", "cache"].map(|name| state.join(name)) {
            if folder.exists() {
                fs::remove_dir_all(folder).unwrap();
            }
        }
    }

    /// Signals the next worker of a site until it is gone.
    pub fn strike_worker(&mut self, site: usize, signal: &str, generator: &mut Generator) {
        let agent = self.process(Daemon::Agent(site)).pid();
        let worker =
            wait_for("a worker", PATIENCE_SECONDS, || memory::children(agent).first().copied());
        pause(generator.below(60).into());
        wait_for("the worker's end", PATIENCE_SECONDS, || {
            if !memory::is_alive(worker) {
                return Some(());
            }
            // It may end by itself between the look and the signal. Rust's own handler of SIGSEGV
            // survives a first one that no bad access raised, so it is sent until it tells.
            let _ = Command::new("kill").arg(format!("-{signal}")).arg(worker.to_string()).output();
            None
        });
    }
}

/// A fail point that an undisturbed run passes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// As `CONSILIUM_FAILPOINT` takes it.
    pub name: String,
    /// How often it was passed.
    pub times: usize,
}

/// The fail points of a trace, in the order of their last appearance: what happens once comes
/// first, what happens every round follows in the order of a round, what ends a study comes last.
#[must_use]
pub fn points(trace: &Path) -> Vec<Point> {
    let text = fs::read_to_string(trace).unwrap_or_default();
    assert!(!text.is_empty(), "the programs pass no fail points: {BUILD}");
    let mut points: Vec<Point> = Vec::new();
    for name in text.lines().rev() {
        match points.iter_mut().find(|point| point.name == name) {
            Some(point) => point.times += 1,
            None => points.push(Point { name: name.to_owned(), times: 1 }),
        }
    }
    points.reverse();
    points
}
