//! P1: whatever process dies at whatever moment, nothing is lost and nothing counts twice: the
//! models are bit for bit those of the undisturbed run, and every site counts in every round.
//!
//! Deaths follow one another in one federation, so that each also starts from what the one before
//! left. The oracles: the coordinator's log is whole and signed, rounds follow one another without
//! a gap, all four sites count in each, no site was receipted for two updates of a round, and each
//! version is the exact sum of its roll call, computed apart.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::sync::OnceLock;
use std::thread;

use consilium_common::random::Generator;
use consilium_tests::harness::chaos::{Point, points};
use consilium_tests::harness::{Daemon, Draft, World, pause};
use consilium_tests::seed;

const ONE: &str = "thorax";
const TWO: &str = "retina";
/// Federations at the same time: they mostly wait for reconnects.
const WORLDS: usize = 6;
/// Of agents, this one dies.
const VICTIM: usize = 0;

/// A study that outlives so many deaths: each takes less than three rounds.
fn outliving(name: &'static str, deaths: usize) -> Draft {
    Draft::new(name, 3 * deaths as u64 + 4)
}

/// Every study is complete, whole, and exactly what the reference says.
fn assert_undisturbed(world: &World, drafts: &[Draft]) {
    for draft in drafts {
        let history = world.complete(draft.name, 120);
        history.assert_everybody_counted(draft.name, 4, draft.rounds);
        let _ = world.assert_reference(draft, &history);
    }
}

/// The fail points of an undisturbed run: of the coordinator, of an agent.
fn enumerated() -> &'static [Vec<Point>; 2] {
    static POINTS: OnceLock<[Vec<Point>; 2]> = OnceLock::new();
    POINTS.get_or_init(|| {
        let draft = Draft::new(ONE, 3);
        let mut world = World::new(&[ONE]);
        let coordinator = world.start_traced(Daemon::Coordinator);
        let agent = world.start_traced(Daemon::Agent(VICTIM));
        for site in (0..4).filter(|&site| site != VICTIM) {
            world.start(Daemon::Agent(site), &[]).unwrap();
        }
        world.run(&draft);
        assert_undisturbed(&world, &[draft]);
        // Before the federation stops and takes its files with it.
        let passed = [coordinator, agent].map(|trace| points(&trace));
        world.stop();
        passed
    })
}

/// The coordinator dies at each point in turn while studies run.
fn kill_coordinator(points: &[&Point], drafts: &[Draft]) {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.name).collect();
    let mut world = World::new(&names).started();
    drafts.iter().for_each(|draft| world.run(draft));
    for point in points {
        world.die_at(Daemon::Coordinator, &point.name);
    }
    world.start(Daemon::Coordinator, &[]).unwrap();
    assert_undisturbed(&world, drafts);
    world.stop();
}

/// One agent dies at each point in turn while studies run.
fn kill_agent(points: &[&Point], drafts: &[Draft]) {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.name).collect();
    let mut world = World::new(&names);
    world.start(Daemon::Coordinator, &[]).unwrap();
    drafts.iter().for_each(|draft| world.run(draft));
    for site in (0..4).filter(|&site| site != VICTIM) {
        world.start(Daemon::Agent(site), &[]).unwrap();
    }
    for point in points {
        if point.times == 1 {
            world.forget(VICTIM); // happens in a new agent's first minute alone
        }
        world.die_at(Daemon::Agent(VICTIM), &point.name);
    }
    world.start(Daemon::Agent(VICTIM), &[]).unwrap();
    assert_undisturbed(&world, drafts);
    world.stop();
}

/// Deals the points to federations that run at the same time, keeping their order.
fn side_by_side(points: &[&Point], kill: impl Fn(&[&Point]) + Sync) {
    thread::scope(|scope| {
        for first in 0..WORLDS {
            let dealt: Vec<&Point> = points.iter().copied().skip(first).step_by(WORLDS).collect();
            let kill = &kill;
            scope.spawn(move || kill(&dealt));
        }
    });
}

/// The coordinator's points that every round passes, and those where a study changes its state: one
/// that is complete does so no more, so each of these needs a study to itself.
fn of_rounds_and_of_states(points: &[Point]) -> (Vec<&Point>, Vec<&Point>) {
    points.iter().partition(|point| !point.name.ends_with("-study-state"))
}

/// Points that only a run with deaths passes.
fn after_a_roll_call_that_nobody_heard() -> [Point; 4] {
    let point = |name: &str| Point { name: name.to_owned(), times: 2 };
    [
        point("after:persist-roll-call"),
        point("before:send-old-roll-call"),
        point("after:persist-roll-call"),
        point("after:send-old-roll-call"),
    ]
}

#[test]
fn the_coordinator_dies_before_and_after_every_action() {
    let [coordinator, _] = enumerated();
    for action in ["persist-plan", "persist-receipt", "add", "aggregate", "persist-roll-call"] {
        for when in ["before", "after"] {
            let name = format!("{when}:{action}");
            assert!(coordinator.iter().any(|point| point.name == name), "{name} was not passed");
        }
    }
    let (round, state) = of_rounds_and_of_states(coordinator);
    assert_eq!(state.len(), 4, "{state:?}");
    side_by_side(&round, |points| kill_coordinator(points, &[outliving(ONE, points.len())]));
    side_by_side(&state, |points| {
        points.iter().for_each(|point| kill_coordinator(&[point], &[slow(ONE, 6)]));
    });
}

#[test]
fn the_coordinator_dies_between_a_roll_call_and_its_sites_hearing_of_it() {
    let points = after_a_roll_call_that_nobody_heard();
    let points: Vec<&Point> = points.iter().collect();
    kill_coordinator(&points, &[outliving(ONE, points.len())]);
}

#[test]
fn an_agent_dies_before_and_after_every_action() {
    let [_, agent] = enumerated();
    for action in ["judge-study", "fetch", "train", "encode", "push", "promote", "settle"] {
        for when in ["before", "after"] {
            let name = format!("{when}:{action}");
            assert!(agent.iter().any(|point| point.name == name), "{name} was not passed");
        }
    }
    let points: Vec<&Point> = agent.iter().collect();
    side_by_side(&points, |points| kill_agent(points, &[outliving(ONE, points.len())]));
}

#[test]
fn deaths_at_fail_points_disturb_neither_of_two_studies() {
    let [coordinator, agent] = enumerated();
    let both = |points: &[&Point]| [outliving(ONE, points.len()), outliving(TWO, points.len())];
    let (round, _) = of_rounds_and_of_states(coordinator);
    side_by_side(&round, |points| kill_coordinator(points, &both(points)));
    let agent: Vec<&Point> = agent.iter().collect();
    side_by_side(&agent, |points| kill_agent(points, &both(points)));
}

/// A study whose rounds last long enough to be struck in any of their phases.
fn slow(name: &'static str, rounds: u64) -> Draft {
    Draft { batches: 8, batch_ms: 10, ..Draft::new(name, rounds) }
}

/// Lets the studies go on by a round and a bit, then kills: ten deaths of each daemon.
fn kill_at_random_moments(drafts: &[Draft], deaths: u64, seed: u64) {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.name).collect();
    let mut generator = Generator::new("tests/kills", &seed.to_le_bytes());
    let mut world = World::new(&names).started();
    drafts.iter().for_each(|draft| world.run(draft));
    for death in 0..deaths {
        world.reaches(drafts[0].name, death, 90);
        pause(generator.below(120).into());
        let victim = match death % 2 {
            0 => Daemon::Coordinator,
            _ => Daemon::Agent(generator.below(4) as usize),
        };
        world.kill_and_restart(victim);
    }
    assert!(!world.history().is_complete(drafts[0].name), "all deaths fell into the study");
    assert_undisturbed(&world, drafts);
    world.stop();
}

#[test]
fn daemons_die_at_ten_random_moments_each() {
    let seed = seed(2_024);
    kill_at_random_moments(&[slow(ONE, 24)], 20, seed);
}

#[test]
fn daemons_of_two_studies_die_at_random_moments() {
    let seed = seed(2_025);
    kill_at_random_moments(&[slow(ONE, 12), slow(TWO, 12)], 8, seed);
}

/// Strikes the workers of one site, round after round; the daemon stays.
fn strike_workers(drafts: &[Draft], signals: &[&str], seed: u64) {
    let names: Vec<&str> = drafts.iter().map(|draft| draft.name).collect();
    let mut generator = Generator::new("tests/strikes", &seed.to_le_bytes());
    let mut world = World::new(&names).started();
    let daemon = Daemon::Agent(VICTIM);
    let pid = world.process(daemon).pid();
    drafts.iter().for_each(|draft| world.run(draft));
    for signal in signals {
        let version = world.history().version(drafts[0].name);
        world.strike_worker(VICTIM, signal, &mut generator);
        // A third death of one task would fail it.
        world.reaches(drafts[0].name, version + 1, 90);
    }
    assert!(!world.history().is_complete(drafts[0].name), "all strikes fell into the study");
    assert_undisturbed(&world, drafts);
    assert_eq!(world.process(daemon).pid(), pid);
    assert!(world.process(daemon).ended().is_none(), "the daemon has outlived its workers");
    world.stop();
}

#[test]
fn a_worker_that_dies_costs_a_retry_and_nothing_else() {
    let seed = seed(2_026);
    // ABRT is what a failed allocation ends in.
    let signals = ["KILL", "SEGV", "ABRT", "KILL", "SEGV", "ABRT", "KILL", "SEGV", "ABRT", "KILL"];
    strike_workers(&[slow(ONE, 24)], &signals, seed);
}

#[test]
fn a_worker_that_dies_disturbs_neither_of_two_studies() {
    let seed = seed(2_027);
    strike_workers(&[slow(ONE, 30), slow(TWO, 30)], &["KILL", "SEGV", "ABRT"], seed);
}
