//! `study retrain`: training goes on from an earlier version, whatever is killed on the way, and an auditor
//! finds the line of versions in order.

#![expect(clippy::unwrap_used, reason = "a panic is a failed test")]

use consilium_common::ids::{Digest, Version};
use consilium_common::wire::messages::RunState;
use consilium_coordinator::document::ModelListDocument;
use consilium_tests::harness::{Daemon, Draft, World, consilium, wait_for};

const ONE: &str = "thorax";

/// Each version's model, in order, and the version that it is again.
fn versions(world: &World) -> Vec<(Digest, Option<Version>)> {
    let list: ModelListDocument = world.federation.operator_json(&["model", "list", ONE]).unwrap();
    list.versions.into_iter().map(|version| (version.model, version.again)).collect()
}

fn state(world: &World) -> (RunState, Version, u64) {
    let study = world.status().studies.remove(0);
    (study.state, study.version, study.rounds_goal)
}

fn complete(world: &World, version: u64) {
    wait_for("the study to be complete again", 60, || {
        let (state, newest, _) = state(world);
        (state == RunState::Complete && newest == Version(version)).then_some(())
    });
}

#[test]
fn training_goes_on_from_an_earlier_version_and_has_all_its_rounds() {
    let mut world = World::new(&[ONE]).started();
    let draft = Draft { strategy: "strategy = \"fedadam\"\n", ..Draft::new(ONE, 4) };
    world.run(&draft);
    let back =
        |world: &World, from: &str| world.operator(&["study", "retrain", ONE, "--from", from]);
    back(&world, "v0").assert_fails(4, &["pause"]);
    let _history = world.complete(ONE, 60);
    let before = versions(&world);
    assert_eq!(before.len(), 5);

    back(&world, "v4").assert_fails(4, &["newest version", "goes on in any case"]);
    back(&world, "v7").assert_fails(4, &["no version v7", "v4"]);
    back(&world, "new").assert_fails(2, &["new"]);
    world
        .operator(&["study", "retrain", "none", "--from", "v1"])
        .assert_fails(4, &["no study none"]);
    let said = back(&world, "v2").done();
    assert!(said.contains("goes on from v2, which is v5 now, and is paused"), "{said}");
    assert_eq!(state(&world), (RunState::Paused, Version(5), 7));

    // The log alone says so.
    world.kill_and_restart(Daemon::Coordinator);
    assert_eq!(state(&world), (RunState::Paused, Version(5), 7));
    let _said = world.operator(&["study", "start", ONE]).done();
    complete(&world, 7);
    let after = versions(&world);
    assert_eq!(&after[..5], &before[..], "the earlier versions stay");
    assert_eq!(after[5], (before[2].0, Some(Version(2))));
    assert_ne!(after[6].0, before[3].0, "the strategy's state began anew");
    let screen = world.operator(&["model", "list", ONE]).done();
    assert!(screen.contains("v2 again"), "{screen}");

    // Once more, beyond the first return.
    let _said = back(&world, "v5").done();
    let _said = world.operator(&["study", "start", ONE]).done();
    complete(&world, 10);
    assert_eq!(versions(&world)[8], (before[2].0, Some(Version(5))));

    let folder = world.root().join("export");
    let facts = world.root().join("ca/issued/coordinator/consortium.toml");
    let [folder, facts] = [&folder, &facts].map(|path| path.to_str().unwrap());
    let export = ["audit", "export", "--models", "--consortium", facts, "--out", folder];
    let _said = world.operator(&export).done();
    let words = ["audit", "verify", folder, "--consortium", facts];
    let _sound = consilium(world.federation.programs(), &words).done();
    let shown = consilium(world.federation.programs(), &["audit", "show", folder]).done();
    assert!(shown.contains("thorax goes on from v2, which is v5 now"), "{shown}");
    assert!(shown.contains("study retrain thorax --from v4: refused"), "{shown}");
    world.stop();
}
