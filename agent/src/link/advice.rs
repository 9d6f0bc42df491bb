//! What hospital IT can do about a refusal, for the log line beside its code.

use consilium_common::wire::reject::Code;

/// One sentence on what to do, or what happens now.
#[must_use]
#[expect(clippy::too_many_lines, reason = "a sentence for each code")]
pub fn advice(code: Code) -> &'static str {
    match code {
        Code::WrongRole => {
            "this is not a site's certificate: enrol with `consilium-agent enroll TOKEN`"
        }
        Code::NotInRoster => "ask an operator to sign a roster that holds this site",
        Code::Revoked => {
            "an operator put this site out; ask why. To come back it is invited anew: \
             `consilium-agent enroll TOKEN`"
        }
        Code::CertificateExpired => "the agent renews it by itself and comes back",
        Code::NotEnrolled => "ask an operator to invite this site, or to look at its request",
        Code::ClockSkew => "set this machine's clock (NTP); the agent tries again by itself",
        Code::ProtocolVersion | Code::UnknownKind | Code::Malformed => {
            "the two ends are of different releases: update the older one"
        }
        Code::Replaced => "another agent runs with this site's identity: stop one of the two",
        Code::SlowReader => "this machine is too busy to listen; the agent tries again by itself",
        Code::ShuttingDown => "the coordinator is going down; the agent tries again by itself",
        Code::Quarantined => {
            "the coordinator holds this site off for a time, for the reason it gives; the agent \
             comes back by itself"
        }
        Code::Flood => "is there a second agent with this site's identity? Is this one up to date?",
        Code::UnknownStudy => "the coordinator no longer has this study; nothing to do here",
        Code::BadSignature => "too few pinned operators signed: ask the consortium's operators",
        Code::Policy
        | Code::PolicyStudies
        | Code::PolicyModes
        | Code::PolicyCohort
        | Code::PolicyPeers
        | Code::PolicyFamilies
        | Code::PolicyParameters
        | Code::PolicyInitialModels
        | Code::PolicyColumns
        | Code::PolicyStrategies
        | Code::PolicyEpochs
        | Code::PolicyLearningRate
        | Code::PolicyRounds => {
            "[policy] of agent.toml does not allow it; change it if that is not meant, and reload it \
             with SIGHUP"
        }
        Code::NotAccepted => "decide with `consilium-agent study accept` or `refuse NAME@DIGEST`",
        Code::RefusedBySite => "it was refused here; `consilium-agent study accept` changes that",
        Code::NotSupported => "this release does not serve it: update the agent and its worker",
        Code::NoData => "name the site's records in agent.toml, [data.STUDY]",
        Code::ApprovalExpired => {
            "the study's ethics approval has ended: the operators sign a version with the new one"
        }
        Code::RosterNotAccepted => {
            "look at the roster with `consilium-agent roster show`, then `roster accept VERSION`"
        }
        Code::OutsideHours => "[policy] hours in agent.toml; the agent takes part when they open",
        Code::StudyMismatch => "the study has a new version: look at `consilium-agent study list`",
        Code::TooFewExamples | Code::DataNotReady => {
            "run `consilium-agent check`: it names what is wrong with the records"
        }
        Code::OptOutUnreadable => {
            "nothing was read: mend the file that `exclude` in [data.STUDY] names; `consilium-agent check` \
             tries it out"
        }
        Code::DataChanged => {
            "look at what changed; if it is meant, approve it with `consilium-agent data pin STUDY`"
        }
        Code::WorkerFailed | Code::Diverged => {
            "look at the worker's lines in this log; `consilium-agent check` tries it out"
        }
        Code::SiteFault => "look at this log for the disk or file that failed",
        Code::ControlLost => {
            "all sites begin with new control variates; was the state folder brought back from an old \
             copy, or its disk damaged?"
        }
        Code::Equivocation => {
            "another update of this round was receipted before: was the state folder copied?"
        }
        Code::NormTooLarge
        | Code::WrongShape
        | Code::OutOfGrid
        | Code::WeightOutOfRange
        | Code::BadMetrics
        | Code::TooLarge => "the update is not valid: are agent and worker of the same release?",
        Code::DigestMismatch => {
            "bytes changed on the way or on the disk: check this machine's disk"
        }
        Code::Unexpected
        | Code::Busy
        | Code::WrongRound
        | Code::NotInvited
        | Code::NoAnswer
        | Code::Idle
        | Code::Late
        | Code::Abandoned
        | Code::CoordinatorFault => "nothing to do here: the next round is another chance",
    }
}
