//! Figures as SVG text.

use std::fmt::Write;

use super::canvas::{Anchor, Canvas, Mark, Paint};
use super::raster::encode_picture;
use crate::error::AnalysisError;
use crate::page::escape;

/// Where an SVG is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Within the page, whose colours it takes.
    Page,
    /// In a file of its own, on white.
    File,
}

impl Paint {
    fn css(self, target: Target) -> String {
        match (self, target) {
            (Self::Ink, Target::Page) => "var(--ink)".into(),
            (Self::Grid, Target::Page) => "var(--grid)".into(),
            (Self::Color([r, g, b]), _) => format!("#{r:02x}{g:02x}{b:02x}"),
            (other, Target::File) => Self::Color(other.on_white()).css(target),
        }
    }
}

/// A number with at most two decimals.
fn number(x: f64) -> String {
    let text = format!("{x:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// The figure as SVG.
///
/// # Errors
/// A picture that cannot be encoded.
pub(crate) fn svg(canvas: &Canvas, target: Target) -> Result<String, AnalysisError> {
    let (w, h) = (number(canvas.width), number(canvas.height));
    let label = escape(&canvas.description);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{w}\" height=\"{h}\" viewBox=\"0 0 {w} {h}\" \
         role=\"img\" aria-label=\"{label}\" font-family=\"ui-sans-serif,system-ui,Helvetica,Arial,sans-serif\">"
    );
    if target == Target::File {
        let _ = write!(out, "<title>{label}</title><rect width=\"{w}\" height=\"{h}\" fill=\"#fff\"/>");
    }
    for mark in &canvas.marks {
        draw(&mut out, mark, target)?;
    }
    out += "</svg>";
    Ok(out)
}

fn points(list: &[[f64; 2]]) -> String {
    let pairs: Vec<String> = list.iter().map(|[x, y]| format!("{},{}", number(*x), number(*y))).collect();
    pairs.join(" ")
}

/// Appends one mark. Writing to a string cannot fail.
fn draw(out: &mut String, mark: &Mark, target: Target) -> Result<(), AnalysisError> {
    let boxed = |[x, y]: [f64; 2], [w, h]: [f64; 2]| {
        format!("x=\"{}\" y=\"{}\" width=\"{}\" height=\"{}\"", number(x), number(y), number(w), number(h))
    };
    let _ = match mark {
        Mark::Rect { at, size, fill } => {
            write!(out, "<rect {} fill=\"{}\"/>", boxed(*at, *size), fill.css(target))
        }
        Mark::Frame { at, size, paint } => {
            write!(out, "<rect {} fill=\"none\" stroke=\"{}\"/>", boxed(*at, *size), paint.css(target))
        }
        Mark::Line { points: list, paint, width, dashed } => {
            let dash = if *dashed { " stroke-dasharray=\"6 4\"" } else { "" };
            write!(
                out,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"{}\" stroke-linejoin=\"round\"{dash}/>",
                points(list),
                paint.css(target),
                number(*width)
            )
        }
        Mark::Point { at, radius, marker, paint, title } => {
            let title =
                if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
            let fill = paint.css(target);
            match marker.corners(*at, *radius) {
                Some(corners) => {
                    write!(out, "<polygon points=\"{}\" fill=\"{fill}\">{title}</polygon>", points(&corners))
                }
                None => write!(
                    out,
                    "<circle cx=\"{}\" cy=\"{}\" r=\"{}\" fill=\"{fill}\">{title}</circle>",
                    number(at[0]),
                    number(at[1]),
                    number(*radius)
                ),
            }
        }
        Mark::Text { at: [x, y], text, anchor, size, paint, upright } => {
            let anchor = match anchor {
                Anchor::Start => "start",
                Anchor::Middle => "middle",
                Anchor::End => "end",
            };
            let (x, y, size) = (number(*x), number(*y), size.pixels());
            let turn = if *upright { format!(" transform=\"rotate(-90 {x} {y})\"") } else { String::new() };
            write!(
                out,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"{anchor}\" fill=\"{}\"{turn}>{}</text>",
                paint.css(target),
                escape(text)
            )
        }
        Mark::Image { at, size, picture } => {
            let data = crate::page::base64(&encode_picture(picture)?);
            write!(
                out,
                "<image {} preserveAspectRatio=\"none\" style=\"image-rendering:pixelated\" href=\"data:image/png;base64,{data}\"/>",
                boxed(*at, *size)
            )
        }
    };
    Ok(())
}
