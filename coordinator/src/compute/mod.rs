//! The CPU work of one study: validate an update, add it to the round's sum, make the next model and
//! the strategy's next state, or the preparation. Everything streams by 1 MiB of a model: the sum is in memory, no model
//! or state ever is (DESIGN.md §5).
//!
//! Called on blocking threads, or at once for small updates in memory. The arithmetic is in
//! `aggregate`; here is the moving of bytes.

mod retaining;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use consilium_common::ids::Digest;
use consilium_common::limits::CHUNK_BYTES;
use consilium_common::study::sections::Mode;
use consilium_common::study::{Preparation, ServerOptimizer, Study, StudyError};
use consilium_common::tensor::flat::{model_bytes_len, model_header};
use consilium_common::tensor::layout::Layout;
use consilium_common::tensor::state::{state_bytes_len, state_header};
use consilium_common::update::sections::{HEADER_BYTES, HEADER_BYTES_MAX};
use consilium_common::update::words::{Schema, Words};
use consilium_common::wire::reject::Code;

use self::retaining::Retaining;
use crate::aggregate::sum::Coordinates;
use crate::aggregate::{Before, Members, Next, ServerStep, Sum, Validator, segments};
use crate::round::{Aggregated, Fault, Prepared, Rules};
use crate::stage::{Stage, Staged};
use crate::store::{Bulk, ReadBlob, WriteBlob};

/// What a study computes with. Cheap to clone; clones share the sum.
#[derive(Debug, Clone)]
pub struct Compute(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    blobs: Arc<dyn Bulk>,
    stage: Arc<Stage>,
    /// Where accepted updates are kept for auditors, if they are.
    retained: Option<Arc<dyn Bulk>>,
    layout: Layout,
    schema: Schema,
    optimizer: ServerOptimizer,
    /// What the study's preparation follows from, if it has one.
    preparation_terms: Option<Digest>,
    /// Of the open round, once something was added.
    sum: Mutex<Option<Sum>>,
}

impl Compute {
    /// For a study. `retained`: where its accepted updates are kept for auditors, if they are.
    ///
    /// # Errors
    /// Its spec gives no layout.
    pub fn new(
        study: &Study,
        blobs: Arc<dyn Bulk>,
        stage: Arc<Stage>,
        retained: Option<Arc<dyn Bulk>>,
    ) -> Result<Self, StudyError> {
        let (layout, schema) = (study.layout()?, Schema::of(study));
        let (optimizer, sum) = (study.aggregation.server_optimizer(), Mutex::new(None));
        let preparation_terms = study.preparation_terms();
        // What is masked says nothing by itself.
        let retained = retained.filter(|_| study.privacy.mode == Mode::Inspectable);
        Ok(Self(Arc::new(Inner {
            blobs,
            stage,
            retained,
            layout,
            schema,
            optimizer,
            preparation_terms,
            sum,
        })))
    }

    /// Whether accepted updates are kept: then each is written to a disk when it is verified.
    #[must_use]
    pub fn retains(&self) -> bool {
        self.0.retained.is_some()
    }

    fn sum(&self) -> MutexGuard<'_, Option<Sum>> {
        // A thread that died in the middle of an addition poisons the lock and ends the driver, so
        // nobody goes on with a sum that is half-way.
        self.0.sum.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Holds a staged update against the rules.
    ///
    /// # Errors
    /// The rule that it breaks, or [`Code::CoordinatorFault`] if it cannot be read or is not on disk
    /// as it came: then no rule that its bytes break is the site's doing.
    pub fn verify(&self, update: Digest, rules: &Rules) -> Result<Words, Fault> {
        let staged = self.0.stage.open_update(update).map_err(our_fault)?;
        let mut validator = Validator::new(rules, &self.0.schema, staged.length())?;
        let mut read = Reread::of(&staged, update);
        let mut copy = Retaining::begin(self.0.retained.as_deref());
        let mut verdict = Ok(());
        in_chunks(0, staged.length(), |offset, chunk| {
            read.chunk(offset, chunk)?;
            if verdict.is_ok() {
                verdict = validator.feed(chunk);
                copy.write(chunk);
            }
            Ok(())
        })?;
        read.finish()?;
        verdict?;
        let words = validator.finish()?;
        copy.finish(update);
        Ok(words)
    }

    /// Adds weight · update, which was verified and has so many coordinates, to the round's sum.
    ///
    /// # Errors
    /// [`Code::CoordinatorFault`]: it cannot be read or has rotted, and may have been added in part.
    pub fn add(&self, update: Digest, weight: u64, coordinates: Coordinates) -> Result<(), Fault> {
        let staged = self.0.stage.open_update(update).map_err(our_fault)?;
        let mut sum = self.sum();
        let sum = sum.get_or_insert_with(|| Sum::of(coordinates));
        let start = if coordinates.control > 0 { HEADER_BYTES_MAX } else { HEADER_BYTES };
        add_all(sum, (update, &staged), weight, start as u64)
    }

    /// Makes the next model and the strategy's next state from the base, the state that was
    /// committed with it (`None` before the strategy's first version) and the round's sum, durably.
    /// `members`: under SCAFFOLD, whose control variates c is the mean of.
    ///
    /// # Errors
    /// [`Code::CoordinatorFault`]: base or state is not what its digest says, or the disk refused.
    pub fn aggregate(
        &self,
        base: Digest,
        strategy_state: Option<Digest>,
        (weight, step_exponent): (u64, i32),
        members: Option<Members>,
    ) -> Result<Aggregated, Fault> {
        let sum = self.sum();
        let sum = sum.as_ref().ok_or_else(|| our_fault("nothing was added"))?;
        if sum.weight() != weight {
            let told = format!("the sum has weight {}, the round {weight}", sum.weight());
            return Err(our_fault(told));
        }
        let mut step =
            ServerStep::new(self.0.optimizer, weight, step_exponent).map_err(our_fault)?;
        if let Some(members) = members {
            step = step.with_members(members).map_err(our_fault)?;
        }
        let blobs = &*self.0.blobs;
        let (mut base, mut state) = self.open(base, strategy_state)?;
        let mut next = blobs.create().map_err(our_fault)?;
        next.write(&base.header).map_err(our_fault)?;
        let mut next_state = self.create_state()?;
        let mut made = Next::default();
        for segment in segments(&self.0.layout) {
            let weights = segment.sum.as_ref().map_or(0, ExactSizeIterator::len);
            let values = weights * self.0.optimizer.state_values();
            let state = state.as_mut().map(|state| state.read(4 * values)).transpose()?;
            let before = Before { base: base.read(4 * segment.vector.len())?, state };
            made.model.clear();
            made.state.clear();
            step.next_segment(&segment, before, sum.as_slice(), &mut made).map_err(our_fault)?;
            next.write(&made.model).map_err(our_fault)?;
            if let Some(next_state) = &mut next_state {
                next_state.write(&made.state).map_err(our_fault)?;
            }
        }
        base.finish()?;
        state.map_or(Ok(()), Kept::finish)?;
        let strategy_state = next_state.map(WriteBlob::finish).transpose().map_err(our_fault)?;
        let model = next.finish().map_err(our_fault)?;
        Ok(Aggregated { model, strategy_state, sum: sum.digest() })
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

    /// What the next version is made of.
    fn open(&self, base: Digest, state: Option<Digest>) -> Result<(Kept, Option<Kept>), Fault> {
        let (blobs, layout) = (&*self.0.blobs, &self.0.layout);
        let header = model_header(&layout.digest()).to_vec();
        let base = Kept::open(blobs, "base", base, header, model_bytes_len(layout))?;
        let open_state = |state| {
            let (header, need) = (state_header(&layout.digest()).to_vec(), self.state_bytes_len());
            Kept::open(blobs, "strategy state", state, header, need)
        };
        Ok((base, state.map(open_state).transpose()?))
    }

    fn state_bytes_len(&self) -> u64 {
        state_bytes_len(&self.0.layout, self.0.optimizer.state_values())
    }

    /// A state to be, if the strategy has one.
    fn create_state(&self) -> Result<Option<Box<dyn WriteBlob>>, Fault> {
        if self.0.optimizer.state_values() == 0 {
            return Ok(None);
        }
        let mut state = self.0.blobs.create().map_err(our_fault)?;
        state.write(&state_header(&self.0.layout.digest())).map_err(our_fault)?;
        Ok(Some(state))
    }

    /// The round is over: its sum is of no more use.
    pub fn forget(&self) {
        *self.sum() = None;
    }
}

/// `start`: where the first section starts.
fn add_all(
    sum: &mut Sum,
    (update, staged): (Digest, &Staged),
    weight: u64,
    start: u64,
) -> Result<(), Fault> {
    let share = sum.admit(weight).map_err(our_fault)?;
    let end = start + 4 * sum.as_slice().len() as u64;
    let mut read = Reread::of(staged, update);
    in_chunks(0, start, |offset, chunk| read.chunk(offset, chunk))?;
    in_chunks(start, end, |offset, chunk| {
        read.chunk(offset, chunk)?;
        // Chunks begin at multiples of 4 bytes after the header, within the sum's own length.
        let at = usize::try_from((offset - start) / 4).map_err(our_fault)?;
        sum.add_bytes(share, at, chunk).map_err(our_fault)
    })?;
    in_chunks(end, staged.length(), |offset, chunk| read.chunk(offset, chunk))?;
    read.finish()
}

/// A staged update, read once more from its start to its end. A file is hashed on the way: what the
/// disk gives back now need not be what the receiving sink hashed.
struct Reread<'a> {
    staged: &'a Staged,
    digest: Digest,
    hasher: Option<blake3::Hasher>,
}

impl<'a> Reread<'a> {
    fn of(staged: &'a Staged, digest: Digest) -> Self {
        let hasher = matches!(staged, Staged::File { .. }).then(blake3::Hasher::new);
        Self { staged, digest, hasher }
    }

    fn chunk(&mut self, offset: u64, chunk: &mut [u8]) -> Result<(), Fault> {
        self.staged.read_at(offset, chunk).map_err(our_fault)?;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(chunk);
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Fault> {
        let found = self.hasher.map(|hasher| Digest::from(hasher.finalize()));
        match found.filter(|found| *found != self.digest) {
            None => Ok(()),
            Some(found) => Err(our_fault(format!(
                "staged {} has other content on disk ({found})",
                self.digest
            ))),
        }
    }
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

/// A base or a strategy's state, read from its start to its end and hashed on the way: a disk that
/// rots is found before its bytes become the next version.
struct Kept {
    what: &'static str,
    blob: Box<dyn ReadBlob>,
    digest: Digest,
    hasher: blake3::Hasher,
    at: u64,
    header: Vec<u8>,
    chunk: Vec<u8>,
}

impl Kept {
    /// Opens a blob of `need` bytes that starts with `header`.
    fn open(
        blobs: &dyn Bulk,
        what: &'static str,
        digest: Digest,
        header: Vec<u8>,
        need: u64,
    ) -> Result<Self, Fault> {
        let told = |why: String| {
            our_fault(format!("{what} {digest} {why}: bring the state folder back from a copy"))
        };
        let blob = blobs.open(digest).map_err(|error| told(format!("cannot be read ({error})")))?;
        if blob.length() != need {
            return Err(told(format!("has {} bytes, {need} expected", blob.length())));
        }
        let mut found = vec![0; header.len()];
        blob.read_at(0, &mut found).map_err(our_fault)?;
        if found != header {
            return Err(told("is of another layout, or none".to_owned()));
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(&header);
        let at = header.len() as u64;
        Ok(Self { what, blob, digest, hasher, at, header, chunk: Vec::new() })
    }

    /// The next bytes.
    fn read(&mut self, bytes: usize) -> Result<&[u8], Fault> {
        self.chunk.resize(bytes, 0);
        self.blob.read_at(self.at, &mut self.chunk).map_err(our_fault)?;
        self.hasher.update(&self.chunk);
        self.at += bytes as u64;
        Ok(&self.chunk)
    }

    fn finish(self) -> Result<(), Fault> {
        let found = Digest::from(self.hasher.finalize());
        if found == self.digest {
            return Ok(());
        }
        let (what, digest) = (self.what, self.digest);
        Err(our_fault(format!(
            "{what} {digest} has other content on disk ({found}): bring the state folder back from a \
             copy"
        )))
    }
}

fn our_fault(detail: impl ToString) -> Fault {
    Fault { code: Code::CoordinatorFault, detail: detail.to_string() }
}

#[cfg(test)]
mod tests;
