//! The house rules as tests: sizes, pure cores, no unsafe, nothing left to do later, links and
//! units that lead somewhere. Each finding says file, line, rule and what to do. (Who may depend on
//! whom needs cargo: `cargo xtask lint`, deploy/xtask/src/graph.rs.)

#[path = "tidy/imports.rs"]
mod imports;
#[path = "tidy/tree.rs"]
mod tree;

use std::fs;

use tree::{File, before_tests, files, has_word, is_rust, lines_where, over, relative, root};

/// Lines of a source file before its tests: what one reads in a sitting.
const FILE_LINES_MAX: usize = 400;

/// What the units start: program, subcommand, and the folder whose command line declares it.
const PROGRAMS: [(&str, &str, &str); 3] = [
    ("/usr/bin/consilium", "serve", "coordinator/src/"),
    ("/usr/bin/consilium", "ca", "coordinator/src/"),
    ("/usr/bin/consilium-agent", "run", "agent/src/"),
];

#[test]
fn a_file_is_read_in_one_sitting() {
    let code = |path: &std::path::Path| {
        let tests =
            path.ends_with("tests.rs") || path.components().any(|part| part.as_os_str() == "tests");
        is_rust(path) && !tests
    };
    report(&over(code, |file| {
        let lines = before_tests(&file.text).lines().count();
        if lines <= FILE_LINES_MAX {
            return Vec::new();
        }
        vec![format!(
            "{}:{lines}: {lines} lines before its tests, at most {FILE_LINES_MAX}: split it by \
             purpose, a file each",
            file.path
        )]
    }));
}

#[test]
fn pure_cores_do_no_io() {
    report(&over(is_rust, |file| imports::against_purity(&file.path, before_tests(&file.text))));
}

#[test]
fn the_daemons_do_not_name_libtorch() {
    let daemons = ["coordinator/Cargo.toml", "agent/Cargo.toml"];
    let names_torch = |line: &str| {
        let key = line.split(['.', ' ', '=']).next().unwrap_or("");
        ["tch", "torch-sys"].contains(&key)
    };
    report(&over(
        |path| daemons.iter().any(|daemon| path.ends_with(daemon)),
        |file| {
            let rule = "libtorch in a daemon: only consilium-worker links it, as a process apart";
            lines_where(file, names_torch, rule)
        },
    ));
}

#[test]
fn every_crate_keeps_the_lints_of_the_workspace_and_forbids_unsafe_code() {
    let mut findings = Vec::new();
    for manifest in files(|path| path.ends_with("Cargo.toml")) {
        if !manifest.text.contains("[package]") {
            continue;
        }
        if !manifest.text.contains("[lints]\nworkspace = true") {
            findings.push(format!("{}:1: no `[lints] workspace = true`: add it", manifest.path));
        }
        let source = root().join(&manifest.path).with_file_name("src");
        for head in ["lib.rs", "main.rs"].map(|name| source.join(name)) {
            let Ok(text) = fs::read_to_string(&head) else {
                continue;
            };
            let attribute = |how: &&str| text.contains(&format!("#![{how}(unsafe_code)]"));
            if !["forbid", "deny"].iter().any(attribute) {
                findings.push(format!(
                    "{}:1: unsafe code is possible: add `#![forbid(unsafe_code)]`, or `deny` where \
                     one place must have it",
                    relative(&head)
                ));
            }
        }
    }
    report(&findings);
}

#[test]
fn nothing_is_left_for_later() {
    // In pieces, or this file would be the first finding.
    let marks = [
        concat!("TO", "DO"),
        concat!("FIX", "ME"),
        concat!("todo", "!("),
        concat!("unimplemented", "!("),
    ];
    let marked = |line: &str| marks.iter().any(|mark| has_word(line, mark));
    let rule = "something left for later: do it, or open an issue and leave the mark out";
    report(&over(|_| true, |file| lines_where(file, marked, rule)));
}

#[test]
fn links_between_documents_resolve() {
    report(&over(|path| path.extension().is_some_and(|e| e == "md"), dead_links));
}

#[test]
fn units_start_subcommands_that_exist() {
    let units = files(|path| path.extension().is_some_and(|e| e == "service"));
    assert!(units.len() >= 2, "the units have moved: deploy/systemd/*.service");
    let command_lines = files(is_rust);
    let exists = |command: &str| {
        let mut words = command.split_whitespace();
        let (program, word) = (words.next(), words.next());
        let known = PROGRAMS.iter().find(|&&(p, s, _)| Some(p) == program && Some(s) == word);
        known.is_some_and(|&(_, word, folder)| declares(&command_lines, folder, word))
    };
    let wrong = |line: &str| line.strip_prefix("ExecStart=").is_some_and(|c| !exists(c));
    let rule = "no such program or subcommand: the daemons are `/usr/bin/consilium serve` and \
                `/usr/bin/consilium-agent run`";
    report(&units.iter().flat_map(|unit| lines_where(unit, wrong, rule)).collect::<Vec<_>>());
}

/// Whether an enum in `folder`'s main.rs or cli has a variant for the subcommand.
fn declares(sources: &[File], folder: &str, subcommand: &str) -> bool {
    let variant = format!("{}{}", subcommand[..1].to_uppercase(), &subcommand[1..]);
    let declared = |line: &str| {
        let rest = line.trim().strip_prefix(&variant);
        rest.is_some_and(|rest| rest.starts_with(['(', ',', ' ']))
    };
    sources.iter().any(|file| {
        let place = file.path.strip_prefix(folder);
        place.is_some_and(|place| place == "main.rs" || place.starts_with("cli"))
            && file.text.lines().any(declared)
    })
}

/// Links of a Markdown file to files that are not there.
fn dead_links(file: &File) -> Vec<String> {
    let folder = root().join(&file.path).with_file_name("");
    let mut fenced = false;
    let mut findings = Vec::new();
    for (number, line) in (1..).zip(file.text.lines()) {
        fenced ^= line.trim_start().starts_with("```");
        let targets = line.split("](").skip(1).filter_map(|rest| rest.split([')', ' ']).next());
        for target in targets.filter(|_| !fenced) {
            let path = target.split('#').next().unwrap_or("");
            let elsewhere = path.contains("://") || path.starts_with("mailto:");
            if !path.is_empty() && !elsewhere && !folder.join(path).exists() {
                findings.push(format!(
                    "{}:{number}: the link to `{target}` leads nowhere: mend or remove it",
                    file.path
                ));
            }
        }
    }
    findings
}

fn report(findings: &[String]) {
    assert!(findings.is_empty(), "{} finding(s):\n{}\n", findings.len(), findings.join("\n"));
}

#[test]
fn a_dead_link_is_found_and_code_and_the_web_are_not_links() {
    let text = "[x](Cargo.toml#a) [y](https://e.org/z) [w](#w)\n```\na](gone)\n```\n[z](gone.md)";
    let findings = dead_links(&File { path: "README.md".to_owned(), text: text.to_owned() });
    let expected = "README.md:5: the link to `gone.md` leads nowhere: mend or remove it";
    assert_eq!(findings, [expected]);
}
