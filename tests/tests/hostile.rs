//! Sites with valid certificates that are no agents, against a real coordinator, while honest sites
//! run a study: each is put out with its reason, the study is exactly what the honest sites made of
//! it, and the coordinator's memory, disk and descriptors stay bounded.
//!
//! Nothing on this wire is compressed, so there are no decompression bombs to defuse.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test, and figures are to be seen"
)]

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use consilium_agent::report::Status as AgentStatus;
use consilium_agent::session::ConnectionState;
use consilium_common::audit::Status;
use consilium_common::wire::reject::Code;
use consilium_coordinator::document::QuarantinedSite;
use consilium_coordinator::local::Policy;
use consilium_io::net::Closed;
use consilium_tests::harness::{
    Attack, Daemon, Draft, History, World, memory, pause, wait_for, world,
};
use tokio::runtime::Runtime;

const HONEST: usize = 4;
/// What all the attacks together may cost at the coordinator's peak: the study here is tiny, so this
/// is buffers of connections (common/io/src/net/quic/tuning.rs) and queues.
const COORDINATOR_KIB_MAX: u64 = 160 << 10;
/// Sockets, log, index, and a few files for each site.
const DESCRIPTORS_MAX: usize = 128;

/// A study of honest sites that takes some seconds, whoever else there is.
fn draft() -> Draft {
    Draft { batches: 10, batch_ms: 40, local: 0, ..Draft::new("thorax", 8) }
}

/// Honest agents run, and so many more identities lie about. Nothing is submitted yet.
fn besieged(hostile: usize) -> World {
    let mut world = World::with(HONEST + hostile, &["thorax"], Policy::Within);
    world.federation.start_coordinator().unwrap();
    (0..HONEST).for_each(|site| world.federation.start_agent(site).unwrap());
    world
}

/// Every attack at once, each by a site of its own, while the study runs to its end.
fn under(attacks: &[Attack]) -> (World, Vec<Closed>, History) {
    let draft = draft();
    let mut world = besieged(attacks.len());
    let runtime = Runtime::new().unwrap();
    world.run(&draft);
    world.reaches("thorax", 1, 60);
    let sites = (HONEST..).map(|site| world.hostile(site, &draft));
    let running: Vec<_> = attacks
        .iter()
        .zip(sites)
        .map(|(attack, hostile)| {
            let attack = *attack;
            runtime.spawn(async move { attack.run(&hostile).await })
        })
        .collect();
    let pid = world.process(Daemon::Coordinator).pid();
    let ends = running.into_iter().map(|attack| runtime.block_on(attack).unwrap()).collect();
    let descriptors = memory::descriptors(pid);
    let history = world.complete("thorax", 60);
    let peak = memory::kib(pid, "VmHWM");
    println!("coordinator: {peak} KiB at most, {descriptors} descriptors");
    assert!(peak < COORDINATOR_KIB_MAX, "{peak} KiB at the peak");
    assert!(descriptors < DESCRIPTORS_MAX, "{descriptors} descriptors");
    (world, ends, history)
}

/// Each attacker was told why it was put out, and stands in the log of record and in status.
fn assert_all_put_out(world: &World, attacks: &[Attack], ends: &[Closed], history: &History) {
    let status = world.status();
    for (index, (attack, end)) in attacks.iter().zip(ends).enumerate() {
        let (site, code) = (world::name(HONEST + index), attack.code());
        assert_eq!(end.code, u32::from(Code::Quarantined as u16), "{attack:?}: {end}");
        assert!(end.reason.starts_with(&format!("quarantined: {code}: ")), "{attack:?}: {end}");
        let recorded = history.refusals.iter().filter(|(peer, refused, detail)| {
            *peer == site.to_string()
                && refused == "quarantined"
                && detail.starts_with(&code.to_string())
        });
        assert_eq!(recorded.count(), 1, "{attack:?}: once in the log: {:#?}", history.refusals);
        let log = world.log_of("coordinator");
        let said = log
            .lines()
            .any(|line| line.contains(&format!("site={site}")) && line.contains("quarantined"));
        assert!(said, "{attack:?}: in the program's log");
        let shown = |one: &&QuarantinedSite| one.site == site && one.code == code;
        // Whoever did it early on may be free again by now.
        if let Some(shown) = status.coordinator.quarantined.iter().find(shown) {
            assert!(shown.remaining_ms <= 10_000 && shown.strikes == 1, "{shown:?}");
        }
    }
}

/// The study is what it would have been: exact, and every honest site counted in each round.
fn assert_unspoilt(world: &World, history: &History) {
    let _model = world.assert_reference(&draft(), history);
    assert_eq!(history.version("thorax"), draft().rounds);
    for call in history.of("thorax") {
        for site in (0..HONEST).map(world::name) {
            let status = &call.sites[&site].status;
            assert!(matches!(status, Status::Counted { .. }), "{site}: {call:#?}");
        }
    }
}

#[test]
fn attacks_on_the_protocol_are_put_out_and_the_study_goes_on() {
    let attacks = &Attack::ON_THE_PROTOCOL;
    let (world, ends, history) = under(attacks);
    assert_all_put_out(&world, attacks, &ends, &history);
    assert_unspoilt(&world, &history);
    for call in history.of("thorax") {
        assert_eq!(call.sites.len(), HONEST, "none of them ever took part");
    }
    world.stop();
}

#[test]
fn attacks_on_the_round_are_put_out_and_the_round_goes_on_without_them() {
    let attacks = &Attack::ON_THE_ROUND;
    let (world, ends, history) = under(attacks);
    assert_all_put_out(&world, attacks, &ends, &history);
    assert_unspoilt(&world, &history);
    for (index, attack) in attacks.iter().enumerate() {
        let site = world::name(HONEST + index);
        let invited: Vec<_> =
            history.of("thorax").iter().filter_map(|call| call.sites.get(&site)).cloned().collect();
        assert_eq!(invited.len(), 1, "{attack:?}: one round, and none since");
        let counted = matches!(invited[0].status, Status::Counted { .. });
        // What an equivocating site delivered first was right, and was receipted.
        assert_eq!(counted, *attack == Attack::Equivocation, "{attack:?}: {:?}", invited[0]);
    }
    world.stop();
}

#[test]
fn a_byte_a_second_of_hello_is_no_hello() {
    let attacks = &[Attack::SlowHello];
    let draft = Draft { rounds: 2, ..draft() };
    let world = besieged(1);
    let hostile = world.hostile(HONEST, &draft);
    world.run(&draft);
    let end = Runtime::new().unwrap().block_on(attacks[0].run(&hostile));
    let history = world.complete("thorax", 60);
    assert_all_put_out(&world, attacks, &[end], &history);
    history.assert_everybody_counted("thorax", HONEST, 2);
    world.stop();
}

#[test]
fn one_offer_after_the_other_fills_no_disk() {
    let draft = Draft { parameters: 100_000, ..draft() };
    let world = besieged(1);
    let hostile = world.hostile(HONEST, &draft);
    world.run(&draft);
    world.reaches("thorax", 1, 60);
    let stage = world.federation.coordinator_state().join("stage");
    let over = AtomicBool::new(false);
    let peak = thread::scope(|scope| {
        let watching = scope.spawn(|| {
            let mut peak = 0;
            while !over.load(Ordering::Relaxed) {
                peak = peak.max(bytes_below(&stage));
                pause(2);
            }
            peak
        });
        let end = Runtime::new().unwrap().block_on(Attack::OfferFlood.run(&hostile));
        assert!(end.reason.contains("flood"), "{end}");
        over.store(true, Ordering::Relaxed);
        watching.join().unwrap()
    });
    let update = 4 * u64::from(draft.parameters) + 1_000;
    println!("the stage held {peak} bytes at most");
    assert!(peak > update / 2, "the attack reached the stage");
    assert!(peak <= (HONEST as u64 + 3) * update, "{peak} bytes in the stage");
    let history = world.complete("thorax", 60);
    let _model = world.assert_reference(&draft, &history);
    world.stop();
}

fn bytes_below(folder: &std::path::Path) -> u64 {
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let bytes = |entry: fs::DirEntry| match entry.metadata() {
        Ok(found) if found.is_dir() => bytes_below(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    };
    entries.map(bytes).sum()
}

#[test]
fn a_quarantined_site_that_knocks_on_is_rationed_and_its_agent_comes_back_in_time() {
    let draft = draft();
    let mut world = besieged(1);
    let hostile = world.hostile(HONEST, &draft);
    world.run(&draft);
    let runtime = Runtime::new().unwrap();
    let end = runtime.block_on(Attack::GiantFrame.run(&hostile));
    assert!(end.reason.starts_with("quarantined: malformed"), "{end}");

    // It knocks as fast as it can, from the address of the honest sites, one of which restarts.
    let knocking = thread::spawn(move || runtime.block_on(knocks(&hostile)));
    world.kill_and_restart(Daemon::Agent(0));
    // The agent of the same site finds itself shut out, says why, and waits.
    world.federation.start_agent(HONEST).unwrap();
    let name = world::name(HONEST);
    wait_for("the agent to be told", 30, || {
        let log = world.log_of(name.as_str());
        (log.contains("quarantined") && log.contains("holds this site off")).then_some(())
    });
    let wait = wait_for("the agent to wait", 5, || {
        let status: AgentStatus = world.federation.agent_json(HONEST, &["status"]).unwrap();
        let connection = status.session.connection;
        assert!(connection.trouble?.contains("(quarantined): malformed"));
        (connection.state == ConnectionState::Waiting).then_some(connection.next_attempt_in_ms?)
    });
    assert!(wait.0 > 1_000, "it does not knock every second: {wait}");
    let text = world.operator(&["status"]).done();
    let line = format!("site {name} is quarantined for");
    assert!(text.contains(&line) && text.contains("strike 1"), "{text}");
    let rows = text.lines().filter(|row| row.contains(name.as_str()));
    assert!(rows.clone().any(|row| row.contains("quarantined for") && row.contains("(malformed)")));

    let (answered, seconds) = knocking.join().unwrap();
    println!("{answered} knocks were answered in {seconds} s");
    assert!(answered as u64 <= 20 + 20 * (seconds + 1), "a ration of 20 handshakes a second");
    let history = world.complete("thorax", 60);
    let _model = world.assert_reference(&draft, &history);
    wait_for("the site to be let in again", 30, || {
        world.log_of(name.as_str()).contains("welcome").then_some(())
    });
    assert!(world.status().coordinator.quarantined.is_empty());
    world.stop();
}

/// Knocks on eight connections at a time while the term runs; how many were answered, in how many
/// seconds.
async fn knocks(hostile: &consilium_tests::harness::Hostile) -> (usize, u64) {
    let started = tokio::time::Instant::now();
    let within = std::time::Duration::from_secs(5);
    let mut knocking = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let hostile = hostile.clone();
        knocking.spawn(async move {
            let mut answered = 0;
            while started.elapsed() < within {
                let Ok(Ok(peer)) = tokio::time::timeout(within, hostile.dial()).await else {
                    break;
                };
                answered += usize::from(peer.closed().await.reason.starts_with("quarantined"));
            }
            answered
        });
    }
    let answered = knocking.join_all().await.into_iter().sum();
    (answered, started.elapsed().as_secs())
}
