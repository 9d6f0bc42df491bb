//! The life of a round, as a state machine without clock, socket or disk: one [`Engine`] a study.
//!
//! ```text
//!            rule met                all answered             all settled, or the deadline
//!   Idle ──────────────► Inviting ──────────────► Training ──────────────► Aggregating
//!    ▲   Persist(Plan)       │   Persist(Training)    │       Aggregate         │
//!    │                       │ too few                │ too few, stopped        │ Persist(RollCall)
//!    └───────────────────────┴────────────────────────┴─────────────────────────┘
//!    Committed | Evaluated | Prepared | Abandoned: the roll call is durable, then told, then forgotten
//! ```
//!
//! A study whose sites have something to count together prepares first: a round of the same phases,
//! whose sum becomes the preparation that every later plan names. No version comes of it.
//!
//! # Order of calls
//! The driver calls one `handle_*` (what happened), then [`Engine::poll_action`] until it is empty
//! (what to do), then waits for the next event or for [`Engine::next_deadline`], and at the deadline
//! calls [`Engine::handle_timeout`]. `now` never runs backwards. Every action with an id comes back
//! once as [`Engine::handle_done`]. Records become durable in the order in which their `Persist`
//! was polled; nothing else is asked of the order of answers.
//!
//! # Invariants
//! * Nothing is announced before its record is durable: no plan before `Plan`, no receipt before
//!   `Receipt`, no new version and no preparation before `RollCall`.
//! * An update is added once it is verified, and once: from there on its digest binds the site for
//!   the round. A round commits only when every update that was added has a receipt in the log.
//! * An update that could be added in part only (an I/O error in the middle) abandons the round: the
//!   sum is exact or not used.
//! * `Forget` is said when the roll call is durable and no Look, Verify, Add, Aggregate or Prepare of
//!   the round is under way. No two rounds of a study ever work at the same time.
//! * Every invited site stands in the signed roll call with its code; each round ends with one.
//! * Memory is O(sites of the roster), and the log grows by a bounded number of records a round,
//!   whatever sites send.
//!
//! # Rooms
//! [`action`]: what is asked and answered. `engine`: the entry points. One file a phase: `idle`,
//! `inviting`, `training` (who still owes something), `aggregating` (from the sum to the roll call).
//! `delivery`: the way of one update from offer to receipt. `terms` and [`Shape`]: what follows from the study.
//! `open_round`, `site`: what is known of the round and its sites. `cohort`: the rule and back-off.
//! `affected`: versions that withdrawals concern. `lineage`: which version each is built on.
//! `controls`: what SCAFFOLD's state is made of. `roll_call`: building it. `resume`: from the log back into a round; [`history`]: from records to
//! [`Setup`], and which proposals are open. [`status`]: what screens show. `outbox`: actions on their way.

mod action;
mod affected;
mod aggregating;
mod cohort;
mod command;
mod controls;
mod delivery;
mod engine;
pub mod history;
mod idle;
mod inviting;
mod lineage;
mod open_round;
mod outbox;
mod resume;
mod roll_call;
mod shape;
mod site;
pub mod status;
mod terms;
mod training;

pub use action::{Action, ActionId, Aggregated, Done, Fault, Head, Prepared, Rules};
pub use affected::{Affect, Affected};
pub use command::{Command, CommandError};
pub use controls::Controls;
pub use engine::{Engine, SiteMessage};
pub use history::{History, HistoryError, StudyHistory};
pub use lineage::Lineage;
pub use resume::{Interrupted, Setup};
pub use shape::Shape;
pub use status::Status;

#[cfg(test)]
mod tests;
