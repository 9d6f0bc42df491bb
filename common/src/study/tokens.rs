//! From a document to its tokens, the same at every site and wherever a model predicts later.
//!
//! A token is a run of letters and digits (Unicode's Alphabetic and Numeric), lower-cased character by
//! character (Unicode's own mapping, which knows no language); everything else separates. So `HbA1c`
//! is `hba1c`, `3.5` is `3` and `5`, `naïve` stays one word, and `ПНЕВМОНИЯ` is `пневмония`.
//!
//! Letters are taken as they are written: `é` as one character and as `e` with a combining accent are
//! two spellings. A run of a script without spaces (Chinese, Thai) is one token: telling its words apart
//! is not built yet, so whoever reads documents refuses those that have a [`long_run`].

/// The tokens of `text`, in order.
pub fn tokens(text: &str) -> impl Iterator<Item = String> {
    text.split(|c: char| !c.is_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(|word| word.chars().flat_map(char::to_lowercase).collect())
}

/// Characters in a row of scripts without spaces that may still be one word.
const RUN_MAX: usize = 12;

/// Whether `text` has more characters of scripts without spaces in a row than a word has: sentences,
/// whose words would be lost.
#[must_use]
pub fn long_run(text: &str) -> bool {
    let mut run = 0;
    text.chars().any(|c| {
        run = if is_unspaced(c) { run + 1 } else { 0 };
        run > RUN_MAX
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Vec<String> {
        tokens(text).collect()
    }

    #[test]
    fn words_are_lower_cased_numbers_kept_and_all_else_separates() {
        assert_eq!(of("HbA1c was 7.5%, (up)."), ["hba1c", "was", "7", "5", "up"]);
        assert_eq!(of(" \t\n--- "), [""; 0]);
        assert_eq!(of(""), [""; 0]);
    }

    #[test]
    fn sentences_without_spaces_are_told_from_words() {
        assert!(long_run(&"x ".repeat(9).replace("x ", "肺炎")));
        assert!(long_run("admitted: ผู้ป่วยมีไข้สูงและไอ."));
        assert!(!long_run("慢性阻塞性肺疾病，急性加重期。 COPD"));
        assert!(!long_run(&"pneumonoultramicroscopic пневмония ".repeat(3)));
    }

    #[test]
    fn every_script_has_letters() {
        assert_eq!(of("Naïve ПНЕВМОНИЯ—Ödem"), ["naïve", "пневмония", "ödem"]);
        assert_eq!(of("肺炎，发热 ٣ أيام"), ["肺炎", "发热", "٣", "أيام"]);
        // One character that becomes two, and a sigma without its place in the word.
        assert_eq!(of("İ ΟΔΟΣ"), ["i\u{307}", "οδοσ"]);
    }
}
