//! Real training: `consilium demo` on MNIST with the worked example's CNN, every process its own.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "helpers of tests: a panic is a failed test"
)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use consilium_coordinator::local::{Process, Programs, Starting};
use consilium_tests::harness::{Said, command, with_worker};
use serde_json::Value;
use tempfile::TempDir;

/// The worked example's tensors, as PyTorch would name and shape them.
const TENSORS: [(&str, &[u64]); 6] = [
    ("conv1.weight", &[32, 1, 3, 3]),
    ("conv1.bias", &[32]),
    ("dense1.weight", &[128, 5408]),
    ("dense1.bias", &[128]),
    ("output.weight", &[10, 128]),
    ("output.bias", &[10]),
];

/// Where MNIST lies, in the places that the tests look; says that the test skips if nowhere.
fn mnist() -> Option<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let own = std::env::var_os("CONSILIUM_DATA").map(PathBuf::from);
    let folders = own.iter().flat_map(|own| [own.clone(), own.join("mnist")]);
    let found = folders.chain([root.join(".data/mnist"), root.join("../shared/data/mnist")]).find(
        |folder| {
            let images = folder.join("train-images-idx3-ubyte");
            images.exists() || images.with_extension("gz").exists()
        },
    );
    if found.is_none() {
        println!("SKIPPED, no MNIST: `cargo xtask demo` fetches it, or set CONSILIUM_DATA");
    }
    found
}

fn demo(programs: &Programs, data: &Path, more: &[&str]) -> Said {
    let data = data.to_str().unwrap();
    let words =
        ["demo", "--data", data, "--rounds", "2", "--sites", "2", "--baseline=none", "--json"];
    let words: Vec<&str> = words.iter().chain(more).copied().collect();
    command::run(Command::new(&programs.consilium).args(words))
}

/// Starts the coordinator of a kept demonstration again and exports its newest model.
fn export(programs: &Programs, kept: &Path) -> Vec<u8> {
    let root = kept.join("consortium");
    let configuration = root.join("coordinator/consilium.toml");
    let coordinator = Process::start(Starting {
        name: "again",
        program: &programs.consilium,
        arguments: vec!["serve".into(), "--config".into(), configuration.clone().into()],
        environment: Vec::new(),
        folder: kept,
    })
    .unwrap();
    let text = fs::read_to_string(configuration).unwrap();
    let address = text.lines().find_map(|line| line.strip_prefix("listen = ")).unwrap();
    let file = kept.join("model.safetensors");
    let mut export = Command::new(&programs.consilium);
    export.args(["model", "export", "mnist", "--coordinator", address.trim_matches('"'), "--out"]);
    export.arg(&file).arg("--identity").arg(root.join("ca/issued/operator/ada"));
    let _ = command::run(&mut export).done();
    drop(coordinator);
    fs::read(file).unwrap()
}

/// safetensors from its own words: length of the header u64, the header as JSON, the numbers.
fn assert_worked_example(file: &[u8]) {
    let (length, rest) = file.split_first_chunk::<8>().unwrap();
    let length = usize::try_from(u64::from_le_bytes(*length)).unwrap();
    let (header, numbers) = rest.split_at(length);
    let mut header: serde_json::Map<String, Value> = serde_json::from_slice(header).unwrap();
    header.remove("__metadata__");
    assert_eq!(header.len(), TENSORS.len(), "{header:?}");
    let mut elements = 0;
    for (name, shape) in TENSORS {
        let tensor = header.get(name).unwrap_or_else(|| panic!("no {name} in {header:?}"));
        assert_eq!(tensor["dtype"], "F32");
        assert_eq!(tensor["shape"], serde_json::json!(shape), "{name}");
        elements += shape.iter().product::<u64>();
    }
    assert_eq!((elements, numbers.len() as u64), (693_962, 4 * elements));
}

#[test]
fn the_demonstration_learns_mnist_and_ends_in_the_same_model_twice() {
    let (Some(programs), Some(data)) = (with_worker(), mnist()) else {
        return;
    };
    let folder = TempDir::new().unwrap();
    let kept = folder.path().join("kept");
    let first = demo(&programs, &data, &["--keep", kept.to_str().unwrap()]).done();
    let document: Value = serde_json::from_str(&first).unwrap();
    let rounds = document["rounds"].as_array().unwrap();
    assert_eq!(rounds.len(), 2);
    for (number, round) in (1..).zip(rounds) {
        assert_eq!(round["round"].as_u64(), Some(number));
        for field in ["accuracy", "loss", "seconds"] {
            assert!(round[field].is_f64(), "{field}: {round}");
        }
        for field in ["bytes_up", "bytes_down"] {
            assert!(round[field].as_u64() > Some(2_000_000), "{field}: {round}");
        }
        let sites = round["sites"].as_array().unwrap();
        let holdouts = sites.iter().map(|site| site["holdout"].as_u64().unwrap());
        assert_eq!(holdouts.sum::<u64>(), 10_000, "the test images are dealt, none is lost");
    }
    let last = &document["final"];
    assert_eq!(last["version"].as_u64(), Some(2));
    let accuracy = last["accuracy"].as_f64().unwrap();
    assert!(accuracy > 0.90, "{accuracy} after two rounds");

    assert_worked_example(&export(&programs, &kept));

    let again: Value = serde_json::from_str(&demo(&programs, &data, &[]).done()).unwrap();
    assert_eq!(again["final"]["model_digest"], last["model_digest"], "one seed, one model");
}
