//! The transforms of Winograd's minimal filtering: a tile of `M x M` outputs from `N x N` inputs, `N = M + 2`, or
//! `N = M + 3` for kernels of 4x4.
//!
//! `Y = A^T [ (G g G^T) . (B^T d B) ] A` (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016).
//! With a 3x3 kernel `M = 2` takes 16 multiplications for 4 outputs, `M = 4` takes 36 for 16, where the plain sum
//! takes 36 and 144. With a 4x4 kernel `M = 3` takes 36 for 9, where the plain sum takes 144. What the transforms of
//! inputs are depends on `N` alone: on the points at which polynomials are multiplied, 0, 1, -1, with six of them 2 and
//! -2, and infinity.

use crate::activation::Activation;
use crate::generic::LINE_BYTES;
use crate::generic::gemm::FAR_BYTES;
use crate::geometry::Geometry;
use crate::vector::{Job, Vector};

/// `G g` of one column of a kernel for tiles of `n` inputs, in f64: static kernels are transformed and rounded once.
pub(crate) fn kernel(n: usize, g: &[f64]) -> Vec<f64> {
    let points: &[(f64, f64)] = match n {
        4 => &[(0.0, 1.0), (1.0, 0.5), (-1.0, 0.5)],
        _ => &[(0.0, 0.25), (1.0, -1.0 / 6.0), (-1.0, -1.0 / 6.0), (2.0, 1.0 / 24.0), (-2.0, 1.0 / 24.0)],
    };
    let value = |x: f64| g.iter().rev().fold(0.0, |sum, g| sum * x + g);
    let finite = points.iter().map(|(x, scale)| value(*x) * scale);
    finite.chain(g.last().copied()).collect()
}

/// [`kernel`] for three elements, in registers.
#[inline(always)]
fn kernel_of<V: Vector, const N: usize>(v: V, [a, b, c]: [V::Reg; 3]) -> [V::Reg; N] {
    let times = |x, a, b| v.fma(v.splat(x), a, b);
    let mut r = [a; N];
    if N == 4 {
        let half = v.mul(v.splat(0.5), v.add(a, c));
        r[1] = times(0.5, b, half);
        r[2] = times(-0.5, b, half);
    } else {
        let near = v.mul(v.splat(-1.0 / 6.0), v.add(a, c));
        let far = times(1.0 / 6.0, c, v.mul(v.splat(1.0 / 24.0), a));
        r[0] = v.mul(v.splat(0.25), a);
        r[1] = times(-1.0 / 6.0, b, near);
        r[2] = times(1.0 / 6.0, b, near);
        r[3] = times(1.0 / 12.0, b, far);
        r[4] = times(-1.0 / 12.0, b, far);
    }
    r[N - 1] = c;
    r
}

/// `B^T d` of one column of an input tile.
#[inline(always)]
fn input<V: Vector, const N: usize>(v: V, d: [V::Reg; N]) -> [V::Reg; N] {
    let times = |a, x, b| v.fma(v.splat(a), x, b);
    let minus = |a, b| v.fma(v.splat(-1.0), b, a);
    let mut r = d;
    if N == 4 {
        r[0] = minus(d[0], d[2]);
        r[1] = v.add(d[1], d[2]);
        r[2] = minus(d[2], d[1]);
        r[3] = minus(d[1], d[3]);
    } else {
        let (far, near) = (times(-4.0, d[2], d[4]), times(-4.0, d[1], d[3]));
        let (even, odd) = (minus(d[4], d[2]), v.mul(v.splat(2.0), minus(d[3], d[1])));
        r[0] = times(4.0, d[0], times(-5.0, d[2], d[4]));
        r[1] = v.add(far, near);
        r[2] = minus(far, near);
        r[3] = v.add(even, odd);
        r[4] = minus(even, odd);
        r[5] = times(4.0, d[1], times(-5.0, d[3], d[5]));
    }
    r
}

/// `A^T m` of one column of products.
#[inline(always)]
fn output<V: Vector, const N: usize, const M: usize>(v: V, m: [V::Reg; N]) -> [V::Reg; M] {
    let minus = |a, b| v.fma(v.splat(-1.0), b, a);
    let times = |a, x, b| v.fma(v.splat(a), x, b);
    let mut r = [m[0]; M];
    let (even, odd) = (v.add(m[1], m[2]), minus(m[1], m[2]));
    if N == 4 {
        r[0] = v.add(m[0], even);
        r[1] = minus(odd, m[3]);
    } else {
        let (even2, odd2) = (v.add(m[3], m[4]), minus(m[3], m[4]));
        r[0] = v.add(v.add(m[0], even), even2);
        r[1] = times(2.0, odd2, odd);
        r[2] = times(4.0, even2, even);
        if M == 4 {
            r[3] = times(8.0, odd2, odd);
        }
        r[M - 1] = v.add(r[M - 1], m[5]);
    }
    r
}

/// Tiles of an image: rows of tiles from and to, tiles in a row.
#[derive(Clone, Copy)]
pub(crate) struct Tiles {
    pub(crate) rows: [usize; 2],
    pub(crate) columns: usize,
}

impl Tiles {
    pub(crate) fn count(&self) -> usize {
        (self.rows[1] - self.rows[0]) * self.columns
    }

    /// Row and column of tile `t`.
    fn at(&self, t: usize) -> [usize; 2] {
        [self.rows[0] + t / self.columns, t % self.columns]
    }
}

/// Transforms the inputs of all tiles: `[N * N][tile][channels]`, a position every `step` values.
///
/// With stride `S = 2` an image counts as one of half the height and width whose pixels are its squares of two by two,
/// of four times the channels: `[row of the square][column][c_in]`.
pub(crate) struct Inputs<'a, const M: usize, const N: usize, const S: usize> {
    /// Channel 0 of the image's first pixel.
    pub(crate) x: *const f32,
    /// `c_in` where `S` is 2.
    pub(crate) ld: usize,
    pub(crate) c_in: usize,
    pub(crate) geometry: &'a Geometry,
    pub(crate) tiles: Tiles,
    pub(crate) step: usize,
    pub(crate) out: *mut f32,
}

impl<const M: usize, const N: usize, const S: usize> Inputs<'_, M, N, S> {
    /// Transforms row `I` of a tile and stores `lanes` channels of it.
    #[inline(always)]
    fn row<V: Vector, const I: usize>(&self, v: V, half: &[[V::Reg; N]; N], at: usize, lanes: usize) {
        let r = input::<V, N>(v, half.map(|column| column[I % N]));
        for (j, r) in r.into_iter().enumerate() {
            // SAFETY: `out` has `N * N` times `step` values, `step` at least those of all tiles.
            unsafe { v.store_some(self.out.add((I * N + j) * self.step + at), r, lanes) };
        }
    }

    /// `lanes` values from value `c` on of a row of a square, zeros outside the image.
    #[inline(always)]
    fn load<V: Vector>(&self, v: V, [row, column]: [isize; 2], c: usize, lanes: usize) -> V::Reg {
        let [height, width] = self.geometry.input;
        let (row, column) = (row as usize, column as usize);
        if row >= height || column >= width {
            return v.splat(0.0);
        }
        // The second column of a square may lie outside.
        let exist = if S == 2 { ((width - column) * self.c_in).saturating_sub(c) } else { lanes };
        let p = self.x.wrapping_add((row * width + column) * self.ld + c);
        // SAFETY: channels of a pixel of the image, or of this one and the next.
        unsafe { v.load_some(p, lanes.min(exist)) }
    }

    /// Transforms channels `c..c + lanes` of a tile, or of one row of its squares, whose first input is at `first`.
    /// `INSIDE`: a whole register can be read at each of its inputs.
    #[inline(always)]
    fn tile<V: Vector, const INSIDE: bool>(
        &self,
        v: V,
        first: [isize; 2],
        [c, lanes]: [usize; 2],
        at: usize,
    ) {
        let width = self.geometry.input[1];
        let x =
            self.x.wrapping_offset((first[0] * width as isize + first[1]) * self.ld as isize + c as isize);
        let mut half = [[v.splat(0.0); N]; N];
        for (j, half) in half.iter_mut().enumerate() {
            let mut d = [v.splat(0.0); N];
            for (i, d) in d.iter_mut().enumerate() {
                let [i, j] = [S * i, S * j];
                *d = if INSIDE {
                    // SAFETY: the caller's promise.
                    unsafe { v.load(x.wrapping_add((i * width + j) * self.ld)) }
                } else {
                    self.load(v, [first[0] + i as isize, first[1] + j as isize], c, lanes)
                };
            }
            *half = input::<V, N>(v, d);
        }
        // Each row by itself: a loop over them would index registers, which sends all of them through memory.
        self.row::<V, 0>(v, &half, at, lanes);
        self.row::<V, 1>(v, &half, at, lanes);
        self.row::<V, 2>(v, &half, at, lanes);
        self.row::<V, 3>(v, &half, at, lanes);
        if N == 6 {
            self.row::<V, 4>(v, &half, at, lanes);
            self.row::<V, 5>(v, &half, at, lanes);
        }
    }
}

impl<const M: usize, const N: usize, const S: usize> Job for Inputs<'_, M, N, S> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (g, each) = (self.geometry, S * self.c_in);
        let [height, width] = g.input.map(|len| len as isize);
        for (t, square) in (0..self.tiles.count()).flat_map(|t| (0..S).map(move |square| (t, square))) {
            let [ty, tx] = self.tiles.at(t);
            let first = [g.at(0, ty * M, square), g.at(1, tx * M, 0)];
            let last = first.map(|at| at + (S * (N - 1)) as isize);
            // The second column of a square, too.
            let end = last[1] + S as isize - 1;
            let inside = first[0] >= 0 && first[1] >= 0 && last[0] < height && end < width;
            // From the last input to the end of the image: a register may hold more than the two pixels of a square.
            let left = ((height - last[0]) * width - last[1]) * self.ld as isize;
            for c in (0..each).step_by(V::LANES) {
                let (lanes, at) = ([c, (each - c).min(V::LANES)], (t * S + square) * each + c);
                let whole = if S == 2 { (c + V::LANES) as isize <= left } else { lanes[1] == V::LANES };
                if inside && whole {
                    self.tile::<V, true>(v, first, lanes, at);
                } else {
                    self.tile::<V, false>(v, first, lanes, at);
                }
            }
        }
    }
}

/// Transforms fused 3x3 kernels of one panel: `[channel][9][nr]` to `[N * N][channel][nr]`, a position every `step` values.
pub(crate) struct Kernels<const N: usize> {
    pub(crate) fused: *const f32,
    pub(crate) channels: usize,
    pub(crate) step: usize,
    pub(crate) out: *mut f32,
}

impl<const N: usize> Kernels<N> {
    /// Transforms row `I` and stores it.
    #[inline(always)]
    fn row<V: Vector, const I: usize>(&self, v: V, half: &[[V::Reg; N]; 3], at: usize) {
        let r = kernel_of::<V, N>(v, half.map(|column| column[I % N]));
        for (j, r) in r.into_iter().enumerate() {
            // SAFETY: `out` has `N * N` times `step` values, `step` at least those of all channels.
            unsafe { v.store(self.out.add((I * N + j) * self.step + at), r) };
        }
    }
}

impl<const N: usize> Job for Kernels<N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let registers = 2;
        for r in 0..self.channels * registers {
            let (channel, lane0) = (r / registers, r % registers * V::LANES);
            let first = self.fused.wrapping_add(channel * 9 * registers * V::LANES + lane0);
            let mut half = [[v.splat(0.0); N]; 3];
            for (j, half) in half.iter_mut().enumerate() {
                // SAFETY: `fused` has nine rows of two registers for each channel.
                let g = [0, 1, 2].map(|i| unsafe { v.load(first.add((i * 3 + j) * registers * V::LANES)) });
                *half = kernel_of::<V, N>(v, g);
            }
            let at = channel * registers * V::LANES + lane0;
            self.row::<V, 0>(v, &half, at);
            self.row::<V, 1>(v, &half, at);
            self.row::<V, 2>(v, &half, at);
            self.row::<V, 3>(v, &half, at);
            if N == 6 {
                self.row::<V, 4>(v, &half, at);
                self.row::<V, 5>(v, &half, at);
            }
        }
    }
}

/// Transforms the products of one panel back, `[N * N][tile][nr]`, a position every `step` values, and stores the outputs of its columns.
pub(crate) struct Outputs<const M: usize, const N: usize> {
    pub(crate) products: *const f32,
    pub(crate) step: usize,
    pub(crate) tiles: Tiles,
    /// Output height and width.
    pub(crate) size: [usize; 2],
    /// At the first row of tiles and the panel's first column.
    pub(crate) out: *mut f32,
    pub(crate) ld: usize,
    pub(crate) cols: usize,
    /// Null for none.
    pub(crate) bias: *const f32,
    /// At the first row of tiles; null for none.
    pub(crate) residual: *const f32,
    pub(crate) residual_ld: usize,
    pub(crate) act: Activation,
}

impl<const M: usize, const N: usize> Job for Outputs<M, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let far = self.size[0] * self.size[1] * self.ld * size_of::<f32>() >= FAR_BYTES;
        for c in (0..self.cols).step_by(V::LANES) {
            let lanes = (self.cols - c).min(V::LANES);
            for t in 0..self.tiles.count() {
                if far && (c * size_of::<f32>()).is_multiple_of(LINE_BYTES) {
                    self.expect(v, t + 1, c);
                }
                self.tile(v, t, c, lanes);
            }
        }
    }
}

impl<const M: usize, const N: usize> Outputs<M, N> {
    /// Asks for the lines of a tile, which need not exist, that are written and read from column `c` on.
    #[inline(always)]
    fn expect<V: Vector>(&self, v: V, t: usize, c: usize) {
        let [ty, tx] = self.tiles.at(t);
        let first = ((ty - self.tiles.rows[0]) * self.size[1] + tx) * M;
        for (i, j) in (0..M).flat_map(|i| (0..M).map(move |j| (i, j))) {
            let p = first + i * self.size[1] + j;
            v.prefetch_to_write(self.out.wrapping_add(p * self.ld + c));
            if !self.residual.is_null() {
                v.prefetch(self.residual.wrapping_add(p * self.residual_ld + c).cast());
            }
        }
    }

    /// One tile's columns `c..c + lanes`.
    #[inline(always)]
    fn tile<V: Vector>(&self, v: V, t: usize, c: usize, lanes: usize) {
        let nr = 2 * V::LANES;
        let mut half = [[v.splat(0.0); M]; N];
        for (j, half) in half.iter_mut().enumerate() {
            // SAFETY: there are `N * N` times `step` products, of which registers are read whole.
            let m = std::array::from_fn(|i| unsafe {
                v.load(self.products.add((i * N + j) * self.step + t * nr + c))
            });
            *half = output::<V, N, M>(v, m);
        }
        let bias = if self.bias.is_null() {
            v.splat(0.0)
        } else {
            // SAFETY: `lanes` values of bias follow.
            unsafe { v.load_some(self.bias.add(c), lanes) }
        };
        let [ty, tx] = self.tiles.at(t);
        let size = [M.min(self.size[0] - ty * M), M.min(self.size[1] - tx * M)];
        let first = ((ty - self.tiles.rows[0]) * self.size[1] + tx) * M;
        // Each row by itself, as above.
        match self.act.bounds() {
            Some(bounds) if size == [M, M] && lanes == V::LANES => {
                let at = (first, c, bounds);
                self.whole_row::<V, 0>(v, &half, bias, at);
                self.whole_row::<V, 1>(v, &half, bias, at);
                if M > 2 {
                    self.whole_row::<V, 2>(v, &half, bias, at);
                }
                if M > 3 {
                    self.whole_row::<V, 3>(v, &half, bias, at);
                }
            }
            _ => {
                for i in 0..size[0] {
                    let results = output::<V, N, M>(v, half.map(|column| column[i]));
                    for (j, y) in results.into_iter().enumerate().take(size[1]) {
                        let p = first + i * self.size[1] + j;
                        let mut y = v.add(bias, y);
                        // SAFETY: a pixel of the output, which the residual reaches as far as.
                        unsafe {
                            if !self.residual.is_null() {
                                let r = self.residual.add(p * self.residual_ld + c);
                                y = v.add(y, v.load_some(r, lanes));
                            }
                            y = self.act.apply(v, y);
                            v.store_some(self.out.add(p * self.ld + c), y, lanes);
                        }
                    }
                }
            }
        }
    }

    /// Row `I` of a tile that lies inside the output and fills registers, whose activation is a clamp.
    #[inline(always)]
    fn whole_row<V: Vector, const I: usize>(
        &self,
        v: V,
        half: &[[V::Reg; M]; N],
        bias: V::Reg,
        (first, c, [lo, hi]): (usize, usize, [f32; 2]),
    ) {
        let (lo, hi) = (v.splat(lo), v.splat(hi));
        let results = output::<V, N, M>(v, half.map(|column| column[I % M]));
        let p = first + I * self.size[1];
        for (j, y) in results.into_iter().enumerate() {
            let mut y = v.add(bias, y);
            // SAFETY: a register of a pixel of the output, which the residual reaches as far as.
            unsafe {
                if !self.residual.is_null() {
                    y = v.add(y, v.load(self.residual.add((p + j) * self.residual_ld + c)));
                }
                y = v.min(hi, v.max(lo, y));
                v.store(self.out.add((p + j) * self.ld + c), y);
            }
        }
    }
}
