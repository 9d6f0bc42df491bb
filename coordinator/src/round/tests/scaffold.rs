//! SCAFFOLD: whose control variate is part of c, what each site is told of its own, and what happens
//! when a site has lost it.

use consilium_common::audit::{Outcome, Status};
use consilium_common::ids::Round;
use consilium_common::wire::messages::{ControlPlan, Message, Plan};
use consilium_common::wire::reject::Code;

use super::super::Command;
use super::world::{World, site};

fn corrected(toml: &str) -> String {
    let rounds = "rounds = 9\noptimizer = \"sgd\"";
    toml.replace("parameters = 5", "parameters = 5\nsteps = 3")
        .replace("rounds = 2", rounds)
        .replace("min_sites = 2", "min_sites = 1")
        .replace(
            "clip_norm = 10.0",
            "clip_norm = 10.0\nstrategy = \"scaffold\"\ncontrol_clip_norm = 4.0",
        )
}

/// A study in whose first round both sites take part, though one is enough.
fn both_ready(change: impl Fn(&str) -> String) -> World {
    let mut world = World::submitted(&["a", "b"], change);
    world.ready(&["a", "b"]);
    world.command(Command::Start).unwrap();
    world.settle();
    world
}

impl World {
    /// What the site was told last of its own variate, and whether there was a c.
    fn told(&self, name: &str) -> (Option<Round>, bool) {
        let plans = self.sent.iter().rev().filter(|(to, _)| *to == site(name));
        let control: Option<ControlPlan> =
            plans.into_iter().find_map(|(_, message)| match message {
                Message::Plan(plan) => Some(plan.control.unwrap()),
                _ => None,
            });
        let control = control.unwrap();
        (control.own, control.common.is_some())
    }

    /// A round in which these deliver, and the others fail with that code.
    fn round(&mut self, deliver: &[&str], fail: &[(&str, Code)]) -> Plan {
        let plan = self.plan();
        let all: Vec<&str> =
            deliver.iter().chain(fail.iter().map(|(name, _)| name)).copied().collect();
        self.accepts(&all);
        for (name, code) in fail {
            self.fails(name, *code);
        }
        self.delivers(deliver);
        plan
    }
}

#[test]
fn every_site_is_told_from_which_round_its_variate_in_c_is() {
    let mut world = World::with(&["a", "b"], corrected);
    world.ready(&["a"]);
    assert_eq!(world.told("a"), (None, false), "c and every variate start at zero");
    world.ready(&["b"]);
    world.round(&["a"], &[]);
    assert_eq!((world.told("a"), world.told("b")), ((Some(Round(1)), true), (None, true)));
    world.round(&["a", "b"], &[]);
    world.round(&["b"], &[("a", Code::WorkerFailed)]);
    let second = Some(Round(2));
    assert_eq!((world.told("a"), world.told("b")), ((second, true), (Some(Round(3)), true)));
    // Every sum, model and c is the reference's, with one member, then two.
    assert_eq!(world.commits().len(), 3);
}

#[test]
fn a_coordinator_that_starts_again_says_the_same_and_goes_on_from_the_same_c() {
    let mut world = both_ready(corrected);
    world.round(&["a", "b"], &[]);
    let before = world.plan();
    world.crash(false);
    world.ready(&["a", "b"]);
    let after = world.plan();
    assert_eq!((after.round, after.control), (before.round, before.control));
    assert_eq!(after.control.unwrap().own, Some(Round(1)));
    world.round(&["a", "b"], &[]);
    assert_eq!(world.commits().len(), 2);
}

#[test]
fn a_round_that_is_abandoned_moves_no_variate() {
    let mut world = both_ready(corrected);
    world.round(&["a", "b"], &[]);
    world.round(&[], &[("a", Code::WorkerFailed), ("b", Code::WorkerFailed)]);
    world.wait(20_000);
    assert!(world.plan().round > Round(2));
    assert_eq!((world.told("a"), world.commits().len()), ((Some(Round(1)), true), 1));
}

#[test]
fn a_site_that_has_lost_its_variate_is_left_out_and_c_begins_anew() {
    let mut world = both_ready(corrected);
    world.round(&["a", "b"], &[]);
    world.round(&["b"], &[("a", Code::ControlLost)]);
    let call = world.roll_calls().pop().unwrap();
    assert!(matches!(call.outcome, Outcome::Committed { .. }), "the round counts");
    let lost = Status::Excluded { code: Code::ControlLost };
    assert_eq!(call.sites[&site("a")].status, lost);
    let zero = (None, false);
    assert_eq!(
        (world.told("a"), world.told("b")),
        (zero, zero),
        "nobody keeps what nobody can use"
    );
    world.crash(false);
    world.ready(&["a", "b"]);
    assert_eq!((world.told("a"), world.told("b")), (zero, zero), "the log says it too");
    world.round(&["a", "b"], &[]);
    assert_eq!(world.told("a"), (Some(Round(3)), true));
    assert_eq!(world.commits().len(), 3);
}

#[test]
fn a_site_that_is_no_part_of_c_has_nothing_to_lose() {
    let mut world = both_ready(corrected);
    world.round(&["b"], &[("a", Code::ControlLost)]);
    assert_eq!((world.told("a"), world.told("b")), ((None, true), (Some(Round(1)), true)));
}

#[test]
fn other_strategies_have_nothing_to_correct_and_lose_nothing() {
    let mut world = both_ready(|toml| {
        toml.replace("min_sites = 2", "min_sites = 1")
            .replace("rounds = 2", "rounds = 9")
            .replace("clip_norm = 10.0", "clip_norm = 10.0\nstrategy = \"fedavgm\"")
    });
    world.round(&["a", "b"], &[]);
    assert_eq!(world.plan().control, None);
    world.round(&["b"], &[("a", Code::ControlLost)]);
    world.round(&["a", "b"], &[]);
    assert_eq!(world.commits().len(), 3, "each state follows from the one before");
}
