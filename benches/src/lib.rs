//! What the measurements share: medians, processes' CPU seconds and memory, and one way to print.
//!
//! Each suite is a program below `bin/`; `cargo xtask bench SUITE [--json]` runs it. Results go to
//! `RESULTS.md` with the command that made them. These machines are noisy: medians of repeats, CPU
//! seconds beside wall seconds, and the machine's own limit in the same run.

#![forbid(unsafe_code)]

pub mod machine;
pub mod process;
pub mod studies;

use comfy_table::{Table, presets};
use serde::Serialize;

/// One measured figure.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was measured.
    pub name: String,
    /// The figure.
    pub value: f64,
    /// Its unit.
    pub unit: &'static str,
    /// What we aim at, in words; empty where the figure stands for itself.
    pub goal: String,
    /// Whether the goal is met; true where there is none.
    pub ok: bool,
}

impl Row {
    /// A figure without a goal.
    pub fn plain(name: impl Into<String>, value: f64, unit: &'static str) -> Self {
        Self { name: name.into(), value, unit, goal: String::new(), ok: true }
    }

    /// A figure that should stay below `bound`.
    pub fn below(name: impl Into<String>, value: f64, unit: &'static str, bound: f64) -> Self {
        let goal = format!("< {bound} {unit}");
        Self { name: name.into(), value, unit, goal, ok: value < bound }
    }
}

/// Prints rows as a table, or as one JSON array.
///
/// # Errors
/// A figure that JSON cannot hold.
#[expect(clippy::print_stdout, reason = "the result of the measurement")]
pub fn print(rows: &[Row], json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string(rows)?);
        return Ok(());
    }
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_header(["", "value", "unit", "goal", ""]);
    for row in rows {
        let verdict = if row.goal.is_empty() {
            ""
        } else if row.ok {
            "met"
        } else {
            "missed"
        };
        let value = if row.value.abs() < 10.0 { 3 } else { 1 };
        table.add_row([
            row.name.clone(),
            format!("{:.value$}", row.value),
            row.unit.to_owned(),
            row.goal.clone(),
            verdict.to_owned(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// The median; 0 for nothing.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |index: usize| sorted.get(index).copied().unwrap_or(0.0);
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
    }
}
