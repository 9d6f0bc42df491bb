//! Who may ask what: the one table of roles and requests. What it does not let through changes nothing, and
//! stands in the log as a refused command.

use consilium_certs::identity::{Identity, Role};
use consilium_common::ids::{Digest, OperatorId};
use consilium_common::study::Study;
use consilium_common::wire::operator::Request;

/// Kinds of requests, by who may make them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Looks at studies: operators and auditors at all, researchers at their own.
    Look,
    /// Looks at the consortium: operators and auditors.
    Survey,
    /// Changes what is: operators.
    Command,
    /// Proposes a study: researchers.
    Propose,
}

fn kind(request: &Request) -> Kind {
    match request {
        Request::Status { .. }
        | Request::StudyList
        | Request::StudyShow { .. }
        | Request::ModelList { .. }
        | Request::ModelShow { .. }
        | Request::Report { .. }
        | Request::StudyProposals
        | Request::StudyProposal { .. } => Kind::Look,
        Request::Members | Request::AuditExport | Request::StudyPlan { .. } => Kind::Survey,
        Request::StudySubmit { .. }
        | Request::InitialOffer { .. }
        | Request::StudyStart { .. }
        | Request::StudyPause { .. }
        | Request::StudyStop { .. }
        | Request::StudyRetrain { .. }
        | Request::SiteInvite { .. }
        | Request::SiteApprove { .. }
        | Request::SiteRevoke { .. }
        | Request::RosterSign { .. } => Kind::Command,
        Request::StudyPropose { .. } => Kind::Propose,
    }
}

/// Which studies somebody sees.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Sight {
    /// Every one.
    All,
    /// Those whose newest signed file lists this researcher, and what this researcher proposed.
    Own(OperatorId),
}

impl Sight {
    pub(super) fn sees(&self, study: &Study) -> bool {
        match self {
            Self::All => true,
            Self::Own(name) => study.header.researchers.contains(name),
        }
    }
}

/// The studies that a role sees, and whose models it may fetch; none if it sees none.
pub(super) fn sight(identity: &Identity) -> Option<Sight> {
    match &identity.role {
        Role::Operator(_) | Role::Auditor(_) => Some(Sight::All),
        Role::Researcher(name) => Some(Sight::Own(name.clone())),
        Role::Site(_) | Role::Coordinator => None,
    }
}

/// Lets a request of this role through, to the studies that the role sees.
///
/// # Errors
/// The role may not ask this: why, in a sentence.
pub(super) fn admit(identity: &Identity, request: &Request) -> Result<Sight, String> {
    let why = match (kind(request), &identity.role) {
        (Kind::Look | Kind::Survey | Kind::Command, Role::Operator(_))
        | (Kind::Look | Kind::Survey, Role::Auditor(_)) => return Ok(Sight::All),
        (Kind::Look | Kind::Propose, Role::Researcher(name)) => {
            return Ok(Sight::Own(name.clone()));
        }
        (Kind::Propose, Role::Operator(_)) => {
            "signs studies and submits them: a researcher's bundle is needed to propose one"
        }
        (Kind::Command, Role::Auditor(_)) => {
            "may look and not command: an operator's bundle is needed"
        }
        (Kind::Propose, Role::Auditor(_)) => {
            "may look and not propose: a researcher's bundle is needed"
        }
        (Kind::Survey, Role::Researcher(_)) => {
            "sees its own studies and nothing else: an operator's or an auditor's bundle is needed"
        }
        (Kind::Command, Role::Researcher(_)) => {
            "may look at its own studies and propose them, and not command: an operator's bundle is \
             needed"
        }
        (_, Role::Site(_) | Role::Coordinator) => {
            "has nothing to ask here: the bundle of an operator, an auditor or a researcher is needed"
        }
    };
    Err(format!("{identity} {why}"))
}

/// A request as the command that makes it, for the log.
pub(super) fn words(request: &Request) -> String {
    match request {
        Request::Status { study: None } => "status".to_owned(),
        Request::Status { study: Some(study) } => format!("status {study}"),
        Request::StudySubmit { signed } => format!("study submit {}", signed.digest()),
        Request::StudyStart { study } => format!("study start {study}"),
        Request::StudyPause { study } => format!("study pause {study}"),
        Request::StudyStop { study } => format!("study stop {study}"),
        Request::StudyList => "study list".to_owned(),
        Request::StudyShow { study } => format!("study show {study}"),
        Request::ModelList { study } => format!("model list {study}"),
        Request::ModelShow { study, .. } => format!("model export {study}"),
        Request::Report { study } => format!("report {study}"),
        Request::InitialOffer { signed } => format!("study submit --start {}", signed.digest()),
        Request::Members => "site list".to_owned(),
        Request::SiteInvite { site, .. } => format!("site invite {site}"),
        Request::SiteApprove { signed } => format!("site approve: {}", signed.digest()),
        Request::SiteRevoke { signed } => format!("site revoke: {}", signed.digest()),
        Request::RosterSign { text, .. } => format!("roster sign: {}", Digest::of(text)),
        Request::AuditExport => "audit export".to_owned(),
        Request::StudyRetrain { study, from } => format!("study retrain {study} --from {from}"),
        Request::StudyPlan { study } => format!("study plan {study}"),
        Request::StudyPropose { text } => format!("study propose {}", Digest::of(text)),
        Request::StudyProposals => "study proposals".to_owned(),
        Request::StudyProposal { study, .. } => format!("study proposals {study}"),
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::ids::Version;
    use consilium_common::signed::{SecretKey, Signed};
    use consilium_common::wire::codec;

    use super::*;

    /// One request of every kind, in the order of their numbers, and who may make it.
    fn table() -> Vec<(Request, [bool; 5])> {
        let study = || "demo".parse().unwrap();
        let signed = || Signed::from_parts(b"format = 1".to_vec(), Vec::new());
        let signature = SecretKey::from_seed(&[1; 32]).sign("consilium/roster/1", b"text");
        let (approval, revocation) = (
            Signed::from_parts(b"a".to_vec(), Vec::new()),
            Signed::from_parts(b"r".to_vec(), Vec::new()),
        );
        // operator, auditor, researcher, site, coordinator
        let look = [true, true, true, false, false];
        let survey = [true, true, false, false, false];
        let command = [true, false, false, false, false];
        let propose = [false, false, true, false, false];
        vec![
            (Request::Status { study: None }, look),
            (Request::StudySubmit { signed: signed() }, command),
            (Request::StudyStart { study: study() }, command),
            (Request::StudyPause { study: study() }, command),
            (Request::StudyStop { study: study() }, command),
            (Request::StudyList, look),
            (Request::StudyShow { study: study() }, look),
            (Request::ModelList { study: study() }, look),
            (Request::ModelShow { study: study(), version: None }, look),
            (Request::Report { study: study() }, look),
            (Request::InitialOffer { signed: signed() }, command),
            (Request::Members, survey),
            (Request::SiteInvite { site: "a".parse().unwrap(), token: Digest([1; 32]) }, command),
            (Request::SiteApprove { signed: approval }, command),
            (Request::SiteRevoke { signed: revocation }, command),
            (Request::RosterSign { text: b"text".to_vec(), signature }, command),
            (Request::AuditExport, survey),
            (Request::StudyRetrain { study: study(), from: Version(2) }, command),
            (Request::StudyPlan { study: study() }, survey),
            (Request::StudyPropose { text: b"text".to_vec() }, propose),
            (Request::StudyProposals, look),
            (Request::StudyProposal { study: study(), by: None }, look),
        ]
    }

    #[test]
    fn the_table_names_every_request_that_there_is() {
        let table = table();
        for (number, (request, _)) in table.iter().enumerate() {
            let bytes = codec::encode(request).unwrap();
            assert_eq!(usize::from(bytes[0]), number, "{request:?}");
        }
        let beyond = u8::try_from(table.len()).unwrap();
        let told = codec::decode::<Request>(&[beyond]).unwrap_err().to_string();
        let all = format!("variant index 0 <= i < {beyond}");
        assert!(told.contains(&all), "requests that are not in this table: {told}");
    }

    #[test]
    fn each_role_asks_what_the_table_says_and_nothing_else() {
        let roles =
            ["operator/ada", "auditor/eve", "researcher/rosa", "site/st-mary", "coordinator"];
        for (request, may) in table() {
            for (role, may) in roles.into_iter().zip(may) {
                let identity: Identity = format!("consilium://thorax/{role}").parse().unwrap();
                let said = admit(&identity, &request);
                assert_eq!(said.is_ok(), may, "{role}: {request:?}: {said:?}");
                match said {
                    Ok(sight) => {
                        let own = Sight::Own("rosa".parse().unwrap());
                        let need = if role == "researcher/rosa" { own } else { Sight::All };
                        assert_eq!(sight, need, "{role}: {request:?}");
                    }
                    Err(why) => {
                        assert!(why.contains(role) && why.contains("bundle"), "{why}");
                    }
                }
            }
            assert!(!words(&request).is_empty());
        }
    }

    #[test]
    fn a_researcher_sees_the_studies_that_list_them() {
        let draft = "[study]\nname = \"demo\"\nresearchers = [\"rosa\"]\n[model]\n\
                     family = \"synthetic\"\nparameters = 4\n[aggregation]\nclip_norm = 1.0\n\
                     [privacy]\nmode = \"inspectable\"\n";
        let study = Study::read(draft, "draft").unwrap();
        let own = |name: &str| Sight::Own(name.parse().unwrap());
        assert!(Sight::All.sees(&study) && own("rosa").sees(&study) && !own("emmy").sees(&study));
    }
}
