//! What the sites of a study count together before its first round trains: fixed-length integer sums
//! on the way of every update, added up and kept as one blob, the *preparation*, which every later
//! plan names by digest (DESIGN.md §10). Words, items and raw values stay at the site: only sums leave.
//!
//! ```text
//! "consilium/preparation/1" · terms 32 · sites that counted u32 · sums i64 each     (little-endian)
//! ```
//! `terms` is the digest of what the sums follow from ([`Study::preparation_terms`]). So a preparation
//! of another study, or of one that counts something else, is refused by whoever reads it; and the
//! next version of a study keeps the one that it has exactly as long as it would count the same.

use super::check::word;
use super::vocabulary::VOCABULARY_UNITS;
use super::{ClassWeights, ModelSpec, Objective, Study, catalogue};
use crate::ids::{Digest, StudyId};
use crate::limits::{GRID_MAX, PREPARATION_SUMS_MAX, SITES_MAX};

const DOMAIN: &[u8; 23] = b"consilium/preparation/1";
/// Bytes before the sums.
const HEADER_BYTES: usize = DOMAIN.len() + 32 + 4;
const SUM_BYTES: usize = 8;
/// Bytes of the largest preparation.
pub const PREPARATION_BYTES_MAX: u64 = preparation_bytes_len(PREPARATION_SUMS_MAX);

/// Bytes of a preparation of so many sums.
#[must_use]
pub const fn preparation_bytes_len(sums: usize) -> u64 {
    HEADER_BYTES as u64 + SUM_BYTES as u64 * sums as u64
}

/// What the sites counted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preparation {
    /// What the sums follow from; [`Study::preparation_terms`].
    pub terms: Digest,
    /// Sites that counted, each once.
    pub sites: u32,
    /// Σ over these sites, in the study's order.
    pub sums: Vec<i64>,
}

/// Why bytes are not the preparation of a study.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreparationError {
    /// Shorter than a header, or other first bytes.
    #[error("this is not a preparation: it does not start with `consilium/preparation/1`")]
    Magic,
    /// Not a whole number of sums, none, or more than any has.
    #[error(
        "a preparation has 1 to {PREPARATION_SUMS_MAX} sums of {SUM_BYTES} bytes, this has {0} \
         bytes of them"
    )]
    Claim(usize),
    /// Nobody counted, or more than any roster has.
    #[error("the preparation is of {0} sites, 1 to {SITES_MAX} can have counted")]
    Sites(u32),
    /// A sum that so many sites cannot have.
    #[error("sum {index} of the preparation is {have}, which {sites} sites cannot reach")]
    Sum {
        /// Which one.
        index: usize,
        /// Its value.
        have: i64,
        /// Sites that counted.
        sites: u32,
    },
    /// The study prepares nothing.
    #[error("study {0} prepares nothing")]
    Nothing(StudyId),
    /// Of a study that counts something else.
    #[error("the preparation is of terms {have:?}, the study has {need:?}")]
    Terms {
        /// In the preparation.
        have: Digest,
        /// Of the study.
        need: Digest,
    },
    /// Another number of sums.
    #[error("the preparation has {have} sums, the study counts {need}")]
    Length {
        /// In the preparation.
        have: usize,
        /// Of the study.
        need: usize,
    },
}

impl Study {
    /// How many integer sums the sites count together before the first round trains; `None` where
    /// there is nothing to prepare.
    #[must_use]
    pub fn preparation_len(&self) -> Option<usize> {
        match (self.family_sums(), self.class_sums()) {
            (None, 0) => None,
            (family, classes) => Some(family.unwrap_or(0).saturating_add(classes)),
        }
    }

    /// Sums that the family counts, which come first; `None` where it has nothing to count.
    #[must_use]
    pub fn family_sums(&self) -> Option<usize> {
        match &self.model {
            ModelSpec::Synthetic(spec) => Some(spec.prepare as usize).filter(|sums| *sums > 0),
            ModelSpec::Recommender(spec) => Some(catalogue::units_len(spec.objective)),
            ModelSpec::Rnn(spec) => spec.preparation_len(&self.data),
            ModelSpec::Tabular(spec) => spec.preparation_len(&self.data),
            ModelSpec::TextClassifier(_) => Some(VOCABULARY_UNITS),
            ModelSpec::Cnn(_) => None,
        }
    }

    /// Sums that come last: the training records of each class, where the loss weighs them by their
    /// share; where a record may have several, then all of them.
    #[must_use]
    pub fn class_sums(&self) -> usize {
        match self.training.class_weights {
            Some(ClassWeights::Balanced) => {
                let and_all = self.model.objective() == Some(Objective::Multilabel);
                self.model.classes().len() + usize::from(and_all)
            }
            Some(ClassWeights::Given(_)) | None => 0,
        }
    }

    /// Digest of what the sums follow from: the study's name and seed, and all that its family reads
    /// while it counts. `None` where there is nothing to prepare.
    #[must_use]
    pub fn preparation_terms(&self) -> Option<Digest> {
        Some(Digest::of(self.describe_preparation()?.as_bytes()))
    }

    /// The text behind the digest. It is written out line by line, not by the study's own encoding:
    /// a field that a later release adds to studies does not end the preparations of running ones.
    fn describe_preparation(&self) -> Option<String> {
        let sums = self.preparation_len()?;
        let (name, seed, family) = (self.id(), self.header.seed, self.model.family());
        let counted = match &self.model {
            // The sites' own seeds are not the study's.
            ModelSpec::Synthetic(_) => String::new(),
            ModelSpec::Recommender(spec) => spec.describe_counts(&self.data),
            ModelSpec::Rnn(spec) => spec.describe_counts(&self.data),
            ModelSpec::Tabular(spec) => spec.describe_counts(&self.data),
            ModelSpec::TextClassifier(spec) => spec.describe_counts(&self.data),
            ModelSpec::Cnn(_) => String::new(),
        };
        let classes = self.describe_classes();
        let several = match self.model.objective() {
            Some(Objective::Multilabel) => "several labels\n",
            Some(Objective::Classify | Objective::Regress | Objective::Rank) | None => "",
        };
        Some(format!(
            "consilium/preparation-terms/1\nstudy {name}\nseed {seed}\nfamily {family}\nsums {sums}\n\
             {several}{counted}{classes}"
        ))
    }

    /// What the counts of classes follow from, where there are any.
    fn describe_classes(&self) -> String {
        if self.class_sums() == 0 {
            return String::new();
        }
        let lines = self.model.classes().iter().map(|class| format!("counts {}\n", word(class)));
        lines.chain([self.data.describe()]).collect()
    }
}

impl Preparation {
    /// The family's own sums, and the records of each class where the study counts them.
    #[must_use]
    pub fn parts(&self, study: &Study) -> (&[i64], &[i64]) {
        let family = self.sums.len().saturating_sub(study.class_sums());
        self.sums.split_at_checked(family).unwrap_or_default()
    }

    /// The bytes; their BLAKE3 is the preparation's digest and the name of its blob.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(HEADER_BYTES + SUM_BYTES * self.sums.len());
        bytes.extend_from_slice(DOMAIN);
        bytes.extend_from_slice(&self.terms.0);
        bytes.extend_from_slice(&self.sites.to_le_bytes());
        for sum in &self.sums {
            bytes.extend_from_slice(&sum.to_le_bytes());
        }
        bytes
    }

    /// Reads a preparation of any study.
    ///
    /// # Errors
    /// One variant per way of being malformed.
    pub fn decode(bytes: &[u8]) -> Result<Self, PreparationError> {
        let rest = bytes.strip_prefix(DOMAIN).ok_or(PreparationError::Magic)?;
        let (terms, rest) = rest.split_first_chunk().ok_or(PreparationError::Magic)?;
        let (sites, rest) = rest.split_first_chunk().ok_or(PreparationError::Magic)?;
        let sites = u32::from_le_bytes(*sites);
        if !(1..=SITES_MAX).contains(&(sites as usize)) {
            return Err(PreparationError::Sites(sites));
        }
        let (words, ragged) = rest.as_chunks::<SUM_BYTES>();
        if !ragged.is_empty() || !(1..=PREPARATION_SUMS_MAX).contains(&words.len()) {
            return Err(PreparationError::Claim(rest.len()));
        }
        let sums: Vec<i64> = words.iter().map(|word| i64::from_le_bytes(*word)).collect();
        let bound = u64::from(sites) * u64::from(GRID_MAX.unsigned_abs());
        let outside = sums.iter().enumerate().find(|(_, sum)| sum.unsigned_abs() > bound);
        if let Some((index, &have)) = outside {
            return Err(PreparationError::Sum { index, have, sites });
        }
        Ok(Self { terms: Digest(*terms), sites, sums })
    }

    /// Reads the preparation of `study`.
    ///
    /// # Errors
    /// Malformed, or of a study that counts something else.
    pub fn read(bytes: &[u8], study: &Study) -> Result<Self, PreparationError> {
        let nothing = || PreparationError::Nothing(study.id().clone());
        let need = study.preparation_terms().ok_or_else(nothing)?;
        let preparation = Self::decode(bytes)?;
        let have = preparation.terms;
        if have != need {
            return Err(PreparationError::Terms { have, need });
        }
        let (have, need) = (preparation.sums.len(), study.preparation_len().unwrap_or(0));
        if have != need {
            return Err(PreparationError::Length { have, need });
        }
        Ok(preparation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::study::counts::MOMENTS_UNITS;

    const TOML: &str = "[study]\nname = \"demo\"\nseed = 7\n[model]\nfamily = \"synthetic\"\n\
                        parameters = 4\nprepare = 3\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
                        mode = \"inspectable\"\n";

    fn study(from: &str, to: &str) -> Study {
        assert!(TOML.contains(from));
        Study::read(&TOML.replace(from, to), "demo.toml").unwrap()
    }

    fn demo() -> Study {
        study("", "")
    }

    fn preparation() -> Preparation {
        let terms = demo().preparation_terms().unwrap();
        Preparation { terms, sites: 2, sums: vec![5, -(1 << 31), 0] }
    }

    #[test]
    fn a_preparation_comes_back_from_its_bytes() {
        let bytes = preparation().encode();
        assert_eq!(bytes.len() as u64, preparation_bytes_len(3));
        assert_eq!(Preparation::read(&bytes, &demo()), Ok(preparation()));
    }

    #[test]
    fn one_error_for_every_way_of_being_malformed() {
        let good = preparation().encode();
        let with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            Preparation::decode(&bytes).unwrap_err()
        };
        assert_eq!(with(&|bytes| bytes[0] = b'X'), PreparationError::Magic);
        assert_eq!(with(&|bytes| bytes.truncate(40)), PreparationError::Magic);
        assert_eq!(with(&|bytes| bytes.truncate(57)), PreparationError::Magic);
        assert_eq!(with(&|bytes| bytes[55] = 0), PreparationError::Sites(0));
        assert_eq!(with(&|bytes| bytes[57] = 1), PreparationError::Sites(65_538));
        assert_eq!(with(&|bytes| bytes.truncate(HEADER_BYTES)), PreparationError::Claim(0));
        assert_eq!(with(&|bytes| bytes.truncate(82)), PreparationError::Claim(23));
        let sum = PreparationError::Sum { index: 1, have: -(1 << 31), sites: 1 };
        assert_eq!(with(&|bytes| bytes[55] = 1), sum);
        let long = Preparation { sums: vec![0; PREPARATION_SUMS_MAX + 1], ..preparation() };
        let claimed = PreparationError::Claim(SUM_BYTES * (PREPARATION_SUMS_MAX + 1));
        assert_eq!(Preparation::decode(&long.encode()), Err(claimed));
    }

    #[test]
    fn the_preparation_of_another_study_is_refused() {
        let bytes = preparation().encode();
        let terms = |study: &Study| Preparation::read(&bytes, study).unwrap_err();
        for (from, to) in
            [("\"demo\"", "\"other\""), ("seed = 7", "seed = 8"), ("prepare = 3", "prepare = 4")]
        {
            assert!(matches!(terms(&study(from, to)), PreparationError::Terms { .. }), "{to}");
        }
        let nothing = study("prepare = 3\n", "");
        assert_eq!(terms(&nothing).to_string(), "study demo prepares nothing");
        let short = Preparation { sums: vec![1, 2], ..preparation() }.encode();
        let length = PreparationError::Length { have: 2, need: 3 };
        assert_eq!(Preparation::read(&short, &demo()), Err(length));
    }

    #[test]
    fn a_changed_file_that_counts_the_same_keeps_its_preparation() {
        let terms = demo().preparation_terms();
        let next = study("seed = 7", "seed = 7\nversion = 2");
        assert_eq!(next.preparation_terms(), terms);
        assert_eq!(study("clip_norm = 1.0", "clip_norm = 2.0").preparation_terms(), terms);
        // Golden: a change here ends the preparation of every study that runs.
        let golden = "06581a5903bcbb44a31075a01777f60bba919c559430bccca78c2a053b4b89f5";
        assert_eq!(terms.unwrap().to_string(), golden);
    }

    const TABLE: &str = "[study]\nname = \"ward\"\nseed = 3\n[model]\nfamily = \"tabular\"\n\
        classes = [\"well\", \"ill\"]\n[data]\nkind = \"table\"\nnormalize = \"federated\"\n\
        label_codes = { \"1\" = \"ill\" }\ntolerance = 0.1\ncolumns = [\n\
        { name = \"age\", min = 0, max = 100, missing = \"impute\" },\n\
        { name = \"sex\", values = [\"f\", \"m\"], codes = { \"2\" = \"f\" } },\n\
        { name = \"crp\", min = 0, max = 0.5, outside = \"clip\" },\n]\n\
        [aggregation]\nclip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";

    fn table(from: &str, to: &str) -> Result<Study, crate::study::StudyError> {
        assert!(TABLE.contains(from), "{from}");
        Study::read(&TABLE.replace(from, to), "ward.toml")
    }

    #[test]
    fn a_table_counts_the_moments_of_its_numbers_and_names_all_that_they_follow_from() {
        let study = table("", "").unwrap();
        assert_eq!(study.preparation_len(), Some(2 * MOMENTS_UNITS), "words need no constants");
        assert_eq!(
            study.describe_preparation().unwrap(),
            "consilium/preparation-terms/1\nstudy ward\nseed 3\nfamily tabular\nsums 24\n\
             objective \"classify\"\nclass \"well\"\nclass \"ill\"\nlabel \"label\"\n\
             code \"1\" \"ill\"\n\
             number \"age\" from 0 to 100 missing \"impute\" outside \"refuse\"\n\
             words \"sex\" missing \"refuse\" outside \"refuse\"\nword \"f\"\nword \"m\"\n\
             code \"2\" \"f\"\n\
             number \"crp\" from 0 to 0.5 missing \"refuse\" outside \"clip\"\n"
        );
        let terms = study.preparation_terms();
        for (from, to) in [
            ("max = 100", "max = 120"),
            ("\"impute\"", "\"drop\""),
            ("\"clip\"", "\"drop\""),
            ("[\"f\", \"m\"]", "[\"f\", \"m\", \"x\"]"),
            ("\"1\" = \"ill\"", "\"2\" = \"ill\""),
            ("tolerance = 0.1", "label = \"outcome\""),
            ("tolerance = 0.1", "patient = \"id\""),
        ] {
            assert_ne!(table(from, to).unwrap().preparation_terms(), terms, "{to}");
        }
        for (from, to) in [("tolerance = 0.1", "min_examples = 9"), ("norm = 1.0", "norm = 2.0")] {
            assert_eq!(table(from, to).unwrap().preparation_terms(), terms, "{to}");
        }
        let alone = table("\"federated\"", "\"unit\"");
        assert!(alone.unwrap_err().to_string().contains("takes the mean of"));
        let alone = TABLE.replace("\"federated\"", "\"unit\"").replace("impute", "drop");
        assert_eq!(Study::read(&alone, "ward.toml").unwrap().preparation_len(), None);
    }

    #[test]
    fn balanced_classes_are_counted_behind_what_the_family_counts() {
        let plain = table("", "").unwrap();
        let with = |weights: &str| {
            let training = format!("[training]\nclass_weights = {weights}\n[aggregation]");
            table("[aggregation]", &training).unwrap()
        };
        let balanced = with("\"balanced\"");
        assert_eq!(balanced.preparation_len(), Some(2 * MOMENTS_UNITS + 2));
        assert_ne!(balanced.preparation_terms(), plain.preparation_terms());
        let given = with("[1, 2]");
        assert_eq!(given.preparation_len(), plain.preparation_len(), "a list is not counted");
        assert_eq!(given.preparation_terms(), plain.preparation_terms());
        let sums: Vec<i64> = (0..26).collect();
        let terms = balanced.preparation_terms().unwrap();
        let preparation = Preparation { terms, sites: 1, sums };
        assert_eq!(preparation.parts(&balanced).1, [24, 25]);
        assert_eq!(preparation.parts(&plain), (&preparation.sums[..], &[][..]));
    }

    #[test]
    fn pictures_are_counted_for_balanced_classes_and_for_nothing_else() {
        let study = |training: &str| {
            let text = format!(
                "[study]\nname = \"xray\"\nseed = 3\n[model]\nfamily = \"cnn\"\n\
                 input = {{ channels = 1, height = 9, width = 9 }}\nclasses = [\"n\", \"y\"]\n\
                 [training]\n{training}\n[aggregation]\nclip_norm = 1.0\n[privacy]\n\
                 mode = \"inspectable\"\n"
            );
            Study::read(&text, "xray.toml").unwrap()
        };
        assert_eq!(study("").preparation_len(), None);
        let balanced = study("class_weights = \"balanced\"");
        assert_eq!((balanced.preparation_len(), balanced.family_sums()), (Some(2), None));
        assert_eq!(
            balanced.describe_preparation().unwrap(),
            "consilium/preparation-terms/1\nstudy xray\nseed 3\nfamily cnn\nsums 2\n\
             counts \"n\"\ncounts \"y\"\nlabel \"label\"\n"
        );
    }

    #[test]
    fn a_study_without_numbers_to_standardise_is_refused() {
        let columns =
            TABLE.find("{ name = \"age\"").unwrap()..TABLE.find("{ name = \"sex\"").unwrap();
        let words = TABLE.replace(&TABLE[columns], "");
        let words =
            words.replace("{ name = \"crp\", min = 0, max = 0.5, outside = \"clip\" },", "");
        let refusal = |text: &str| Study::read(text, "x.toml").unwrap_err().to_string();
        assert_eq!(
            refusal(&words),
            "`data.normalize` is \"federated\": no column is a number: there is nothing to standardise"
        );
        let federated = "[data]\nnormalize = \"federated\"\n[aggregation]";
        let synthetic = refusal(&TOML.replace("[aggregation]", federated));
        assert!(synthetic.contains("the synthetic trainer reads no numbers"), "{synthetic}");
    }

    #[test]
    fn more_sums_than_any_study_counts_are_refused_by_their_field() {
        let many = TOML.replace("prepare = 3", "prepare = 2097153");
        let error = Study::read(&many, "demo.toml").unwrap_err().to_string();
        assert_eq!(error, "`model.prepare` is 2097153: 0 to 2097152 is accepted");
        assert_eq!(study("prepare = 3", "prepare = 0").preparation_len(), None);
    }
}
