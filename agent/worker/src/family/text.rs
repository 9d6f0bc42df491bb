//! `text-classifier`: documents with a label each, from a column of a table.

use std::collections::HashSet;

use consilium_common::ids::Digest;
use consilium_common::limits::DOCUMENTS_TOKENS_MAX;
use consilium_common::study::Repeats;
use consilium_common::study::buckets::Buckets;
use consilium_common::study::model::TextClassifier;
use consilium_common::study::tokens::{long_run, tokens};
use consilium_common::study::vocabulary::{Counts, PADDING, Vocabulary};
use consilium_common::worker::{FailureCode, Outcome};
use tch::{Device, Tensor};

use super::{Family, Job};
use crate::data::Role;
use crate::data::asked::Questions;
use crate::data::check::{Seen, enough, support};
use crate::data::contract::{Field, Repairs, Trouble, class};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::groups::shown;
use crate::data::rows::{Parsed, Rows, ask, read};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::text::Reader;
use crate::protocol::Link;

/// The family with its spec.
pub(super) struct Documents<'a>(pub(super) &'a TextClassifier);

/// One row.
struct Record {
    /// The bucket of each token; at least one.
    document: Vec<u32>,
    class: usize,
}

impl Documents<'_> {
    fn read(&self, job: &Job<'_>, link: &mut Link) -> Result<(Rows<Record>, Repairs), Failure> {
        let data = &job.study.data;
        let name = data.text.as_deref().unwrap_or_default();
        let buckets = Buckets::of(job.study);
        let drops = data.repeats == Some(Repeats::Drop);
        let mut before = HashSet::new();
        let mut repairs = Repairs::default();
        let rows = read(job, &[name, data.label.as_str()], link, |fields| {
            let &[text, label] = fields else {
                return Err(Trouble::Dropped);
            };
            if drops && !before.insert(Digest::of(text.text.as_bytes())) {
                repairs.note(name, "repeats another, the row left out");
                return Err(Trouble::Dropped);
            }
            let document = self.document((name, text), &buckets, &mut repairs)?;
            let class = class(data, label, &self.0.classes)?;
            Ok(Parsed { record: Record { document, class }, class: Some(class) })
        })?;
        Ok((rows, repairs))
    }

    /// The bucket of each token of a document in the column `name`.
    fn document(
        &self,
        (name, field): (&str, Field<'_>),
        buckets: &Buckets,
        repairs: &mut Repairs,
    ) -> Result<Vec<u32>, Trouble> {
        if long_run(field.text) {
            let why = "telling the words of a script without spaces apart is not built yet";
            return Err(Trouble::Unreadable(format!("the document {name:?}: {why}")));
        }
        let most = usize::try_from(self.0.tokens).unwrap_or(usize::MAX);
        let mut words = tokens(field.text).map(|token| buckets.bucket(&token));
        let document: Vec<u32> = words.by_ref().take(most).collect();
        if field.missing || document.is_empty() {
            return Err(Trouble::Unreadable(format!("the document {name:?} has no words")));
        }
        if words.next().is_some() {
            repairs.note(name, "longer than `model.tokens`, cut");
        }
        Ok(document)
    }

    /// The vocabulary that follows from what the sites counted.
    fn vocabulary(&self, job: &Job<'_>) -> Result<Vocabulary, Failure> {
        let mismatch = |message: &str| Failure::new(FailureCode::ModelMismatch, message);
        let told = || mismatch("the task names no preparation: the vocabulary is counted first");
        let preparation = job.preparation.ok_or_else(told)?;
        let support = job.study.data.site_support();
        let (sums, capacity) = (&preparation.sums, self.0.vocabulary);
        Vocabulary::of(sums, preparation.sites, support, capacity)
            .ok_or_else(|| mismatch("the preparation's sums cannot come from counting words"))
    }

    /// Ids and classes on the device.
    fn dataset(
        &self,
        records: &[Record],
        vocabulary: &Vocabulary,
        device: Device,
    ) -> Result<Dataset, Failure> {
        let ids = ids(records.iter().map(|record| &record.document), vocabulary, device)?;
        let classes: Vec<i64> =
            records.iter().filter_map(|record| i64::try_from(record.class).ok()).collect();
        Ok(Dataset::new(vec![ids], Tensor::f_from_slice(&classes)?.f_to_device(device)?))
    }
}

/// Ids on the device: i32, records × tokens of the longest, filled up with [`PADDING`].
fn ids<'d>(
    documents: impl ExactSizeIterator<Item = &'d Vec<u32>> + Clone,
    vocabulary: &Vocabulary,
    device: Device,
) -> Result<Tensor, Failure> {
    let width = documents.clone().map(Vec::len).max().unwrap_or(1);
    let all = width.saturating_mul(documents.len());
    if all > DOCUMENTS_TOKENS_MAX {
        let message = format!(
            "{} documents filled up to {width} tokens: at most {DOCUMENTS_TOKENS_MAX} are held, \
             take a part of the records",
            documents.len()
        );
        return Err(Failure::new(FailureCode::DataInvalid, message));
    }
    let mut ids = Vec::with_capacity(all);
    for document in documents {
        let rows = document.iter().map(|&bucket| vocabulary.row(bucket));
        let filled = rows.chain(std::iter::repeat(PADDING)).take(width);
        ids.extend(filled.map(u32::cast_signed));
    }
    let width = i64::try_from(width).unwrap_or(i64::MAX);
    Ok(Tensor::f_from_slice(&ids)?.f_view([-1, width])?.f_to_device(device)?)
}

impl Family for Documents<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let (rows, repairs) = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let mut findings = rows.findings;
        let of = |records: &[Record]| -> Vec<usize> {
            records.iter().map(|record| record.class).collect()
        };
        findings.extend(support(&self.0.classes, &of(&rows.train), &of(&rows.holdout)));
        findings.extend(repairs.findings("rows"));
        let mut seen = Seen::default();
        for (role, records) in [(Role::Train, &rows.train), (Role::Holdout, &rows.holdout)] {
            records.iter().for_each(|record| seen.note(role, &record.document));
        }
        findings.extend(seen.findings("documents"));
        let (examples, holdout) = (rows.train.len() as u64, rows.holdout.len() as u64);
        Ok(Outcome { examples, holdout, findings, ..Outcome::default() })
    }

    /// In how many documents to train on each bucket stands.
    fn prepare(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<i32>, Failure> {
        let (rows, _) = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let mut counts = Counts::default();
        rows.train.iter().for_each(|record| counts.add(&record.document));
        Ok(counts.units())
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let vocabulary = self.vocabulary(job)?;
        let (rows, _) = self.read(job, link)?;
        if with_train {
            enough(job.study, rows.train.len())?;
        }
        let dataset = |records: &[Record]| self.dataset(records, &vocabulary, job.device);
        let train = with_train.then(|| dataset(&rows.train)).transpose()?;
        let apart = shown(job.study, rows.members.iter());
        Ok(Loaded { train, holdout: dataset(&rows.holdout)?.grouped(apart) })
    }

    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure> {
        let vocabulary = self.vocabulary(job)?;
        let name = job.study.data.text.as_deref().unwrap_or_default();
        let (buckets, mut repairs) = (Buckets::of(job.study), Repairs::default());
        let asked = ask(job, &[name], link, |fields| {
            let field = fields.first().copied().ok_or(Trouble::Dropped)?;
            self.document((name, field), &buckets, &mut repairs)
        })?;
        let dataset = |documents: Vec<Vec<u32>>| {
            let ids = ids(documents.iter(), &vocabulary, job.device)?;
            Ok::<_, Failure>(Dataset::unlabelled(vec![ids])?)
        };
        asked.map(dataset)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        let vocabulary = self.vocabulary(job)?;
        Ok(Box::new(Reader::new(self.0, vocabulary.weights(), job.device)?))
    }
}
