//! The prints of a source's files (`consilium_common::worker::prints`): of the tables and arrays that it names, and
//! of each file that they list or that lies in a folder. No file of an excluded patient is opened.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use consilium_common::worker::patients::PATIENT_KEY_BYTES;
use consilium_common::worker::prints::{Print, Printer, Prints};
use consilium_common::worker::{FailureCode, Outcome, Phase, SourceKind, Task};
use consilium_io::disk::replace_private;

use super::documents::FILE;
use super::patients;
use super::read::folder::{DOCUMENTS, Endings, Folder, PICTURES, within};
use super::read::table::Row;
use super::rows;
use crate::failure::Failure;
use crate::family::Job;
use crate::protocol::Link;
use crate::task::incomplete;

/// Bytes of a file in memory at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Leaves the prints where the task says.
pub(crate) fn leave(task: &Task, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
    let census = task.census.as_ref().ok_or_else(|| incomplete("names no key"))?;
    let out = task.out.as_ref().ok_or_else(|| incomplete("names no place for the prints"))?;
    let mut taker =
        Taker { key: patients::key(&census.key)?, prints: Prints::default(), bytes: 0, link };
    take(job, &mut taker)?;
    let prints = taker.prints;
    replace_private(out, &prints.to_bytes()).map_err(|error| {
        Failure::new(FailureCode::Internal, format!("saving the prints of files: {error}"))
    })?;
    Ok(Outcome { examples: prints.0.len() as u64, ..Outcome::default() })
}

fn take(job: &Job<'_>, taker: &mut Taker<'_>) -> Result<(), Failure> {
    let source = job.source;
    for (name, table) in [("labels", &source.labels), ("test", &source.test_path)] {
        if let Some(table) = table {
            taker.file(&[name], Some(table))?;
        }
    }
    match (source.source, &source.labels) {
        (SourceKind::Csv | SourceKind::Tsv | SourceKind::Npz, _) => {
            taker.file(&["path"], Some(&source.path))
        }
        (SourceKind::Idx, _) => taker.folder(&source.path),
        (SourceKind::ImageFolder, None) => taker.classes(&source.path, PICTURES),
        (SourceKind::Text, None) => taker.classes(&source.path, DOCUMENTS),
        (SourceKind::ImageFolder | SourceKind::Text, Some(_)) => listed(job, taker),
        (SourceKind::Synthetic, _) => Ok(()),
    }
}

/// The files that the tables of labels list, those of the site.
fn listed(job: &Job<'_>, taker: &mut Taker<'_>) -> Result<(), Failure> {
    let source = job.source;
    for path in rows::tables(job)? {
        let mut table = rows::open(source, path)?;
        let find = |name: &str| rows::column(&table, path, name);
        let file = find(source.column(FILE))?;
        let whose = job.patients.map(|all| find(all.column())).transpose()?;
        let only =
            source.only.as_ref().map(|only| Ok::<_, Failure>((find(&only.column)?, &only.equals)));
        let only = only.transpose()?;
        let mut row = Row::default();
        while table.next_row(&mut row)? {
            let text = |at: usize| row.get(at).unwrap_or_default();
            if only.is_some_and(|(at, equals)| text(at) != equals) {
                continue;
            }
            let name = text(file).trim();
            // A record of nobody is not read where somebody is excluded.
            let reads = job.patients.is_none_or(|all| all.take_part(whose.map(text)) == Ok(true));
            let path = if reads { within(&source.path, name).ok() } else { None };
            match (reads, path) {
                (true, Some(path)) => taker.file(&["file", name], Some(&path))?,
                (true, None) => taker.unreadable(&["file", name]),
                (false, _) => taker.file(&["file", name], None)?,
            }
        }
    }
    Ok(())
}

struct Taker<'l> {
    key: [u8; PATIENT_KEY_BYTES],
    prints: Prints,
    bytes: u64,
    link: &'l mut Link,
}

impl Taker<'_> {
    fn name(&self, name: &[&str]) -> Print {
        let mut printer = Printer::new(&self.key);
        for part in name {
            printer.update(part.as_bytes());
            printer.update(&[0]);
        }
        printer.finish()
    }

    /// Takes the print of the file at `path`; none: it is not looked at.
    fn file(&mut self, name: &[&str], path: Option<&Path>) -> Result<(), Failure> {
        let name = self.name(name);
        let content = match path {
            None => None,
            Some(path) => match self.content(path)? {
                Ok(print) => Some(print),
                Err(_unreadable) => Some(Print::default()),
            },
        };
        self.prints.0.insert(name, content);
        Ok(())
    }

    /// A file that cannot be read: another print than any bytes have.
    fn unreadable(&mut self, name: &[&str]) {
        let name = self.name(name);
        self.prints.0.insert(name, Some(Print::default()));
    }

    fn content(&mut self, path: &Path) -> Result<std::io::Result<Print>, Failure> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) => return Ok(Err(error)),
        };
        let (mut printer, mut piece) = (Printer::new(&self.key), vec![0; PIECE_BYTES]);
        loop {
            let read = match file.read(&mut piece) {
                Ok(0) => return Ok(Ok(printer.finish())),
                Ok(read) => read,
                Err(error) => return Ok(Err(error)),
            };
            printer.update(piece.get(..read).unwrap_or_default());
            self.bytes = self.bytes.saturating_add(read as u64);
            self.link.moved(Phase::Loading, self.bytes, 0, || Ok(None))?;
        }
    }

    fn classes(&mut self, folder: &Path, endings: Endings) -> Result<(), Failure> {
        for record in Folder::open(folder, endings)?.records {
            self.file(&["file", &record.path.to_string_lossy()], Some(&record.path))?;
        }
        Ok(())
    }

    /// Every file of a folder, not those below it.
    fn folder(&mut self, folder: &Path) -> Result<(), Failure> {
        let broken = |error: std::io::Error| {
            let message = format!("the data folder {}: {error}", folder.display());
            Failure::new(FailureCode::DataMissing, message)
        };
        let mut paths: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(broken)? {
            paths.push(entry.map_err(broken)?.path());
        }
        for path in paths.iter().filter(|path| path.is_file()) {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            self.file(&["file", &name], Some(path))?;
        }
        Ok(())
    }
}
