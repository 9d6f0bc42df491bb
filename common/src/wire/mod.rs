//! The protocol between agent and coordinator, ALPN `consilium/1`, and between operator and
//! coordinator, ALPN `consilium-op/1`.
//!
//! # Control stream (agent)
//! One bidirectional stream, opened by the agent, of [`frame`]s. In order:
//!
//! ```text
//! agent                                  coordinator
//!   Hello ─────────────────────────────────►           who I am, my clock, studies I accepted,
//!                                                      how much of the log I have witnessed
//!     ◄───────────────────────────────── Welcome        the log's head and that it goes on from there
//!                                                      (or Refused, then the connection closes)
//!     ◄────────────────────────────── RosterOffer       who belongs, signed by the operators
//!     ◄─────────────────────────────── StudyOffer       for each running study; bytes by digest
//!   PublishedHours ────────────────────────►           when plans are taken on, if the site says so
//!   StudyAnswer ───────────────────────────►           accepted | pending | refused (code)
//!     ◄───────────────────────────────────── Plan       round, task, base, preparation, time left
//!   PlanAnswer ────────────────────────────►           accepted | declined (code)
//!   Progress … ────────────────────────────►           loading, scoring, training, uploading
//!   UpdateOffer ───────────────────────────►           digest and length of the retained update
//!     ◄─────────────────────────────── UpdateWanted     push it (on a blob stream)
//!     ◄──────────────────────────────────── Receipt     signed: received
//!     ◄─────────────────────────────────── RollCall     signed: counted or not, and why
//! ```
//! `Heartbeat` passes in both directions. After a reconnect the agent offers what it retains, and
//! the coordinator answers with whatever the agent has missed: the plan, the receipt, or the roll
//! call. A message that does not fit the state is answered with `Refusal`, and changes nothing.
//!
//! # Blob streams
//! Content-addressed bytes in both directions; see `consilium-io`'s `net::transfer`. The context of
//! a pushed update is [`messages::UpdateContext`].
//!
//! # Rules
//! Bodies are bincode 2 (little-endian, variable-length integers) through [`codec`] alone. One
//! struct per kind; its fields never change after a tag: a change is a new kind.

pub mod codec;
pub mod enrol;
pub mod frame;
mod hours;
pub mod messages;
pub mod operator;
pub mod reject;
mod roster;
mod run_state;
mod withdrawal;
pub mod witness;
