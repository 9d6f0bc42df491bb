//! The CPU work of one study: validate an update, add it to the round's sum, make the next model or
//! the preparation. Everything streams by 1 MiB chunks: the sum is in memory, no model ever is (DESIGN.md §5).
//!
//! Called on blocking threads, or at once for small updates in memory. The arithmetic is in
//! `aggregate`; here is the moving of bytes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::study::{Preparation, Study, StudyError};
use consilium_common::tensor::flat::{MODEL_HEADER_BYTES, check_model_header, model_bytes_len};
use consilium_common::tensor::layout::Layout;
use consilium_common::update::sections::HEADER_BYTES;
use consilium_common::update::words::{Schema, Words};
use consilium_common::wire::reject::Code;

use crate::aggregate::fedavg::segments;
use crate::aggregate::{FedAvg, Sum, Validator};
use crate::round::{Aggregated, Fault, Prepared, Rules};
use crate::stage::{Stage, Staged};
use crate::store::{Blobs, ReadBlob};

/// What a study computes with. Cheap to clone; clones share the sum.
#[derive(Debug, Clone)]
pub struct Compute(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: Arc<dyn Blobs>,
    stage: Arc<Stage>,
    layout: Layout,
    schema: Schema,
    /// What the study's preparation follows from, if it has one.
    preparation_terms: Option<Digest>,
    /// Of the open round, once something was added.
    sum: Mutex<Option<Sum>>,
}

impl Compute {
    /// For a study.
    ///
    /// # Errors
    /// Its spec gives no layout.
    pub fn new(
        study: &Study,
        blobs: Arc<dyn Blobs>,
        stage: Arc<Stage>,
    ) -> Result<Self, StudyError> {
        let (layout, schema) = (study.layout()?, Schema::of(study));
        let preparation_terms = study.preparation_terms();
        let sum = Mutex::new(None);
        Ok(Self(Arc::new(Inner { blobs, stage, layout, schema, preparation_terms, sum })))
    }

    fn sum(&self) -> MutexGuard<'_, Option<Sum>> {
        // A thread that died in the middle of an addition poisons the lock and ends the driver, so
        // nobody goes on with a sum that is half-way.
        self.0.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a staged update against the rules.
    ///
    /// # Errors
    /// The rule that it breaks, or [`Code::CoordinatorFault`] if it cannot be read.
    pub fn verify(&self, update: Digest, rules: &Rules) -> Result<Words, Fault> {
        let staged = self.0.stage.open_update(update).map_err(our_fault)?;
        let mut validator = Validator::new(rules, &self.0.schema, staged.length())?;
        in_chunks(0, staged.length(), |offset, chunk| {
            staged.read_at(offset, chunk).map_err(our_fault)?;
            validator.feed(chunk)
        })?;
        validator.finish()
    }

    /// Adds weight · update, which was verified and has so many coordinates, to the round's sum.
    ///
    /// # Errors
    /// [`Code::CoordinatorFault`]: it cannot be read, and may have been added in part.
    pub fn add(&self, update: Digest, weight: u64, coordinates: usize) -> Result<(), Fault> {
        let staged = self.0.stage.open_update(update).map_err(our_fault)?;
        let mut sum = self.sum();
        let sum = sum.get_or_insert_with(|| Sum::new(coordinates));
        add_all(sum, &staged, weight)
    }

    /// Makes the next model from the base and the round's sum, durably.
    ///
    /// # Errors
    /// [`Code::CoordinatorFault`]: the base is not what its digest says, or the disk refused.
    pub fn aggregate(
        &self,
        base: Digest,
        weight: u64,
        step_exponent: i32,
    ) -> Result<Aggregated, Fault> {
        let sum = self.sum();
        let sum = sum.as_ref().ok_or_else(|| our_fault("nothing was added"))?;
        if sum.weight() != weight {
            let told = format!("the sum has weight {}, the round {weight}", sum.weight());
            return Err(our_fault(told));
        }
        let average = FedAvg::new(weight, step_exponent).map_err(our_fault)?;
        let mut base_bytes = Base::open(&*self.0.blobs, base, &self.0.layout)?;
        let mut next = self.0.blobs.create().map_err(our_fault)?;
        next.write(&base_bytes.header).map_err(our_fault)?;
        let (mut chunk, mut made) = (Vec::new(), Vec::new());
        for segment in segments(&self.0.layout) {
            base_bytes.read(4 * segment.vector.len(), &mut chunk)?;
            made.clear();
            average.next_segment(&segment, &chunk, sum.as_slice(), &mut made).map_err(our_fault)?;
            next.write(&made).map_err(our_fault)?;
        }
        base_bytes.finish()?;
        let model = next.finish().map_err(our_fault)?;
        Ok(Aggregated { model, sum: sum.digest() })
    }

    /// Makes the preparation of the round's sum over so many sites, durably.
    ///
    /// # Errors
    /// [`Code::CoordinatorFault`]: the sum is none of this study's counts, or the disk refused.
    pub fn prepare(&self, sites: u64) -> Result<Prepared, Fault> {
        let sum = self.sum();
        let sum = sum.as_ref().ok_or_else(|| our_fault("nothing was added"))?;
        if sum.weight() != sites {
            let told = format!("the sum is of {} sites, the round of {sites}", sum.weight());
            return Err(our_fault(told));
        }
        let nothing = || our_fault("the study prepares nothing");
        let preparation = Preparation {
            terms: self.0.preparation_terms.ok_or_else(nothing)?,
            sites: u32::try_from(sites).map_err(our_fault)?,
            sums: sum.as_slice().to_vec(),
        };
        let mut blob = self.0.blobs.create().map_err(our_fault)?;
        blob.write(&preparation.encode()).map_err(our_fault)?;
        let preparation = blob.finish().map_err(our_fault)?;
        Ok(Prepared { preparation, sum: sum.digest() })
    }

    /// The round is over: its sum is of no more use.
    pub fn forget(&self) {
        *self.sum() = None;
    }
}

fn add_all(sum: &mut Sum, staged: &Staged, weight: u64) -> Result<(), Fault> {
    let share = sum.admit(weight).map_err(our_fault)?;
    let start = HEADER_BYTES as u64;
    let end = start + 4 * sum.as_slice().len() as u64;
    in_chunks(start, end, |offset, chunk| {
        staged.read_at(offset, chunk).map_err(our_fault)?;
        // Chunks begin at multiples of 4 bytes after the header, within the sum's own length.
        let at = usize::try_from((offset - start) / 4).map_err(our_fault)?;
        sum.add_bytes(share, at, chunk).map_err(our_fault)
    })
}

/// Gives `work` one chunk of `start..end` after the other.
fn in_chunks(
    start: u64,
    end: u64,
    mut work: impl FnMut(u64, &mut [u8]) -> Result<(), Fault>,
) -> Result<(), Fault> {
    let mut buffer = Vec::new();
    let mut at = start;
    while at < end {
        let want = usize::try_from(end - at).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        buffer.resize(want, 0);
        work(at, &mut buffer)?;
        at += want as u64;
    }
    Ok(())
}

/// A base model, read from its start to its end and hashed on the way: a disk that rots is found
/// before its bytes become the next version.
struct Base {
    blob: Box<dyn ReadBlob>,
    digest: Digest,
    hasher: blake3::Hasher,
    at: u64,
    header: [u8; MODEL_HEADER_BYTES],
}

impl Base {
    fn open(blobs: &dyn Blobs, digest: Digest, layout: &Layout) -> Result<Self, Fault> {
        let blob = blobs.open(digest).map_err(our_fault)?;
        let need = model_bytes_len(layout);
        if blob.length() != need {
            let told = format!("base {digest} has {} bytes, {need} expected", blob.length());
            return Err(our_fault(told));
        }
        let mut header = [0; MODEL_HEADER_BYTES];
        blob.read_at(0, &mut header).map_err(our_fault)?;
        check_model_header(&header, layout).map_err(our_fault)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        Ok(Self { blob, digest, hasher, at: MODEL_HEADER_BYTES as u64, header })
    }

    fn read(&mut self, bytes: usize, chunk: &mut Vec<u8>) -> Result<(), Fault> {
        chunk.resize(bytes, 0);
        self.blob.read_at(self.at, chunk).map_err(our_fault)?;
        self.hasher.update(chunk);
        self.at += bytes as u64;
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        let found = Digest::from(self.hasher.finalize());
        if found == self.digest {
            return Ok(());
        }
        let told = format!(
            "base {} has other content on disk ({found}): bring the state back from a copy",
            self.digest
        );
        Err(our_fault(told))
    }
}

fn our_fault(detail: impl ToString) -> Fault {
    Fault { code: Code::CoordinatorFault, detail: detail.to_string() }
}
