//! What a product reads and where its results go.

use crate::activation::Activation;
use crate::generic::LINE_BYTES;
use crate::geometry::ZERO;
use crate::shared::Tile;
use crate::sums::SumRows;
use crate::vector::Vector;
use crate::view::Epilogue;

/// A row of zeros for taps that lie outside the image; longer segments are multiplied in pieces.
pub(crate) static ZEROS: [f32; PIECE] = [0.0; PIECE];
pub(crate) const PIECE: usize = 4096;

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
    pub(crate) unsafe fn segment(&self, i: usize, tap: usize, k0: usize) -> *const f32 {
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
    /// Sums over the rows are added here.
    pub(crate) sums: SumRows,
    /// Whether `out` holds the sums over earlier values of `k`, which start the accumulators in place of the bias.
    pub(crate) resume: bool,
}

impl Sink {
    /// That of a tile whose sums over the rows go to `sums`.
    pub(crate) fn new(epilogue: &Epilogue<'_>, tile: &mut Tile<'_>, sums: SumRows) -> Self {
        let (residual, residual_ld) = epilogue.residual_of(tile);
        Self {
            ld: tile.ld(),
            cols: tile.channels(),
            bias: epilogue.bias_of(tile),
            residual,
            residual_ld,
            act: epilogue.act,
            sums,
            out: tile.as_mut_ptr(),
            resume: false,
        }
    }

    /// How many columns fill whole registers and how many are left for half a one; none where these, too, take a whole one.
    #[inline(always)]
    pub(crate) fn columns_of<V: Vector>(&self, v: V) -> (usize, usize) {
        let (half, tail) = (V::Half::LANES, self.cols % V::LANES);
        let whole = self.cols - tail;
        if half == V::LANES || tail > half || (whole > 0 && v.multiplies_whole()) {
            return (self.cols, 0);
        }
        (whole, tail)
    }

    /// Columns `first..first + width` of it, or those of them that exist.
    #[inline(always)]
    pub(crate) fn columns(mut self, first: usize, width: usize) -> Self {
        let at = |p: *const f32| if p.is_null() { p } else { p.wrapping_add(first) };
        self.cols = (self.cols - first).min(width);
        (self.bias, self.residual) = (at(self.bias), at(self.residual));
        (self.sums, self.out) = (self.sums.columns(first), self.out.wrapping_add(first));
        self
    }

    /// Asks for the lines of a tile that are read and written when its sums are made.
    #[inline(always)]
    pub(crate) fn expect<V: Vector, const MR: usize, const NB: usize>(&self, v: V) {
        let registers = (LINE_BYTES / size_of::<f32>()).div_ceil(V::LANES);
        for i in 0..MR {
            for j in (0..NB).step_by(registers) {
                v.prefetch_to_write(self.out.wrapping_add(i * self.ld + j * V::LANES));
                if !self.residual.is_null() {
                    v.prefetch(self.residual.wrapping_add(i * self.residual_ld + j * V::LANES).cast());
                }
            }
        }
    }

    /// The sink from row `i` on, within a run of sums.
    ///
    /// # Safety
    /// The row must exist.
    #[inline(always)]
    pub(crate) unsafe fn skip(mut self, i: usize) -> Self {
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
