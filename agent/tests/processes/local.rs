//! `train --local`, `--version` and usage errors, as a person runs them.

use std::path::Path;
use std::process::{Command, Output};

use crate::support;
use consilium_agent::worker::synthetic::{half_way, optimum, shifted};
use consilium_common::ids::Digest;
use consilium_common::study::Study;
use consilium_common::tensor::file::from_safetensors;
use consilium_common::tensor::flat::encode_model;
use consilium_io::disk::replace;
use serde_json::Value;

const DRAFT: &str = "[study]\nname = \"load\"\nseed = 7\n[model]\nfamily = \"synthetic\"\n\
                     parameters = 100\nbatches = 3\n[aggregation]\nclip_norm = 1.0\n\
                     [privacy]\nmode = \"inspectable\"\n";

fn run(folder: &Path, words: &[&str]) -> Output {
    Command::new(support::agent())
        .args(words)
        .current_dir(folder)
        .env_remove("CONSILIUM_LOG")
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn training_alone_converges_reports_norms_and_writes_the_model() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("load.toml"), DRAFT.as_bytes()).unwrap();
    let words = "train --local --study load.toml --source synthetic --epochs 3 --report-norms \
                 --out model.safetensors --json";
    let words: Vec<&str> = words.split_whitespace().collect();
    let first = run(folder.path(), &words);
    assert_eq!(first.status.code(), Some(0), "{}", text(&first.stderr));
    let report: Value = serde_json::from_slice(&first.stdout).unwrap();
    let epochs = report["epochs"].as_array().unwrap();
    let column = |name: &str| -> Vec<f64> {
        epochs.iter().map(|epoch| epoch[name].as_f64().unwrap()).collect()
    };
    let (losses, norms) = (column("loss"), column("norm"));
    assert!(losses.len() == 3 && losses.is_sorted_by(|a, b| a > b), "{losses:?}");
    // Half of the way each time: the norm halves too.
    assert!((norms[0] / norms[1] - 2.0).abs() < 1e-3, "{norms:?}");
    let clip = report["suggested_clip_norm"].as_f64().unwrap();
    assert!(clip >= norms[0] && clip < 1.5 * norms[0], "{clip} {norms:?}");

    let layout = Study::read(DRAFT, "x").unwrap().layout().unwrap();
    let model = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    assert_eq!(from_safetensors(&model, &layout).unwrap().len(), 100);
    let again: Value = serde_json::from_slice(&run(folder.path(), &words).stdout).unwrap();
    assert_eq!(again["final"]["model_digest"], report["final"]["model_digest"]);
}

#[test]
fn the_best_epoch_is_kept_and_the_training_ends_once_it_is_old() {
    let folder = tempfile::tempdir().unwrap();
    let draft = DRAFT.replace("[aggregation]", "[training]\nearly_stopping = 3\n[aggregation]");
    let draft = draft + "[evaluation]\nmetric = \"loss\"\n";
    replace(&folder.path().join("load.toml"), draft.as_bytes()).unwrap();
    let words = "train --local --study load.toml --source synthetic --epochs 60 --best \
                 --out model.safetensors --json";
    let output = run(folder.path(), &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    // Half of the way each time: after some epochs the loss, which is counted in 2^-16, is 0.
    let losses: Vec<f64> = report["epochs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|epoch| epoch["loss"].as_f64().unwrap())
        .collect();
    let best = losses.iter().position(|loss| *loss == 0.0).unwrap();
    assert_eq!(report["best"]["epoch"], best + 1, "of equals the earliest");
    assert_eq!((losses.len(), &report["best"]["score"]), (best + 1 + 3, &Value::from(0.0)));
    let layout = Study::read(&draft, "x").unwrap().layout().unwrap();
    let model = std::fs::read(folder.path().join("model.safetensors")).unwrap();
    let model = encode_model(&layout, &from_safetensors(&model, &layout).unwrap());
    assert_eq!(report["best"]["model_digest"], Digest::of(&model).to_string());
    assert_ne!(report["best"]["model_digest"], report["final"]["model_digest"]);
}

fn json(folder: &Path, words: &str) -> Value {
    let output = run(folder, &words.split_whitespace().collect::<Vec<_>>());
    assert_eq!(output.status.code(), Some(0), "{words}: {}", text(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn training_goes_on_from_a_model_that_is_given() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("load.toml"), DRAFT.as_bytes()).unwrap();
    let train = "train --local --study load.toml --source synthetic --json --epochs";
    let whole = json(folder.path(), &format!("{train} 3"));
    json(folder.path(), &format!("{train} 2 --out two.safetensors"));
    let rest = json(folder.path(), &format!("{train} 1 --start two.safetensors"));
    assert_eq!(rest["final"]["model_digest"], whole["final"]["model_digest"]);

    // A study that was signed with a model is not trained from another.
    let study = Study::read(DRAFT, "x").unwrap();
    let given = study.resolve_from(&[0.25; 100]).unwrap().to_text().unwrap();
    replace(&folder.path().join("load.toml"), given.as_bytes()).unwrap();
    for (start, said) in
        [("", "name its file with --start"), ("--start two.safetensors", "is model")]
    {
        let words = format!("{train} 1 {start}");
        let output = run(folder.path(), &words.split_whitespace().collect::<Vec<_>>());
        assert_eq!(output.status.code(), Some(2));
        assert!(text(&output.stderr).contains(said), "{}", text(&output.stderr));
    }
}

#[test]
fn a_grid_tries_every_combination_on_a_part_of_the_training_records_and_shows_the_best_first() {
    let folder = tempfile::tempdir().unwrap();
    let draft = DRAFT.to_owned() + "[evaluation]\nmetric = \"loss\"\n";
    replace(&folder.path().join("load.toml"), draft.as_bytes()).unwrap();
    let grid = "[training]\nrounds = [1, 3, 2]\n";
    replace(&folder.path().join("grid.toml"), grid.as_bytes()).unwrap();
    let train = "train --local --study load.toml --source synthetic --grid grid.toml \
                 --grid training.optimizer=adam,sgd";
    let report = json(folder.path(), &format!("{train} --json"));
    let rows = report["combinations"].as_array().unwrap();
    // This trainer has no optimiser, and comes half of the way nearer in each round.
    let rounds: Vec<&str> =
        rows.iter().map(|row| row["values"]["training.rounds"].as_str().unwrap()).collect();
    assert_eq!(rounds, ["3", "3", "2", "2", "1", "1"]);
    assert_eq!(rows[0]["values"]["training.optimizer"], "\"adam\"", "of equals the first");
    assert_eq!((&rows[0]["best_epoch"], &rows[0]["epochs"]), (&3.into(), &3.into()));
    // Of 100 records 20 are held out; of the others a fifth is scored.
    let part = |words: &str| json(folder.path(), words)["combinations"][0]["validation"].clone();
    assert_eq!(part(&format!("{train} --examples 100 --json")), 16);
    assert_eq!(part(&format!("{train} --examples 100 --json --validation 0.5")), 40);
    assert!(rows[0]["score"].as_f64() < rows[2]["score"].as_f64());

    // A command that is started again tries what it has not kept: here the five others.
    let kept = folder.path().join("kept.jsonl");
    let again = format!("{train} --json --results kept.jsonl");
    let first = json(folder.path(), &again)["combinations"].clone();
    let lines = std::fs::read_to_string(&kept).unwrap();
    assert_eq!(lines.lines().count(), 6);
    replace(&kept, (lines.lines().next().unwrap().to_owned() + "\n").as_bytes()).unwrap();
    let second = json(folder.path(), &again)["combinations"].clone();
    let took = |rows: &Value| -> Vec<f64> {
        rows.as_array().unwrap().iter().map(|row| row["seconds"].as_f64().unwrap()).collect()
    };
    let as_it_was = |before: &Value, after: &Value| -> usize {
        let pairs = took(before).into_iter().zip(took(after));
        pairs.filter(|(before, after)| (before - after).abs() < 1e-12).count()
    };
    assert!(as_it_was(&first, &second) >= 1, "one is as it was kept: {first} {second}");
    let third = json(folder.path(), &again)["combinations"].clone();
    assert_eq!(as_it_was(&second, &third), 6, "all of them are: {second} {third}");

    let words: Vec<&str> = train.split_whitespace().collect();
    let table = text(&run(folder.path(), &words).stdout);
    assert!(table.contains("6/6: training.optimizer = \"sgd\", training.rounds = 2: "), "{table}");
}

#[test]
fn a_local_state_goes_on_from_epoch_to_epoch_and_ends_with_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let draft = DRAFT.replace("batches = 3", "local = 2");
    replace(&folder.path().join("load.toml"), draft.as_bytes()).unwrap();
    let words = "train --local --study load.toml --source synthetic --epochs 3 \
                 --out model.safetensors --json";
    let words: Vec<&str> = words.split_whitespace().collect();
    let mut source = support::source(100);
    source.examples = None;
    let optima = optimum(7, &source, 100);
    let mut expected = vec![0.0; 100];
    for rounds in 0..3 {
        let goal: Vec<f32> = optima.iter().map(|optimum| shifted(*optimum, rounds)).collect();
        expected = half_way(&expected, &goal);
    }
    let distance = |(model, optimum): (&f32, &f32)| f64::from(model - shifted(*optimum, 3)).powi(2);
    let loss = expected.iter().zip(&optima).map(distance).sum::<f64>() / 200.0;
    for _ in 0..2 {
        let output = run(folder.path(), &words);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let layout = Study::read(&draft, "x").unwrap().layout().unwrap();
        let model = std::fs::read(folder.path().join("model.safetensors")).unwrap();
        assert_eq!(from_safetensors(&model, &layout).unwrap(), expected);
        // A fixed-point sum over 20 records, in units of 2^-16.
        let scored = report["final"]["loss"].as_f64().unwrap();
        assert!((scored - loss).abs() < 1e-5, "scored with the last state: {scored} {loss}");
    }
}

#[test]
fn a_study_that_prepares_counts_on_these_records_first_and_then_trains() {
    let folder = tempfile::tempdir().unwrap();
    let draft = DRAFT.replace("batches = 3", "batches = 3\nprepare = 50");
    replace(&folder.path().join("load.toml"), draft.as_bytes()).unwrap();
    let words =
        ["train", "--local", "--study", "load.toml", "--source", "synthetic", "--epochs", "2"];
    let output = run(folder.path(), &words);
    // The trainer does not touch a study without the preparation that it has.
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("epoch 2/2"), "{}", text(&output.stdout));
}

#[test]
fn people_get_a_line_an_epoch() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("load.toml"), DRAFT.as_bytes()).unwrap();
    let words =
        ["train", "--local", "--study", "load.toml", "--source", "synthetic", "--epochs", "2"];
    let output = run(folder.path(), &words);
    let lines = text(&output.stdout);
    assert!(lines.contains("epoch 1/2: accuracy –, loss 0."), "{lines}");
    assert!(!lines.contains("norm"), "{lines}");
    assert_eq!(text(&output.stderr), "", "no bar and no log without a terminal");
}

#[test]
fn mistakes_are_one_clear_sentence_and_the_right_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("load.toml"), DRAFT.as_bytes()).unwrap();
    let typo = DRAFT.replace("batches", "baches");
    replace(&folder.path().join("typo.toml"), typo.as_bytes()).unwrap();
    let agent = "[site]\nname = \"a\"\ncoordinator = \"localhost:4433\"\nstate = \"state\"\n";
    replace(&folder.path().join("agent.toml"), agent.as_bytes()).unwrap();
    for (words, code, said) in [
        ("train --local --study no.toml --source synthetic", 2, "no.toml does not exist"),
        ("train --local --study typo.toml --source synthetic", 2, "did you mean `batches`?"),
        ("train --local --study load.toml --source idx", 2, "--path"),
        ("train --local --study load.toml --source synthetic --grid no.toml", 2, "does not exist"),
        (
            "train --local --study load.toml --source synthetic --grid evaluation.metric=loss,auc",
            2,
            "`evaluation.metric` cannot vary",
        ),
        (
            "train --local --study load.toml --source synthetic --grid model.parameters=0,1",
            2,
            "with model.parameters = 0: `model.parameters` is 0",
        ),
        (
            "train --local --study load.toml --source synthetic --epochs 3 --grid \
             training.local_epochs=1,2",
            2,
            "has no say beside --epochs",
        ),
        ("train --local --study load.toml --source npz", 2, "--path, the file or folder"),
        ("train --local --study load.toml --data load --config agent.toml", 2, "[data.load]"),
        ("status --config agent.toml", 3, "consilium-agent run"),
        ("status --config none.toml", 2, "none.toml does not exist"),
        (
            "study accept load@01234567 --by a --reason b --config agent.toml",
            1,
            "no study load is known",
        ),
        ("ledger show --config agent.toml", 1, "there is no ledger in"),
        ("run --config agent.toml", 2, "consilium-agent enroll TOKEN"),
        ("check load.toml --config agent.toml", 1, "1 of 1 checks failed"),
        ("check --config agent.toml", 1, "check STUDY.toml"),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let output = run(folder.path(), &words);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
        assert!(told.contains(said), "{words:?}: {told}");
        assert_eq!(told.trim_end().lines().count(), 1, "{words:?}: {told}");
    }
}

#[test]
fn check_tries_the_records_through_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    replace(&folder.path().join("load.toml"), DRAFT.as_bytes()).unwrap();
    let agent = "[site]\nname = \"a\"\ncoordinator = \"localhost:4433\"\nstate = \"state\"\n\
                 [data.load]\nsource = \"synthetic\"\nexamples = 50\n";
    replace(&folder.path().join("agent.toml"), agent.as_bytes()).unwrap();
    let output = run(folder.path(), &["check", "load.toml", "--config", "agent.toml", "--json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let rows: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((rows[0]["ok"].as_bool(), rows[0]["examples"].as_u64()), (Some(true), Some(40)));
}

#[test]
fn the_version_says_what_is_known_of_the_worker() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["--version"]);
    let told = text(&output.stdout);
    assert_eq!(output.status.code(), Some(0));
    assert!(told.starts_with(concat!("consilium-agent ", env!("CARGO_PKG_VERSION"))), "{told}");
    assert!(told.contains("worker"), "{told}");
}
