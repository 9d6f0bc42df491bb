//! `text-classifier`: documents with a label each, from a column of a table or a file each.

use std::collections::HashSet;

use consilium_common::ids::Digest;
use consilium_common::limits::DOCUMENTS_TOKENS_MAX;
use consilium_common::study::Repeats;
use consilium_common::study::buckets::Buckets;
use consilium_common::study::model::TextClassifier;
use consilium_common::study::model::text::Encoder;
use consilium_common::study::segments::Document;
use consilium_common::study::vocabulary::{Counts, PADDING, Vocabulary};
use consilium_common::worker::{FailureCode, Outcome};
use tch::{Device, Tensor};

use super::{Family, Job};
use crate::data::Role;
use crate::data::asked::Questions;
use crate::data::check::{Seen, enough, support};
use crate::data::contract::{Field, Labelled, Repairs, Trouble};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::documents::{ask, read};
use crate::data::groups::shown;
use crate::data::label::Label;
use crate::data::rows::{Parsed, Rows};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::text::{self, Reader};
use crate::protocol::Link;

/// The family with its spec.
pub(super) struct Documents<'a>(pub(super) &'a TextClassifier);

/// One row.
struct Record {
    /// At least one word.
    document: Document,
    label: Label,
}

impl Documents<'_> {
    fn read(&self, job: &Job<'_>, link: &mut Link) -> Result<(Rows<Record>, Repairs), Failure> {
        let data = &job.study.data;
        let name = data.text.as_deref().unwrap_or_default();
        let buckets = Buckets::of(job.study);
        let drops = data.repeats == Some(Repeats::Drop);
        let (labelled, mut repairs) = (Labelled::of(job.study, job.source), Repairs::default());
        let mut before = HashSet::new();
        let rows = read(job, link, &mut |text, label| {
            if drops && !before.insert(Digest::of(text.text.as_bytes())) {
                repairs.note(name, "repeats another, the row left out");
                return Err(Trouble::Dropped);
            }
            let document = self.document((name, text), &buckets, &mut repairs)?;
            let label = labelled.read(label)?;
            let key = label.key(labelled.classes.len());
            Ok(Parsed { record: Record { document, label }, class: key })
        })?;
        Ok((rows, repairs))
    }

    /// The document in the column `name`, which has words.
    fn document(
        &self,
        (name, field): (&str, Field<'_>),
        buckets: &Buckets,
        repairs: &mut Repairs,
    ) -> Result<Document, Trouble> {
        let most = usize::try_from(self.0.tokens).unwrap_or(usize::MAX);
        let (document, is_cut) = Document::of(field.text, buckets, most);
        if field.missing || document.is_empty() {
            return Err(Trouble::Unreadable(format!("the document {name:?} has no words")));
        }
        if is_cut {
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
        let ((sums, _), capacity) = (preparation.parts(job.study), self.0.vocabulary);
        Vocabulary::of(sums, preparation.sites, support, capacity)
            .ok_or_else(|| mismatch("the preparation's sums cannot come from counting words"))
    }

    /// Ids and what goes with them ([`inputs`]), and labels, on the device.
    fn dataset(
        &self,
        records: &[Record],
        vocabulary: &Vocabulary,
        device: Device,
    ) -> Result<Dataset, Failure> {
        let inputs =
            self.inputs(records.iter().map(|record| &record.document), vocabulary, device)?;
        let labels = Label::tensor(labels(records), self.0.classes.len())?;
        Ok(Dataset::new(inputs, labels.f_to_device(device)?))
    }

    /// On the device, records × tokens of the longest: ids (i32), filled up with [`PADDING`]; for `tfidf`
    /// the share of each ([`text::shares`], f32) too.
    fn inputs<'d>(
        &self,
        documents: impl Iterator<Item = &'d Document>,
        vocabulary: &Vocabulary,
        device: Device,
    ) -> Result<Vec<Tensor>, Failure> {
        let documents: Vec<Vec<u32>> =
            documents.map(|document| document.rows(vocabulary)).collect();
        let width = documents.iter().map(Vec::len).max().unwrap_or(1);
        let all = width.saturating_mul(documents.len());
        if all > DOCUMENTS_TOKENS_MAX {
            let message = format!(
                "{} documents filled up to {width} tokens: at most {DOCUMENTS_TOKENS_MAX} are held, \
                 take a part of the records",
                documents.len()
            );
            return Err(Failure::new(FailureCode::DataInvalid, message));
        }
        let (mut ids, mut shares) = (Vec::with_capacity(all), Vec::new());
        if self.0.encoder == Encoder::Tfidf {
            for rows in &documents {
                let known = text::shares(rows, vocabulary.weights());
                shares.extend(known.into_iter().chain(std::iter::repeat(0.0)).take(width));
            }
        }
        for rows in documents {
            let filled = rows.into_iter().chain(std::iter::repeat(PADDING)).take(width);
            ids.extend(filled.map(u32::cast_signed));
        }
        let width = i64::try_from(width).unwrap_or(i64::MAX);
        let put = |rows: Tensor| rows.f_view([-1, width])?.f_to_device(device);
        let mut inputs = vec![put(Tensor::f_from_slice(&ids)?)?];
        if !shares.is_empty() {
            inputs.push(put(Tensor::f_from_slice(&shares)?)?);
        }
        Ok(inputs)
    }
}

fn labels(records: &[Record]) -> impl Iterator<Item = Label> + Clone {
    records.iter().map(|record| record.label)
}

impl Family for Documents<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let (rows, repairs) = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let mut findings = rows.findings;
        findings.extend(support(&self.0.classes, labels(&rows.train), labels(&rows.holdout)));
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

    fn labels(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<Label>, Failure> {
        Ok(labels(&self.read(job, link)?.0.train).collect())
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
        let asked = ask(job, link, |field| self.document((name, field), &buckets, &mut repairs))?;
        let dataset = |documents: Vec<Document>| {
            let inputs = self.inputs(documents.iter(), &vocabulary, job.device)?;
            Ok::<_, Failure>(Dataset::unlabelled(inputs)?)
        };
        asked.map(dataset)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        let vocabulary = self.vocabulary(job)?;
        Ok(Box::new(Reader::new(self.0, vocabulary.weights(), job.device)?))
    }
}
