//! The site's rules as they are in force: `[policy]` with what it names outside of agent.toml, the
//! operators' keys and the rules of a time zone. Loaded at start, and again whenever people ask for it.

use consilium_certs::consortium::Consortium;
use consilium_certs::keys::{self, KeyError};
use consilium_common::bucket::{Bucket, Rate};
use consilium_common::limits::TRANSFER_CHUNK_BYTES;
use consilium_common::time::Millis;
use consilium_common::wire::messages::Published;
use jiff::tz::TimeZone;

use crate::policy::{AcceptRoster, Moment, Policy, PolicyError, Signers, Window};

/// `[policy]` in force.
#[derive(Debug)]
pub struct Rules {
    /// The rules; without any, every study is refused.
    pub policy: Option<Policy>,
    /// Whose signatures make a study.
    pub signers: Signers,
    /// What plans are held against.
    pub moment: Moment,
}

/// Why rules cannot be in force.
#[derive(Debug, thiserror::Error)]
pub enum RulesError {
    /// An operator's public key.
    #[error("[policy] operators: {0}")]
    Key(#[from] KeyError),
    /// The rules themselves.
    #[error("agent.toml: {0}")]
    Policy(#[from] PolicyError),
    /// A time zone that is not known here.
    #[error(
        "[policy] hours: this system knows no time zone {0:?}: write one such as \"Europe/Berlin\", as \
         /usr/share/zoneinfo names them"
    )]
    Zone(String),
}

impl Rules {
    /// Reads what the policy names. Signatures are those of the operators that it lists, else those
    /// that the consortium file pins.
    ///
    /// # Errors
    /// A key cannot be read, more signatures are asked for than there are keys, or the time zone is
    /// unknown.
    pub fn load(policy: Option<Policy>, consortium: &Consortium) -> Result<Self, RulesError> {
        let pinned =
            Signers { keys: consortium.operator_keys(), needed: consortium.operators_needed };
        let Some(policy) = policy else {
            return Ok(Self { policy: None, signers: pinned, moment: Moment::default() });
        };
        policy.check()?;
        let listed: Result<Vec<_>, KeyError> =
            policy.operators.iter().map(|path| keys::load_public(path)).collect();
        let signers = policy.signers(listed?, pinned)?;
        let moment = moment(&policy)?;
        Ok(Self { policy: Some(policy), signers, moment })
    }

    /// Who accepts a roster.
    #[must_use]
    pub fn accept_roster(&self) -> AcceptRoster {
        self.policy.as_ref().map_or_else(AcceptRoster::default, |policy| policy.roster)
    }

    /// The rate at which updates may leave, full; none where the policy has no such rule.
    #[must_use]
    pub fn upload(&self, now: Millis) -> Option<Bucket> {
        let rate = self.policy.as_ref()?.upload_mbit_s?;
        // From 0.1 to 100,000 (`Policy::check`): a whole number of bytes a second, and not zero.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "checked when the policy was read"
        )]
        let bytes_a_second = (rate * 1e6 / 8.0) as u64;
        let rate = Rate::a_second(TRANSFER_CHUNK_BYTES as u64, bytes_a_second);
        Some(Bucket::new(rate, now))
    }
}

/// What plans are held against under this policy.
///
/// # Errors
/// The time zone is unknown.
pub fn moment(policy: &Policy) -> Result<Moment, RulesError> {
    let window = policy.hours.clone().map(|hours| {
        let zone = TimeZone::get(hours.zone());
        let zone = zone.map_err(|_| RulesError::Zone(hours.zone().to_owned()))?;
        Ok::<_, RulesError>(Window::new(hours, zone))
    });
    let slots = policy.slots.and_then(|slots| usize::try_from(slots).ok());
    let published = match (&policy.hours, policy.publish_hours) {
        (_, false) => Published::Nothing,
        (None, true) => Published::AnyTime,
        (Some(hours), true) => Published::Daily(hours.to_string()),
    };
    Ok(Moment { window: window.transpose()?, slots, published, roster: None })
}
