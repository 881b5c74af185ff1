//! Element-wise operations, pooling, and what turns a predictor's outputs into coefficients.

use crate::activation::Activation;
use crate::generic::pixelwise::{MaxWindows, Operation, PixelSums, Pixelwise, Softmax};
use crate::geometry::Geometry;
use crate::isa::Isa;
use crate::shared::Tile;
use crate::sums::Sums;
use crate::view::Pixels;

fn run(
    isa: Isa,
    x: Pixels<'_>,
    operation: Operation<'_>,
    act: Activation,
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
) {
    x.check(out.pixel0() + out.pixels(), out.channel0() + out.channels());
    match sums {
        None => isa.run(Pixelwise { x, operation, act, out, sums: &mut [] }),
        Some(mut sums) => {
            sums.start(out, 1);
            sums.each(out, |out, sums| isa.run(Pixelwise { x, operation, act, out, sums }));
        }
    }
}

/// `out = act(x)`; `sums` receives the sums over the tile's pixels.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn activate(isa: Isa, x: Pixels<'_>, act: Activation, out: &mut Tile<'_>, sums: Option<Sums<'_>>) {
    run(isa, x, Operation::Copy, act, out, sums);
}

/// `out = act(x + y)`; `sums` receives the sums over the tile's pixels.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn add(isa: Isa, [x, y]: [Pixels<'_>; 2], act: Activation, out: &mut Tile<'_>, sums: Option<Sums<'_>>) {
    y.check(out.pixel0() + out.pixels(), out.channel0() + out.channels());
    run(isa, x, Operation::Add(y), act, out, sums);
}

/// `out = act(x * factors[channel])`, the end of squeeze-and-excitation; `sums` receives the sums over the pixels.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn scale(
    isa: Isa,
    x: Pixels<'_>,
    factors: &[f32],
    act: Activation,
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
) {
    let end = out.channel0() + out.channels();
    assert!(factors.len() >= end, "{} factors for {end} channels", factors.len());
    run(isa, x, Operation::Scale(factors), act, out, sums);
}

/// Sums over `pixels` of each channel, from pixel `pixel0` on, into `out`, one value a channel.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn sums(isa: Isa, x: Pixels<'_>, pixel0: usize, pixels: usize, out: &mut [f32]) {
    x.check(pixel0 + pixels, out.len());
    // `x` may end before a pixel behind its last one.
    let first = x.data.as_ptr().wrapping_add(pixel0 * x.ld);
    isa.run(PixelSums { first, ld: x.ld, pixels, sums: out });
}

/// Sums over the pixels of a tile into `sums`.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn tile_sums(isa: Isa, tile: &mut Tile<'_>, sums: &mut Sums<'_>) {
    sums.start(tile, 1);
    sums.each(tile, |tile, sums| {
        let (first, ld, pixels) = (tile.as_mut_ptr().cast_const(), tile.ld(), tile.pixels());
        isa.run(PixelSums { first, ld, pixels, sums });
    });
}

/// `out[c] = factor * sum of partial[i][c]` over the chunks `i` in order: ends a global average pooling whose sums
/// were made chunk by chunk.
///
/// # Panics
/// If `partial` is no multiple of the channels.
pub fn combine_sums(partial: &[f32], factor: f32, out: &mut [f32]) {
    assert!(
        partial.len().is_multiple_of(out.len().max(1)),
        "{} sums of {} channels",
        partial.len(),
        out.len()
    );
    out.fill(0.0);
    for chunk in partial.chunks_exact(out.len().max(1)) {
        out.iter_mut().zip(chunk).for_each(|(s, x)| *s += x);
    }
    out.iter_mut().for_each(|s| *s *= factor);
}

/// Greatest value of each channel over a window; padding counts as minus infinity. `x` begins with row `origin` of the map and
/// reaches as far as the tile reads.
///
/// # Panics
/// If the sizes do not fit each other.
pub fn max_pool(isa: Isa, x: Pixels<'_>, origin: usize, g: &Geometry, out: &mut Tile<'_>) {
    let [height, width] = g.output();
    let end = out.pixel0() + out.pixels();
    assert!(end <= height * width, "{out:?} of {height} x {width} pixels");
    assert_eq!(g.dilation, [1, 1], "max pooling has no dilation");
    if out.pixels() == 0 {
        return;
    }
    let rows = g.rows_read(out.pixel0() / width..end.div_ceil(width));
    assert!(rows.is_empty() || rows.start >= origin, "a map from row {origin} on, rows {rows:?} are read");
    x.check((rows.end - origin.min(rows.end)) * g.input[1], out.channel0() + out.channels());
    isa.run(MaxWindows { x, origin, geometry: g, out });
}

/// Softmax over the experts of each channel, of the values divided by `temperature`, in place: `[experts][channels]`.
///
/// # Panics
/// If `coefs` is no multiple of `channels`.
///
/// # Accuracy
/// 4 ULP of the exact quotient of the exact exponentials, for differences below 80.
pub fn softmax(isa: Isa, channels: usize, temperature: f32, coefs: &mut [f32]) {
    let whole = channels > 0 && coefs.len().is_multiple_of(channels);
    assert!(whole, "{} coefficients are no multiple of {channels} channels", coefs.len());
    isa.run(Softmax { channels, temperature, coefs });
}
