//! Dense convolutions whose products multiply bfloat16 and add in f32: the same layers as [`conv`](crate::conv) in another
//! precision.
//!
//! The pixels of a tile are rounded and laid out once for all of its panels, in pieces that a matrix unit loads; fused kernels are
//! rounded when they are laid out, static ones ahead. On a CPU with AMX a product takes a sixteenth of the time of f32
//! multiply-adds. Without it the same numbers are multiplied by f32 multiply-adds: nothing is gained, and the logits agree but for the
//! order of sums.

use crate::arch::Amx;
use crate::conv::Conv;
use crate::generic::bf16::{Ends, Gather, Pairs, Product};
use crate::generic::fuse::{FusePanel, timed};
use crate::isa::Isa;
use crate::panels::{Data, Panels};
use crate::shared::Tile;

/// Terms of a step of a product: a row of a tile of AMX.
pub(crate) const STEP: usize = 32;
/// Rows of a piece of laid out pixels: those of a tile of AMX.
pub(crate) const ROWS: usize = 16;
/// Pixels that are multiplied at a time.
pub(crate) const BLOCK: usize = 2 * ROWS;
/// Rows of a panel that are fused before they are rounded: 16 KiB of the first-level cache with panels of 32.
const CHUNK: usize = 128;
/// Values of a cache line.
const LINE: usize = 16;

/// Rows of a laid out panel: each segment of `k` rows is filled up to whole steps.
pub(crate) fn rows(k: usize, segment: usize) -> usize {
    k.checked_div(segment).unwrap_or(0) * segment.next_multiple_of(STEP)
}

/// Lengths of the pieces of scratch, in f32, each whole lines.
#[derive(Clone, Copy)]
struct Sizes {
    /// Rows of a laid out panel.
    rows: usize,
    pixels: usize,
    panel: usize,
    fused: usize,
    sums: usize,
}

impl Sizes {
    fn new(weights: &Panels, segments: usize, pixels: usize) -> Self {
        let (k, nr) = (weights.k(), weights.nr());
        let rows = rows(k, k / segments.max(1));
        let laid_out = matches!(weights.data, Data::Pairs(..));
        let [panel, fused] = if laid_out { [0, 0] } else { [rows * nr / 2, CHUNK.min(k) * nr] };
        let lines = |len: usize| len.next_multiple_of(LINE);
        let pixels = lines(pixels.next_multiple_of(ROWS) * rows / 2);
        Self { rows, pixels, panel: lines(panel), fused: lines(fused), sums: BLOCK * nr }
    }
}

impl Conv<'_> {
    /// Values of scratch that [`conv_bf16`] needs for a tile of `pixels` pixels that are read in `segments` segments each.
    pub fn bf16_scratch_len(weights: &Panels, segments: usize, pixels: usize) -> usize {
        let sizes = Sizes::new(weights, segments, pixels);
        sizes.pixels + sizes.panel + sizes.fused + sizes.sums + LINE
    }

    /// Values of an output pixel's row of the product when it is laid out.
    pub fn bf16_row(c_in: usize, segments: usize) -> usize {
        c_in.next_multiple_of(STEP) * segments
    }
}

/// Computes one tile of a convolution as [`conv`](crate::conv) does, with factors rounded to bfloat16: `(sum_i eta_i w_i) (*) x` of
/// Eq. 2, the sum over the experts in f32.
///
/// # Panics
/// If the sizes do not fit each other, or `scratch` is shorter than [`Conv::bf16_scratch_len`]; nothing has been written then.
///
/// # Accuracy
/// Each factor is rounded once, by at most 1/256 of itself. Sums are f32 (AMX adds the products of 32 terms before it adds them to
/// the sum, and takes subnormal numbers for zeros). Bits do not depend on the tiles, those of `sums` do.
pub fn conv_bf16(isa: Isa, c: &Conv<'_>, scratch: &mut [f32], out: &mut Tile<'_>, sums: Option<Tile<'_>>) {
    c.check(isa, out);
    let w = c.weights;
    let (k, nr) = (w.k(), w.nr());
    let segments = c.taps.map_or(1, |t| t.taps);
    if let Data::Pairs(_, segment) = &w.data {
        assert!(c.coefs.is_none() && c.input_scale.is_none(), "factors of weights that have been rounded");
        assert_eq!(segment * segments, k, "weights are packed for another number of segments");
    }
    let mut sums = sums;
    if let Some(sums) = &mut sums {
        let fits = sums.pixels() == 1 && sums.channels() == out.channels();
        assert!(fits, "sums of another shape: {sums:?} of {out:?}");
        sums.row(0).fill(0.0);
    }
    let needed = Conv::bf16_scratch_len(w, segments, out.pixels());
    assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
    if out.pixels() == 0 {
        return;
    }
    let sizes = Sizes::new(w, segments, out.pixels());
    // Tiles that lie across cache lines take twice as long to load.
    let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
    let (pixels, rest) = scratch[start..].split_at_mut(sizes.pixels);
    let (panel, rest) = rest.split_at_mut(sizes.panel);
    let (fused, block) = rest.split_at_mut(sizes.fused);
    let (pixels, pairs) = (pixels.as_mut_ptr().cast::<u16>(), panel.as_mut_ptr().cast::<u16>());
    let tiles = isa.amx().map(Amx::tiles);
    let mut gathered = usize::MAX;
    for start in (0..out.channels()).step_by(nr) {
        let mut tile = out.columns(start, nr.min(out.channels() - start));
        let (source, group) = c.source(&tile);
        if gathered != group {
            isa.run(Gather { source, rows: tile.pixels(), out: pixels });
            gathered = group;
        }
        let at = tile.channel0() / nr;
        let panel = match &w.data {
            Data::Pairs(data, _) => data[at * sizes.rows * nr..][..sizes.rows * nr].as_ptr(),
            _ => {
                c.fuse_pairs(isa, (at, k / segments), fused, pairs);
                pairs.cast_const()
            }
        };
        let sums = sums.as_mut().map_or(std::ptr::null_mut(), |s| s.row(0)[start..].as_mut_ptr());
        let sink = c.sink(&mut tile, sums);
        let product = Product { pixels, panel, steps: sizes.rows / STEP, wide: sink.cols > nr / 2 };
        for from in (0..tile.pixels()).step_by(BLOCK) {
            let rows = BLOCK.min(tile.pixels() - from);
            let sums = block.as_mut_ptr();
            match &tiles {
                // SAFETY: `pixels` holds whole pieces of 16 rows, the panel `steps` steps, `block` 32 rows.
                Some(tiles) => unsafe { product.by_tiles(tiles, [from, rows], sums) },
                None => isa.run(product.by_lanes([from, rows], sums)),
            }
            isa.run(Ends { rows: [from, rows], of: tile.pixels(), block: sums, sink });
        }
    }
}

impl Conv<'_> {
    /// Fuses a panel, rounds it and lays it out; by the clock of the coefficients if they have one.
    fn fuse_pairs(&self, isa: Isa, (panel, segment): (usize, usize), fused: &mut [f32], pairs: *mut u16) {
        let (w, nr) = (self.weights, self.weights.nr());
        timed(self.coefs.and_then(|c| c.clock()), || {
            let mut to = 0;
            for start in (0..w.k()).step_by(segment) {
                for from in (start..start + segment).step_by(CHUNK) {
                    let rows = [from, (from + CHUNK).min(start + segment)];
                    let (coefs, row_scale) = (self.coefs, self.input_scale);
                    isa.run(FusePanel { panels: w, panel, rows, coefs, row_scale, dynamic: fused });
                    let count = rows[1] - from;
                    let padded = count.next_multiple_of(STEP);
                    // The scratch holds all rows of a panel, each segment's filled up to whole steps.
                    let out = pairs.wrapping_add(to * nr);
                    isa.run(Pairs { rows: count, padded, fused: fused.as_ptr(), out });
                    to += padded;
                }
            }
        });
    }
}
