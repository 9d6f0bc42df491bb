//! Stable codes of refusals, declines and exclusions. They appear on the wire, in the log, in roll
//! calls and in `status`; a code never changes its meaning.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

macro_rules! codes {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal, $text:literal;)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "CodeForm", into = "CodeForm")]
        #[repr(u16)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)* }

        impl $name {
            /// Every code, in order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];

            /// The code as text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl TryFrom<CodeForm> for $name {
            type Error = String;
            fn try_from(form: CodeForm) -> Result<Self, String> {
                let found = Self::ALL.iter().find(|code| form.is(**code as u16, code.as_str()));
                found.copied().ok_or_else(|| format!("unknown code {form:?}"))
            }
        }

        impl From<$name> for CodeForm {
            fn from(code: $name) -> Self {
                CodeForm { number: code as u16, text: code.as_str().into() }
            }
        }
    };
}

codes! {
    /// Why something was refused, declined, or left out of a round.
    Code {
        // Connections.
        /// The certificate's role may not do this.
        WrongRole = 1, "wrong-role";
        /// The site is not in the roster.
        NotInRoster = 2, "not-in-roster";
        /// The clocks are too far apart.
        ClockSkew = 3, "clock-skew";
        /// No common protocol version.
        ProtocolVersion = 4, "protocol-version";
        /// A newer connection of the same site took over.
        Replaced = 5, "replaced";
        /// The message does not fit the state.
        Unexpected = 6, "unexpected";
        /// The message cannot be decoded.
        Malformed = 7, "malformed";
        /// The kind is not known here.
        UnknownKind = 8, "unknown-kind";
        /// The peer does not read what it is sent.
        SlowReader = 9, "slow-reader";
        /// The coordinator is going down in good order.
        ShuttingDown = 10, "shutting-down";
        /// The site did what no agent does, and may not come back before a time.
        Quarantined = 11, "quarantined";
        /// More connections, streams, messages or fetches than an agent has use for.
        Flood = 12, "flood";

        /// An operator put the site out for good.
        Revoked = 13, "revoked";
        /// The certificate of a live connection has run out.
        CertificateExpired = 14, "certificate-expired";
        /// A request for a certificate that was refused.
        NotEnrolled = 15, "not-enrolled";

        // Studies.
        /// No such study here.
        UnknownStudy = 20, "unknown-study";
        /// The signatures do not reach k of n.
        BadSignature = 21, "bad-signature";
        /// The site has no policy that can be kept, so no study is allowed; a rule that is broken has
        /// a code of its own.
        Policy = 22, "policy";
        /// A person at the site has not accepted it yet.
        NotAccepted = 23, "not-accepted";
        /// A person at the site refused it.
        RefusedBySite = 24, "refused-by-site";
        /// This agent does not serve the family or mode.
        NotSupported = 25, "not-supported";
        /// The site has no data for the study.
        NoData = 26, "no-data";
        /// The study's approval has ended (`governance.approved_until`).
        ApprovalExpired = 30, "approval-expired";

        // Plans.
        /// The agent is busy with another task.
        Busy = 40, "busy";
        /// The site is outside its hours.
        OutsideHours = 41, "outside-hours";
        /// The study digest is not the accepted one.
        StudyMismatch = 42, "study-mismatch";
        /// Fewer records than the study asks for.
        TooFewExamples = 43, "too-few-examples";
        /// The worker's data check failed.
        DataNotReady = 44, "data-not-ready";
        /// The worker failed, also when tried again.
        WorkerFailed = 45, "worker-failed";
        /// Training gave NaN or infinity.
        Diverged = 46, "diverged";
        /// The site's disk or state failed.
        SiteFault = 47, "site-fault";
        /// The site has lost the control variate that the coordinator's is made of.
        ControlLost = 48, "control-lost";

        /// A person at the site has not accepted the consortium's newest roster yet.
        RosterNotAccepted = 49, "roster-not-accepted";

        /// The site cannot know whose records must not be read.
        OptOutUnreadable = 55, "opt-out-unreadable";

        /// The site's data is not what was approved there.
        DataChanged = 56, "data-changed";

        // Updates.
        /// The digest of the bytes is another.
        DigestMismatch = 60, "digest-mismatch";
        /// Not an update, or one of another shape.
        WrongShape = 61, "wrong-shape";
        /// A number outside the grid.
        OutOfGrid = 62, "out-of-grid";
        /// The norm is over the clip bound.
        NormTooLarge = 63, "norm-too-large";
        /// Another round, base or study than the plan's.
        WrongRound = 64, "wrong-round";
        /// Weight zero or over the cap.
        WeightOutOfRange = 65, "weight-out-of-range";
        /// Metric sums that contradict one another.
        BadMetrics = 66, "bad-metrics";
        /// Another update than the receipted one of this round.
        Equivocation = 67, "equivocation";
        /// The site was not part of this round.
        NotInvited = 68, "not-invited";
        /// Larger than the study's update can be.
        TooLarge = 69, "too-large";

        // Rounds: why a site did not count.
        /// It did not answer the plan.
        NoAnswer = 80, "no-answer";
        /// It showed no progress for the idle timeout.
        Idle = 81, "idle";
        /// It did not deliver before the deadline.
        Late = 82, "late";
        /// The round was abandoned.
        Abandoned = 83, "abandoned";
        /// The coordinator could not read or add the update.
        CoordinatorFault = 84, "coordinator-fault";

        // The site's policy: which rule a study breaks.
        /// The study is not one of those that may run at the site.
        PolicyStudies = 100, "policy-studies";
        /// Its mode lets others see more than the site allows.
        PolicyModes = 101, "policy-modes";
        /// A round may be made of fewer sites than the site allows.
        PolicyCohort = 102, "policy-cohort";
        /// Rounds may run without a peer on which the site insists.
        PolicyPeers = 103, "policy-peers";
        /// The model is of another family than those allowed.
        PolicyFamilies = 104, "policy-families";
        /// The model has more parameters than allowed.
        PolicyParameters = 105, "policy-parameters";
        /// It starts from a given model that the site did not allow.
        PolicyInitialModels = 106, "policy-initial-models";
        /// It reads a column that the site did not allow.
        PolicyColumns = 107, "policy-columns";
        /// Its strategy is not one of those allowed.
        PolicyStrategies = 108, "policy-strategies";
        /// A round goes over the site's records more often than allowed.
        PolicyEpochs = 109, "policy-epochs";
        /// Its steps are larger than allowed.
        PolicyLearningRate = 110, "policy-learning-rate";
        /// It has more rounds than allowed.
        PolicyRounds = 111, "policy-rounds";
    }
}

/// A code in a text format is its text (number 0 when read); on the wire its number (no text).
#[derive(Debug, Clone)]
struct CodeForm {
    number: u16,
    text: Cow<'static, str>,
}

impl CodeForm {
    fn is(&self, number: u16, text: &str) -> bool {
        if self.text.is_empty() { self.number == number } else { self.text == text }
    }
}

impl Serialize for CodeForm {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        if s.is_human_readable() { self.text.serialize(s) } else { self.number.serialize(s) }
    }
}

impl<'de> Deserialize<'de> for CodeForm {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() {
            let text = Cow::Owned(String::deserialize(d)?);
            Ok(Self { number: 0, text })
        } else {
            Ok(Self { number: u16::deserialize(d)?, text: Cow::Borrowed("") })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts_are_unique_and_survive_both_forms() {
        for (i, code) in Code::ALL.iter().enumerate() {
            for other in Code::ALL.iter().skip(i + 1) {
                assert_ne!(*code as u16, *other as u16);
                assert_ne!(code.as_str(), other.as_str());
            }
            let wire = crate::wire::codec::encode(code).unwrap();
            assert_eq!(crate::wire::codec::decode::<Code>(&wire).unwrap(), *code);
            let text = serde_json::to_string(code).unwrap();
            assert_eq!(text, format!("\"{code}\""));
            assert_eq!(serde_json::from_str::<Code>(&text).unwrap(), *code);
        }
    }
}
