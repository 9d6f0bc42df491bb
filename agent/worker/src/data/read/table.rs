//! CSV and TSV, record by record (RFC 4180: quoted fields may hold delimiters, line breaks and
//! doubled quotes). Read through csv's core, which fills buffers that are bounded here: a quote that
//! is never closed meets the bound of a field, not the end of memory.

use std::fmt;
use std::path::{Path, PathBuf};

use consilium_common::limits::{TABLE_COLUMNS_MAX, TABLE_FIELD_BYTES_MAX, TABLE_RECORD_BYTES_MAX};
use csv_core::{ReadRecordResult, Reader, ReaderBuilder};

use super::text::{Encoding, Text, TextError};
use super::value::number;

/// Buffers start here and grow with what a record holds.
const RECORD_BYTES: usize = 4 << 10;
const RECORD_FIELDS: usize = 64;
const FIELD_TOO_LONG: &str = "a field has too many bytes";

/// How a table is written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TableOptions {
    pub(crate) encoding: Encoding,
    /// `None`: a tab for `.tsv` and `.tab`, else whichever of comma, semicolon and tab the first
    /// line has most of.
    pub(crate) delimiter: Option<char>,
    /// `'.'` or `','`: what [`Table::number`] takes.
    pub(crate) decimal: char,
    /// The first record names the columns; else they are "1", "2", ….
    pub(crate) header: bool,
}

impl Default for TableOptions {
    fn default() -> Self {
        Self { encoding: Encoding::Auto, delimiter: None, decimal: '.', header: true }
    }
}

/// Why a table was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TableError {
    /// The file cannot be read as text.
    #[error(transparent)]
    Text(#[from] TextError),
    /// Options that cannot be.
    #[error("{}: {what} {have:?} cannot be: {need}", path.display())]
    Option { path: PathBuf, what: &'static str, have: char, need: &'static str },
    /// As many of one delimiter as of another.
    #[error(
        "{}: the first line has as many of {a:?} as of {b:?}: declare the delimiter", path.display()
    )]
    Ambiguous { path: PathBuf, a: char, b: char },
    /// Nothing in it.
    #[error("{} is empty: a table with at least {need} was expected", path.display())]
    Empty { path: PathBuf, need: &'static str },
    /// Two columns of one name.
    #[error("{}, line {line}: columns {a} and {b} are both named {name:?}", path.display())]
    SameName { path: PathBuf, line: u64, a: usize, b: usize, name: String },
    /// A record with more or fewer fields.
    #[error("{}, line {line}: {have} fields, the table has {need} columns", path.display())]
    Ragged { path: PathBuf, line: u64, have: usize, need: usize },
    /// Beyond a bound.
    #[error(
        "{}, line {line}: {what}, at most {max} are read (a quote that is never closed?)",
        path.display()
    )]
    TooLarge { path: PathBuf, line: u64, what: &'static str, max: usize },
    /// Ends within quotes.
    #[error("{}, line {line}: the file ends within a quoted field", path.display())]
    Unclosed { path: PathBuf, line: u64 },
    /// Binary.
    #[error(
        "{}, line {line}: a zero byte, so it is no text of the declared encoding (UTF-16 without a \
         byte order mark, or no table at all)", path.display()
    )]
    Nul { path: PathBuf, line: u64 },
}

/// One record's fields.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Row {
    text: String,
    ends: Vec<usize>,
    line: u64,
}

impl Row {
    /// The field at `index`, counted from 0, without its quotes.
    pub(crate) fn get(&self, index: usize) -> Option<&str> {
        let start = match index.checked_sub(1) {
            Some(before) => *self.ends.get(before)?,
            None => 0,
        };
        self.text.get(start..*self.ends.get(index)?)
    }

    /// How many fields: in a table's rows as many as it has columns.
    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    /// All fields.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &str> {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// The line of the file where the record starts, from 1.
    pub(crate) fn line(&self) -> u64 {
        self.line
    }
}

/// An open table.
pub(crate) struct Table {
    path: PathBuf,
    text: Text,
    core: Reader,
    decimal: char,
    columns: Vec<String>,
    /// Text not parsed yet.
    piece: Vec<u8>,
    at: usize,
    lines: Lines,
    /// Without a header the first record is read at once, to know the columns.
    first: Option<Row>,
    output: Vec<u8>,
    ends: Vec<usize>,
    widest: usize,
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Table {
    /// Opens a table and reads its first record.
    pub(crate) fn open(path: &Path, options: TableOptions) -> Result<Self, TableError> {
        let refuse =
            |what, have, need| Err(TableError::Option { path: path.to_owned(), what, have, need });
        if !['.', ','].contains(&options.decimal) {
            return refuse("decimal", options.decimal, "write '.' or ','");
        }
        let mut text = Text::open(path, options.encoding)?;
        let piece = text.next()?.to_vec();
        let delimiter = match options.delimiter {
            Some(delimiter) => delimiter,
            None if is_tab_separated(path) => '\t',
            None => sniff(&piece, path)?,
        };
        let byte = match u8::try_from(delimiter) {
            Ok(byte) if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n' | 0) => byte,
            Ok(_) | Err(_) => {
                return refuse(
                    "delimiter",
                    delimiter,
                    "one ASCII character, no quote or line break",
                );
            }
        };
        let mut table = Self {
            path: path.to_owned(),
            text,
            core: ReaderBuilder::new().delimiter(byte).build(),
            decimal: options.decimal,
            columns: Vec::new(),
            piece,
            at: 0,
            lines: Lines { line: 1, after_return: false },
            first: None,
            output: vec![0; RECORD_BYTES],
            ends: vec![0; RECORD_FIELDS],
            widest: TABLE_COLUMNS_MAX,
        };
        table.read_columns(options.header)?;
        Ok(table)
    }

    /// The columns' names.
    pub(crate) fn columns(&self) -> &[String] {
        &self.columns
    }

    /// The next record; `false`, with `row` as it was, after the last. Empty lines are skipped.
    pub(crate) fn next_row(&mut self, row: &mut Row) -> Result<bool, TableError> {
        if let Some(first) = self.first.take() {
            *row = first;
            return Ok(true);
        }
        if !self.read_record(row)? {
            return Ok(false);
        }
        let (have, need) = (row.len(), self.columns.len());
        if have != need {
            let (path, line) = (self.path.clone(), row.line);
            return Err(TableError::Ragged { path, line, have, need });
        }
        Ok(true)
    }

    /// `field` as a number in this table's way of writing.
    pub(crate) fn number(&self, field: &str) -> Option<f64> {
        number(field, self.decimal)
    }

    fn read_columns(&mut self, header: bool) -> Result<(), TableError> {
        let mut row = Row::default();
        if !self.read_record(&mut row)? {
            let need = if header { "a line that names its columns" } else { "one record" };
            return Err(TableError::Empty { path: self.path.clone(), need });
        }
        // A record of another width is ragged: there is no need to read it to its end.
        self.widest = row.len();
        if !header {
            self.columns = (1..=row.len()).map(|number| number.to_string()).collect();
            self.first = Some(row);
            return Ok(());
        }
        self.columns = row.fields().map(str::to_owned).collect();
        let mut numbered: Vec<(&String, usize)> = self.columns.iter().zip(1..).collect();
        numbered.sort_unstable();
        let same = numbered.windows(2).find_map(|pair| match pair {
            [(a, i), (b, j)] if a == b && !a.is_empty() => Some((*i, *j, (*a).clone())),
            _ => None,
        });
        match same {
            None => Ok(()),
            Some((a, b, name)) => {
                let (path, line) = (self.path.clone(), row.line);
                Err(TableError::SameName { path, line, a, b, name })
            }
        }
    }

    /// Makes sure that there is text to parse; `false` at the end.
    fn refill(&mut self) -> Result<bool, TableError> {
        if self.at < self.piece.len() {
            return Ok(true);
        }
        self.piece.clear();
        self.piece.extend_from_slice(self.text.next()?);
        self.at = 0;
        Ok(!self.piece.is_empty())
    }

    /// Skips line breaks, so that a record's line is the one where it starts.
    fn skip_breaks(&mut self) -> Result<bool, TableError> {
        while self.refill()? {
            match self.piece.get(self.at) {
                Some(&byte) if matches!(byte, b'\r' | b'\n') => {
                    self.lines.pass(&[byte]);
                    self.at += 1;
                }
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    fn read_record(&mut self, row: &mut Row) -> Result<bool, TableError> {
        if !self.skip_breaks()? {
            return Ok(false);
        }
        let line = self.lines.line;
        let (mut bytes, mut fields, mut quotes) = (0, 0, 0_usize);
        loop {
            let more = self.refill()?;
            let input = self.piece.get(self.at..).unwrap_or_default();
            let (result, read, wrote, ended) = self.core.read_record(
                input,
                self.output.get_mut(bytes..).unwrap_or_default(),
                self.ends.get_mut(fields..).unwrap_or_default(),
            );
            let consumed = input.get(..read).unwrap_or_default();
            self.lines.pass(consumed);
            quotes += consumed.iter().filter(|byte| **byte == b'"').count();
            self.at += read;
            bytes += wrote;
            fields += ended;
            self.hold_bounds(line, bytes, fields)?;
            match result {
                ReadRecordResult::InputEmpty => {}
                ReadRecordResult::OutputFull => {
                    self.output.resize(2 * self.output.len(), 0);
                }
                ReadRecordResult::OutputEndsFull => self.ends.resize(2 * self.ends.len(), 0),
                ReadRecordResult::Record if !more && !quotes.is_multiple_of(2) => {
                    return Err(TableError::Unclosed { path: self.path.clone(), line });
                }
                ReadRecordResult::Record => {
                    self.hand_over(row, line, bytes, fields)?;
                    return Ok(true);
                }
                ReadRecordResult::End => return Ok(false),
            }
        }
    }

    fn hold_bounds(&self, line: u64, bytes: usize, fields: usize) -> Result<(), TableError> {
        let refuse =
            |what, max| Err(TableError::TooLarge { path: self.path.clone(), line, what, max });
        let last = fields.checked_sub(1).and_then(|index| self.ends.get(index)).copied();
        if bytes > TABLE_RECORD_BYTES_MAX {
            return refuse("the record has too many bytes", TABLE_RECORD_BYTES_MAX);
        }
        if bytes.saturating_sub(last.unwrap_or(0)) > TABLE_FIELD_BYTES_MAX {
            return refuse(FIELD_TOO_LONG, TABLE_FIELD_BYTES_MAX);
        }
        if fields > self.widest {
            if self.widest < TABLE_COLUMNS_MAX {
                let (path, need) = (self.path.clone(), self.widest);
                return Err(TableError::Ragged { path, line, have: fields, need });
            }
            return refuse("the record has too many fields", TABLE_COLUMNS_MAX);
        }
        Ok(())
    }

    fn hand_over(
        &self,
        row: &mut Row,
        line: u64,
        bytes: usize,
        fields: usize,
    ) -> Result<(), TableError> {
        let text = self.output.get(..bytes).unwrap_or_default();
        if text.contains(&0) {
            return Err(TableError::Nul { path: self.path.clone(), line });
        }
        let ends = self.ends.get(..fields).unwrap_or_default();
        let starts = std::iter::once(&0).chain(ends);
        if ends.iter().zip(starts).any(|(end, start)| end - start > TABLE_FIELD_BYTES_MAX) {
            let (path, what) = (self.path.clone(), FIELD_TOO_LONG);
            return Err(TableError::TooLarge { path, line, what, max: TABLE_FIELD_BYTES_MAX });
        }
        row.text.clear();
        // The text is UTF-8, and only ASCII was taken out of it.
        row.text.push_str(str::from_utf8(text).unwrap_or_default());
        row.ends.clear();
        row.ends.extend_from_slice(ends);
        row.line = line;
        Ok(())
    }
}

/// Counts lines that end in \n, \r\n or \r.
struct Lines {
    line: u64,
    after_return: bool,
}

impl Lines {
    fn pass(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\r' || (byte == b'\n' && !self.after_return) {
                self.line += 1;
            }
            self.after_return = byte == b'\r';
        }
    }
}

fn is_tab_separated(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    let name = name.strip_suffix(".gz").unwrap_or(&name);
    name.ends_with(".tsv") || name.ends_with(".tab")
}

/// The delimiter that the first line has most of, outside quotes; a comma where it has none.
fn sniff(text: &[u8], path: &Path) -> Result<char, TableError> {
    let mut counts = [(0_usize, ','), (0, ';'), (0, '\t')];
    let mut quoted = false;
    for &byte in text {
        match byte {
            b'"' => quoted = !quoted,
            b'\r' | b'\n' if !quoted => break,
            _ if quoted => {}
            _ => {
                let known = counts.iter_mut().find(|(_, delimiter)| *delimiter == char::from(byte));
                if let Some((count, _)) = known {
                    *count += 1;
                }
            }
        }
    }
    // Stable: equal counts keep the order above.
    counts.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    let [(most, a), (second, b), _] = counts;
    if most > 0 && most == second {
        return Err(TableError::Ambiguous { path: path.to_owned(), a, b });
    }
    Ok(a)
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
