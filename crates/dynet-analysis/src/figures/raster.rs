//! Figures as PNG: our own drawing, with letters from a bitmap font, so that no system library is needed.

use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use super::canvas::{Anchor, Canvas, FontSize, Mark, Paint, Picture};
use super::color::Rgb;
use crate::error::AnalysisError;

/// Pixels of the file for one of the page.
const SCALE: f64 = 2.0;

impl Paint {
    /// Its colour on white.
    pub(crate) fn on_white(self) -> Rgb {
        match self {
            Self::Ink => [27, 31, 36],
            Self::Grid => [216, 222, 228],
            Self::Color(rgb) => rgb,
        }
    }
}

fn failed(problem: impl ToString) -> AnalysisError {
    AnalysisError::Figure { name: "PNG".into(), problem: problem.to_string() }
}

/// A picture as palette PNG.
///
/// # Errors
/// What the encoder refused.
pub(crate) fn encode_picture(picture: &Picture) -> Result<Vec<u8>, AnalysisError> {
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, picture.width as u32, picture.height as u32);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_palette(picture.palette.concat());
    encoder.set_compression(png::Compression::High);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(&picture.pixels).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

/// The figure as PNG, on white, at twice its size.
///
/// # Errors
/// What the encoder refused.
pub(crate) fn png(canvas: &Canvas) -> Result<Vec<u8>, AnalysisError> {
    let mut raster = Raster::new((canvas.width * SCALE) as usize, (canvas.height * SCALE) as usize);
    canvas.marks.iter().for_each(|mark| raster.draw(mark));
    let mut bytes = Vec::new();
    let mut encoder = png::Encoder::new(&mut bytes, raster.width as u32, raster.height as u32);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_depth(png::BitDepth::Eight);
    let mut writer = encoder.write_header().map_err(failed)?;
    writer.write_image_data(raster.pixels.as_flattened()).map_err(failed)?;
    writer.finish().map_err(failed)?;
    Ok(bytes)
}

struct Raster {
    width: usize,
    height: usize,
    pixels: Vec<Rgb>,
}

impl Raster {
    fn new(width: usize, height: usize) -> Self {
        let (width, height) = (width.max(1), height.max(1));
        Self { width, height, pixels: vec![[255; 3]; width * height] }
    }

    /// Lays a colour over a pixel, with a share of it covered.
    fn blend(&mut self, x: i64, y: i64, rgb: Rgb, share: f64) {
        let inside = (0..self.width as i64).contains(&x) && (0..self.height as i64).contains(&y);
        if !inside || share <= 0.0 {
            return;
        }
        let pixel = &mut self.pixels[y as usize * self.width + x as usize];
        for (old, new) in pixel.iter_mut().zip(rgb) {
            *old = (f64::from(*old) + share.min(1.0) * (f64::from(new) - f64::from(*old))).round() as u8;
        }
    }

    fn draw(&mut self, mark: &Mark) {
        let scaled = |p: &[f64; 2]| p.map(|v| v * SCALE);
        match mark {
            Mark::Rect { at, size, fill } => self.rect(scaled(at), scaled(size), fill.on_white()),
            Mark::Frame { at: [x, y], size: [w, h], paint } => {
                let corners = [[*x, *y], [x + w, *y], [x + w, y + h], [*x, y + h], [*x, *y]];
                let corners: Vec<[f64; 2]> = corners.iter().map(scaled).collect();
                self.polyline(&corners, SCALE, paint.on_white(), false);
            }
            Mark::Line { points, paint, width, dashed } => {
                let points: Vec<[f64; 2]> = points.iter().map(scaled).collect();
                self.polyline(&points, width * SCALE, paint.on_white(), *dashed);
            }
            Mark::Point { at, radius, marker, paint, .. } => {
                let (at, radius, rgb) = (scaled(at), radius * SCALE, paint.on_white());
                match marker.corners(at, radius) {
                    Some(corners) => self.polygon(&corners, rgb),
                    None => self.cover(bounds(&[at], radius), rgb, |p| {
                        0.5 + radius - (p[0] - at[0]).hypot(p[1] - at[1])
                    }),
                }
            }
            Mark::Text { at, text, anchor, size, paint, upright } => {
                self.text(scaled(at), text, *anchor, *size, paint.on_white(), *upright);
            }
            Mark::Image { at, size, picture } => self.image(scaled(at), scaled(size), picture),
        }
    }

    /// Blends a colour over the pixels of a box, by how much of each `share` says is covered.
    fn cover(&mut self, [x0, y0, x1, y1]: [i64; 4], rgb: Rgb, share: impl Fn([f64; 2]) -> f64) {
        for y in y0.max(0)..=y1.min(self.height as i64) {
            for x in x0.max(0)..=x1.min(self.width as i64) {
                self.blend(x, y, rgb, share([x as f64 + 0.5, y as f64 + 0.5]));
            }
        }
    }

    fn rect(&mut self, [x, y]: [f64; 2], [w, h]: [f64; 2], rgb: Rgb) {
        let overlap = |low: f64, high: f64, at: f64| (high.min(at + 0.5) - low.max(at - 0.5)).clamp(0.0, 1.0);
        let area = [x.floor() as i64, y.floor() as i64, (x + w).ceil() as i64, (y + h).ceil() as i64];
        self.cover(area, rgb, |p| overlap(x, x + w, p[0]) * overlap(y, y + h, p[1]));
    }

    fn polyline(&mut self, points: &[[f64; 2]], width: f64, rgb: Rgb, dashed: bool) {
        let mut travelled = 0.0;
        for pair in points.windows(2) {
            let [[ax, ay], [bx, by]] = [pair[0], pair[1]];
            let length = (bx - ax).hypot(by - ay);
            if length > 0.0 {
                let [ux, uy] = [(bx - ax) / length, (by - ay) / length];
                self.cover(bounds(pair, width), rgb, |p| {
                    let along = ((p[0] - ax) * ux + (p[1] - ay) * uy).clamp(0.0, length);
                    let drawn = !dashed || (travelled + along) % (10.0 * SCALE) < 6.0 * SCALE;
                    let distance = (p[0] - ax - along * ux).hypot(p[1] - ay - along * uy);
                    if drawn { 0.5 + width / 2.0 - distance } else { 0.0 }
                });
            }
            travelled += length;
        }
    }

    /// A convex polygon, corners clockwise on the screen.
    fn polygon(&mut self, corners: &[[f64; 2]], rgb: Rgb) {
        self.cover(bounds(corners, 1.0), rgb, |p| {
            let inside = corners.iter().zip(corners.iter().cycle().skip(1)).map(|(a, b)| {
                let [dx, dy] = [b[0] - a[0], b[1] - a[1]];
                (dx * (p[1] - a[1]) - dy * (p[0] - a[0])) / dx.hypot(dy)
            });
            0.5 + inside.fold(f64::INFINITY, f64::min)
        });
    }

    fn text(
        &mut self,
        [x, y]: [f64; 2],
        text: &str,
        anchor: Anchor,
        size: FontSize,
        rgb: Rgb,
        upright: bool,
    ) {
        let height = match size {
            FontSize::Small => RasterHeight::Size20,
            FontSize::Normal => RasterHeight::Size24,
        };
        let step = get_raster_width(FontWeight::Regular, height) as i64;
        let length = step * text.chars().count() as i64;
        let start = match anchor {
            Anchor::Start => 0,
            Anchor::Middle => -length / 2,
            Anchor::End => -length,
        };
        // The base line lies at about four fifths of the letters' boxes.
        let rise = (height.val() as f64 * 0.8) as i64;
        for (number, letter) in text.chars().enumerate() {
            let glyph = get_raster(letter, FontWeight::Regular, height)
                .or_else(|| get_raster('?', FontWeight::Regular, height));
            let Some(glyph) = glyph else { continue };
            for (row, line) in glyph.raster().iter().enumerate() {
                for (column, value) in line.iter().enumerate() {
                    let along = start + number as i64 * step + column as i64;
                    let down = row as i64 - rise;
                    let (dx, dy) = if upright { (down, -along) } else { (along, down) };
                    self.blend(x as i64 + dx, y as i64 + dy, rgb, f64::from(*value) / 255.0);
                }
            }
        }
    }

    fn image(&mut self, [x, y]: [f64; 2], [w, h]: [f64; 2], picture: &Picture) {
        let (x0, y0) = (x.round() as i64, y.round() as i64);
        let (columns, rows) = (w.round().max(1.0) as i64, h.round().max(1.0) as i64);
        for row in 0..rows {
            for column in 0..columns {
                let sx = (column as usize * picture.width / columns as usize).min(picture.width - 1);
                let sy = (row as usize * picture.height / rows as usize).min(picture.height - 1);
                let index = picture.pixels[sy * picture.width + sx];
                self.blend(x0 + column, y0 + row, picture.palette[usize::from(index)], 1.0);
            }
        }
    }
}

/// The box about some points, with a margin.
fn bounds(points: &[[f64; 2]], margin: f64) -> [i64; 4] {
    let fold =
        |axis: usize, start: f64, pick: fn(f64, f64) -> f64| points.iter().map(|p| p[axis]).fold(start, pick);
    let (low, high) = (f64::INFINITY, f64::NEG_INFINITY);
    [
        (fold(0, low, f64::min) - margin - 1.0) as i64,
        (fold(1, low, f64::min) - margin - 1.0) as i64,
        (fold(0, high, f64::max) + margin + 1.0) as i64,
        (fold(1, high, f64::max) + margin + 1.0) as i64,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_land_where_they_should() {
        let mut canvas = Canvas::new(40.0, 30.0, "x");
        canvas.rect([10.0, 10.0], [5.0, 5.0], Paint::Color([200, 0, 0]));
        canvas.line(vec![[0.0, 25.0], [40.0, 25.0]], Paint::Color([0, 0, 200]), 2.0);
        let mut raster = Raster::new(80, 60);
        canvas.marks.iter().for_each(|m| raster.draw(m));
        let at = |x: usize, y: usize| raster.pixels[y * 80 + x];
        assert_eq!((at(25, 25), at(19, 25), at(30, 25)), ([200, 0, 0], [255; 3], [255; 3]));
        assert_eq!((at(40, 50), at(40, 45)), ([0, 0, 200], [255; 3]));
        assert!(png(&canvas).unwrap().starts_with(b"\x89PNG"));
    }

    #[test]
    fn text_has_ink_of_its_width() {
        let mut raster = Raster::new(100, 40);
        raster.text([50.0, 25.0], "layer", Anchor::Middle, FontSize::Normal, [0; 3], false);
        let inked: Vec<usize> = (0..4000).filter(|i| raster.pixels[*i][0] < 128).map(|i| i % 100).collect();
        let (low, high) = (inked.iter().min().unwrap(), inked.iter().max().unwrap());
        assert!(high - low > 50 && *low > 10 && *high < 90, "{low}..{high}");
        let allowed = FontSize::Normal.width("layer") * SCALE;
        assert!((high - low) as f64 <= allowed + 2.0, "{low}..{high}, {allowed} allowed");
    }
}
