//! What goes wrong in practice is said clearly: the exit code is right, and the message names the
//! place and what to do.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    clippy::cast_possible_truncation,
    reason = "helpers of tests: a panic is a failed test, and files need not last"
)]

use std::ffi::OsString;
use std::fs;
use std::io::Write as _;
use std::path::Path;

use consilium_agent::report::StudyRow;
use consilium_common::audit::Outcome;
use consilium_coordinator::local::{Policy, SiteSpec};
use consilium_io::disk::Blobs;
use consilium_tests::harness::{
    Daemon, Draft, Said, World, consilium, consilium_agent, programs, wait_for, with_worker, world,
};
use tempfile::TempDir;

const FAILED: i32 = 1;
const USAGE: i32 = 2;
const NOT_REACHABLE: i32 = 3;
const REFUSED: i32 = 4;

/// `consilium serve` with a configuration, to its end.
fn serve(world: &World, configuration: &Path) -> Said {
    let arguments: [OsString; 3] = ["serve".into(), "--config".into(), configuration.into()];
    consilium(world.federation.programs(), &arguments)
}

/// The coordinator's own configuration.
fn configuration(world: &World) -> std::path::PathBuf {
    world.root().join("coordinator/consilium.toml")
}

/// A federation that has trained a study of four rounds and was stopped.
fn at_rest() -> (World, Draft) {
    let draft = Draft::new("thorax", 4);
    let mut world = World::new(&["thorax"]).started();
    world.run(&draft);
    world.complete("thorax", 60);
    world.federation.stop().unwrap();
    (world, draft)
}

/// Submits one more study and runs it to its end: everything still works.
fn goes_on(world: &mut World) {
    world.federation.start().unwrap();
    let draft = Draft { parameters: 10, ..Draft::new("retina", 2) };
    world.run(&draft);
    world.complete("retina", 60).assert_everybody_counted("retina", 4, 2);
}

#[test]
fn wrong_usage_says_what_would_be_right() {
    let programs = programs();
    consilium(&programs, &["studdy"]).assert_fails(USAGE, &["studdy", "study"]);
    consilium(&programs, &["study", "start", "No Such Name"])
        .assert_fails(USAGE, &["No Such Name"]);
    consilium_agent(&programs, &["stauts"]).assert_fails(USAGE, &["stauts", "status"]);
    let nowhere = ["--config", "/nowhere/agent.toml", "run"];
    consilium_agent(&programs, &nowhere).assert_fails(USAGE, &["/nowhere/agent.toml"]);
    let nowhere = ["serve", "--config", "/nowhere/consilium.toml"];
    consilium(&programs, &nowhere).assert_fails(USAGE, &["/nowhere/consilium.toml"]);
}

#[test]
fn an_unknown_field_is_told_with_the_nearest_known_one() {
    let world = World::with(1, &["thorax"], Policy::Within);
    let draft = world.root().join("thorax.toml");
    let key = world.federation.operator_key();
    let sign = |text: &str| {
        fs::write(&draft, text).unwrap();
        let arguments: [&std::ffi::OsStr; 5] =
            ["study".as_ref(), "sign".as_ref(), draft.as_ref(), "--key".as_ref(), key.as_ref()];
        consilium(world.federation.programs(), &arguments)
    };
    let text = Draft::new("thorax", 4).text();
    let wrong = text.replace("rounds = 4", "roundz = 4");
    let line = 1 + wrong.lines().position(|line| line.starts_with("roundz")).unwrap();
    let (said, line) = (sign(&wrong), format!("line {line}"));
    said.assert_fails(REFUSED, &["thorax.toml", &line, "roundz", "did you mean `rounds`"]);
    let wrong = text.replace("parameters = ", "parametres = ");
    sign(&wrong).assert_fails(REFUSED, &["parametres", "did you mean `parameters`"]);
    let private = text.replace("inspectable", "private");
    sign(&private).assert_fails(REFUSED, &["privacy.mode", "not built yet"]);

    let toml = world.agent_toml(0);
    world.edit(&toml, |text| text.replace("coordinator =", "cordinator ="));
    let arguments: [&std::ffi::OsStr; 3] = ["--config".as_ref(), toml.as_ref(), "run".as_ref()];
    let said = consilium_agent(world.federation.programs(), &arguments);
    said.assert_fails(USAGE, &["agent.toml", "cordinator", "did you mean `coordinator`"]);
}

#[test]
fn a_study_that_was_changed_after_signing_is_refused() {
    let world = World::with(1, &["thorax"], Policy::Within);
    let mut world = world;
    world.federation.start_coordinator().unwrap();
    let signed = world.federation.sign_study("thorax", &Draft::new("thorax", 4).text()).unwrap();
    world.edit(&signed, |text| text.replace("rounds = 4", "rounds = 5"));
    let said = world.operator(&["study", "submit", signed.to_str().unwrap()]);
    said.assert_fails(REFUSED, &["thorax.study.toml was changed", "sign it again"]);
    let draft = world.root().join("draft.toml");
    fs::write(&draft, Draft::new("thorax", 4).text()).unwrap();
    let said = world.operator(&["study", "submit", draft.to_str().unwrap()]);
    said.assert_fails(REFUSED, &["draft.toml is a draft", "submit thorax.study.toml"]);
    assert!(world.status().studies.is_empty(), "nothing was submitted");
}

#[test]
fn a_study_signed_by_a_stranger_is_refused() {
    let mut world = World::with(1, &["thorax"], Policy::Within);
    world.federation.start_coordinator().unwrap();
    let strangers = World::with(1, &["thorax"], Policy::Within);
    let text = Draft::new("thorax", 4).text();
    let signed = strangers.federation.sign_study("thorax", &text).unwrap();
    let said = world.operator(&["study", "submit", signed.to_str().unwrap()]);
    said.assert_fails(REFUSED, &["sign"]);
    assert!(world.status().studies.is_empty(), "nothing was submitted");
}

#[test]
fn a_coordinator_that_is_not_there_is_said_to_be_so() {
    let world = World::with(1, &["thorax"], Policy::Within);
    let said = world.operator(&["status"]);
    said.assert_fails(NOT_REACHABLE, &[world.federation.address(), "is it running"]);
    let toml = world.agent_toml(0);
    let arguments: [&std::ffi::OsStr; 3] = ["--config".as_ref(), toml.as_ref(), "status".as_ref()];
    let said = consilium_agent(world.federation.programs(), &arguments);
    said.assert_fails(NOT_REACHABLE, &["consilium-agent run"]);
}

#[test]
fn a_port_in_use_is_named() {
    let mut world = World::with(1, &["thorax"], Policy::Within);
    world.federation.start_coordinator().unwrap();
    let second = world.root().join("second.toml");
    let text = fs::read_to_string(configuration(&world)).unwrap();
    fs::write(&second, text.replace("coordinator/state", "coordinator/other-state")).unwrap();
    let port = world.federation.address().rsplit(':').next().unwrap().to_owned();
    serve(&world, &second).assert_fails(FAILED, &["port", &port, "in use"]);
}

#[test]
fn a_state_folder_has_one_process_at_a_time() {
    let mut world = World::with(1, &["thorax"], Policy::Within).started();
    let holder = world.process(Daemon::Coordinator).pid().to_string();
    let second = world.root().join("second.toml");
    let text = fs::read_to_string(configuration(&world)).unwrap();
    let address = world.federation.address().to_owned();
    fs::write(&second, text.replace(&address, "127.0.0.1:0")).unwrap();
    let state = world.federation.coordinator_state();
    let words = [state.to_str().unwrap(), "in use by process", &holder, "stop it first"];
    serve(&world, &second).assert_fails(FAILED, &words);

    let holder = world.process(Daemon::Agent(0)).pid().to_string();
    let toml = world.agent_toml(0);
    let arguments: [&std::ffi::OsStr; 3] = ["--config".as_ref(), toml.as_ref(), "run".as_ref()];
    let said = consilium_agent(world.federation.programs(), &arguments);
    said.assert_fails(REFUSED, &["state", "in use by process", &holder, "stop it first"]);
    world.stop();
}

#[test]
fn a_corrupted_index_is_rebuilt_from_the_log_and_said_in_one_line() {
    let (mut world, _) = at_rest_with_retina();
    let index = world.federation.coordinator_state().join("index");
    for entry in fs::read_dir(&index).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            let bytes = fs::metadata(&path).unwrap().len() as usize;
            fs::write(&path, vec![0xa5; bytes.max(64)]).unwrap();
        }
    }
    let models = world.history().models("thorax");
    goes_on(&mut world);
    let log = world.log_of("coordinator");
    let lines: Vec<&str> =
        log.lines().filter(|line| line.contains("index was rebuilt from the log")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert_eq!(world.history().models("thorax"), models);
    world.stop();
}

/// As [`at_rest`], with sites that have data for one more study.
fn at_rest_with_retina() -> (World, Draft) {
    let draft = Draft::new("thorax", 4);
    let mut world = World::new(&["thorax", "retina"]).started();
    world.run(&draft);
    world.complete("thorax", 60);
    world.federation.stop().unwrap();
    (world, draft)
}

#[test]
fn a_missing_index_is_rebuilt_as_well() {
    let (mut world, _) = at_rest_with_retina();
    fs::remove_dir_all(world.federation.coordinator_state().join("index")).unwrap();
    goes_on(&mut world);
    let log = world.log_of("coordinator");
    assert!(log.contains("index was rebuilt from the log"), "{log}");
    world.stop();
}

#[test]
fn an_incomplete_tail_of_the_log_is_dropped_past_the_checkpoint_alone() {
    let (mut world, _) = at_rest_with_retina();
    let log = world.federation.coordinator_state().join("log");
    let whole = fs::read(&log).unwrap();

    // A record that a killed process began: its header, and half of its payload.
    let mut file = fs::OpenOptions::new().append(true).open(&log).unwrap();
    file.write_all(&whole[16..56]).unwrap();
    drop(file);
    goes_on(&mut world);
    let said = world.log_of("coordinator");
    assert!(said.contains("an incomplete record at the log's end was dropped"), "{said}");
    world.federation.stop().unwrap();

    // The last record was signed for: without it nothing starts.
    let whole = fs::read(&log).unwrap();
    fs::write(&log, &whole[..whole.len() - 5]).unwrap();
    let said = serve(&world, &configuration(&world));
    said.assert_fails(FAILED, &[log.to_str().unwrap(), "were synced to it", "records were lost"]);
    assert_eq!(fs::read(&log).unwrap().len(), whole.len() - 5, "nothing was changed");
}

#[test]
fn a_damaged_middle_of_the_log_stops_the_start_and_names_the_record() {
    let (world, _) = at_rest();
    let log = world.federation.coordinator_state().join("log");
    let mut bytes = fs::read(&log).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&log, &bytes).unwrap();
    let said = serve(&world, &configuration(&world));
    said.assert_fails(FAILED, &["record ", " at byte ", log.to_str().unwrap(), "is damaged"]);
    assert_eq!(fs::read(&log).unwrap(), bytes, "nothing was changed");
}

#[test]
fn a_damaged_newest_model_or_strategy_state_stops_the_start_and_names_study_and_version() {
    let mut world = World::new(&["thorax"]).started();
    let strategy = "strategy = \"fedavgm\"";
    world.run(&Draft { batches: 8, batch_ms: 10, strategy, ..Draft::new("thorax", 1_000) });
    world.reaches("thorax", 2, 60);
    world.federation.stop().unwrap();
    let version = world.history().version("thorax");
    let newest = world.history().of("thorax").into_iter().rev().find_map(|call| {
        let Outcome::Committed { model, strategy_state, .. } = call.outcome else {
            return None;
        };
        Some([("model", model), ("strategy state", strategy_state.unwrap())])
    });
    let blobs = Blobs::open(&world.federation.coordinator_state().join("blobs")).unwrap();
    for (what, digest) in newest.unwrap() {
        let path = blobs.path_of(digest);
        let good = fs::read(&path).unwrap();
        let mut bytes = good.clone();
        bytes[100] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let go_on = format!("study thorax cannot go on from v{version}");
        let named = format!("({what} {digest})");
        let said = serve(&world, &configuration(&world));
        said.assert_fails(FAILED, &[&go_on, &named, "back from a copy"]);
        fs::remove_file(&path).unwrap();
        let said = serve(&world, &configuration(&world));
        said.assert_fails(FAILED, &[&go_on, &named, "back from a copy"]);
        fs::write(&path, &good).unwrap();
    }
}

#[test]
fn a_site_that_is_not_in_the_roster_is_refused_in_the_logs_of_both_sides() {
    let mut world = World::with(1, &["thorax"], Policy::Within);
    world.federation.start_coordinator().unwrap();
    let ca = world.root().join("ca");
    let arguments = ["ca", "issue", "site", "stranger", "--ca", ca.to_str().unwrap()];
    let _ = consilium(world.federation.programs(), &arguments).done();
    let toml = world.agent_toml(0);
    world.edit(&toml, |text| {
        text.replace("\"charite\"", "\"stranger\"").replace("site/charite", "site/stranger")
    });
    world.federation.start_agent(0).unwrap();
    for log in ["coordinator", "charite"] {
        wait_for(&format!("the refusal in the log of {log}"), 30, || {
            world.log_of(log).contains("not-in-roster").then_some(())
        });
    }
    assert!(world.log_of("coordinator").contains("site stranger is not in roster version"));
    assert!(world.log_of("charite").contains("ask an operator to sign a roster"));
    let refusals = world.history().refusals;
    assert!(
        refusals
            .iter()
            .any(|(peer, code, _)| { peer.contains("site/stranger") && code == "not-in-roster" })
    );
    world.stop();
}

#[test]
fn a_site_of_another_consortium_is_refused_in_the_logs_of_both_sides() {
    let mut world = World::with(1, &["thorax"], Policy::Within);
    let others = World::with(1, &["thorax"], Policy::Within);
    let (ours, theirs) = (world.root().join("ca"), others.root().join("ca"));
    let toml = world.agent_toml(0);
    world.edit(&toml, |text| text.replace(ours.to_str().unwrap(), theirs.to_str().unwrap()));
    world.federation.start().unwrap();
    wait_for("the refusal in the log of the site", 30, || {
        let log = world.log_of("charite");
        log.contains("we refused the peer").then_some(())
    });
    wait_for("the refusal in the log of the coordinator", 30, || {
        world.log_of("coordinator").contains("the peer refused us").then_some(())
    });
    world.stop();
}

/// A site of one digit data folder, and a study over it.
fn digits(data: &Path) -> (World, std::path::PathBuf) {
    let section = format!("source = \"idx\"\npath = {data:?}\n");
    let site = SiteSpec { name: world::name(0), data: vec![("digits".to_owned(), section)] };
    let world = World::of(vec![site], Policy::Within);
    let study = world.root().join("digits.toml");
    let text = "[study]\nname = \"digits\"\n\n[model]\nfamily = \"cnn\"\n\
                input = { channels = 1, height = 4, width = 4 }\nclasses = [\"0\", \"1\"]\n\n\
                [aggregation]\nclip_norm = 1.0\n\n[privacy]\nmode = \"inspectable\"\n";
    fs::write(&study, text).unwrap();
    (world, study)
}

fn check(world: &World, study: &Path) -> Said {
    let toml = world.agent_toml(0);
    let arguments: [&std::ffi::OsStr; 4] =
        ["--config".as_ref(), toml.as_ref(), "check".as_ref(), study.as_ref()];
    let mut said = consilium_agent(world.federation.programs(), &arguments);
    said.err += &said.out; // findings are the command's result
    said
}

/// Six 4×4 images of two classes, as IDX (magic, counts, bytes).
fn write_idx(folder: &Path, image_bytes: usize) {
    let mut images = [[0, 0, 8, 3], [0, 0, 0, 6], [0, 0, 0, 4], [0, 0, 0, 4]].concat();
    images.extend((0..image_bytes).map(|i| (i % 251) as u8));
    fs::write(folder.join("train-images-idx3-ubyte"), images).unwrap();
    let labels = [[0, 0, 8, 1], [0, 0, 0, 6]].concat();
    fs::write(folder.join("train-labels-idx1-ubyte"), [labels, vec![0, 1, 0, 1, 0, 1]].concat())
        .unwrap();
}

#[test]
fn records_are_checked_before_anything_trains() {
    if with_worker().is_none() {
        return;
    }
    let folder = TempDir::new().unwrap();
    let missing = folder.path().join("gone");
    let (world, study) = digits(&missing);
    let words = ["digits", missing.to_str().unwrap()];
    check(&world, &study).assert_fails(FAILED, &words);

    write_idx(folder.path(), 6 * 16 - 7);
    let (world, study) = digits(folder.path());
    let words = ["digits", "train-images-idx3-ubyte"];
    check(&world, &study).assert_fails(FAILED, &words);

    write_idx(folder.path(), 6 * 16);
    let said = check(&world, &study);
    assert_eq!(said.code, Some(0), "{said:#?}");
}

#[test]
fn a_person_who_accepts_must_name_exact_bytes() {
    let mut world = World::with(1, &["thorax"], Policy::Manual).started();
    world.run(&Draft { min_sites: 1, ..Draft::new("thorax", 2) });
    wait_for("the offer", 30, || {
        let rows: Vec<StudyRow> = world.federation.agent_json(0, &["study", "list"]).ok()?;
        (!rows.is_empty()).then_some(())
    });
    let toml = world.agent_toml(0);
    let accept = |which: &str| {
        let words =
            ["study", "accept", which, "--by", "Dr. Ada", "--reason", "why not", "--config"];
        let mut arguments = words.map(std::ffi::OsStr::new).to_vec();
        arguments.push(toml.as_ref());
        consilium_agent(world.federation.programs(), &arguments)
    };
    accept("thorax").assert_fails(USAGE, &["NAME@DIGEST"]);
    let wrong = accept("thorax@000000000000");
    assert!(matches!(wrong.code, Some(FAILED | REFUSED)), "{wrong:#?}");
    assert!(wrong.err.contains("thorax"), "{wrong:#?}");
    world.process(Daemon::Agent(0));
    world.stop();
}
