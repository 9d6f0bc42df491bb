//! The consortium's keys and certificates, and the TLS that they carry.
//!
//! ```text
//!   consilium ca ──► ca ──► issue ──► bundle folders, carried to the machines by a person
//!                    │        │
//!                  profile  keys, roster, consortium        (what is written)
//!                                     │
//!        coordinator, agent ──► bundle ──► credentials ──► tls ──► rustls ──► QUIC
//!                                              │            │
//!                                          identity      verify, handshake  (who is there, who is refused, why)
//! ```
//!
//! Two kinds of trust are kept apart (DESIGN.md §8). *Certificates* vouch for connections only:
//! they come from an issuing CA below an offline root and last days. *Ed25519 keys* (site, operator,
//! coordinator log) vouch for what is said, last for years, and are known by pinning: sites by the
//! [`roster`] that operators signed, operators and the log by the [`consortium`] file. A stolen issuing
//! CA therefore opens connections but never joins a cohort.
//!
//! Reading order: [`identity`], [`keys`], [`signed_file`], [`consortium`], [`roster`], [`ca`],
//! [`issue`], [`grant`], [`bundle`], [`credentials`], [`enrolling`], [`renewing`],
//! [`rotation`], [`tls`], [`handshake`].
#![forbid(unsafe_code)]

pub mod bundle;
pub mod ca;
pub mod consortium;
pub mod credentials;
pub mod enrolling;
pub mod file;
#[cfg(test)]
mod fixture;
pub mod grant;
pub mod handshake;
pub mod identity;
pub mod issue;
pub mod keys;
pub mod profile;
pub mod renewing;
pub mod request;
pub mod roster;
pub mod rotation;
pub mod signed_file;
pub mod tls;
#[cfg(test)]
mod tls_tests;
pub mod validity;
mod verify;
