//! IDX, the format of MNIST: a magic number (two zero bytes, element type, number of dimensions),
//! big-endian u32 sizes, then the elements. Read record by record, plain or gzip, so that memory
//! follows what is kept and never what a header claims.
//!
//! Format: <http://yann.lecun.com/exdb/mnist/>, "THE IDX FILE FORMAT".

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use consilium_common::limits::EXAMPLES_MAX;
use consilium_common::study::model::cnn::Image;
use flate2::read::MultiGzDecoder;

/// The code for unsigned bytes, the only element type read here.
const UNSIGNED_BYTE: u8 = 8;
const READ_BYTES: usize = 256 << 10;

/// Why an IDX file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IdxError {
    /// The folder is not there.
    #[error("the data folder {} does not exist or is not a folder", .0.display())]
    NoFolder(PathBuf),
    /// Neither the file nor its `.gz`.
    #[error("{} has neither {name} nor {name}.gz", folder.display())]
    Missing { folder: PathBuf, name: &'static str },
    /// There, and not readable.
    #[error("{} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// The disk failed, or the gzip stream is damaged.
    #[error("{} cannot be read, it is damaged or the disk fails: {source}", path.display())]
    Damaged { path: PathBuf, source: io::Error },
    /// Does not start as expected.
    #[error("{} starts with {have:08x}, {need:08x} expected ({meaning})", path.display())]
    Magic { path: PathBuf, have: u32, need: u32, meaning: &'static str },
    /// Records of another size than the study's.
    #[error("{} holds records of {have}, the study's data contract says {need}", path.display())]
    Shape { path: PathBuf, have: String, need: String },
    /// Another number of images than of labels.
    #[error("{} has {have} images, its labels are {need}", path.display())]
    Count { path: PathBuf, have: u32, need: u32 },
    /// More records than a site may have.
    #[error("{} claims {have} records, at most {EXAMPLES_MAX} are read", path.display())]
    TooMany { path: PathBuf, have: u32 },
    /// Ends inside the header.
    #[error("{} is truncated: it ends inside its header", path.display())]
    NoHeader { path: PathBuf },
    /// Ends too early.
    #[error("{} is truncated: it ends in record {have} of {need}", path.display())]
    Truncated { path: PathBuf, have: u32, need: u32 },
    /// Goes on after the last record.
    #[error("{} goes on after its {need} records: it is not what its header says", path.display())]
    Trailing { path: PathBuf, need: u32 },
}

/// An open file behind its header.
struct Opened {
    path: PathBuf,
    reader: Box<dyn Read>,
    sizes: Vec<u32>,
}

/// Opens `name` or `name.gz` in `folder` and reads the header.
fn open(
    folder: &Path,
    name: &'static str,
    dimensions: u8,
    meaning: &'static str,
) -> Result<Opened, IdxError> {
    if !folder.is_dir() {
        return Err(IdxError::NoFolder(folder.to_owned()));
    }
    let (plain, packed) = (folder.join(name), folder.join(format!("{name}.gz")));
    let (path, gzip) = if plain.exists() {
        (plain, false)
    } else if packed.exists() {
        (packed, true)
    } else {
        let folder = folder.to_owned();
        return Err(IdxError::Missing { folder, name });
    };
    let file = match File::open(&path) {
        Ok(file) => BufReader::with_capacity(READ_BYTES, file),
        Err(source) => return Err(IdxError::Open { path, source }),
    };
    let mut reader: Box<dyn Read> = if gzip {
        Box::new(BufReader::with_capacity(READ_BYTES, MultiGzDecoder::new(file)))
    } else {
        Box::new(file)
    };
    let have = big_endian(reader.as_mut(), &path)?;
    let need = u32::from_be_bytes([0, 0, UNSIGNED_BYTE, dimensions]);
    if have != need {
        return Err(IdxError::Magic { path, have, need, meaning });
    }
    let sizes: Result<Vec<u32>, IdxError> =
        (0..dimensions).map(|_| big_endian(reader.as_mut(), &path)).collect();
    let sizes = sizes?;
    let have = sizes.first().copied().unwrap_or(0);
    if u64::from(have) > EXAMPLES_MAX {
        return Err(IdxError::TooMany { path, have });
    }
    Ok(Opened { path, reader, sizes })
}

fn big_endian(reader: &mut dyn Read, path: &Path) -> Result<u32, IdxError> {
    let mut word = [0; 4];
    match reader.read_exact(&mut word) {
        Ok(()) => Ok(u32::from_be_bytes(word)),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            Err(IdxError::NoHeader { path: path.to_owned() })
        }
        Err(source) => Err(IdxError::Damaged { path: path.to_owned(), source }),
    }
}

/// Records of one size, one after another.
pub(crate) struct Records {
    path: PathBuf,
    reader: Box<dyn Read>,
    count: u32,
    done: u32,
    record: Vec<u8>,
}

impl Records {
    /// The images in `name`: as many as `labels`, each of the study's size. Grey images have three
    /// dimensions (count, height, width), others four (count, channels, height, width).
    pub(crate) fn images(
        folder: &Path,
        name: &'static str,
        size: Image,
        labels: usize,
    ) -> Result<Self, IdxError> {
        let (dimensions, meaning) = match size.channels {
            1 => (3, "IDX, grey images of bytes"),
            _ => (4, "IDX, images of bytes with channels"),
        };
        let file = open(folder, name, dimensions, meaning)?;
        let whole = [size.channels, size.height, size.width];
        let need = whole.get(usize::from(size.channels == 1)..).unwrap_or_default();
        let (count, have) = file.sizes.split_first().map_or((0, &[][..]), |(n, rest)| (*n, rest));
        if have != need {
            let (have, need) = (by(have), by(need));
            let path = file.path;
            return Err(IdxError::Shape { path, have, need });
        }
        if usize::try_from(count) != Ok(labels) {
            return Err(IdxError::Count {
                path: file.path,
                have: count,
                need: u32::try_from(labels).unwrap_or(u32::MAX),
            });
        }
        // At most 8192³ elements by the study's own bounds; the study is signed, the file is not.
        let len = need.iter().map(|&side| side as usize).product();
        Ok(Self { path: file.path, reader: file.reader, count, done: 0, record: vec![0; len] })
    }

    /// The next record, row-major; `None` after the last, once the file has ended there too.
    pub(crate) fn next(&mut self) -> Result<Option<&[u8]>, IdxError> {
        if self.done == self.count {
            expect_end(self.reader.as_mut(), &self.path, self.count)?;
            return Ok(None);
        }
        match self.reader.read_exact(&mut self.record) {
            Ok(()) => {
                self.done += 1;
                Ok(Some(&self.record))
            }
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Err(IdxError::Truncated {
                    path: self.path.clone(),
                    have: self.done + 1,
                    need: self.count,
                })
            }
            Err(source) => Err(IdxError::Damaged { path: self.path.clone(), source }),
        }
    }
}

/// All labels in `name`: a byte a record.
pub(crate) fn labels(folder: &Path, name: &'static str) -> Result<Vec<u8>, IdxError> {
    let Opened { path, mut reader, sizes } = open(folder, name, 1, "IDX, a label byte a record")?;
    let need = sizes.first().copied().unwrap_or(0);
    let mut labels = Vec::new();
    if let Err(source) = reader.by_ref().take(need.into()).read_to_end(&mut labels) {
        return Err(IdxError::Damaged { path, source });
    }
    let have = u32::try_from(labels.len()).unwrap_or(u32::MAX);
    if have < need {
        let have = have + 1;
        return Err(IdxError::Truncated { path, have, need });
    }
    expect_end(reader.as_mut(), &path, need)?;
    Ok(labels)
}

fn expect_end(reader: &mut dyn Read, path: &Path, need: u32) -> Result<(), IdxError> {
    let path = path.to_owned();
    match reader.read(&mut [0]) {
        Ok(0) => Ok(()),
        Ok(_) => Err(IdxError::Trailing { path, need }),
        Err(source) => Err(IdxError::Damaged { path, source }),
    }
}

fn by(sides: &[u32]) -> String {
    let sides: Vec<String> = sides.iter().map(u32::to_string).collect();
    sides.join("×")
}

#[cfg(test)]
#[path = "idx_tests.rs"]
mod tests;
