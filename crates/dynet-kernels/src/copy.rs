//! Copies that change a layout: images to channels last, borders, channel shuffles.

use crate::generic::interleave::Interleave;
use crate::geometry::{Border, Geometry};
use crate::isa::Isa;
use crate::shared::Tile;
use crate::vector::{Job, Vector};
use crate::view::Pixels;

/// Writes an image `[c][h][w]` channels last, `out[p][c]`, into the tile, whose pixels are those of a bordered image
/// of `g.input + 2 * g.padding`; outside the image are zeros. With no padding it only transposes.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn image(isa: Isa, planes: &[f32], g: &Geometry, out: &mut Tile<'_>) {
    let [h, w] = g.input;
    let [height, width] = [h + 2 * g.padding[0], w + 2 * g.padding[1]];
    assert_eq!(planes.len(), h * w * (out.channel0() + out.channels()), "image of {h} x {w} pixels");
    assert!(out.pixel0() + out.pixels() <= height * width, "{out:?} of {height} x {width} pixels");
    let (c0, p0, channels) = (out.channel0(), out.pixel0(), out.channels());
    if let Some(out) = out.contiguous()
        && c0 == 0
    {
        return isa.run(ImageRows { planes, g, p0, channels, out });
    }
    for i in 0..out.pixels() {
        let p = out.pixel0() + i;
        let [y, x] = [(p / width).wrapping_sub(g.padding[0]), (p % width).wrapping_sub(g.padding[1])];
        let inside = y < h && x < w;
        for (c, to) in out.row(i).iter_mut().enumerate() {
            *to = if inside { planes[(c0 + c) * h * w + y * w + x] } else { 0.0 };
        }
    }
}

/// [`image`] into pixels without gaps, from pixel `p0` on: row by row, each plane's part of it in turn.
struct ImageRows<'a> {
    planes: &'a [f32],
    g: &'a Geometry,
    p0: usize,
    channels: usize,
    out: &'a mut [f32],
}

impl Job for ImageRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { planes, g, p0, channels, mut out } = self;
        let interleave = Interleave::<V, 3>::new(v);
        let [h, w] = g.input;
        let width = w + 2 * g.padding[1];
        let mut p = p0;
        while !out.is_empty() {
            let (y, x) = (p / width, p % width);
            let run = (width - x).min(out.len() / channels);
            let (row, rest) = out.split_at_mut(run * channels);
            (out, p) = (rest, p + run);
            let y = y.wrapping_sub(g.padding[0]);
            if y >= h {
                row.fill(0.0);
                continue;
            }
            // Columns of the row that lie inside the image.
            let first = g.padding[1].clamp(x, x + run);
            let end = (g.padding[1] + w).clamp(x, x + run);
            row[..(first - x) * channels].fill(0.0);
            row[(end - x) * channels..].fill(0.0);
            if first == end {
                continue;
            }
            let inside = &mut row[(first - x) * channels..(end - x) * channels];
            let plane = |c: usize| &planes[(c * h + y) * w + first - g.padding[1]..][..end - first];
            match channels {
                1 => inside.copy_from_slice(plane(0)),
                3 => interleave.run(v, [plane(0), plane(1), plane(2)], inside),
                _ => {
                    for c in 0..channels {
                        inside[c..].iter_mut().step_by(channels).zip(plane(c)).for_each(|(to, v)| *to = *v);
                    }
                }
            }
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
pub fn shuffle(isa: Isa, parts: &[(Pixels<'_>, usize)], groups: usize, out: &mut Tile<'_>) {
    let c: usize = parts.iter().map(|(_, channels)| channels).sum();
    assert!(out.channel0() == 0 && out.channels() == c, "{c} channels shuffled into {out:?}");
    assert!(groups > 0 && c.is_multiple_of(groups), "{c} channels in {groups} groups");
    let p0 = out.pixel0();
    for (x, channels) in parts {
        x.check(p0 + out.pixels(), *channels);
    }
    let each = c / groups;
    // The shuffles of the zoo's nets.
    match groups {
        2 => return interleaved::<2>(isa, parts, each, out),
        4 => return interleaved::<4>(isa, parts, each, out),
        _ => {}
    }
    for i in 0..out.pixels() {
        let to = out.row(i);
        let mut from = 0;
        for (x, channels) in parts {
            let mut row = &x.data[(p0 + i) * x.ld..][..*channels];
            // What this part holds of one group after the other.
            while !row.is_empty() {
                let (group, first) = (from / each, from % each);
                let (of_group, rest) = row.split_at(row.len().min(each - first));
                let to = to[first * groups + group..].iter_mut().step_by(groups);
                to.zip(of_group).for_each(|(to, v)| *to = *v);
                (from, row) = (from + of_group.len(), rest);
            }
        }
    }
}

/// [`shuffle`] of `N` groups of `each` channels, cut where a group goes on in another part.
fn interleaved<const N: usize>(isa: Isa, parts: &[(Pixels<'_>, usize)], each: usize, out: &mut Tile<'_>) {
    if out.pixels() == 0 {
        return;
    }
    let mut first = 0;
    while first < each {
        let mut len = each - first;
        let groups = std::array::from_fn(|g| {
            let mut at = g * each + first;
            for (x, channels) in parts {
                if at < *channels {
                    len = len.min(channels - at);
                    return Pixels::new(&x.data[at..], x.ld);
                }
                at -= channels;
            }
            unreachable!("the parts have {} channels", N * each)
        });
        isa.run(Interleaved::<N> { groups, out: out.columns(first * N, len * N) });
        first += len;
    }
}

/// Channels of `N` groups in turn, compiled for the registers of an instruction set.
struct Interleaved<'a, const N: usize> {
    groups: [Pixels<'a>; N],
    out: Tile<'a>,
}

impl<const N: usize> Job for Interleaved<'_, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { groups, mut out } = self;
        let (p0, each) = (out.pixel0(), out.channels() / N);
        let interleave = Interleave::<V, N>::new(v);
        for i in 0..out.pixels() {
            interleave.run(v, groups.map(|x| &x.data[(p0 + i) * x.ld..][..each]), out.row(i));
        }
    }
}
