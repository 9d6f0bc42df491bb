//! What a field of a table says: a number, or that there is none.

/// A finite decimal number, with spaces around it at most: sign, digits, `decimal`, digits, exponent.
/// No thousands separators, no hexadecimal, no names such as `inf`.
pub(crate) fn number(text: &str, decimal: char) -> Option<f64> {
    let text = text.trim_matches([' ', '\t']);
    let plain = |c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | 'e' | 'E') || c == decimal;
    if !text.chars().all(plain) {
        return None;
    }
    let parsed: Result<f64, _> =
        if decimal == '.' { text.parse() } else { text.replace(decimal, ".").parse() };
    parsed.ok().filter(|number| number.is_finite())
}

/// What stands for "not known" in a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Missing(Vec<String>);

impl Missing {
    /// These markers and no others.
    pub(crate) fn of(markers: Vec<String>) -> Self {
        Self(markers)
    }

    /// Whether `field`, without spaces around it, is one of the markers; exact in case.
    pub(crate) fn is(&self, field: &str) -> bool {
        let field = field.trim_matches([' ', '\t']);
        self.0.iter().any(|marker| marker == field)
    }
}

impl Default for Missing {
    /// The empty field and what R, pandas, SQL exports and the UCI archive write.
    fn default() -> Self {
        Self(["", "NA", "NaN", "null", "?"].map(str::to_owned).to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal_finite_and_of_one_decimal_mark() {
        let cases = [("1", 1.0), ("-2.50", -2.5), (" 3e2 ", 300.0), ("+.5", 0.5), ("7.", 7.0)];
        for (text, value) in cases {
            assert_eq!(number(text, '.'), Some(value), "{text:?}");
            assert_eq!(number(&text.replace('.', ","), ','), Some(value), "{text:?}");
        }
        for text in
            ["", " ", "1,5", "inf", "NaN", "0x10", "1e999", "1 000", "١", "--1", "1.2.3", "e"]
        {
            assert_eq!(number(text, '.'), None, "{text:?}");
        }
        assert_eq!(number("1.5", ','), None);
        assert_eq!(number("1.000,5", ','), None);
    }

    #[test]
    fn markers_of_missing_values_are_exact() {
        let usual = Missing::default();
        assert!(["", " ", "NA", "NaN", "null", "?", "NA "].iter().all(|field| usual.is(field)));
        assert!(!["na", "0", "-9", "none"].iter().any(|field| usual.is(field)));
        let own = Missing::of(vec!["-9".to_owned()]);
        assert!(own.is("-9") && !own.is(""));
    }
}
