//! Readers of files, which know nothing of studies. Each streams records, holds what it is handed
//! against `common/src/limits.rs`, and says file, place and what was expected.
//!
//! ```text
//!  text    bytes, plain or gzip, of any encoding → UTF-8     table    CSV and TSV, record by record
//!  npz     arrays of .npz and .npy, by rows                  npy      their header and elements
//!  folder  which files there are, by class                   images   one PNG or JPEG
//!  value   numbers, missing markers
//! ```

pub(crate) mod folder;
pub(crate) mod images;
pub(crate) mod npy;
#[cfg_attr(not(test), expect(dead_code, reason = "read in full by the families that follow"))]
pub(crate) mod npz;
pub(crate) mod table;
pub(crate) mod text;
pub(crate) mod value;
