//! Standard output and standard error: the one place that prints.

use std::io::{ErrorKind, Write};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use comfy_table::{ContentArrangement, Table, presets};
use consilium_common::time::WallMillis;
use consilium_common::update::groups::GroupRow;
use consilium_common::update::intervals::Interval;
use serde::Serialize;

use super::Failure;

/// Why standard output took nothing more, once it does not.
static REFUSED: OnceLock<String> = OnceLock::new();
/// Whether it takes nothing more.
static GONE: AtomicBool = AtomicBool::new(false);

/// Prints a line. A reader that has gone (`| head`) is no failure; any other is told by [`written`].
pub(super) fn line(text: impl std::fmt::Display) {
    let mut out = std::io::stdout().lock();
    if let Err(error) = writeln!(out, "{text}").and_then(|()| out.flush()) {
        GONE.store(true, Ordering::Relaxed);
        if error.kind() != ErrorKind::BrokenPipe {
            REFUSED.get_or_init(|| error.to_string());
        }
    }
}

/// Whether standard output is still taken: who shows something again and again stops when it is not.
pub(super) fn is_taken() -> bool {
    !GONE.load(Ordering::Relaxed)
}

/// Whether all that was printed was written: asked once, at the end of a command.
pub(super) fn written() -> Result<(), Failure> {
    match REFUSED.get() {
        Some(error) => Err(Failure::failed(format!("standard output: {error}"))),
        None => Ok(()),
    }
}

/// Prints one JSON document.
pub(super) fn json(document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(document).map_err(Failure::failed)?;
    line(text);
    Ok(())
}

/// Prints what a person should know to standard error: standard output is for the result.
pub(super) fn note(text: impl std::fmt::Display) {
    let _closed = writeln!(std::io::stderr().lock(), "{text}");
}

/// Prints the sentence of a failure.
pub(super) fn error(failure: &Failure) {
    let _closed = writeln!(std::io::stderr().lock(), "consilium-agent: {failure}");
}

/// Clears the terminal for a watched screen.
pub(super) fn clear() {
    let mut out = std::io::stdout().lock();
    let _closed = write!(out, "\x1b[2J\x1b[H").and_then(|()| out.flush());
}

/// A table in the style of all our tables.
pub(super) fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Dynamic)
        .set_header(header);
    table
}

/// Bytes as people read them.
pub(super) fn bytes(count: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "display only")]
    let value = count as f64;
    match count {
        0..1_000 => format!("{count} B"),
        1_000..1_000_000 => format!("{:.1} kB", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", value / 1e6),
        _ => format!("{:.2} GB", value / 1e9),
    }
}

/// A moment of the calendar, as RFC 3339 in UTC.
pub(super) fn instant(at: WallMillis) -> String {
    let timestamp =
        i64::try_from(at.0).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    timestamp.map_or_else(|| format!("{} ms", at.0), |at| format!("{at:.0}"))
}

/// `97.31 %`, or a dash.
pub(super) fn percent(share: Option<f64>) -> String {
    share.map_or_else(|| "–".to_owned(), |share| format!("{:.2} %", 100.0 * share))
}

/// Both ends of an interval and its source, or a dash.
pub(super) fn interval(interval: Option<&Interval>) -> String {
    interval.map_or_else(
        || "–".to_owned(),
        |Interval { low, high, method }| format!("{low:.4} – {high:.4} ({})", method.source()),
    )
}

/// The study's own measure for each of its groups.
pub(super) fn group_table(rows: &[GroupRow]) -> Table {
    let mut table = table(&["group", "records", "measure", "value", "95 % interval"]);
    for row in rows {
        let measure = row.measure.as_ref();
        table.add_row([
            format!("{} {}", row.column, row.group),
            row.records.to_string(),
            measure.map_or("too few records", |measure| measure.name.title()).to_owned(),
            decimal(measure.map(|measure| measure.value)),
            interval(measure.and_then(|measure| measure.interval.as_ref())),
        ]);
    }
    table
}

/// Four decimals, or a dash.
pub(super) fn decimal(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), |value| format!("{value:.4}"))
}
