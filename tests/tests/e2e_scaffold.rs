//! SCAFFOLD, by real processes: sites that drift apart meet at the optimum of them all, and their control
//! variates move with exactly the updates that count, whoever dies, goes or loses its disk.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fs;

use consilium_agent::worker::synthetic::{curvature, optimum};
use consilium_common::audit::{RollCall, Status};
use consilium_common::config;
use consilium_common::wire::reject::Code;
use consilium_common::worker::Source;
use consilium_coordinator::local::{Policy, SiteSpec};
use consilium_tests::harness::reference::Reference;
use consilium_tests::harness::{Daemon, Draft, History, World, wait_for, world};

const SCAFFOLD: &str = "strategy = \"scaffold\"\ncontrol_clip_norm = 40.0";

/// Many steps a round, so that every site comes near an optimum of its own.
fn drifting(name: &'static str, rounds: u64) -> Draft {
    Draft { steps: 20, local: 0, clip_norm: 64.0, ..Draft::new(name, rounds) }
}

fn corrected(name: &'static str, rounds: u64) -> Draft {
    Draft { strategy: SCAFFOLD, ..drifting(name, rounds) }
}

/// Four sites with as many records each.
fn alike(studies: &[&str]) -> World {
    let site = |index: usize| {
        let section = format!(
            "source = \"synthetic\"\nexamples = 100\n\
             part = {{ of = 4, index = {index}, split = \"iid\", seed = 1 }}\n"
        );
        let data = studies.iter().map(|study| ((*study).to_owned(), section.clone()));
        SiteSpec { name: world::name(index), data: data.collect() }
    };
    World::of((0..4).map(site).collect(), Policy::Within)
}

/// Where Σ hᵢ·(w − oᵢ), the gradient of all sites together, is zero.
fn optimum_of_all(world: &World, draft: &Draft) -> Vec<f64> {
    let len = draft.parameters as usize;
    let (mut pull, mut all) = (vec![0.0; len], vec![0.0; len]);
    for section in world.sections().values() {
        let source: Source = config::parse(section, "data").unwrap();
        let (goal, curved) = (optimum(7, &source, len), curvature(7, &source, len));
        for (at, (goal, h)) in goal.iter().zip(&curved).enumerate() {
            pull[at] += f64::from(*h) * f64::from(*goal);
            all[at] += f64::from(*h);
        }
    }
    pull.iter().zip(&all).map(|(pull, all)| pull / all).collect()
}

fn distance(have: &[f32], need: &[f64]) -> f64 {
    let squares = have.iter().zip(need).map(|(have, need)| (f64::from(*have) - need).powi(2));
    squares.sum::<f64>().sqrt()
}

/// Every version is the reference's, and c is the mean of the control variates that the sites keep.
fn assert_reference(world: &World, draft: &Draft, history: &History) -> Vec<f32> {
    let mut reference = Reference::new(draft.study(), &world.sections());
    reference.follow(&history.of(draft.name));
    let (common, mean) = reference.common_and_mean().unwrap();
    let size = mean.iter().map(|x| x * x).sum::<f64>().sqrt();
    let apart = distance(&common, &mean);
    assert!(apart < 1e-4 * (1.0 + size), "c is {apart} from the mean, which is {size} long");
    reference.vector().to_vec()
}

#[test]
fn sites_that_drift_apart_meet_at_the_optimum_of_them_all_where_fedavg_does_not() {
    let drafts = [corrected("thorax", 20), drifting("retina", 20)];
    let world = alike(&["thorax", "retina"]).started();
    drafts.iter().for_each(|draft| world.run(draft));
    let ends = drafts.each_ref().map(|draft| {
        let history = world.complete(draft.name, 180);
        history.assert_everybody_counted(draft.name, 4, draft.rounds);
        let vector = world.export(draft);
        let expected = match draft.strategy {
            "" => world.assert_reference(draft, &history),
            _ => assert_reference(&world, draft, &history),
        };
        assert_eq!(vector, expected, "{}", draft.name);
        distance(&vector, &optimum_of_all(&world, draft))
    });
    let start = optimum_of_all(&world, &drafts[0]).iter().map(|x| x * x).sum::<f64>().sqrt();
    println!("from {start}: SCAFFOLD ends {} away, FedAvg {}", ends[0], ends[1]);
    assert!(ends[1] > 0.05 * start, "the sites do not drift: {ends:?} of {start}");
    assert!(ends[0] < 0.1 * ends[1], "SCAFFOLD ends {} away, FedAvg {}", ends[0], ends[1]);
    world.stop();
}

/// Deaths at every point at which variates could be lost, moved twice or moved alone.
#[test]
fn variates_move_once_with_what_counted_whoever_dies() {
    let draft = Draft { local: 3, ..corrected("thorax", 40) };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 2, 60);
    for point in ["before:promote", "after:promote", "after:train", "after:encode", "after:settle"]
    {
        world.die_at(Daemon::Agent(0), point);
    }
    world.start(Daemon::Agent(0), &[]).unwrap();
    for point in [
        "before:aggregate",
        "after:aggregate",
        "before:persist-roll-call",
        "after:persist-roll-call",
    ] {
        world.die_at(Daemon::Coordinator, point);
    }
    world.start(Daemon::Coordinator, &[]).unwrap();
    let history = world.complete("thorax", 180);
    history.assert_everybody_counted("thorax", 4, draft.rounds);
    assert_eq!(world.export(&draft), assert_reference(&world, &draft, &history));
    world.stop();
}

#[test]
fn an_update_that_did_not_count_moves_no_variate() {
    let rule = Draft { min_sites: 3, batch_ms: 20, idle_timeout: "1s", ..corrected("thorax", 60) };
    let draft = Draft { local: 3, ..rule };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 2, 60);
    // Its update is retained and offered to nobody; the round ends without it.
    world.die_at(Daemon::Agent(3), "after:encode");
    let before = world.history().version("thorax");
    world.reaches("thorax", before + 3, 60);
    world.federation.start_agent(3).unwrap();
    let history = world.complete("thorax", 120);
    let absent = world::name(3);
    let calls = history.of("thorax");
    assert!(calls.iter().any(|call| !call.counted(&absent)), "rounds went on without it");
    assert!(calls.last().unwrap().counted(&absent), "it is taken again");
    assert!(calls.iter().all(|call| !lost(call, 3)), "and has its variate still");
    assert_eq!(world.export(&draft), assert_reference(&world, &draft, &history));
    world.stop();
}

fn lost(call: &RollCall, site: usize) -> bool {
    let entry = call.sites.get(&world::name(site));
    entry.is_some_and(|entry| entry.status == Status::Excluded { code: Code::ControlLost })
}

#[test]
fn a_site_that_has_lost_its_variate_says_so_once_and_all_begin_anew() {
    let draft = Draft { min_sites: 3, batch_ms: 20, ..corrected("thorax", 40) };
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.reaches("thorax", 3, 60);
    world.kill(Daemon::Agent(1));
    let state = world.federation.site_folder(1).join("state");
    fs::remove_file(state.join("local/thorax.local")).unwrap();
    // The next one may lie in an update whose roll call it has not heard yet.
    for update in fs::read_dir(state.join("retained")).unwrap() {
        fs::remove_file(update.unwrap().path()).unwrap();
    }
    world.federation.start_agent(1).unwrap();
    wait_for("the site to say what it has lost", 60, || {
        let history = world.history();
        history.of("thorax").iter().any(|call| lost(call, 1)).then_some(())
    });
    let history = world.complete("thorax", 120);
    let calls = history.of("thorax");
    assert_eq!(calls.iter().filter(|call| lost(call, 1)).count(), 1);
    assert!(calls.last().unwrap().counted(&world::name(1)), "it takes part again");
    assert_eq!(world.export(&draft), assert_reference(&world, &draft, &history));
    world.stop();
}
