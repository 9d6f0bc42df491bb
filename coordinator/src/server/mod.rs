//! The network's edge: who comes in, what they say, and what they get.
//!
//! ```text
//!   QUIC ─► accept ─┬─► enrol_session ───────────────► membership (who belongs)
//!                   ├─► greeting ─► agent_session ─┬─ control frames ─► drivers (one a study)
//!                   │                     blobs ───┴─► intake (updates) · distribute (models)
//!                   └─► operator_session ── requests ─────► studies · answers · member_requests · proposals
//!                          roles: who may ask what     researchers: what is kept in mind of them
//!   drivers ─► sites ─► agent_session ─► the site
//!   exports: the log, for operator_session and its fetches
//!   all of them ─► guard ─► conduct: rates, quarantine, rationed addresses
//! ```

pub mod accept;
mod agent_session;
mod answers;
mod blobs;
mod broken;
mod distribute;
mod enrol_session;
mod expiry;
mod exports;
mod greeting;
pub mod guard;
mod intake;
mod member_requests;
mod operator_session;
mod pace;
mod proposals;
mod refusals;
mod researchers;
mod roles;
pub mod sites;

use std::net::SocketAddr;
use std::sync::Arc;

use consilium_certs::consortium::Consortium;
use consilium_common::time::{Clock, Millis};

use crate::certificate::OwnCertificate;
use crate::membership::Membership;
use crate::stage::Stage;
use crate::store::{Blobs, Store};
use crate::studies::Studies;
use exports::Exports;
use refusals::Refusals;
use researchers::Researchers;
use sites::Sites;

/// Program and version, as told to peers.
pub const PROGRAM: &str = concat!("consilium ", env!("CARGO_PKG_VERSION"));

/// What every session uses.
#[derive(Debug)]
pub struct Server {
    /// Who is connected.
    pub sites: Arc<Sites>,
    /// The studies and their drivers.
    pub studies: Arc<Studies>,
    /// Records.
    pub store: Arc<dyn Store>,
    /// Models and study texts.
    pub blobs: Arc<dyn Blobs>,
    /// Retained updates, for operators and auditors alone.
    pub retained: Option<Arc<dyn Blobs>>,
    /// Updates on their way in.
    pub stage: Arc<Stage>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Who belongs.
    pub membership: Arc<Membership>,
    /// Whose coordinator this is.
    pub consortium: Arc<Consortium>,
    /// Where it listens.
    pub address: SocketAddr,
    /// When it started.
    pub started: Millis,
    /// Its own certificate.
    pub certificate: OwnCertificate,
    /// The root that sites trust: PEM.
    pub root: String,
    /// The text of the consortium file: what a site pins when it enrols.
    pub consortium_text: String,
    refusals: Refusals,
    exports: Exports,
    researchers: Researchers,
}

/// What a server is made of.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields of Server of the same names")]
pub struct Parts {
    pub sites: Arc<Sites>,
    pub studies: Arc<Studies>,
    pub store: Arc<dyn Store>,
    pub blobs: Arc<dyn Blobs>,
    pub retained: Option<Arc<dyn Blobs>>,
    pub stage: Arc<Stage>,
    pub clock: Arc<dyn Clock>,
    pub membership: Arc<Membership>,
    pub consortium: Arc<Consortium>,
    pub address: SocketAddr,
    pub certificate: OwnCertificate,
    pub root: String,
    pub consortium_text: String,
}

impl Server {
    /// A server that has met nobody yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            started: parts.clock.now(),
            sites: parts.sites,
            studies: parts.studies,
            store: parts.store,
            blobs: parts.blobs,
            retained: parts.retained,
            stage: parts.stage,
            clock: parts.clock,
            membership: parts.membership,
            consortium: parts.consortium,
            address: parts.address,
            certificate: parts.certificate,
            root: parts.root,
            consortium_text: parts.consortium_text,
            refusals: Refusals::default(),
            exports: Exports::default(),
            researchers: Researchers::default(),
        }
    }
}

#[cfg(test)]
mod tests;
