//! Axes: ticks at round numbers, names with units, grid.

use super::canvas::{Anchor, Canvas, FontSize, Paint};

/// The rectangle of a chart and the values along its sides.
#[derive(Clone, Debug)]
pub(crate) struct Axes {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) x: [f64; 2],
    pub(crate) y: [f64; 2],
}

impl Axes {
    /// Place of a value on the canvas; values beyond an end are drawn at it.
    pub(crate) fn at(&self, x: f64, y: f64) -> [f64; 2] {
        let share = |v: f64, [low, high]: [f64; 2]| ((v - low) / (high - low)).clamp(0.0, 1.0);
        [self.left + self.width * share(x, self.x), self.top + self.height * (1.0 - share(y, self.y))]
    }

    /// Grid, ticks and names of the axes.
    pub(crate) fn draw(&self, canvas: &mut Canvas, x_name: &str, y_name: &str) {
        self.draw_y(canvas, y_name);
        let ticks = ticks(self.x, (self.width / 60.0) as usize);
        for tick in &ticks {
            let [x, bottom] = self.at(*tick, self.y[0]);
            canvas.line(vec![[x, bottom], [x, bottom + 4.0]], Paint::Ink, 1.0);
            canvas.text([x, bottom + 15.0], label(*tick, &ticks), Anchor::Middle, FontSize::Small);
        }
        self.name_x(canvas, x_name);
    }

    /// The vertical axis with the grid, and the line at the bottom.
    pub(crate) fn draw_y(&self, canvas: &mut Canvas, y_name: &str) {
        let ticks = ticks(self.y, (self.height / 36.0) as usize);
        let mut widest = 0.0_f64;
        for tick in &ticks {
            let [x, y] = self.at(self.x[0], *tick);
            canvas.line(vec![[x, y], [x + self.width, y]], Paint::Grid, 1.0);
            let text = label(*tick, &ticks);
            widest = widest.max(FontSize::Small.width(&text));
            canvas.text([x - 6.0, y + 3.5], text, Anchor::End, FontSize::Small);
        }
        let [x, bottom] = [self.left, self.top + self.height];
        canvas.line(vec![[x, bottom], [x + self.width, bottom]], Paint::Ink, 1.0);
        if !y_name.is_empty() {
            canvas.upright([(self.left - widest - 14.0).max(11.0), self.top + self.height / 2.0], y_name);
        }
    }

    /// The horizontal axis' name, below its ticks.
    pub(crate) fn name_x(&self, canvas: &mut Canvas, name: &str) {
        let at = [self.left + self.width / 2.0, self.top + self.height + 32.0];
        canvas.text(at, name, Anchor::Middle, FontSize::Normal);
    }
}

/// Round values within a range, at most about `most` of them, at least two where the range is not empty.
pub(crate) fn ticks([low, high]: [f64; 2], most: usize) -> Vec<f64> {
    let span = high - low;
    if !(span.is_finite() && span > 0.0) {
        return vec![low];
    }
    let rough = span / most.max(2) as f64;
    let power = 10.0_f64.powf(rough.log10().floor());
    let step =
        [1.0, 2.0, 2.5, 5.0, 10.0].iter().map(|m| m * power).find(|s| *s >= rough * 0.999).unwrap_or(power);
    let first = (low / step - 1e-9).ceil() as i64;
    let last = (high / step + 1e-9).floor() as i64;
    (first..=last).map(|i| i as f64 * step).collect()
}

/// A tick's number, with as many decimals as tell it from its neighbours.
pub(crate) fn label(tick: f64, all: &[f64]) -> String {
    let step = all.windows(2).map(|w| w[1] - w[0]).fold(f64::INFINITY, f64::min);
    let step = if step.is_finite() { step } else { 1.0 };
    let decimals = (0..8).find(|d| {
        let scaled = step * 10.0_f64.powi(*d);
        (scaled - scaled.round()).abs() < 1e-6 * scaled.max(1.0)
    });
    let text = format!("{tick:.*}", decimals.unwrap_or(2) as usize);
    if text.trim_matches(['-', '0', '.']).is_empty() { text.trim_start_matches('-').to_owned() } else { text }
}

/// A range that holds the values, with a margin; from zero where they are near it.
pub(crate) fn span(values: impl Iterator<Item = f64>) -> [f64; 2] {
    let finite = values.filter(|v| v.is_finite());
    let (low, high) = finite.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return [0.0, 1.0];
    }
    let height = (high - low).max(1e-9 + 0.02 * high.abs());
    let low = if low >= 0.0 && low < 0.5 * high { 0.0 } else { low - 0.06 * height };
    [low, high + 0.06 * height]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_their_labels_differ() {
        assert_eq!(ticks([0.0, 1.0], 5), [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]);
        for range in [[0.0, 0.013], [-1.0, 1.0], [3.0, 52.0], [0.25, 0.26], [0.0, 3e6]] {
            let ticks = ticks(range, 6);
            assert!((2..=8).contains(&ticks.len()), "{range:?}: {ticks:?}");
            let mut labels: Vec<String> = ticks.iter().map(|t| label(*t, &ticks)).collect();
            labels.dedup();
            assert_eq!(labels.len(), ticks.len(), "{labels:?}");
        }
        assert_eq!(label(-0.0, &[-0.5, 0.0]), "0.0");
        assert_eq!(ticks([1.0, 1.0], 5), [1.0]);
    }

    #[test]
    fn a_range_is_never_empty() {
        for values in [vec![], vec![f64::NAN], vec![2.0], vec![0.0, 0.0], vec![-1.0, 5.0]] {
            let [low, high] = span(values.iter().copied());
            assert!(low < high && low.is_finite() && high.is_finite(), "{values:?}");
        }
    }
}
