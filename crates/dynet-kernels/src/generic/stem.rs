//! The product of a stem: pixels of a row of the output are a constant number of values apart, so that no table is read and no
//! image is laid out before.

use crate::generic::gemm::{FAR_BYTES, start, store};
use crate::generic::operands::Sink;
use crate::vector::{Job, Vector};

/// Most values that an output reads: nine of each of four planes.
pub(crate) const MOST_TERMS: usize = 36;

/// A row of the output, a panel of channels of it.
pub(crate) struct StemRow {
    /// Where the terms of the first pixel's sums lie, a row of the panel each. Addresses that the compiler does not know: it would
    /// keep what two pixels read in registers that there are not.
    pub(crate) terms: [*const f32; MOST_TERMS],
    /// Of them, those that exist.
    pub(crate) count: usize,
    /// `[terms][nr]`.
    pub(crate) panel: *const f32,
    /// Of the row's first pixel.
    pub(crate) sink: Sink,
    /// Pixels of the row.
    pub(crate) width: usize,
    /// From one pixel to the next: 1 or 2.
    pub(crate) stride: usize,
    /// Pixels of the output.
    pub(crate) pixels: usize,
}

impl Job for StemRow {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let (whole, tail) = self.sink.columns_of(v);
        if tail == 0 {
            return self.tiles(v);
        }
        // A few last columns in half a register, which takes half the time.
        let sink = self.sink;
        if whole > 0 {
            self.sink = sink.columns(0, whole);
            self.tiles(v);
        }
        self.sink = sink.columns(whole, tail);
        self.panel = self.panel.wrapping_add(whole);
        self.tiles(v.half());
    }
}

impl StemRow {
    #[inline(always)]
    fn tiles<V: Vector>(&self, v: V) {
        let two = V::ROW == 2 * V::LANES && self.sink.cols > V::LANES;
        match (two, self.stride) {
            (true, 1) => v.call_apart(Tiles::<2, 1>(self)),
            (true, _) => v.call_apart(Tiles::<2, 2>(self)),
            (false, 1) => v.call_apart(Tiles::<1, 1>(self)),
            (false, _) => v.call_apart(Tiles::<1, 2>(self)),
        }
    }
}

/// Tiles of `NB` registers of columns of a row, pixels `S` values apart.
struct Tiles<'a, const NB: usize, const S: usize>(&'a StemRow);

impl<const NB: usize, const S: usize> Job for Tiles<'_, NB, S> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let row = self.0;
        let far = row.pixels * row.sink.ld * size_of::<f32>() >= FAR_BYTES;
        let mut x = 0;
        macro_rules! tiles {
            ($($mr:literal)*) => {
                $(
                    while $mr <= V::MR.min(row.width - x) {
                        self.tile::<V, $mr>(v, x, far);
                        x += $mr;
                    }
                )*
            };
        }
        // The largest tiles of all instruction sets, and what is left of a row in few parts.
        tiles!(14 7 6 4 3 2 1);
    }
}

impl<const NB: usize, const S: usize> Tiles<'_, NB, S> {
    /// Pixels `x..x + MR` of the row.
    #[inline(always)]
    fn tile<V: Vector, const MR: usize>(&self, v: V, x: usize, far: bool) {
        let row = self.0;
        // SAFETY: `stem` has checked that all pixels of the row, the lines that they read, and the panel exist.
        unsafe {
            let sink = row.sink.skip(x);
            if far {
                sink.expect::<V, MR, NB>(v);
            }
            let mut acc = start::<V, MR, NB>(v, &sink);
            let mut panel = row.panel;
            for term in &row.terms[..row.count] {
                let from = term.add(x * S);
                let mut b = [v.splat(0.0); NB];
                for (j, b) in b.iter_mut().enumerate() {
                    *b = v.load(panel.add(j * V::LANES));
                }
                for (i, acc) in acc.iter_mut().enumerate() {
                    let a = v.splat(*from.add(i * S));
                    for (acc, b) in acc.iter_mut().zip(b) {
                        *acc = v.fma(a, b, *acc);
                    }
                }
                panel = panel.add(V::ROW);
            }
            store::<V, MR, NB>(v, acc, &sink);
        }
    }
}
