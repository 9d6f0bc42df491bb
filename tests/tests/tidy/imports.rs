//! Which folders are pure, and what a pure file may name. This reads text, not syntax trees: it
//! knows `use` with groups and renames, and full paths in code, which is how people write them.

/// A folder that does no I/O, and what of its own crate it may use.
struct Pure {
    folder: &'static str,
    /// Sibling modules; `None` where the whole crate is pure and chose its dependencies to be.
    siblings: Option<&'static [&'static str]>,
}

const PURE: [Pure; 8] = [
    Pure { folder: "common/src", siblings: None },
    Pure { folder: "coordinator/src/round", siblings: Some(COORDINATOR) },
    Pure { folder: "coordinator/src/aggregate", siblings: Some(COORDINATOR) },
    Pure { folder: "coordinator/src/conduct", siblings: Some(COORDINATOR) },
    Pure { folder: "coordinator/src/members", siblings: Some(COORDINATOR) },
    Pure { folder: "coordinator/src/registry", siblings: Some(COORDINATOR) },
    Pure { folder: "agent/src/session", siblings: Some(AGENT) },
    Pure { folder: "agent/src/policy", siblings: Some(AGENT) },
];
const COORDINATOR: &[&str] = &["round", "aggregate", "conduct", "members", "registry", "limits"];
const AGENT: &[&str] = &["session", "policy"];

/// What no pure file may name, however it writes the path.
const IMPURE: [&str; 17] = [
    "std::env",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time::Instant",
    "std::time::SystemTime",
    "getrandom",
    "libc",
    "quinn",
    "sled",
    "tokio",
    "TimeZone::get",
    "TimeZone::system",
    "Timestamp::now",
    "Zoned::now",
];

/// The crates that a pure folder of coordinator or agent may use (and its siblings, and itself).
const CRATES: [&str; 12] = [
    "core",
    "alloc",
    "std",
    "crate",
    "self",
    "super",
    "consilium_common",
    "thiserror",
    "serde",           // derives on what status shows
    "blake3",          // the digest of a sum
    "consilium_certs", // the roster and the consortium, as documents
    "jiff",            // the rules of a time zone that an edge has read
];

/// Findings in the code of the file at `path`; none if it does not lie in a pure folder.
pub(crate) fn against_purity(path: &str, code: &str) -> Vec<String> {
    let inside = |pure: &&Pure| {
        let rest = path.strip_prefix(pure.folder);
        rest.is_some_and(|rest| rest.starts_with('/') || rest == ".rs")
    };
    let Some(pure) = PURE.iter().find(inside) else {
        return Vec::new();
    };
    let children: Vec<&str> = code.lines().filter_map(declared_module).collect();
    let finding = |(line, named): (usize, String)| {
        let why = complaint(&named, pure.siblings, &children)?;
        Some(format!("{path}:{line}: `{named}` in a pure core: {why}"))
    };
    paths(code).into_iter().filter_map(finding).collect()
}

fn complaint(named: &str, siblings: Option<&[&str]>, children: &[&str]) -> Option<&'static str> {
    if IMPURE.iter().any(|impure| is_or_under(named, impure)) {
        return Some("no clock, socket, disk or randomness here; take the value as an argument");
    }
    let mut segments = named.split("::");
    let (first, second) = (segments.next()?, segments.next().unwrap_or(""));
    let local = first.starts_with(char::is_uppercase) || children.contains(&first);
    if !CRATES.contains(&first) && !local {
        return siblings.map(
            |_| "only core, alloc, std, consilium_common, thiserror, serde, blake3 and jiff here",
        );
    }
    let edge = first == "crate" && siblings.is_some_and(|names| !names.contains(&second));
    edge.then_some("this is an edge of the crate: pass the value in, or move it to a pure folder")
}

fn declared_module(line: &str) -> Option<&str> {
    let name = line.trim().strip_suffix(';')?.split_once("mod ")?.1;
    (!name.contains(' ')).then_some(name)
}

/// Every imported path with its line, groups unfolded, and every impure path in the code between.
fn paths(code: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut import: Option<(usize, String)> = None;
    for (number, line) in (1..).zip(code.lines()) {
        let line = line.split("//").next().unwrap_or("").trim();
        match &mut import {
            Some((_, text)) => text.push_str(line),
            None => match imported(line) {
                Some(tree) => import = Some((number, tree.to_owned())),
                None => found.extend(impure_words(line).map(|word| (number, word.to_owned()))),
            },
        }
        if let Some((first, text)) = import.take_if(|(_, text)| text.contains(';')) {
            let tree = text.split(';').next().unwrap_or("");
            found.extend(unfold(tree).into_iter().map(|path| (first, path)));
        }
    }
    found
}

/// What follows `use`, if the line starts an import of any visibility.
fn imported(line: &str) -> Option<&str> {
    let (before, tree) = line.split_once("use ")?;
    let visibility = before.trim();
    (visibility.is_empty() || visibility.starts_with("pub")).then_some(tree)
}

fn impure_words(line: &str) -> impl Iterator<Item = &str> {
    let words = line.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':'));
    words
        .filter(|word| word.contains("::") && IMPURE.iter().any(|impure| is_or_under(word, impure)))
}

/// `a::{b, c::{d, e as f}}` as `a::b`, `a::c::d`, `a::c::e`.
fn unfold(tree: &str) -> Vec<String> {
    let tree = tree.trim();
    let Some((prefix, rest)) = tree.split_once('{') else {
        let path = tree.split(" as ").next().unwrap_or("").trim();
        return if path.is_empty() { Vec::new() } else { vec![path.to_owned()] };
    };
    let inner = rest.rsplit_once('}').map_or(rest, |(inner, _)| inner);
    let mut depth = 0_i32;
    let parts = inner.split(|c: char| {
        depth += i32::from(c == '{') - i32::from(c == '}');
        c == ',' && depth == 0
    });
    parts.flat_map(unfold).map(|path| format!("{prefix}{path}")).collect()
}

fn is_or_under(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

#[test]
fn a_group_is_unfolded_and_a_rename_hides_nothing() {
    assert_eq!(
        unfold("std::{fmt, fs::{self, File as F}, time::Instant,}"),
        ["std::fmt", "std::fs::self", "std::fs::File", "std::time::Instant"]
    );
}

#[test]
fn io_in_a_core_is_found_however_it_is_written() {
    let code = "//! std::fs in words\nuse std::{\n    fmt,\n    fs,\n};\npub(crate) use tokio::time;\n\
                fn now() { let t = std::time::Instant::now(); } // std::net\n";
    let lines = |path| {
        let findings = against_purity(path, code);
        findings.iter().map(|f| f.split('`').nth(1).unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all = ["std::fs", "tokio::time", "std::time::Instant::now"];
    assert_eq!(lines("common/src/wire/mod.rs"), all);
    assert_eq!(lines("agent/src/session.rs"), all);
    assert!(lines("common/io/src/lib.rs").is_empty() && lines("agent/src/sessions.rs").is_empty());
}

#[test]
fn a_core_reaches_its_siblings_and_no_edge_or_foreign_crate() {
    let code = "mod phase;\nuse phase::Phase;\nuse Phase::Idle;\nuse crate::aggregate::Sum;\n\
                use crate::store::Store;\nuse tracing::info;\nuse consilium_common::ids;\n";
    let findings = against_purity("coordinator/src/round/mod.rs", code);
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].starts_with("coordinator/src/round/mod.rs:5: `crate::store::Store`"));
    assert!(findings[1].starts_with("coordinator/src/round/mod.rs:6: `tracing::info`"));
}
