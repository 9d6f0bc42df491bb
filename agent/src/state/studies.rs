//! Studies that operators signed and the site has judged, with what the site decided.
//!
//! `DIGEST.toml` and `DIGEST.sig` are the signed bytes as they came; `DIGEST.decision` is one JSON
//! object, replaced atomically. Without it nothing is decided yet. Signatures were verified before
//! a study gets here and are verified again when it is read for use.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use consilium_certs::signed_file;
use consilium_common::ids::Digest;
use consilium_common::signed::{Document, Signed};
use consilium_common::study::Study;
use consilium_io::disk::{read_text, replace_private};

use super::{SetAside, StateError, entries};
use crate::policy::Decided;

/// A decision is a line: names and reasons of a few people.
const DECISION_BYTES_MAX: usize = 16 << 10;

/// One study as the site knows it.
#[derive(Debug, Clone)]
pub struct KeptStudy {
    /// BLAKE3 of the signed bytes.
    pub digest: Digest,
    /// The document, parsed.
    pub study: Arc<Study>,
    /// The signed bytes and their signatures.
    pub signed: Signed<Study>,
    /// What people at the site decided, if they have.
    pub decided: Option<Decided>,
}

/// All studies of the folder.
#[derive(Debug)]
pub struct Studies {
    folder: PathBuf,
    known: BTreeMap<Digest, KeptStudy>,
}

impl Studies {
    /// No studies; for a state folder that has none yet.
    pub(super) fn none(folder: &Path) -> Self {
        Self { folder: folder.to_owned(), known: BTreeMap::new() }
    }

    pub(super) fn load(folder: &Path, aside: &SetAside) -> Result<Self, StateError> {
        let mut studies = Self::none(folder);
        for path in entries(folder)? {
            if path.extension().is_some_and(|extension| extension == "toml") {
                match studies.read(&path) {
                    Ok(Some(study)) => drop(studies.known.insert(study.digest, study)),
                    Ok(None) => {}
                    Err(why) => aside.take(&path, &why)?,
                }
            } else if !["sig", "decision"].iter().any(|known| has_extension(&path, known)) {
                aside.take(&path, &"not a file of this folder")?;
            }
        }
        Ok(studies)
    }

    /// `None` for a study whose signatures a crash kept from being written: it is offered again.
    fn read(&self, path: &Path) -> Result<Option<KeptStudy>, String> {
        if !signed_file::sig_path(path).exists() {
            return Ok(None);
        }
        let signed = signed_file::load::<Study>(path).map_err(|error| error.to_string())?;
        let digest = signed.digest();
        let name = path.file_stem().unwrap_or_default();
        if *name != *digest.to_string() {
            return Err(format!("its content has digest {digest}"));
        }
        let study = Study::parse(&signed.bytes).map_err(|error| error.to_string())?;
        Ok(Some(KeptStudy {
            digest,
            study: Arc::new(study),
            signed,
            decided: self.read_decision(digest)?,
        }))
    }

    fn read_decision(&self, digest: Digest) -> Result<Option<Decided>, String> {
        let path = self.decision_path(digest);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_text(&path, DECISION_BYTES_MAX).map_err(|error| error.to_string())?;
        match serde_json::from_str(&text) {
            Ok(decided) => Ok(Some(decided)),
            Err(why) => {
                // Fail closed: an unreadable decision is none, and a person is asked again.
                tracing::warn!(file = %path.display(), %why, "this decision cannot be read: asked for again");
                Ok(None)
            }
        }
    }

    /// The study with this digest.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<&KeptStudy> {
        self.known.get(digest)
    }

    /// All of them, in the order of digests.
    pub fn iter(&self) -> impl Iterator<Item = &KeptStudy> {
        self.known.values()
    }

    /// The newest version of each, in the order of digests.
    pub fn newest(&self) -> impl Iterator<Item = &KeptStudy> {
        let follows = |one: &KeptStudy, other: &KeptStudy| {
            let (one, other) = (&one.study, &other.study);
            one.id() == other.id() && one.header.version > other.header.version
        };
        self.iter().filter(move |kept| !self.iter().any(|one| follows(one, kept)))
    }

    /// Keeps a study whose signatures hold. An earlier decision on the same digest stays.
    ///
    /// # Errors
    /// The files cannot be written, or the bytes are no study.
    pub fn keep(&mut self, signed: Signed<Study>) -> Result<&KeptStudy, StateError> {
        let digest = signed.digest();
        let path = self.document_path(digest);
        signed_file::store(&path, &signed)?;
        let damaged = |reason| StateError::Damaged { path: path.clone(), reason };
        let study = self.read(&path).map_err(damaged)?;
        let study = study.ok_or_else(|| damaged("its signatures are gone".to_owned()))?;
        Ok(self.known.entry(digest).insert_entry(study).into_mut())
    }

    /// Writes a decision; it lasts when this returns.
    ///
    /// # Errors
    /// The file cannot be written, or there is no such study.
    pub fn decide(&mut self, digest: Digest, decided: Decided) -> Result<(), StateError> {
        let path = self.decision_path(digest);
        let unwritable = |reason: String| StateError::Unwritable { path: path.clone(), reason };
        let known = self
            .known
            .get_mut(&digest)
            .ok_or_else(|| unwritable("no such study is known here".to_owned()))?;
        let text = serde_json::to_string(&decided).map_err(|e| unwritable(e.to_string()))?;
        replace_private(&path, text.as_bytes())?;
        known.decided = Some(decided);
        Ok(())
    }

    fn document_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.toml"))
    }

    fn decision_path(&self, digest: Digest) -> PathBuf {
        self.folder.join(format!("{digest}.decision"))
    }
}

fn has_extension(path: &Path, extension: &str) -> bool {
    path.extension().is_some_and(|have| have == extension)
}
