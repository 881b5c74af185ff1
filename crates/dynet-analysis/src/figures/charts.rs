//! Charts: values by layer, bands by layer, histograms, maps of images, accuracy against latency.

use super::axes::{Axes, span};
use super::canvas::{Anchor, Canvas, FontSize, Mark, Marker, Paint};
use super::color::{BANDS, SERIES};
use crate::coefficients::MapPoint;
use crate::correlation::Bands;

/// A named row of values.
pub(crate) struct Series<'a> {
    pub(crate) name: &'a str,
    pub(crate) values: Vec<f64>,
}

fn color(number: usize) -> Paint {
    Paint::Color(SERIES[number % SERIES.len()])
}

fn marker(number: usize) -> Marker {
    Marker::ALL[number % Marker::ALL.len()]
}

/// Cuts a name to what fits, with two dots.
pub(crate) fn shortened(name: &str, width: f64, size: FontSize) -> String {
    let most = (width / size.width("m")) as usize;
    if name.chars().count() <= most {
        return name.to_owned();
    }
    name.chars().take(most.saturating_sub(2)).collect::<String>() + ".."
}

/// A legend in rows within a width; returns the height it takes.
fn legend(
    canvas: &mut Canvas,
    [left, top]: [f64; 2],
    width: f64,
    entries: &[(String, Paint, Option<Marker>)],
) -> f64 {
    let (mut x, mut y) = (left, top);
    for (name, paint, marker) in entries {
        let name = shortened(name, width - 24.0, FontSize::Normal);
        let needed = 34.0 + FontSize::Normal.width(&name);
        if x > left && x + needed > left + width {
            (x, y) = (left, y + 18.0);
        }
        match marker {
            Some(marker) => {
                let (at, title) = ([x + 6.0, y - 4.0], String::new());
                canvas.marks.push(Mark::Point { at, radius: 4.5, marker: *marker, paint: *paint, title });
            }
            None => canvas.rect([x, y - 10.0], [12.0, 12.0], *paint),
        }
        canvas.text([x + 17.0, y], name, Anchor::Start, FontSize::Normal);
        x += needed;
    }
    y - top + 18.0
}

/// One line a model over the layers, in the order in which they run.
pub(crate) fn by_layer(what: &str, unit: &str, layers: &[String], series: &[Series<'_>]) -> Canvas {
    let mut canvas = Canvas::new(760.0, 320.0, format!("{what} by layer"));
    let entries: Vec<_> =
        series.iter().enumerate().map(|(i, s)| (s.name.to_owned(), color(i), Some(marker(i)))).collect();
    let top = 20.0 + if series.len() > 1 { legend(&mut canvas, [64.0, 18.0], 680.0, &entries) } else { 0.0 };
    let count = layers.len().max(1);
    let axes = Axes {
        left: 64.0,
        top,
        width: 680.0,
        height: 320.0 - top - 44.0,
        x: [0.5, count as f64 + 0.5],
        y: span(series.iter().flat_map(|s| s.values.iter().copied())),
    };
    let name = if unit.is_empty() { what.to_owned() } else { format!("{what} ({unit})") };
    axes.draw_y(&mut canvas, &name);
    numbers_below(&mut canvas, &axes, count);
    axes.name_x(&mut canvas, "layer, in the order in which they run");
    for (i, s) in series.iter().enumerate() {
        let points: Vec<(usize, [f64; 2])> = s
            .values
            .iter()
            .enumerate()
            .filter(|(_, v)| v.is_finite())
            .map(|(layer, v)| (layer, axes.at(layer as f64 + 1.0, *v)))
            .collect();
        let line = points.iter().map(|p| p.1).collect();
        canvas.marks.push(Mark::Line { points: line, paint: color(i), width: 1.5, dashed: i % 2 == 1 });
        for (layer, at) in points {
            let title = format!("{}, {}: {:.4}", s.name, layers[layer], s.values[layer]);
            canvas.marks.push(Mark::Point { at, radius: 3.5, marker: marker(i), paint: color(i), title });
        }
    }
    canvas
}

/// Ticks of whole layers.
fn numbers_below(canvas: &mut Canvas, axes: &Axes, count: usize) {
    let every = [1, 2, 5, 10, 20, 50, 100, 200, 500].into_iter().find(|e| count / e <= 20).unwrap_or(1000);
    for layer in (1..=count).filter(|l| *l == 1 || l.is_multiple_of(every)) {
        // The first of a coarse row would touch its neighbour.
        if layer == 1 && every > 1 && every < 3 {
            continue;
        }
        let [x, bottom] = axes.at(layer as f64, axes.y[0]);
        canvas.line(vec![[x, bottom], [x, bottom + 4.0]], Paint::Ink, 1.0);
        canvas.text([x, bottom + 15.0], layer.to_string(), Anchor::Middle, FontSize::Small);
    }
}

/// Shares of the four bands of |r| as one column a layer, one panel a model.
pub(crate) fn bands_by_layer(models: &[(&str, Vec<[f64; 4]>)], bands: &Bands) -> Canvas {
    let (panel, top) = (150.0, 40.0);
    let height = top + models.len() as f64 * (panel + 30.0) + 40.0;
    let mut canvas = Canvas::new(760.0, height, "shares of strong, middle, weak and no correlation by layer");
    let lows = [bands.strong, bands.middle, bands.weak, 0.0];
    let entry = |i: usize| {
        let text = if i == 3 { "none".into() } else { format!("{} (|r| >= {})", Bands::NAMES[i], lows[i]) };
        (text, Paint::Color(BANDS[i]), None)
    };
    legend(&mut canvas, [64.0, 18.0], 680.0, &[entry(0), entry(1), entry(2), entry(3)]);
    for (number, (name, rows)) in models.iter().enumerate() {
        let count = rows.len().max(1);
        let y0 = top + 18.0 + number as f64 * (panel + 30.0);
        let axes = Axes {
            left: 64.0,
            top: y0,
            width: 680.0,
            height: panel - 8.0,
            x: [0.5, count as f64 + 0.5],
            y: [0.0, 100.0],
        };
        let name = shortened(name, 680.0, FontSize::Normal);
        canvas.text([64.0, y0 - 6.0], name, Anchor::Start, FontSize::Normal);
        axes.draw_y(&mut canvas, "pairs (%)");
        let wide = axes.width / count as f64;
        let gap = if wide > 5.0 { 1.5 } else { 0.0 };
        for (layer, shares) in rows.iter().enumerate() {
            let mut below = 0.0;
            for (share, rgb) in shares.iter().zip(BANDS) {
                let (low, high) = (axes.at(0.0, 100.0 * below)[1], axes.at(0.0, 100.0 * (below + share))[1]);
                let x = axes.left + wide * layer as f64 + gap / 2.0;
                canvas.rect([x, high], [wide - gap, low - high], Paint::Color(rgb));
                below += share;
            }
        }
        if number + 1 == models.len() {
            numbers_below(&mut canvas, &axes, count);
            axes.name_x(&mut canvas, "layer, in the order in which they run");
        }
    }
    canvas
}

/// Outlines of histograms over `range`, in per cent of what each counts.
pub(crate) fn histogram(what: &str, unit: &str, range: [f64; 2], series: &[(&str, &[u64])]) -> Canvas {
    let mut canvas = Canvas::new(360.0, 250.0, format!("histogram of {what}"));
    let entries: Vec<_> = series.iter().enumerate().map(|(i, s)| (s.0.to_owned(), color(i), None)).collect();
    let top = 16.0 + if series.len() > 1 { legend(&mut canvas, [52.0, 18.0], 296.0, &entries) } else { 0.0 };
    let shares: Vec<Vec<f64>> = series
        .iter()
        .map(|(_, counts)| {
            let all = counts.iter().sum::<u64>().max(1) as f64;
            counts.iter().map(|c| 100.0 * *c as f64 / all).collect()
        })
        .collect();
    let most = shares.iter().flatten().copied().fold(0.0, f64::max);
    let (x, y) = (range, [0.0, 1.06 * most.max(1e-9)]);
    let axes = Axes { left: 52.0, top, width: 296.0, height: 250.0 - top - 44.0, x, y };
    axes.draw(&mut canvas, what, unit);
    for (i, shares) in shares.iter().enumerate() {
        let step = (range[1] - range[0]) / shares.len().max(1) as f64;
        let mut points = vec![axes.at(range[0], 0.0)];
        for (bin, share) in shares.iter().enumerate() {
            points.push(axes.at(range[0] + bin as f64 * step, *share));
            points.push(axes.at(range[0] + (bin + 1) as f64 * step, *share));
        }
        points.push(axes.at(range[1], 0.0));
        canvas.marks.push(Mark::Line { points, paint: color(i), width: 1.8, dashed: i % 2 == 1 });
    }
    canvas
}

/// Images on their first two principal components, a colour and a shape for each class.
pub(crate) fn image_map(points: &[MapPoint], explained: [f64; 2], labels: &[String]) -> Canvas {
    /// With more classes the legend would say nothing.
    const NAMED: usize = 12;
    let mut canvas = Canvas::new(360.0, 330.0, "map of images by their coefficients");
    let mut classes: Vec<usize> = points.iter().map(|p| p.class).collect();
    classes.sort_unstable();
    classes.dedup();
    let place = |class: usize| classes.iter().position(|c| *c == class).unwrap_or(0);
    let named = (2..=NAMED).contains(&classes.len());
    // Each class its own pair of colour and shape: 6 colours, then the next shape.
    let style = |class: usize| match named {
        true => (color(place(class)), marker(place(class) + place(class) / SERIES.len())),
        false => (color(0), Marker::Circle),
    };
    let entry = |class: &usize| {
        let name = labels.get(*class).cloned().unwrap_or_else(|| class.to_string());
        (shortened(&name, 90.0, FontSize::Normal), style(*class).0, Some(style(*class).1))
    };
    let entries: Vec<_> = classes.iter().map(entry).collect();
    let top = 14.0 + if named { legend(&mut canvas, [52.0, 18.0], 296.0, &entries) } else { 4.0 };
    canvas.height = 290.0 + top;
    let axes = Axes {
        left: 52.0,
        top,
        width: 296.0,
        height: 240.0,
        x: span(points.iter().map(|p| p.x)),
        y: span(points.iter().map(|p| p.y)),
    };
    let name = |n: usize| format!("component {} ({:.0} % of variance)", n + 1, 100.0 * explained[n]);
    axes.draw(&mut canvas, &name(0), &name(1));
    for p in points {
        let (paint, marker) = style(p.class);
        let title = labels.get(p.class).cloned().unwrap_or_default();
        canvas.marks.push(Mark::Point { at: axes.at(p.x, p.y), radius: 3.0, marker, paint, title });
    }
    canvas
}

/// Points with names, as accuracy against latency.
pub(crate) fn scatter(x_name: &str, y_name: &str, points: &[(String, f64, f64)]) -> Canvas {
    let mut canvas = Canvas::new(760.0, 400.0, format!("{y_name} against {x_name}"));
    let entries: Vec<_> =
        points.iter().enumerate().map(|(i, p)| (p.0.clone(), color(i), Some(marker(i)))).collect();
    let top = 20.0 + legend(&mut canvas, [70.0, 18.0], 670.0, &entries);
    canvas.height = 380.0 + top;
    let axes = Axes {
        left: 70.0,
        top,
        width: 670.0,
        height: 330.0,
        x: span(points.iter().map(|p| p.1)),
        y: span(points.iter().map(|p| p.2)),
    };
    axes.draw(&mut canvas, x_name, y_name);
    for (i, (name, x, y)) in points.iter().enumerate().filter(|p| p.1.1.is_finite() && p.1.2.is_finite()) {
        let title = format!("{name}: {x:.3}, {y:.3}");
        let (at, radius) = (axes.at(*x, *y), 6.0);
        canvas.marks.push(Mark::Point { at, radius, marker: marker(i), paint: color(i), title });
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::super::svg::{Target, svg};
    use super::*;

    /// Boxes of all texts that are not turned.
    fn text_boxes(canvas: &Canvas) -> Vec<(String, [f64; 4])> {
        let mut boxes = Vec::new();
        for mark in &canvas.marks {
            if let Mark::Text { at: [x, y], text, anchor, size, upright: false, .. } = mark {
                let width = size.width(text);
                let x = match anchor {
                    Anchor::Start => *x,
                    Anchor::Middle => x - width / 2.0,
                    Anchor::End => x - width,
                };
                boxes.push((text.clone(), [x, y - 0.75 * size.pixels(), x + width, y + 0.2 * size.pixels()]));
            }
        }
        boxes
    }

    /// No text on another, and none beyond the edge.
    fn assert_clear(canvas: &Canvas) {
        let boxes = text_boxes(canvas);
        for (i, (text, a)) in boxes.iter().enumerate() {
            let inside =
                a[0] >= -0.5 && a[1] >= -0.5 && a[2] <= canvas.width + 0.5 && a[3] <= canvas.height + 0.5;
            assert!(inside, "{}: `{text}` at {a:?}", canvas.description);
            for (other, b) in &boxes[..i] {
                let apart = a[2] <= b[0] || b[2] <= a[0] || a[3] <= b[1] || b[3] <= a[1];
                assert!(apart, "{}: `{text}` {a:?} on `{other}` {b:?}", canvas.description);
            }
        }
    }

    #[test]
    fn nothing_overlaps_for_few_and_for_many() {
        let long = "a run with a name that is rather longer than anyone should give it";
        for (models, layers) in [(1, 1), (2, 20), (3, 53), (5, 161), (2, 450)] {
            let names: Vec<String> = (0..layers).map(|i| format!("layer{i}")).collect();
            let values = |m: usize| (0..layers).map(|l| ((l * 7 + m) as f64).sin().abs() * 0.3).collect();
            let series: Vec<_> = (0..models).map(|m| Series { name: long, values: values(m) }).collect();
            assert_clear(&by_layer("mean |r|", "", &names, &series));
            let rows = vec![[0.1, 0.2, 0.3, 0.4]; layers];
            let panels: Vec<_> = (0..models).map(|_| (long, rows.clone())).collect();
            assert_clear(&bands_by_layer(&panels, &Bands::default()));
            let counts: Vec<u64> = (0..40).collect();
            let histograms: Vec<_> = (0..models).map(|_| (long, &counts[..])).collect();
            assert_clear(&histogram("correlation r", "pairs (%)", [-1.0, 1.0], &histograms));
            let runs: Vec<_> = (0..models).map(|m| (long.to_owned(), 0.1 * m as f64, 90.0)).collect();
            assert_clear(&scatter("milliseconds an image", "top-1 (%)", &runs));
        }
        for classes in [1, 2, 10, 12, 100] {
            let point = |i: usize| MapPoint { x: (i as f64).sin(), y: (i as f64).cos(), class: i % classes };
            let points: Vec<MapPoint> = (0..200).map(point).collect();
            let labels: Vec<String> = (0..classes).map(|c| format!("class number {c}")).collect();
            assert_clear(&image_map(&points, [0.5, 0.25], &labels));
        }
    }

    #[test]
    fn axes_have_names_and_names_are_escaped() {
        let series = [Series { name: "<b>", values: vec![0.1, f64::NAN, 0.3] }];
        let names = ["a".to_owned(), "b".to_owned(), "c & d".to_owned()];
        let text = svg(&by_layer("mean |r|", "share", &names, &series), Target::File).unwrap();
        for part in ["mean |r| (share)", "layer, in the order", "&lt;b&gt;, c &amp; d"] {
            assert!(text.contains(part), "{part}");
        }
        assert!(!text.contains("<b>") && !text.contains("NaN"));
    }
}
