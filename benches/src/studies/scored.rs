//! What a training was worth, and where results are kept: a measurement that was stopped goes on.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use consilium_common::ids::Digest;
use consilium_common::study::sections::Metric;
use consilium_common::update::groups::GroupRow;
use consilium_common::update::operating_point::OperatingPoint;
use consilium_coordinator::local::Programs;
use consilium_io::disk::{Access, replace_with};
use serde::{Deserialize, Serialize};

/// What one training was worth on the hold-outs.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Scored {
    /// Of the last version or epoch over all hold-outs.
    pub values: BTreeMap<Metric, f64>,
    /// Site → the study's own metric on its hold-out.
    pub sites: BTreeMap<String, f64>,
    /// The same over all hold-outs, of each group.
    pub groups: Vec<GroupRow>,
    /// The best threshold, where there is one.
    pub operating_point: Option<OperatingPoint>,
    /// From start to end.
    pub seconds: f64,
}

/// A folder of results, by what they follow from: programs, study and records.
#[derive(Debug)]
pub struct Kept {
    folder: PathBuf,
    programs: Digest,
}

impl Kept {
    /// The results in `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// The folder or a program cannot be read.
    pub fn open(folder: PathBuf, programs: &Programs) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("creating {}", folder.display()))?;
        let mut bytes = Vec::new();
        for program in [&programs.consilium, &programs.agent, &programs.worker] {
            let read = std::fs::read(program);
            let read = read.with_context(|| format!("reading {}", program.display()))?;
            bytes.extend(Digest::of(&read).to_string().bytes());
        }
        Ok(Self { folder, programs: Digest::of(&bytes) })
    }

    /// What `follows_from` was worth the last time, or else what `measure` says now.
    ///
    /// # Errors
    /// What `measure` says, or a disk that refuses.
    pub fn or_measure(
        &self,
        follows_from: &[&str],
        measure: impl FnOnce() -> anyhow::Result<Scored>,
    ) -> anyhow::Result<Scored> {
        let of = serde_json::to_vec(&(self.programs.to_string(), follows_from))?;
        let path = self.folder.join(format!("{}.json", Digest::of(&of).short()));
        if let Some(known) = read(&path) {
            return Ok(known);
        }
        let scored = measure()?;
        let bytes = serde_json::to_vec(&scored)?;
        replace_with(&path, Access::Umask, |file| file.write_all(&bytes))?;
        Ok(scored)
    }
}

/// A result that cannot be read is measured again.
fn read(path: &Path) -> Option<Scored> {
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}
