//! The coordinator: one process that invites sites, takes their updates, sums them exactly, and
//! commits the next version; and the operators' command line.
//!
//! ```text
//!   cli ─► app ─┬─► server ─► driver (one a study) ─► round   the state machine, pure
//!               │     │          │                └─► compute ─► aggregate, pure
//!               │     │          ├─► store   the log is the truth; index, checkpoint, blobs
//!               │     └──────────┴─► stage   updates on their way in
//!               └─► studies   opens a driver for each study of the log
//! ```
//!
//! Reading order: [`round`] (what a round is), [`aggregate`] (the sum), [`driver`] (what moves it),
//! [`store`], [`stage`], [`studies`], [`members`] (who belongs) and its edge [`membership`], [`authority`]
//! (the issuing CA), [`certificate`] (our own), [`conduct`] (what is no agent's behaviour), [`planning`] (when
//! rounds can begin), [`given`] (models that operators bring),
//! [`server`], [`document`] (what operators are told), [`app`], [`audit`] (the log from outside), [`cli`].
//! [`local`] runs a whole federation on one machine, for the demonstration and the tests.

#![forbid(unsafe_code)]

pub mod aggregate;
pub mod app;
pub mod audit;
pub mod authority;
pub mod certificate;
pub mod cli;
pub mod compute;
pub mod conduct;
pub mod config;
pub mod document;
pub mod driver;
pub mod given;
pub mod limits;
pub mod local;
pub mod members;
pub mod membership;
pub mod planning;
pub mod round;
pub mod server;
pub mod stage;
pub mod store;
pub mod studies;
pub mod summary;
