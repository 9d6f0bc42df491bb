//! `cargo xtask chaos`: real programs under kills, freezes, bad networks and bad disks.

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "what it says is its output")]

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use consilium_tests::chaos::{Campaign, Tally, Trip, Weather};
use serde_json::json;

/// Kills of one federation, after which its log is judged and the next begins.
const CAMPAIGN_KILLS: u64 = 50;
/// Federations at the same time: a struck one mostly waits for reconnects.
const AT_ONCE: usize = 4;

/// Datagrams of an ordinary network at most: Ethernet less the headers of IP, UDP and a tunnel.
const ETHERNET_BYTES: usize = 1452;

fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(message) => {
            eprintln!(
                "chaos: {message}\nusage: chaos [--kills N] [--seed SEED] [--lines] [--json]"
            );
            return ExitCode::from(2);
        }
    };
    #[expect(clippy::disallowed_methods, reason = "how long a run took")]
    let began = Instant::now();
    if options.lines {
        return lines(&options);
    }
    let (tally, failed) = all(&options);
    report(&options, &tally, failed, began.elapsed().as_secs())
}

struct Options {
    kills: u64,
    seed: u64,
    lines: bool,
    json: bool,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut options = Self { kills: 100, seed: 1, lines: false, json: false };
        while let Some(word) = words.next() {
            let mut number = || -> Result<u64, String> {
                let text = words.next().ok_or_else(|| format!("{word} needs a number"))?;
                text.parse().map_err(|_| format!("{word} {text}: not a number"))
            };
            match word.as_str() {
                "--kills" => options.kills = number()?,
                "--seed" => options.seed = number()?,
                "--lines" => options.lines = true,
                "--json" => options.json = true,
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

/// Campaigns until enough was killed; how many of them failed.
fn all(options: &Options) -> (Tally, u64) {
    let total = Mutex::new(Tally::default());
    let (left, seed, failed) =
        (AtomicU64::new(options.kills), AtomicU64::new(options.seed), AtomicU64::new(0));
    let take = || {
        let part = |left: u64| (left > 0).then(|| left.saturating_sub(CAMPAIGN_KILLS));
        let before = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, part).ok()?;
        Some((before.min(CAMPAIGN_KILLS), seed.fetch_add(1, Ordering::Relaxed)))
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some((kills, seed)) = take() {
                    match thread::spawn(move || Campaign::start(seed).run(kills)).join() {
                        Ok(tally) => {
                            let mut total = total.lock().unwrap_or_else(|e| e.into_inner());
                            total.add(&tally);
                            eprintln!("{} kills, {} rounds", total.kills, total.verdict.committed);
                        }
                        Err(_) => {
                            failed.fetch_add(1, Ordering::Relaxed);
                            eprintln!("FAILED: cargo xtask chaos --kills {kills} --seed {seed}");
                        }
                    }
                }
            });
        }
    });
    (total.into_inner().unwrap_or_else(|e| e.into_inner()), failed.into_inner())
}

/// Studies over bad lines, each beside the same study over a good one.
fn lines(options: &Options) -> ExitCode {
    let line = |loss, round_trip_ms: u64| Weather {
        loss,
        delay: Duration::from_millis(round_trip_ms / 2),
        mtu: ETHERNET_BYTES,
        ..Weather::CALM
    };
    let trips = [(8, 1_000_000, 5, line(0.05, 200)), (8, 10_000, 3, line(0.3, 1_000))];
    let mut rows = Vec::new();
    for (sites, parameters, rounds, bad) in trips {
        for weather in [line(0.0, 0), bad] {
            let seconds = 3_600;
            let went = Trip { sites, parameters, rounds, weather, seconds }.go(options.seed);
            let name = format!(
                "{sites} sites × {parameters} parameters × {rounds} rounds, {} % loss, {} ms round trip",
                100.0 * weather.loss,
                2 * weather.delay.as_millis()
            );
            let ok = went.verdict.abandoned == 0 && went.verdict.lost == 0;
            eprintln!("{name}: {:?}", went.tally);
            rows.push(json!({ "name": name, "value": went.took.as_secs_f64(), "unit": "s", "goal": "completes", "ok": ok }));
        }
    }
    if options.json {
        println!("{}", json!(rows));
    } else {
        for row in &rows {
            println!(
                "{:8.1} s  {}",
                row["value"].as_f64().unwrap_or_default(),
                row["name"].as_str().unwrap_or_default()
            );
        }
    }
    if rows.iter().all(|row| row["ok"] == true) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn report(options: &Options, tally: &Tally, failed: u64, seconds: u64) -> ExitCode {
    let verdict = &tally.verdict;
    let ok = failed == 0 && verdict.lost == 0;
    if options.json {
        let row = |name: &str, value: u64, goal: &str, ok: bool| json!({ "name": name, "value": value, "unit": "", "goal": goal, "ok": ok });
        let mut rows = vec![
            row("processes killed", tally.kills, "", true),
            row("acknowledged updates", verdict.receipts, "", true),
            row("acknowledged updates lost", verdict.lost, "0", verdict.lost == 0),
            row("campaigns that failed", failed, "0", failed == 0),
            row("rounds committed, each the exact sum", verdict.committed, "", true),
            row("rounds abandoned", verdict.abandoned, "", true),
            row("seconds", seconds, "", true),
        ];
        rows.extend(tally.strikes.iter().map(|(kind, count)| row(kind, *count, "", true)));
        println!("{}", json!(rows));
    } else {
        for (kind, count) in &tally.strikes {
            println!("{count:7}  {kind}");
        }
        println!("{:7}  datagrams lost, doubled, overtaken or too large", tally.disturbed);
        println!("{:7}  daemons that a fault ended, started again", tally.gave_up);
        println!("{:7}  processes killed", tally.kills);
        println!("{:7}  rounds committed, each the exact sum of its roll call", verdict.committed);
        println!("{:7}  rounds abandoned, with their reason", verdict.abandoned);
        println!("{:7}  updates acknowledged", verdict.receipts);
        println!("{:7}  of them in abandoned rounds", verdict.in_abandoned);
        println!("{:7}  of them lost", verdict.lost);
        println!("{failed:7}  campaigns that failed\n{seconds} s");
    }
    for (kind, why) in &tally.untried {
        eprintln!("not tried here: {kind}: {why}");
    }
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
