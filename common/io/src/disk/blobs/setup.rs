//! Opening a blob folder: its format, its 256 folders, and what a killed process left.

use std::fs;
use std::io::Write;
use std::path::Path;

use super::{BlobError, PARTIAL, TEMPORARY, remove_file};
use crate::disk::folder::{create_folder, sync_folder};
use crate::disk::replace::{Access, replace_with};
use crate::disk::text::{TextError, read_text};
use crate::error::IoError;

const FORMAT_NAME: &str = "format";
const FORMAT: &str = "consilium blobs 1\n";
const FORMAT_BYTES_MAX: usize = 64;

/// Creates what is missing of a blob folder and sweeps its temporary files.
pub(super) fn set_up(folder: &Path) -> Result<(), BlobError> {
    create_folder(folder)?;
    check_format(folder)?;
    for name in [TEMPORARY, PARTIAL] {
        create_folder(&folder.join(name))?;
    }
    create_shards(folder)?;
    sweep(&folder.join(TEMPORARY))
}

fn check_format(folder: &Path) -> Result<(), BlobError> {
    let path = folder.join(FORMAT_NAME);
    let found = match read_text(&path, FORMAT_BYTES_MAX) {
        Ok(text) if text == FORMAT => return Ok(()),
        Ok(text) => format!("{:?}", text.trim_end()),
        Err(TextError::Missing { .. }) => {
            return Ok(replace_with(&path, Access::Private, |w| w.write_all(FORMAT.as_bytes()))?);
        }
        Err(TextError::Io(e)) => return Err(e.into()),
        Err(unreadable) => unreadable.to_string(),
    };
    Err(BlobError::Format { path: folder.to_owned(), found })
}

/// All 256 at once: a blob's arrival then costs one sync of one folder.
fn create_shards(folder: &Path) -> Result<(), BlobError> {
    let mut created = false;
    for first in 0..=u8::MAX {
        let shard = folder.join(format!("{first:02x}"));
        if !shard.is_dir() {
            fs::create_dir(&shard).map_err(IoError::at("create the folder", &shard))?;
            created = true;
        }
    }
    if created {
        sync_folder(folder)?;
    }
    Ok(())
}

fn sweep(temporary: &Path) -> Result<(), BlobError> {
    let error = || IoError::at("read the folder", temporary);
    for entry in temporary.read_dir().map_err(error())? {
        remove_file(&entry.map_err(error())?.path())?;
    }
    Ok(())
}
