//! What screens show of a study's past: its last roll calls, and the metrics of each version. Built
//! from the log at start, kept up to date by the driver, bounded.

use std::collections::{BTreeMap, VecDeque};

use consilium_common::audit::record::{Retrained, Withdrawn};
use consilium_common::audit::{Outcome, RollCall, Status};
use consilium_common::ids::{Digest, Version};
use consilium_common::time::WallMillis;
use consilium_common::update::words::Schema;

use crate::document::{RoundStatus, ScoredSums, VersionStatus};
use crate::limits::{ROUNDS_SHOWN_MAX, VERSIONS_SHOWN_MAX};
use crate::round::{Affect, Affected, Lineage};

/// A study's past, in memory.
#[derive(Debug)]
pub struct Summary {
    schema: Schema,
    rounds: VecDeque<RoundStatus>,
    versions: BTreeMap<Version, VersionStatus>,
    /// All sums of the newest version that was scored: a few hundred KiB at most.
    scored: Option<ScoredSums>,
    head: Head,
    affected: Affected,
    lineage: Lineage,
}

/// The newest version of a study.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Its number.
    pub version: Version,
    /// Its digest.
    pub model: Digest,
}

fn unscored(version: Version, model: Digest) -> VersionStatus {
    VersionStatus {
        version,
        model,
        round: None,
        wall: None,
        accuracy: None,
        loss: None,
        score: None,
        metrics: BTreeMap::new(),
        operating_point: None,
        groups: Vec::new(),
        again: None,
        affected: None,
    }
}

impl Summary {
    /// Nothing has happened but v0, whose digest is `initial`.
    #[must_use]
    pub fn new(schema: Schema, initial: Digest) -> Self {
        let version = Version(0);
        Self {
            schema,
            rounds: VecDeque::new(),
            versions: BTreeMap::from([(version, unscored(version, initial))]),
            scored: None,
            head: Head { version, model: initial },
            affected: Affected::default(),
            lineage: Lineage::default(),
        }
    }

    /// From here on rounds are of the study's next version.
    pub fn succeed(&mut self, schema: Schema) {
        self.schema = schema;
    }

    /// A round ended; its roll call was written at `wall`.
    pub fn add(&mut self, call: &RollCall, wall: WallMillis) {
        self.score_base(call);
        if let Outcome::Committed { version, model, .. } = call.outcome {
            let (round, wall) = (Some(call.round), Some(wall));
            self.make(VersionStatus { round, wall, ..unscored(version, model) });
        }
        if self.rounds.len() == ROUNDS_SHOWN_MAX {
            self.rounds.pop_front();
        }
        self.rounds.push_back(round_status(call, wall));
    }

    /// Training goes on from an earlier version, as was written at `wall`.
    pub fn go_back(&mut self, retrained: &Retrained, wall: WallMillis) {
        let Retrained { from, version, model, .. } = *retrained;
        self.lineage.go_back(version, from);
        let (wall, again) = (Some(wall), Some(from));
        self.make(VersionStatus { wall, again, ..unscored(version, model) });
    }

    /// There is a newest version.
    fn make(&mut self, made: VersionStatus) {
        let (version, model) = (made.version, made.model);
        self.head = Head { version, model };
        self.versions.insert(version, VersionStatus { affected: self.affect(version), ..made });
        if self.versions.len() > VERSIONS_SHOWN_MAX {
            self.versions.pop_first();
        }
    }

    /// A site reported a withdrawal.
    pub fn withdraw(&mut self, withdrawn: &Withdrawn) {
        self.affected.add(withdrawn);
        for (version, status) in &mut self.versions {
            status.affected = self.affected.of(*version, &self.lineage);
        }
    }

    /// The withdrawals.
    #[must_use]
    pub fn affected(&self) -> &Affected {
        &self.affected
    }

    /// Which version each is built on.
    #[must_use]
    pub fn lineage(&self) -> &Lineage {
        &self.lineage
    }

    /// What withdrawals say of a version; none if it is not affected.
    #[must_use]
    pub fn affect(&self, version: Version) -> Option<Affect> {
        self.affected.of(version, &self.lineage)
    }

    /// The version with which a study of so many rounds is complete.
    #[must_use]
    pub fn goal(&self, rounds: u64) -> u64 {
        let version = self.head.version;
        let beside = version.0.saturating_sub(self.lineage.trainings(version));
        rounds.saturating_add(beside)
    }

    /// A roll call carries the metrics of its base, unless the round came to nothing, or counted.
    fn score_base(&mut self, call: &RollCall) {
        if matches!(call.outcome, Outcome::Abandoned { .. } | Outcome::Prepared { .. }) {
            return;
        }
        let version = call.base_version;
        if self.scored.as_ref().is_none_or(|scored| scored.version <= version) {
            let there = call.metrics.iter().filter(|(_, sum)| **sum > 0);
            let sums = there.map(|(name, sum)| (name.clone(), *sum)).collect();
            self.scored = Some(ScoredSums { version, sums });
        }
        let Some(base) = self.versions.get_mut(&call.base_version) else {
            return;
        };
        let metrics = self.schema.pick(&call.metrics);
        base.accuracy = self.schema.accuracy(&metrics);
        base.loss = self.schema.loss(&metrics);
        base.score = self.schema.score(&metrics);
        base.operating_point = self.schema.best_operating_point(&metrics);
        base.groups = self.schema.group_rows(&metrics);
        let sum = |name: &str| Some((name.to_owned(), *call.metrics.get(name)?));
        base.metrics = self.schema.plain_names().filter_map(sum).collect();
    }

    /// All sums of the newest version that was scored.
    #[must_use]
    pub fn scored(&self) -> Option<&ScoredSums> {
        self.scored.as_ref()
    }

    /// The last rounds, oldest first.
    pub fn rounds(&self) -> impl DoubleEndedIterator<Item = &RoundStatus> {
        self.rounds.iter()
    }

    /// The versions, oldest first.
    pub fn versions(&self) -> impl DoubleEndedIterator<Item = &VersionStatus> {
        self.versions.values()
    }

    /// The newest version.
    #[must_use]
    pub fn head(&self) -> Head {
        self.head
    }

    /// A version, if it is among those shown.
    #[must_use]
    pub fn version(&self, version: Version) -> Option<&VersionStatus> {
        self.versions.get(&version)
    }
}

fn round_status(call: &RollCall, wall: WallMillis) -> RoundStatus {
    let (outcome, version, reason) = match &call.outcome {
        Outcome::Committed { version, .. } => ("committed", Some(*version), None),
        Outcome::Evaluated { .. } => ("evaluated", None, None),
        Outcome::Prepared { .. } => ("prepared", None, None),
        Outcome::Abandoned { reason } => ("abandoned", None, Some(reason.clone())),
    };
    let (mut counted, mut excluded) = (BTreeMap::new(), BTreeMap::new());
    for (site, entry) in &call.sites {
        match entry.status {
            Status::Counted { weight } => {
                counted.insert(site.clone(), weight);
            }
            Status::Excluded { code } => {
                excluded.insert(site.clone(), code);
            }
        }
    }
    RoundStatus {
        round: call.round,
        task: call.task,
        outcome: outcome.to_owned(),
        reason,
        base_version: call.base_version,
        version,
        wall,
        duration_ms: call.duration.0,
        bytes_up: call.bytes_up,
        bytes_down: call.bytes_down,
        clipped: call.clipped,
        counted,
        excluded,
    }
}

#[cfg(test)]
mod tests {
    use consilium_common::audit::Entry;
    use consilium_common::ids::Round;
    use consilium_common::study::Study;
    use consilium_common::time::Millis;
    use consilium_common::wire::messages::TaskKind;
    use consilium_common::wire::reject::Code;

    use super::*;

    fn summary() -> Summary {
        let draft = "[study]\nname = \"demo\"\n[model]\nfamily = \"synthetic\"\nparameters = 4\n\
                     [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        let study = Study::read(draft, "draft").unwrap();
        Summary::new(Schema::of(&study), Digest([0; 32]))
    }

    fn call(round: u64, base: u64, outcome: Outcome) -> RollCall {
        let counted = Entry { status: Status::Counted { weight: Some(2) }, update: None };
        let excluded = Entry { status: Status::Excluded { code: Code::Idle }, update: None };
        RollCall {
            format: 1,
            study: "demo".parse().unwrap(),
            study_digest: Digest([1; 32]),
            round: Round(round),
            task: TaskKind::Train,
            base_version: Version(base),
            base: Digest([0; 32]),
            outcome,
            sites: [("a".parse().unwrap(), counted), ("b".parse().unwrap(), excluded)].into(),
            clipped: 1,
            metrics: [("total".to_owned(), 2), ("loss".to_owned(), 65_536)].into(),
            bytes_up: 10,
            bytes_down: 20,
            duration: Millis(30),
        }
    }

    fn committed(version: u64) -> Outcome {
        let (model, sum) = (Digest([9; 32]), Digest([8; 32]));
        let version = Version(version);
        Outcome::Committed { version, model, strategy_state: None, sum, weight: 2 }
    }

    #[test]
    fn a_round_scores_its_base_and_makes_the_next_version() {
        let mut summary = summary();
        summary.add(&call(1, 0, committed(1)), WallMillis(5));
        assert_eq!(summary.head(), Head { version: Version(1), model: Digest([9; 32]) });
        let first = summary.version(Version(0)).unwrap();
        assert_eq!((first.loss, first.accuracy), (Some(0.5), None));
        let made = summary.version(Version(1)).unwrap();
        assert_eq!((made.round, made.wall, made.loss), (Some(Round(1)), Some(WallMillis(5)), None));
        let round = summary.rounds().next().unwrap();
        assert_eq!((round.counted.len(), round.excluded.len()), (1, 1));
    }

    #[test]
    fn an_abandoned_round_scores_nothing() {
        let mut summary = summary();
        let reason = "too few".to_owned();
        summary.add(&call(1, 0, Outcome::Abandoned { reason }), WallMillis(5));
        assert_eq!(summary.version(Version(0)).unwrap().loss, None);
        assert_eq!(summary.head().version, Version(0));
        assert_eq!(summary.rounds().next().unwrap().outcome, "abandoned");
    }

    #[test]
    fn a_round_that_counts_scores_nothing_and_makes_no_version() {
        let mut summary = summary();
        let (preparation, sum) = (Digest([7; 32]), Digest([8; 32]));
        let prepared = Outcome::Prepared { preparation, sum };
        let call = RollCall { task: TaskKind::Prepare, ..call(1, 0, prepared) };
        summary.add(&call, WallMillis(5));
        assert_eq!(summary.version(Version(0)).unwrap().loss, None);
        assert_eq!(summary.head().version, Version(0));
        let round = summary.rounds().next().unwrap();
        assert_eq!((round.outcome.as_str(), round.task), ("prepared", TaskKind::Prepare));
    }

    #[test]
    fn memory_is_bounded_however_long_a_study_runs() {
        let mut summary = summary();
        let many = VERSIONS_SHOWN_MAX as u64 + 10;
        for version in 1..=many {
            summary.add(&call(version, version - 1, committed(version)), WallMillis(0));
        }
        assert_eq!(summary.versions().count(), VERSIONS_SHOWN_MAX);
        assert_eq!(summary.rounds().count(), ROUNDS_SHOWN_MAX);
        assert_eq!(summary.head().version, Version(many));
        assert!(summary.version(Version(0)).is_none());
    }
}
