//! `[governance]`: on what ground a study runs. Words for ethics committees, data-protection officers
//! and auditors; the operators sign them with the rest, a site's policy may require any of them
//! (`require_governance`), and no round begins after `approved_until`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::StudyError;
use super::check::range;
use crate::ids::Digest;
use crate::limits::APPROVAL_NOTICE;
use crate::time::{Date, WallMillis};

/// `[governance]`, all of it optional.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Governance {
    /// The study protocol and its version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// The last day of the ethics approval: no round begins after it ends, UTC.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub approved_until: Option<Date>,
    /// Who decides on purposes and means (GDPR Art. 4(7)).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<String>,
    /// The legal basis of the processing, such as `GDPR Art. 9(2)(j)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub legal_basis: Option<String>,
    /// BLAKE3 of the agreement that the sites signed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agreement: Option<Digest>,
    /// Whom to ask.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub contact: Option<String>,
    /// Who approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ethics: Option<Ethics>,
}

/// The ethics committee's vote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, expecting = "`ethics = { committee = \"…\", reference = \"…\" }`")]
pub struct Ethics {
    /// The committee.
    pub committee: String,
    /// Its reference of the vote.
    pub reference: String,
}

/// A field of `[governance]`, as a policy requires it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "the fields of Governance")]
pub enum Field {
    Protocol,
    Ethics,
    ApprovedUntil,
    Controller,
    LegalBasis,
    Agreement,
    Contact,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol => "protocol",
            Self::Ethics => "ethics",
            Self::ApprovedUntil => "approved_until",
            Self::Controller => "controller",
            Self::LegalBasis => "legal_basis",
            Self::Agreement => "agreement",
            Self::Contact => "contact",
        })
    }
}

/// How an approval stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Standing {
    /// For more than a month.
    Valid,
    /// It ends within [`APPROVAL_NOTICE`].
    EndsSoon,
    /// No round begins any more.
    Expired,
}

/// A study's approval, seen from a day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Its last day.
    pub until: Date,
    /// How it stands.
    pub standing: Standing,
    /// Whole days that are left after this one; 0 on the last day and after it.
    pub days_left: u64,
}

impl Approval {
    /// Whether no round begins any more.
    #[must_use]
    pub fn has_expired(&self) -> bool {
        self.standing == Standing::Expired
    }

    /// What people should know by now; nothing while it is valid for long.
    #[must_use]
    pub fn notice(&self) -> Option<String> {
        let Self { until, days_left, .. } = self;
        match self.standing {
            Standing::Valid => None,
            Standing::EndsSoon => Some(format!(
                "the study's approval ends on {until} (UTC), in {days_left} days: sign the study's \
                 next version with the new `approved_until` before that"
            )),
            Standing::Expired => Some(format!(
                "the study's approval ended on {until} (UTC): no round begins until the study's next \
                 version, signed and accepted, names a new `approved_until`"
            )),
        }
    }
}

impl Governance {
    /// Whether nothing was written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether this field was written.
    #[must_use]
    pub fn has(&self, field: Field) -> bool {
        match field {
            Field::Protocol => self.protocol.is_some(),
            Field::Ethics => self.ethics.is_some(),
            Field::ApprovedUntil => self.approved_until.is_some(),
            Field::Controller => self.controller.is_some(),
            Field::LegalBasis => self.legal_basis.is_some(),
            Field::Agreement => self.agreement.is_some(),
            Field::Contact => self.contact.is_some(),
        }
    }

    /// How the approval stands at this time; `None` if the study names no end.
    #[must_use]
    pub fn approval(&self, wall: WallMillis) -> Option<Approval> {
        let until = self.approved_until?;
        let left = until.end().0.saturating_sub(wall.0);
        let standing = match left {
            0 => Standing::Expired,
            left if left <= APPROVAL_NOTICE.0 => Standing::EndsSoon,
            _ => Standing::Valid,
        };
        // The last day's own hours are no whole day.
        Some(Approval { until, standing, days_left: left.saturating_sub(1) / Date::DAY.0 })
    }

    /// Whether the approval has ended at this time.
    #[must_use]
    pub fn has_expired(&self, wall: WallMillis) -> bool {
        self.approval(wall).is_some_and(|approval| approval.has_expired())
    }

    /// The texts of the section, by field.
    pub(super) fn texts(&self) -> impl Iterator<Item = (&'static str, &String)> {
        let ethics = self.ethics.as_ref();
        [
            ("governance.protocol", self.protocol.as_ref()),
            ("governance.controller", self.controller.as_ref()),
            ("governance.legal_basis", self.legal_basis.as_ref()),
            ("governance.contact", self.contact.as_ref()),
            ("governance.ethics.committee", ethics.map(|ethics| &ethics.committee)),
            ("governance.ethics.reference", ethics.map(|ethics| &ethics.reference)),
        ]
        .into_iter()
        .filter_map(|(field, text)| Some((field, text?)))
    }

    /// A field that was written says something: an empty one would pass for an answer.
    pub(super) fn check(&self) -> Result<(), StudyError> {
        match self.texts().find(|(_, text)| text.trim().is_empty()) {
            Some((field, _)) => range(field, "empty", "write what it is, or leave the field out"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::Study;

    const STUDY: &str = "[study]\nname = \"load\"\n[model]\nfamily = \"synthetic\"\n\
                         parameters = 5\n[aggregation]\nclip_norm = 1.0\n\
                         [privacy]\nmode = \"inspectable\"\n";

    const FULL: &str = "[governance]\nprotocol = \"THX-2026 v3\"\napproved_until = \"2027-03-31\"\n\
                        controller = \"St Mary Hospital\"\nlegal_basis = \"GDPR Art. 9(2)(j)\"\n\
                        agreement = \"5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c5f2c\"\n\
                        contact = \"dpo@st-mary.example\"\n\
                        ethics = { committee = \"Ethikkommission\", reference = \"EA1/123/26\" }\n";

    fn read(governance: &str) -> Result<Study, StudyError> {
        Study::read(&format!("{STUDY}{governance}"), "load.toml")
    }

    #[test]
    fn a_study_without_the_section_has_none_in_its_signed_text() {
        let study = read("").unwrap();
        assert!(study.governance.is_empty());
        assert!(!study.to_text().unwrap().contains("governance"));
    }

    #[test]
    fn every_field_survives_the_signed_text() {
        let study = read(FULL).unwrap();
        let text = study.to_text().unwrap();
        assert_eq!(Study::read(&text, "again").unwrap(), study, "{text}");
        for field in [
            Field::Protocol,
            Field::Ethics,
            Field::ApprovedUntil,
            Field::Controller,
            Field::LegalBasis,
            Field::Agreement,
            Field::Contact,
        ] {
            assert!(study.governance.has(field), "{field}");
            assert!(!Governance::default().has(field), "{field}");
            let name = toml::Value::try_from(field).unwrap();
            assert_eq!(name.as_str(), Some(field.to_string().as_str()));
        }
    }

    #[test]
    fn a_date_may_be_toml_s_own_or_text_and_nothing_else() {
        let native = read("[governance]\napproved_until = 2027-03-31\n").unwrap();
        assert_eq!(native, read("[governance]\napproved_until = \"2027-03-31\"\n").unwrap());
        for bad in ["\"2027-02-29\"", "\"31.3.2027\"", "2027-03-31T10:00:00Z", "\"2027-3-31\"", "7"]
        {
            let told = read(&format!("[governance]\napproved_until = {bad}\n")).unwrap_err();
            assert!(told.to_string().contains("2027-03-31"), "{bad}: {told}");
        }
    }

    #[test]
    fn empty_long_and_crooked_texts_are_refused_by_field() {
        for (field, bad) in [
            ("protocol", "\" \"".to_owned()),
            ("contact", "\"\"".to_owned()),
            ("controller", format!("{:?}", "x".repeat(600))),
            ("legal_basis", "\"turned \\u202e around\"".to_owned()),
            ("ethics", "{ committee = \"\", reference = \"1\" }".to_owned()),
        ] {
            let told = read(&format!("[governance]\n{field} = {bad}\n")).unwrap_err().to_string();
            assert!(told.contains(&format!("governance.{field}")), "{told}");
        }
        for bad in ["\"EA1/123/26\"", "[\"EA1/123/26\"]"] {
            let told = read(&format!("[governance]\nethics = {bad}\n")).unwrap_err().to_string();
            assert!(told.contains("ethics = { committee = \"…\", reference"), "{bad}: {told}");
        }
        let told = read("[governance]\nethic = \"x\"\n").unwrap_err().to_string();
        assert!(told.contains("did you mean `ethics`"), "{told}");
    }

    #[test]
    fn an_approval_is_announced_a_month_before_and_ends_with_its_day() {
        let governance = read(FULL).unwrap().governance;
        let end = governance.approved_until.unwrap().end();
        let at = |days_before: u64| WallMillis(end.0 - days_before * Date::DAY.0 - 1);
        let stands = |wall| governance.approval(wall).unwrap();
        assert_eq!(stands(at(31)).standing, Standing::Valid);
        assert_eq!(stands(at(31)).notice(), None);
        let soon = stands(at(29));
        assert_eq!((soon.standing, soon.days_left), (Standing::EndsSoon, 29));
        assert!(soon.notice().unwrap().contains("ends on 2027-03-31 (UTC), in 29 days"));
        assert_eq!(stands(at(0)).standing, Standing::EndsSoon, "the last millisecond");
        assert!(!governance.has_expired(at(0)) && governance.has_expired(end));
        assert!(stands(end).notice().unwrap().contains("ended on 2027-03-31"));
        assert_eq!(Governance::default().approval(end), None);
    }
}
