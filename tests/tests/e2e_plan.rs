//! `study plan` between real programs: hours that sites publish, change and take back, and a consortium whose
//! hospitals are never open together.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::process::Command;

use consilium_coordinator::document::PlanDocument;
use consilium_coordinator::local::Policy;
use consilium_tests::harness::{Daemon, Draft, Said, World, wait_for};

const ONE: &str = "thorax";

/// Writes rules into the `[policy]` of a site in place of those before, and has it read again if it runs.
fn rules(world: &mut World, site: usize, (before, after): (&str, &str)) {
    let edit = |text: &str| {
        text.replacen(&format!("[policy]\n{before}"), &format!("[policy]\n{after}"), 1)
    };
    world.edit(&world.agent_toml(site), edit);
    let pid = world.process(Daemon::Agent(site)).pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

fn plan(world: &World) -> Said {
    world.operator(&["study", "plan", ONE, "--days", "3"])
}

/// What each site publishes, in the order of names.
fn published(world: &World) -> Vec<Option<String>> {
    let said = world.operator(&["study", "plan", ONE, "--json"]);
    let document: PlanDocument = serde_json::from_str(&said.out).unwrap();
    document.sites.into_iter().map(|site| site.hours).collect()
}

#[test]
fn a_plan_says_when_rounds_can_begin_or_whose_hours_do_not_meet() {
    let mut world = World::with(3, &[ONE], Policy::Within).started();
    let draft = Draft { min_sites: 3, ..Draft::new(ONE, 1_000) };
    world.run(&draft);
    world.reaches(ONE, 1, 60);
    plan(&world).assert_fails(1, &["hours not published", "never open together"]);

    let night = "publish_hours = true\nhours = \"20:00-06:00 UTC\"\n";
    let late = "publish_hours = true\nhours = \"04:00-05:00 UTC\"\n";
    rules(&mut world, 0, ("", night));
    rules(&mut world, 1, ("", late));
    rules(&mut world, 2, ("", "publish_hours = true\n"));
    // By name: charite, karolinska, mayo.
    let all = ["20:00-06:00 UTC", "any time", "04:00-05:00 UTC"].map(|text| Some(text.to_owned()));
    wait_for("the hours of all", 30, || (published(&world) == all).then_some(()));
    let said = plan(&world).done();
    assert!(said.contains("rounds can begin in 3 h 0 min of the next 3 days"), "{said}");
    assert!(said.contains(" 04:00 UTC") && said.contains(" 05:00 UTC"), "{said}");

    // A site that is away has said what it has said. (A coordinator takes its time over one that fell silent.)
    world.kill(Daemon::Agent(1));
    let is_away = |world: &World| plan(world).out.contains(" away ");
    wait_for("the agent to be away", 120, || is_away(&world).then_some(()));
    let said = plan(&world).done();
    assert!(said.contains("rounds can begin in 3 h 0 min"), "{said}");
    world.start(Daemon::Agent(1), &[]).unwrap();
    wait_for("the hours of all again", 60, || {
        (!is_away(&world) && published(&world) == all).then_some(())
    });

    // Hours that never meet: who has which.
    let day = "publish_hours = true\nhours = \"09:00-17:00 UTC\"\n";
    rules(&mut world, 1, (late, day));
    wait_for("the other hours", 30, || {
        published(&world).contains(&Some("09:00-17:00 UTC".to_owned())).then_some(())
    });
    plan(&world).assert_fails(1, &["never open together", "(20:00-06:00 UTC)"]);

    // Taken back: it is not known any more, and what would be is said.
    rules(&mut world, 1, (day, ""));
    wait_for("the hours to be taken back", 30, || published(&world).contains(&None).then_some(()));
    let said = plan(&world);
    assert!(said.out.contains("is not known: counted as never; at any time"), "{said:?}");
    world.operator(&["study", "plan", "none"]).assert_fails(4, &["no study none"]);
    world.operator(&["study", "plan", ONE, "--days", "99"]).assert_fails(2, &["31"]);
    world.stop();
}
