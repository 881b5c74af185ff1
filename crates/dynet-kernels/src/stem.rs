//! The first layer of a net: a dense 3x3 convolution of an image whose planes lie one behind the other, as they are given.

use crate::generic::operands::Sink;
use crate::generic::stem::{MOST_TERMS, StemRow};
use crate::geometry::Geometry;
use crate::isa::Isa;
use crate::panels::{Data, KernelShape, Panels, Storage};
use crate::shared::Tile;
use crate::sums::{SumRows, Sums};
use crate::view::Epilogue;

/// Rows and columns of the kernel.
const SIDE: usize = 3;

/// A static 3x3 convolution of one image with everything that its tiles share. Outside the image are zeros.
///
/// # Shapes
/// Input `[c_in][h][w]`, weights as [`Stem::pack`] makes them, output `[output pixels][c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct Stem<'a> {
    /// The image.
    pub planes: &'a [f32],
    /// Its window, which [`Stem::fits`].
    pub geometry: &'a Geometry,
    /// Packed weights.
    pub weights: &'a Panels,
    /// What happens before the store.
    pub epilogue: Epilogue<'a>,
}

impl Stem<'_> {
    /// Whether a convolution of images of `c_in` planes, in one group, can be computed so.
    pub fn fits(g: &Geometry, c_in: usize) -> bool {
        let stride = g.stride == [1, 1] || g.stride == [2, 2];
        (1..=MOST_TERMS / (SIDE * SIDE)).contains(&c_in)
            && g.kernel == [SIDE; 2]
            && stride
            && g.dilation == [1, 1]
    }

    /// Packs weights `[c_out][c_in][3][3]`.
    ///
    /// # Panics
    /// If `weights` has another length than the shape, which has one expert and 9 taps.
    pub fn pack(isa: Isa, shape: KernelShape, weights: &[f32]) -> Panels {
        assert_eq!((shape.experts, shape.taps), (1, SIDE * SIDE), "a static kernel's experts and elements");
        // Planes, rows and columns in the order in which they lie.
        Panels::pack(isa, Storage::F32, KernelShape { c_in: shape.k(), taps: 1, ..shape }, weights)
    }

    /// Values of scratch that [`stem`] needs: the rows of the image, with their border, that an output row reads.
    pub fn scratch_len(g: &Geometry, c_in: usize) -> usize {
        SIDE * c_in * (g.input[1] + 2 * g.padding[1])
    }

    fn check(&self, isa: Isa, scratch: &[f32], out: &Tile<'_>) {
        let (w, g) = (self.weights, self.geometry);
        let c_in = w.k() / (SIDE * SIDE);
        assert!(Self::fits(g, c_in) && w.k().is_multiple_of(SIDE * SIDE), "{g:?} of {} weights", w.k());
        assert!(w.experts() == 1 && matches!(w.data, Data::F32(_)), "weights of a dynamic convolution");
        let end = w.check_tile(isa, out);
        let pixels = out.check_rows(g.output());
        let needed = c_in * g.input[0] * g.input[1];
        assert_eq!(self.planes.len(), needed, "values of an image of {c_in} planes of {:?}", g.input);
        let needed = Self::scratch_len(g, c_in);
        assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
        self.epilogue.check(pixels, end);
    }

    /// Copies row `at` of the image with its border, of every plane, to its place among the rows in scratch.
    fn copy_row(&self, at: usize, scratch: &mut [f32]) {
        let g = self.geometry;
        let ([h, w], [above, left]) = (g.input, g.padding);
        let row = at.wrapping_sub(above);
        for (plane, rows) in
            self.planes.chunks_exact(h * w).zip(scratch.chunks_exact_mut(SIDE * (w + 2 * left)))
        {
            let to = &mut rows[at % SIDE * (w + 2 * left)..][..w + 2 * left];
            to.fill(0.0);
            if row < h {
                to[left..left + w].copy_from_slice(&plane[row * w..][..w]);
            }
        }
    }
}

/// Computes one tile of a stem, which must be whole rows of the output.
///
/// `sums` receives the sums over the tile's pixels of what is stored, over whole rows.
///
/// # Panics
/// If the sizes do not fit each other; nothing has been written then.
///
/// # Accuracy
/// One rounding per term, planes, rows and columns in order. Bits do not depend on the tiles.
pub fn stem(isa: Isa, c: &Stem<'_>, scratch: &mut [f32], out: &mut Tile<'_>, mut sums: Option<Sums<'_>>) {
    c.check(isa, scratch, out);
    if let Some(sums) = &mut sums {
        sums.start(out, c.geometry.output()[1]);
    }
    if out.pixels() == 0 {
        return;
    }
    let (w, g) = (c.weights, c.geometry);
    let (nr, k, width, stride) = (w.nr(), w.k(), g.output()[1], g.stride[0]);
    let len = g.input[1] + 2 * g.padding[1];
    let Data::F32(packed) = &w.data else { return };
    // The first row of the image with its border that is not in scratch.
    let mut next = 0;
    for row in 0..out.pixels() / width {
        let top = (out.pixel0() / width + row) * stride;
        for at in top.max(next)..top + SIDE {
            c.copy_row(at, scratch);
        }
        next = top + SIDE;
        let mut terms = [scratch.as_ptr(); MOST_TERMS];
        for (i, term) in terms.iter_mut().enumerate().take(k) {
            let [plane, line, column] = [i / SIDE / SIDE, i / SIDE % SIDE, i % SIDE];
            *term = scratch[(plane * SIDE + (top + line) % SIDE) * len + column..].as_ptr();
        }
        for start in (0..out.channels()).step_by(nr) {
            let mut tile = out.rows(row * width, width);
            let channels = tile.channels();
            let mut tile = tile.columns(start, nr.min(channels - start));
            let panel = packed[tile.channel0() / nr * k * nr..][..k * nr].as_ptr();
            let sink = Sink::new(&c.epilogue, &mut tile, SumRows::of(&mut sums, start).after(row * width));
            isa.run(StemRow { terms, count: k, panel, sink, width, stride, pixels: g.pixels() });
        }
    }
}
