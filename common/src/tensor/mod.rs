//! A model is a flat vector in a layout.
//!
//! [`layout`] names and orders the tensors, [`flat`] is the vector and its digest, [`init`] fills
//! v0 from (spec, seed), [`file`] is safetensors, the form for import, export and the worker.
//! [`state`] is the file of what a strategy keeps beside the model.

pub mod file;
pub mod flat;
pub mod init;
pub mod layout;
pub mod state;
