//! The daemons stay small: an agent between rounds holds no libtorch and no model, and the
//! coordinator's memory is that of one model, however many sites there are (P5).

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use consilium_agent::report::Status as AgentStatus;
use consilium_coordinator::local::Policy;
use consilium_tests::harness::{Daemon, Draft, World, memory, wait_for};

/// What an agent may hold between rounds.
const AGENT_KIB_MAX: u64 = 40 << 10;
/// What all windows of the coordinator's connections may hold
/// (common/io/src/net/quic/tuning.rs), however many there are.
const WINDOWS_KIB_MAX: u64 = 16 << 10;
/// What a site more may cost beside: two chunks of a transfer and what a connection is made of.
const SITE_KIB_MAX: u64 = 1 << 10;
/// 16 MiB as f32: a model held for each of six sites more would be four times all of that.
const PARAMETERS: u32 = 4 << 20;

#[test]
fn an_agent_between_rounds_maps_no_libtorch_and_holds_less_than_40_mib() {
    let draft = Draft { parameters: 5_000_000, min_sites: 2, ..Draft::new("thorax", 3) };
    let mut world = World::with(2, &["thorax"], Policy::Within).started();
    world.run(&draft);
    world.complete("thorax", 120);
    for site in 0..2 {
        let pid = world.process(Daemon::Agent(site)).pid();
        assert!(memory::children(pid).is_empty(), "the worker went with its task");
        assert!(!memory::maps(pid, "libtorch"), "the daemon never loads libtorch");
        let mut kib = 0;
        wait_for("the last round to settle", 10, || {
            let status: AgentStatus = world.federation.agent_json(site, &["status"]).unwrap();
            let settled = status.session.retained.is_empty() && status.session.tasks.is_empty();
            kib = memory::kib(pid, "VmRSS");
            settled.then_some(())
        });
        println!("agent {site}: {kib} KiB resident between rounds");
        assert!(kib < AGENT_KIB_MAX, "agent {site} holds {kib} KiB between rounds");
    }
    world.stop();
}

/// The coordinator's peak in KiB over a study with so many sites.
fn coordinator_peak(sites: usize) -> u64 {
    let min_sites = u32::try_from(sites).unwrap();
    let draft = Draft { parameters: PARAMETERS, min_sites, ..Draft::new("thorax", 2) };
    let mut world = World::with(sites, &["thorax"], Policy::Within).started();
    world.run(&draft);
    world.complete("thorax", 120).assert_everybody_counted("thorax", sites, 2);
    let peak = memory::kib(world.process(Daemon::Coordinator).pid(), "VmHWM");
    world.stop();
    peak
}

#[test]
fn the_coordinators_peak_does_not_grow_with_the_number_of_sites() {
    let (two, eight) = (coordinator_peak(2), coordinator_peak(8));
    println!("coordinator: {two} KiB at most with 2 sites, {eight} with 8");
    let more = WINDOWS_KIB_MAX + 6 * SITE_KIB_MAX;
    assert!(eight < two + more, "{two} KiB with 2 sites, {eight} with 8");
}
