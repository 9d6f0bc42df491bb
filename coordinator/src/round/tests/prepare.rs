//! What the sites count together before the first round trains.

use consilium_common::audit::{Outcome, Record, Status as Counted};
use consilium_common::ids::{Round, Version};
use consilium_common::limits::GRID_MAX;
use consilium_common::study::preparation::preparation_bytes_len;
use consilium_common::update::sections::Header;
use consilium_common::update::words::Words;
use consilium_common::wire::messages::{NamedBlob, TaskKind};
use consilium_common::wire::reject::Code;

use super::super::*;
use super::world::{World, open, site};

fn prepares(toml: &str) -> String {
    toml.replace("parameters = 5", "parameters = 5\nprepare = 7")
}

/// All three were asked to count.
fn world() -> World {
    let mut world = World::submitted(&["a", "b", "c"], prepares);
    world.ready(&["a", "b", "c"]);
    world.command(Command::Start).unwrap();
    world.settle();
    world
}

fn run_round(world: &mut World, names: &[&str]) {
    world.accepts(names);
    world.delivers(names);
}

#[test]
fn sites_count_once_before_the_first_round_and_every_later_plan_names_the_sums() {
    let mut world = world();
    let plan = world.plan();
    assert_eq!((plan.task, plan.round, plan.preparation), (TaskKind::Prepare, Round(1), None));
    run_round(&mut world, &["a", "b", "c"]);
    let first = world.roll_calls().remove(0);
    let Outcome::Prepared { preparation, .. } = first.outcome else {
        panic!("{first:?}");
    };
    assert!(first.sites.values().all(|e| e.status == Counted::Counted { weight: Some(1) }));
    assert_eq!(world.engine.head().version, Version(0), "no version comes of it");
    assert_eq!(world.engine.head().preparation, Some(preparation));
    let blob = NamedBlob { digest: preparation, bytes: preparation_bytes_len(7) };
    for (round, task) in [(2, TaskKind::Train), (3, TaskKind::Train), (4, TaskKind::Evaluate)] {
        let plan = world.plan();
        assert_eq!((plan.round, plan.task), (Round(round), task));
        assert_eq!(plan.preparation, Some(blob));
        run_round(&mut world, &["a", "b", "c"]);
    }
    let [made] = &world.prepared()[..] else {
        panic!("prepared once");
    };
    assert_eq!((made.sites, made.sums.len()), (3, 7));
    assert_eq!(world.commits().len(), 2);
}

#[test]
fn a_preparation_is_told_only_when_its_roll_call_is_durable() {
    let mut world = world();
    world.hold.insert("persist-roll-call");
    run_round(&mut world, &["a", "b", "c"]);
    assert_eq!(world.engine.head().preparation, None);
    assert_eq!((world.was_sent("a", "RollCall"), world.was_sent("a", "Plan")), (0, 1));
    world.release();
    assert!(world.engine.head().preparation.is_some());
    assert_eq!((world.was_sent("a", "RollCall"), world.was_sent("a", "Plan")), (1, 2));
}

#[test]
fn what_is_no_count_is_refused_and_the_others_count() {
    type Change = fn(&mut Header, &mut Vec<i32>, &mut Words);
    let wrong: [(Code, Change); 7] = [
        (Code::WeightOutOfRange, |_, _, words| words.weight = 2),
        (Code::WeightOutOfRange, |_, _, words| words.weight = 0),
        (Code::BadMetrics, |_, _, words| words.clipped = 1),
        (Code::BadMetrics, |_, _, words| words.metrics.0 = vec![1, 0]),
        (Code::OutOfGrid, |_, units, _| units[6] = GRID_MAX + 1),
        (Code::OutOfGrid, |_, units, _| units[0] = i32::MIN),
        (Code::WrongShape, |header, _, _| header.step_exponent = -26),
    ];
    for (code, change) in wrong {
        let mut world = world();
        world.accepts(&["a", "b", "c"]);
        let plan = world.plan();
        let bad = world.make_with("c", &plan, change);
        world.offers("c", plan.round, bad);
        world.pushes("c", plan.round, bad).unwrap();
        assert_eq!(world.refusals("c"), [code]);
        world.delivers(&["a", "b"]);
        let [made] = &world.prepared()[..] else {
            panic!("the round went on");
        };
        assert_eq!(made.sites, 2);
        let excluded = Counted::Excluded { code };
        assert_eq!(world.roll_calls()[0].sites[&site("c")].status, excluded);
    }
}

#[test]
fn counts_at_their_bounds_have_no_norm_to_break_and_equal_ones_each_count() {
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    let plan = world.plan();
    for name in ["a", "b", "c"] {
        let update = world.make_with(name, &plan, |_, units, _| units.fill(GRID_MAX));
        world.offers(name, plan.round, update);
        // The same bytes have the same name: they are here once the first has pushed them.
        if name == "a" {
            world.pushes(name, plan.round, update).unwrap();
        }
    }
    assert_eq!(world.prepared()[0].sums, vec![3 * i64::from(GRID_MAX); 7]);
}

#[test]
fn counts_of_too_few_sites_are_no_preparation_and_it_is_tried_again() {
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    world.delivers(&["a"]);
    world.fails("b", Code::WorkerFailed);
    world.fails("c", Code::WorkerFailed);
    let abandoned = world.roll_calls().pop().unwrap();
    let reason = "1 of at least 2 sites delivered".to_owned();
    assert_eq!(abandoned.outcome, Outcome::Abandoned { reason });
    assert_eq!(world.engine.head().preparation, None);
    world.wait(999);
    assert_eq!(world.plan().round, Round(1), "a wait, as after every abandoned round");
    world.wait(1);
    assert_eq!((world.plan().round, world.plan().task), (Round(2), TaskKind::Prepare));
    run_round(&mut world, &["a", "b", "c"]);
    assert_eq!((world.prepared().len(), world.plan().task), (1, TaskKind::Train));
}

#[test]
fn a_late_site_does_not_count_and_an_old_offer_is_answered_with_the_roll_call() {
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    let plan = world.plan();
    world.delivers(&["a", "b"]);
    let late = world.make_update("c", &plan);
    for _ in 0..8 {
        world.wait(8_000);
        world.progresses("c");
    }
    let ended = world.roll_calls().remove(0);
    assert!(matches!(ended.outcome, Outcome::Prepared { .. }), "{ended:?}");
    assert_eq!(ended.sites[&site("c")].status, Counted::Excluded { code: Code::Late });
    assert_eq!(world.prepared()[0].sites, 2);
    let told = world.was_sent("c", "RollCall");
    world.offers("c", Round(1), late);
    assert_eq!(world.was_sent("c", "RollCall"), told + 1);
}

#[test]
fn a_site_that_offers_twice_counts_once_and_other_bytes_are_equivocation() {
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    let plan = world.plan();
    world.delivers(&["a"]);
    let same = world.make_update("a", &plan);
    world.offers("a", plan.round, same);
    assert_eq!(world.was_sent("a", "Receipt"), 2);
    let other = world.make_with("a", &plan, |_, units, _| units[0] = 5);
    world.offers("a", plan.round, other);
    assert_eq!(world.refusals("a"), [Code::Equivocation]);
    world.delivers(&["b", "c"]);
    assert_eq!(world.prepared()[0].sites, 3);
}

#[test]
fn a_death_in_the_middle_goes_on_with_the_same_counts() {
    let mut undisturbed = world();
    run_round(&mut undisturbed, &["a", "b", "c"]);
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    world.delivers(&["a", "b"]);
    world.crash(false);
    world.ready(&["a", "b", "c"]);
    assert_eq!(world.plan().task, TaskKind::Prepare);
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.prepared(), undisturbed.prepared());
    // After the roll call: the next start names it.
    world.crash(false);
    assert_eq!(world.engine.head(), undisturbed.engine.head());
}

#[test]
fn sums_that_cannot_be_kept_abandon_the_round() {
    let mut world = world();
    world.broken = "prepare";
    run_round(&mut world, &["a", "b", "c"]);
    let abandoned = world.roll_calls().pop().unwrap();
    let Outcome::Abandoned { reason } = &abandoned.outcome else {
        panic!("{abandoned:?}");
    };
    assert!(reason.contains("disk full"), "{reason}");
    world.broken = "";
    world.wait(1_000);
    run_round(&mut world, &["a", "b", "c"]);
    assert_eq!(world.prepared().len(), 1);
}

#[test]
fn status_says_that_the_preparation_is_waited_for() {
    let says = "the preparation: no round trains before the sites have counted";
    let status = World::with(&["a", "b", "c"], prepares).status();
    assert_eq!((status.task, status.waiting_for[0].as_str()), (TaskKind::Prepare, says));
    assert_eq!(status.waiting_for[1], "0 of at least 2 sites ready");
    let mut world = world();
    world.accepts(&["a", "b", "c"]);
    assert_eq!(world.status().waiting_for[..2], [says, "a: its update"]);
    world.hold.insert("prepare");
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.status().waiting_for, [says, "the counts to be added up"]);
    world.release();
    assert_eq!(world.status().waiting_for[0], "a: its answer to the plan");
}

#[test]
fn the_next_version_of_a_study_keeps_what_it_would_count_the_same() {
    let mut world = world();
    run_round(&mut world, &["a", "b", "c"]);
    world.command(Command::Stop).unwrap();
    world.settle();
    let kept = world.engine.head().preparation;
    for (change, expected) in [("clip_norm = 9.0", kept), ("clip_norm = 10.0\n#", None)] {
        let mut log = world.log.clone();
        let next = World::submitted(&[], |toml| {
            let next = prepares(toml).replace("seed = 7", "seed = 7\nversion = 2");
            let next = next.replace("clip_norm = 10.0", change);
            // The second one counts more.
            if expected.is_none() { next.replace("prepare = 7", "prepare = 8") } else { next }
        });
        log.extend(next.log.into_iter().take(1));
        assert!(matches!(log.last(), Some(Record::StudySubmitted(_))));
        let engine = open(&log, &world.roster, world.now);
        assert_eq!(engine.head().preparation, expected);
    }
}
