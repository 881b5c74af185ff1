//! A figure as a list of marks, drawn as SVG or as PNG.

use super::color::Rgb;

/// What a mark is painted with. The page gives ink and grid other values in the dark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Text and axes.
    Ink,
    /// Grid lines.
    Grid,
    /// The same in light and dark.
    Color(Rgb),
}

/// Where a text stands about its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// Outline of a point, so that classes differ in shape too.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    Circle,
    Square,
    Triangle,
    Diamond,
}

impl Marker {
    pub(crate) const ALL: [Self; 4] = [Self::Circle, Self::Square, Self::Triangle, Self::Diamond];

    /// Corners about a point; `None` for the circle.
    pub(crate) fn corners(self, [x, y]: [f64; 2], r: f64) -> Option<Vec<[f64; 2]>> {
        match self {
            Self::Circle => None,
            Self::Square => {
                let a = 0.85 * r;
                Some(vec![[x - a, y - a], [x + a, y - a], [x + a, y + a], [x - a, y + a]])
            }
            Self::Triangle => Some(vec![[x, y - 1.15 * r], [x + r, y + 0.8 * r], [x - r, y + 0.8 * r]]),
            Self::Diamond => {
                Some(vec![[x, y - 1.2 * r], [x + 1.2 * r, y], [x, y + 1.2 * r], [x - 1.2 * r, y]])
            }
        }
    }
}

/// A picture of at most 256 colours.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Picture {
    pub(crate) width: usize,
    pub(crate) height: usize,
    pub(crate) palette: Vec<Rgb>,
    /// Index of each pixel's colour.
    pub(crate) pixels: Vec<u8>,
}

/// One mark. Units are pixels of the page.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Mark {
    Rect {
        at: [f64; 2],
        size: [f64; 2],
        fill: Paint,
    },
    /// An outline without filling.
    Frame {
        at: [f64; 2],
        size: [f64; 2],
        paint: Paint,
    },
    Line {
        points: Vec<[f64; 2]>,
        paint: Paint,
        width: f64,
        dashed: bool,
    },
    Point {
        at: [f64; 2],
        radius: f64,
        marker: Marker,
        paint: Paint,
        title: String,
    },
    Text {
        at: [f64; 2],
        text: String,
        anchor: Anchor,
        size: FontSize,
        paint: Paint,
        upright: bool,
    },
    Image {
        at: [f64; 2],
        size: [f64; 2],
        picture: Picture,
    },
}

/// Sizes of letters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FontSize {
    /// 10 pixels: ticks.
    Small,
    /// 12 pixels: names.
    Normal,
}

impl FontSize {
    pub(crate) fn pixels(self) -> f64 {
        match self {
            Self::Small => 10.0,
            Self::Normal => 12.0,
        }
    }

    /// Width to allow for a text: that of the wider of the two outputs' letters, 0.6 of their height.
    pub(crate) fn width(self, text: &str) -> f64 {
        text.chars().count() as f64 * self.pixels() * 0.6
    }
}

/// A figure.
#[derive(Clone, Debug)]
pub(crate) struct Canvas {
    pub(crate) width: f64,
    pub(crate) height: f64,
    /// What a reader who does not see it is told.
    pub(crate) description: String,
    pub(crate) marks: Vec<Mark>,
}

impl Canvas {
    pub(crate) fn new(width: f64, height: f64, description: impl Into<String>) -> Self {
        Self { width, height, description: description.into(), marks: Vec::new() }
    }

    pub(crate) fn text(&mut self, at: [f64; 2], text: impl Into<String>, anchor: Anchor, size: FontSize) {
        self.painted_text(at, text, anchor, size, Paint::Ink);
    }

    pub(crate) fn painted_text(
        &mut self,
        at: [f64; 2],
        text: impl Into<String>,
        anchor: Anchor,
        size: FontSize,
        paint: Paint,
    ) {
        let text = text.into();
        self.marks.push(Mark::Text { at, text, anchor, size, paint, upright: false });
    }

    /// A text that runs upwards, for vertical axes.
    pub(crate) fn upright(&mut self, at: [f64; 2], text: impl Into<String>) {
        let (anchor, size, paint) = (Anchor::Middle, FontSize::Normal, Paint::Ink);
        self.marks.push(Mark::Text { at, text: text.into(), anchor, size, paint, upright: true });
    }

    pub(crate) fn line(&mut self, points: Vec<[f64; 2]>, paint: Paint, width: f64) {
        self.marks.push(Mark::Line { points, paint, width, dashed: false });
    }

    pub(crate) fn rect(&mut self, at: [f64; 2], size: [f64; 2], fill: Paint) {
        self.marks.push(Mark::Rect { at, size, fill });
    }
}
