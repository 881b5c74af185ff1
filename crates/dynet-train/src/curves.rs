//! Curves of a run as SVG.

use std::ops::Range;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::error::TrainError;
use crate::report::EpochReport;
use crate::run_folder::RunFolder;

/// Blue and vermilion of Okabe and Ito's palette: readable by the colour-blind, and the second line is dashed too.
const TRAIN: RGBColor = RGBColor(0, 114, 178);
const VALIDATION: RGBColor = RGBColor(213, 94, 0);

/// One line of a figure.
struct Line<'a> {
    name: &'a str,
    color: RGBColor,
    dashed: bool,
    values: Vec<f64>,
}

/// Draws `plots/loss.svg`, `plots/accuracy.svg` and `plots/learning_rate.svg`.
pub(crate) fn draw(folder: &RunFolder, history: &[EpochReport]) -> Result<(), TrainError> {
    let line = |name, color, dashed, value: fn(&EpochReport) -> f64| Line {
        name,
        color,
        dashed,
        values: history.iter().map(value).collect(),
    };
    let figures = [
        (
            "loss",
            "cross entropy (nats)",
            vec![
                line("training", TRAIN, false, |r| r.train_loss),
                line("validation", VALIDATION, true, |r| r.val_loss),
            ],
        ),
        (
            "accuracy",
            "top-1 accuracy (%)",
            vec![
                line("training, augmented", TRAIN, false, |r| 100.0 * r.train_top1),
                line("validation", VALIDATION, true, |r| 100.0 * r.val_top1),
            ],
        ),
        ("learning_rate", "learning rate", vec![line("learning rate", TRAIN, false, |r| r.learning_rate)]),
    ];
    for (name, unit, lines) in figures {
        let file = format!("plots/{name}.svg");
        let svg = figure(unit, &lines)
            .map_err(|problem| TrainError::Figure { path: folder.path().join(&file), problem })?;
        folder.write(&file, svg.as_bytes())?;
    }
    Ok(())
}

fn figure(unit: &str, lines: &[Line<'_>]) -> Result<String, String> {
    let mut svg = String::new();
    let epochs = lines.iter().map(|l| l.values.len()).max().unwrap_or(0);
    {
        let area = SVGBackend::with_string(&mut svg, (720, 440)).into_drawing_area();
        draw_figure(&area, unit, lines, epochs).map_err(|e| e.to_string())?;
        area.present().map_err(|e| e.to_string())?;
    }
    Ok(svg)
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;

fn draw_figure(
    area: &Area<'_>,
    unit: &str,
    lines: &[Line<'_>],
    epochs: usize,
) -> Result<(), Box<dyn std::error::Error>> {
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .margin(14)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.5..epochs.max(1) as f64 + 0.5, span(lines))?;
    chart
        .configure_mesh()
        .x_desc("epoch")
        .y_desc(unit)
        .x_labels(epochs.clamp(2, 12))
        .x_label_formatter(&|x| format!("{x:.0}"))
        .axis_desc_style(("sans-serif", 16))
        .label_style(("sans-serif", 13))
        .light_line_style(WHITE)
        .draw()?;
    for (row, line) in lines.iter().enumerate() {
        let points: Vec<(f64, f64)> =
            line.values.iter().enumerate().map(|(i, v)| (i as f64 + 1.0, *v)).collect();
        let style = line.color.stroke_width(2);
        if line.dashed {
            chart.draw_series(DashedLineSeries::new(points.clone(), 7, 4, style))?;
        } else {
            chart.draw_series(LineSeries::new(points.clone(), style))?;
        }
        chart.draw_series(points.iter().map(|p| Circle::new(*p, 3, line.color.filled())))?;
        // Names in the upper right corner, in the colour of their lines.
        let text =
            TextStyle::from(("sans-serif", 14)).color(&line.color).pos(Pos::new(HPos::Right, VPos::Top));
        area.draw_text(line.name, &text, (698, 22 + 20 * row as i32))?;
    }
    Ok(())
}

/// The values' range with a margin, never empty.
fn span(lines: &[Line<'_>]) -> Range<f64> {
    let values = lines.iter().flat_map(|l| l.values.iter().copied()).filter(|v| v.is_finite());
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return 0.0..1.0;
    }
    // The upper eighth stays free for the names of the lines.
    let height = (high - low).max(1e-6 * high.abs()).max(1e-9);
    low - 0.05 * height..high + 0.2 * height
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_names_its_axes_and_lines() {
        let line = |values| Line { name: "validation", color: VALIDATION, dashed: true, values };
        let svg = figure("loss (nats)", &[line(vec![2.0, 1.0, 0.5])]).unwrap();
        for part in ["<svg", "epoch", "loss (nats)", "validation"] {
            assert!(svg.contains(part), "{part}");
        }
    }

    #[test]
    fn one_value_or_none_or_an_infinite_one_still_make_a_figure() {
        for values in [vec![], vec![1.0], vec![1.0, 1.0], vec![f64::NAN, f64::INFINITY, 2.0]] {
            let line = Line { name: "x", color: TRAIN, dashed: false, values };
            assert!(figure("y", &[line]).unwrap().contains("</svg>"));
        }
    }
}
