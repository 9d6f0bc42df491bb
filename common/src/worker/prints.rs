//! What a source's files were when a person approved them: for each file a keyed hash of its name and one of its
//! bytes. Files of patients who are excluded are named and not looked at, so an opt-out is no change.

use std::collections::BTreeMap;

use super::patients::{PATIENT_BYTES, PATIENT_KEY_BYTES};
use crate::limits::EXAMPLES_MAX;

/// What a file with prints begins with.
const MAGIC: &[u8; 17] = b"consilium/files/1";
/// Name, whether it was looked at, content.
const ENTRY_BYTES: usize = 2 * PATIENT_BYTES + 1;
/// The largest file of prints: a file a record, and the tables that list them.
pub const PRINTS_BYTES_MAX: u64 = MAGIC.len() as u64 + ENTRY_BYTES as u64 * (EXAMPLES_MAX + 2);
/// So that no hash of a file is one of a patient.
const CONTEXT: &str = "consilium prints of files 2026";

/// A hash under the site's key.
pub type Print = [u8; PATIENT_BYTES];

/// Makes prints under the site's key.
#[derive(Debug, Clone)]
pub struct Printer(blake3::Hasher);

impl Printer {
    /// Under the key of the site's patients.
    #[must_use]
    pub fn new(key: &[u8; PATIENT_KEY_BYTES]) -> Self {
        Self(blake3::Hasher::new_keyed(&blake3::derive_key(CONTEXT, key)))
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The print of the bytes that it took.
    #[must_use]
    pub fn finish(&self) -> Print {
        let hash = self.0.finalize();
        let mut print = Print::default();
        print.iter_mut().zip(hash.as_bytes()).for_each(|(to, from)| *to = *from);
        print
    }
}

/// Why a file holds no prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PrintsError {
    /// Another kind of file.
    #[error("it does not begin as prints of files do")]
    Magic,
    /// Cut off, or not as it is written.
    #[error("its entries are not those of any prints")]
    Entries,
}

/// Every file by the print of its name: that of its bytes, or none where it was not looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prints(pub BTreeMap<Print, Option<Print>>);

/// How files differ from what they were.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Difference {
    /// Files with other bytes.
    pub changed: u64,
    /// Files that were not there, or belonged to somebody who was excluded.
    pub added: u64,
    /// Files that are gone.
    pub missing: u64,
}

impl Difference {
    /// Whether there is none.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { changed, added, missing } = self;
        write!(f, "{changed} files changed, {added} are new, {missing} are gone")
    }
}

impl Prints {
    /// The file: equal prints are equal files.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = MAGIC.to_vec();
        for (name, content) in &self.0 {
            bytes.extend(name);
            bytes.push(u8::from(content.is_some()));
            bytes.extend(content.unwrap_or_default());
        }
        bytes
    }

    /// Reads a file.
    ///
    /// # Errors
    /// One variant of [`PrintsError`] per cause.
    pub fn read(bytes: &[u8]) -> Result<Self, PrintsError> {
        let entries = bytes.strip_prefix(MAGIC).ok_or(PrintsError::Magic)?;
        let (entries, rest) = entries.as_chunks::<ENTRY_BYTES>();
        let mut prints = BTreeMap::new();
        for entry in entries {
            let (name, rest) = entry.split_first_chunk().ok_or(PrintsError::Entries)?;
            let content = match rest.split_first() {
                Some((1, content)) => Some(content.try_into().map_err(|_| PrintsError::Entries)?),
                Some((0, [0, ..])) => None,
                _ => return Err(PrintsError::Entries),
            };
            prints.insert(*name, content);
        }
        let prints = Self(prints);
        // Whatever is not written so is none: order, repetition, bytes behind.
        if rest.is_empty() && prints.to_bytes() == bytes {
            Ok(prints)
        } else {
            Err(PrintsError::Entries)
        }
    }

    /// How the files are now, compared with these. A file that is not looked at now is no difference.
    #[must_use]
    pub fn difference(&self, now: &Self) -> Difference {
        let mut difference = Difference::default();
        for (name, content) in &now.0 {
            match (content, self.0.get(name)) {
                (None, _) => {}
                (Some(content), Some(Some(pinned))) => {
                    difference.changed += u64::from(content != pinned);
                }
                (Some(_), Some(None) | None) => difference.added += 1,
            }
        }
        let gone = |(name, content): &(&Print, &Option<Print>)| {
            content.is_some() && !now.0.contains_key(*name)
        };
        difference.missing = self.0.iter().filter(gone).count() as u64;
        difference
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(of: &str) -> Print {
        let mut printer = Printer::new(&[7; PATIENT_KEY_BYTES]);
        printer.update(of.as_bytes());
        printer.finish()
    }

    fn of(files: &[(&str, Option<&str>)]) -> Prints {
        Prints(files.iter().map(|(name, content)| (print(name), content.map(print))).collect())
    }

    #[test]
    fn an_opt_out_is_no_change_and_everything_else_is() {
        let pinned = of(&[("a", Some("1")), ("b", Some("2")), ("c", None)]);
        let none = |now: &Prints| pinned.difference(now).is_none();
        assert!(none(&pinned) && none(&of(&[("a", Some("1")), ("b", None), ("c", None)])));
        assert!(none(&of(&[("a", Some("1")), ("b", Some("2"))])), "of who was excluded all along");
        let now = of(&[("a", Some("9")), ("c", Some("3")), ("d", Some("4"))]);
        let expected = Difference { changed: 1, added: 2, missing: 1 };
        assert_eq!(pinned.difference(&now), expected);
        assert_eq!(expected.to_string(), "1 files changed, 2 are new, 1 are gone");
    }

    #[test]
    fn prints_survive_their_file_and_no_other_file_is_one() {
        let prints = of(&[("a", Some("1")), ("b", None)]);
        let bytes = prints.to_bytes();
        assert_eq!(Prints::read(&bytes), Ok(prints));
        assert_eq!(Prints::read(b"consilium/model/1"), Err(PrintsError::Magic));
        let (head, entries) = bytes.split_at(MAGIC.len());
        let (one, other) = entries.split_at(ENTRY_BYTES);
        for wrong in [&[head, other, one].concat(), &[head, one, one].concat()] {
            assert_eq!(Prints::read(wrong), Err(PrintsError::Entries));
        }
        assert_eq!(Prints::read(bytes.split_last().unwrap().1), Err(PrintsError::Entries));
    }
}
