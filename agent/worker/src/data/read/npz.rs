//! Arrays of a .npz file (a zip of .npy files, stored or deflated) or of a single .npy file, read by
//! records along the first axis. Memory follows the records asked for, never what a header claims.

use std::fmt;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use consilium_common::limits::NPZ_ARRAYS_MAX;
use flate2::Crc;
use flate2::bufread::DeflateDecoder;
use zip::{CompressionMethod, ZipArchive};

use super::npy::{Dtype, Header, HeaderError, Kind, half};

const READ_BYTES: usize = 64 << 10;

/// Why a file or an array was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NpzError {
    /// Not there, or not readable.
    #[error("{} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// No zip.
    #[error("{} is no readable .npz: {why}", path.display())]
    Archive { path: PathBuf, why: String },
    /// Another name.
    #[error("{} has no array {name:?}, it has {have}", path.display())]
    Missing { path: PathBuf, name: String, have: String },
    /// A header that is not read.
    #[error("{}, array {name:?}: {why}", path.display())]
    Header { path: PathBuf, name: String, why: String },
    /// Elements that are not what was asked for.
    #[error("{}, array {name:?}: dtype {have}, {need} expected", path.display())]
    Dtype { path: PathBuf, name: String, have: Dtype, need: &'static str },
    /// Ends too early.
    #[error("{}, array {name:?}: truncated: it ends in record {record} of {of}", path.display())]
    Truncated { path: PathBuf, name: String, record: u64, of: u64 },
    /// Goes on, or is not what was written.
    #[error("{}, array {name:?}: {why}", path.display())]
    Damaged { path: PathBuf, name: String, why: String },
}

/// One array of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listed {
    pub(crate) name: String,
    pub(crate) header: Header,
}

/// All arrays of `path`, sorted by name; a .npy file's is named as the file.
pub(crate) fn list(path: &Path) -> Result<Vec<Listed>, NpzError> {
    let one = |place: Place| {
        let array = Array::at(path, place)?;
        Ok(Listed { name: array.name, header: array.header })
    };
    places(path)?.into_iter().map(one).collect()
}

/// Where an array's bytes lie in its file.
#[derive(Debug, Clone)]
struct Place {
    name: String,
    start: u64,
    len: u64,
    deflated: bool,
    /// What the elements with their header must sum to; a bare .npy has none.
    crc: Option<u32>,
}

/// An open array, read from its first record to its last.
pub(crate) struct Array {
    path: PathBuf,
    name: String,
    header: Header,
    reader: Summed,
    done: u64,
    chunk: Vec<u8>,
}

impl fmt::Debug for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, name, header, done, .. } = self;
        write!(f, "Array({}, {name:?}, {header:?}, {done} records read)", path.display())
    }
}

impl Array {
    /// Opens the array `name` of `path` (without `.npy`).
    pub(crate) fn open(path: &Path, name: &str) -> Result<Self, NpzError> {
        let places = places(path)?;
        let Some(place) = places.iter().find(|place| place.name == name) else {
            let names: Vec<&str> = places.iter().map(|place| place.name.as_str()).collect();
            let (path, have) = (path.to_owned(), names.join(", "));
            return Err(NpzError::Missing { path, name: name.to_owned(), have });
        };
        Self::at(path, place.clone())
    }

    fn at(path: &Path, place: Place) -> Result<Self, NpzError> {
        let open = |source| NpzError::Open { path: path.to_owned(), source };
        let mut file = File::open(path).map_err(open)?;
        file.seek(SeekFrom::Start(place.start)).map_err(open)?;
        let stored = BufReader::with_capacity(READ_BYTES, file).take(place.len);
        let inner: Box<dyn Read> =
            if place.deflated { Box::new(DeflateDecoder::new(stored)) } else { Box::new(stored) };
        let mut reader = Summed { inner, sum: Crc::new(), need: place.crc };
        let (path, name) = (path.to_owned(), place.name);
        match Header::read(&mut reader) {
            Ok(header) => {
                let chunk = vec![0; READ_BYTES];
                Ok(Self { path, name, header, reader, done: 0, chunk })
            }
            Err(HeaderError::Wrong(why)) => Err(NpzError::Header { path, name, why }),
            Err(HeaderError::Io(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                let why = "truncated: it ends within its header".to_owned();
                Err(NpzError::Header { path, name, why })
            }
            Err(HeaderError::Io(error)) => {
                Err(NpzError::Damaged { path, name, why: error.to_string() })
            }
        }
    }

    /// Type of the elements.
    pub(crate) fn dtype(&self) -> Dtype {
        self.header.dtype
    }

    /// Sizes; the first is how many records there are.
    pub(crate) fn shape(&self) -> &[u64] {
        &self.header.shape
    }

    /// The next `n` records (fewer at the end, 0 after it) in place of what `out` held, row-major.
    /// Integers beyond 2^24 and doubles are rounded to the nearest f32; NaN and infinities stay.
    pub(crate) fn next_rows(&mut self, n: u64, out: &mut Vec<f32>) -> Result<u64, NpzError> {
        let element = float_of(self.header.dtype);
        self.records(n, out, element)
    }

    /// As [`Array::next_rows`], of integers and truth values (0 and 1) alone.
    pub(crate) fn next_rows_i64(&mut self, n: u64, out: &mut Vec<i64>) -> Result<u64, NpzError> {
        match integer_of(self.header.dtype) {
            Some(element) => self.records(n, out, element),
            None => self.refuse("an integer type"),
        }
    }

    /// As [`Array::next_rows`], of unsigned bytes and truth values (0 and 1) alone.
    pub(crate) fn next_rows_u8(&mut self, n: u64, out: &mut Vec<u8>) -> Result<u64, NpzError> {
        match self.header.dtype {
            Dtype { kind: Kind::Unsigned, bytes: 1, .. } => {
                self.records(n, out, |bytes| bytes.first().copied().unwrap_or(0))
            }
            Dtype { kind: Kind::Bool, .. } => self.records(n, out, |bytes| u8::from(bytes != [0])),
            _ => self.refuse("|u1"),
        }
    }

    fn refuse(&self, need: &'static str) -> Result<u64, NpzError> {
        let (path, name, have) = (self.path.clone(), self.name.clone(), self.header.dtype);
        Err(NpzError::Dtype { path, name, have, need })
    }

    /// Reads records through a buffer of fixed size: `out` grows with what the file has.
    fn records<T>(
        &mut self,
        n: u64,
        out: &mut Vec<T>,
        element: impl Fn(&[u8]) -> T,
    ) -> Result<u64, NpzError> {
        out.clear();
        let of = self.header.records();
        let n = n.min(of - self.done);
        let width = self.header.dtype.bytes;
        let elements = self.header.record_elements();
        let mut left = n.saturating_mul(elements);
        while left > 0 {
            // The chunk's size is a multiple of every width, so it holds whole elements.
            let bytes = usize::try_from(left.saturating_mul(width as u64)).unwrap_or(usize::MAX);
            let bytes = bytes.min(self.chunk.len());
            let chunk = self.chunk.get_mut(..bytes).unwrap_or_default();
            if let Err(error) = self.reader.read_exact(chunk) {
                let (path, name) = (self.path.clone(), self.name.clone());
                if error.kind() != io::ErrorKind::UnexpectedEof {
                    return Err(NpzError::Damaged { path, name, why: error.to_string() });
                }
                let record = self.done + out.len() as u64 / elements.max(1);
                return Err(NpzError::Truncated { path, name, record, of });
            }
            out.extend(chunk.chunks_exact(width).map(&element));
            left -= (bytes / width) as u64;
        }
        self.done += n;
        if self.done == of {
            self.expect_end()?;
        }
        Ok(n)
    }

    /// After the last record: nothing follows, and the sum is the archive's.
    fn expect_end(&mut self) -> Result<(), NpzError> {
        let why = match self.reader.read(&mut [0]) {
            Ok(0) if self.reader.need.is_none_or(|need| need == self.reader.sum.sum()) => {
                return Ok(());
            }
            Ok(0) => "its checksum is not the archive's".to_owned(),
            Ok(_) => "it goes on after its last record".to_owned(),
            Err(error) => error.to_string(),
        };
        Err(NpzError::Damaged { path: self.path.clone(), name: self.name.clone(), why })
    }
}

/// A reader that sums what it reads.
struct Summed {
    inner: Box<dyn Read>,
    sum: Crc,
    need: Option<u32>,
}

impl Read for Summed {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(into)?;
        self.sum.update(into.get(..read).unwrap_or_default());
        Ok(read)
    }
}

/// The arrays of a file, sorted by name, and where they lie.
fn places(path: &Path) -> Result<Vec<Place>, NpzError> {
    let open = |source| NpzError::Open { path: path.to_owned(), source };
    let file = File::open(path).map_err(open)?;
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("npy")) {
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let len = file.metadata().map_err(open)?.len();
        return Ok(vec![Place { name, start: 0, len, deflated: false, crc: None }]);
    }
    let refuse = |why: String| NpzError::Archive { path: path.to_owned(), why };
    let mut archive = ZipArchive::new(BufReader::new(file)).map_err(|e| refuse(e.to_string()))?;
    if archive.len() > NPZ_ARRAYS_MAX {
        let have = archive.len();
        return Err(refuse(format!("it has {have} files, at most {NPZ_ARRAYS_MAX} are read")));
    }
    let mut places = Vec::new();
    for index in 0..archive.len() {
        let entry = archive.by_index_raw(index).map_err(|e| refuse(e.to_string()))?;
        let file = entry.name().to_owned();
        // numpy.savez writes nothing else; folders and notes of other tools are passed over.
        let Some(name) = file.strip_suffix(".npy") else { continue };
        if entry.encrypted() {
            return Err(refuse(format!("{file} is encrypted")));
        }
        let method = entry.compression();
        let deflated = method == CompressionMethod::Deflated;
        if !deflated && method != CompressionMethod::Stored {
            return Err(refuse(format!("{file} is compressed by {method}: store or deflate it")));
        }
        let Some(start) = entry.data_start() else {
            return Err(refuse(format!("{file} lies nowhere in it")));
        };
        places.push(Place {
            name: name.to_owned(),
            start,
            len: entry.compressed_size(),
            deflated,
            crc: Some(entry.crc32()),
        });
    }
    places.sort_by(|a, b| a.name.cmp(&b.name));
    match places.windows(2).find(|pair| matches!(pair, [a, b] if a.name == b.name)) {
        Some([twice, ..]) => Err(refuse(format!("it has two arrays {:?}", twice.name))),
        _ => Ok(places),
    }
}

/// The bytes of one element in little-endian order, widened with zeros.
fn word(bytes: &[u8], big_endian: bool) -> u64 {
    let join = |word: u64, byte: &u8| word << 8 | u64::from(*byte);
    if big_endian { bytes.iter().fold(0, join) } else { bytes.iter().rev().fold(0, join) }
}

/// `None` for fractions.
fn integer_of(dtype: Dtype) -> Option<impl Fn(&[u8]) -> i64> {
    let Dtype { kind, bytes, big_endian } = dtype;
    let unused = 64 - 8 * bytes;
    (kind != Kind::Float).then_some(move |element: &[u8]| {
        let word = word(element, big_endian);
        match kind {
            Kind::Bool => i64::from(word != 0),
            // The sign bit goes up to bit 63 and comes back as many bits.
            Kind::Signed => (word << unused).cast_signed() >> unused,
            // At most four bytes: the value stays below 2^32.
            Kind::Unsigned | Kind::Float => word.cast_signed(),
        }
    })
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "rounding to the nearest f32 is what is asked for"
)]
fn float_of(dtype: Dtype) -> impl Fn(&[u8]) -> f32 {
    let integer = integer_of(dtype);
    move |element: &[u8]| {
        if let Some(integer) = &integer {
            return integer(element) as f32;
        }
        let word = word(element, dtype.big_endian);
        match dtype.bytes {
            2 => half(word as u16),
            4 => f32::from_bits(word as u32),
            _ => f64::from_bits(word) as f32,
        }
    }
}

#[cfg(test)]
#[path = "npz_tests.rs"]
mod tests;
