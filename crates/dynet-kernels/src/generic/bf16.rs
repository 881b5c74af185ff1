//! Products of bfloat16: pixels and panels rounded and laid out, multiplied, and what happens to the sums.

use crate::arch::Tiles;
use crate::bf16::{BLOCK, PACE, ROWS, STEP};
use crate::generic::gemm::{Ahead, FAR_BYTES, finish, finish_apart, start};
use crate::generic::operands::{Sink, Source, ZEROS};
use crate::vector::{Job, Vector};

/// Rows of bfloat16 of which a product takes 32 values in each step: value `k` of row `r` in step `s` is `k` values behind byte
/// `r / 16 * half + r % 16 * row + offsets[s]` of `base`.
#[derive(Clone, Copy)]
pub(crate) struct Rows {
    pub(crate) base: *const u8,
    pub(crate) row: usize,
    pub(crate) half: usize,
    pub(crate) offsets: *const usize,
}

/// Rounds rows of pixels into `[rows / 16][step][16][32]`. Rows behind the last one repeat it, terms behind a segment are zeros.
pub(crate) struct Gather {
    pub(crate) source: Source,
    pub(crate) rows: usize,
    pub(crate) out: *mut u16,
}

impl Job for Gather {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { source, rows, mut out } = self;
        for first in (0..rows).step_by(ROWS) {
            for tap in 0..source.taps {
                let (mut from, mut advance) = ([source.base; ROWS], [STEP; ROWS]);
                for (i, (from, advance)) in from.iter_mut().zip(&mut advance).enumerate() {
                    // SAFETY: whoever made the job has `rows` rows of `taps` segments.
                    *from = unsafe { source.segment((first + i).min(rows - 1), tap, 0) };
                    if *from == ZEROS.as_ptr() {
                        *advance = 0;
                    }
                }
                for k in (0..source.len).step_by(STEP) {
                    let len = STEP.min(source.len - k);
                    for (from, advance) in from.iter_mut().zip(advance) {
                        // SAFETY: `len` values of the segment are left (of zeros there are more), and `out` has room.
                        unsafe { round(v, *from, len, out) };
                        *from = from.wrapping_add(advance);
                        out = out.wrapping_add(STEP);
                    }
                }
            }
        }
    }
}

/// Rounds whole pixels, those behind one another in the source, into `[rows][ld]`; values behind a pixel's last one up to a whole
/// step are zeros.
pub(crate) struct Places {
    pub(crate) source: Source,
    pub(crate) rows: usize,
    pub(crate) ld: usize,
    pub(crate) out: *mut u16,
}

impl Job for Places {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { source, rows, ld, out } = self;
        for row in 0..rows {
            // SAFETY: whoever made the job has `rows` rows of one segment.
            let from = unsafe { source.segment(row, 0, 0) };
            let advance = if from == ZEROS.as_ptr() { 0 } else { STEP };
            let out = out.wrapping_add(row * ld);
            for (step, k) in (0..source.len).step_by(STEP).enumerate() {
                // SAFETY: as many values of the segment are left (of zeros there are more), and `out` has room for the step.
                unsafe {
                    let from = from.wrapping_add(step * advance);
                    round(v, from, STEP.min(source.len - k), out.wrapping_add(k));
                }
            }
        }
    }
}

/// Rounds `len` values, at most a step of them, and fills the step up with zeros.
///
/// # Safety
/// They must be readable at `x`, and a step writable at `out`.
#[inline(always)]
unsafe fn round<V: Vector>(v: V, x: *const f32, len: usize, out: *mut u16) {
    for j in (0..STEP).step_by(2 * V::LANES) {
        // SAFETY: the caller's promise; `load_some` reads no more values than there are.
        unsafe {
            let [lo, hi] = if len == STEP {
                [v.load(x.add(j)), v.load(x.add(j + V::LANES))]
            } else {
                [j, j + V::LANES].map(|j| v.load_some(x.wrapping_add(j), len.saturating_sub(j)))
            };
            v.store_bf16(out.add(j), lo, hi);
        }
    }
}

/// Rounds fused rows `[rows][nr]` of a panel into `[padded / 2][nr][2]`.
pub(crate) struct Pairs {
    pub(crate) rows: usize,
    /// Rows filled up with zeros to whole steps.
    pub(crate) padded: usize,
    pub(crate) fused: *const f32,
    pub(crate) out: *mut u16,
}

impl Job for Pairs {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let nr = 2 * V::LANES;
        for pair in 0..self.padded / 2 {
            for j in [0, V::LANES] {
                let row = |row: usize| {
                    if row >= self.rows {
                        return v.splat(0.0);
                    }
                    // SAFETY: whoever made the job has `rows` rows.
                    unsafe { v.load(self.fused.add(row * nr + j)) }
                };
                // SAFETY: and `padded` rows of the result.
                unsafe {
                    v.store_bf16_pairs(self.out.add((pair * nr + j) * 2), row(2 * pair), row(2 * pair + 1));
                }
            }
        }
    }
}

/// Some steps of laid out rows times those of one panel.
#[derive(Clone, Copy)]
pub(crate) struct Product {
    /// From the first of the steps on.
    pub(crate) rows: Rows,
    /// The same.
    pub(crate) panel: *const u16,
    pub(crate) steps: usize,
    /// Whether there are sums so far, to which these are added.
    pub(crate) resume: bool,
    /// Whether more than the first half of the panel's columns are wanted.
    pub(crate) wide: bool,
}

impl Product {
    /// Sums `[32][32]` of the first `count` rows.
    ///
    /// # Safety
    /// Whole pieces of 16 rows, the panel of 32 columns and 32 rows of sums must exist, and there must be a step.
    pub(crate) unsafe fn by_tiles(&self, tiles: &Tiles, count: usize, sums: *mut f32, ahead: &mut Ahead) {
        let pace = if ahead.step() > 0 { PACE } else { 0 };
        let (rows, panel) = ((self.rows, count > ROWS), (self.panel, self.wide));
        // SAFETY: the caller's promise.
        unsafe { tiles.multiply(rows, panel, self.steps, (sums, self.resume), (ahead.next, pace)) };
        ahead.next = ahead.next.wrapping_add(self.steps * pace);
    }

    /// The same by f32 multiply-adds.
    pub(crate) fn by_lanes(self, count: usize, sums: *mut f32) -> ByLanes {
        ByLanes { product: self, count, sums }
    }
}

/// [`Product`] for CPUs without a matrix unit.
pub(crate) struct ByLanes {
    product: Product,
    count: usize,
    sums: *mut f32,
}

/// Rows that [`ByLanes`] multiplies at a time.
const LANES_ROWS: usize = 4;

impl Job for ByLanes {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { mut product, count, sums } = self;
        let Rows { base, row, half, .. } = product.rows;
        for first in (0..count).step_by(LANES_ROWS) {
            product.rows.base = base.wrapping_add(first / ROWS * half + first % ROWS * row);
            // SAFETY: whoever made the product has whole pieces of 16 rows, so that four more exist, and 32 rows of sums.
            unsafe { by_lanes(v, &product, sums.add(first * 2 * V::LANES)) };
        }
    }
}

/// Four rows of a piece times a panel.
///
/// # Safety
/// The rows, the panel and the sums must exist.
#[inline(always)]
unsafe fn by_lanes<V: Vector>(v: V, product: &Product, sums: *mut f32) {
    let nr = 2 * V::LANES;
    let mut acc = [[v.splat(0.0); 2]; LANES_ROWS];
    let mut panel = product.panel;
    if product.resume {
        for (row, acc) in acc.iter_mut().enumerate() {
            // SAFETY: the caller's promise.
            *acc = unsafe { [v.load(sums.add(row * nr)), v.load(sums.add(row * nr + V::LANES))] };
        }
    }
    for step in 0..product.steps {
        // SAFETY: the caller's promise: each step has its offset.
        let step = product.rows.base.wrapping_add(unsafe { *product.rows.offsets.add(step) });
        for pair in 0..STEP / 2 {
            // SAFETY: the caller's promise; rows and panels are aligned to words of two values.
            unsafe {
                let [even0, odd0] = v.load_bf16(panel);
                let [even1, odd1] = v.load_bf16(panel.add(nr));
                panel = panel.add(2 * nr);
                for (row, acc) in acc.iter_mut().enumerate() {
                    let word = step.add(row * product.rows.row).cast::<u32>().add(pair).read();
                    let [even, odd] = [word << 16, word & !0xffff].map(|bits| v.splat(f32::from_bits(bits)));
                    *acc = [
                        v.fma(odd, odd0, v.fma(even, even0, acc[0])),
                        v.fma(odd, odd1, v.fma(even, even1, acc[1])),
                    ];
                }
            }
        }
    }
    for (row, acc) in acc.into_iter().enumerate() {
        // SAFETY: the caller's promise.
        unsafe {
            v.store(sums.add(row * nr), acc[0]);
            v.store(sums.add(row * nr + V::LANES), acc[1]);
        }
    }
}

/// What happens to the sums of some pixels, from and how many `of` a tile, on the way to the sink.
pub(crate) struct Ends {
    pub(crate) rows: [usize; 2],
    pub(crate) of: usize,
    pub(crate) block: *const f32,
    pub(crate) sink: Sink,
}

impl Job for Ends {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { rows: [from, count], of, mut block, sink } = self;
        // SAFETY: `Conv` checked that the sink has all rows of the tile; `block` has 32.
        unsafe {
            let mut at = sink.skip(from);
            let mut left = count;
            while left > 0 {
                let some = [8, 4].into_iter().find(|some| left >= *some).unwrap_or(1);
                match some {
                    8 => end::<V, 8>(v, block, &at),
                    4 => end::<V, 4>(v, block, &at),
                    _ => end::<V, 1>(v, block, &at),
                }
                at = at.skip(some);
                block = block.add(some * 2 * V::LANES);
                left -= some;
            }
            if of * sink.ld * size_of::<f32>() >= FAR_BYTES {
                for _ in 0..BLOCK.min(of - from - count) {
                    at.expect::<V, 1, 2>(v);
                    at = at.skip(1);
                }
            }
        }
    }
}

/// Bias, residual, activation and store of `MR` rows of sums.
///
/// # Safety
/// The rows of block and sink must exist.
#[inline(always)]
unsafe fn end<V: Vector, const MR: usize>(v: V, block: *const f32, sink: &Sink) {
    // SAFETY: the caller's promise; `FULL` only with all columns.
    unsafe {
        let mut acc = start::<V, MR, 2>(v, sink);
        for (i, acc) in acc.iter_mut().enumerate() {
            for (j, acc) in acc.iter_mut().enumerate() {
                *acc = v.add(*acc, v.load(block.add((2 * i + j) * V::LANES)));
            }
        }
        match (sink.act.bounds(), sink.cols == 2 * V::LANES) {
            (Some(bounds), true) => finish::<V, MR, 2, true>(v, acc, sink, bounds),
            (Some(bounds), false) => finish::<V, MR, 2, false>(v, acc, sink, bounds),
            (None, _) => finish_apart::<V, MR, 2>(v, acc, sink),
        }
    }
}
