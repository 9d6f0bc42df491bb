//! `cargo xtask sim`: many federations in simulated time, over all cores.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it says is its output")]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use consilium_tests::simulation::{Coverage, Violation, run, shrink};
use serde_json::json;

/// Hits that each fault in each moment, and each death at each action, should have.
const HITS_LEAST: u64 = 100;
/// Violations after which a run stops: one bug fails many seeds.
const VIOLATIONS_MAX: u64 = 5;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!("sim: {message}\nusage: sim [--seeds N] [--from SEED] [--json]");
            return ExitCode::from(2);
        }
    };
    // A violation is caught and told at the end; the panic's own words would come twice.
    std::panic::set_hook(Box::new(|_| {}));
    #[expect(clippy::disallowed_methods, reason = "how long a run took")]
    let began = Instant::now();
    let (coverage, violations) = all(&options);
    report(&options, &coverage, &violations, began.elapsed())
}

struct Options {
    seeds: u64,
    from: u64,
    json: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { seeds: 10_000, from: 0, json: false };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, String> {
                let text = words.next().ok_or_else(|| format!("{word} needs a number"))?;
                text.parse().map_err(|_| format!("{word} {text}: not a number"))
            };
            match word.as_str() {
                "--seeds" => options.seeds = number()?,
                "--from" => options.from = number()?,
                "--json" => options.json = true,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

/// Runs every seed, a thread a core.
fn all(options: &Options) -> (Coverage, Vec<Violation>) {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    let (next, failed) = (AtomicU64::new(options.from), AtomicU64::new(0));
    let end = options.from.saturating_add(options.seeds);
    let work = || {
        let (mut total, mut violations) = (Coverage::default(), Vec::new());
        while failed.load(Ordering::Relaxed) < VIOLATIONS_MAX {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                break;
            }
            match run(seed) {
                Ok(coverage) => total.add(&coverage),
                Err(violation) => {
                    failed.fetch_add(1, Ordering::Relaxed);
                    violations.push(shrink(*violation));
                }
            }
        }
        (total, violations)
    };
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let (mut total, mut violations) = (Coverage::default(), Vec::new());
        for worker in workers {
            if let Ok((coverage, found)) = worker.join() {
                total.add(&coverage);
                violations.extend(found);
            }
        }
        (total, violations)
    })
}

fn report(
    options: &Options,
    coverage: &Coverage,
    violations: &[Violation],
    took: Duration,
) -> ExitCode {
    let gaps = coverage.gaps(HITS_LEAST);
    if options.json {
        let row = |name: &str, value: u64, unit: &str, goal: &str, ok: bool| json!({ "name": name, "value": value, "unit": unit, "goal": goal, "ok": ok });
        let [sites, rounds, faults] = coverage.medians();
        let rows = [
            row("federations", coverage.sizes.len() as u64, "", "", true),
            row("violations", violations.len() as u64, "", "0", violations.is_empty()),
            row("gaps in the coverage", gaps.len() as u64, "", "0", gaps.is_empty()),
            row("median sites", sites, "", ">= 3", sites >= 3),
            row("median rounds", rounds, "", ">= 5", rounds >= 5),
            row("median faults", faults, "", ">= 10", faults >= 10),
            row("seconds", took.as_secs(), "s", "", true),
        ];
        println!("{}", json!(rows));
    } else {
        println!("{}\n{:.1} s", coverage.table(), took.as_secs_f64());
        if !gaps.is_empty() {
            println!("{} fields reached less than {HITS_LEAST} times", gaps.len());
        }
    }
    for violation in violations {
        eprintln!(
            "VIOLATION {violation}\n  replay: cargo xtask sim --from {} --seeds 1",
            violation.seed
        );
    }
    if violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
