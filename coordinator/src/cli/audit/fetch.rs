//! Where an export comes from: a coordinator that runs, or the state folder of one.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use consilium_common::ids::Digest;
use consilium_common::limits::BLOB_BYTES_MAX;
use consilium_common::wire::operator::Request;
use consilium_io::IoError;
use consilium_io::disk::text::read_file;
use consilium_io::disk::{BlobError, Blobs, Durability};

use super::super::client::Client;
use super::super::{Failure, model};
use super::CHECKPOINT_BYTES_MAX;
use crate::audit::Folder;
use crate::document::AuditExportDocument;
use crate::store::schema;

/// What a blob is needed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// A model, a strategy's state, a preparation.
    Model,
    /// An update that was counted.
    Update,
}

/// How many blobs were brought, and how many of each kind are not there to be brought.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Brought {
    pub(super) models: u64,
    pub(super) updates: u64,
    pub(super) models_missing: u64,
    pub(super) updates_missing: u64,
}

impl Brought {
    fn count(&mut self, part: Part, is_here: bool) {
        *match (is_here, part) {
            (true, Part::Model) => &mut self.models,
            (true, Part::Update) => &mut self.updates,
            (false, Part::Model) => &mut self.models_missing,
            (false, Part::Update) => &mut self.updates_missing,
        } += 1;
    }
}

/// The folders of an export that blobs go to.
struct Shelves {
    models: Blobs,
    updates: Blobs,
}

impl Shelves {
    fn open(folder: &Folder) -> Result<Self, Failure> {
        let kept = folder.kept_or_to_be();
        Ok(Self {
            models: Blobs::open(&kept.blobs).map_err(Failure::failed)?,
            updates: Blobs::open(&kept.updates).map_err(Failure::failed)?,
        })
    }

    fn of(&self, part: Part) -> &Blobs {
        match part {
            Part::Model => &self.models,
            Part::Update => &self.updates,
        }
    }
}

/// The checkpoint's file and the log up to it, in `folder`, from a coordinator that runs.
pub(super) async fn from_coordinator(client: &Client, folder: &Folder) -> Result<Vec<u8>, Failure> {
    let exported: AuditExportDocument = client.ask(&Request::AuditExport).await?;
    if exported.bytes > BLOB_BYTES_MAX {
        return Err(Failure::failed(format!(
            "the log has {} bytes, at most {BLOB_BYTES_MAX} are sent: export with --state at the \
             coordinator",
            exported.bytes
        )));
    }
    let blobs = Blobs::open(&folder.path().join("incoming")).map_err(Failure::failed)?;
    let bar = model::progress_bar(exported.bytes);
    let mut through = |at| bar.set_position(at);
    client.fetch(&blobs, exported.digest, exported.bytes, &mut through).await?;
    bar.finish_and_clear();
    let (from, to) = (blobs.path_of(exported.digest), folder.log());
    std::fs::rename(&from, &to).map_err(IoError::at("rename a file to", &to)).map_err(failed)?;
    Ok(exported.checkpoint.into_bytes())
}

/// The same from a state folder. The log is only appended to, so its front is whole while a coordinator runs.
pub(super) fn from_state(state: &Path, folder: &Folder) -> Result<Vec<u8>, Failure> {
    let path = state.join(schema::CHECKPOINT);
    let checkpoint = read_file(&path, CHECKPOINT_BYTES_MAX).map_err(Failure::failed)?;
    let signed = consilium_common::audit::Checkpoint::from_file(&checkpoint)
        .map_err(|error| Failure::refused(format!("{}: {error}", path.display())))?;
    let size = signed.parse_unverified().map_err(Failure::refused)?.size;
    let source = state.join(schema::LOG);
    let bytes = bytes_of(&source, size)?;
    let copied = copy_front(&source, &folder.log(), bytes);
    copied.map_err(IoError::at("copy", &source)).map_err(failed)?;
    Ok(checkpoint)
}

/// Bytes of the log's file that hold its first `size` records.
fn bytes_of(path: &Path, size: u64) -> Result<u64, Failure> {
    let mut end = consilium_io::disk::log::file_header().len() as u64;
    let mut found = 0;
    consilium_io::disk::Log::read(path, size, |record| {
        if record.index < size {
            let framed = consilium_io::disk::log::framed(record.kind, record.wall, record.payload);
            end = record.offset + framed.map_or(0, |framed| framed.len() as u64);
            found += 1;
        }
        Ok(())
    })
    .map_err(Failure::failed)?;
    tracing::debug!(found, end, "records of the checkpoint");
    Ok(end)
}

fn copy_front(from: &Path, to: &Path, bytes: u64) -> io::Result<()> {
    let (source, mut target) = (File::open(from)?, File::create(to)?);
    io::copy(&mut source.take(bytes), &mut target)?;
    target.flush()?;
    target.sync_all()
}

/// Brings the blobs that are not in the export yet.
pub(super) async fn bring(
    client: &Client,
    folder: &Folder,
    wanted: &BTreeMap<Digest, Part>,
) -> Result<Brought, Failure> {
    let (shelves, mut brought) = (Shelves::open(folder)?, Brought::default());
    let bar = model::progress_bar(wanted.len() as u64);
    for (digest, part) in wanted {
        let shelf = shelves.of(*part);
        let is_here = shelf.contains(*digest)
            || client.fetch_if_there(shelf, *digest, BLOB_BYTES_MAX).await?;
        brought.count(*part, is_here);
        bar.inc(1);
    }
    bar.finish_and_clear();
    Ok(brought)
}

/// Copies the blobs that are not in the export yet.
pub(super) fn copy(
    state: &Path,
    folder: &Folder,
    wanted: &BTreeMap<Digest, Part>,
) -> Result<Brought, Failure> {
    let (shelves, mut brought) = (Shelves::open(folder)?, Brought::default());
    let sources = [schema::BLOBS, schema::UPDATES].map(|name| Blobs::look_at(&state.join(name)));
    let [models, updates] = &sources;
    for (digest, part) in wanted {
        let source = match part {
            Part::Model => models,
            Part::Update => updates,
        };
        let is_here = copy_blob(source, shelves.of(*part), *digest).map_err(Failure::failed)?;
        brought.count(*part, is_here);
    }
    Ok(brought)
}

fn copy_blob(from: &Blobs, to: &Blobs, digest: Digest) -> Result<bool, BlobError> {
    if to.contains(digest) {
        return Ok(true);
    }
    if !from.contains(digest) {
        return Ok(false);
    }
    let mut writer = to.writer()?;
    from.copy_verified(digest, &mut Writing(&mut writer))?;
    writer.finish(Some(digest), Durability::Lasting)?;
    Ok(true)
}

/// A blob being written, as a writer.
struct Writing<'a>(&'a mut consilium_io::disk::BlobWriter);

impl io::Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn failed(error: IoError) -> Failure {
    Failure::failed(error)
}
