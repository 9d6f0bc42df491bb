//! Files that people write: TOML with every unknown field refused, durations as people write them,
//! and errors that name the file, the line and the nearest known field.

use serde::de::DeserializeOwned;

use crate::limits::CONFIG_BYTES_MAX;

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

/// The known word that `unknown` was most likely meant to be.
pub fn nearest<'a>(unknown: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    known
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

    /// Reads text such as `90s`.
    ///
    /// # Errors
    /// Not a duration; the message shows the form.
    pub fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Millis, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text)
            .ok()
            .and_then(|duration| u64::try_from(duration.as_millis()).ok())
            .map(Millis)
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
        assert!(
            text.starts_with("a.toml, line 2: unknown field `lerning_rate`"),
            "{text}"
        );
        assert!(text.ends_with("did you mean `learning_rate`?"), "{text}");
    }

    #[test]
    fn durations_are_read_and_written_as_people_do() {
        let sample = Sample {
            learning_rate: 1.0,
            deadline: Millis::from_secs(7200),
        };
        let text = toml::to_string(&sample).unwrap();
        assert!(text.contains("deadline = \"2h\""), "{text}");
        assert_eq!(parse::<Sample>(&text, "x").unwrap(), sample);
        let error = parse::<Sample>("learning_rate = 1.0\ndeadline = \"soon\"", "x").unwrap_err();
        assert!(error.to_string().contains("write 90s or 2h"), "{error}");
    }
}
