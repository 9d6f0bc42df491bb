//! Readers of files, which know nothing of studies.

pub(crate) mod table;
pub(crate) mod text;
