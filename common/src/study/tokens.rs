//! From a document to its tokens, the same at every site and wherever a model predicts later.
//!
//! A word is a run of letters and digits (Unicode's Alphabetic and Numeric), lower-cased character by
//! character (Unicode's own mapping, which knows no language); everything else separates. So `HbA1c`
//! is `hba1c`, `3.5` is `3` and `5`, `naïve` stays one word, and `ПНЕВМОНИЯ` is `пневмония`.
//!
//! Letters are taken as they are written: `é` as one character and as `e` with a combining accent are
//! two spellings. A run of a script without spaces (Chinese, Thai) is a token of its own kind: which
//! words it is made of, the sites learn together ([`super::segments`]).

/// A part of a document between separators, of one kind of script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Token {
    /// A lower-cased word.
    Word(String),
    /// Characters of scripts without spaces, as they stand.
    Run(Vec<char>),
}

/// The tokens of `text`, in order.
#[must_use]
pub fn tokens(text: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut open = None;
    for c in text.chars() {
        let kind = kind_of(c);
        match (&mut open, kind) {
            (Some(Token::Run(run)), Kind::Unspaced) => run.push(c),
            (Some(Token::Word(word)), Kind::Spaced) => word.extend(c.to_lowercase()),
            _ => {
                tokens.extend(open.take());
                open = match kind {
                    Kind::Separator => None,
                    Kind::Unspaced => Some(Token::Run(vec![c])),
                    Kind::Spaced => Some(Token::Word(c.to_lowercase().collect())),
                };
            }
        }
    }
    tokens.extend(open);
    tokens
}

#[derive(Clone, Copy)]
enum Kind {
    Spaced,
    Unspaced,
    Separator,
}

fn kind_of(c: char) -> Kind {
    if is_unspaced(c) && (c.is_alphanumeric() || is_mark(c)) {
        Kind::Unspaced
    } else if c.is_alphanumeric() {
        Kind::Spaced
    } else {
        Kind::Separator
    }
}

/// Han, Hiragana, Katakana, Thai, Lao, Myanmar and Khmer by their blocks (Unicode 16, chapters 16, 18).
fn is_unspaced(c: char) -> bool {
    matches!(
        c,
        '\u{e00}'..='\u{eff}'
            | '\u{1000}'..='\u{109f}'
            | '\u{1780}'..='\u{17ff}'
            | '\u{3040}'..='\u{30ff}'
            | '\u{31f0}'..='\u{31ff}'
            | '\u{3400}'..='\u{4dbf}'
            | '\u{4e00}'..='\u{9fff}'
            | '\u{f900}'..='\u{faff}'
            | '\u{20000}'..='\u{323af}'
    )
}

/// Vowel signs, tone marks and joiners of these scripts, which belong to the letter before them.
fn is_mark(c: char) -> bool {
    matches!(
        c,
        '\u{e31}' | '\u{e34}'..='\u{e3a}' | '\u{e47}'..='\u{e4e}' // Thai
            | '\u{eb1}' | '\u{eb4}'..='\u{ebc}' | '\u{ec8}'..='\u{ece}' // Lao
            | '\u{102b}'..='\u{103e}' // Myanmar
            | '\u{17b4}'..='\u{17d3}' // Khmer
            | '\u{30fc}' // the long vowel of Katakana
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs in brackets.
    fn of(text: &str) -> Vec<String> {
        let shown = |token| match token {
            Token::Word(word) => word,
            Token::Run(run) => format!("[{}]", run.into_iter().collect::<String>()),
        };
        tokens(text).into_iter().map(shown).collect()
    }

    #[test]
    fn words_are_lower_cased_numbers_kept_and_all_else_separates() {
        assert_eq!(of("HbA1c was 7.5%, (up)."), ["hba1c", "was", "7", "5", "up"]);
        assert_eq!(of(" \t\n--- "), [""; 0]);
        assert_eq!(of(""), [""; 0]);
    }

    #[test]
    fn scripts_without_spaces_are_runs_and_end_where_the_script_does() {
        assert_eq!(
            of("确诊COVID肺炎3天，发热。"),
            ["[确诊]", "covid", "[肺炎]", "3", "[天]", "[发热]"]
        );
        // Vowel signs and tone marks stay with their letters; a repetition mark separates.
        assert_eq!(of("ผู้ป่วยมีไข้ ๆ"), ["[ผู้ป่วยมีไข้]", "[ๆ]"]);
        assert_eq!(of("コーヒー"), ["[コーヒー]"]);
    }

    #[test]
    fn every_script_has_letters() {
        assert_eq!(of("Naïve ПНЕВМОНИЯ—Ödem"), ["naïve", "пневмония", "ödem"]);
        assert_eq!(of("肺炎，发热 ٣ أيام"), ["[肺炎]", "[发热]", "٣", "أيام"]);
        // One character that becomes two, and a sigma without its place in the word.
        assert_eq!(of("İ ΟΔΟΣ"), ["i\u{307}", "οδοσ"]);
    }
}
