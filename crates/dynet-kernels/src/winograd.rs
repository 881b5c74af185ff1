//! Dense convolutions by Winograd's minimal filtering: 3x3 kernels of stride 1, static or dynamic, and static stems of
//! stride 2.
//!
//! The transform of the weights, `G g G^T`, is linear like Eq. 2. Static kernels are transformed and packed ahead. Fixed
//! kernels of a dynamic convolution are fused as they are, and the dynamic kernel is transformed: once for each image,
//! panel and strip of rows, some 100 operations for a kernel, where the transformed fixed kernels would be 16/9 to 4
//! times as much memory to read, and their rounding to bf16 would be blown up by the transforms behind.

use crate::generic::fuse::{self, FusePanel};
use crate::generic::gemm::Ahead;
use crate::generic::positions::Product;
use crate::generic::winograd::{Inputs, Kernels, Outputs, Tiles, kernel};
use crate::geometry::Geometry;
use crate::isa::Isa;
use crate::panels::{Data, KernelShape, Panels, Storage};
use crate::pixelwise;
use crate::shared::Tile;
use crate::sums::Sums;
use crate::view::{Coefs, Epilogue, Pixels};

/// Side of the tiles of outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// F(2x2, 3x3): 2.25 times fewer multiplications, transformed weights 16/9 as large.
    Two,
    /// F(3x3, 4x4) for kernels of 7x7 or 8x8 with stride 2 and without padding, which are convolutions of 4x4 over an
    /// image whose pixels are squares of two by two: 3 to 4 times fewer multiplications.
    Three,
    /// F(4x4, 3x3): 4 times fewer multiplications, transformed weights 4 times as large.
    Four,
}

impl Side {
    /// Outputs in each direction.
    pub fn outputs(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Three => 3,
            Self::Four => 4,
        }
    }

    /// Products of a tile.
    pub fn products(self) -> usize {
        self.inputs() * self.inputs()
    }

    /// Tiles that cover `rows` rows of an output of a geometry.
    pub fn tiles(self, g: &Geometry, rows: usize) -> usize {
        rows.div_ceil(self.outputs()) * g.output()[1].div_ceil(self.outputs())
    }

    /// Whether a convolution of this window, in one group, can be computed so.
    pub fn fits(self, g: &Geometry) -> bool {
        let window = match self {
            Self::Two | Self::Four => g.kernel == [3, 3],
            Self::Three => g.kernel.iter().all(|k| [7, 8].contains(k)) && g.padding == [0, 0],
        };
        window && g.stride == [self.stride(); 2] && g.dilation == [1, 1]
    }

    /// Values that static weights `[c_out][c_in][taps]` of this window take transformed, for each of `c_out x c_in`.
    pub fn transformed(self) -> usize {
        self.products() * self.stride() * self.stride()
    }

    /// Rows of outputs that are computed at a time: their transformed inputs and products, 36 x 32 tiles x 96 values for 64
    /// channels, stay in the second-level cache. With dynamic kernels three times as many, as all are fused again.
    pub fn strip_rows(self, g: &Geometry, dynamic: bool) -> usize {
        let tiles = if dynamic { 96 } else { 32 };
        let columns = g.output()[1].div_ceil(self.outputs()).max(1);
        usize::div_ceil(tiles, columns) * self.outputs()
    }

    /// Inputs in each direction.
    fn inputs(self) -> usize {
        match self {
            Self::Two => 4,
            Self::Three | Self::Four => 6,
        }
    }

    fn stride(self) -> usize {
        if self == Self::Three { 2 } else { 1 }
    }
}

/// Input channels whose kernels are fused and transformed at a time: in 32 KiB and less than 150 KiB, for panels of 16.
const CHUNK: usize = 64;

/// Values from one position's rows to the next's: one cache line more than the rows have, so that the positions of a
/// tile do not all fall into the same few sets of the first-level cache.
fn position_len(count: usize, width: usize) -> usize {
    (count * width).next_multiple_of(16) + 16
}

/// Transforms and packs weights `[c_out][c_in][taps]` of a static convolution.
///
/// # Panics
/// If the geometry does not fit the side or the shape, which has one expert, or `weights` has another length than it says.
pub fn pack(isa: Isa, side: Side, g: &Geometry, shape: KernelShape, weights: &[f32]) -> Panels {
    assert!(side.fits(g), "{g:?} does not fit {side:?}");
    assert_eq!((shape.experts, shape.taps), (1, g.taps()), "a static kernel's experts and elements");
    assert_eq!(Some(weights.len()), shape.len(), "weights of {shape:?}");
    let (n, stride) = (side.inputs(), side.stride());
    let taps = g.kernel.map(|k| k.div_ceil(stride));
    let c_in = shape.c_in * stride * stride;
    let mut transformed = Vec::with_capacity(shape.c_out * c_in * n * n);
    let squares = || (0..stride).flat_map(|y| (0..stride).map(move |x| [y, x]));
    for weights in weights.chunks_exact(shape.k().max(1)) {
        for ([y, x], g_all) in squares().flat_map(|s| weights.chunks_exact(shape.taps).map(move |g| (s, g))) {
            let at = |i: usize, j: usize| match [i * stride + y, j * stride + x] {
                [row, column] if row < g.kernel[0] && column < g.kernel[1] => {
                    f64::from(g_all[row * g.kernel[1] + column])
                }
                _ => 0.0,
            };
            let column = |j| kernel(n, &(0..taps[0]).map(|i| at(i, j)).collect::<Vec<_>>());
            let half: Vec<_> = (0..taps[1]).map(column).collect();
            for i in 0..n {
                let row = kernel(n, &half.iter().map(|column| column[i]).collect::<Vec<_>>());
                transformed.extend(row.into_iter().map(|x| x as f32));
            }
        }
    }
    Panels::pack(isa, Storage::F32, KernelShape { c_in, taps: n * n, ..shape }, &transformed)
}

/// Packs weights `[experts][c_out][c_in][9]` of a dynamic convolution, which are transformed when they have been fused.
///
/// # Panics
/// If `shape` has not 9 taps or `weights` has another length than it says.
pub fn pack_experts(isa: Isa, storage: Storage, shape: KernelShape, weights: &[f32]) -> Panels {
    assert_eq!(shape.taps, 9, "elements of a 3x3 kernel");
    // The kernels of a few channels lie together, to be fused at a time.
    Panels::pack(isa, storage, KernelShape { c_in: shape.k(), taps: 1, ..shape }, weights)
}

/// A dense convolution of one image, with everything that its tiles share. Outside the image are zeros.
///
/// # Shapes
/// Input `[h * w][ld]`, with [`Side::Three`] `ld = c_in`; weights as [`pack`] makes them, or [`pack_experts`] where there
/// are coefficients; output `[output pixels][c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct WinogradConv<'a> {
    /// The image.
    pub x: Pixels<'a>,
    /// Its window, which fits the side.
    pub geometry: &'a Geometry,
    /// That of the tiles; with coefficients not [`Side::Three`].
    pub side: Side,
    /// Packed weights.
    pub weights: &'a Panels,
    /// Coefficients of a dynamic convolution; `None` for a static one.
    pub coefs: Option<Coefs<'a>>,
    /// What happens before the store.
    pub epilogue: Epilogue<'a>,
}

impl WinogradConv<'_> {
    /// Values of scratch that [`winograd`] needs for tiles of at most `rows` rows of the output.
    pub fn scratch_len(weights: &Panels, side: Side, g: &Geometry, rows: usize, dynamic: bool) -> usize {
        let sizes = Sizes::new(weights, side, dynamic);
        let count = side.tiles(g, rows.min(side.strip_rows(g, dynamic)));
        let fused = if dynamic { 9 * sizes.chunk * weights.nr() } else { 0 };
        sizes.positions(count).iter().sum::<usize>() * side.products() + fused
    }

    fn check(&self, isa: Isa, scratch: &[f32], out: &Tile<'_>) {
        let (w, g, side, dynamic) = (self.weights, self.geometry, self.side, self.coefs.is_some());
        assert!(side.fits(g), "{g:?} does not fit {side:?}");
        let end = w.check_tile(isa, out);
        let [height, width] = g.output();
        let pixels = out.pixel0() + out.pixels();
        let aligned = |p: usize| p.is_multiple_of(side.outputs() * width) || p == height * width;
        let whole = pixels <= height * width
            && (out.pixels() == 0 || [out.pixel0(), pixels].map(aligned) == [true; 2]);
        assert!(whole, "pixels {}..{pixels} are no whole tiles of {side:?} rows of {width}", out.pixel0());
        let each = if dynamic { 9 } else { side.transformed() };
        assert!(w.k().is_multiple_of(each), "{} rows of weights for {side:?}, dynamic: {dynamic}", w.k());
        let c_in = w.k() / each;
        self.x.check(g.input[0] * g.input[1], c_in);
        if side == Side::Three {
            assert!(!dynamic && self.x.ld == c_in, "{side:?} of pixels of {} for {c_in} channels", self.x.ld);
        }
        if let Some(coefs) = self.coefs {
            coefs.check(w.experts(), w.n());
        } else {
            assert!(w.experts() == 1 && matches!(w.data, Data::F32(_)), "weights of a dynamic convolution");
        }
        self.epilogue.check(pixels, end);
        let rows = out.pixels().checked_div(width).unwrap_or(0);
        let needed = Self::scratch_len(w, side, g, rows, dynamic);
        assert!(scratch.len() >= needed, "scratch has {} values, {needed} needed", scratch.len());
    }
}

/// What is computed at a time.
#[derive(Clone, Copy)]
struct Sizes {
    /// Channels of a position's rows.
    channels: usize,
    /// Of them, those whose weights are read at a time.
    chunk: usize,
    /// Outputs of a panel.
    nr: usize,
    dynamic: bool,
}

impl Sizes {
    fn new(w: &Panels, side: Side, dynamic: bool) -> Self {
        let channels = w.k() / if dynamic { 9 } else { side.products() };
        let chunk = if dynamic { channels.div_ceil(channels.div_ceil(CHUNK).max(1)) } else { channels };
        Self { channels, chunk, nr: w.nr(), dynamic }
    }

    /// Values from one position to the next of `count` tiles' inputs, of their products, and of transformed kernels.
    fn positions(&self, count: usize) -> [usize; 3] {
        let kernels = if self.dynamic { position_len(self.chunk, self.nr) } else { 0 };
        [position_len(count, self.channels), position_len(count, self.nr), kernels]
    }
}

/// Computes one tile of a convolution, which must be whole rows of the output image, a multiple of [`Side::outputs`] of
/// them unless it ends with the image: transforms its inputs, fuses and multiplies panel by panel, transforms back.
///
/// `sums` receives the sums over the tile's pixels of what is stored.
///
/// # Panics
/// If the sizes do not fit each other; nothing has been written then.
///
/// # Accuracy
/// Relative to the sum of the terms' absolute values, the error is some 3 times that of the plain sum with tiles of 2,
/// some 20 times with tiles of 4. Bits do not depend on the tiles.
pub fn winograd(
    isa: Isa,
    c: &WinogradConv<'_>,
    scratch: &mut [f32],
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
) {
    c.check(isa, scratch, out);
    if let Some(sums) = &sums {
        sums.check(out, 1);
    }
    match c.side {
        _ if out.pixels() == 0 => {}
        Side::Two => c.run::<2, 4, 1>(isa, scratch, out),
        Side::Three => c.run::<3, 6, 2>(isa, scratch, out),
        Side::Four => c.run::<4, 6, 1>(isa, scratch, out),
    }
    if let Some(mut sums) = sums {
        pixelwise::tile_sums(isa, out, &mut sums);
    }
}

impl WinogradConv<'_> {
    fn run<const M: usize, const N: usize, const S: usize>(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        out: &mut Tile<'_>,
    ) {
        let width = self.geometry.output()[1];
        let rows = out.pixels() / width;
        let strip = self.side.strip_rows(self.geometry, self.coefs.is_some());
        for row in (0..rows).step_by(strip) {
            let mut out = out.rows(row * width, strip.min(rows - row) * width);
            self.strip::<M, N, S>(isa, scratch, &mut out);
        }
    }

    fn strip<const M: usize, const N: usize, const S: usize>(
        &self,
        isa: Isa,
        scratch: &mut [f32],
        out: &mut Tile<'_>,
    ) {
        let (w, g) = (self.weights, self.geometry);
        let sizes = Sizes::new(w, self.side, self.coefs.is_some());
        let (nr, width) = (w.nr(), g.output()[1]);
        let rows = [out.pixel0() / width, (out.pixel0() + out.pixels()) / width];
        let tiles = Tiles { rows: [rows[0] / M, rows[1].div_ceil(M)], columns: width.div_ceil(M) };
        let steps = sizes.positions(tiles.count());
        let (inputs, rest) = scratch.split_at_mut(N * N * steps[0]);
        let (products, kernels) = rest.split_at_mut(N * N * steps[1]);
        let (x, ld, c_in) = (self.x.data.as_ptr(), self.x.ld, sizes.channels / (S * S));
        let (step, transformed) = (steps[0], inputs.as_mut_ptr());
        isa.run(Inputs::<M, N, S> { x, ld, c_in, geometry: g, tiles, step, out: transformed });
        let first = out.channel0() / nr;
        for panel in first..first + out.channels().div_ceil(nr) {
            let start = (panel - first) * nr;
            for from in (0..sizes.channels).step_by(sizes.chunk) {
                let channels = [from, (from + sizes.chunk).min(sizes.channels)];
                let mut ahead = match sizes.dynamic {
                    true => self.fuse::<N>(isa, &sizes, panel, channels, kernels),
                    false => self.behind(panel, [0, 0]),
                };
                for position in 0..N * N {
                    let weights = match &w.data {
                        Data::F32(data) if !sizes.dynamic => {
                            let row = panel * w.k() + position * sizes.channels;
                            ahead = self.behind(panel, [position, position + 1].map(|p| p * sizes.channels));
                            &data[row * nr..][..sizes.channels * nr]
                        }
                        _ => &kernels[position * steps[2]..][..(channels[1] - from) * nr],
                    };
                    let x = &inputs[position * steps[0]..][..tiles.count() * sizes.channels];
                    let out = &mut products[position * steps[1]..][..tiles.count() * nr];
                    ahead = isa.run(Product {
                        rows: tiles.count(),
                        x: x[from..].as_ptr(),
                        ld: sizes.channels,
                        k: channels[1] - from,
                        weights: weights.as_ptr(),
                        out: out.as_mut_ptr(),
                        resume: from > 0,
                        ahead,
                    });
                }
            }
            let cols = nr.min(out.channels() - start);
            let mut tile = out.columns(start, cols);
            isa.run(self.outputs::<M, N>((products, steps[1]), tiles, &mut tile));
        }
    }

    /// Fuses and transforms the kernels of some input channels; returns what is read next.
    fn fuse<const N: usize>(
        &self,
        isa: Isa,
        sizes: &Sizes,
        panel: usize,
        channels: [usize; 2],
        kernels: &mut [f32],
    ) -> Ahead {
        let [_, _, step] = sizes.positions(0);
        let (transformed, fused) = kernels.split_at_mut(N * N * step);
        let rows = channels.map(|c| c * 9);
        let (panels, coefs) = (self.weights, self.coefs);
        fuse::fuse(isa, FusePanel { panels, panel, rows, coefs, row_scale: None, ahead: 0, dynamic: fused });
        let (fused, channels) = (fused.as_ptr(), channels[1] - channels[0]);
        isa.run(Kernels::<N> { fused, channels, step, out: transformed.as_mut_ptr() });
        self.behind(panel, rows)
    }

    /// The weights behind some rows of a panel, as many of them.
    fn behind(&self, panel: usize, [from, to]: [usize; 2]) -> Ahead {
        let w = self.weights;
        let len = to - from;
        Ahead::new(match (to < w.k(), panel + 1 < w.count()) {
            (true, _) => w.bytes(panel, [to, (to + len).min(w.k())]),
            (false, true) => w.bytes(panel + 1, [0, len]),
            // Nothing, at an address that exists: asking for others takes long.
            (false, false) => [w.bytes(panel, [from, from])[0]; 2],
        })
    }

    /// The job that ends a panel's tile.
    fn outputs<const M: usize, const N: usize>(
        &self,
        (products, step): (&[f32], usize),
        tiles: Tiles,
        tile: &mut Tile<'_>,
    ) -> Outputs<M, N> {
        let e = &self.epilogue;
        let (residual, residual_ld) = e.residual_of(tile);
        Outputs {
            products: products.as_ptr(),
            step,
            tiles,
            size: self.geometry.output(),
            ld: tile.ld(),
            cols: tile.channels(),
            bias: e.bias_of(tile),
            residual,
            residual_ld,
            act: e.act,
            out: tile.as_mut_ptr(),
        }
    }
}
