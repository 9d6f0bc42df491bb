//! The edge of [`crate::members`]: one change at a time, durable before anybody acts on it, and then
//! acted on: studies hear who belongs, and who does not any more is cut off.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use consilium_common::audit::Record;
use consilium_common::audit::record::Certified;
use consilium_common::enrol::{Approval, EnrolRequest, RenewRequest, Revocation, Secret};
use consilium_common::ids::{Digest, SiteId};
use consilium_common::signed::{Signature, Signed};
use consilium_common::time::{Clock, Millis, WallMillis};
use consilium_common::wire::reject::Code;

use crate::authority::{self, Answer, Ask, AuthorityError};
use crate::limits::RENEWAL_INTERVAL_MIN;
use crate::members::{Applicant, MemberError, Members};
use crate::server::sites::{Outbox as _, Sites};
use crate::store::{Store, StoreError};
use crate::studies::Studies;

/// Why something about members was not done.
#[derive(Debug, thiserror::Error)]
pub enum MembershipError {
    /// It may not be.
    #[error(transparent)]
    Refused(#[from] MemberError),
    /// The CA gave no certificate.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// The log.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MembershipError {
    /// Whether whoever asked is to blame.
    #[must_use]
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused(_) | Self::Authority(AuthorityError::Refused(_)) => true,
            Self::Authority(_) | Self::Store(_) => false,
        }
    }
}

/// Who belongs, and what follows when that changes.
#[derive(Debug)]
pub struct Membership {
    members: RwLock<Members>,
    /// One change at a time: each is judged by what is durable.
    changing: tokio::sync::Mutex<()>,
    /// When each site renewed last.
    renewed: Mutex<BTreeMap<SiteId, Millis>>,
    store: Arc<dyn Store>,
    studies: Arc<Studies>,
    sites: Arc<Sites>,
    clock: Arc<dyn Clock>,
    /// Where the issuing CA listens.
    ca: Option<PathBuf>,
}

impl Membership {
    /// As the log says.
    #[must_use]
    pub fn new(
        members: Members,
        store: Arc<dyn Store>,
        studies: Arc<Studies>,
        sites: Arc<Sites>,
        clock: Arc<dyn Clock>,
        ca: Option<PathBuf>,
    ) -> Self {
        let (members, changing) = (RwLock::new(members), tokio::sync::Mutex::default());
        Self { members, changing, renewed: Mutex::default(), store, studies, sites, clock, ca }
    }

    /// How it stands. Hold it for a moment only.
    pub fn members(&self) -> RwLockReadGuard<'_, Members> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Invites a site by a token with this hash; when the token ends.
    ///
    /// # Errors
    /// The site belongs already, or the log failed.
    pub async fn invite(
        &self,
        site: &SiteId,
        token: Digest,
        by: &str,
    ) -> Result<WallMillis, MembershipError> {
        self.ca()?;
        let _turn = self.changing.lock().await;
        let now = self.clock.wall();
        let (record, until) = self.members().may_invite(site, token, by, now)?;
        self.keep(record).await?;
        Ok(until)
    }

    /// A site's request for its first certificate. Gives the certificate once it is there.
    ///
    /// # Errors
    /// The token or the request is none, or the log or the CA failed.
    pub async fn ask(
        &self,
        secret: &Secret,
        signed: &Signed<EnrolRequest>,
    ) -> Result<Option<String>, MembershipError> {
        let now = self.clock.wall();
        {
            let _turn = self.changing.lock().await;
            let asked = self.members().may_ask(secret, signed, now)?;
            if let Some(record) = asked {
                self.keep(record).await?;
            }
        }
        let Some(applicant) = self.members().applicant_of(signed) else {
            return Ok(None);
        };
        let good = applicant.until.is_some_and(|until| now < until);
        match (&applicant.chain, &applicant.approval) {
            (Some(chain), _) if good => Ok(Some(chain.clone())),
            // The CA did not answer when it was approved, or nobody asked for weeks.
            (_, Some(approval)) => self.certify(&applicant, approval).await.map(Some),
            (_, None) => Ok(None),
        }
    }

    /// An operator's approval: the certificate is made, and the site finds it when it asks again.
    ///
    /// # Errors
    /// It is not of the request that waits, or the log or the CA failed; then the approval may stand,
    /// and the certificate is made when the site asks.
    pub async fn approve(
        &self,
        signed: &Signed<Approval>,
        by: &str,
    ) -> Result<(), MembershipError> {
        self.ca()?;
        let applicant = {
            let _turn = self.changing.lock().await;
            let (record, applicant) = self.approval(signed, by)?;
            self.keep(record).await?;
            applicant
        };
        self.certify(&applicant, signed).await.map(drop)
    }

    /// A site's next certificate.
    ///
    /// # Errors
    /// The site was put out or is not known, or the CA failed.
    pub async fn renew(&self, signed: &Signed<RenewRequest>) -> Result<String, MembershipError> {
        let site = self.members().may_renew(signed)?;
        self.not_too_often(&site)?;
        let ask = Ask::Renew { request: signed.clone() };
        let chain = self.keep_certified(site.clone(), &ask).await?;
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        renewed.insert(site, self.clock.now());
        Ok(chain)
    }

    /// Each renewal is a record of the log: a site that asks without end gets no more than one a minute.
    fn not_too_often(&self, site: &SiteId) -> Result<(), MemberError> {
        let renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = |last: &Millis| self.clock.now().since(*last) < RENEWAL_INTERVAL_MIN;
        if renewed.get(site).is_some_and(recent) {
            return Err(MemberError::RenewedJustNow(site.clone()));
        }
        Ok(())
    }

    fn approval(
        &self,
        signed: &Signed<Approval>,
        by: &str,
    ) -> Result<(Record, Applicant), MemberError> {
        let members = self.members();
        let (record, applicant) = members.may_approve(signed, by)?;
        Ok((record, applicant.clone()))
    }

    /// Puts a site out: its connection ends, and nothing that it has lets it back in.
    ///
    /// # Errors
    /// No operator signed it, or the log failed. If the CA does not hear of it, that is told, and the
    /// site is out all the same.
    pub async fn revoke(
        &self,
        signed: &Signed<Revocation>,
        by: &str,
    ) -> Result<Option<AuthorityError>, MembershipError> {
        let turn = self.changing.lock().await;
        let (record, site, reason) = {
            let members = self.members();
            let (record, word) = members.may_revoke(signed, by)?;
            (record, word.site, word.reason)
        };
        self.keep(record).await?;
        tracing::warn!(%site, by, reason, code = %Code::Revoked, "put out for good");
        self.sites.cut(&site, Code::Revoked, &reason);
        self.tell_studies().await;
        drop(turn);
        let told = match self.ca() {
            Ok(socket) => {
                let ask = Ask::Revoke { revocation: signed.clone() };
                authority::ask(socket, &ask).await.map(drop)
            }
            Err(error) => Err(error),
        };
        Ok(told.err())
    }

    /// An operator's signature of the next roster. Whether that roster is in force now.
    ///
    /// # Errors
    /// Something else is proposed, no operator signed, or the log failed.
    pub async fn sign(
        &self,
        text: &[u8],
        signature: &Signature,
        by: &str,
    ) -> Result<bool, MembershipError> {
        let _turn = self.changing.lock().await;
        let record = self.members().may_sign(text, signature, by)?;
        let in_force = matches!(record, Record::Roster(_));
        self.keep(record).await?;
        if in_force {
            let version = self.members().roster().version();
            tracing::info!(version, by, "a new roster is in force");
            if let Some(offer) = self.members().roster_offer() {
                self.sites.broadcast(&offer.into());
            }
            self.tell_studies().await;
        }
        Ok(in_force)
    }

    /// Sites that may take part.
    #[must_use]
    pub fn belonging(&self) -> BTreeSet<SiteId> {
        self.members().belonging()
    }

    async fn keep(&self, record: Record) -> Result<(), StoreError> {
        self.store.append(&record).await?;
        self.members.write().unwrap_or_else(PoisonError::into_inner).apply(&record);
        Ok(())
    }

    async fn tell_studies(&self) {
        self.studies.set_members(self.belonging()).await;
    }

    fn ca(&self) -> Result<&Path, AuthorityError> {
        self.ca.as_deref().ok_or(AuthorityError::None)
    }

    async fn certify(
        &self,
        applicant: &Applicant,
        approval: &Signed<Approval>,
    ) -> Result<String, MembershipError> {
        let (request, approval) = (applicant.signed.clone(), approval.clone());
        let site = applicant.request.site.clone();
        self.keep_certified(site, &Ask::Grant { request, approval }).await
    }

    /// Nobody waits for the CA but who asked: a revocation is never held up by it.
    async fn keep_certified(&self, site: SiteId, ask: &Ask) -> Result<String, MembershipError> {
        let (chain, until) = self.certified(ask).await?;
        let _turn = self.changing.lock().await;
        self.keep(Record::Certificate(Certified { site, chain: chain.clone(), until })).await?;
        Ok(chain)
    }

    async fn certified(&self, ask: &Ask) -> Result<(String, WallMillis), MembershipError> {
        match authority::ask(self.ca()?, ask).await? {
            Answer::Certified { chain, until } => Ok((chain, until)),
            Answer::Revoked | Answer::Retired(_) | Answer::Refused { .. } => {
                let told = "it answered another question: is it another version?".to_owned();
                Err(AuthorityError::Refused(told).into())
            }
        }
    }
}
