//! What both sides agree on: no sockets, no disk, no clock, no libtorch.
//!
//! Reading order:
//!
//! 1. [`ids`], [`limits`], [`time`], [`bucket`], [`random`], [`le`]: names, bounds, time, rates, randomness, bytes
//! 2. [`signed`]: signed bytes are kept bytes
//! 3. [`study`]: what a consortium agreed to train; [`tensor`]: its model as a flat vector
//! 4. [`update`]: what a site uploads: delta, clip, grid, words
//! 5. [`wire`]: the protocol, written out; [`worker`]: the one between daemon and worker
//! 6. [`audit`]: receipts, roll calls, the log's records and tree
//! 7. [`enrol`]: how a site comes to a certificate and loses it
//! 8. [`config`]: files that people write; [`hours`]: daily hours of a time zone; [`planted`]: bugs that tests switch on

#![forbid(unsafe_code)]

pub mod audit;
pub mod bucket;
pub mod config;
pub mod enrol;
mod hex_array;
pub mod hours;
pub mod ids;
pub mod le;
pub mod limits;
pub mod planted;
pub mod random;
pub mod signed;
pub mod study;
pub mod tensor;
pub mod time;
pub mod update;
pub mod wire;
pub mod worker;
