//! HTML piece by piece. Every text from outside passes [`text`]: what is written here as markup is the
//! only markup that there is.

use std::fmt::{Display, Write};

/// `words` so that a browser shows them as they are, in an element or between quotes (HTML, "Escaping a
/// string").
pub(super) fn text(words: impl Display) -> String {
    let words = words.to_string();
    let mut safe = String::with_capacity(words.len());
    for character in words.chars() {
        match character {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

/// A table with a caption. Cells are markup: the first of a row heads it.
#[derive(Debug)]
pub(super) struct Table {
    markup: String,
}

impl Table {
    pub(super) fn new(caption: &str, header: &[&str]) -> Self {
        let mut markup =
            format!("<div class=\"wide\"><table><caption>{}</caption><thead><tr>", text(caption));
        for title in header {
            append(&mut markup, format_args!("<th scope=\"col\">{}</th>", text(title)));
        }
        markup.push_str("</tr></thead><tbody>");
        Self { markup }
    }

    pub(super) fn row(&mut self, cells: &[String]) {
        self.markup.push_str("<tr>");
        for (at, cell) in cells.iter().enumerate() {
            let row = if at == 0 {
                format!("<th scope=\"row\">{cell}</th>")
            } else {
                format!("<td>{cell}</td>")
            };
            self.markup.push_str(&row);
        }
        self.markup.push_str("</tr>");
    }

    pub(super) fn end(mut self) -> String {
        self.markup.push_str("</tbody></table></div>\n");
        self.markup
    }
}

/// Appends what a format makes.
pub(super) fn append(markup: &mut String, piece: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _never = markup.write_fmt(piece);
}

/// A part of the page under a heading.
pub(super) fn section(title: &str, body: &str) -> String {
    let title = text(title);
    format!("<section><h2>{title}</h2>\n{body}</section>\n")
}

/// What is opened by key or by click.
pub(super) fn details(summary: &str, body: &str) -> String {
    format!("<details><summary>{}</summary>{body}</details>\n", text(summary))
}

/// The whole page: no script, nothing from elsewhere.
pub(super) fn page(title: &str, body: &str) -> String {
    let title = text(title);
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; \
         style-src 'unsafe-inline'\">\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_becomes_markup() {
        let hostile = "<script>alert('1')</script> \"&\"";
        let safe = text(hostile);
        assert_eq!(safe, "&lt;script&gt;alert(&#39;1&#39;)&lt;/script&gt; &quot;&amp;&quot;");
        let mut table = Table::new("<b>", &["<i>"]);
        table.row(&[text("<u>"), "1".to_owned()]);
        let whole = page("<s>", &section("<q>", &(table.end() + &details("<h>", ""))));
        for tag in ["<b>", "<i>", "<u>", "<s>", "<q>", "<h>", "<script"] {
            assert!(!whole.contains(tag), "{tag}");
        }
        assert!(whole.contains("<th scope=\"row\">&lt;u&gt;</th><td>1</td>"), "{whole}");
    }
}
