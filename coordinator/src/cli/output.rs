//! What commands print: a table on a terminal, or with `--json` one document with stable names.

use std::fmt::Display;
use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use clap::Args;
use comfy_table::Table;
use comfy_table::presets::UTF8_BORDERS_ONLY;
use consilium_common::update::intervals::Interval;
use serde::Serialize;

use super::Failure;

/// `--json`
#[derive(Debug, Clone, Copy, Args)]
pub struct Format {
    /// Print one JSON document instead of a table.
    #[arg(long)]
    pub json: bool,
}

/// Prints a document, as JSON or in the words of `people`.
///
/// # Errors
/// A value that JSON cannot hold.
pub fn show<T: Serialize>(
    format: Format,
    document: &T,
    people: impl FnOnce(&T) -> String,
) -> Result<(), Failure> {
    let text = if format.json {
        serde_json::to_string_pretty(document).map_err(Failure::failed)?
    } else {
        people(document)
    };
    line(text);
    Ok(())
}

/// Why standard output took nothing more, once it does not.
static REFUSED: OnceLock<String> = OnceLock::new();
/// Whether it takes nothing more.
static GONE: AtomicBool = AtomicBool::new(false);

/// Prints one line. A reader that has gone (`| head`) is no failure; any other is told by
/// [`written`].
pub fn line(text: impl Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        GONE.store(true, Ordering::Relaxed);
        if error.kind() != ErrorKind::BrokenPipe {
            REFUSED.get_or_init(|| error.to_string());
        }
    }
}

/// Whether standard output is still taken: who shows something again and again stops when it is not.
#[must_use]
pub fn is_taken() -> bool {
    !GONE.load(Ordering::Relaxed)
}

/// Whether all that was printed was written: asked once, at the end of a command.
///
/// # Errors
/// Standard output refused some of it.
pub fn written() -> Result<(), Failure> {
    match REFUSED.get() {
        Some(error) => Err(Failure::failed(format!("standard output: {error}"))),
        None => Ok(()),
    }
}

/// A line beside the answer, on standard error: what a person should know, whatever was asked. One that
/// cannot be written is no failure of the command.
pub fn notice(text: &str) {
    use std::io::Write as _;
    let _unheard = writeln!(std::io::stderr(), "note: {text}");
}

/// `1 site`, `2 sites`.
#[must_use]
pub fn count(number: usize, one: &str) -> String {
    let many = if number == 1 { "" } else { "s" };
    format!("{number} {one}{many}")
}

/// A table with these columns.
#[must_use]
pub fn table(columns: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_BORDERS_ONLY).set_header(columns.to_vec());
    table
}

/// Bytes as people write them: `12.3 MB`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "display only")]
pub fn bytes(bytes: u64) -> String {
    let units = [("GB", 1e9), ("MB", 1e6), ("kB", 1e3)];
    let fits = units.iter().find(|(_, size)| bytes as f64 >= *size);
    fits.map_or_else(
        || format!("{bytes} B"),
        |(unit, size)| format!("{:.1} {unit}", bytes as f64 / size),
    )
}

/// A time span from milliseconds: `1h 2m`, `3.4 s`.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "display only")]
pub fn span(millis: u64) -> String {
    let seconds = millis / 1000;
    match (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60) {
        (0, 0, 0) if millis < 1000 => format!("{millis} ms"),
        (0, 0, 0) => format!("{:.1} s", millis as f64 / 1000.0),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// A progress bar of ten characters, empty if the total is unknown.
#[must_use]
pub fn bar(done: u64, total: u64) -> String {
    let Some(full) = done.min(total).saturating_mul(10).checked_div(total) else {
        return String::new();
    };
    let full = usize::try_from(full).unwrap_or(10);
    format!("{}{} {done}/{total}", "█".repeat(full), "░".repeat(10 - full.min(10)))
}

/// A figure with four digits, or a dash.
#[must_use]
pub fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}

/// Both ends of an interval and its source, or a dash.
#[must_use]
pub fn interval(interval: Option<&Interval>) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |Interval { low, high, method }| format!("{low:.4} – {high:.4} ({})", method.source()),
    )
}

/// A moment of the calendar: `2026-11-23 20:15 UTC`.
#[must_use]
pub fn date(wall: consilium_common::time::WallMillis) -> String {
    i64::try_from(wall.0)
        .ok()
        .and_then(|millis| jiff::Timestamp::from_millisecond(millis).ok())
        .map_or_else(
            || format!("{} ms since 1970", wall.0),
            |at| at.strftime("%Y-%m-%d %H:%M UTC").to_string(),
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_spans_and_bars_read_well() {
        assert_eq!([bytes(0), bytes(999), bytes(1500)], ["0 B", "999 B", "1.5 kB"]);
        assert_eq!(bytes(25_000_000), "25.0 MB");
        assert_eq!([span(17), span(3400)], ["17 ms", "3.4 s"]);
        assert_eq!([span(125_000), span(90_000_000)], ["2 min 5 s", "1 d 1 h"]);
        assert_eq!(bar(5, 10), "█████░░░░░ 5/10");
        assert_eq!(bar(20, 10), "██████████ 20/10");
        assert_eq!(bar(5, 0), "");
        let wall = consilium_common::time::WallMillis(1_764_000_000_000);
        assert_eq!(date(wall), "2025-11-24 16:00 UTC");
    }
}
