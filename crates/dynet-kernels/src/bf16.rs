//! Dense convolutions whose products multiply bfloat16 and add in f32: the same layers as [`conv`](crate::conv()) in another
//! precision.
//!
//! The pixels of a tile are rounded and laid out once for all of its panels, in pieces that a matrix unit loads; fused kernels are
//! rounded when they are laid out, static ones ahead. AMX multiplies sixteen times as many values a
//! cycle as AVX-512 does in f32. Without it the same numbers are multiplied by f32 multiply-adds: nothing is gained, and the logits agree but for the
//! order of sums.

use crate::arch::{Amx, Tiles};
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

/// Computes one tile of a convolution as [`conv`](crate::conv()) does, with factors rounded to bfloat16: `(sum_i eta_i w_i) (*) x` of
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
    let (w, nr) = (c.weights, c.weights.nr());
    let segments = c.taps.map_or(1, |t| t.taps);
    if let Data::Pairs(_, segment) = &w.data {
        assert!(c.coefs.is_none() && c.input_scale.is_none(), "factors of weights that have been rounded");
        assert_eq!(segment * segments, w.k(), "weights are packed for another number of segments");
    }
    let sizes = Sizes::new(w, segments, out.pixels());
    let needed = Conv::bf16_scratch_len(w, segments, out.pixels());
    assert!(sizes.steps > 0, "a sum without terms");
    assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
    let mut sums = sums;
    if let Some(sums) = &mut sums {
        sums.start_sums(out);
    }
    if out.pixels() == 0 {
        return;
    }
    let mut run = Run::new(isa, c, sizes, segments, scratch);
    run.ahead = ahead(w, [out.channel0(), out.channel0() + out.channels()].map(|c| c.div_ceil(nr)), later);
    let mut gathered = None;
    for start in (0..out.channels()).step_by(nr) {
        let mut tile = out.columns(start, nr.min(out.channels() - start));
        let (source, group) = c.source(&tile);
        if gathered != Some(group) {
            isa.run(Gather { source, rows: tile.pixels(), out: run.pixels });
            gathered = Some(group);
        }
        let sums = sums.as_mut().map_or(std::ptr::null_mut(), |s| s.row(0)[start..].as_mut_ptr());
        run.panel(&mut tile, sums);
    }
}

/// The weights of panels `from..to`, and what is read later.
fn ahead(w: &Panels, [from, to]: [usize; 2], later: &[u8]) -> Ahead {
    let [own, end] = [from, to].map(|panel| w.bytes(panel, [0, 0])[0]);
    let std::ops::Range { start: from, end: to } = later.as_ptr_range();
    Ahead::new([own, end]).then([from, to])
}

/// A tile's work, with its scratch in pieces.
struct Run<'a> {
    isa: Isa,
    c: &'a Conv<'a>,
    sizes: Sizes,
    /// Rows of weights of a segment.
    segment: usize,
    /// The matrix unit's, if there is one.
    tiles: Option<Tiles>,
    ahead: Ahead,
    /// Laid out pixels.
    pixels: *mut u16,
    /// Laid out steps of a panel.
    pairs: *mut u16,
    fused: &'a mut [f32],
    /// Sums of all pixels, or of a block of them.
    sums: &'a mut [f32],
}

impl<'a> Run<'a> {
    /// Cuts scratch that is long enough.
    fn new(isa: Isa, c: &'a Conv<'a>, sizes: Sizes, segments: usize, scratch: &'a mut [f32]) -> Self {
        // Tiles that lie across cache lines take twice as long to load.
        let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (pixels, rest) = scratch[start..].split_at_mut(sizes.pixels);
        let (pairs, rest) = rest.split_at_mut(sizes.pairs);
        let (fused, sums) = rest.split_at_mut(sizes.fused);
        let [pixels, pairs] = [pixels, pairs].map(|piece| piece.as_mut_ptr().cast());
        let (segment, tiles) = (c.weights.k() / segments, isa.amx().map(Amx::tiles));
        let ahead = ahead(c.weights, [0, 0], &[]);
        Self { isa, c, sizes, segment, tiles, ahead, pixels, pairs, fused, sums }
    }

    /// All pixels of a checked tile of one panel, which have been laid out.
    fn panel(&mut self, tile: &mut Tile<'_>, channel_sums: *mut f32) {
        let (w, Sizes { steps, chunk, .. }) = (self.c.weights, self.sizes);
        let (nr, panel, pixels) = (w.nr(), tile.channel0() / w.nr(), tile.pixels());
        let sink = self.c.sink(tile, channel_sums);
        for from in (0..steps).step_by(chunk) {
            let to = (from + chunk).min(steps);
            let weights = match &w.data {
                Data::Pairs(data, _) => data[(panel * steps + from) * STEP * nr..].as_ptr(),
                _ => self.fuse(panel, [from, to]),
            };
            if self.ahead.later.is_some() {
                // What has been read need not be asked for.
                let read = w.bytes(panel, [0, self.rows_read(to)])[1];
                self.ahead.next = self.ahead.next.max(read);
            }
            let (steps, wide) = ([from, to, steps], sink.cols > nr / 2);
            let product = Product { pixels: self.pixels, panel: weights, steps, wide };
            for first in (0..pixels).step_by(BLOCK) {
                let rows = [first, BLOCK.min(pixels - first)];
                let sums = self.sums[if chunk < steps[2] { first * nr } else { 0 }..].as_mut_ptr();
                match &self.tiles {
                    // SAFETY: the scratch holds whole pieces of 16 pixels and 32 rows of sums, `weights` the steps.
                    Some(tiles) => unsafe { product.by_tiles(tiles, rows, sums, &mut self.ahead) },
                    None => self.isa.run(product.by_lanes(rows, sums)),
                }
                if to == steps[2] {
                    self.isa.run(Ends { rows, of: pixels, block: sums, sink });
                }
            }
        }
    }

    /// Rows of a panel that have been read after `steps` steps of a product.
    fn rows_read(&self, steps: usize) -> usize {
        if let Data::Pairs(..) = self.c.weights.data {
            return steps * STEP;
        }
        let each = self.segment.div_ceil(STEP);
        steps / each * self.segment + (steps % each * STEP).min(self.segment)
    }

    /// Fuses steps `from..to` of a panel, rounds them and lays them out; by the clock of the coefficients if they have one.
    fn fuse(&mut self, panel: usize, [from, to]: [usize; 2]) -> *const u16 {
        let (panels, coefs, row_scale) = (self.c.weights, self.c.coefs, self.c.input_scale);
        let (isa, segment, each) = (self.isa, self.segment, self.segment.div_ceil(STEP));
        timed(coefs.and_then(|c| c.clock()), || {
            let mut step = from;
            while step < to {
                let (at, inside) = (step / each, step % each);
                let some = (to - step).min(each - inside).min(CHUNK / STEP);
                let row = at * segment + inside * STEP;
                let rows = [row, (row + some * STEP).min((at + 1) * segment)];
                let dynamic = &mut *self.fused;
                isa.run(FusePanel { panels, panel, rows, coefs, row_scale, ahead: AHEAD, dynamic });
                // The scratch holds all steps from `from` to `to`.
                let out = self.pairs.wrapping_add((step - from) * STEP * panels.nr());
                let (rows, padded, fused) = (rows[1] - row, some * STEP, self.fused.as_ptr());
                isa.run(Pairs { rows, padded, fused, out });
                step += some;
            }
        });
        self.pairs
    }
}
