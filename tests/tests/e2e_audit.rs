//! Audits of real federations: what an auditor takes away from a running coordinator tells one story, every
//! round of it comes out again, and another history of the same coordinator is found out.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is a failed test, and what is written need not last"
)]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};

use consilium_common::audit::{Outcome, RollCall};
use consilium_tests::harness::{Daemon, Draft, Said, World, consilium};
use serde_json::Value;

/// A federation that retains updates, with an auditor.
fn audited(studies: &[&str]) -> World {
    let world = World::new(studies);
    let config = world.root().join("coordinator/consilium.toml");
    world.edit(&config, |text| format!("{text}retain_updates = true\n"));
    let ca = world.root().join("ca").into_os_string();
    let issue = ["ca", "issue", "auditor", "eve", "--ca"].map(OsString::from);
    let said = consilium(world.federation.programs(), &[&issue[..], &[ca]].concat());
    let _told = said.done();
    world.started()
}

fn run(world: &World, words: &[&str], folder: &Path, rest: &[OsString]) -> Said {
    let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    arguments.push(folder.into());
    arguments.extend_from_slice(rest);
    consilium(world.federation.programs(), &arguments)
}

/// `audit export` by the auditor, from the running coordinator.
fn export(world: &World, folder: &Path) -> Said {
    let identity = world.root().join("ca/issued/auditor/eve");
    let from = [
        OsString::from("--coordinator"),
        world.federation.address().into(),
        "--identity".into(),
        identity.into(),
    ];
    run(world, &["audit", "export", "--json", "--models", "--out"], folder, &from)
}

fn verified(world: &World, folder: &Path) -> Value {
    let said = run(world, &["audit", "verify", "--json"], folder, &[]);
    serde_json::from_str(&said.done()).unwrap()
}

fn check<'a>(document: &'a Value, name: &str) -> &'a Value {
    let checks = document["checks"].as_array().unwrap();
    checks.iter().find(|row| row["check"] == name).unwrap()
}

fn place(world: &World, name: &str) -> PathBuf {
    world.root().join(name)
}

#[test]
fn every_round_of_three_studies_comes_out_again_also_after_deaths() {
    let drafts = [
        Draft { prepare: 200, ..Draft::new("thorax", 3) },
        Draft {
            strategy: "strategy = \"fedadam\"\nserver_learning_rate = 0.1",
            ..Draft::new("retina", 3)
        },
        Draft {
            strategy: "strategy = \"scaffold\"\ncontrol_clip_norm = 40.0",
            steps: 5,
            local: 0,
            ..Draft::new("sepsis", 3)
        },
    ];
    let mut world = audited(&drafts.each_ref().map(|draft| draft.name));
    drafts.iter().for_each(|draft| world.run(draft));
    world.reaches("retina", 1, 60);
    world.kill_and_restart(Daemon::Coordinator);
    world.reaches("sepsis", 2, 60);
    world.kill_and_restart(Daemon::Agent(0));
    drafts.iter().for_each(|draft| drop(world.complete(draft.name, 90)));

    let folder = place(&world, "export");
    let exported: Value = serde_json::from_str(&export(&world, &folder).done()).unwrap();
    assert_eq!(exported["missing"], 0, "{exported:#}");
    let document = verified(&world, &folder);
    assert_eq!((&document["sound"], &document["faults_in_all"]), (&true.into(), &0.into()));
    let rounds = check(&document, "roll-calls")["right"].as_u64().unwrap();
    let ended = world.history().roll_calls.len() as u64;
    assert_eq!(rounds, ended, "{document:#}");
    let calls = world.history().roll_calls;
    let is_abandoned = |call: &&RollCall| matches!(call.outcome, Outcome::Abandoned { .. });
    let abandoned = calls.iter().filter(is_abandoned);
    let sums = check(&document, "sums");
    assert_eq!(sums["right"], ended - abandoned.count() as u64, "{sums:#}");
    assert_eq!(sums["not_checked"], Value::Object(serde_json::Map::new()), "{sums:#}");

    let shown = run(&world, &["audit", "show", "--study", "retina"], &folder, &[]).done();
    assert!(shown.contains("retina round 3: committed v3 (model "), "{shown}");
    assert!(!shown.contains("sepsis"), "{shown}");
    let one = run(&world, &["audit", "show", "--json", "--record", "1"], &folder, &[]).done();
    let one: Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["inclusion"]["size"], exported["records"], "{one:#}");
    let all = run(&world, &["audit", "show", "--json"], &folder, &[]).done();
    let all: Vec<Value> = serde_json::from_str(&all).unwrap();
    assert_eq!(all.len() as u64, exported["records"].as_u64().unwrap());
    world.stop();
}

#[test]
fn an_export_goes_on_from_the_last_one_and_another_history_is_kept_as_evidence() {
    let mut world = audited(&["thorax"]);
    world.run(&Draft::new("thorax", 2));
    let _history = world.complete("thorax", 60);
    let folder = place(&world, "export");
    let first: Value = serde_json::from_str(&export(&world, &folder).done()).unwrap();
    let again: Value = serde_json::from_str(&export(&world, &folder).done()).unwrap();
    assert_eq!(again["goes_on_from"], first["records"]);

    let state = world.federation.coordinator_state();
    let from_state = place(&world, "from-state");
    let pinned = world.root().join("ca/issued/auditor/eve/consortium.toml");
    let from =
        [OsString::from("--state"), state.clone().into(), "--consortium".into(), pinned.into()];
    let _told = run(&world, &["audit", "export", "--models", "--out"], &from_state, &from).done();
    // The log may have gone on between the two, but never changes what it has.
    let exported = fs::read(folder.join("log")).unwrap();
    assert!(fs::read(from_state.join("log")).unwrap().starts_with(&exported));
    assert_eq!(check(&verified(&world, &from_state), "sums")["right"], 3);

    // The same coordinator, with the same keys, begins another history.
    world.federation.stop().unwrap();
    fs::rename(&state, world.root().join("the-true-history")).unwrap();
    world.federation.start().unwrap();
    let before = fs::read(folder.join("log")).unwrap();
    let said = export(&world, &folder);
    said.assert_fails(4, &["another than the one exported before", "contradiction-"]);
    assert_eq!(fs::read(folder.join("log")).unwrap(), before, "the export is as it was");
    let kept = fs::read_dir(&folder).unwrap().filter_map(|entry| {
        let name = entry.unwrap().file_name().into_string().unwrap();
        name.starts_with("contradiction-").then(|| folder.join(name))
    });
    let kept: Vec<PathBuf> = kept.collect();
    assert!(kept.len() == 1 && kept[0].join("checkpoint").is_file(), "{kept:?}");
    world.stop();
}

#[test]
fn a_changed_byte_of_an_export_is_told_with_its_record_and_exit_code_1() {
    let world = audited(&["thorax"]);
    world.run(&Draft::new("thorax", 1));
    let _history = world.complete("thorax", 60);
    let folder = place(&world, "export");
    let _told = export(&world, &folder).done();
    let mut log = fs::read(folder.join("log")).unwrap();
    let middle = log.len() / 2;
    log[middle] ^= 1;
    fs::write(folder.join("log"), &log).unwrap();
    let said = run(&world, &["audit", "verify"], &folder, &[]);
    said.assert_fails(1, &["1 fault was found"]);
    assert!(said.out.contains("at byte") && said.out.contains("it is damaged"), "{said:#?}");
    log[middle] ^= 1;
    fs::write(folder.join("log"), &log).unwrap();
    let other = place(&world, "elsewhere.toml");
    let pinned = fs::read_to_string(folder.join("consortium.toml")).unwrap();
    let key = pinned.lines().find(|line| line.starts_with("coordinator_log_key")).unwrap();
    let ada = pinned.lines().find(|line| line.starts_with("ada")).unwrap();
    let swapped = pinned.replace(key, &key.replace(key_of(key), key_of(ada)));
    fs::write(&other, swapped).unwrap();
    let with = [OsString::from("--consortium"), other.into()];
    let said = run(&world, &["audit", "verify"], &folder, &with);
    said.assert_fails(1, &["found in"]);
    assert!(said.out.contains("checkpoint: signed by 0 of the known keys"), "{said:#?}");
    world.stop();
}

fn key_of(line: &str) -> &str {
    line.split('"').nth(1).unwrap()
}
