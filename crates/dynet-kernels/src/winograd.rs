//! Dense 3x3 convolutions of stride 1 by Winograd's minimal filtering, static or dynamic.
//!
//! Both transforms of the weights, `G g G^T` and Eq. 2, are linear: the fixed kernels are transformed and packed ahead,
//! and fusing them makes the transformed dynamic kernel.

use crate::activation::Activation;
use crate::generic::fuse::FusePanel;
use crate::generic::gemm::{Ahead, PanelProduct, Sink, Source};
use crate::generic::winograd::{Inputs, Outputs, Tiles, kernel};
use crate::geometry::Geometry;
use crate::isa::Isa;
use crate::panels::{Data, KernelShape, Panels, Storage};
use crate::shared::Tile;
use crate::view::{Coefs, Epilogue, Pixels};

/// Side of the tiles of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// F(2x2, 3x3): 2.25 times fewer multiplications, weights 16/9 as large.
    Two,
    /// F(4x4, 3x3): 4 times fewer multiplications, weights 4 times as large.
    Four,
}

impl Side {
    /// Outputs in each direction.
    pub fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
        }
    }

    /// Products of a tile.
    pub fn products(self) -> usize {
        (self.outputs() + 2) * (self.outputs() + 2)
    }

    /// Tiles that cover `rows` rows of an output of a geometry.
    pub fn tiles(self, g: &Geometry, rows: usize) -> usize {
        rows.div_ceil(self.outputs()) * g.output()[1].div_ceil(self.outputs())
    }
}

/// Rows of outputs that are computed at a time: their transformed inputs and products, 36 x 32 tiles x 96 values for 64
/// channels, stay in the second-level cache. With dynamic kernels three times as many, as all are fused again.
fn strip(weights: &Panels, side: Side, g: &Geometry) -> usize {
    let tiles = if weights.experts() > 1 { 96 } else { 32 };
    let columns = g.output()[1].div_ceil(side.outputs()).max(1);
    usize::div_ceil(tiles, columns) * side.outputs()
}

/// Values from one position's rows to the next's: one cache line more than the rows have, so that the positions of a
/// tile do not all fall into the same few sets of the first-level cache.
fn position_len(count: usize, width: usize) -> usize {
    (count * width).next_multiple_of(16) + 16
}

/// Whether a convolution of this window, in one group, can be computed so.
pub fn fits(g: &Geometry) -> bool {
    g.kernel == [3, 3] && g.stride == [1, 1] && g.dilation == [1, 1]
}

/// Transforms and packs weights `[experts][c_out][c_in][9]`.
///
/// # Panics
/// If `shape` has not 9 taps or `weights` has another length than it says.
pub fn pack(isa: Isa, storage: Storage, side: Side, shape: KernelShape, weights: &[f32]) -> Panels {
    assert_eq!(shape.taps, 9, "elements of a 3x3 kernel");
    assert_eq!(Some(weights.len()), shape.len(), "weights of {shape:?}");
    let (m, n) = (side.outputs(), side.outputs() + 2);
    let mut transformed = Vec::with_capacity(weights.len() / 9 * n * n);
    for g in weights.chunks_exact(9) {
        let at = |i: usize, j: usize| f64::from(g[i * 3 + j]);
        let half = [0, 1, 2].map(|j| kernel(m, [at(0, j), at(1, j), at(2, j)]));
        for i in 0..n {
            let row = kernel(m, half.each_ref().map(|column| column[i]));
            transformed.extend(row.into_iter().map(|x| x as f32));
        }
    }
    Panels::pack(isa, storage, KernelShape { taps: n * n, ..shape }, &transformed)
}

/// A dense 3x3 convolution of stride 1 of one image, with everything that its tiles share. Outside the image are zeros.
///
/// # Shapes
/// Input `[h * w][ld]`; weights as [`pack`] makes them; output `[output pixels][c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct WinogradConv<'a> {
    /// The image.
    pub x: Pixels<'a>,
    /// Its window, which [`fits`].
    pub geometry: &'a Geometry,
    /// That of the packed weights.
    pub side: Side,
    /// Transformed, packed weights.
    pub weights: &'a Panels,
    /// Coefficients of a dynamic convolution; `None` adds up all fixed kernels, of which a static one has one.
    pub coefs: Option<Coefs<'a>>,
    /// What happens before the store.
    pub epilogue: Epilogue<'a>,
}

impl WinogradConv<'_> {
    /// Values of scratch that [`winograd`] needs for tiles of at most `rows` rows of the output.
    pub fn scratch_len(weights: &Panels, side: Side, g: &Geometry, rows: usize) -> usize {
        let c_in = weights.k() / side.products();
        let count = side.tiles(g, rows.min(strip(weights, side, g)));
        let products = position_len(count, c_in) + position_len(count, weights.nr());
        side.products() * products + c_in * weights.nr()
    }

    fn check(&self, isa: Isa, scratch: &[f32], out: &Tile<'_>) {
        let (w, g, m) = (self.weights, self.geometry, self.side.outputs());
        assert!(fits(g), "{g:?} is no 3x3 kernel of stride 1");
        assert_eq!(w.nr(), isa.nr(), "weights are packed for panels of another width than {isa} has");
        assert_eq!(out.channel0() % w.nr(), 0, "a tile starts within a panel");
        let end = out.channel0() + out.channels();
        assert!(end <= w.n(), "output channels up to {end}, weights have {}", w.n());
        let [height, width] = g.output();
        let pixels = out.pixel0() + out.pixels();
        let aligned = |p: usize| p.is_multiple_of(m * width) || p == height * width;
        let whole = pixels <= height * width
            && (out.pixels() == 0 || [out.pixel0(), pixels].map(aligned) == [true; 2]);
        assert!(whole, "pixels {}..{pixels} are no whole tiles of {m} rows of {width}", out.pixel0());
        assert!(w.k().is_multiple_of(self.side.products()), "{} rows of weights for {:?}", w.k(), self.side);
        self.x.check(g.input[0] * g.input[1], w.k() / self.side.products());
        if let Some(coefs) = self.coefs {
            coefs.check(w.experts(), w.n());
        }
        self.epilogue.check(pixels, end);
        let needed = Self::scratch_len(w, self.side, g, out.pixels().checked_div(width).unwrap_or(0));
        assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
    }
}

/// Computes one tile of a convolution, which must be whole rows of the output image, a multiple of [`Side::outputs`] of
/// them unless it ends with the image: transforms its inputs, fuses and multiplies panel by panel, transforms back.
///
/// `sums`, one pixel with the tile's channels, receives the sums over the tile's pixels of what is stored.
///
/// # Panics
/// If the sizes do not fit each other; nothing has been written then.
///
/// # Accuracy
/// Relative to the sum of the terms' absolute values, the error is some 3 times that of the plain sum with tiles of 2,
/// some 20 times with tiles of 4. Bits do not depend on the tiles, those of `sums` do.
pub fn winograd(
    isa: Isa,
    c: &WinogradConv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    sums: Option<Tile<'_>>,
) {
    c.check(isa, scratch, out);
    let mut sums = sums;
    if let Some(sums) = &mut sums {
        let fits = sums.pixels() == 1 && sums.channels() == out.channels();
        assert!(fits, "sums of another shape: {sums:?} of {out:?}");
        sums.row(0).fill(0.0);
    }
    if out.pixels() == 0 {
        return;
    }
    match c.side {
        Side::Two => c.run::<2, 4>(isa, scratch, out, sums),
        Side::Four => c.run::<4, 6>(isa, scratch, out, sums),
    }
}

impl WinogradConv<'_> {
    fn run<const M: usize, const N: usize>(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        out: &mut Tile<'_>,
        mut sums: Option<Tile<'_>>,
    ) {
        let width = self.geometry.output()[1];
        let rows = out.pixels() / width;
        let strip = strip(self.weights, self.side, self.geometry);
        for row in (0..rows).step_by(strip) {
            let mut out = out.rows(row * width, strip.min(rows - row) * width);
            self.strip::<M, N>(isa, scratch, &mut out, &mut sums);
        }
    }

    fn strip<const M: usize, const N: usize>(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        out: &mut Tile<'_>,
        sums: &mut Option<Tile<'_>>,
    ) {
        let (w, g) = (self.weights, self.geometry);
        let (nr, c_in) = (w.nr(), w.k() / (N * N));
        let width = g.output()[1];
        let rows = [out.pixel0() / width, (out.pixel0() + out.pixels()) / width];
        let tiles = Tiles { rows: [rows[0] / M, rows[1].div_ceil(M)], columns: width.div_ceil(M) };
        let count = tiles.count();
        let steps = [position_len(count, c_in), position_len(count, nr)];
        let (inputs, rest) = scratch.split_at_mut(N * N * steps[0]);
        let (products, fused) = rest.split_at_mut(N * N * steps[1]);
        let (x, ld, step) = (self.x.data.as_ptr(), self.x.ld, steps[0]);
        isa.run(Inputs::<M, N> { x, ld, c_in, geometry: g, tiles, step, out: inputs.as_mut_ptr() });
        let first = out.channel0() / nr;
        for panel in first..first + out.channels().div_ceil(nr) {
            let start = (panel - first) * nr;
            for position in 0..N * N {
                let from = &inputs[position * steps[0]..][..count * c_in];
                let to = &mut products[position * steps[1]..][..count * nr];
                self.multiply(isa, [panel, position], from, fused, to);
            }
            let cols = nr.min(out.channels() - start);
            let mut tile = out.columns(start, cols);
            let sums = sums.as_mut().map_or(&mut [][..], |s| &mut s.row(0)[start..start + cols]);
            isa.run(self.outputs::<M, N>((products, steps[1]), tiles, &mut tile, sums));
        }
    }

    /// The products `[tile][nr]` of one position with one panel, which is fused into `fused` before.
    fn multiply(
        &self,
        isa: Isa,
        [panel, position]: [usize; 2],
        x: &[f32],
        fused: &mut [f32],
        out: &mut [f32],
    ) {
        let w = self.weights;
        let (nr, c_in) = (w.nr(), w.k() / self.side.products());
        let rows = [position * c_in, (position + 1) * c_in];
        let packed = match &w.data {
            Data::F32(data) if w.experts() == 1 && self.coefs.is_none() => {
                &data[(panel * w.k() + rows[0]) * nr..][..c_in * nr]
            }
            _ => {
                isa.run(FusePanel {
                    panels: w,
                    panel,
                    rows,
                    coefs: self.coefs,
                    row_scale: None,
                    dynamic: fused,
                });
                &fused[..c_in * nr]
            }
        };
        let [next, end] = match (rows[1] < w.k(), panel + 1 < w.count()) {
            (true, _) => w.bytes(panel, [rows[1], rows[1] + c_in]),
            (false, true) => w.bytes(panel + 1, [0, c_in]),
            (false, false) => [packed.as_ptr().cast(); 2],
        };
        let source = Source { base: x.as_ptr(), ld: c_in, table: std::ptr::null(), taps: 1, len: c_in };
        let sink = Sink {
            out: out.as_mut_ptr(),
            ld: nr,
            cols: nr,
            bias: std::ptr::null(),
            residual: std::ptr::null(),
            residual_ld: 0,
            act: Activation::None,
            sums: std::ptr::null_mut(),
            resume: false,
        };
        let (rows, ahead) = (out.len() / nr, Ahead::new([next, end]));
        isa.run(PanelProduct { rows, source, k: [0, c_in], panel: packed.as_ptr(), sink, ahead });
    }

    /// The job that ends a panel's tile.
    fn outputs<'s, const M: usize, const N: usize>(
        &self,
        (products, step): (&[f32], usize),
        tiles: Tiles,
        tile: &mut Tile<'_>,
        sums: &'s mut [f32],
    ) -> Outputs<'s, M, N> {
        let (pixel0, channel0) = (tile.pixel0(), tile.channel0());
        let e = &self.epilogue;
        let at = |r: Pixels<'_>| r.data[pixel0 * r.ld + channel0..].as_ptr();
        Outputs {
            products: products.as_ptr(),
            step,
            tiles,
            size: self.geometry.output(),
            ld: tile.ld(),
            cols: tile.channels(),
            bias: e.bias.map_or(std::ptr::null(), |b| b[channel0..].as_ptr()),
            residual: e.residual.map_or(std::ptr::null(), at),
            residual_ld: e.residual.map_or(0, |r| r.ld),
            act: e.act,
            sums,
            out: tile.as_mut_ptr(),
        }
    }
}
