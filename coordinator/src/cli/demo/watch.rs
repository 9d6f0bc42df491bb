//! Follows the federation from its first plan to its last version, on a terminal with a bar, else
//! with a line for each version.

use std::io::IsTerminal as _;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Context as _, bail};
use indicatif::{ProgressBar, ProgressStyle};

use super::observe::{Observer, Seen};
use super::report::{Outcome, Row, bytes, percent};
use super::{DemoArgs, go_on, study};
use crate::local::Federation;

const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where progress goes: standard error, so that standard output holds the result alone.
#[derive(Debug)]
pub(super) struct Screen {
    terminal: bool,
    quiet: bool,
}

impl Screen {
    pub(super) fn new(json: bool) -> Self {
        Self { terminal: std::io::stderr().is_terminal(), quiet: json }
    }

    /// One line.
    #[expect(clippy::print_stderr, reason = "progress of the command")]
    pub(super) fn say(&self, line: &str) {
        if !self.quiet {
            eprintln!("{line}");
        }
    }

    /// A bar on a terminal, nothing elsewhere.
    pub(super) fn bar(&self, total: u64, what: &str) -> ProgressBar {
        if self.quiet || !self.terminal {
            return ProgressBar::hidden();
        }
        let bar = ProgressBar::new(total);
        let style =
            ProgressStyle::with_template("{prefix:12} {bar:30} {pos}/{len} {elapsed} {msg}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.set_prefix(what.to_owned());
        bar
    }
}

/// Waits until the study is complete; what it found.
pub(super) fn until_complete(
    federation: &mut Federation,
    args: &DemoArgs,
    screen: &Screen,
    stop: &AtomicBool,
) -> anyhow::Result<Outcome> {
    let mut observer = Observer::new(study::STUDY);
    let bar = screen.bar(args.rounds, "training");
    let mut told = 0;
    loop {
        go_on(stop)?;
        check_alive(federation)?;
        let seen: Seen = observer.look(federation)?;
        let scored = seen.rows.iter().filter(|row| row.accuracy.is_some()).count();
        for row in seen.rows.iter().take(scored).skip(told) {
            bar.suspend(|| screen.say(&line(row)));
        }
        told = told.max(scored);
        bar.set_position(seen.version);
        bar.set_message(seen.doing.clone());
        if seen.complete {
            bar.finish_and_clear();
            return outcome(seen, args);
        }
        pause();
    }
}

fn outcome(seen: Seen, args: &DemoArgs) -> anyhow::Result<Outcome> {
    let rounds: Vec<Row> = seen.rows;
    let row = rounds.last().context("the study is complete without a version")?;
    if row.version != args.rounds {
        bail!("the study ended at v{} instead of v{}", row.version, args.rounds);
    }
    let last = super::report::Last {
        accuracy: row.accuracy,
        loss: row.loss,
        version: row.version,
        model_digest: seen.model,
        seconds: rounds.iter().map(|row| row.seconds).sum(),
    };
    Ok(Outcome { last, rounds })
}

fn line(row: &Row) -> String {
    format!(
        "round {:>3}  v{:<3} accuracy {}  loss {:.4}  {:.1} s  up {}  down {}",
        row.round,
        row.version,
        percent(row.accuracy),
        row.loss.unwrap_or(f64::NAN),
        row.seconds,
        bytes(row.bytes_up),
        bytes(row.bytes_down),
    )
}

/// A daemon that went is an error now, not a wait for ever.
fn check_alive(federation: &mut Federation) -> anyhow::Result<()> {
    for site in 0..federation.sites().len() {
        if let Some(agent) = federation.agent(site)
            && let Some(status) = agent.ended()
        {
            return Err(agent.not_ready(format!("ended with {status}")).into());
        }
    }
    if let Some(coordinator) = federation.coordinator()
        && let Some(status) = coordinator.ended()
    {
        return Err(coordinator.not_ready(format!("ended with {status}")).into());
    }
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "a command that watches; no runtime runs here")]
fn pause() {
    std::thread::sleep(LOOK_EVERY);
}
