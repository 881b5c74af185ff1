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
use crate::generic::gemm::Ahead;
use crate::isa::Isa;
use crate::panels::{Data, Panels};
use crate::shared::Tile;

/// Terms of a step of a product: a row of a tile of AMX.
pub(crate) const STEP: usize = 32;
/// Rows of a piece of laid out pixels: those of a tile of AMX.
pub(crate) const ROWS: usize = 16;
/// Pixels that are multiplied at a time.
pub(crate) const BLOCK: usize = 2 * ROWS;
/// Rows of a panel that are fused before they are rounded: 8 KiB of the first-level cache with panels of 32.
const CHUNK: usize = 64;
/// Most steps of a panel that are multiplied with all pixels at a time: 24 KiB with panels of 32, which stay in the first-level
/// cache while the pixels come from the second.
const STEPS: usize = 12;
/// Bytes that fusing asks for ahead of what it reads.
const AHEAD: usize = 8192;
/// Bytes that a step of a product asks for: 64 cycles of AMX, so that this is 10 GB/s.
pub(crate) const PACE: usize = 256;
/// Values of a cache line.
const LINE: usize = 16;

/// Rows of a laid out panel: each segment of `k` rows is filled up to whole steps.
pub(crate) fn rows(k: usize, segment: usize) -> usize {
    k.checked_div(segment).unwrap_or(0) * segment.next_multiple_of(STEP)
}

/// Lengths of the pieces of scratch, in f32, each whole lines.
#[derive(Clone, Copy)]
struct Sizes {
    /// Steps of a laid out panel, and those of them that are multiplied at a time.
    steps: usize,
    chunk: usize,
    pixels: usize,
    pairs: usize,
    fused: usize,
    sums: usize,
}

impl Sizes {
    fn new(weights: &Panels, segments: usize, pixels: usize) -> Self {
        let (k, nr) = (weights.k(), weights.nr());
        let steps = rows(k, k / segments.max(1)) / STEP;
        let chunk = steps.div_ceil(steps.div_ceil(STEPS).max(1));
        let laid_out = matches!(weights.data, Data::Pairs(..));
        let [pairs, fused] = if laid_out { [0, 0] } else { [chunk * STEP * nr / 2, CHUNK * nr] };
        let blocks = if chunk == steps { 1 } else { pixels.div_ceil(BLOCK) };
        let lines = |len: usize| len.next_multiple_of(LINE);
        let pixels = pixels.next_multiple_of(ROWS) * steps * STEP / 2;
        let sums = blocks * BLOCK * nr;
        Self { steps, chunk, pixels, pairs: lines(pairs), fused: lines(fused), sums }
    }
}

impl Conv<'_> {
    /// Values of scratch that [`conv_bf16`] needs for a tile of `pixels` pixels that are read in `segments` segments each.
    pub fn bf16_scratch_len(weights: &Panels, segments: usize, pixels: usize) -> usize {
        let sizes = Sizes::new(weights, segments, pixels);
        sizes.pixels + sizes.pairs + sizes.fused + sizes.sums + LINE
    }

    /// Bytes of later memory that [`conv_bf16`] asks for during a tile of `pixels` pixels and `channels` channels, beside the
    /// rest of its own weights, which it asks for first.
    pub fn bf16_ahead_bytes(&self, pixels: usize, channels: usize) -> usize {
        let (w, panels) = (self.weights, channels.div_ceil(self.weights.nr()));
        let steps = Sizes::new(w, self.taps.map_or(1, |t| t.taps), pixels).steps;
        let all = pixels.div_ceil(BLOCK) * panels * steps * PACE;
        all.saturating_sub(panels * (w.len_bytes() / w.count()))
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
///
/// It brings up to [`Conv::bf16_ahead_bytes`] of `later` memory into the caches while it multiplies.
pub fn conv_bf16(
    isa: Isa,
    c: &Conv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    sums: Option<Tile<'_>>,
    later: &[u8],
) {
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
        sums.start_sums(out);
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
    let (pairs, rest) = rest.split_at_mut(sizes.pairs);
    let (fused, block) = rest.split_at_mut(sizes.fused);
    let (pixels, pairs) = (pixels.as_mut_ptr().cast::<u16>(), pairs.as_mut_ptr().cast::<u16>());
    let tiles = isa.amx().map(Amx::tiles);
    let mut gathered = usize::MAX;
    let first = out.channel0() / nr;
    let behind = first + out.channels().div_ceil(nr);
    let std::ops::Range { start: from, end: to } = later.as_ptr_range();
    let [own, end] = [w.bytes(first, [0, 0])[0], w.bytes(behind, [0, 0])[0]];
    let mut ahead = Ahead { later: Some([from, to]), ..Ahead::new([own, end]) };
    for start in (0..out.channels()).step_by(nr) {
        let mut tile = out.columns(start, nr.min(out.channels() - start));
        let (source, group) = c.source(&tile);
        if gathered != group {
            isa.run(Gather { source, rows: tile.pixels(), out: pixels });
            gathered = group;
        }
        let at = tile.channel0() / nr;
        let sums = sums.as_mut().map_or(std::ptr::null_mut(), |s| s.row(0)[start..].as_mut_ptr());
        let sink = c.sink(&mut tile, sums);
        for from in (0..sizes.steps).step_by(sizes.chunk) {
            let to = (from + sizes.chunk).min(sizes.steps);
            let panel = match &w.data {
                Data::Pairs(data, _) => data[(at * sizes.steps + from) * STEP * nr..].as_ptr(),
                _ => {
                    c.fuse_pairs(isa, (at, k / segments), [from, to], fused, pairs);
                    pairs.cast_const()
                }
            };
            if ahead.later.is_some() {
                // What has been read need not be asked for.
                let read = w.bytes(at, [0, read_rows(w, segments, to)])[1];
                ahead.next = ahead.next.max(read);
            }
            let (steps, wide) = ([from, to, sizes.steps], sink.cols > nr / 2);
            let product = Product { pixels, panel, steps, wide };
            for first in (0..tile.pixels()).step_by(BLOCK) {
                let rows = [first, BLOCK.min(tile.pixels() - first)];
                let sums = block[if sizes.chunk < sizes.steps { first * nr } else { 0 }..].as_mut_ptr();
                match &tiles {
                    // SAFETY: `pixels` holds whole pieces of 16 rows, the panel its steps, `block` 32 rows.
                    Some(tiles) => unsafe { product.by_tiles(tiles, rows, sums, &mut ahead) },
                    None => isa.run(product.by_lanes(rows, sums)),
                }
                if to == sizes.steps {
                    isa.run(Ends { rows, of: tile.pixels(), block: sums, sink });
                }
            }
        }
    }
}

/// Rows of a panel that have been read after `steps` steps of a product.
fn read_rows(w: &Panels, segments: usize, steps: usize) -> usize {
    if let Data::Pairs(..) = w.data {
        return steps * STEP;
    }
    let segment = w.k() / segments;
    let each = segment.div_ceil(STEP);
    steps / each * segment + (steps % each * STEP).min(segment)
}

impl Conv<'_> {
    /// Fuses steps `from..to` of a panel, rounds them and lays them out; by the clock of the coefficients if they have one.
    fn fuse_pairs(
        &self,
        isa: Isa,
        (panel, segment): (usize, usize),
        [from, to]: [usize; 2],
        fused: &mut [f32],
        pairs: *mut u16,
    ) {
        let (panels, each) = (self.weights, segment.div_ceil(STEP));
        let (coefs, row_scale) = (self.coefs, self.input_scale);
        timed(self.coefs.and_then(|c| c.clock()), || {
            let mut step = from;
            while step < to {
                let (at, inside) = (step / each, step % each);
                let some = (to - step).min(each - inside).min(CHUNK / STEP);
                let row = at * segment + inside * STEP;
                let rows = [row, (row + some * STEP).min((at + 1) * segment)];
                isa.run(FusePanel { panels, panel, rows, coefs, row_scale, ahead: AHEAD, dynamic: fused });
                // The scratch holds all steps from `from` to `to`.
                let out = pairs.wrapping_add((step - from) * STEP * panels.nr());
                isa.run(Pairs { rows: rows[1] - row, padded: some * STEP, fused: fused.as_ptr(), out });
                step += some;
            }
        });
    }
}
