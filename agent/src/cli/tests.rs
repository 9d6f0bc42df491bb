use clap::CommandFactory;

use super::*;

fn parse(words: &[&str]) -> Result<Cli, clap::Error> {
    Cli::try_parse_from([&["consilium-agent"], words].concat())
}

#[test]
fn the_command_line_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood_as_people_type_it() {
    for words in [
        "run --config /etc/consilium/agent.toml",
        "run --log-format json",
        "status --watch",
        "--json status",
        "status --json --config a.toml",
        "study list",
        "study show mnist",
        "study accept mnist@0123456789ab --by Ada --reason voted",
        "study refuse mnist@01234567 --by Ada --reason none --json",
        "ledger show --study mnist --since 2027-03-31 --json",
        "ledger verify",
        "ledger verify export.txt --key site.pub",
        "ledger export export.txt",
        "check",
        "check study.toml --json",
        "train --local --study s.toml --data mnist --epochs 2 --report-norms --out m.safetensors",
        "train --local --study s.toml --source idx --path /d --holdout test --part 0/4 \
         --split dirichlet:0.3 --part-seed 1",
        "train --local --study s.toml --source npz --path x.npz --holdout val",
        "train --local --study s.toml --source image-folder --path /d --holdout 0.1",
        "evaluate --study s.toml --model m.safetensors --config a.toml",
        "evaluate --study ward --model m.safetensors --data ward --holdout test --test-path t.csv",
        "evaluate --study s.toml --model m.safetensors --source csv --path t.csv --preparation p",
        "predict --study s.toml --model m.safetensors --input new.csv --out said.csv",
        "predict --study ward --model m.safetensors --input pictures --data ward --json",
        "--version",
        "synthetic-worker",
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        if let Err(error) = parse(&words) {
            panic!("{words:?}: {error}");
        }
    }
}

#[test]
fn wrong_usage_is_refused_with_what_to_write() {
    for (words, said) in [
        ("train --study s.toml --data mnist", "--local"),
        ("train --local --study s.toml --data a --source idx", "cannot be used with"),
        ("train --local --study s.toml --source idx --part 4/4", "0/4 for the first"),
        ("train --local --study s.toml --source idx --holdout 1.0", "below 1"),
        ("study accept mnist", "NAME@DIGEST"),
        ("study accept mnist@1234567 --by Ada --reason voted", "8 to 64"),
        ("study accept mnist@12345678 --reason voted", "--by"),
        ("study accept mnist@12345678 --by Ada", "--reason"),
        ("study show mnist@", "8 to 64"),
        ("ledger show --since yesterday", "not a date"),
        ("ledger verify --key site.pub", "required"),
        ("study show St.Mary", "not valid"),
        ("statsu", "status"),
    ] {
        let words: Vec<&str> = words.split_whitespace().collect();
        let error = parse(&words).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{words:?}");
        assert!(error.to_string().contains(said), "{words:?}: {error}");
    }
}

#[test]
fn exit_codes_are_as_documented() {
    let code = |failure: fn(String) -> Failure| failure("x".to_owned()).exit_code();
    assert_eq!(code(Failure::Failed), 1);
    assert_eq!(code(Failure::Usage), 2);
    assert_eq!(code(Failure::Unreachable), 3);
    assert_eq!(code(Failure::Refused), 4);
}
