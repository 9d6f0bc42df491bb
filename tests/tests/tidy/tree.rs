//! The text files of the repository, and small questions to them.

#![expect(clippy::unwrap_used, reason = "a repository that cannot be read is a failed test")]

use std::fs;
use std::path::{Path, PathBuf};

/// A text file, by its path from the root.
pub(crate) struct File {
    pub(crate) path: String,
    pub(crate) text: String,
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The path from the root, as findings show it.
pub(crate) fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap_or(path).to_string_lossy().into_owned()
}

/// Whether this is a source file.
pub(crate) fn is_rust(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "rs")
}

/// Every wanted text file that belongs to the repository, sorted: what .gitignore names is not in.
pub(crate) fn files(wanted: impl Fn(&Path) -> bool) -> Vec<File> {
    let ignored = fs::read_to_string(root().join(".gitignore")).unwrap();
    let ignored: Vec<&str> = ignored.lines().filter(|line| !line.starts_with('#')).collect();
    let mut folders = vec![root()];
    let mut found = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.ends_with(".git") || is_ignored(&relative(&path), &ignored) {
                continue;
            }
            if path.is_dir() {
                folders.push(path);
            } else if wanted(&path)
                && let Ok(text) = fs::read_to_string(&path)
            {
                found.push(File { path: relative(&path), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    assert!(!found.is_empty(), "no such file under {}", root().display());
    found
}

/// The two forms that our .gitignore uses: `/from-the-root`, with `*` at the end for any ending,
/// and `folder/` anywhere.
fn is_ignored(path: &str, patterns: &[&str]) -> bool {
    patterns.iter().any(|pattern| {
        if let Some(anywhere) = pattern.strip_suffix('/') {
            return path.rsplit('/').next() == Some(anywhere);
        }
        let Some(rooted) = pattern.strip_prefix('/') else {
            return false;
        };
        rooted.strip_suffix('*').map_or(path == rooted, |start| path.starts_with(start))
    })
}

/// The findings of a rule in every wanted file.
pub(crate) fn over(
    wanted: impl Fn(&Path) -> bool,
    rule: impl Fn(&File) -> Vec<String>,
) -> Vec<String> {
    files(wanted).iter().flat_map(rule).collect()
}

/// The part of a source file that is the product.
pub(crate) fn before_tests(text: &str) -> &str {
    let tests = text.lines().find(|line| line.trim() == "#[cfg(test)]");
    let at = tests.map_or(text.len(), |line| line.as_ptr() as usize - text.as_ptr() as usize);
    &text[..at]
}

/// A finding for each line that is wrong.
pub(crate) fn lines_where(file: &File, wrong: impl Fn(&str) -> bool, rule: &str) -> Vec<String> {
    let lines = (1..).zip(file.text.lines()).filter(|(_, line)| wrong(line));
    lines.map(|(number, _)| format!("{}:{number}: {rule}", file.path)).collect()
}

/// Whether `line` has `mark`, and not as part of a longer word.
pub(crate) fn has_word(line: &str, mark: &str) -> bool {
    let part_of_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    line.match_indices(mark).any(|(at, _)| {
        let after = line[at + mark.len()..].chars().next();
        !part_of_word(line[..at].chars().next_back())
            && (mark.ends_with('(') || !part_of_word(after))
    })
}

#[test]
fn the_walk_sees_sources_and_leaves_out_what_git_ignores() {
    let paths: Vec<String> = files(|_| true).into_iter().map(|file| file.path).collect();
    assert!(paths.contains(&"tests/tests/tidy/tree.rs".to_owned()));
    assert!(!paths.iter().any(|path| path.starts_with("target/") || path.starts_with(".git/")));
    assert!(is_ignored(".libtorch.lock", &["/.libtorch*"]) && !is_ignored("a/dist", &["/dist"]));
    assert!(is_ignored("a/__pycache__", &["__pycache__/"]));
}

#[test]
fn a_mark_counts_as_a_word_only() {
    assert!(has_word("// NB: later", "NB") && has_word("x = nb!(1)", "nb!("));
    assert!(
        !has_word("// UNBOUND", "NB") && !has_word("NB_MAX", "NB") && !has_word("knb!(", "nb!(")
    );
}

#[test]
fn tests_end_the_product_only_on_a_line_of_their_own() {
    let text = "//! see #[cfg(test)]\nfn a() {}\n#[cfg(test)]\nmod tests {}\n";
    assert_eq!(before_tests(text), "//! see #[cfg(test)]\nfn a() {}\n");
    assert_eq!(before_tests("fn a() {}"), "fn a() {}");
}
