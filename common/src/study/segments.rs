//! Documents as the buckets of their words, also where a script has no spaces between them.
//!
//! Of a run of such a script the sites count every *gram* of 1 to [`GRAM_MAX`] characters, as they count
//! words. A gram of several characters is a word if enough sites have it and each cut of it into two goes
//! through something that belongs together: n(gram) · T ≥ [`COHESION`] · n(left) · n(right), or the gram
//! stands in half of the documents of either part. There n are documents, and T is the documents of all
//! single characters added up: pointwise mutual information (Church & Hanks 1990), of which Sproat & Shih
//! (1990) make words of Chinese. Whoever reads a run takes the longest such word at each place, or else
//! one character.

use super::buckets::Buckets;
use super::tokens::{Token, tokens};
use super::vocabulary::Vocabulary;

/// Characters of a gram at most: most Chinese words have two, terms of medicine three or four.
pub const GRAM_MAX: usize = 4;
/// How much more often than by chance the parts of a word stand together.
pub const COHESION: u128 = 30;

/// A document before its vocabulary is known.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Document(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Piece {
    /// The bucket of a word.
    Word(u32),
    /// For each character of a run the buckets of the grams that begin there, the shortest first.
    Run(Vec<Vec<u32>>),
}

impl Document {
    /// The first `most` words of `text`, a character of a run being one, and whether there were more.
    #[must_use]
    pub fn of(text: &str, buckets: &Buckets, most: usize) -> (Self, bool) {
        let (mut pieces, mut left) = (Vec::new(), most);
        for token in tokens(text) {
            if left == 0 {
                return (Self(pieces), true);
            }
            match token {
                Token::Word(word) => {
                    pieces.push(Piece::Word(buckets.bucket(&word)));
                    left -= 1;
                }
                Token::Run(run) => {
                    let read = run.get(..left).unwrap_or(&run);
                    pieces.push(Piece::Run(grams(read, buckets)));
                    left -= read.len();
                    if read.len() < run.len() {
                        return (Self(pieces), true);
                    }
                }
            }
        }
        (Self(pieces), false)
    }

    /// One of these buckets' words.
    #[cfg(test)]
    pub(super) fn of_words(words: &[u32]) -> Self {
        Self(words.iter().map(|bucket| Piece::Word(*bucket)).collect())
    }

    /// Whether it has no word at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is counted: the buckets of all words and grams.
    #[must_use]
    pub fn counted(&self) -> Vec<u32> {
        let mut counted = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Word(bucket) => counted.push(*bucket),
                Piece::Run(starts) => counted.extend(starts.iter().flatten()),
            }
        }
        counted
    }

    /// The buckets of single characters of runs.
    pub fn characters(&self) -> impl Iterator<Item = u32> + '_ {
        let starts = self.0.iter().flat_map(|piece| match piece {
            Piece::Word(_) => &[][..],
            Piece::Run(starts) => starts,
        });
        starts.filter_map(|grams| grams.first().copied())
    }

    /// The rows of its words.
    #[must_use]
    pub fn rows(&self, vocabulary: &Vocabulary) -> Vec<u32> {
        let mut rows = Vec::new();
        for piece in &self.0 {
            match piece {
                Piece::Word(bucket) => rows.push(vocabulary.row(*bucket)),
                Piece::Run(starts) => segment(starts, vocabulary, &mut rows),
            }
        }
        rows
    }
}

fn grams(run: &[char], buckets: &Buckets) -> Vec<Vec<u32>> {
    let starts = (0..run.len()).filter_map(|at| run.get(at..));
    let of = |rest: &[char]| {
        let mut gram = String::new();
        let longer = rest.iter().take(GRAM_MAX);
        longer
            .map(|c| {
                gram.push(*c);
                buckets.bucket(&gram)
            })
            .collect()
    };
    starts.map(of).collect()
}

/// The longest word at each place.
fn segment(mut starts: &[Vec<u32>], vocabulary: &Vocabulary, rows: &mut Vec<u32>) {
    while let Some(grams) = starts.first() {
        let is_word = |length: &usize| is_word(starts, *length, vocabulary);
        let length = (2..=grams.len()).rev().find(is_word).unwrap_or(1);
        let bucket = length.checked_sub(1).and_then(|last| grams.get(last));
        rows.extend(bucket.map(|bucket| vocabulary.row(*bucket)));
        starts = starts.get(length.max(1)..).unwrap_or_default();
    }
}

/// Whether the first `length` characters are one word.
fn is_word(starts: &[Vec<u32>], length: usize, vocabulary: &Vocabulary) -> bool {
    let documents = |at: usize, length: usize| {
        let bucket = starts.get(at)?.get(length.checked_sub(1)?)?;
        vocabulary.documents(*bucket).map(u128::from)
    };
    let Some(together) = documents(0, length) else {
        return false;
    };
    let all = vocabulary.characters();
    (1..length).all(|cut| {
        // A part that the vocabulary had no room for is at least as frequent as the whole.
        let part = |at, length| documents(at, length).unwrap_or(together);
        let (left, right) = (part(0, cut), part(cut, length - cut));
        let apart = left.saturating_mul(right);
        together.saturating_mul(all) >= COHESION.saturating_mul(apart)
            || 2 * together >= left.max(right)
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::random::Generator;
    use crate::study::Study;
    use crate::study::vocabulary::{Counts, UNKNOWN, VOCABULARY_UNITS};

    fn buckets() -> Buckets {
        let text = "[study]\nname = \"notes\"\n[model]\nfamily = \"text-classifier\"\n\
                    classes = [\"a\", \"b\"]\n[data]\nkind = \"text\"\n[aggregation]\n\
                    clip_norm = 1.0\n[privacy]\nmode = \"inspectable\"\n";
        Buckets::of(&Study::read(text, "notes").unwrap())
    }

    fn document(text: &str) -> Document {
        Document::of(text, &buckets(), 1000).0
    }

    /// What two sites of equal texts count together.
    fn vocabulary(texts: &[String]) -> Vocabulary {
        let mut counts = Counts::default();
        texts.iter().for_each(|text| counts.add(&document(text)));
        let sums: Vec<i64> = counts.units().iter().map(|unit| 2 * i64::from(*unit)).collect();
        assert_eq!(sums.len(), VOCABULARY_UNITS);
        Vocabulary::of(&sums, 2, 2, 50_000).unwrap()
    }

    /// Where words end, in characters.
    fn ends(text: &str, vocabulary: &Vocabulary) -> BTreeSet<usize> {
        let Document(pieces) = document(text);
        let [Piece::Run(starts)] = &pieces[..] else {
            panic!("{text} is one run");
        };
        let (mut at, mut ends) = (0, BTreeSet::new());
        while at < starts.len() {
            let is_word = |length: &usize| is_word(&starts[at..], *length, vocabulary);
            at += (2..=starts[at].len()).rev().find(is_word).unwrap_or(1);
            ends.insert(at);
        }
        ends
    }

    /// A language of its own: 512 words of one to four of 300 characters.
    struct Language(Vec<String>);

    impl Language {
        fn new() -> Self {
            let mut generator = Generator::new("language", b"words");
            let mut word = |_| {
                let length = [1, 2, 2, 2, 2, 2, 3, 3, 4][generator.below(9) as usize];
                let character = |_| char::from_u32(0x4e00 + generator.below(300)).unwrap();
                (0..length).map(character).collect()
            };
            Self((0..512).map(&mut word).collect())
        }

        /// A text of 60 words, and where they end.
        fn text(&self, generator: &mut Generator) -> (String, BTreeSet<usize>) {
            let (mut text, mut ends, mut at) = (String::new(), BTreeSet::new(), 0);
            for _ in 0..60 {
                // About as frequent as one over the rank (Zipf 1949).
                let most = 1 << generator.below(10);
                let word = &self.0[generator.below(most) as usize];
                text.push_str(word);
                at += word.chars().count();
                ends.insert(at);
            }
            (text, ends)
        }
    }

    #[test]
    fn words_of_a_language_without_spaces_are_found_by_counting() {
        let (language, mut generator) = (Language::new(), Generator::new("language", b"texts"));
        let texts: Vec<String> = (0..400).map(|_| language.text(&mut generator).0).collect();
        let vocabulary = vocabulary(&texts);
        let (mut right, mut said, mut all) = (0, 0, 0);
        for _ in 0..50 {
            let (text, truth) = language.text(&mut generator);
            let found = ends(&text, &vocabulary);
            right += found.intersection(&truth).count();
            (said, all) = (said + found.len(), all + truth.len());
        }
        let f1 = 2.0 * right as f64 / (said + all) as f64;
        println!("boundaries: F1 {f1:.3}, {right} right of {said} said and {all} true");
        assert!(f1 > 0.85, "boundaries of words: F1 {f1:.3}");
    }

    #[test]
    fn a_run_is_read_by_its_longest_words_and_what_is_unknown_by_characters() {
        let noise = |i: u32| char::from_u32(0x5200 + 7 * i).unwrap();
        let texts: Vec<String> =
            (0..40).map(|i| format!("{}慢性支气管炎{}肺炎", noise(i), noise(i + 40))).collect();
        let vocabulary = vocabulary(&texts);
        let rows = |text: &str| document(text).rows(&vocabulary);
        assert_eq!(rows("肺炎").len(), 1);
        assert_eq!((rows("肺").len(), rows("炎肺").len()), (1, 2));
        assert_eq!(rows("肺炎 肺炎。").len(), 2);
        assert_eq!(rows("未知"), [UNKNOWN, UNKNOWN]);
        assert_eq!(rows("肺炎"), rows("x肺炎")[1..]);
    }

    #[test]
    fn a_long_document_is_cut_at_a_character() {
        let of = |text: &str, most| Document::of(text, &buckets(), most);
        let (cut, is_cut) = of("发热三天 fever", 3);
        assert!(is_cut && cut == document("发热三"));
        assert!(!of("发热三天 fever", 5).1 && of("发热三天 fever", 4).1);
        assert!(of("。 -", 3).0.is_empty());
    }
}
