//! Hostile input under libFuzzer: `tests/fuzz`, a workspace of its own, built with coverage counters
//! into a target folder of its own. It needs a C++ compiler and nothing but stable Rust.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::{Value, json};

use crate::shell;
use crate::workspace::Workspace;

/// What cargo-fuzz passes too, less the sanitizer: there is no unsafe code of ours to watch.
const FLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                     -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Seconds for each target if nothing else is said.
const SECONDS: u64 = 10;
/// Inputs are not made longer: every format says all it has to say in less.
const INPUT_BYTES_MAX: u32 = 4096;
/// libFuzzer with its own tables and corpus; the decoders alone are held to [`HEAP_MIB_MAX`].
const PROCESS_MIB_MAX: u32 = 1024;
/// What the decoders may hold, which the fuzzer's allocator enforces.
const HEAP_MIB_MAX: f64 = 64.0;
/// A single input that takes longer is a bug.
const INPUT_SECONDS_MAX: u32 = 5;
/// Bytes of one target's committed inputs.
const KEPT_BYTES_MAX: usize = 16 << 10;
/// Letters of a committed input's name: the first of its SHA-1.
const NAME_LETTERS: usize = 16;

/// Options of `cargo xtask fuzz`.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// One target; all of them, one after the other, if not given
    target: Option<String>,
    /// Inputs for each target
    #[arg(long)]
    runs: Option<u64>,
    /// Seconds for each target; 10 if neither is given
    #[arg(long)]
    seconds: Option<u64>,
    /// Keep the fewest inputs that reach what the seeds do not, in tests/fuzz/corpus
    #[arg(long)]
    keep: bool,
    /// Print one JSON array of rows {name, value, unit, goal, ok}
    #[arg(long)]
    json: bool,
}

/// Build the fuzzer and run it over the targets.
///
/// # Errors
/// The target is unknown, or an input broke a decoder: it lies in `target/fuzz/artifacts`.
pub(crate) fn run(workspace: &Workspace, options: &Options) -> Result<()> {
    let fuzzer = Fuzzer::build(workspace)?;
    let names = fuzzer.targets(options.target.as_deref())?;
    let mut rows = Vec::new();
    for name in &names {
        let session = fuzzer.session(name, options)?;
        eprintln!("{}", session.line(name));
        rows.extend(session.rows(name));
        if options.keep {
            fuzzer.keep(name)?;
        }
    }
    if options.json {
        #[expect(clippy::print_stdout, reason = "what --json asks for")]
        {
            println!("{}", Value::from(rows));
        }
    }
    Ok(())
}

/// The built program and its folders.
struct Fuzzer {
    program: PathBuf,
    /// `tests/fuzz/corpus`
    corpus: PathBuf,
    /// `target/fuzz`
    work: PathBuf,
}

impl Fuzzer {
    fn build(workspace: &Workspace) -> Result<Self> {
        let host = host()?;
        let work = workspace.root().join("target/fuzz");
        // With --target the flags are for the program alone, not for build scripts.
        let arguments = ["build", "--release", "--locked", "--target", &host];
        let mut build = workspace.cargo(&arguments);
        build.args(["--manifest-path", "tests/fuzz/Cargo.toml"]);
        shell::run(build.env("CARGO_TARGET_DIR", &work).env("RUSTFLAGS", FLAGS))?;
        let program = work.join(host).join("release/consilium-fuzz");
        Ok(Self { program, corpus: workspace.root().join("tests/fuzz/corpus"), work })
    }

    /// The targets: the folders of the corpus (a test holds the two against each other).
    fn targets(&self, wanted: Option<&str>) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.corpus).context("reading tests/fuzz/corpus")?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names: Vec<String> = names.collect::<Result<_>>()?;
        names.sort_unstable();
        match wanted {
            None => Ok(names),
            Some(wanted) if names.iter().any(|name| name == wanted) => Ok(vec![wanted.to_owned()]),
            Some(wanted) => {
                bail!("no target is called `{wanted}`; there are: {}", names.join(", "))
            }
        }
    }

    /// An emptied folder of the target below `target/fuzz`.
    fn folder(&self, what: &str, name: &str) -> Result<PathBuf> {
        let folder = self.work.join(what).join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("emptying {}", folder.display()))?;
        }
        fs::create_dir_all(&folder).with_context(|| format!("making {}", folder.display()))?;
        Ok(folder)
    }

    fn command(&self, name: &str, seeds: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command.env("CONSILIUM_FUZZ_TARGET", name).env("CONSILIUM_FUZZ_SEEDS", seeds);
        command
            .arg(format!("-max_len={INPUT_BYTES_MAX}"))
            .arg(format!("-rss_limit_mb={PROCESS_MIB_MAX}"))
            .arg(format!("-timeout={INPUT_SECONDS_MAX}"));
        command
    }

    /// Fuzzes one target; what it finds is in `target/fuzz/found/NAME`.
    fn session(&self, name: &str, options: &Options) -> Result<Session> {
        let artifacts = self.work.join("artifacts");
        fs::create_dir_all(&artifacts).context("making target/fuzz/artifacts")?;
        let found = self.work.join("found").join(name);
        fs::create_dir_all(&found).context("making target/fuzz/found")?;
        let seeds = self.folder("seeds", name)?;
        let mut command = self.command(name, &seeds);
        command
            .arg("-print_final_stats=1")
            .arg(format!("-artifact_prefix={}/{name}-", artifacts.display()))
            .args(options.runs.map(|runs| format!("-runs={runs}")))
            .args(bound(options).map(|seconds| format!("-max_total_time={seconds}")))
            .args([&found, &self.corpus.join(name), &seeds]);
        let said = shell::say(&command);
        #[expect(clippy::disallowed_methods, reason = "how long a session took")]
        let began = Instant::now();
        let output = command.stdin(Stdio::null()).output();
        let output = output.with_context(|| format!("cannot start `{said}`"))?;
        let told = String::from_utf8_lossy(&output.stderr);
        if !output.status.success() {
            let artifacts = artifacts.display();
            bail!("{told}\ntarget {name} broke: its input is in {artifacts}/{name}-*");
        }
        Ok(Session { seconds: began.elapsed().as_secs_f64(), ..Session::read(&told) })
    }

    /// Replaces the committed corpus by the fewest inputs that reach what it and what was found
    /// reach and the seeds do not; of many, the shortest.
    fn keep(&self, name: &str) -> Result<()> {
        // libFuzzer adds to its first folder, which here begins with the seeds.
        let least = self.folder("least", name)?;
        let (found, kept) = (self.work.join("found").join(name), self.corpus.join(name));
        let mut merge = self.command(name, &least);
        merge.args(["-merge=1", "-set_cover_merge=1", "-use_counters=0"]);
        shell::run(merge.args([&least, &kept, &found]).stderr(Stdio::null()))?;
        let entries = fs::read_dir(&least).context("reading what was merged")?;
        let mut inputs = entries.map(|entry| input(&entry?.path())).collect::<Result<Vec<_>>>()?;
        inputs.retain(|(name, bytes)| !name.starts_with("seed-") && !holds_a_key(bytes));
        inputs.sort_by_key(|(name, bytes)| (bytes.len(), name.clone()));
        fs::remove_dir_all(&kept).with_context(|| format!("emptying {}", kept.display()))?;
        fs::create_dir(&kept).with_context(|| format!("making {}", kept.display()))?;
        let mut room = KEPT_BYTES_MAX;
        for (name, bytes) in inputs {
            let Some(left) = room.checked_sub(bytes.len()) else {
                break;
            };
            room = left;
            let short: String = name.chars().take(NAME_LETTERS).collect();
            fs::copy(least.join(&name), kept.join(short)).context("writing the corpus")?;
        }
        Ok(())
    }
}

/// An input with the name of its file.
fn input(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Ok((name, fs::read(path).with_context(|| format!("reading {}", path.display()))?))
}

/// Keys of certificates are made anew in each process: none is worth keeping.
fn holds_a_key(bytes: &[u8]) -> bool {
    const MARK: &[u8] = b"PRIVATE KEY";
    bytes.windows(MARK.len()).any(|part| part == MARK)
}

/// Seconds, if the session is bounded by time.
fn bound(options: &Options) -> Option<u64> {
    options.seconds.or_else(|| options.runs.is_none().then_some(SECONDS))
}

/// The triple that rustc builds for by itself.
fn host() -> Result<String> {
    let mut rustc = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let told = shell::read(rustc.arg("-vV"))?;
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("`rustc -vV` names no host")?.to_owned())
}

/// What a session came to, by libFuzzer's and the fuzzer's own words.
#[derive(Debug, Default, PartialEq)]
struct Session {
    executions: u64,
    seconds: f64,
    /// Inputs that each reach something.
    corpus: u64,
    process_mib: u64,
    /// The decoders' heap: at the start, and at most.
    heap_before: u64,
    heap_peak: u64,
}

impl Session {
    fn read(told: &str) -> Self {
        let mut session = Self::default();
        for line in told.lines() {
            let number =
                |prefix: &str| line.strip_prefix(prefix)?.split_whitespace().next()?.parse().ok();
            let fields: [(&str, &mut u64); 4] = [
                ("stat::number_of_executed_units:", &mut session.executions),
                ("stat::peak_rss_mb:", &mut session.process_mib),
                ("heap before:", &mut session.heap_before),
                ("heap peak:", &mut session.heap_peak),
            ];
            for (prefix, field) in fields {
                *field = number(prefix).unwrap_or(*field);
            }
            // #1048576 DONE   cov: 402 ft: 1210 corp: 97/11Kb …
            if let Some((_, after)) = line.split_once(" corp: ") {
                let count = after.split('/').next().and_then(|count| count.parse().ok());
                session.corpus = count.unwrap_or(session.corpus);
            }
        }
        session
    }

    #[expect(clippy::cast_precision_loss, reason = "display only")]
    fn heap_mib(&self) -> f64 {
        self.heap_peak.saturating_sub(self.heap_before) as f64 / f64::from(1 << 20)
    }

    #[expect(clippy::cast_precision_loss, reason = "display only")]
    fn per_second(&self) -> f64 {
        (self.executions as f64 / self.seconds.max(0.001)).round()
    }

    fn line(&self, name: &str) -> String {
        format!(
            "{name:<18} {:>10} executions, {:>7.0}/s, corpus {:>4}, heap grown by {:.1} MiB, process \
             {} MiB",
            self.executions,
            self.per_second(),
            self.corpus,
            self.heap_mib(),
            self.process_mib
        )
    }

    fn rows(&self, name: &str) -> [Value; 6] {
        let row = |what: &str, value: Value, unit: &str, goal: &str, ok: bool| json!({ "name": format!("{name}: {what}"), "value": value, "unit": unit, "goal": goal, "ok": ok });
        let heap = self.heap_mib();
        [
            row("executions", self.executions.into(), "", "", true),
            row("executions per second", self.per_second().into(), "1/s", "", true),
            row("seconds", self.seconds.into(), "s", "", true),
            row("corpus", self.corpus.into(), "inputs", "", true),
            row("process at its peak", self.process_mib.into(), "MiB", "", true),
            row("heap grown by", heap.into(), "MiB", "< 64", heap < HEAP_MIB_MAX),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_read_from_what_the_fuzzer_said() {
        let told = "heap before: 1048576 bytes\nheap peak: 2097152 bytes\nheap peak: 3145728 bytes\n\
                    #9\tDONE   cov: 5 ft: 6 corp: 7/8b lim: 4 exec/s: 0 rss: 40Mb\n\
                    stat::number_of_executed_units: 9\nstat::average_exec_per_sec:     4\n\
                    stat::peak_rss_mb:              41\n";
        let session = Session::read(told);
        let expected = Session {
            executions: 9,
            seconds: 0.0,
            corpus: 7,
            process_mib: 41,
            heap_before: 1 << 20,
            heap_peak: 3 << 20,
        };
        assert_eq!(session, expected);
        assert!((session.heap_mib() - 2.0).abs() < 1e-9);
    }

    #[test]
    fn ten_seconds_are_the_bound_where_none_is_given() {
        let options =
            |runs, seconds| Options { target: None, runs, seconds, keep: false, json: false };
        assert_eq!(bound(&options(None, None)), Some(10));
        assert_eq!(bound(&options(Some(5), None)), None);
        assert_eq!(bound(&options(Some(5), Some(3))), Some(3));
    }
}
