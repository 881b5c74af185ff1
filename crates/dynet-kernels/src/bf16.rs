//! Dense convolutions whose products multiply bfloat16 and add in f32: the same layers as [`conv`](crate::conv()) in another
//! precision.
//!
//! The pixels of a tile are rounded once for all of its panels: for windows of stride 1 the map with its border, whose rows a matrix
//! unit loads for each element of the kernel anew, else in pieces as it loads them. Fused kernels are rounded when they are laid out,
//! static ones ahead. AMX multiplies sixteen times as many values a cycle as AVX-512 does in f32. Without it the same numbers are multiplied by f32 multiply-adds: nothing is gained, and the logits agree but for the
//! order of sums.

use crate::arch::{Amx, Tiles};
use crate::conv::Conv;
use crate::generic::bf16::{Ends, Gather, Pairs, Places, Product, Rows};
use crate::generic::fuse::{FusePanel, timed};
use crate::generic::gemm::Ahead;
use crate::generic::operands::{Sink, Source};
use crate::geometry::{Bordered, Taps};
use crate::isa::Isa;
use crate::panels::{Data, Panels};
use crate::pixelwise;
use crate::shared::Tile;
use crate::sums::{SumRows, Sums};

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

/// How the pixels of a tile are laid out.
#[derive(Clone, Copy)]
enum Layout<'a> {
    /// Pixel by pixel, what it reads: `[pixels / 16][step][16][32]`.
    Pieces,
    /// The rows of the map that they read, with its border, `[places][ld]`: each value once for all elements of the kernel. Between two
    /// rows of outputs some places have none; they are multiplied all the same.
    Bordered(&'a Bordered, usize),
}

impl<'a> Layout<'a> {
    /// For segments of `segment` values.
    fn new(taps: Option<&'a Taps>, segment: usize) -> Self {
        match taps.and_then(|taps| taps.bordered.as_ref()) {
            Some(bordered) => Self::Bordered(bordered, bordered_ld(segment)),
            None => Self::Pieces,
        }
    }

    /// Rows of a product for output pixels `from..to`, the first of which is row 0.
    fn rows(self, [from, to]: [usize; 2]) -> usize {
        match self {
            Self::Pieces => to - from,
            Self::Bordered(b, _) => {
                to - from + ((to - 1) / b.pixels - from / b.pixels) * (b.width - b.pixels)
            }
        }
    }

    /// bfloat16 for any `pixels` output pixels, `steps` steps each.
    fn values(self, pixels: usize, steps: usize) -> usize {
        match self {
            Self::Pieces => pixels.next_multiple_of(ROWS) * steps * STEP,
            // As if the first pixel were the last one of its row. Pieces of 16 rows may lie across the end.
            Self::Bordered(b, ld) => (b.rows([b.pixels - 1, b.pixels - 1 + pixels]) * b.width + BLOCK) * ld,
        }
    }
}

/// Values from one place to the next. Rows at a multiple of 512 bytes would share few sets of the first-level cache.
fn bordered_ld(segment: usize) -> usize {
    let padded = segment.next_multiple_of(STEP);
    if padded.is_multiple_of(256) { padded + STEP } else { padded }
}

/// Lengths of the pieces of scratch, in f32, each whole lines.
#[derive(Clone, Copy)]
struct Sizes {
    /// Steps of a laid out panel, and those of them that are multiplied at a time.
    steps: usize,
    chunk: usize,
    offsets: usize,
    pixels: usize,
    pairs: usize,
    fused: usize,
    sums: usize,
}

impl Sizes {
    fn new(weights: &Panels, taps: Option<&Taps>, pixels: usize) -> Self {
        let (k, nr, segments) = (weights.k(), weights.nr(), taps.map_or(1, Taps::segments));
        let layout = Layout::new(taps, k / segments.max(1));
        let steps = rows(k, k / segments.max(1)) / STEP;
        let chunk = steps.div_ceil(steps.div_ceil(STEPS).max(1));
        let laid_out = matches!(weights.data, Data::Pairs(..));
        let [pairs, fused] = if laid_out { [0, 0] } else { [chunk * STEP * nr / 2, CHUNK * nr] };
        let width = if let Layout::Bordered(b, _) = layout { b.pixels } else { 1 };
        let most = layout.rows([width - 1, width - 1 + pixels.max(1)]);
        let blocks = if chunk == steps { 1 } else { most.div_ceil(BLOCK) };
        let lines = |len: usize| len.next_multiple_of(LINE);
        let sums = blocks * BLOCK * nr;
        let offsets = lines(steps * size_of::<usize>() / size_of::<f32>());
        let pixels = lines(layout.values(pixels.max(1), steps).div_ceil(2));
        Self { steps, chunk, offsets, pixels, pairs: lines(pairs), fused: lines(fused), sums }
    }
}

impl Conv<'_> {
    /// Values of scratch that [`conv_bf16`] needs for a tile of `pixels` pixels that are read through `taps`.
    pub fn bf16_scratch_len(weights: &Panels, taps: Option<&Taps>, pixels: usize) -> usize {
        let sizes = Sizes::new(weights, taps, pixels);
        sizes.offsets + sizes.pixels + sizes.pairs + sizes.fused + sizes.sums + LINE
    }

    /// Bytes of later memory that [`conv_bf16`] asks for during a tile of `pixels` pixels and `channels` channels, beside the
    /// rest of its own weights, which it asks for first.
    pub fn bf16_ahead_bytes(&self, pixels: usize, channels: usize) -> usize {
        let (w, panels) = (self.weights, channels.div_ceil(self.weights.nr()));
        let steps = Sizes::new(w, self.taps, pixels).steps;
        let all = pixels.div_ceil(BLOCK) * panels * steps * PACE;
        all.saturating_sub(panels * (w.len_bytes() / w.count()))
    }

    /// Values that are laid out for an output pixel which reads `segment` values each time.
    pub fn bf16_row(segment: usize, taps: Option<&Taps>) -> usize {
        match Layout::new(taps, segment) {
            Layout::Pieces => segment.next_multiple_of(STEP) * taps.map_or(1, Taps::segments),
            Layout::Bordered(b, ld) => (ld * b.width).div_ceil(b.pixels),
        }
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
/// the sum, and takes subnormal numbers for zeros). Bits do not depend on the tiles.
///
/// It brings up to [`Conv::bf16_ahead_bytes`] of `later` memory into the caches while it multiplies.
pub fn conv_bf16(
    isa: Isa,
    c: &Conv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
    later: &[u8],
) {
    c.check(isa, out);
    let (w, nr) = (c.weights, c.weights.nr());
    let segments = c.taps.map_or(1, Taps::segments);
    if let Data::Pairs(_, segment) = &w.data {
        assert!(c.coefs.is_none() && c.input_scale.is_none(), "factors of weights that have been rounded");
        assert_eq!(segment * segments, w.k(), "weights are packed for another number of segments");
    }
    let sizes = Sizes::new(w, c.taps, out.pixels());
    let needed = Conv::bf16_scratch_len(w, c.taps, out.pixels());
    assert!(sizes.steps > 0, "a sum without terms");
    assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
    let mut sums = sums;
    if let Some(sums) = &mut sums {
        sums.start(out, 1);
    }
    if out.pixels() == 0 {
        return;
    }
    let mut run = Run::new(isa, c, sizes, scratch);
    run.place([out.pixel0(), out.pixel0() + out.pixels()]);
    run.ahead = ahead(w, [out.channel0(), out.channel0() + out.channels()].map(|c| c.div_ceil(nr)), later);
    let (channels, mut gathered) = (out.channels(), None);
    for start in (0..channels).step_by(nr) {
        let mut tile = out.columns(start, nr.min(channels - start));
        let (source, group) = c.source(&tile);
        if gathered != Some(group) {
            run.lay_out(source);
            gathered = Some(group);
        }
        run.panel(&mut tile);
        if let Some(sums) = &mut sums {
            // From the nearest cache.
            pixelwise::tile_sums(isa, &mut tile, &mut sums.columns(start, nr.min(channels - start)));
        }
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
    layout: Layout<'a>,
    /// Rows of weights of a segment.
    segment: usize,
    /// The matrix unit's, if there is one.
    tiles: Option<Tiles>,
    ahead: Ahead,
    /// Output pixels, from and to.
    range: [usize; 2],
    /// Where each step of a row begins.
    offsets: *mut usize,
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
    fn new(isa: Isa, c: &'a Conv<'a>, sizes: Sizes, scratch: &'a mut [f32]) -> Self {
        // Tiles that lie across cache lines take twice as long to load.
        let start = scratch.as_ptr().align_offset(LINE * size_of::<f32>()).min(LINE);
        let (offsets, rest) = scratch[start..].split_at_mut(sizes.offsets);
        let (pixels, rest) = rest.split_at_mut(sizes.pixels);
        let (pairs, rest) = rest.split_at_mut(sizes.pairs);
        let (fused, sums) = rest.split_at_mut(sizes.fused);
        let [pixels, pairs] = [pixels, pairs].map(|piece| piece.as_mut_ptr().cast());
        let offsets = offsets.as_mut_ptr().cast();
        let segment = c.weights.k() / c.taps.map_or(1, Taps::segments);
        let (layout, tiles) = (Layout::new(c.taps, segment), isa.amx().map(Amx::tiles));
        let ahead = ahead(c.weights, [0, 0], &[]);
        Self {
            isa,
            c,
            sizes,
            layout,
            segment,
            tiles,
            ahead,
            range: [0, 0],
            offsets,
            pixels,
            pairs,
            fused,
            sums,
        }
    }

    /// Begins with some output pixels, from and to: where the steps of a row lie.
    fn place(&mut self, range: [usize; 2]) {
        self.range = range;
        let each = self.segment.div_ceil(STEP);
        for step in 0..self.sizes.steps {
            let offset = match self.layout {
                Layout::Pieces => step * ROWS * STEP,
                Layout::Bordered(b, ld) => b.elements[step / each] * ld + step % each * STEP,
            };
            // SAFETY: the scratch holds as many offsets as steps.
            unsafe { self.offsets.add(step).write(offset * size_of::<u16>()) };
        }
    }

    /// Rounds the pixels that the tile reads of `source`, which begins with its first output pixel.
    fn lay_out(&mut self, source: Source) {
        let ([from, to], out) = (self.range, self.pixels);
        match self.layout {
            Layout::Pieces => self.isa.run(Gather { source, rows: to - from, out }),
            Layout::Bordered(b, ld) => {
                let table = b.table[from / b.pixels * b.width..].as_ptr();
                let source = Source { table, taps: 1, ..source };
                self.isa.run(Places { source, rows: b.rows(self.range) * b.width, ld, out });
            }
        }
    }

    /// Laid out rows from row `first` on, at step `step`.
    fn rows(&self, first: usize, step: usize) -> Rows {
        let (row, before) = match self.layout {
            Layout::Pieces => (STEP, 0),
            Layout::Bordered(b, ld) => (ld, self.range[0] % b.pixels * ld),
        };
        let half = match self.layout {
            Layout::Pieces => self.sizes.steps * ROWS * STEP,
            Layout::Bordered(..) => ROWS * row,
        };
        let [row, half, before] = [row, half, before].map(|values| values * size_of::<u16>());
        let base = self.pixels.cast_const().cast::<u8>().wrapping_add(before + first / ROWS * half);
        Rows { base, row, half, offsets: self.offsets.wrapping_add(step) }
    }

    /// All pixels of a checked tile of one panel, which have been laid out.
    fn panel(&mut self, tile: &mut Tile<'_>) {
        let (w, Sizes { steps, chunk, .. }) = (self.c.weights, self.sizes);
        let (nr, panel, rows) = (w.nr(), tile.channel0() / w.nr(), self.layout.rows(self.range));
        let sink = self.c.sink(tile, SumRows::NONE);
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
            for first in (0..rows).step_by(BLOCK) {
                let product = Product {
                    rows: self.rows(first, from),
                    panel: weights,
                    steps: to - from,
                    resume: from > 0,
                    wide: sink.cols > nr / 2,
                };
                let count = BLOCK.min(rows - first);
                let sums = self.sums[if chunk < steps { first * nr } else { 0 }..].as_mut_ptr();
                match &self.tiles {
                    // SAFETY: the scratch holds whole pieces of 16 rows and 32 rows of sums, `weights` the steps.
                    Some(tiles) => unsafe { product.by_tiles(tiles, count, sums, &mut self.ahead) },
                    None => self.isa.run(product.by_lanes(count, sums)),
                }
                if to == steps {
                    self.ends([first, count], sums, sink);
                }
            }
        }
    }

    /// Hands the sums of rows from `first` on to the sink, those that are output pixels.
    fn ends(&self, [first, count]: [usize; 2], sums: *const f32, sink: Sink) {
        let of = self.range[1] - self.range[0];
        let Layout::Bordered(b, _) = self.layout else {
            return self.isa.run(Ends { rows: [first, count], of, block: sums, sink });
        };
        let before = self.range[0] % b.pixels;
        let mut row = first;
        while row < first + count {
            let (y, x) = ((before + row) / b.width, (before + row) % b.width);
            let some = (b.width - x).min(first + count - row);
            if x < b.pixels {
                let rows = [y * b.pixels + x - before, some.min(b.pixels - x)];
                let block = sums.wrapping_add((row - first) * self.c.weights.nr());
                self.isa.run(Ends { rows, of, block, sink });
            }
            row += some;
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
