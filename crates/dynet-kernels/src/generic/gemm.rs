//! The matrix product: rows of pixels times a panel of packed weights.

use crate::activation::Activation;
use crate::generic::pixelwise::reactivate;
use crate::geometry::ZERO;
use crate::vector::{Job, Vector};

/// Rows of the largest tile of all instruction sets.
pub(crate) const MAX_MR: usize = 14;

/// A row of zeros for taps that lie outside the image; longer segments are multiplied in pieces.
pub(crate) static ZEROS: [f32; PIECE] = [0.0; PIECE];
const PIECE: usize = 4096;

/// Where the rows of the left operand lie: each is `taps` segments of `len` values.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    /// The image's first value that is read.
    pub(crate) base: *const f32,
    /// Values from one pixel to the next.
    pub(crate) ld: usize,
    /// `[pixel][tap]` of the first row's pixel; null where row `i` is pixel `i`.
    pub(crate) table: *const u32,
    /// Segments of a row.
    pub(crate) taps: usize,
    /// Values of a segment.
    pub(crate) len: usize,
}

impl Source {
    /// Address of segment `tap` of row `i`, from value `k0` on.
    ///
    /// # Safety
    /// The row and the tap must exist.
    #[inline(always)]
    unsafe fn segment(&self, i: usize, tap: usize, k0: usize) -> *const f32 {
        if self.table.is_null() {
            // SAFETY: the caller's promise.
            return unsafe { self.base.add(i * self.ld + k0) };
        }
        // SAFETY: the caller's promise; the table holds pixels of the image.
        match unsafe { *self.table.add(i * self.taps + tap) } {
            ZERO => ZEROS.as_ptr(),
            // SAFETY: as above.
            pixel => unsafe { self.base.add(pixel as usize * self.ld + k0) },
        }
    }

    /// The rows from row `i` on.
    ///
    /// # Safety
    /// The row must exist.
    #[inline(always)]
    pub(crate) unsafe fn skip(mut self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            if self.table.is_null() {
                self.base = self.base.add(i * self.ld);
            } else {
                self.table = self.table.add(i * self.taps);
            }
        }
        self
    }
}

/// Where the results of a panel go and what happens on the way. Pointers are at the panel's first column.
#[derive(Clone, Copy)]
pub(crate) struct Sink {
    pub(crate) out: *mut f32,
    pub(crate) ld: usize,
    /// Columns that exist, at most the width of a panel.
    pub(crate) cols: usize,
    /// Null for none.
    pub(crate) bias: *const f32,
    /// Null for none.
    pub(crate) residual: *const f32,
    pub(crate) residual_ld: usize,
    pub(crate) act: Activation,
    /// Sums over the rows are added here; null for none.
    pub(crate) sums: *mut f32,
}

impl Sink {
    /// The sink from row `i` on.
    ///
    /// # Safety
    /// The row must exist.
    #[inline(always)]
    unsafe fn skip(mut self, i: usize) -> Self {
        // SAFETY: the caller's promise.
        unsafe {
            self.out = self.out.add(i * self.ld);
            if !self.residual.is_null() {
                self.residual = self.residual.add(i * self.residual_ld);
            }
        }
        self
    }
}

/// Multiplies `rows` rows with one panel `[k][nr]`.
///
/// Every output is one sum over `k` in order, in one accumulator: its bits depend neither on the tile that it
/// falls into nor on the number of rows. Sums over rows do depend on where the rows start.
pub(crate) struct PanelProduct {
    pub(crate) rows: usize,
    pub(crate) source: Source,
    pub(crate) panel: *const f32,
    pub(crate) sink: Sink,
}

impl PanelProduct {
    /// Cuts the rows into tiles of nearly equal height, so that no small rest is left whose few accumulators
    /// would wait for each other.
    ///
    /// # Safety
    /// All rows of the source, the panel and the rows and columns of the sink must exist, the sink's for this
    /// thread alone.
    #[inline(always)]
    unsafe fn tiles<V: Vector>(&self, v: V) {
        let tiles = self.rows.div_ceil(V::MR);
        let mut row = 0;
        for t in 0..tiles {
            let mr = (self.rows - row).div_ceil(tiles - t);
            // SAFETY: `row < self.rows`.
            let (source, sink) = unsafe { (self.source.skip(row), self.sink.skip(row)) };
            macro_rules! call {
                ($($mr:literal)*) => {
                    match mr {
                        $($mr => v.call(TileJob::<$mr> { source, panel: self.panel, sink }),)*
                        _ => {}
                    }
                };
            }
            call!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            row += mr;
        }
    }
}

impl Job for PanelProduct {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        // SAFETY: `Conv` checked all sizes before it made this job.
        unsafe { self.tiles(v) }
    }
}

/// `MR` rows of the product with one panel.
struct TileJob<const MR: usize> {
    source: Source,
    panel: *const f32,
    sink: Sink,
}

impl<const MR: usize> Job for TileJob<MR> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if MR > V::MR {
            return;
        }
        // SAFETY: `PanelProduct::tiles` makes only tiles whose rows exist.
        unsafe {
            let acc = multiply::<V, MR>(v, &self.source, self.panel);
            let full = self.sink.cols == 2 * V::LANES;
            match (self.sink.act.bounds(), full) {
                (Some(bounds), true) => finish::<V, MR, true>(v, acc, &self.sink, bounds),
                (Some(bounds), false) => finish::<V, MR, false>(v, acc, &self.sink, bounds),
                (None, _) => {
                    let mut plain = self.sink;
                    plain.sums = std::ptr::null_mut();
                    finish::<V, MR, false>(v, acc, &plain, [f32::NEG_INFINITY, f32::INFINITY]);
                    let s = &self.sink;
                    reactivate(v, s.out, s.ld, MR, s.cols, s.act, s.sums);
                }
            }
        }
    }
}

type Acc<V, const MR: usize> = [[<V as Vector>::Reg; 2]; MR];

/// # Safety
/// As [`PanelProduct::tiles`].
#[inline(always)]
unsafe fn multiply<V: Vector, const MR: usize>(v: V, source: &Source, mut panel: *const f32) -> Acc<V, MR> {
    let mut acc = [[v.splat(0.0); 2]; MR];
    for tap in 0..source.taps {
        let mut k0 = 0;
        while k0 < source.len {
            let len = (source.len - k0).min(PIECE);
            // SAFETY: rows `0..MR` exist, `k0` lies within a segment.
            let rows: [*const f32; MR] = std::array::from_fn(|i| unsafe { source.segment(i, tap, k0) });
            for k in 0..len {
                // SAFETY: `k` lies within the segment, and the panel has a row of two registers for each value.
                unsafe {
                    let b = [v.load(panel), v.load(panel.add(V::LANES))];
                    for i in 0..MR {
                        let a = v.splat(*rows[i].add(k));
                        acc[i][0] = v.fma(a, b[0], acc[i][0]);
                        acc[i][1] = v.fma(a, b[1], acc[i][1]);
                    }
                    panel = panel.add(2 * V::LANES);
                }
            }
            k0 += len;
        }
    }
    acc
}

/// Adds bias and residual, clamps, stores, and adds to the channel sums.
///
/// # Safety
/// As [`PanelProduct::tiles`]; `FULL` only with all columns of the panel.
#[inline(always)]
unsafe fn finish<V: Vector, const MR: usize, const FULL: bool>(
    v: V,
    acc: Acc<V, MR>,
    sink: &Sink,
    [lo, hi]: [f32; 2],
) {
    let (lo, hi) = (v.splat(lo), v.splat(hi));
    for j in 0..2 {
        let c0 = j * V::LANES;
        let lanes = sink.cols.saturating_sub(c0).min(V::LANES);
        // SAFETY: the promise of the caller for `lanes` columns from `c0` on; `FULL` says that `lanes` is a register.
        unsafe {
            let bias = if sink.bias.is_null() {
                v.splat(0.0)
            } else {
                v.load_some(sink.bias.wrapping_add(c0), lanes)
            };
            let mut sum = v.splat(0.0);
            for (i, acc) in acc.iter().enumerate() {
                let mut x = v.add(acc[j], bias);
                if !sink.residual.is_null() {
                    let r = sink.residual.wrapping_add(i * sink.residual_ld + c0);
                    x = v.add(x, if FULL { v.load(r) } else { v.load_some(r, lanes) });
                }
                x = v.min(hi, v.max(lo, x));
                let out = sink.out.wrapping_add(i * sink.ld + c0);
                if FULL {
                    v.store(out, x)
                } else {
                    v.store_some(out, x, lanes)
                }
                sum = v.add(sum, x);
            }
            if !sink.sums.is_null() {
                let sums = sink.sums.wrapping_add(c0);
                v.store_some(sums, v.add(v.load_some(sums, lanes), sum), lanes);
            }
        }
    }
}
