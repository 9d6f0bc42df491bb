//! A study that ends because its best version is old, that version, and a study that starts from it.

#![expect(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::Command;

use consilium_common::audit::record::Completion;
use consilium_common::ids::Digest;
use consilium_coordinator::local::Policy;
use consilium_io::disk::replace;
use consilium_tests::harness::{Daemon, Draft, World, consilium};

/// The exit code of a command that was refused.
const REFUSED: i32 = 4;

/// The file of a study whose loss falls until it lies between two units of 2^-16 a record.
fn text(name: &'static str, training: &str) -> String {
    let draft = Draft { parameters: 50, min_sites: 2, local: 0, ..Draft::new(name, 60) };
    let text = draft.text().replace("rounds = 60", training);
    text + "[evaluation]\nmetric = \"loss\"\n"
}

/// Signs the study retina to start from a model; the signed file.
fn signed_from(world: &World, draft: &str, model: &str) -> String {
    let (path, key) = (world.root().join("retina.toml"), world.federation.operator_key());
    replace(&path, draft.as_bytes()).unwrap();
    let sign: [&OsStr; 7] = [
        "study".as_ref(),
        "sign".as_ref(),
        path.as_ref(),
        "--key".as_ref(),
        key.as_ref(),
        "--start".as_ref(),
        model.as_ref(),
    ];
    let _said = consilium(world.federation.programs(), &sign).done();
    world.root().join("retina.study.toml").to_str().unwrap().to_owned()
}

/// A site allows studies to start from this model, and reads its policy again.
fn allow_start(world: &mut World, site: usize, model: &Digest) {
    let rule = format!("[policy]\ninitial_models = [\"{model}\"]\n");
    world.edit(&world.agent_toml(site), |text| text.replace("[policy]\n", &rule));
    let process = world.process(Daemon::Agent(site));
    let pid = process.pid().to_string();
    assert!(Command::new("kill").args(["-HUP", &pid]).status().unwrap().success());
}

#[test]
fn a_study_ends_early_and_the_next_one_starts_from_its_best_version() {
    let mut world = World::with(2, &["thorax", "retina"], Policy::Within).started();
    let draft = text("thorax", "rounds = 60\nearly_stopping = 3");
    world.federation.run_study("thorax", &draft).unwrap();
    let history = world.complete("thorax", 120);

    let status = world.status();
    let study = status.studies.iter().find(|study| study.study.as_str() == "thorax").unwrap();
    let best = study.best.clone().unwrap();
    assert_eq!(study.completion, Some(Completion::EarlyStopping));
    assert_eq!(history.version("thorax"), best.version.0 + 3, "three versions were no better");
    let calls = history.of("thorax");
    let total = calls[0].metrics["total"];
    assert!(
        calls.iter().all(|call| call.metrics["total"] == total),
        "all sites score each version"
    );
    let losses: BTreeMap<u64, u64> =
        calls.iter().map(|call| (call.base_version.0, call.metrics["loss"])).collect();
    let least = losses.values().min().unwrap();
    let earliest = losses.iter().find(|(_, loss)| *loss == least).unwrap();
    assert_eq!(best.version.0, *earliest.0, "of {losses:?}");
    let said = world.operator(&["status"]).done();
    assert!(said.contains("thorax: complete (early-stopping)"), "{said}");
    assert!(said.contains(&format!("best version {}: loss ", best.version)), "{said}");

    let model = world.root().join("best.safetensors");
    let model = model.to_str().unwrap();
    let _said = world.operator(&["model", "export", "thorax", "--best", "--out", model]).done();
    let signed = signed_from(&world, &text("retina", "rounds = 2"), model);
    (0..2).for_each(|site| allow_start(&mut world, site, &best.model));
    let _said = world.operator(&["study", "submit", &signed]).done();
    let _said = world.operator(&["study", "start", "retina"]).done();
    let history = world.complete("retina", 120);
    // The layout is the same, so the model is: the coordinator had it.
    assert_eq!(history.of("retina")[0].base, best.model);
    history.assert_everybody_counted("retina", 2, 2);
    world.stop();
}

#[test]
fn a_model_that_the_coordinator_lacks_is_brought_with_the_study() {
    let world = World::with(1, &["thorax", "retina"], Policy::Within).started();
    let one = |name| text(name, "rounds = 1").replace("min_sites = 2", "min_sites = 1");
    world.federation.run_study("thorax", &one("thorax")).unwrap();
    world.complete("thorax", 60);
    let model = world.root().join("v1.safetensors");
    let model = model.to_str().unwrap();
    let _said = world.operator(&["model", "export", "thorax", "--out", model]).done();
    // Another consortium's coordinator has never seen it.
    let mut other = World::with(1, &["retina"], Policy::Within).started();
    let signed = signed_from(&other, &one("retina"), model);
    let digest = *world.history().models("thorax").last().unwrap();
    allow_start(&mut other, 0, &digest);
    other.operator(&["study", "submit", &signed]).assert_fails(REFUSED, &["--start"]);
    let _said = other.operator(&["study", "submit", &signed, "--start", model]).done();
    let _said = other.operator(&["study", "start", "retina"]).done();
    let history = other.complete("retina", 60);
    let thorax = world.history();
    assert_eq!(history.of("retina")[0].base, *thorax.models("thorax").last().unwrap());
    world.stop();
    other.stop();
}
