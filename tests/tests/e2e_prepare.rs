//! What the sites of a study count together before its first round trains, with real processes: the
//! preparation is the sum that is computed apart, travels to every site once, and no death of a
//! process changes a bit of it.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a panic is a failed test"
)]

use consilium_common::audit::{Outcome, Status};
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::study::Preparation;
use consilium_common::study::preparation::preparation_bytes_len;
use consilium_common::update::sections::HEADER_BYTES;
use consilium_common::wire::messages::TaskKind;
use consilium_io::disk::Blobs;
use consilium_tests::harness::reference::Reference;
use consilium_tests::harness::{Daemon, Draft, History, World, wait_for};

const NAME: &str = "thorax";
const SUMS: u32 = 1_000;
/// Of agents, this one dies.
const VICTIM: usize = 0;

fn draft() -> Draft {
    Draft { prepare: SUMS, ..Draft::new(NAME, 2) }
}

/// Everybody counted in every round, and the preparation is what they counted.
fn assert_prepared(world: &World, draft: &Draft, history: &History) -> Preparation {
    history.assert_everybody_counted(draft.name, 4, draft.rounds);
    let calls = history.of(draft.name);
    let Outcome::Prepared { preparation, .. } = calls[0].outcome else {
        panic!("{:#?}", calls[0]);
    };
    let mut reference = Reference::new(draft.study(), &world.sections());
    reference.follow(&calls);
    let blobs = Blobs::open(&world.federation.coordinator_state().join("blobs")).unwrap();
    let bytes = blobs.read_verified(preparation, CHUNK_BYTES as u64).unwrap();
    let made = Preparation::read(&bytes, &draft.study()).unwrap();
    assert_eq!(Some(&made), reference.preparation.as_ref(), "the sums computed apart");
    made
}

#[test]
fn four_sites_count_once_and_train_with_what_they_counted() {
    let draft = draft();
    let world = World::new(&[NAME]).started();
    world.run(&draft);
    let history = world.complete(NAME, 60);
    let made = assert_prepared(&world, &draft, &history);
    assert_eq!((made.sites, made.sums.len()), (4, SUMS as usize));
    assert!(made.sums.iter().any(|sum| *sum != 0));

    let calls = history.of(NAME);
    let words_bytes = 4 * (2 + 4 * 2);
    let update_bytes = HEADER_BYTES as u64 + 4 * u64::from(SUMS) + words_bytes;
    assert_eq!((calls[0].bytes_up, calls[0].bytes_down), (4 * update_bytes, 0), "no base is sent");
    assert!(calls[0].metrics.is_empty(), "nothing is measured");
    let counted = Status::Counted { weight: Some(1) };
    assert!(calls[0].sites.values().all(|entry| entry.status == counted));
    let model_bytes = 49 + 4 * u64::from(draft.parameters);
    let preparation_bytes = preparation_bytes_len(SUMS as usize);
    let down: Vec<u64> = calls.iter().map(|call| call.bytes_down / 4).collect();
    let once = "the preparation goes to each site once";
    assert_eq!(down[1..], [model_bytes + preparation_bytes, model_bytes, model_bytes], "{once}");

    let study = &world.status().studies[0];
    assert_eq!((study.rounds[0].task, &*study.rounds[0].outcome), (TaskKind::Prepare, "prepared"));
    assert_eq!((study.rounds.len(), study.versions.len()), (4, 3));
    world.stop();
}

#[test]
fn the_coordinator_dies_at_every_step_of_the_preparation() {
    // Three seconds: the first death comes before anybody has counted.
    let draft = Draft { batches: 100, batch_ms: 30, ..draft() };
    let mut world = World::new(&[NAME]).started();
    world.run(&draft);
    for step in ["add", "persist-receipt", "prepare", "persist-roll-call"] {
        for when in ["before", "after"] {
            world.die_at(Daemon::Coordinator, &format!("{when}:{step}"));
        }
        let ended = world.history().of(NAME).len();
        assert!(ended <= usize::from(step == "persist-roll-call"), "it died in the first round");
    }
    world.start(Daemon::Coordinator, &[]).unwrap();
    let history = world.complete(NAME, 120);
    let _ = assert_prepared(&world, &draft, &history);
    world.stop();
}

#[test]
fn an_agent_dies_at_every_step_of_the_preparation_and_before_it_has_fetched_it() {
    let draft = draft();
    let mut world = World::new(&[NAME]);
    world.start(Daemon::Coordinator, &[]).unwrap();
    world.run(&draft);
    for site in (0..4).filter(|&site| site != VICTIM) {
        world.start(Daemon::Agent(site), &[]).unwrap();
    }
    for step in ["train", "encode", "push", "settle", "fetch"] {
        for when in ["before", "after"] {
            world.die_at(Daemon::Agent(VICTIM), &format!("{when}:{step}"));
        }
    }
    world.start(Daemon::Agent(VICTIM), &[]).unwrap();
    let history = world.complete(NAME, 120);
    let _ = assert_prepared(&world, &draft, &history);
    world.stop();
}

#[test]
fn a_killed_coordinator_and_a_killed_agent_in_the_middle_of_counting_change_no_bit() {
    let draft = Draft { batches: 60, batch_ms: 20, ..draft() };
    let mut world = World::new(&[NAME]).started();
    world.run(&draft);
    let status = wait_for("sites that count", 60, || {
        let study = world.status().studies.remove(0);
        let counts = |site: &consilium_coordinator::document::SiteStatus| {
            site.phase.as_deref() == Some("loading") && site.done > 0
        };
        study.sites.iter().any(counts).then_some(study)
    });
    assert_eq!(status.task, Some(TaskKind::Prepare));
    let says = "the preparation: no round trains before the sites have counted";
    assert_eq!(status.waiting_for[0], says);
    world.kill_and_restart(Daemon::Coordinator);
    world.kill_and_restart(Daemon::Agent(VICTIM));
    let history = world.complete(NAME, 120);
    let _ = assert_prepared(&world, &draft, &history);
    world.stop();
}
