//! The coordinator's own certificate, kept good: at two thirds of its time the issuing CA is asked for the
//! next one, and one that a person brings is taken in use as well. Connections that stand do not notice.
//!
//! And which issuing CAs are over (`consilium ca rotate`): the CA is asked at each look, the sites are told
//! to renew, and what the list says lies beside the certificate, for a start without the CA.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Duration;

use consilium_certs::credentials::{Credentials, CredentialsError};
use consilium_certs::enrolling::EnrollingError;
use consilium_certs::renewing::CoordinatorRenewal;
use consilium_certs::rotation::{Retired, RetiredCa, RetiredError};
use consilium_certs::tls::{self, TlsError};
use consilium_certs::validity::date;
use consilium_common::time::{Clock, Millis, WallMillis};
use consilium_common::wire::messages::RenewCertificate;
use consilium_io::net::{Carrier, ConnectError, QuicListener};
use tokio::task::{JoinError, spawn_blocking};

use crate::authority::{self, Answer, Ask, AuthorityError};
use crate::server::sites::Outbox;

/// The CA is asked this often at least: a rotation is learned of within seconds.
const LOOK_INTERVAL_MAX: Millis = Millis::from_secs(10);

/// Why there is no next certificate, or why it is not in use.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No answer, or no.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The folder, or what came for it.
    #[error(transparent)]
    Enrolling(#[from] EnrollingError),
    /// The list of issuing CAs that are over.
    #[error(transparent)]
    Retired(#[from] RetiredError),
    /// The files.
    #[error(transparent)]
    Credentials(#[from] CredentialsError),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// QUIC.
    #[error(transparent)]
    Listen(#[from] ConnectError),
    /// A thread died.
    #[error("work at the coordinator's certificate broke off: {0}")]
    Died(#[from] JoinError),
}

/// The certificate in use, and where the next ones come from.
#[derive(Debug)]
pub struct OwnCertificate {
    folder: PathBuf,
    /// Where the issuing CA listens.
    ca: Option<PathBuf>,
    clock: Arc<dyn Clock>,
    in_use: RwLock<InUse>,
    retired: RwLock<Retired>,
}

#[derive(Debug)]
struct InUse {
    credentials: Credentials,
    /// Why the next one is not there although it should be.
    trouble: Option<String>,
}

impl OwnCertificate {
    /// `credentials` lie in `folder` and are in use.
    ///
    /// # Errors
    /// The list of issuing CAs that are over cannot be read.
    pub fn new(
        folder: PathBuf,
        ca: Option<PathBuf>,
        clock: Arc<dyn Clock>,
        credentials: Credentials,
    ) -> Result<Self, RetiredError> {
        let in_use = RwLock::new(InUse { credentials, trouble: None });
        let retired = RwLock::new(Retired::load(&folder)?);
        Ok(Self { folder, ca, clock, in_use, retired })
    }

    /// Until when a peer's certificate works at most, if the issuing CA that made it is over.
    #[must_use]
    pub fn end_of(&self, peer: &dyn Carrier) -> Option<WallMillis> {
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        retired.end_of(peer.peer_certificates().first()?)
    }

    /// Whether the certificate in use is to be followed by another one.
    fn is_due(&self, now: WallMillis) -> bool {
        let current = self.current();
        let retired = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        current.validity.due().0 <= now.0 || current.is_by(&retired)
    }

    /// How it stands, for status screens.
    #[must_use]
    pub fn words(&self) -> String {
        let in_use = self.in_use.read().unwrap_or_else(PoisonError::into_inner);
        let standing = in_use.credentials.standing(self.clock.wall());
        match &in_use.trouble {
            Some(trouble) => format!("{standing}; {trouble}"),
            None => standing.to_string(),
        }
    }

    /// Looks after it for as long as it is polled.
    pub async fn keep(&self, listener: &QuicListener, sites: &dyn Outbox) {
        loop {
            match self.look(listener, sites).await {
                Ok(()) => self.in_use().trouble = None,
                Err(error) => self.note(&error),
            }
            let pause = self.current().validity.look_interval().min(LOOK_INTERVAL_MAX);
            tokio::time::sleep(Duration::from_millis(pause.0)).await;
        }
    }

    /// Takes files in use that somebody brought, and asks for the next certificate if it is time.
    async fn look(
        &self,
        listener: &QuicListener,
        sites: &dyn Outbox,
    ) -> Result<(), CertificateError> {
        let (folder, now) = (self.folder.clone(), self.clock.wall());
        let lying = spawn_blocking(move || Credentials::load(&folder, now)).await?;
        match lying {
            Ok(lying) if !lying.is_same_as(&self.current()) => self.take(listener, lying)?,
            Ok(_) | Err(CredentialsError::Expired { .. }) => {}
            // Somebody copies the files just now, or a pair that does not fit: the old one serves on.
            Err(error) => return Err(error.into()),
        }
        self.ask_who_is_over(sites).await?;
        if !self.is_due(now) {
            return Ok(());
        }
        let next = renew(&self.folder, self.ca.as_deref(), now).await?;
        self.take(listener, next)
    }

    /// Asks which issuing CAs are over, and tells the sites if there are more.
    async fn ask_who_is_over(&self, sites: &dyn Outbox) -> Result<(), CertificateError> {
        let Some(socket) = &self.ca else { return Ok(()) };
        let told = match authority::ask(socket, &Ask::Retired).await {
            Ok(Answer::Retired(told)) => self.with_those_known(told),
            // A CA of an earlier release does not rotate.
            Ok(_) | Err(AuthorityError::Refused(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if told == *self.retired.read().unwrap_or_else(PoisonError::into_inner) {
            return Ok(());
        }
        told.store(&self.folder)?;
        for over in &told.authorities {
            let (name, until) = (&over.name, date(over.until));
            tracing::info!(name, until, "an issuing CA is over: its certificates work until then");
        }
        let last = told.authorities.iter().map(|over| over.until).max();
        *self.retired.write().unwrap_or_else(PoisonError::into_inner) = told;
        if let Some(until) = last {
            sites.broadcast(&RenewCertificate { until }.into());
        }
        Ok(())
    }

    /// What is over stays over, also if the CA's folder was brought back from before its rotation.
    fn with_those_known(&self, told: Vec<RetiredCa>) -> Retired {
        let known = self.retired.read().unwrap_or_else(PoisonError::into_inner);
        let (mut all, now) = (told, self.clock.wall());
        for over in known.authorities.iter().filter(|over| now <= over.ends) {
            if !all.iter().any(|told| told.name == over.name) {
                all.push(over.clone());
            }
        }
        Retired::new(all)
    }

    /// From the next handshake on.
    fn take(&self, listener: &QuicListener, next: Credentials) -> Result<(), CertificateError> {
        listener.replace_tls(tls::server_config(&next, Arc::clone(&self.clock))?)?;
        tracing::info!(
            until = date(next.validity.until),
            "the coordinator's next certificate is in use"
        );
        *self.in_use() = InUse { credentials: next, trouble: None };
        Ok(())
    }

    fn in_use(&self) -> RwLockWriteGuard<'_, InUse> {
        self.in_use.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Credentials {
        self.in_use.read().unwrap_or_else(PoisonError::into_inner).credentials.clone()
    }

    /// Each trouble is said once in the log, and in `consilium status` while it lasts.
    fn note(&self, error: &CertificateError) {
        let mut text = error.to_string();
        if matches!(error, CertificateError::Authority(AuthorityError::None)) {
            text += &format!(
                "; or issue it by hand (`consilium ca issue coordinator`) and bring the new files to {}: \
                 they are taken in use at once",
                self.folder.display()
            );
        }
        let mut in_use = self.in_use();
        if in_use.trouble.as_ref() == Some(&text) {
            return;
        }
        let until = date(in_use.credentials.validity.until);
        tracing::warn!(until, "the coordinator's own certificate is not looked after: {text}");
        in_use.trouble = Some(text);
    }
}

/// The next certificate for the files in `folder`, whether the one there is still good or not.
///
/// # Errors
/// No CA is connected, it is not reached, or refuses; the old files stay.
pub async fn renew(
    folder: &Path,
    ca: Option<&Path>,
    now: WallMillis,
) -> Result<Credentials, CertificateError> {
    let socket = ca.ok_or(AuthorityError::None)?;
    let place = folder.to_owned();
    let renewal = spawn_blocking(move || CoordinatorRenewal::prepare(&place, now)).await??;
    let ask = Ask::RenewCoordinator { request: renewal.request().clone() };
    match authority::ask(socket, &ask).await? {
        Answer::Certified { chain, .. } => {
            Ok(spawn_blocking(move || renewal.install(&chain, now)).await??)
        }
        Answer::Revoked | Answer::Retired(_) | Answer::Refused { .. } => {
            let told = "it answered another question: is it another version?".to_owned();
            Err(AuthorityError::Refused(told).into())
        }
    }
}
