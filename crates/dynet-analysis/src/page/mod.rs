//! The report as one page that needs nothing but itself.

pub(crate) mod layer;
pub(crate) mod overview;

use std::fmt::Write;

use crate::error::AnalysisError;
use crate::figures::canvas::Canvas;
use crate::figures::svg::{Target, svg};
use crate::report::Report;

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("script.js");

/// Text that is safe within HTML and SVG, attributes too.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            // Other control characters are allowed in neither XML nor HTML.
            c if c.is_control() && c != '\n' && c != '\t' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// Base64 with padding (RFC 4648).
pub(crate) fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let word = byte(0) << 16 | byte(1) << 8 | byte(2);
        for digit in 0..4 {
            let value = word >> (18 - 6 * digit) & 63;
            out.push(if digit <= chunk.len() { char::from(DIGITS[value as usize]) } else { '=' });
        }
    }
    out
}

/// A whole page around a body.
pub(crate) fn document(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; img-src data:; \
         style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n{body}\n<script>\n{SCRIPT}</script>\n\
         </body>\n</html>\n",
        escape(title)
    )
}

/// A figure within the page; wide ones scroll on a phone.
pub(crate) fn figure(canvas: &Canvas, caption: &str) -> Result<String, AnalysisError> {
    let class = if canvas.width > 500.0 { " class=\"wide scroll\"" } else { "" };
    let caption =
        if caption.is_empty() { String::new() } else { format!("<figcaption>{caption}</figcaption>") };
    Ok(format!("<figure{class}>{}{caption}</figure>\n", svg(canvas, Target::Page)?))
}

/// The whole report; `files` is the name of the folder beside it.
///
/// # Errors
/// A figure that cannot be encoded.
pub(crate) fn html(report: &Report, files: &str) -> Result<String, AnalysisError> {
    let labels: Vec<&str> = report.models.iter().map(|m| m.label.as_str()).collect();
    let title = format!("Correlation in {}", labels.join(" and "));
    let mut body = overview::overview(report, &title)?;
    body += &overview::by_layer(report)?;
    body += &overview::cka(report)?;
    let _ = write!(
        body,
        "<h2 id=\"layers\">Layer by layer</h2>\n<p class=\"soft\">Open a layer to see it.</p>\n"
    );
    for (number, name) in report.layer_names().into_iter().enumerate() {
        body += &layer::details(report, number, name)?;
    }
    body += &overview::notes(report, files);
    Ok(document(&title, &body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_its_published_values() {
        let cases = [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")];
        for (plain, coded) in cases {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }

    #[test]
    fn no_text_can_leave_its_place() {
        assert_eq!(escape("<a href='x'>\"&\u{0}"), "&lt;a href=&#39;x&#39;&gt;&quot;&amp;\u{fffd}");
    }
}
