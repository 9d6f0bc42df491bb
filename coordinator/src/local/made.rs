//! A consortium's history, made as a coordinator would write it, with sites that deliver at once: for
//! measurements and tests of audits. No process runs and nothing waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use consilium_certs::consortium::Consortium;
use consilium_certs::roster::Roster;
use consilium_common::audit::record::{
    Completion, PlanMade, ReceiptGiven, RosterSet, RoundEnded, StudyStateSet, StudySubmitted,
    TrainingBegun,
};
use consilium_common::audit::tree::{Tree, leaf_hash};
use consilium_common::audit::{Checkpoint, Entry, Outcome, Receipt, Record, RollCall, Status};
use consilium_common::ids::{Digest, Round, SiteId, Version};
use consilium_common::random::Generator;
use consilium_common::signed::{SecretKey, Signed};
use consilium_common::study::Study;
use consilium_common::time::{Millis, WallMillis};
use consilium_common::update::sections::{Header, encode_update};
use consilium_common::update::words::{Metrics, Schema, Words};
use consilium_common::wire::messages::{RunState, TaskKind};
use consilium_io::disk::log::{file_header, framed};
use consilium_io::disk::{Blobs, Durability};

use crate::audit::Kept;
use crate::compute::Compute;
use crate::round::{Aggregated, Shape};
use crate::stage::Stage;
use crate::store::files::Files;

/// Whose history it is.
const CONSORTIUM: &str = "made";
/// The study's name.
pub const STUDY: &str = "made";
/// The first record's time; each is a second after the one before.
const BEGUN: WallMillis = WallMillis(1_764_000_000_000);

/// What is made.
#[derive(Debug, Clone, Copy)]
pub struct Script {
    /// Sites, all of which count in each round.
    pub sites: u32,
    /// Versions; the last one is scored by a round more.
    pub rounds: u64,
    /// Parameters of the synthetic model.
    pub parameters: u32,
}

/// Why a history was not made.
#[derive(Debug, thiserror::Error)]
#[error("the history cannot be made: {0}")]
pub struct MadeError(String);

fn failed(error: impl std::fmt::Display) -> MadeError {
    MadeError(error.to_string())
}

/// A history, with the keys of those who signed it.
#[derive(Debug, Clone)]
pub struct Made {
    /// What its auditors pin.
    pub pinned: Consortium,
    /// The coordinator's.
    pub log_key: SecretKey,
    /// The one operator's.
    pub operator_key: SecretKey,
    /// In order.
    pub records: Vec<Record>,
}

impl Made {
    /// Makes the history. With `kept` its models and updates are real and lie there, so that each round can
    /// be recomputed; without, their digests name nothing.
    ///
    /// # Errors
    /// A script out of range, or the disk refused.
    pub fn new(script: &Script, kept: Option<&Kept>) -> Result<Self, MadeError> {
        let (log_key, operator_key) =
            (SecretKey::from_seed(&[1; 32]), SecretKey::from_seed(&[2; 32]));
        let (name, operator) =
            (CONSORTIUM.parse().map_err(failed)?, "ada".parse().map_err(failed)?);
        let pinned = Consortium::new(name, log_key.public(), 1)
            .and_then(|new| new.with_operator(&operator, operator_key.public()))
            .map_err(failed)?;
        let made = Self { pinned, log_key, operator_key, records: Vec::new() };
        let mut making = Making::new(script, kept, made)?;
        for _ in 0..script.rounds {
            making.round(TaskKind::Train)?;
        }
        making.round(TaskKind::Evaluate)?;
        making.state(RunState::Complete, "coordinator", Some(Completion::Rounds));
        Ok(making.made)
    }

    /// The log's bytes.
    ///
    /// # Errors
    /// A record over its limit.
    pub fn log(&self) -> Result<Vec<u8>, MadeError> {
        log_of(&self.records)
    }

    /// The signed checkpoint's file over all records.
    ///
    /// # Errors
    /// A record over its limit.
    pub fn checkpoint(&self) -> Result<Vec<u8>, MadeError> {
        self.checkpoint_over(&self.records)
    }

    /// The same over other records, signed by the coordinator all the same.
    ///
    /// # Errors
    /// A record over its limit.
    pub fn checkpoint_over(&self, records: &[Record]) -> Result<Vec<u8>, MadeError> {
        let mut tree = Tree::new();
        for record in records {
            tree.push(leaf_hash(record.kind(), &record.payload().map_err(failed)?));
        }
        let head = Checkpoint::of(self.pinned.name.as_str(), &tree);
        let signed = Signed::sign(head.to_bytes(), &self.log_key);
        Checkpoint::to_file(&signed).map_err(failed)
    }
}

/// The bytes of a log of these records.
///
/// # Errors
/// A record over its limit.
pub fn log_of(records: &[Record]) -> Result<Vec<u8>, MadeError> {
    let mut bytes = file_header();
    for (record, second) in records.iter().zip(0..) {
        let wall = WallMillis(BEGUN.0 + 1000 * second);
        let payload = record.payload().map_err(failed)?;
        let frame = framed(record.kind(), wall, &payload);
        bytes.extend(frame.ok_or_else(|| failed("a record is over its limit"))?);
    }
    Ok(bytes)
}

/// A history in the making.
struct Making {
    made: Made,
    study: Study,
    digest: Digest,
    shape: Shape,
    schema: Schema,
    sites: Vec<SiteId>,
    head: (Version, Digest),
    round: Round,
    kept: Option<Workshop>,
    random: Generator,
}

/// Where real models are made.
struct Workshop {
    updates: Blobs,
    compute: Compute,
}

impl Making {
    fn new(script: &Script, kept: Option<&Kept>, made: Made) -> Result<Self, MadeError> {
        let Script { sites, rounds, parameters } = script;
        let draft = format!(
            "[study]\nname = \"{STUDY}\"\n[model]\nfamily = \"synthetic\"\nparameters = {parameters}\n\
             [training]\nrounds = {rounds}\n[aggregation]\nclip_norm = 10.0\n[cohort]\nmin_sites = {sites}\n\
             max_examples = 1000\n[privacy]\nmode = \"inspectable\"\n"
        );
        let study = Study::read(&draft, STUDY).and_then(Study::resolve).map_err(failed)?;
        let (layout, schema) = (study.layout().map_err(failed)?, Schema::of(&study));
        let shape = Shape::of(&study, &layout, &schema);
        let initial = study.initial_model().map_err(failed)?;
        let head = (Version(0), Digest::of(&initial));
        let name = |n| format!("site-{n}").parse::<SiteId>().map_err(failed);
        let sites = (0..*sites).map(name).collect::<Result<Vec<_>, _>>()?;
        let text = study.to_text().map_err(failed)?.into_bytes();
        let signed = Signed::<Study>::sign(text, &made.operator_key);
        let kept = kept.map(|kept| Workshop::open(kept, &study, &initial)).transpose()?;
        let random = Generator::new("made history", b"units");
        let (digest, round) = (signed.digest(), Round(0));
        let mut making =
            Self { made, study, digest, shape, schema, sites, head, round, kept, random };
        making.roster()?;
        let by = "operator/ada".to_owned();
        making.add(Record::StudySubmitted(StudySubmitted { signed, by }));
        making.state(RunState::Running, "operator/ada", None);
        Ok(making)
    }

    fn add(&mut self, record: Record) {
        self.made.records.push(record);
    }

    fn roster(&mut self) -> Result<(), MadeError> {
        let mut roster = Roster::new(self.made.pinned.name.clone());
        for (site, n) in self.sites.iter().zip(0_u32..) {
            let key = SecretKey::from_seed(&Digest::of(&n.to_le_bytes()).0).public();
            roster = roster.with_site(site, key).map_err(failed)?;
        }
        let text = roster.to_toml().map_err(failed)?;
        let Signed { bytes, signatures, .. } =
            Signed::<Roster>::sign(text, &self.made.operator_key);
        self.add(Record::Roster(RosterSet { bytes, signatures }));
        Ok(())
    }

    fn state(&mut self, state: RunState, by: &str, completion: Option<Completion>) {
        let (study, by) = (self.study.id().clone(), by.to_owned());
        self.add(Record::StudyState(StudyStateSet { study, state, by, completion }));
    }

    fn round(&mut self, task: TaskKind) -> Result<(), MadeError> {
        self.round = self.round.next();
        let plan = PlanMade {
            study: self.study.id().clone(),
            study_digest: self.digest,
            round: self.round,
            task,
            base_version: self.head.0,
            base: self.head.1,
            preparation: None,
            control: None,
            invited: self.sites.clone(),
            remaining: self.study.cohort.deadline,
        };
        self.add(Record::Plan(plan.clone()));
        self.add(Record::Training(TrainingBegun {
            study: plan.study.clone(),
            round: plan.round,
            accepted: plan.invited.clone(),
            excluded: Vec::new(),
            remaining: plan.remaining,
        }));
        let (mut words, mut entries) = (Words::default(), BTreeMap::new());
        for (site, weight) in plan.invited.iter().zip(100..) {
            let own =
                Words { weight, clipped: 0, metrics: Metrics(vec![10; self.schema.names().len()]) };
            let update = self.deliver(&plan, &own)?;
            self.receipt(&plan, site, update)?;
            words = words.checked_add(&own).ok_or_else(|| failed("sums overflow"))?;
            let status = Status::Counted { weight: Some(weight) };
            entries.insert(site.clone(), Entry { status, update: Some(update) });
        }
        let outcome = self.outcome(&plan, words.weight)?;
        self.roll_call(&plan, outcome, entries, &words)
    }

    /// A site's update: its digest, and its bytes if they are kept.
    fn deliver(&mut self, plan: &PlanMade, words: &Words) -> Result<Digest, MadeError> {
        let rules = self.shape.rules(plan);
        let mut unit = || i32::from_le_bytes(self.random.next_u32().to_le_bytes()) >> 12;
        let units: Vec<i32> = (0..rules.shared_len).map(|_| unit()).collect();
        let header = Header {
            round: plan.round,
            step_exponent: rules.step_exponent,
            study: plan.study_digest,
            base: plan.base,
            layout: rules.layout,
            shared_len: rules.shared_len,
            control: None,
            words_len: rules.words_len,
        };
        let bytes = encode_update(&header, &units, &self.schema.encode(words));
        let Some(kept) = &self.kept else {
            return Ok(Digest::of(&bytes));
        };
        let update = kept.updates.put_bytes(&bytes, Durability::Cache).map_err(failed)?;
        if plan.task == TaskKind::Train {
            let added = kept.compute.add(update, words.weight, rules.coordinates());
            added.map_err(|fault| failed(fault.detail))?;
        }
        Ok(update)
    }

    fn receipt(&mut self, plan: &PlanMade, site: &SiteId, update: Digest) -> Result<(), MadeError> {
        let receipt = Receipt {
            format: 1,
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            site: site.clone(),
            update,
            bytes: self.shape.rules(plan).update_bytes_len(),
        };
        let signed = Signed::sign(receipt.to_bytes().map_err(failed)?, &self.made.log_key);
        self.add(Record::Receipt(ReceiptGiven { signed }));
        Ok(())
    }

    fn outcome(&mut self, plan: &PlanMade, weight: u64) -> Result<Outcome, MadeError> {
        if plan.task == TaskKind::Evaluate {
            return Ok(Outcome::Evaluated { weight });
        }
        let made = match &self.kept {
            Some(kept) => {
                let scale = (weight, self.shape.step_exponent());
                let made = kept.compute.aggregate(plan.base, None, scale, None);
                kept.compute.forget();
                made.map_err(|fault| failed(fault.detail))?
            }
            None => {
                let named = |what: &str| Digest::of(format!("{what} {}", plan.round).as_bytes());
                Aggregated { model: named("model"), strategy_state: None, sum: named("sum") }
            }
        };
        let Aggregated { model, strategy_state, sum } = made;
        self.head = (plan.base_version.next(), model);
        Ok(Outcome::Committed { version: self.head.0, model, strategy_state, sum, weight })
    }

    fn roll_call(
        &mut self,
        plan: &PlanMade,
        outcome: Outcome,
        sites: BTreeMap<SiteId, Entry>,
        words: &Words,
    ) -> Result<(), MadeError> {
        let names = self.schema.names().iter().cloned();
        let call = RollCall {
            format: 1,
            study: plan.study.clone(),
            study_digest: plan.study_digest,
            round: plan.round,
            task: plan.task,
            base_version: plan.base_version,
            base: plan.base,
            outcome,
            sites,
            clipped: words.clipped,
            metrics: names.zip(words.metrics.0.iter().copied()).collect(),
            bytes_up: 0,
            bytes_down: 0,
            duration: Millis(1_500),
        };
        let signed = Signed::sign(call.to_bytes().map_err(failed)?, &self.made.log_key);
        self.add(Record::RollCall(RoundEnded { signed }));
        Ok(())
    }
}

impl Workshop {
    fn open(kept: &Kept, study: &Study, initial: &[u8]) -> Result<Self, MadeError> {
        let updates = Blobs::open(&kept.updates).map_err(failed)?;
        let models = Blobs::open(&kept.blobs).map_err(failed)?;
        models.put_bytes(initial, Durability::Cache).map_err(failed)?;
        let stage = Arc::new(Stage::look_at(&kept.updates));
        let blobs = Arc::new(Files::look_at(&kept.blobs));
        let compute = Compute::new(study, blobs, stage, None).map_err(failed)?;
        Ok(Self { updates, compute })
    }
}
