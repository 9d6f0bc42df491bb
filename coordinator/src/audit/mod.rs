//! The log from outside: what an auditor takes away, checks without anybody's help, and reads.
//!
//! ```text
//!   folder ─┬─► frames     bytes, checksums, the tree's root, the checkpoint's signature
//!           ├─► story      signatures, and whether each record fits those before it
//!           │     ├─► rounds     what a plan, a receipt, a roll call must be
//!           │     └─► members    who signed for whom
//!           ├─► recompute  each round's sum and the version that it made, from retained updates
//!           └─► words      a record in a sentence
//!   all of them ─► verdict  what was checked, what is wrong, what could not be checked
//! ```
//!
//! What is pinned (the coordinator's log key, the operators' keys) comes from the auditor. Everything else
//! is held against it: an export proves nothing about itself.

pub mod folder;
pub mod frames;
mod members;
mod recompute;
mod rounds;
mod story;
pub mod verdict;
pub mod words;

use std::io::Read;
use std::path::Path;

use consilium_certs::consortium::Consortium;
use consilium_common::audit::Checkpoint;
use consilium_io::IoError;
use consilium_io::disk::Log;

pub use folder::{Folder, Kept};
pub use verdict::{At, Check, Fault, Verdict};

use self::story::Story;

/// Checks an export: the log that `open` gives (twice: a reader and its length), its checkpoint's file, and
/// what was kept beside it. `others`: checkpoints of the same log that somebody kept from earlier. Memory does not grow with the log, only with a model where rounds are
/// recomputed.
///
/// # Errors
/// The log cannot be opened or read. Whatever is wrong with what was read stands in the verdict.
pub fn verify<R: Read>(
    open: impl Fn() -> Result<(R, u64), IoError>,
    checkpoint: &[u8],
    others: &[Checkpoint],
    pinned: &Consortium,
    kept: Option<&Kept>,
) -> Result<Verdict, IoError> {
    let mut verdict = Verdict::default();
    let path = Path::new("log");
    let signed = frames::checkpoint(checkpoint, pinned, &mut verdict);
    if !frames::check(path, open()?, (signed.as_ref(), others), &mut verdict)? {
        // Of a log that was damaged on its way, what is left tells nothing about who wrote it.
        return Ok(verdict);
    }
    let mut story = Story::new(pinned, kept, verdict);
    let read = Log::read_from(path, open()?, 0, |record| {
        story.take(&record);
        Ok(())
    });
    let mut verdict = story.end();
    if let Err(error) = read {
        frames::damaged(error, &mut verdict)?;
    }
    Ok(verdict)
}

#[cfg(test)]
mod tests;
