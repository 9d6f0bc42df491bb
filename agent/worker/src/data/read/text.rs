//! A text file, plain or `.gz`, as UTF-8, chunk by chunk. What cannot be decoded is an error that
//! names the byte: a replacement character in a record would be a value that nobody wrote.

use std::fs::{self, File};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use consilium_common::limits::DOCUMENT_BYTES_MAX;
pub(crate) use consilium_common::worker::Encoding;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Decoder, DecoderResult, GB18030, GBK, UTF_8, UTF_16BE, UTF_16LE, WINDOWS_1252};
use flate2::read::MultiGzDecoder;

const READ_BYTES: usize = 64 << 10;
/// Decoded text of one chunk: three bytes of UTF-8 for a byte of Windows-1252 at most.
const TEXT_BYTES: usize = 3 * READ_BYTES + 16;
/// What the guess of an encoding looks at, from the first byte on that is no UTF-8.
const GUESS_BYTES: u64 = 1 << 20;

/// Why a text file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TextError {
    /// Not there, or not readable.
    #[error("{} cannot be opened: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    /// The disk failed, or the gzip stream is damaged or truncated.
    #[error("{} cannot be read, it is damaged or the disk fails: {source}", path.display())]
    Damaged { path: PathBuf, source: io::Error },
    /// Bytes that are no character.
    #[error(
        "{} is not valid {encoding} at byte {offset} (counted from 0{}): declare its encoding, or \
         save it as UTF-8", path.display(), if *packed { ", unpacked" } else { "" }
    )]
    Undecodable { path: PathBuf, encoding: &'static str, offset: u64, packed: bool },
    /// Too long, or no text.
    #[error("{} {what}", path.display())]
    NoDocument { path: PathBuf, what: &'static str },
    /// UTF-16 of unknown byte order.
    #[error("{} has no byte order mark: UTF-16 needs one, or save the file as UTF-8", path.display())]
    NoMark { path: PathBuf },
    /// A guess that is none of the encodings that are read.
    #[error(
        "{} is not UTF-8 from byte {offset} on and looks like {guess}, which is not read: declare \
         its encoding (GB18030 or Windows-1252), or save it as UTF-8", path.display()
    )]
    Foreign { path: PathBuf, offset: u64, guess: &'static str },
}

/// The whole text of a file, of at most [`DOCUMENT_BYTES_MAX`] bytes, packed or not.
pub(crate) fn whole(path: &Path, encoding: Encoding) -> Result<String, TextError> {
    let open = |source| TextError::Open { path: path.to_owned(), source };
    let there = fs::metadata(path).map_err(open)?;
    if !there.is_file() {
        return Err(open(io::Error::other("it is no file")));
    }
    let refuse = |what| Err(TextError::NoDocument { path: path.to_owned(), what });
    // Looked at before the encoding is guessed, which reads the whole of it.
    if there.len() > DOCUMENT_BYTES_MAX as u64 {
        return refuse(TOO_LONG);
    }
    let (mut text, mut all) = (Text::open(path, encoding)?, Vec::new());
    loop {
        let piece = text.next()?;
        if piece.is_empty() {
            break;
        }
        if piece.contains(&0) {
            return refuse("has a zero byte, so it is no text of the declared encoding");
        }
        if all.len() + piece.len() > DOCUMENT_BYTES_MAX {
            return refuse(TOO_LONG);
        }
        all.extend_from_slice(piece);
    }
    // The decoder writes UTF-8, cut between characters.
    Ok(String::from_utf8_lossy(&all).into_owned())
}

const TOO_LONG: &str = "is longer than the 4 MiB that a document may have";
const _: () = assert!(DOCUMENT_BYTES_MAX == 4 << 20, "as the sentence says");

/// A file's text from its beginning.
pub(crate) struct Text {
    path: PathBuf,
    raw: Box<dyn Read>,
    decoder: Decoder,
    encoding: &'static str,
    /// Bytes read and not decoded yet are `input[from..to]`; `offset` counts those decoded.
    input: Vec<u8>,
    from: usize,
    to: usize,
    offset: u64,
    ended: bool,
    text: Vec<u8>,
}

impl Text {
    /// Opens `path`; `.gz` is unpacked. [`Encoding::Auto`] reads the file once more to its end.
    pub(crate) fn open(path: &Path, encoding: Encoding) -> Result<Self, TextError> {
        let mark = mark(path)?;
        let (codec, word) = match (encoding, mark) {
            (Encoding::Auto | Encoding::Utf16, Some(codec)) if codec != UTF_8 => {
                (codec, Encoding::Utf16.word())
            }
            (Encoding::Utf16, _) => return Err(TextError::NoMark { path: path.to_owned() }),
            (Encoding::Auto, Some(_)) | (Encoding::Utf8, _) => (UTF_8, Encoding::Utf8.word()),
            (Encoding::Gb18030, _) => (GB18030, Encoding::Gb18030.word()),
            (Encoding::Windows1252, _) => (WINDOWS_1252, Encoding::Windows1252.word()),
            (Encoding::Auto, None) => guess(path)?,
        };
        Self::with(path, codec, word)
    }

    fn with(
        path: &Path,
        codec: &'static encoding_rs::Encoding,
        encoding: &'static str,
    ) -> Result<Self, TextError> {
        Ok(Self {
            raw: raw(path)?,
            path: path.to_owned(),
            decoder: codec.new_decoder_with_bom_removal(),
            encoding,
            input: vec![0; READ_BYTES],
            from: 0,
            to: 0,
            offset: 0,
            ended: false,
            text: vec![0; TEXT_BYTES],
        })
    }

    /// The next piece of text, cut between characters; empty at the file's end.
    pub(crate) fn next(&mut self) -> Result<&[u8], TextError> {
        loop {
            if self.from == self.to && !self.ended {
                self.from = 0;
                self.to = read_some(self.raw.as_mut(), &mut self.input, &self.path)?;
                self.ended = self.to == 0;
            } else if self.from == self.to {
                return Ok(&[]);
            }
            let input = self.input.get(self.from..self.to).unwrap_or_default();
            let (result, read, written) =
                self.decoder.decode_to_utf8_without_replacement(input, &mut self.text, self.ended);
            self.from += read;
            self.offset += read as u64;
            if let DecoderResult::Malformed(bad, after) = result {
                return Err(TextError::Undecodable {
                    path: self.path.clone(),
                    encoding: self.encoding,
                    offset: self.offset.saturating_sub(u64::from(bad) + u64::from(after)),
                    packed: is_packed(&self.path),
                });
            }
            if written > 0 {
                return Ok(self.text.get(..written).unwrap_or_default());
            }
            if self.ended {
                return Ok(&[]);
            }
        }
    }
}

fn is_packed(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("gz"))
}

fn raw(path: &Path) -> Result<Box<dyn Read>, TextError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(source) => return Err(TextError::Open { path: path.to_owned(), source }),
    };
    if is_packed(path) {
        return Ok(Box::new(MultiGzDecoder::new(BufReader::with_capacity(READ_BYTES, file))));
    }
    Ok(Box::new(file))
}

/// Fills as much of `into` as there is; 0 at the end.
fn read_some(raw: &mut dyn Read, into: &mut [u8], path: &Path) -> Result<usize, TextError> {
    let mut filled = 0;
    while let Some(rest) = into.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match raw.read(rest) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(TextError::Damaged { path: path.to_owned(), source }),
        }
    }
    Ok(filled)
}

/// The encoding that a byte order mark names.
fn mark(path: &Path) -> Result<Option<&'static encoding_rs::Encoding>, TextError> {
    let mut head = [0; 3];
    let read = read_some(raw(path)?.as_mut(), &mut head, path)?;
    let known = encoding_rs::Encoding::for_bom(head.get(..read).unwrap_or_default());
    Ok(known.map(|(codec, _)| codec).filter(|codec| [UTF_8, UTF_16LE, UTF_16BE].contains(codec)))
}

/// UTF-8 where the whole file is valid, else what its other bytes look like.
fn guess(path: &Path) -> Result<(&'static encoding_rs::Encoding, &'static str), TextError> {
    let mut text = Text::with(path, UTF_8, Encoding::Utf8.word())?;
    let offset = loop {
        match text.next() {
            Ok([]) => return Ok((UTF_8, Encoding::Utf8.word())),
            Ok(_) => {}
            Err(TextError::Undecodable { offset, .. }) => break offset,
            Err(error) => return Err(error),
        }
    };
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Deny);
    let mut sample = raw(path)?.take(offset.saturating_add(GUESS_BYTES));
    let mut chunk = vec![0; READ_BYTES];
    loop {
        let read = read_some(&mut sample, &mut chunk, path)?;
        detector.feed(chunk.get(..read).unwrap_or_default(), read == 0);
        if read == 0 {
            break;
        }
    }
    let guess = detector.guess(None, Utf8Detection::Deny);
    if guess == GBK || guess == GB18030 {
        Ok((GB18030, Encoding::Gb18030.word()))
    } else if guess == WINDOWS_1252 {
        Ok((WINDOWS_1252, Encoding::Windows1252.word()))
    } else {
        Err(TextError::Foreign { path: path.to_owned(), offset, guess: guess.name() })
    }
}
