//! A researcher in a real federation: sees the one study that lists them, commands nothing, proposes one that
//! operators sign and submit, and is nobody's agent.

#![expect(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a panic is a failed test, and what is written need not last"
)]

use std::ffi::OsString;
use std::fs;
use std::path::PathBuf;

use consilium_coordinator::cli::Connection;
use consilium_coordinator::cli::client::Client;
use consilium_coordinator::local::Policy;
use consilium_io::disk::Blobs;
use consilium_tests::harness::{Draft, Said, World, consilium, consilium_agent};
use serde_json::Value;

const OURS: &str = "thorax";
const THEIRS: &str = "retina";
const IDEA: &str = "sepsis";

/// Two sites, and rosa, who has a certificate.
fn world() -> World {
    let world = World::with(2, &[OURS, THEIRS, IDEA], Policy::Within);
    let ca = world.root().join("ca").into_os_string();
    let issue = ["ca", "issue", "researcher", "rosa", "--ca"].map(OsString::from);
    let said = consilium(world.federation.programs(), &[&issue[..], &[ca]].concat());
    assert!(said.done().contains("consilium://local/researcher/rosa"));
    world.started()
}

fn draft(name: &'static str, parameters: u32) -> Draft {
    Draft { parameters, min_sites: 2, ..Draft::new(name, 1) }
}

/// The draft's text, with rosa in it.
fn with_rosa(draft: &Draft) -> String {
    draft.text().replace("seed = 7\n", "seed = 7\nresearchers = [\"rosa\"]\n")
}

fn bundle(world: &World) -> PathBuf {
    world.root().join("ca/issued/researcher/rosa")
}

/// A command of rosa's, to its end.
fn rosa(world: &World, words: &[&str]) -> Said {
    let mut arguments: Vec<OsString> = words.iter().map(OsString::from).collect();
    arguments.extend(["--coordinator".into(), world.federation.address().into()]);
    arguments.extend(["--identity".into(), bundle(world).into()]);
    consilium(world.federation.programs(), &arguments)
}

fn studies(said: Said) -> Vec<String> {
    let document: Value = serde_json::from_str(&said.done()).unwrap();
    let studies = document.get("studies").and_then(Value::as_array).unwrap();
    studies.iter().map(|study| study["study"].as_str().unwrap().to_owned()).collect()
}

/// A file below the federation's folder.
fn file(world: &World, name: &str, text: &str) -> String {
    let path = world.root().join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Rosa fetches the models of this study's versions, and no other blob.
async fn fetches_models_of(world: &World, own: &str) {
    let coordinator = world.federation.address().to_owned();
    let connection = Connection { coordinator, identity: bundle(world) };
    let client = Client::connect(&connection).await.unwrap();
    let blobs = Blobs::open(&world.root().join("fetched")).unwrap();
    for study in world.status().studies {
        for version in study.versions {
            let got = client.fetch_if_there(&blobs, version.model, 1 << 20).await.unwrap();
            assert_eq!(got, study.study.as_str() == own, "{} {}", study.study, version.version);
        }
        let text = client.fetch_if_there(&blobs, study.digest, 1 << 20).await.unwrap();
        assert!(!text, "the text comes with `study show`");
    }
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_researcher_sees_one_of_two_studies_and_commands_neither() {
    let (ours, theirs) = (draft(OURS, 1_000), draft(THEIRS, 1_200));
    let world = world();
    let _signed = world.federation.run_study(OURS, &with_rosa(&ours)).unwrap();
    world.run(&theirs);
    for study in [OURS, THEIRS] {
        drop(world.complete(study, 60));
    }
    let before = world.history();

    assert_eq!(studies(rosa(&world, &["status", "--json"])), [OURS]);
    assert_eq!(studies(rosa(&world, &["study", "list", "--json"])), [OURS]);
    let exported = world.root().join("v1.safetensors").to_str().unwrap().to_owned();
    let report = world.root().join("report.html").to_str().unwrap().to_owned();
    for (study, seen) in [(OURS, true), (THEIRS, false), ("nowhere", false)] {
        for words in [
            vec!["status", study],
            vec!["study", "show", study],
            vec!["model", "list", study],
            vec!["model", "export", study, "--out", &exported],
            vec!["report", study, "--out", &report],
        ] {
            let said = rosa(&world, &words);
            if seen {
                let _told = said.done();
            } else {
                let unknown = format!("there is no study {study} here (known: {OURS})");
                said.assert_fails(4, &[&unknown]);
            }
        }
    }
    assert!(fs::metadata(&exported).unwrap().len() > 4 * 1_000);
    fetches_models_of(&world, OURS).await;

    let audit = world.root().join("audit").to_str().unwrap().to_owned();
    for words in [
        vec!["study", "start", OURS],
        vec!["study", "stop", OURS],
        vec!["site", "list"],
        vec!["audit", "export", "--out", &audit],
    ] {
        rosa(&world, &words).assert_fails(4, &["researcher/rosa", "bundle is needed"]);
    }
    let signed = world.federation.signed_study(OURS);
    let submit = rosa(&world, &["study", "submit", signed.to_str().unwrap()]);
    submit.assert_fails(4, &["researcher/rosa", "an operator's bundle is needed"]);
    let history = world.history();
    let refused: Vec<_> = history.commands[before.commands.len()..].iter().collect();
    assert_eq!(refused.len(), 5, "{refused:?}");
    assert!(refused.iter().all(|(_, outcome)| outcome.starts_with("refused: ")), "{refused:?}");
    assert_eq!(history.states, before.states, "no study has another state");
    assert_eq!(refused[0].0, format!("study start {OURS}"));
    world.stop();
}

#[test]
fn what_a_researcher_proposes_is_read_signed_and_submitted_by_an_operator() {
    let world = world();
    let idea = draft(IDEA, 1_000);
    let unlisted = file(&world, "unlisted.toml", &idea.text());
    rosa(&world, &["study", "propose", &unlisted]).assert_fails(4, &["does not list rosa"]);
    let proposed = file(&world, "idea.toml", &with_rosa(&idea));
    let told = rosa(&world, &["study", "propose", &proposed]).done();
    assert!(told.contains("proposed study sepsis version 1"), "{told}");
    world.operator(&["study", "propose", &proposed]).assert_fails(2, &["with a researcher's"]);
    assert_eq!(studies(rosa(&world, &["study", "list", "--json"])), [""; 0]);

    let table = world.operator(&["study", "proposals"]).done();
    assert!(table.contains("sepsis (file version 1)") && table.contains("rosa"), "{table}");
    assert!(
        rosa(&world, &["study", "proposals", IDEA]).done().contains("researchers = [\"rosa\"]")
    );
    let text = world.root().join("sepsis.study.toml");
    let text = text.to_str().unwrap();
    let told = world.operator(&["study", "proposals", IDEA, "--out", text]).done();
    assert!(told.contains("consilium study sign"), "{told}");
    let key = world.federation.operator_key();
    let sign = ["study", "sign", text, "--key", key.to_str().unwrap()];
    let _signed = consilium(world.federation.programs(), &sign).done();
    let _submitted = world.operator(&["study", "submit", text]).done();
    assert_eq!(world.operator(&["study", "proposals"]).done().trim(), "no proposals");
    let _started = world.operator(&["study", "start", IDEA]).done();
    drop(world.complete(IDEA, 60));
    assert_eq!(studies(rosa(&world, &["status", "--json"])), [IDEA]);

    // All of it stands in the log, and the log is sound.
    let audit = world.root().join("audit");
    let audit = audit.to_str().unwrap();
    let pinned = world.root().join("ca/consortium.toml");
    let pinned = pinned.to_str().unwrap();
    let export = ["audit", "export", "--out", audit, "--consortium", pinned];
    let _exported = world.operator(&export).done();
    let programs = world.federation.programs();
    let _sound = consilium(programs, &["audit", "verify", audit, "--consortium", pinned]).done();
    let shown = consilium(programs, &["audit", "show", audit, "--study", IDEA]).done();
    assert!(shown.contains("researcher rosa proposed study sepsis version 1"), "{shown}");
    world.stop();
}

#[test]
fn a_researchers_bundle_is_no_agents() {
    let world = world();
    let (toml, own) = (world.agent_toml(0), world.root().join("ca/issued/site"));
    let text = fs::read_to_string(&toml).unwrap();
    let line = text.lines().find(|line| line.starts_with("certificates")).unwrap();
    assert!(line.contains(own.to_str().unwrap()), "{line}");
    let other = text.replace(line, &format!("certificates = {:?}", bundle(&world)));
    let state = world.root().join("rosa-state");
    let states = other.lines().find(|line| line.starts_with("state")).unwrap().to_owned();
    let other = other.replace(&states, &format!("state = {state:?}"));
    let config = file(&world, "rosa.toml", &other);
    let said = consilium_agent(world.federation.programs(), &["run", "--config", &config]);
    assert_ne!(said.code, Some(0), "{said:#?}");
    let both = format!("{}{}", said.out, said.err);
    assert!(both.contains("consilium://local/researcher/rosa"), "{both}");
    assert!(both.contains("a site"), "{both}");
    world.stop();
}
