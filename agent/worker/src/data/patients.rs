//! Whose a record is, and who does not take part. The list of excluded patients is read at each task, and
//! whatever is wrong with it ends the task before a record is looked at: a list that is passed over would be
//! an opt-out that is ignored. No message names a patient.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::Path;

use consilium_common::limits::EXCLUDED_MAX;
use consilium_common::study::model::recommender::USER;
use consilium_common::study::{DataKind, ModelSpec, Study};
use consilium_common::worker::patients::{
    PATIENT_KEY_BYTES, PatientHash, PatientSet, PatientSetError,
};
use consilium_common::worker::{Census, FailureCode, Source, SourceKind, Task, Work};
use consilium_io::disk::{read_file, replace_private};

use super::contract::Trouble;
use super::read::table::{Row, Table, TableError, TableOptions};
use crate::failure::Failure;

/// Whose the site's records are.
#[derive(Debug)]
pub(crate) struct Patients {
    /// What the files call it.
    column: String,
    /// Who does not take part, each with the records that were passed over; none where nobody is excluded.
    excluded: Option<HashMap<String, Cell<u64>>>,
    key: Option<[u8; PATIENT_KEY_BYTES]>,
    /// Patients by their numbers.
    known: RefCell<Known>,
    sets: RefCell<Sets>,
}

#[derive(Debug, Default)]
struct Known {
    numbers: HashMap<PatientHash, u32>,
    hashes: Vec<PatientHash>,
}

/// Whose records were read last.
#[derive(Debug, Default)]
struct Sets {
    used: PatientSet,
    scored: PatientSet,
}

/// What the task must know of patients: none where nobody asks, or where records do not say whose they are
/// and nobody is excluded.
///
/// # Errors
/// The list of excluded patients cannot be read, or the records do not say whose they are.
pub(crate) fn of(task: &Task, study: &Study) -> Result<Option<Patients>, Failure> {
    let source = &task.source;
    let exclude = source.exclude.as_deref().filter(|_| task.work != Work::Predict);
    if exclude.is_none() && task.census.is_none() {
        return Ok(None);
    }
    let column = match (column(study, source)?, exclude) {
        (Some(column), _) => column,
        (None, None) => return Ok(None),
        (None, Some(exclude)) => return Err(nobody(source, exclude)),
    };
    let excluded = exclude.map(|path| list(path, &column)).transpose()?;
    let key = task.census.as_ref().map(|census| key(&census.key)).transpose()?;
    let (known, sets) = (RefCell::default(), RefCell::default());
    Ok(Some(Patients { column, excluded, key, known, sets }))
}

impl Patients {
    /// The files' column that says whose a record is.
    pub(crate) fn column(&self) -> &str {
        &self.column
    }

    /// Whether the record of this patient may be read.
    ///
    /// # Errors
    /// It does not say whose it is, and somebody is excluded.
    pub(crate) fn take_part(&self, whose: Option<&str>) -> Result<bool, Trouble> {
        let Some(excluded) = &self.excluded else { return Ok(true) };
        let patient = whose.unwrap_or_default().trim();
        if patient.is_empty() {
            let column = &self.column;
            let why =
                format!("column {column:?} is empty, and `exclude` asks whose each record is");
            return Err(Trouble::Unreadable(why));
        }
        match excluded.get(patient) {
            Some(records) => {
                records.set(records.get().saturating_add(1));
                Ok(false)
            }
            None => Ok(true),
        }
    }

    /// A number for the patient of a record that was read; 0 where nobody counts them.
    pub(crate) fn number_of(&self, patient: &str) -> u32 {
        let Some(key) = &self.key else { return 0 };
        let Known { numbers, hashes } = &mut *self.known.borrow_mut();
        let hash = PatientHash::of(key, patient);
        *numbers.entry(hash).or_insert_with(|| {
            hashes.push(hash);
            u32::try_from(hashes.len() - 1).unwrap_or(u32::MAX)
        })
    }

    /// Records of these patients are for training, and of these for scoring.
    pub(crate) fn used(&self, train: impl Iterator<Item = u32>, held: impl Iterator<Item = u32>) {
        if self.key.is_none() {
            return;
        }
        let known = self.known.borrow();
        let hash = |number: u32| known.hashes.get(number as usize).copied();
        let used = PatientSet(train.filter_map(hash).collect());
        let scored = PatientSet(held.filter_map(hash).collect());
        *self.sets.borrow_mut() = Sets { used, scored };
    }

    /// What a person should know of the exclusions: counts alone.
    pub(crate) fn finding(&self, records: u64, what: &str) -> Option<String> {
        let excluded = self.excluded.as_ref()?;
        let without = excluded.values().filter(|records| records.get() == 0).count();
        let with = excluded.len() - without;
        let missing = match without {
            0 => String::new(),
            1 => "; 1 listed patient has no records here: check how the identifier is written"
                .to_owned(),
            _ => format!(
                "; {without} listed patients have no records here: check how their identifiers are written"
            ),
        };
        Some(format!("{records} {what} of {with} excluded patients were not read{missing}"))
    }

    /// Leaves whose records were used for this work, for the owner of the folder alone.
    ///
    /// # Errors
    /// The disk refused.
    pub(crate) fn leave(&self, census: &Census, work: Work) -> Result<(), Failure> {
        let sets = self.sets.borrow();
        let used = matches!(work, Work::Train | Work::TrainAlone | Work::Prepare)
            .then_some((&census.used, &sets.used));
        let scored = matches!(work, Work::Train | Work::TrainAlone | Work::Evaluate)
            .then_some((&census.scored, &sets.scored));
        for (path, set) in used.into_iter().chain(scored) {
            replace_private(path, &set.to_bytes()).map_err(|error| {
                let message = format!("saving whose records were used: {error}");
                Failure::new(FailureCode::Internal, message)
            })?;
        }
        Ok(())
    }
}

/// What the files call the patient; none where they say nothing of a record but its label.
fn column(study: &Study, source: &Source) -> Result<Option<String>, Failure> {
    let says = match source.source {
        SourceKind::Csv | SourceKind::Tsv => true,
        SourceKind::Text | SourceKind::ImageFolder => source.labels.is_some(),
        SourceKind::Npz => study.data.kind == DataKind::Series,
        SourceKind::Idx | SourceKind::Synthetic => false,
    };
    if !says {
        return Ok(None);
    }
    let of_study = match &study.model {
        ModelSpec::Recommender(_) => Some(USER),
        ModelSpec::Cnn(_)
        | ModelSpec::Rnn(_)
        | ModelSpec::Tabular(_)
        | ModelSpec::TextClassifier(_)
        | ModelSpec::Synthetic(_) => study.data.patient.as_deref(),
    };
    match (of_study.map(|name| source.column(name)), source.patient.as_deref()) {
        (Some(one), Some(other)) if one != other => {
            let message = format!(
                "the study's patient is the column {one:?} of {}, and `patient` in agent.toml names \
                 {other:?}: leave that out, or say by `columns` what the file calls the study's",
                source.path.display()
            );
            Err(Failure::new(FailureCode::OptOutUnreadable, message))
        }
        (one, other) => Ok(one.or(other).map(str::to_owned)),
    }
}

fn nobody(source: &Source, exclude: &Path) -> Failure {
    let message = format!(
        "`exclude` names {}, and nothing says whose the records of {} are: name the column with the \
         patient by `patient` in agent.toml (files in folders need a table of `labels` with one; pictures \
         in a .npz or IDX file have none)",
        exclude.display(),
        source.path.display()
    );
    Failure::new(FailureCode::OptOutUnreadable, message)
}

/// Reads who is excluded: a table with the patients' column, or an identifier on each line.
fn list(path: &Path, column: &str) -> Result<HashMap<String, Cell<u64>>, Failure> {
    let unreadable = |error: TableError| {
        // Of another table a record would be missing; here the sentence says what is.
        let is_empty = matches!(error, TableError::Empty { .. });
        let why = if is_empty { "it is empty".to_owned() } else { error.to_string() };
        unreadable(path, column, &why)
    };
    let options = TableOptions { header: false, ..TableOptions::default() };
    let mut table = Table::open(path, options).map_err(unreadable)?;
    let (mut row, mut excluded) = (Row::default(), HashMap::new());
    let mut is_first = true;
    let mut place = 0;
    while table.next_row(&mut row).map_err(unreadable)? {
        if std::mem::take(&mut is_first) {
            if let Some(found) = row.fields().position(|field| field.trim() == column) {
                place = found;
                continue;
            }
            if row.len() > 1 {
                let why = "its first line names no such column";
                return Err(self::unreadable(path, column, why));
            }
        }
        let patient = row.get(place).unwrap_or_default().trim();
        let why = if patient.is_empty() {
            "there is no identifier"
        } else if excluded.len() == EXCLUDED_MAX {
            "it lists more patients than any hospital has"
        } else {
            excluded.insert(patient.to_owned(), Cell::new(0));
            continue;
        };
        return Err(self::unreadable(path, column, &format!("line {}: {why}", row.line())));
    }
    Ok(excluded)
}

fn unreadable(path: &Path, column: &str, why: &str) -> Failure {
    let message = format!(
        "the list of excluded patients {} cannot be read, so no record is: {why}; a table with a column \
         {column:?} was expected, or an identifier on each line (where nobody is excluded, the heading \
         {column:?} alone)",
        path.display()
    );
    Failure::new(FailureCode::OptOutUnreadable, message)
}

/// The site's key.
///
/// # Errors
/// It is not there, or is none.
pub(crate) fn key(path: &Path) -> Result<[u8; PATIENT_KEY_BYTES], Failure> {
    let broken = |why: &str| {
        let message = format!("the key of patients' hashes {}: {why}", path.display());
        Failure::new(FailureCode::Internal, message)
    };
    let bytes = read_file(path, PATIENT_KEY_BYTES).map_err(|error| broken(&error.to_string()))?;
    bytes.try_into().map_err(|_| broken(&PatientSetError::Length.to_string()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn listed(text: &[u8]) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("optout.csv");
        #[expect(clippy::disallowed_methods, reason = "a fixture")]
        fs::write(&path, text).unwrap();
        let listed = list(&path, "pid").map_err(|failure| {
            assert_eq!(failure.code, FailureCode::OptOutUnreadable);
            assert!(failure.message.contains("optout.csv"), "{failure}");
            failure.message
        });
        listed.map(|listed| {
            let mut listed: Vec<String> = listed.into_keys().collect();
            listed.sort();
            listed
        })
    }

    #[test]
    fn who_is_excluded_stands_in_a_table_or_on_lines() {
        let both = Ok(vec!["p 1".to_owned(), "p2".to_owned()]);
        assert_eq!(listed(b"p2\n p 1 \n\np2\n"), both);
        assert_eq!(listed(b"\xef\xbb\xbfpid\r\np2\r\np 1\r\n"), both);
        assert_eq!(listed(b"when;pid;why\n1;p2;x\n2;\"p 1\";\"a;b\"\n"), both);
        assert_eq!(listed(b"pid\n"), Ok(Vec::new()), "a heading alone: nobody");
    }

    #[test]
    fn what_is_no_list_of_patients_is_an_error_that_names_none() {
        for (text, said) in [
            (&b""[..], "no record is: it is empty; a table with a column"),
            (b"a,b\np-77,2\n", "names no such column"),
            (b"p1\np-77,p3\n", "line 2"),
            (b"pid,why\np-77\n", "line 2"),
            (b"pid,why\n,p-77\n", "line 2: there is no identifier"),
            (b"p1\n\"p-77\n", "within a quoted field"),
            (b"p1\0p-77\n", "a zero byte"),
        ] {
            let message = listed(text).unwrap_err();
            assert!(message.contains(said) && !message.contains("p-77"), "{message}");
        }
    }
}
