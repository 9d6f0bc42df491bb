//! What keeps a coordinator from starting, or ends it.

use consilium_certs::bundle::BundleError;
use consilium_certs::roster::RosterError;
use consilium_certs::rotation::RetiredError;
use consilium_certs::signed_file::SignedFileError;
use consilium_certs::tls::TlsError;
use consilium_common::ids::{Digest, StudyId, Version};
use consilium_common::study::StudyError;
use consilium_io::IoError;
use consilium_io::disk::BlobError;
use consilium_io::net::ConnectError;

use crate::certificate::CertificateError;
use crate::driver::DriverError;
use crate::store::StoreError;

/// Why the coordinator did not start, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum AppError {
    /// The coordinator's bundle.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate has run out, and there is no other.
    #[error("{over}; it was not renewed now: {why}")]
    NotRenewed {
        /// What ran out.
        over: BundleError,
        /// Why there is no next one.
        why: Box<CertificateError>,
    },
    /// The list of issuing CAs that are over.
    #[error(transparent)]
    Retired(#[from] RetiredError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The roster's file.
    #[error(transparent)]
    RosterFile(#[from] SignedFileError),
    /// The roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// Two rosters of one version: whichever is taken, somebody is left out.
    #[error(
        "the roster in the file is another one than that of version {0}, which is in force: have the \
         operators sign the next version"
    )]
    TwoRosters(u64),
    /// The state folder.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A folder.
    #[error(transparent)]
    Io(#[from] IoError),
    /// Blobs or stage.
    #[error(transparent)]
    Blob(#[from] BlobError),
    /// A model or strategy state that rounds start from.
    #[error(
        "study {study} cannot go on from {version}: {source} ({what} {digest}). Bring the state \
         folder back from a copy"
    )]
    Head {
        /// Which study.
        study: StudyId,
        /// Its newest version.
        version: Version,
        /// Its model, or its strategy state.
        what: &'static str,
        /// That one's digest.
        digest: Digest,
        /// What is wrong with the file.
        source: Box<BlobError>,
    },
    /// A preparation that rounds work with.
    #[error(
        "study {study} cannot go on: {source} (preparation {preparation}). Bring the state folder \
         back from a copy"
    )]
    Preparation {
        /// Which study.
        study: StudyId,
        /// The preparation's digest.
        preparation: Digest,
        /// What is wrong with the file.
        source: Box<BlobError>,
    },
    /// A study of the log that this version cannot serve.
    #[error("a study of the log cannot be served: {0}")]
    Study(#[from] StudyError),
    /// The network.
    #[error(transparent)]
    Listen(#[from] ConnectError),
    /// A driver that must not go on.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// A thread died at start.
    #[error("the start failed: {0}")]
    Died(#[from] tokio::task::JoinError),
    /// No signals.
    #[error("the system gives no signals: {0}")]
    Signals(std::io::Error),
}
