//! Updates that are late, duplicate, replayed, equivocating, malformed, or not asked for.

use consilium_common::audit::{Record, Status as Counted};
use consilium_common::ids::{Digest, Round};
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;

use super::super::status::PhaseName;
use super::super::*;
use super::world::{World, site};

/// Three sites in Training.
fn training() -> World {
    let mut world = World::new(&["a", "b", "c"]);
    world.engine.handle_site_ready(&site("a"), world.now);
    world.engine.handle_site_ready(&site("b"), world.now);
    world.hold.insert("persist-plan");
    // The rule was met at two: all three are in from the second round on.
    world.release();
    world.accepts(&["a", "b"]);
    world.ready(&["c"]);
    world.delivers(&["a", "b"]);
    world.accepts(&["a", "b", "c"]);
    assert_eq!((world.phase(), world.plan().round), (PhaseName::Training, Round(2)));
    world
}

fn refusals_in_log(world: &World) -> Vec<(String, String)> {
    let records = world.log.iter().filter_map(|record| match record {
        Record::Refusal(refusal) => Some((refusal.peer.clone(), refusal.code.clone())),
        _ => None,
    });
    records.collect()
}

fn excluded(world: &World, name: &str) -> Code {
    let roll_call = world.roll_calls().pop().unwrap();
    match roll_call.sites[&site(name)].status {
        Counted::Excluded { code } => code,
        counted @ Counted::Counted { .. } => panic!("{name}: {counted:?}"),
    }
}

#[test]
fn a_duplicate_offer_gets_the_receipt_again_and_counts_once() {
    let mut world = training();
    let plan = world.plan();
    world.delivers(&["a"]);
    let update = world.make_update("a", &plan);
    let receipts = world.was_sent("a", "Receipt");
    world.offers("a", plan.round, update);
    world.offers("a", plan.round, update);
    assert_eq!(world.was_sent("a", "Receipt"), receipts + 2);
    assert_eq!(world.pushes("a", plan.round, update), Err(Code::Unexpected));
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
}

#[test]
fn a_second_offer_while_the_first_is_worked_on_changes_nothing() {
    let mut world = training();
    let plan = world.plan();
    for held in ["look", "verify", "add", "persist-receipt"] {
        world.hold.insert(held);
    }
    let update = world.make_update("a", &plan);
    world.staged.insert(update, world.made[&update].clone());
    for held in ["look", "verify", "add"] {
        world.offers("a", plan.round, update);
        world.offers("a", plan.round, update);
        let hold = std::mem::take(&mut world.hold);
        world.release();
        world.hold = hold;
        world.hold.remove(held);
    }
    world.delivers(&["b", "c"]);
    world.release();
    assert_eq!(world.commits().len(), 2);
}

#[test]
fn the_first_accepted_update_binds_and_another_is_equivocation() {
    let mut world = training();
    let plan = world.plan();
    let first = world.make_update("a", &plan);
    world.delivers(&["a"]);
    let second = world.make_with("a", &plan, |_, units, _| units[0] ^= 1);
    for _ in 0..100 {
        world.offers("a", plan.round, second);
    }
    assert_eq!(world.refusals("a"), [Code::Equivocation; 100]);
    assert_eq!(world.pushes("a", plan.round, second), Err(Code::Equivocation));
    let once = ("a".to_owned(), "equivocation".to_owned());
    assert_eq!(refusals_in_log(&world), [once], "a flood of offers is one record");
    world.delivers(&["b", "c"]);
    world.commits();
    let roll_call = world.roll_calls().pop().unwrap();
    assert_eq!(roll_call.sites[&site("a")].update, Some(first));
    assert!(roll_call.counted(&site("a")));
}

#[test]
fn an_update_that_is_not_accepted_yet_may_be_replaced() {
    let mut world = training();
    let plan = world.plan();
    let lost = world.make_with("a", &plan, |_, units, _| units[0] ^= 1);
    world.offers("a", plan.round, lost);
    world.delivers(&["a", "b", "c"]);
    assert_eq!(world.commits().len(), 2);
    assert!(world.refusals("a").is_empty());
}

#[test]
fn an_update_of_an_older_round_is_answered_with_its_roll_call() {
    let mut world = training();
    let old = world.roll_calls()[0].sites[&site("a")].update.unwrap();
    let told = world.was_sent("a", "RollCall");
    world.offers("a", Round(1), old);
    assert_eq!(world.was_sent("a", "RollCall"), told + 1);
    assert_eq!(world.performed.last(), Some(&"send-old-roll-call"));
    assert_eq!(world.pushes("a", Round(1), old), Err(Code::WrongRound));
}

#[test]
fn an_update_of_a_round_to_come_is_refused() {
    let mut world = training();
    let update = world.make_update("a", &world.plan());
    world.offers("a", Round(9), update);
    assert_eq!(world.refusals("a"), [Code::WrongRound]);
}

#[test]
fn a_replayed_update_excludes_its_site_and_the_round_goes_on() {
    let mut world = training();
    let old = world.roll_calls()[0].sites[&site("a")].update.unwrap();
    // The bytes of round 1, offered as those of round 2.
    world.offers("a", Round(2), old);
    world.pushes("a", Round(2), old).unwrap();
    assert_eq!(world.refusals("a"), [Code::WrongRound]);
    assert_eq!(world.state_of("a"), "refused");
    let honest = world.make_update("a", &world.plan());
    world.offers("a", Round(2), honest);
    assert_eq!(world.refusals("a"), [Code::WrongRound; 2], "out for the round");
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
    let roll_calls = world.roll_calls();
    assert_eq!(roll_calls[1].sites[&site("a")].update, None);
    assert_eq!(excluded(&world, "a"), Code::WrongRound);
    assert_eq!(refusals_in_log(&world), [("a".to_owned(), "wrong-round".to_owned())]);
    world.accepts(&["a", "b", "c"]);
    assert_eq!(world.state_of("a"), "working", "it takes part in the next round");
    assert_eq!(world.struck, [(site("a"), Code::WrongRound)]);
}

#[test]
fn whoever_offers_one_update_after_the_other_is_put_out_before_they_fill_the_stage() {
    let mut world = training();
    let plan = world.plan();
    let honest = world.make_update("a", &plan);
    let need = world.made[&honest].len() as u64;
    for n in 0..5 {
        world.offers_sized("a", plan.round, Digest([n; 32]), need);
    }
    assert_eq!(world.was_sent("a", "UpdateWanted"), 1 + 3, "that of round 1, and three");
    assert_eq!(world.refusals("a"), [Code::Flood; 2]);
    assert_eq!(world.struck, [(site("a"), Code::Flood)], "once");
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
    assert_eq!(excluded(&world, "a"), Code::Flood);
}

#[test]
fn a_site_in_quarantine_is_not_waited_for() {
    let mut world = training();
    world.delivers(&["b", "c"]);
    assert_eq!(world.status().waiting_for, ["a: its update"]);
    world.engine.handle_site_quarantined(&site("a"), world.now);
    world.settle();
    assert_eq!(world.commits().len(), 2);
    assert_eq!(excluded(&world, "a"), Code::Quarantined);
}

#[test]
fn what_was_accepted_before_the_quarantine_counts() {
    let mut world = training();
    world.hold.insert("persist-receipt");
    world.delivers(&["a"]);
    assert_eq!(world.state_of("a"), "adding");
    world.engine.handle_site_quarantined(&site("a"), world.now);
    world.release();
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
    assert!(world.roll_calls()[1].counted(&site("a")));
}

#[test]
fn a_verdict_that_comes_after_the_quarantine_changes_nothing() {
    let mut world = training();
    world.hold.insert("verify");
    let update = world.make_update("a", &world.plan());
    world.offers("a", Round(2), update);
    world.pushes("a", Round(2), update).unwrap();
    world.engine.handle_site_quarantined(&site("a"), world.now);
    world.release();
    assert_eq!(world.state_of("a"), "refused");
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
}

#[test]
fn an_update_of_another_size_is_refused_before_a_byte_moves() {
    let mut world = training();
    let plan = world.plan();
    let long = world.make_with("a", &plan, |header, units, _| {
        units.push(1);
        header.shared_len += 1;
    });
    assert_eq!(world.pushes("a", plan.round, long), Err(Code::TooLarge));
    world.offers("a", plan.round, long);
    world.offers("b", plan.round, Digest([1; 32]));
    assert_eq!(world.refusals("a"), [Code::TooLarge]);
    assert_eq!(world.refusals("b"), [Code::WrongShape]);
    assert_eq!(world.was_sent("a", "UpdateWanted"), 1, "that of round 1");
    assert_eq!(world.pushes("a", plan.round, long), Err(Code::TooLarge));
}

#[test]
fn a_site_that_was_not_invited_is_told_so() {
    let mut world = World::new(&["a", "b", "c"]);
    world.ready(&["a", "b", "c"]);
    world.accepts(&["a", "b"]);
    let plan = world.plan();
    let update = world.make_update("c", &plan);
    world.offers("c", plan.round, update);
    assert_eq!(world.refusals("c"), [Code::NotInvited]);
    assert_eq!(world.pushes("c", plan.round, update), Err(Code::NotInvited));
    world.delivers(&["a", "b"]);
    assert!(!world.roll_calls()[0].sites.contains_key(&site("c")));
    assert!(world.plan().round == Round(2) && world.was_sent("c", "Plan") == 1);
}

/// The log came back from a copy and gave the round's number again, without this site.
#[test]
fn a_site_that_was_not_invited_is_told_so_while_the_round_closes() {
    let mut world = World::new(&["a", "b", "c"]);
    world.ready(&["a", "b", "c"]);
    world.accepts(&["a", "b"]);
    let plan = world.plan();
    let update = world.make_update("c", &plan);
    world.hold.insert("persist-roll-call");
    world.delivers(&["a", "b"]);
    assert_eq!(world.phase(), PhaseName::Closing);
    world.offers("c", plan.round, update);
    assert_eq!(world.refusals("c"), [Code::NotInvited]);
}

#[test]
fn sites_outside_of_the_roster_are_not_heard() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b", "stranger"]);
    world.accepts(&["stranger"]);
    world.offers("stranger", world.plan().round, Digest([1; 32]));
    world.declines("stranger", Code::Busy, None);
    assert!(world.sent.iter().all(|(to, _)| *to != site("stranger")));
    assert_eq!(world.status().sites.len(), 2);
}

#[test]
fn an_offer_and_progress_mean_yes() {
    let mut world = World::new(&["a", "b"]);
    world.ready(&["a", "b"]);
    world.progresses("a");
    assert_eq!((world.state_of("a").as_str(), world.phase()), ("working", PhaseName::Inviting));
    let update = world.make_update("b", &world.plan());
    world.offers("b", Round(1), update);
    assert_eq!((world.state_of("b").as_str(), world.phase()), ("uploading", PhaseName::Training));
    let status = world.status();
    assert_eq!((status.sites[0].done, status.sites[0].total), (3, 10));
    assert_eq!(status.waiting_for, ["a: its update", "b: the upload of its update"]);
}

#[test]
fn words_of_other_rounds_change_nothing() {
    let mut world = training();
    let study = world.plan().study;
    let failed = |round| consilium_common::wire::messages::TaskFailed {
        study: study.clone(),
        round,
        code: Code::Diverged,
    };
    for round in [0, 1, 3] {
        world.says("a", SiteMessage::TaskFailed(failed(Round(round))));
    }
    assert_eq!(world.state_of("a"), "working");
    world.says("a", SiteMessage::TaskFailed(failed(Round(2))));
    assert_eq!(world.state_of("a"), "failed");
}

#[test]
fn what_is_none_of_a_rounds_messages_comes_back() {
    use consilium_common::wire::messages::Heartbeat;
    let heartbeat = Message::Heartbeat(Heartbeat { wall: consilium_common::time::WallMillis(7) });
    assert_eq!(SiteMessage::from_message(heartbeat.clone()), Err(heartbeat));
}

#[test]
fn weights_that_would_overflow_the_sum_are_refused_when_added_up() {
    let mut world = training();
    let plan = world.plan();
    // The driver's verdict is not what the engine counts on: three sites of 2^31 each.
    world.hold.insert("verify");
    for name in ["a", "b", "c"] {
        let update = world.make_update(name, &plan);
        world.offers(name, plan.round, update);
        world.pushes(name, plan.round, update).unwrap();
    }
    world.rewrite_held(|done| {
        if let Done::Verified(Ok(words)) = done {
            words.weight = 1 << 31;
        }
    });
    world.broken = "add";
    world.release();
    let refused: Vec<Code> = ["a", "b", "c"].iter().flat_map(|name| world.refusals(name)).collect();
    assert_eq!(refused, [Code::WeightOutOfRange; 2]);
    assert!(world.struck.is_empty(), "each of them alone was right");
}

#[test]
fn the_verdict_on_an_update_that_was_replaced_is_passed_over() {
    let mut world = training();
    let plan = world.plan();
    world.hold.insert("verify");
    let lost = world.make_with("a", &plan, |_, units, _| units[0] ^= 1);
    let kept = world.make_update("a", &plan);
    for update in [lost, kept] {
        world.offers("a", plan.round, update);
        world.pushes("a", plan.round, update).unwrap();
    }
    world.rewrite_held(|done| {
        assert!(matches!(done, Done::Verified(Ok(_))));
    });
    // The older verdict comes first.
    world.turn_held();
    world.release();
    world.delivers(&["b", "c"]);
    assert_eq!(world.commits().len(), 2);
    assert_eq!(world.roll_calls()[1].sites[&site("a")].update, Some(kept));
}

#[test]
fn bytes_staged_for_another_round_are_not_looked_at() {
    let mut world = training();
    let plan = world.plan();
    let update = world.make_update("a", &plan);
    world.offers("a", plan.round, update);
    for round in [Round(1), Round(3)] {
        world.engine.handle_staged(&site("a"), round, update, world.now);
        world.settle();
    }
    assert_eq!(world.state_of("a"), "uploading");
    world.engine.handle_staged(&site("b"), plan.round, update, world.now);
    assert_eq!(world.state_of("b"), "working", "nor those of another site");
}
