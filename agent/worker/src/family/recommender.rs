//! `recommender`: rows of user and item, with a rating to predict or as a choice to rank.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use consilium_common::random::Generator;
use consilium_common::study::buckets::Buckets;
use consilium_common::study::catalogue::{Catalogue, Counts, UNKNOWN};
use consilium_common::study::model::Recommender;
use consilium_common::study::model::recommender::{ITEM, RATING, TIME, USER};
use consilium_common::study::{Column, Objective, Study};
use consilium_common::worker::{FailureCode, Holdout, Outcome};
use tch::nn::VarStore;
use tch::{Device, TchError, Tensor};

use super::{Family, Job};
use crate::data::Role;
use crate::data::asked::Questions;
use crate::data::check::{Seen, enough};
use crate::data::contract::{Field, Repairs, Trouble, push_inputs};
use crate::data::dataset::{Dataset, Loaded};
use crate::data::groups::{Member, shown};
use crate::data::rows::{Parsed, Rows, ask, read_of_users};
use crate::data::users::{Of, moment};
use crate::failure::Failure;
use crate::model::Network;
use crate::model::recommender::{Factors, Ratings};
use crate::model::users::{UserId, Users};
use crate::protocol::Link;

/// Items that a held-out choice is ranked against, as He et al. 2017 (section 4.1) do.
const OTHERS: usize = 99;

/// The family with its spec, and what its records said of users and items.
pub(super) struct Choices<'a> {
    spec: &'a Recommender,
    loaded: OnceCell<(Users, Catalogue)>,
}

/// One row.
struct Record {
    of: Of,
    bucket: u32,
    /// The share of its range; 0 for `rank`.
    rating: f32,
}

/// A site's records, and its users in the order of [`Of::user`].
struct Read {
    rows: Rows<Record>,
    users: Vec<UserId>,
    repairs: Repairs,
}

impl<'a> Choices<'a> {
    pub(super) fn new(spec: &'a Recommender) -> Self {
        Self { spec, loaded: OnceCell::new() }
    }

    fn read(&self, job: &Job<'_>, link: &mut Link) -> Result<Read, Failure> {
        let rating = job.study.data.columns.iter().find(|column| column.name == RATING);
        let by_time = matches!(job.source.holdout, Holdout::OfUser(_));
        let names = [Some(USER), Some(ITEM), rating.map(|_| RATING), by_time.then_some(TIME)];
        let names: Vec<&str> = names.into_iter().flatten().collect();
        let mut reader = Reader::new(job.study, rating, by_time);
        let parse = |fields: &[Field<'_>]| {
            reader.record(fields).map(|record| Parsed { record, class: None })
        };
        let rows = read_of_users(job, &names, link, parse, |record| Some(record.of))?;
        Ok(Read { rows, users: reader.users, repairs: reader.repairs })
    }

    fn counts(records: &[Record]) -> Counts {
        let mut counts = Counts::default();
        for records in by_user(records).values() {
            let buckets: Vec<u32> = records.iter().map(|record| record.bucket).collect();
            counts.add(&buckets, records.iter().map(|record| f64::from(record.rating)));
        }
        counts
    }

    fn catalogue(&self, job: &Job<'_>) -> Result<Catalogue, Failure> {
        let Some(preparation) = job.preparation else {
            let message = "the task brings no preparation: daemon and worker do not fit together";
            return Err(Failure::new(FailureCode::ModelMismatch, message));
        };
        let (sums, sites) = (&preparation.sums, preparation.sites);
        let Some(catalogue) = Catalogue::of(job.study, sums, sites, self.spec.items) else {
            let message = "the preparation's sums cannot come from counting items";
            return Err(Failure::new(FailureCode::ModelMismatch, message));
        };
        if catalogue.is_empty() {
            let message = "the preparation found no item that enough sites have \
                           (`data.min_site_support`): there is nothing to recommend";
            return Err(Failure::new(FailureCode::DataInvalid, message));
        }
        Ok(catalogue)
    }

    /// Those of whom the site has learnt something.
    fn users(&self, job: &Job<'_>) -> Result<Users, Failure> {
        let users = Users::new(job.study, self.spec.width(), self.spec.start_bound());
        match job.local {
            Some(path) => users.read(path),
            None => Ok(users),
        }
    }

    /// Smallest rating and the width of the range; nothing for `rank`.
    fn range(study: &Study) -> Option<(f64, f64)> {
        Recommender::rating_range(&study.data).map(|(min, max)| (min, max - min))
    }
}

impl Family for Choices<'_> {
    fn check(&self, job: &Job<'_>, link: &mut Link) -> Result<Outcome, Failure> {
        let Read { rows, users, repairs } = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        let (mut findings, mut seen) = (rows.findings, Seen::default());
        for (role, records) in [(Role::Train, &rows.train), (Role::Holdout, &rows.holdout)] {
            records.iter().for_each(|record| seen.note(role, (record.of.user, record.bucket)));
        }
        let of_site = |record: &Record| record.of.user;
        let mine: BTreeSet<u32> = rows.train.iter().chain(&rows.holdout).map(of_site).collect();
        let items: BTreeSet<u32> = rows.train.iter().map(|record| record.bucket).collect();
        findings.push(format!(
            "{} users (of {} in the file) and {} items to learn from",
            mine.len(),
            users.len(),
            items.len()
        ));
        findings.extend(repairs.findings("rows"));
        findings.extend(seen.findings("pairs of user and item"));
        let (examples, holdout) = (rows.train.len() as u64, rows.holdout.len() as u64);
        Ok(Outcome { examples, holdout, findings, ..Outcome::default() })
    }

    /// How many users met each bucket's items, and the moments of the ratings: over the rows to train on.
    fn prepare(&self, job: &Job<'_>, link: &mut Link) -> Result<Vec<i32>, Failure> {
        let Read { rows, .. } = self.read(job, link)?;
        enough(job.study, rows.train.len())?;
        Ok(Self::counts(&rows.train).units(self.spec.objective))
    }

    fn load(&self, job: &Job<'_>, with_train: bool, link: &mut Link) -> Result<Loaded, Failure> {
        let Read { rows, users: named, .. } = self.read(job, link)?;
        if with_train {
            enough(job.study, rows.train.len())?;
        }
        let catalogue = self.catalogue(job)?;
        let mut users = self.users(job)?;
        let mut numbers = BTreeMap::new();
        for user in rows.train.iter().chain(&rows.holdout).map(|record| record.of.user) {
            if let Some(id) = named.get(user as usize) {
                numbers.entry(user).or_insert_with(|| users.row(*id));
            }
        }
        users.hold_bound()?;
        let layer = Layer {
            range: Self::range(job.study).unwrap_or((0.0, 0.0)),
            rows: &numbers,
            catalogue: &catalogue,
            device: job.device,
        };
        let train = with_train.then(|| layer.dataset(&rows.train, None)).transpose()?;
        let holdout = match self.spec.objective {
            Objective::Rank => layer.ranked(&rows, &named, job.study)?,
            Objective::Regress | Objective::Classify | Objective::Multilabel => {
                let apart = shown(job.study, rows.members.iter());
                layer.dataset(&rows.holdout, None)?.grouped(apart)
            }
        };
        // A family loads once: the cell is empty.
        let _ = self.loaded.set((users, catalogue));
        Ok(Loaded { train, holdout })
    }

    /// Pairs of user and item. Of a user of whom nothing was learnt here all is 0: what remains is what
    /// everybody makes of the item.
    fn ask(&self, job: &Job<'_>, link: &mut Link) -> Result<Questions, Failure> {
        let mut reader = Reader::new(job.study, None, false);
        let asked = ask(job, &[USER, ITEM], link, |fields| reader.record(fields))?;
        let (catalogue, mut users) = (self.catalogue(job)?, self.users(job)?);
        let rows = (0..).zip(&reader.users).map(|(user, id)| (user, users.row_or_zeros(*id)));
        let (rows, range, device) = (rows.collect(), (0.0, 0.0), job.device);
        let layer = Layer { range, rows: &rows, catalogue: &catalogue, device };
        let asked = asked.map(|records| layer.dataset(&records, None))?;
        let _ = self.loaded.set((users, catalogue));
        Ok(asked)
    }

    fn network(&self, job: &Job<'_>) -> Result<Box<dyn Network>, Failure> {
        let Some((users, catalogue)) = self.loaded.get() else {
            let message = "the records were not loaded before their network was made";
            return Err(Failure::new(FailureCode::Internal, message));
        };
        let ratings = Self::range(job.study).map(|(min, width)| Ratings {
            mean: min + width * catalogue.mean(),
            min,
            max: min + width,
        });
        Ok(Box::new(Factors::new(self.spec, users, catalogue.len(), ratings, job.device)?))
    }

    /// The users' rows were read with the records.
    fn restore_local(&self, _state: &Path, _store: &VarStore) -> Result<(), Failure> {
        Ok(())
    }
}

/// From a row's fields to a record.
struct Reader<'a> {
    study: &'a Study,
    buckets: Buckets,
    rating: Option<&'a Column>,
    by_time: bool,
    known: BTreeMap<String, u32>,
    users: Vec<UserId>,
    repairs: Repairs,
}

impl<'a> Reader<'a> {
    fn new(study: &'a Study, rating: Option<&'a Column>, by_time: bool) -> Self {
        Self {
            study,
            buckets: Buckets::of(study),
            rating,
            by_time,
            known: BTreeMap::new(),
            users: Vec::new(),
            repairs: Repairs::default(),
        }
    }

    /// User, item, then rating and time where they are read.
    fn record(&mut self, fields: &[Field<'_>]) -> Result<Record, Trouble> {
        let [user, item, rest @ ..] = fields else {
            return Err(Trouble::Dropped);
        };
        for (field, name) in [(user, USER), (item, ITEM)] {
            if field.missing {
                return Err(Trouble::Unreadable(format!("column {name:?} is empty")));
            }
        }
        let (mut rest, mut share) = (rest.iter(), Vec::new());
        if let (Some(column), Some(field)) = (self.rating, self.rating.and_then(|_| rest.next())) {
            push_inputs(column, *field, &mut share, &mut self.repairs)?;
        }
        let at = match rest.next().filter(|_| self.by_time) {
            None => 0.0,
            Some(field) => moment(field.text, field.number).ok_or_else(|| {
                let need = "a number or a date such as 2019-03-01 08:30";
                Trouble::Unreadable(format!("column {TIME:?} holds no time ({need})"))
            })?,
        };
        let of = Of { user: self.number_of(user.text), at };
        let rating = share.first().copied().unwrap_or(0.0);
        Ok(Record { of, bucket: self.buckets.bucket(item.text), rating })
    }

    fn number_of(&mut self, user: &str) -> u32 {
        if let Some(number) = self.known.get(user) {
            return *number;
        }
        let number = u32::try_from(self.users.len()).unwrap_or(u32::MAX);
        self.known.insert(user.to_owned(), number);
        self.users.push(UserId::of(self.study, user));
        number
    }
}

fn by_user(records: &[Record]) -> BTreeMap<u32, Vec<&Record>> {
    let mut users: BTreeMap<u32, Vec<&Record>> = BTreeMap::new();
    for record in records {
        users.entry(record.of.user).or_default().push(record);
    }
    users
}

/// From records to rows of users and items on the device.
struct Layer<'a> {
    /// Smallest rating, and the width of the range.
    range: (f64, f64),
    /// The row of each user.
    rows: &'a BTreeMap<u32, i64>,
    catalogue: &'a Catalogue,
    device: Device,
}

impl Layer<'_> {
    /// `others` are rows of items that each record is ranked against.
    fn dataset<'r>(
        &self,
        records: impl IntoIterator<Item = &'r Record>,
        others: Option<&[i64]>,
    ) -> Result<Dataset, TchError> {
        let (mut users, mut items, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        for record in records {
            users.push(self.rows.get(&record.of.user).copied().unwrap_or(0));
            items.push(i64::from(self.catalogue.row(record.bucket)));
            #[expect(clippy::cast_possible_truncation, reason = "labels are f32 to the network")]
            labels.push((self.range.0 + self.range.1 * f64::from(record.rating)) as f32);
        }
        let put = |values: &[i64]| Tensor::f_from_slice(values)?.f_to_device(self.device);
        let mut inputs = vec![put(&users)?, put(&items)?];
        if let Some(others) = others {
            let width = i64::try_from(OTHERS).unwrap_or(i64::MAX);
            inputs.push(put(others)?.f_view([-1, width])?);
        }
        Ok(Dataset::new(inputs, Tensor::f_from_slice(&labels)?.f_to_device(self.device)?))
    }

    /// Each held-out choice with items of the catalogue that its user has not met, drawn by the study's
    /// seed and the user. Users who have met so many that too few are left are not scored.
    fn ranked(
        &self,
        rows: &Rows<Record>,
        named: &[UserId],
        study: &Study,
    ) -> Result<Dataset, Failure> {
        let mut met: BTreeMap<u32, BTreeSet<u32>> = BTreeMap::new();
        for record in rows.train.iter().chain(&rows.holdout) {
            let row = self.catalogue.row(record.bucket);
            met.entry(record.of.user).or_default().insert(row);
        }
        let (mut scored, mut members, mut others) = (Vec::new(), Vec::new(), Vec::new());
        let mut held: BTreeMap<u32, Vec<(&Record, &Member)>> = BTreeMap::new();
        for (record, member) in rows.holdout.iter().zip(&rows.members) {
            held.entry(record.of.user).or_default().push((record, member));
        }
        for (user, records) in held {
            let (Some(met), Some(id)) = (met.get(&user), named.get(user as usize)) else {
                continue;
            };
            let known = met.iter().filter(|row| **row != UNKNOWN).count();
            if (self.catalogue.len() as usize).saturating_sub(known) < OTHERS {
                continue;
            }
            let mut generator = Generator::new("others", &id.seed(study.header.seed));
            for (record, member) in records {
                others.extend(draw(&mut generator, self.catalogue.len(), met));
                scored.push(record);
                members.push(member);
            }
        }
        if scored.is_empty() && !rows.holdout.is_empty() {
            let message = format!(
                "the catalogue has {} items: nobody has not met {OTHERS} of them, which a held-out \
                 choice is ranked against; write `holdout = 0`, or take `objective = \"regress\"`",
                self.catalogue.len()
            );
            return Err(Failure::new(FailureCode::DataInvalid, message));
        }
        let apart = shown(study, members.into_iter());
        Ok(self.dataset(scored, Some(&others))?.grouped(apart))
    }
}

/// [`OTHERS`] different rows from 1 to `items` that are not in `met`, of which there are enough.
fn draw(generator: &mut Generator, items: u32, met: &BTreeSet<u32>) -> BTreeSet<i64> {
    let mut drawn = BTreeSet::new();
    while drawn.len() < OTHERS {
        let row = generator.below(items).saturating_add(1);
        if !met.contains(&row) {
            drawn.insert(i64::from(row));
        }
    }
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_choice_is_ranked_against_is_unmet_and_follows_from_the_seed() {
        let met: BTreeSet<u32> = (1..=100).chain([UNKNOWN]).collect();
        let drawn = |seed: &[u8]| draw(&mut Generator::new("others", seed), 205, &met);
        let first = drawn(b"ann");
        assert_eq!((first.len(), &first), (OTHERS, &drawn(b"ann")));
        assert!(first.iter().all(|row| (101..=205).contains(row)));
        assert_ne!(first, drawn(b"bob"));
    }
}
