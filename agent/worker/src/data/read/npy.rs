//! The .npy format: magic, version, a header that says type, order and shape, then the elements.
//! The header is a Python dictionary; it is parsed here, never evaluated.
//!
//! Format: NumPy Enhancement Proposal 1 and `numpy.lib.format`, versions 1.0, 2.0 and 3.0.

use std::fmt;
use std::io::{self, Read};

use consilium_common::limits::{ARRAY_RECORD_ELEMENTS_MAX, DIMENSIONS_MAX, NPY_HEADER_BYTES_MAX};

const MAGIC: [u8; 6] = *b"\x93NUMPY";

/// What elements are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One byte: zero or not.
    Bool,
    /// Two's complement of 1, 2, 4 or 8 bytes.
    Signed,
    /// 1, 2 or 4 bytes.
    Unsigned,
    /// IEEE 754 of 2, 4 or 8 bytes.
    Float,
}

/// Type of an element, as numpy writes it: `|u1`, `<f4`, `>i8`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Dtype {
    pub(crate) kind: Kind,
    pub(crate) bytes: usize,
    pub(crate) big_endian: bool,
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let order = match (self.bytes, self.big_endian) {
            (1, _) => '|',
            (_, true) => '>',
            (_, false) => '<',
        };
        let kind = match self.kind {
            Kind::Bool => 'b',
            Kind::Signed => 'i',
            Kind::Unsigned => 'u',
            Kind::Float => 'f',
        };
        write!(f, "{order}{kind}{}", self.bytes)
    }
}

impl Dtype {
    fn parse(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            let read = "b1, i1 to i8, u1 to u4 and f2 to f8";
            Err(format!("its elements are of dtype {text:?}, {why}; {read} are read"))
        };
        let (order, rest) = text.split_at_checked(1).unwrap_or((text, ""));
        let (kind, bytes) = rest.split_at_checked(1).unwrap_or((rest, ""));
        let kind = match (kind, bytes) {
            ("O", _) => return refused("Python objects (pickle), which can run programs"),
            ("U" | "S" | "a", _) => return refused("text"),
            ("b", "1") => Kind::Bool,
            ("i", "1" | "2" | "4" | "8") => Kind::Signed,
            ("u", "1" | "2" | "4") => Kind::Unsigned,
            ("f", "2" | "4" | "8") => Kind::Float,
            _ => return refused("which is not read"),
        };
        let big_endian = match (order, bytes) {
            ("<", _) | ("|", "1") => false,
            (">", _) => true,
            _ => return refused("which names no byte order"),
        };
        let bytes = bytes.parse().unwrap_or(1);
        Ok(Self { kind, bytes, big_endian })
    }
}

/// What a header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) dtype: Dtype,
    /// The first is the axis of records.
    pub(crate) shape: Vec<u64>,
}

impl Header {
    /// Reads magic, version and header; `Err` says what is wrong with them.
    pub(crate) fn read(from: &mut dyn Read) -> Result<Self, HeaderError> {
        let mut start = [0; 8];
        from.read_exact(&mut start)?;
        let [magic @ .., major, minor] = start;
        if magic != MAGIC {
            return Err(HeaderError::wrong("it does not start with \\x93NUMPY"));
        }
        let len = match (major, minor) {
            (1, 0) => {
                let mut len = [0; 2];
                from.read_exact(&mut len)?;
                usize::from(u16::from_le_bytes(len))
            }
            (2 | 3, 0) => {
                let mut len = [0; 4];
                from.read_exact(&mut len)?;
                usize::try_from(u32::from_le_bytes(len)).unwrap_or(usize::MAX)
            }
            _ => {
                let what = format!("it is of version {major}.{minor}; 1.0 to 3.0 are read");
                return Err(HeaderError::Wrong(what));
            }
        };
        if len > NPY_HEADER_BYTES_MAX {
            let what =
                format!("its header has {len} bytes, at most {NPY_HEADER_BYTES_MAX} are read");
            return Err(HeaderError::Wrong(what));
        }
        let mut text = vec![0; len];
        from.read_exact(&mut text)?;
        let text =
            str::from_utf8(&text).map_err(|_| HeaderError::wrong("its header is no text"))?;
        parse(text).map_err(HeaderError::Wrong)
    }

    /// Elements of one record: the product of all sizes but the first.
    pub(crate) fn record_elements(&self) -> u64 {
        self.shape.iter().skip(1).product()
    }

    /// How many records; 1 for an array without axes.
    pub(crate) fn records(&self) -> u64 {
        self.shape.first().copied().unwrap_or(1)
    }
}

/// Why there is no header.
#[derive(Debug)]
pub(crate) enum HeaderError {
    Io(io::Error),
    Wrong(String),
}

impl HeaderError {
    fn wrong(what: &str) -> Self {
        Self::Wrong(what.to_owned())
    }
}

impl From<io::Error> for HeaderError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// `{'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }`, padded with spaces: the three keys,
/// each once, in any order.
fn parse(text: &str) -> Result<Header, String> {
    let mut rest = Rest(text);
    let (mut dtype, mut fortran, mut shape) = (None, None, None);
    rest.expect("{")?;
    while !rest.take("}") {
        let key = rest.string()?;
        rest.expect(":")?;
        let again = match key {
            "descr" if rest.starts("[") => {
                return Err("its elements are records with named fields: save one array for each \
                            field"
                    .to_owned());
            }
            "descr" => dtype.replace(Dtype::parse(rest.string()?)?).is_some(),
            "fortran_order" => fortran.replace(rest.truth()?).is_some(),
            "shape" => shape.replace(rest.shape()?).is_some(),
            _ => return Err(format!("its header has a key {key:?}")),
        };
        if again {
            return Err(format!("its header has the key {key:?} twice"));
        }
        if !rest.take(",") {
            rest.expect("}")?;
            break;
        }
    }
    if !rest.0.trim_ascii().is_empty() {
        return Err("its header goes on after its dictionary".to_owned());
    }
    match (dtype, fortran, shape) {
        (Some(_), Some(true), Some(_)) => {
            Err("it lies in Fortran order (by columns): save it with \
                                               numpy.ascontiguousarray"
                .to_owned())
        }
        (Some(dtype), Some(false), Some(shape)) => Ok(Header { dtype, shape }),
        _ => Err("its header lacks one of descr, fortran_order and shape".to_owned()),
    }
}

/// What is left of a header.
struct Rest<'a>(&'a str);

impl<'a> Rest<'a> {
    fn starts(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_ascii_start();
        self.0.starts_with(token)
    }

    fn take(&mut self, token: &str) -> bool {
        self.0 = self.0.trim_ascii_start();
        match self.0.strip_prefix(token) {
            Some(rest) => {
                self.0 = rest;
                true
            }
            None => false,
        }
    }

    fn expect(&mut self, token: &str) -> Result<(), String> {
        if self.take(token) {
            return Ok(());
        }
        let have: String = self.0.chars().take(12).collect();
        Err(format!("its header has {have:?} where {token:?} was expected"))
    }

    /// Between single or double quotes, without escapes.
    fn string(&mut self) -> Result<&'a str, String> {
        let quote = if self.take("\"") { '"' } else { '\'' };
        if quote == '\'' {
            self.expect("'")?;
        }
        let (text, rest) = self.0.split_once(quote).ok_or("its header has an open quote")?;
        if text.contains('\\') {
            return Err("its header has an escape".to_owned());
        }
        self.0 = rest;
        Ok(text)
    }

    fn truth(&mut self) -> Result<bool, String> {
        if self.take("True") {
            return Ok(true);
        }
        self.expect("False").map(|()| false)
    }

    /// `()`, `(3,)`, `(3, 4)`: sizes whose elements can be counted and addressed.
    fn shape(&mut self) -> Result<Vec<u64>, String> {
        let mut shape = Vec::new();
        self.expect("(")?;
        while !self.take(")") {
            self.0 = self.0.trim_ascii_start();
            let end = self.0.find(|c: char| !c.is_ascii_digit()).unwrap_or(self.0.len());
            let (digits, rest) = self.0.split_at(end);
            let size = digits.parse().map_err(|_| format!("its shape has a size {digits:?}"))?;
            shape.push(size);
            self.0 = rest;
            if shape.len() > DIMENSIONS_MAX {
                return Err(format!("it has more than {DIMENSIONS_MAX} axes"));
            }
            if !self.take(",") {
                self.expect(")")?;
                break;
            }
        }
        let record = shape.iter().skip(1).try_fold(1_u64, |all, size| all.checked_mul(*size));
        match record {
            Some(elements) if elements <= ARRAY_RECORD_ELEMENTS_MAX => Ok(shape),
            _ => Err(format!(
                "its shape is {shape:?}, records of at most {ARRAY_RECORD_ELEMENTS_MAX} elements \
                 are read"
            )),
        }
    }
}

/// An IEEE 754 half (binary16) as f32, exactly.
pub(crate) fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let (exponent, fraction) = (bits >> 10 & 31, f32::from(bits & 0x3ff));
    let magnitude = match exponent {
        0 => fraction / 16_777_216.0,
        31 if fraction > 0.0 => f32::NAN,
        31 => f32::INFINITY,
        // The exponent is that of binary32 with another bias.
        _ => (1.0 + fraction / 1024.0) * f32::from_bits((u32::from(exponent) + 112) << 23),
    };
    sign * magnitude
}
