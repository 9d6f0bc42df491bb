//! Files that people write: TOML with every unknown field refused, durations as people write them,
//! and errors that name the file, the line and the nearest known field.

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::limits::{CONFIG_BYTES_MAX, NAME_BYTES_MAX};

/// First letters of every environment variable that is ours.
const VARIABLES: &str = "CONSILIUM_";

/// Why a configuration or study text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The text is not the TOML that was expected.
    #[error("{origin}{}: {message}", line.map(|l| format!(", line {l}")).unwrap_or_default())]
    Toml {
        /// The file, or what stands for it.
        origin: String,
        /// Counted from 1, where known.
        line: Option<usize>,
        /// What is wrong, with the nearest known field.
        message: String,
    },
    /// Too long to be what it claims to be.
    #[error("{origin}: {have} bytes, at most {max} are read")]
    TooLarge {
        /// The file.
        origin: String,
        /// Its size.
        have: usize,
        /// The bound.
        max: usize,
    },
}

/// Reads `text` as `T`. `origin` names the file in errors.
///
/// # Errors
/// Text over the bound, syntax errors, unknown or missing fields, values out of range.
pub fn parse<T: DeserializeOwned>(text: &str, origin: &str) -> Result<T, ConfigError> {
    if text.len() > CONFIG_BYTES_MAX {
        let (origin, have, max) = (origin.to_owned(), text.len(), CONFIG_BYTES_MAX);
        return Err(ConfigError::TooLarge { origin, have, max });
    }
    toml::from_str(text).map_err(|error: toml::de::Error| ConfigError::Toml {
        origin: origin.to_owned(),
        line: error
            .span()
            .map(|span| 1 + text.get(..span.start).unwrap_or("").matches('\n').count()),
        message: with_nearest(error.message()),
    })
}

/// Reads `text` as `T` with the variables `CONSILIUM_SECTION__KEY` of `environment` over it: the value
/// of `CONSILIUM_SITE__THREADS` is `threads` in `[site]`. Two underscores part section from key;
/// variables without them are other switches. A value is taken as TOML where it is TOML (`4`,
/// `true`, `["a"]`, `"4"`), else as text.
///
/// # Errors
/// As [`parse`]; the message names the variables if any were used.
pub fn parse_with_environment<T: DeserializeOwned>(
    text: &str,
    origin: &str,
    environment: impl Iterator<Item = (String, String)>,
) -> Result<T, ConfigError> {
    let mut table: Table = parse(text, origin)?;
    let used = put_over(&mut table, environment);
    if used.is_empty() {
        return parse(text, origin);
    }
    T::deserialize(Value::Table(table)).map_err(|error| ConfigError::Toml {
        origin: format!("{origin} with {}", used.join(", ")),
        line: None,
        message: with_nearest(error.message()),
    })
}

/// Puts the variables over the table; returns the names of those that were used, in order.
fn put_over(table: &mut Table, environment: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut used: Vec<(String, String)> = environment
        .filter(|(name, _)| name.strip_prefix(VARIABLES).is_some_and(|n| n.contains("__")))
        .collect();
    used.sort();
    for (name, text) in &used {
        let path = name.strip_prefix(VARIABLES).unwrap_or(name).to_lowercase();
        set(table, &path, value(text));
    }
    used.into_iter().map(|(name, _)| name).collect()
}

fn set(table: &mut Table, path: &str, value: Value) {
    let Some((section, rest)) = path.split_once("__") else {
        table.insert(known(table, path), value);
        return;
    };
    let inner = table.entry(known(table, section)).or_insert_with(|| Value::Table(Table::new()));
    if let Value::Table(inner) = inner {
        set(inner, rest, value);
    }
}

/// The key as the file writes it: names may hold dashes, which no variable's name can.
fn known(table: &Table, key: &str) -> String {
    let same = |have: &&String| have.replace('-', "_") == key;
    let have = table.keys().find(same);
    have.cloned().unwrap_or_else(|| key.to_owned())
}

/// A number, a truth value, a list, a table or a quoted string as TOML writes it; else the text.
fn value(text: &str) -> Value {
    let parsed: Option<Table> = toml::from_str(&format!("value = {text}")).ok();
    parsed
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"))
        .filter(|value| !value.is_datetime())
        .unwrap_or_else(|| Value::String(text.to_owned()))
}

/// Adds "did you mean" to serde's "unknown field/variant `x`, expected one of `a`, `b`".
#[must_use]
pub fn with_nearest(message: &str) -> String {
    let message = message.trim();
    if !message.starts_with("unknown ") {
        return message.to_owned();
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next() else {
        return message.to_owned();
    };
    match nearest(unknown, quoted) {
        Some(known) => format!("{message}; did you mean `{known}`?"),
        None => message.to_owned(),
    }
}

/// The known word that `unknown` was most likely meant to be. None is as long as
/// [`NAME_BYTES_MAX`]: beyond it nothing is compared, as a distance takes memory and time of both
/// lengths multiplied, and the text may be hostile.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    if unknown.len() > NAME_BYTES_MAX {
        return None;
    }
    known
        .filter(|word| word.len() <= NAME_BYTES_MAX)
        .map(|word| (strsim::damerau_levenshtein(unknown, word), word))
        .min()
        .filter(|(distance, word)| *distance <= word.len().max(unknown.len()).div_ceil(2))
        .map(|(_, word)| word)
}

/// Durations as `90s`, `2h`, `500ms` in files. Use as `#[serde(with = "config::duration")]`.
pub mod duration {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::time::Millis;

    /// Writes the duration as text.
    ///
    /// # Errors
    /// The serialiser's own.
    pub fn serialize<S: Serializer>(value: &Millis, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&humantime::format_duration(Duration::from_millis(value.0)))
    }

    /// Reads text such as `90s`, if it is a duration.
    #[must_use]
    pub fn parse(text: &str) -> Option<Millis> {
        let duration = humantime::parse_duration(text).ok()?;
        u64::try_from(duration.as_millis()).ok().map(Millis)
    }

    /// Reads text such as `90s`.
    ///
    /// # Errors
    /// Not a duration; the message shows the form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(d)?;
        parse(&text)
            .ok_or_else(|| D::Error::custom(format!("{text:?} is not a duration: write 90s or 2h")))
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::time::Millis;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        learning_rate: f64,
        #[serde(with = "duration")]
        deadline: Millis,
    }

    #[test]
    fn an_unknown_field_names_the_line_and_the_nearest_known_one() {
        let error = parse::<Sample>("deadline = \"2h\"\nlerning_rate = 1.0", "a.toml").unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("a.toml, line 2: unknown field `lerning_rate`"), "{text}");
        assert!(text.ends_with("did you mean `learning_rate`?"), "{text}");
    }

    #[test]
    fn a_giant_field_is_named_and_compared_with_nothing() {
        // 250 kB against `learning_rate` would take 30 MB; a second word hides behind a backtick.
        let giant = "x".repeat(CONFIG_BYTES_MAX - 100);
        for word in [giant.clone(), format!("a`b`{giant}")] {
            let error = parse::<Sample>(&format!("'{word}' = 1\n"), "a.toml").unwrap_err();
            assert!(error.to_string().contains(&word), "the field is not named");
        }
        assert_eq!(nearest(&giant, ["learning_rate"].into_iter()), None);
        assert_eq!(nearest("learning_rat", [giant.as_str()].into_iter()), None);
    }

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        let sample = Sample { learning_rate: 1.0, deadline: Millis::from_secs(7200) };
        let text = toml::to_string(&sample).unwrap();
        assert!(text.contains("deadline = \"2h\""), "{text}");
        assert_eq!(parse::<Sample>(&text, "x").unwrap(), sample);
        let error = parse::<Sample>("learning_rate = 1.0\ndeadline = \"soon\"", "x").unwrap_err();
        assert!(error.to_string().contains("write 90s or 2h"), "{error}");
    }

    #[test]
    fn the_environment_goes_over_the_file_and_is_named_in_errors() {
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            site: Site,
            #[serde(default)]
            data: std::collections::BTreeMap<String, Data>,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Site {
            name: String,
            threads: u32,
        }
        #[derive(Debug, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Data {
            path: String,
        }
        let read = |text: &str, environment: &[(&str, &str)]| {
            let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
            let environment: Vec<_> = environment.iter().map(owned).collect();
            parse_with_environment::<File>(text, "agent.toml", environment.into_iter())
        };
        let text = "[site]\nname = \"a\"\n[data.chest-xray]\npath = \"/old\"";
        let over = [
            ("CONSILIUM_SITE__THREADS", "4"),
            ("CONSILIUM_DATA__CHEST_XRAY__PATH", "/new"),
            ("CONSILIUM_SEED", "7"),
            ("PATH", "/bin"),
        ];
        let file = read(text, &over).unwrap();
        assert_eq!((file.site.name.as_str(), file.site.threads), ("a", 4));
        assert_eq!(file.data["chest-xray"].path, "/new");

        let error = read(text, &[("CONSILIUM_SITE__TREADS", "4")]).unwrap_err().to_string();
        assert!(error.starts_with("agent.toml with CONSILIUM_SITE__TREADS: "), "{error}");
        assert!(error.contains("did you mean `threads`?"), "{error}");
        let error = read("[site]\nnme = \"a\"", &[]).unwrap_err().to_string();
        assert!(error.starts_with("agent.toml, line 2: unknown field `nme`"), "{error}");
    }
}
