//! A site where a person accepts rosters, between real programs: it takes part in no round with sites that nobody
//! there has agreed to, says so on both ends, and goes on at once when somebody does.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::process::Command;

use consilium_agent::report::Status as AgentStatus;
use consilium_common::audit::Status;
use consilium_common::wire::reject::Code;
use consilium_coordinator::local::Policy;
use consilium_tests::harness::world::name;
use consilium_tests::harness::{Daemon, Draft, Said, World, consilium_agent, wait_for};

const ONE: &str = "thorax";

/// A command of the first site's agent.
fn agent(world: &World, words: &[&str]) -> Said {
    let toml = world.agent_toml(0);
    consilium_agent(
        world.federation.programs(),
        &[words, &["--config", toml.to_str().unwrap()]].concat(),
    )
}

fn status(world: &World, site: usize) -> AgentStatus {
    world.federation.agent_json(site, &["status"]).unwrap()
}

/// Waits until the site stands like this in the newest roll call.
fn stands(world: &World, site: usize, what: &str, is_so: impl Fn(Status) -> bool) {
    wait_for(what, 60, || {
        let history = world.history();
        let last = (*history.of(ONE).last()?).clone();
        is_so(last.sites.get(&name(site))?.status).then_some(())
    });
}

fn counts(status: Status) -> bool {
    matches!(status, Status::Counted { .. })
}

/// The version that waits at the first site.
fn waits(world: &World) -> u64 {
    let found = wait_for("a roster that waits", 30, || status(world, 0).roster.waiting);
    found.version
}

fn reload(world: &mut World) {
    let pid = world.process(Daemon::Agent(0)).pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[test]
fn a_site_takes_part_with_sites_that_a_person_there_accepted_and_no_others() {
    let mut world = World::with(3, &[ONE], Policy::Within);
    let manual = |text: &str| text.replace("[policy]\n", "[policy]\nroster = \"manual\"\n");
    world.edit(&world.agent_toml(0), manual);
    world.federation.start().unwrap();
    let draft = Draft { min_sites: 1, batches: 8, batch_ms: 50, ..Draft::new(ONE, 1_000) };
    world.run(&draft);
    world.reaches(ONE, 2, 60);
    let first = world.history().of(ONE)[0].sites[&name(0)].status;
    assert_eq!(first, Status::Excluded { code: Code::RosterNotAccepted });
    let version = waits(&world);
    let screen = agent(&world, &["status"]).done();
    assert!(screen.contains("roster-not-accepted") && screen.contains("with charite"), "{screen}");

    // Not another one than was looked at, and by somebody.
    let by = ["--by", "Dr. Ada", "--reason", "the board knows all three"];
    let accept = |world: &World, version: u64, by: &[&str]| {
        agent(world, &[&["roster", "accept", &version.to_string()], by].concat())
    };
    accept(&world, version + 1, &by).assert_fails(4, &["waits for a decision", "roster show"]);
    accept(&world, version, &by[..2]).assert_fails(2, &["--reason"]);
    assert_eq!(status(&world, 0).roster.version, None);
    let said = accept(&world, version, &by).done();
    assert!(said.contains(&format!("roster version {version}, 3 sites")), "{said}");
    stands(&world, 0, "the site to count", counts);

    // It lasts, and the others go by the signatures alone.
    world.kill_and_restart(Daemon::Agent(0));
    wait_for("the agent to be back", 30, || {
        let roster = status(&world, 0).roster;
        (roster.version == Some(version) && roster.waiting.is_none()).then_some(())
    });
    assert_eq!(status(&world, 1).roster.version, Some(version));

    // A site is put out: the rounds go on without it, and without who has not agreed yet.
    let gone = name(2);
    let revoke = ["site", "revoke", gone.as_str(), "--reason", "left the consortium"];
    let revoked = world.operator(&revoke);
    assert!(revoked.out.contains("is out"), "{revoked:?}");
    assert_eq!(waits(&world), version + 1);
    let shown = agent(&world, &["roster", "show"]).done();
    assert!(shown.contains(&format!("without {gone}")), "{shown}");
    stands(&world, 0, "the site to decline", |status| {
        status == Status::Excluded { code: Code::RosterNotAccepted }
    });
    stands(&world, 1, "the other site to count", counts);

    // The hospital's rule changes: the operators' signatures are enough.
    world.edit(&world.agent_toml(0), |text| text.replace("roster = \"manual\"\n", ""));
    reload(&mut world);
    stands(&world, 0, "the site to count again", counts);
    assert_eq!(status(&world, 0).roster.version, Some(version + 1));
    let ledger = agent(&world, &["ledger", "show"]).done();
    let person = format!("Dr. Ada goes by roster version {version} ");
    assert!(ledger.contains(&person) && ledger.contains("the board knows all three"), "{ledger}");
    let rule = format!("policy goes by roster version {} ", version + 1);
    assert!(ledger.contains(&rule), "{ledger}");
    let _sound = agent(&world, &["ledger", "verify"]).done();
    world.stop();
}
