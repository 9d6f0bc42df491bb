//! What a log cannot say.

use consilium_common::ids::{Digest, OperatorId, Round, SiteId, StudyId, Version};
use consilium_common::limits::STUDIES_MAX;

use crate::limits::{PROPOSALS_EACH_MAX, PROPOSALS_MAX};

/// Why a record does not fit what was before it. In a log that this program wrote none occurs; a
/// submission is held against the same rules before it is written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A signed document that cannot be read.
    #[error("a {record} record cannot be read: {why}")]
    Unreadable {
        /// Kind of record.
        record: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// A record of a study that was never submitted.
    #[error("a {record} record names study {study}, which was never submitted")]
    UnknownStudy {
        /// Kind of record.
        record: &'static str,
        /// Which study.
        study: StudyId,
    },
    /// A record of a round that cannot be there.
    #[error("a {record} record of study {study} is about round {have}, {need} expected")]
    Round {
        /// Kind of record.
        record: &'static str,
        /// Which study.
        study: StudyId,
        /// The record's round.
        have: Round,
        /// What would fit.
        need: String,
    },
    /// A second receipt of a site for other bytes.
    #[error("site {site} has two receipts of study {study} round {round} for different updates")]
    SecondReceipt {
        /// Which study.
        study: StudyId,
        /// Which round.
        round: Round,
        /// Which site.
        site: SiteId,
    },
    /// A committed version that does not follow the newest.
    #[error("round {round} of study {study} committed {have}, {need} expected")]
    Version {
        /// Which study.
        study: StudyId,
        /// Which round.
        round: Round,
        /// The roll call's version.
        have: Version,
        /// The one that follows.
        need: Version,
    },
    /// A plan that does not name the state by which the sites' steps are corrected.
    #[error("the plan of study {study} round {round} corrects by {have:?}, {need:?} expected")]
    Control {
        /// Which study.
        study: StudyId,
        /// Which round.
        round: Round,
        /// In the plan.
        have: Option<Digest>,
        /// The newest version's.
        need: Option<Digest>,
    },
    /// A plan that does not name the study's preparation.
    #[error("round {round} of study {study} names preparation {have:?}, {need:?} is in force")]
    Preparation {
        /// Which study.
        study: StudyId,
        /// Which round.
        round: Round,
        /// In the plan.
        have: Option<Digest>,
        /// From the roll calls.
        need: Option<Digest>,
    },
    /// The study is known in this version or a later one.
    #[error("study {study} is known in version {known}: give the changed file `version = {}`", known + 1)]
    OldStudyVersion {
        /// Which study.
        study: StudyId,
        /// Its version so far.
        known: u64,
    },
    /// A changed study with another model.
    #[error(
        "study {0} has versions of another layout: a changed model needs a study of its own name"
    )]
    LayoutChanged(StudyId),
    /// Training cannot go on from an earlier version.
    #[error("study {study} cannot go back to {from}: {why}")]
    GoBack {
        /// Which study.
        study: StudyId,
        /// The version to go on from.
        from: Version,
        /// What stands in the way, and what to do.
        why: String,
    },
    /// More studies than are served.
    #[error("there are {STUDIES_MAX} studies already, which is the most that is served")]
    TooManyStudies,
    /// A proposal of a study whose newest version does not list the researcher.
    #[error(
        "there is a study {study}, and it does not list researcher {by}: propose under another name, or ask \
         the operators to list {by} in its next version"
    )]
    NotListed {
        /// Which study.
        study: StudyId,
        /// The researcher.
        by: OperatorId,
    },
    /// More open proposals of one researcher than are kept.
    #[error(
        "{0} has {PROPOSALS_EACH_MAX} open proposals, which is the most that are kept: propose one of them \
         anew, or have one submitted"
    )]
    TooManyProposals(OperatorId),
    /// More open proposals than are kept.
    #[error(
        "{PROPOSALS_MAX} proposals are open, which is the most that are kept: have one submitted"
    )]
    ProposalsFull,
}
