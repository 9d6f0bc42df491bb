//! Sites as witnesses of the coordinator's log: a history that is told otherwise to two of them shows at the
//! next contact, is kept as evidence, and a person decides.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a panic is a failed test, and what a document lacks is null"
)]

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use consilium_tests::harness::{Daemon, Draft, Said, World, consilium, consilium_agent, wait_for};
use serde_json::Value;

const ONE: &str = "thorax";

/// A command of a site's agent.
fn agent(world: &World, site: usize, words: &[&str]) -> Said {
    let toml = world.agent_toml(site);
    let mut all: Vec<&OsStr> = words.iter().map(OsStr::new).collect();
    all.extend([OsStr::new("--config"), toml.as_os_str()]);
    consilium_agent(world.federation.programs(), &all)
}

fn status(world: &World, site: usize) -> Value {
    serde_json::from_str(&agent(world, site, &["status", "--json"]).done()).unwrap()
}

fn is_connected(world: &World, site: usize) -> bool {
    status(world, site)["connection"]["state"] == "connected"
}

fn connected(world: &World, site: usize) {
    wait_for("the agent to be welcome", 30, || is_connected(world, site).then_some(()));
}

/// Records under the head that a site keeps.
fn witnessed(world: &World, site: usize) -> u64 {
    status(world, site)["witness"]["kept"]["records"].as_u64().unwrap_or(0)
}

/// Commands of an operator, each a record of the log. The tree covers what a record says and not its time, so
/// that two histories differ only if their commands do.
fn commands(world: &World, command: &str, count: usize) {
    for _ in 0..count {
        let said = world.operator(&["study", command, ONE]);
        said.assert_fails(4, &["complete"]);
    }
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-r").args([from, to]).status().unwrap();
    assert!(copied.success());
}

/// The files of a site's witness whose names begin so.
fn kept(world: &World, site: usize, prefix: &str) -> Vec<PathBuf> {
    let folder = world.federation.site_folder(site).join("state/witness");
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    paths.filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix)).collect()
}

/// A federation whose study is complete, stopped; what its log was then is in `copy`.
fn world_with_copy() -> (World, PathBuf) {
    let mut world = World::new(&[ONE]).started();
    world.run(&Draft::new(ONE, 2));
    let _history = world.complete(ONE, 60);
    for site in [0, 1] {
        // What came with Welcome was over less than what a site asks for after a roll call.
        let first = witnessed(&world, site);
        wait_for("a head after the roll call", 30, || {
            (witnessed(&world, site) > first).then_some(())
        });
    }
    world.federation.stop().unwrap();
    let older = world.root().join("older");
    copy(&world.federation.coordinator_state(), &older);
    (world, older)
}

fn bring_back(world: &World, older: &Path) {
    let state = world.federation.coordinator_state();
    std::fs::rename(&state, world.root().join("the-other-history")).unwrap();
    copy(older, &state);
}

#[test]
fn two_histories_cannot_be_told_and_a_person_says_which_one_goes_on() {
    let (mut world, older) = world_with_copy();
    // One history, of which site 0 hears.
    world.start(Daemon::Coordinator, &[]).unwrap();
    commands(&world, "pause", 3);
    world.start(Daemon::Agent(0), &[]).unwrap();
    connected(&world, 0);
    let ahead = witnessed(&world, 0);
    world.federation.stop().unwrap();

    // Another one, longer, for site 1.
    bring_back(&world, &older);
    world.start(Daemon::Coordinator, &[]).unwrap();
    commands(&world, "start", 40);
    world.start(Daemon::Agent(1), &[]).unwrap();
    connected(&world, 1);
    assert!(witnessed(&world, 1) > ahead);

    // At the next contact site 0 will have none of it.
    world.start(Daemon::Agent(0), &[]).unwrap();
    let told = wait_for("the contradiction", 30, || {
        let told = status(&world, 0)["witness"]["contradiction"]["records"].as_u64();
        told.filter(|_| !kept(&world, 0, "contradiction-").is_empty())
    });
    assert!(told > ahead);
    let line = agent(&world, 0, &["status"]).done();
    assert!(line.contains("NOTHING GOES ON") && line.contains("witness accept"), "{line}");
    assert!(!is_connected(&world, 0));
    assert_eq!((witnessed(&world, 0), world.status().coordinator.connected), (ahead, 1));

    // Its head convicts the history that an auditor is shown.
    let folder = world.root().join("export");
    let pinned = world.root().join("ca/issued/coordinator/consortium.toml");
    let (out, pinned) = (folder.to_str().unwrap(), pinned.to_str().unwrap());
    let export = ["audit", "export", "--out", out, "--consortium", pinned];
    let _exported = world.operator(&export).done();
    let audited = |head: &Path| {
        let words = ["audit", "verify", folder.to_str().unwrap(), "--also", head.to_str().unwrap()];
        consilium(world.federation.programs(), &words)
    };
    let heads = [0, 1].map(|site| {
        let mut heads = kept(&world, site, "checkpoint");
        assert_eq!(heads.len(), 1, "{heads:?}");
        heads.remove(0)
    });
    audited(&heads[0]).assert_fails(1, &["fault"]);
    let _sound = audited(&heads[1]).done();

    let by = ["--by", "Dr. Ada", "--reason", "restored by the operators"];
    let accepted = agent(&world, 0, &[&["witness", "accept"][..], &by].concat()).done();
    assert!(accepted.contains("the coordinator's log up to"), "{accepted}");
    connected(&world, 0);
    agent(&world, 0, &[&["witness", "accept"][..], &by].concat())
        .assert_fails(4, &["nothing to accept"]);
    let ledger = agent(&world, 0, &["ledger", "show"]).done();
    assert!(ledger.contains("does not go on from ours"), "{ledger}");
    assert!(ledger.contains("Dr. Ada goes on with"), "{ledger}");
    assert_eq!(kept(&world, 0, "checkpoint-").len(), 1);
    world.stop();
}

#[test]
fn a_log_that_was_cut_shows_and_heals_when_the_right_one_is_back() {
    let (mut world, older) = world_with_copy();
    world.start(Daemon::Coordinator, &[]).unwrap();
    commands(&world, "pause", 20);
    world.start(Daemon::Agent(0), &[]).unwrap();
    connected(&world, 0);
    world.federation.stop().unwrap();
    bring_back(&world, &older);
    world.start(Daemon::Coordinator, &[]).unwrap();
    world.start(Daemon::Agent(0), &[]).unwrap();
    wait_for("the contradiction", 30, || {
        let told = &status(&world, 0)["witness"]["contradiction"];
        told.is_object().then_some(())
    });
    let log = world.log_of("coordinator");
    assert!(log.contains("more records than this log has"), "{log}");

    // Whoever runs the coordinator finds the right folder.
    world.process(Daemon::Coordinator).stop(Duration::from_secs(30)).unwrap();
    let state = world.federation.coordinator_state();
    std::fs::remove_dir_all(&state).unwrap();
    std::fs::rename(world.root().join("the-other-history"), &state).unwrap();
    world.start(Daemon::Coordinator, &[]).unwrap();
    wait_for("the agent to be welcome", 60, || is_connected(&world, 0).then_some(()));
    assert!(status(&world, 0)["witness"]["contradiction"].is_null());
    assert_eq!(kept(&world, 0, "contradiction-").len(), 1, "the evidence stays");
    world.stop();
}
