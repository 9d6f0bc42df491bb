//! consilium-agent, the hospital's daemon: takes part in studies, trains in a process of its own,
//! and keeps every update until a signed roll call has closed its round. No libtorch here.
//!
//! ```text
//!            link ◄────────► driver ◄────────► session (pure: what to do next)
//!   QUIC, frames, blobs        │               policy  (pure: the site's own rules)
//!                              ├── state       what must survive: studies, decisions, updates
//!                              ├── worker      one child process a task
//!                              ├── update      worker's result → clip → round → retained
//!                              ├── witness     the coordinator's log must go on from what was seen
//!                              └── roster      who else belongs, as this site accepted it
//!   rules: the policy with the keys and the time zone that it names
//!   control_socket ── the commands of people on this machine (cli)
//! ```
//!
//! Reading order: [`session`], [`policy`], [`config`], [`rules`]; [`state`], [`update`], [`worker`], [`link`], [`witness`],
//! [`roster`];
//! [`driver`] ties them together, [`renewal`] keeps the certificate good, [`app`] starts it, [`cli`] is what
//! people type.

#![deny(unsafe_code)]

pub mod app;
pub mod cli;
pub mod config;
pub mod control_socket;
pub mod driver;
pub mod ledger;
pub mod lines;
pub mod link;
pub mod policy;
pub mod renewal;
pub mod report;
pub mod roster;
pub mod rules;
pub mod session;
pub mod state;
pub mod update;
pub mod witness;
pub mod worker;
