//! Copies that change a layout: images to channels last, borders, channel shuffles.

use crate::geometry::{Border, Geometry};
use crate::shared::Tile;
use crate::view::Pixels;

/// Writes an image `[c][h][w]` channels last, `out[p][c]`, into the tile, whose pixels are those of a bordered image
/// of `g.input + 2 * g.padding`; outside the image are zeros. With no padding it only transposes.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn image(planes: &[f32], g: &Geometry, out: &mut Tile<'_>) {
    let [h, w] = g.input;
    let [height, width] = [h + 2 * g.padding[0], w + 2 * g.padding[1]];
    assert_eq!(planes.len(), h * w * (out.channel0() + out.channels()), "image of {h} x {w} pixels");
    assert!(out.pixel0() + out.pixels() <= height * width, "{out:?} of {height} x {width} pixels");
    let c0 = out.channel0();
    for i in 0..out.pixels() {
        let p = out.pixel0() + i;
        let [y, x] = [(p / width).wrapping_sub(g.padding[0]), (p % width).wrapping_sub(g.padding[1])];
        let inside = y < h && x < w;
        for (c, to) in out.row(i).iter_mut().enumerate() {
            *to = if inside { planes[(c0 + c) * h * w + y * w + x] } else { 0.0 };
        }
    }
}

/// Copies an image into the middle of a bordered one of `g.input + 2 * g.padding` pixels.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn border(x: Pixels<'_>, g: &Geometry, border: Border, out: &mut Tile<'_>) {
    let [height, width] = std::array::from_fn(|d| g.input[d] + 2 * g.padding[d]);
    x.check(g.input[0] * g.input[1], out.channel0() + out.channels());
    assert!(out.pixel0() + out.pixels() <= height * width, "{out:?} of {height} x {width} pixels");
    let c0 = out.channel0();
    for i in 0..out.pixels() {
        let p = out.pixel0() + i;
        let row = border.source((p / width) as isize - g.padding[0] as isize, g.input[0]);
        let column = border.source((p % width) as isize - g.padding[1] as isize, g.input[1]);
        let to = out.row(i);
        match row.zip(column) {
            Some((r, c)) => to.copy_from_slice(&x.data[(r * g.input[1] + c) * x.ld + c0..][..to.len()]),
            None => to.fill(0.0),
        }
    }
}

/// Copies a tile's channels from the same place of `x`; for a slice of channels let `x.data` start at its first.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn copy(x: Pixels<'_>, out: &mut Tile<'_>) {
    x.check(out.pixel0() + out.pixels(), out.channel0() + out.channels());
    let (p0, c0) = (out.pixel0(), out.channel0());
    for i in 0..out.pixels() {
        let to = out.row(i);
        to.copy_from_slice(&x.data[(p0 + i) * x.ld + c0..][..to.len()]);
    }
}

/// ShuffleNet's channel shuffle, `[groups, c / groups]` transposed, of the concatenation of several maps:
/// output channel `j * groups + g` is channel `g * (c / groups) + j`. The tile has all channels.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn shuffle(parts: &[(Pixels<'_>, usize)], groups: usize, out: &mut Tile<'_>) {
    let c: usize = parts.iter().map(|(_, channels)| channels).sum();
    assert!(out.channel0() == 0 && out.channels() == c, "{c} channels shuffled into {out:?}");
    assert!(groups > 0 && c.is_multiple_of(groups), "{c} channels in {groups} groups");
    let p0 = out.pixel0();
    for (x, channels) in parts {
        x.check(p0 + out.pixels(), *channels);
    }
    let each = c / groups;
    for i in 0..out.pixels() {
        let to = out.row(i);
        let mut from = 0;
        for (x, channels) in parts {
            let row = &x.data[(p0 + i) * x.ld..][..*channels];
            for (k, value) in row.iter().enumerate() {
                to[(from + k) % each * groups + (from + k) / each] = *value;
            }
            from += channels;
        }
    }
}
