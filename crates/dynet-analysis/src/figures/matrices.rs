//! Matrices as pictures: correlations in clustered order, experts, CKA; and feature maps side by side.

use super::axes::{label, ticks};
use super::canvas::{Anchor, Canvas, FontSize, Mark, Paint, Picture};
use super::charts::shortened;
use super::color::{MISSING, Scale};
use crate::collect::AlikePair;

/// Colours of a scale in a picture; one more is for what has no value. 64 steps of r are 0.03 each: finer ones would only
/// make the files larger.
const STEPS: usize = 64;

fn palette(scale: Scale) -> Vec<[u8; 3]> {
    let [low, high] = scale.range();
    let color = |i: usize| scale.color(low + (high - low) * i as f64 / (STEPS - 1) as f64);
    (0..STEPS).map(color).chain([MISSING]).collect()
}

fn index(scale: Scale, value: f64) -> u8 {
    if !value.is_finite() {
        return STEPS as u8;
    }
    let [low, high] = scale.range();
    (((value - low) / (high - low)).clamp(0.0, 1.0) * (STEPS - 1) as f64).round() as u8
}

/// A matrix `[rows][columns]` as a picture of at most `most` pixels a side; where it is larger, a pixel is the mean of
/// the values that it stands for.
pub(crate) fn picture(
    scale: Scale,
    [rows, columns]: [usize; 2],
    most: usize,
    value: impl Fn(usize, usize) -> f64,
) -> Picture {
    let (height, width) = (rows.min(most).max(1), columns.min(most).max(1));
    let mut pixels = Vec::with_capacity(height * width);
    for y in 0..height {
        for x in 0..width {
            let (mut sum, mut count) = (0.0, 0);
            for row in y * rows / height..(y + 1) * rows / height {
                for column in x * columns / width..(x + 1) * columns / width {
                    let v = value(row, column);
                    if v.is_finite() {
                        (sum, count) = (sum + v, count + 1);
                    }
                }
            }
            pixels.push(index(scale, if count > 0 { sum / f64::from(count) } else { f64::NAN }));
        }
    }
    Picture { width, height, palette: palette(scale), pixels }
}

/// A bar of the scale's colours with its numbers.
fn color_bar(canvas: &mut Canvas, scale: Scale, [x, y]: [f64; 2], height: f64, name: &str) {
    let [low, high] = scale.range();
    let bar =
        picture(scale, [STEPS, 1], STEPS, |row, _| high - (high - low) * row as f64 / (STEPS - 1) as f64);
    canvas.marks.push(Mark::Image { at: [x, y], size: [12.0, height], picture: bar });
    let ticks = ticks([low, high], 4);
    for tick in &ticks {
        let at = y + height * (high - tick) / (high - low);
        canvas.text([x + 17.0, at + 3.5], label(*tick, &ticks), Anchor::Start, FontSize::Small);
    }
    canvas.text([x + 6.0, y - 8.0], name, Anchor::Middle, FontSize::Normal);
}

/// A square matrix of correlations or cosines, channels in the order given.
pub(crate) fn correlation(title: &str, symbol: &str, r: &[f32], order: &[usize], most: usize) -> Canvas {
    let n = order.len();
    let side = 260.0;
    let (left, top) = (30.0, 30.0);
    let mut canvas = Canvas::new(360.0, 330.0, format!("{title}, channels in clustered order"));
    canvas.text([left, 14.0], shortened(title, 270.0, FontSize::Normal), Anchor::Start, FontSize::Normal);
    let value = |row: usize, column: usize| f64::from(r[order[row] * n + order[column]]);
    let picture = picture(Scale::Signed, [n, n], most, value);
    canvas.marks.push(Mark::Image { at: [left, top], size: [side, side], picture });
    canvas.marks.push(Mark::Frame { at: [left, top], size: [side, side], paint: Paint::Grid });
    canvas.text(
        [left + side / 2.0, top + side + 18.0],
        format!("{n} channels, alike ones together"),
        Anchor::Middle,
        FontSize::Normal,
    );
    canvas.upright([left - 10.0, top + side / 2.0], "channels, same order");
    if r.iter().any(|v| !v.is_finite()) {
        let at = [left + side / 2.0, top + side + 34.0];
        canvas.text(at, "grey: channels that never vary", Anchor::Middle, FontSize::Small);
    }
    color_bar(&mut canvas, Scale::Signed, [left + side + 18.0, top + 14.0], side - 28.0, symbol);
    canvas
}

/// A small square matrix with its numbers: the experts of a layer.
pub(crate) fn experts(cosine: &[f64], k: usize) -> Canvas {
    let side = 240.0;
    let (left, top) = (44.0, 30.0);
    let cell = side / k.max(1) as f64;
    let mut canvas = Canvas::new(360.0, 330.0, "cosine of the experts among themselves");
    canvas.text([left, 14.0], "experts, mean over channels", Anchor::Start, FontSize::Normal);
    let picture = picture(Scale::Signed, [k, k], k.max(1), |row, column| cosine[row * k + column]);
    canvas.marks.push(Mark::Image { at: [left, top], size: [side, side], picture });
    for row in 0..k {
        let middle = top + (row as f64 + 0.5) * cell;
        if k <= 24 {
            canvas.text([left - 6.0, middle + 3.5], (row + 1).to_string(), Anchor::End, FontSize::Small);
            let at = [left + (row as f64 + 0.5) * cell, top + side + 13.0];
            if cell >= 14.0 {
                canvas.text(at, (row + 1).to_string(), Anchor::Middle, FontSize::Small);
            }
        }
        for column in (0..k).filter(|_| cell >= 34.0) {
            let v = cosine[row * k + column];
            // Dark ends of the scale want light letters.
            let paint = Paint::Color(if v.abs() > 0.6 { [255; 3] } else { [27, 31, 36] });
            let at = [left + (column as f64 + 0.5) * cell, middle + 3.5];
            canvas.painted_text(at, format!("{v:.2}"), Anchor::Middle, FontSize::Small, paint);
        }
    }
    canvas.text([left + side / 2.0, top + side + 32.0], "expert", Anchor::Middle, FontSize::Normal);
    canvas.upright([left - 28.0, top + side / 2.0], "expert");
    color_bar(&mut canvas, Scale::Signed, [left + side + 20.0, top + 14.0], side - 28.0, "cosine");
    canvas
}

/// Linear CKA of each layer of one model with each of another.
pub(crate) fn cka(
    names: [&str; 2],
    [rows, columns]: [usize; 2],
    value: impl Fn(usize, usize) -> f64,
) -> Canvas {
    let (left, top, side) = (56.0, 24.0, 380.0);
    let mut canvas = Canvas::new(540.0, 470.0, format!("CKA of the layers of {} and {}", names[0], names[1]));
    // The first layer stands at the bottom left, as in a chart.
    let picture =
        picture(Scale::Magnitude, [rows, columns], 512, |row, column| value(rows - 1 - row, column));
    canvas.marks.push(Mark::Image { at: [left, top], size: [side, side], picture });
    for (count, vertical) in [(rows, true), (columns, false)] {
        let every = [1, 2, 5, 10, 20, 50, 100, 200].into_iter().find(|e| count / e <= 12).unwrap_or(500);
        for layer in (1..=count).filter(|l| l.is_multiple_of(every)) {
            let along = (layer as f64 - 0.5) / count as f64 * side;
            if vertical {
                canvas.text(
                    [left - 6.0, top + side - along + 3.5],
                    layer.to_string(),
                    Anchor::End,
                    FontSize::Small,
                );
            } else {
                canvas.text(
                    [left + along, top + side + 14.0],
                    layer.to_string(),
                    Anchor::Middle,
                    FontSize::Small,
                );
            }
        }
    }
    let name = |model: &str| shortened(&format!("layer of {model}"), side, FontSize::Normal);
    canvas.text([left + side / 2.0, top + side + 34.0], name(names[1]), Anchor::Middle, FontSize::Normal);
    canvas.upright([16.0, top + side / 2.0], name(names[0]));
    color_bar(&mut canvas, Scale::Magnitude, [left + side + 24.0, top + 14.0], side - 28.0, "CKA");
    canvas
}

/// Pairs of feature maps of one image, each pair in one column, one range of colours for the two.
pub(crate) fn alike(pairs: &[AlikePair], [h, w]: [usize; 2]) -> Canvas {
    /// Pixels of a map's longer side in the file.
    const MOST: usize = 56;
    let side = 76.0;
    let scale = side / h.max(w).max(1) as f64;
    let size = [w as f64 * scale, h as f64 * scale];
    let mut canvas = Canvas::new(360.0, 2.0 * size[1] + 74.0, "most alike feature maps of one image");
    canvas.text([8.0, 14.0], "most alike feature maps, one image", Anchor::Start, FontSize::Normal);
    for (number, pair) in pairs.iter().take(4).enumerate() {
        let x = 8.0 + number as f64 * (side + 13.0);
        let values = || pair.maps.iter().flatten().copied().map(f64::from);
        let (low, high) = values().fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        let range = (high - low).max(1e-12);
        for (row, map) in pair.maps.iter().enumerate() {
            let value = |y: usize, x: usize| (f64::from(map[y * w + x]) - low) / range;
            let picture = picture(Scale::Magnitude, [h, w], MOST, value);
            let y = 26.0 + row as f64 * (size[1] + 16.0);
            canvas.marks.push(Mark::Image { at: [x, y], size, picture });
            let name = format!("channel {}", pair.channels[row] + 1);
            canvas.text([x, y + size[1] + 11.0], name, Anchor::Start, FontSize::Small);
        }
        let at = [x, 2.0 * size[1] + 68.0];
        canvas.text(at, format!("r = {:+.2}", pair.r), Anchor::Start, FontSize::Normal);
    }
    canvas
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_matrices_shrink_to_means_and_missing_values_stay_out() {
        let value = |row: usize, _: usize| match row {
            0 => 1.0,
            1 => 0.0,
            2 => f64::NAN,
            _ => -1.0,
        };
        let got = picture(Scale::Signed, [4, 4], 2, value);
        assert_eq!((got.width, got.height), (2, 2));
        // The mean of 1 and 0, then -1 alone: indices of 0.5 and -1 among 64.
        assert_eq!(got.pixels, [47, 47, 0, 0]);
        let missing = picture(Scale::Signed, [2, 2], 2, |_, _| f64::NAN);
        assert_eq!(missing.palette[usize::from(missing.pixels[0])], MISSING);
    }

    #[test]
    fn figures_of_any_size_can_be_drawn() {
        for k in [1, 2, 6, 16] {
            assert!(!experts(&vec![0.5; k * k], k).marks.is_empty());
        }
        let pair = AlikePair { channels: [0, 1], r: -0.5, maps: [vec![0.0; 6], vec![0.0; 6]] };
        for pairs in [vec![], vec![pair]] {
            assert!(super::super::raster::png(&alike(&pairs, [2, 3])).is_ok());
        }
        assert!(super::super::raster::png(&cka(["a", "b"], [3, 400], |_, _| 0.5)).is_ok());
    }
}
