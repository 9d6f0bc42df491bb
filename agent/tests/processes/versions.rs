//! `evaluate` and `predict`: a version in use at the site, with no daemon and no coordinator.

use std::path::Path;
use std::process::{Command, Output};

use crate::support;
use consilium_io::disk::replace;
use serde_json::Value;

const DRAFT: &str = "[study]\nname = \"load\"\nseed = 7\n[model]\nfamily = \"synthetic\"\n\
                     parameters = 100\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
                     mode = \"inspectable\"\n";
const AGENT: &str = "[site]\nname = \"a\"\ncoordinator = \"localhost:4433\"\nstate = \"state\"\n\
                     [data.load]\nsource = \"synthetic\"\nexamples = 50\n";

fn run(folder: &Path, words: &str) -> Output {
    Command::new(support::agent())
        .args(words.split_whitespace())
        .current_dir(folder)
        .env_remove("CONSILIUM_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A folder with a study, a configuration, and what two epochs made of it.
fn trained(model: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let draft = DRAFT.replace("[aggregation]", &format!("{model}\n[aggregation]"));
    replace(&folder.path().join("load.toml"), draft.as_bytes()).unwrap();
    replace(&folder.path().join("agent.toml"), AGENT.as_bytes()).unwrap();
    let words = "train --local --study load.toml --config agent.toml --epochs 2 \
                 --out model.safetensors --json";
    let output = run(folder.path(), words);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    replace(&folder.path().join("trained.json"), &output.stdout).unwrap();
    folder
}

const EVALUATE: &str = "evaluate --study load.toml --model model.safetensors --config agent.toml";

#[test]
fn a_version_is_worth_what_its_training_said() {
    let folder = trained("");
    let json = run(folder.path(), &format!("{EVALUATE} --json"));
    assert_eq!(json.status.code(), Some(0), "{}", text(&json.stderr));
    let report: Value = serde_json::from_slice(&json.stdout).unwrap();
    let before = std::fs::read(folder.path().join("trained.json")).unwrap();
    let before: Value = serde_json::from_slice(&before).unwrap();
    assert_eq!(report["model_digest"], before["final"]["model_digest"]);
    assert_eq!((&report["study"], report["holdout"].as_u64()), (&"load".into(), Some(10)));
    assert_eq!(report["measures"][0]["name"], "loss");
    assert_eq!(report["measures"][0]["value"], before["final"]["loss"]);
    let shown = text(&run(folder.path(), EVALUATE).stdout);
    assert!(shown.contains("10 records") && shown.contains("95 % interval"), "{shown}");
    // Another hold-out than agent.toml's.
    let other = run(folder.path(), &format!("{EVALUATE} --json --holdout 0.5"));
    let other: Value = serde_json::from_slice(&other.stdout).unwrap();
    assert_eq!(other["holdout"].as_u64(), Some(25));
}

#[test]
fn what_the_site_does_not_have_is_said_in_a_sentence() {
    let folder = trained("local = 2");
    let output = run(folder.path(), EVALUATE);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let shown = text(&output.stdout);
    let said = "this site has no local state of study load: it starts as it did";
    assert!(shown.contains(said), "{shown}");

    let folder = trained("prepare = 50");
    let output = run(folder.path(), EVALUATE);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("--preparation"), "{}", text(&output.stderr));
    // What the training counted serves as well as what a federation did.
    let words = "train --local --study load.toml --config agent.toml --epochs 1 \
                 --out model.safetensors --out-preparation counts";
    assert_eq!(run(folder.path(), words).status.code(), Some(0));
    let output = run(folder.path(), &format!("{EVALUATE} --preparation counts"));
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
}

#[test]
fn mistakes_with_a_version_are_one_clear_sentence() {
    let folder = trained("");
    let other = DRAFT.replace("parameters = 100", "parameters = 101");
    replace(&folder.path().join("other.toml"), other.as_bytes()).unwrap();
    replace(&folder.path().join("rows.csv"), b"a\n1\n").unwrap();
    let long = vec![0; 3 << 20];
    replace(&folder.path().join("long.safetensors"), &long).unwrap();
    replace(&folder.path().join("rows.dcm"), b"x").unwrap();
    let model = "--model model.safetensors --config agent.toml";
    for (words, code, said) in [
        (format!("evaluate --study no.toml {model}"), 2, "no.toml"),
        (format!("evaluate --study thorax {model}"), 2, "no study of this name was offered"),
        (format!("evaluate --study other.toml --data load {model}"), 2, "no version of this study"),
        (EVALUATE.replace("model.s", "none.s"), 2, "none.safetensors cannot be read"),
        (EVALUATE.replace("model.s", "long.s"), 2, "is no model of load"),
        (format!("{EVALUATE} --preparation rows.csv"), 2, "prepares nothing"),
        (format!("predict --study load.toml {model} --input rows.dcm"), 2, ".csv, .tsv, .npz"),
        (format!("predict --study load.toml {model} --input scans"), 2, "scans does not exist"),
        (format!("predict --study load.toml {model} --input rows.csv"), 1, "predicts nothing"),
        (format!("predict --study load.toml {model} --input rows.csv --data x"), 2, "[data.x]"),
    ] {
        let output = run(folder.path(), &words);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words}: {told}");
        assert!(told.contains(said), "{words}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{words}: {told}");
    }
}
