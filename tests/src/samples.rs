//! One sample of every message and record, with every field filled in, for goldens and fuzzing.

use std::collections::BTreeMap;

use consilium_common::audit::withdrawal::{Remedy, ranges_of};
use consilium_common::audit::{
    Checkpoint, Entry, Outcome, Receipt as ReceiptDocument, Record, RollCall as RollCallDocument,
    Status, record,
};
use consilium_common::ids::{Digest, IdError, OperatorId, Round, SiteId, StudyId, Version};
use consilium_common::signed::{SecretKey, Signature, Signed};
use consilium_common::time::{Millis, WallMillis};
use consilium_common::wire::messages as m;
use consilium_common::wire::messages::Message;
use consilium_common::wire::reject::Code;

/// The samples; made once so that names need parsing only here.
#[derive(Debug, Clone)]
pub struct Samples {
    study: StudyId,
    sites: [SiteId; 2],
    researcher: OperatorId,
    key: SecretKey,
}

fn digest(n: u8) -> Digest {
    Digest([n; 32])
}

const ROUND: Round = Round(300);

impl Samples {
    /// Samples of a fixed study, two sites and one key.
    ///
    /// # Errors
    /// None in fact: the names are valid.
    pub fn new() -> Result<Self, IdError> {
        Ok(Self {
            study: "mnist".parse()?,
            sites: ["st-mary".parse()?, "charite".parse()?],
            researcher: "rosa".parse()?,
            key: SecretKey::from_seed(&[7; 32]),
        })
    }

    fn signature(&self) -> Signature {
        self.key.sign("consilium/study/1", b"bytes")
    }

    fn head(&self) -> m::LogHead {
        let checkpoint = Checkpoint { origin: "thorax".to_owned(), size: 301, root: [5; 32] };
        let signed = Signed::sign(checkpoint.to_bytes(), &self.key);
        m::LogHead { signed, proof: vec![[6; 32], [7; 32]] }
    }

    /// A receipt.
    #[must_use]
    pub fn receipt(&self) -> ReceiptDocument {
        ReceiptDocument {
            format: 1,
            study: self.study.clone(),
            study_digest: digest(1),
            round: ROUND,
            site: self.sites[0].clone(),
            update: digest(4),
            bytes: 4_152,
        }
    }

    /// A roll call in which one site counted and one did not.
    #[must_use]
    pub fn roll_call(&self) -> RollCallDocument {
        let counted =
            Entry { status: Status::Counted { weight: Some(15_000) }, update: Some(digest(4)) };
        let excluded = Entry { status: Status::Excluded { code: Code::Idle }, update: None };
        let [first, second] = self.sites.clone();
        RollCallDocument {
            format: 1,
            study: self.study.clone(),
            study_digest: digest(1),
            round: ROUND,
            task: m::TaskKind::Train,
            base_version: Version(2),
            base: digest(2),
            outcome: Outcome::Committed {
                version: Version(3),
                model: digest(5),
                strategy_state: Some(digest(8)),
                sum: digest(6),
                weight: 15_000,
            },
            sites: BTreeMap::from([(first, counted), (second, excluded)]),
            clipped: 1,
            metrics: BTreeMap::from([("correct".to_owned(), 9_850), ("total".to_owned(), 10_000)]),
            bytes_up: 4_152,
            bytes_down: 8_098,
            duration: Millis(1_500),
        }
    }

    fn signed_receipt(&self) -> Signed<ReceiptDocument> {
        Signed::sign(serde_json::to_vec(&self.receipt()).unwrap_or_default(), &self.key)
    }

    fn signed_roll_call(&self) -> Signed<RollCallDocument> {
        Signed::sign(self.roll_call().to_bytes().unwrap_or_default(), &self.key)
    }

    fn withdrawn(&self) -> record::Withdrawn {
        record::Withdrawn {
            site: self.sites[0].clone(),
            id: digest(9),
            study: self.study.clone(),
            versions: ranges_of([2, 3, 7].map(Version)),
            remedy: Remedy::Retrain,
        }
    }

    fn proposed(&self) -> record::Proposed {
        record::Proposed {
            by: self.researcher.clone(),
            study: self.study.clone(),
            version: 2,
            text: b"format = 1".to_vec(),
            at: WallMillis(1_795_000_000_000),
        }
    }

    fn plan(&self) -> m::Plan {
        m::Plan {
            study: self.study.clone(),
            study_digest: digest(1),
            round: ROUND,
            task: m::TaskKind::Evaluate,
            base_version: Version(2),
            base: digest(2),
            base_bytes: 4_049,
            preparation: Some(m::NamedBlob { digest: digest(3), bytes: 99 }),
            control: Some(m::ControlPlan {
                common: Some(m::NamedBlob { digest: digest(8), bytes: 72 }),
                own: Some(Round(2)),
            }),
            remaining: Millis(7_200_000),
        }
    }

    /// What agents send.
    #[must_use]
    pub fn from_agent(&self) -> Vec<Message> {
        let study = || self.study.clone();
        let declined =
            m::Answer::Declined { code: Code::OutsideHours, retry_after: Some(Millis(60_000)) };
        let round = ROUND;
        vec![
            m::Hello {
                agent: "consilium-agent 0.1.0".to_owned(),
                wall: WallMillis(1_795_000_000_000),
                accepted: vec![digest(1)],
                witnessed: 300,
            }
            .into(),
            m::StudyAnswer { digest: digest(1), answer: m::Answer::Accepted }.into(),
            m::PlanAnswer { study: study(), round, answer: declined }.into(),
            m::Progress {
                study: study(),
                round,
                phase: m::SitePhase::Training,
                done: 9,
                total: 470,
            }
            .into(),
            m::UpdateOffer { study: study(), round, digest: digest(4), bytes: 4_152 }.into(),
            m::TaskFailed { study: study(), round, code: Code::WorkerFailed }.into(),
            m::HeadWanted { witnessed: 300 }.into(),
            m::PublishedHours { hours: m::Published::Daily("20:00-06:00 Europe/Berlin".into()) }
                .into(),
            m::Withdrawal {
                id: digest(9),
                study: study(),
                versions: self.withdrawn().versions,
                remedy: Remedy::Retrain,
            }
            .into(),
        ]
    }

    /// What coordinators send, and both.
    #[must_use]
    pub fn from_coordinator(&self) -> Vec<Message> {
        let (study, round) = (|| self.study.clone(), ROUND);
        let (wall, detail) = (WallMillis(1_795_000_000_000), "in a sentence".to_owned());
        let offer = m::StudyOffer {
            study: study(),
            version: 1,
            digest: digest(1),
            bytes: 900,
            signatures: vec![self.signature()],
        };
        let refused = m::UpdateRefused {
            study: study(),
            round,
            digest: digest(4),
            code: Code::NormTooLarge,
            detail: detail.clone(),
        };
        vec![
            m::Welcome { coordinator: "consilium 0.1.0".to_owned(), wall, head: self.head() }
                .into(),
            m::Refused {
                code: Code::Quarantined,
                detail: detail.clone(),
                retry_after: Some(Millis(10_000)),
            }
            .into(),
            offer.into(),
            m::StudyState { study: study(), state: m::RunState::Paused }.into(),
            self.plan().into(),
            m::UpdateWanted { study: study(), round, digest: digest(4) }.into(),
            refused.into(),
            m::Receipt { signed: self.signed_receipt() }.into(),
            m::RollCall { signed: self.signed_roll_call() }.into(),
            self.head().into(),
            m::RosterOffer { bytes: b"version = 2".to_vec(), signatures: vec![self.signature()] }
                .into(),
            m::RenewCertificate { until: wall }.into(),
            m::WithdrawalKept { id: digest(9) }.into(),
            m::Heartbeat { wall }.into(),
            m::Refusal { kind: 5, code: Code::Unexpected, detail }.into(),
        ]
    }

    /// Every kind of log record.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let (study, round) = (|| self.study.clone(), ROUND);
        let signed = Signed::from_parts(b"format = 1".to_vec(), vec![self.signature()]);
        let text = |text: &str| text.to_owned();
        vec![
            Record::Roster(record::RosterSet {
                bytes: b"version = 1".to_vec(),
                signatures: vec![self.signature()],
            }),
            Record::StudySubmitted(record::StudySubmitted { signed, by: text("operator/ada") }),
            Record::StudyState(record::StudyStateSet {
                study: study(),
                state: m::RunState::Running,
                by: text("operator/ada"),
                completion: None,
            }),
            Record::Plan(record::PlanMade {
                study: study(),
                study_digest: digest(1),
                round,
                task: m::TaskKind::Train,
                base_version: Version(2),
                base: digest(2),
                preparation: Some(digest(3)),
                control: Some(digest(8)),
                invited: self.sites.to_vec(),
                remaining: Millis(7_200_000),
            }),
            Record::Training(record::TrainingBegun {
                study: study(),
                round,
                accepted: self.sites.to_vec(),
                excluded: self.sites.iter().map(|site| (site.clone(), Code::Policy)).collect(),
                remaining: Millis(7_100_000),
            }),
            Record::Receipt(record::ReceiptGiven { signed: self.signed_receipt() }),
            Record::RollCall(record::RoundEnded { signed: self.signed_roll_call() }),
            Record::Command(record::Command {
                by: text("operator/ada"),
                command: text("study start mnist"),
                outcome: text("done"),
            }),
            Record::Refusal(record::Refusal {
                peer: text("site/st-mary"),
                code: text("norm-too-large"),
                detail: text("in a sentence"),
            }),
            Record::Withdrawal(self.withdrawn()),
            Record::Retrained(record::Retrained {
                study: study(),
                from: Version(3),
                version: Version(9),
                model: digest(6),
                by: text("ada"),
            }),
            Record::Proposal(self.proposed()),
        ]
    }
}
