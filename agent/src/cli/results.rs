//! What a grid's combinations were worth, in a file: a command that is started again tries those that
//! the file lacks. One JSON object a line, the file replaced as a whole after each combination.

use std::collections::BTreeMap;
use std::path::PathBuf;

use consilium_common::ids::Digest;
use consilium_io::disk::{read_text, replace};
use serde::{Deserialize, Serialize};

use super::Failure;
use super::grid::Row;

/// A line for each of the most combinations that are tried, of a kilobyte each.
const RESULTS_BYTES_MAX: usize = 4 << 20;

/// Results by what they follow from.
#[derive(Debug, Default)]
pub(super) struct Results {
    file: Option<PathBuf>,
    rows: BTreeMap<Digest, Row>,
}

/// One line.
#[derive(Debug, Serialize, Deserialize)]
struct Line {
    /// Digest of the combination's study, the records and how they are used.
    of: Digest,
    #[serde(flatten)]
    row: Row,
}

impl Results {
    /// Those of a file, which need not be there yet; none without one.
    pub(super) fn open(file: Option<PathBuf>) -> Result<Self, Failure> {
        let mut results = Self { file, rows: BTreeMap::new() };
        let Some(path) = results.file.as_ref().filter(|path| path.exists()) else {
            return Ok(results);
        };
        let text = read_text(path, RESULTS_BYTES_MAX).map_err(Failure::usage)?;
        for (number, line) in (1..).zip(text.lines()) {
            let line: Line = serde_json::from_str(line).map_err(|error| {
                let told = "is no result of a grid";
                Failure::Usage(format!("{}: line {number} {told}: {error}", path.display()))
            })?;
            results.rows.insert(line.of, line.row);
        }
        Ok(results)
    }

    pub(super) fn get(&self, of: Digest) -> Option<&Row> {
        self.rows.get(&of)
    }

    /// Keeps one, on the disk when it returns. What failed is tried again.
    pub(super) fn keep(&mut self, of: Digest, row: &Row) -> Result<(), Failure> {
        let Some(path) = self.file.as_ref().filter(|_| row.failure.is_none()) else {
            return Ok(());
        };
        self.rows.insert(of, row.clone());
        let mut text = String::new();
        for (of, row) in &self.rows {
            let line = serde_json::to_string(&Line { of: *of, row: row.clone() });
            text += &line.map_err(Failure::failed)?;
            text.push('\n');
        }
        replace(path, text.as_bytes()).map_err(Failure::failed)
    }
}
