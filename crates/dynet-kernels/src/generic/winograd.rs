//! The transforms of Winograd's minimal filtering: a tile of `M x M` outputs from `N x N` inputs, `N = M + 2`.
//!
//! `Y = A^T [ (G g G^T) . (B^T d B) ] A` (Lavin and Gray, "Fast algorithms for convolutional neural networks", 2016).
//! `M = 2` takes 16 multiplications for 4 outputs of a 3x3 kernel, `M = 4` takes 36 for 16, where the plain sum
//! takes 36 and 144.

use crate::activation::Activation;
use crate::geometry::Geometry;
use crate::vector::{Job, Vector};

/// `G g` of one column of a kernel, in f64: kernels are transformed once and rounded once.
pub(crate) fn kernel(m: usize, g: [f64; 3]) -> Vec<f64> {
    let [a, b, c] = g;
    match m {
        2 => vec![a, (a + b + c) / 2.0, (a - b + c) / 2.0, c],
        _ => {
            let (even, odd) = (a + 4.0 * c, 2.0 * b);
            let (near, far) = (-(a + c) / 6.0, -b / 6.0);
            vec![a / 4.0, near + far, near - far, (even + odd) / 24.0, (even - odd) / 24.0, c]
        }
    }
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
        r[3] = v.add(times(8.0, odd2, odd), m[5]);
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

/// Transforms the inputs of all tiles: `[N * N][tile][c_in]`, a position every `step` values.
pub(crate) struct Inputs<'a, const M: usize, const N: usize> {
    /// Channel 0 of the image's first pixel.
    pub(crate) x: *const f32,
    pub(crate) ld: usize,
    pub(crate) c_in: usize,
    pub(crate) geometry: &'a Geometry,
    pub(crate) tiles: Tiles,
    pub(crate) step: usize,
    pub(crate) out: *mut f32,
}

impl<const M: usize, const N: usize> Inputs<'_, M, N> {
    /// Transforms row `I` of a tile and stores `lanes` channels of it.
    #[inline(always)]
    fn row<V: Vector, const I: usize>(&self, v: V, half: &[[V::Reg; N]; N], at: usize, lanes: usize) {
        let r = input::<V, N>(v, half.map(|column| column[I % N]));
        for (j, r) in r.into_iter().enumerate() {
            // SAFETY: `out` has `N * N` times `step` values, `step` at least those of all tiles.
            unsafe { v.store_some(self.out.add((I * N + j) * self.step + at), r, lanes) };
        }
    }
}

impl<const M: usize, const N: usize> Job for Inputs<'_, M, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let g = self.geometry;
        for t in 0..self.tiles.count() {
            let [ty, tx] = self.tiles.at(t);
            let [row0, column0] = [g.at(0, ty * M, 0), g.at(1, tx * M, 0)];
            for c in (0..self.c_in).step_by(V::LANES) {
                let lanes = (self.c_in - c).min(V::LANES);
                let mut half = [[v.splat(0.0); N]; N];
                for (j, half) in half.iter_mut().enumerate() {
                    let mut d = [v.splat(0.0); N];
                    let column = (column0 + j as isize) as usize;
                    for (i, d) in d.iter_mut().enumerate() {
                        let row = (row0 + i as isize) as usize;
                        if row < g.input[0] && column < g.input[1] {
                            let at = (row * g.input[1] + column) * self.ld + c;
                            // SAFETY: a pixel of the image, whose `lanes` channels from `c` on exist.
                            *d = unsafe { v.load_some(self.x.add(at), lanes) };
                        }
                    }
                    *half = input::<V, N>(v, d);
                }
                let at = t * self.c_in + c;
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
    }
}

/// Transforms the products of one panel back, `[N * N][tile][nr]`, a position every `step` values, and stores the outputs of its columns.
pub(crate) struct Outputs<'a, const M: usize, const N: usize> {
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
    /// One for each column, or empty.
    pub(crate) sums: &'a mut [f32],
}

impl<const M: usize, const N: usize> Job for Outputs<'_, M, N> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        for c in (0..self.cols).step_by(V::LANES) {
            let lanes = (self.cols - c).min(V::LANES);
            let mut sum = v.splat(0.0);
            for t in 0..self.tiles.count() {
                sum = v.add(sum, self.tile(v, t, c, lanes));
            }
            if let Some(sums) = self.sums.get_mut(c..c + lanes) {
                // SAFETY: `sums` has `lanes` values.
                unsafe {
                    let p = sums.as_mut_ptr();
                    v.store_some(p, v.add(v.load_some(p, lanes), sum), lanes);
                }
            }
        }
    }
}

impl<const M: usize, const N: usize> Outputs<'_, M, N> {
    /// One tile's columns `c..c + lanes`; returns the sum of what it stored.
    #[inline(always)]
    fn tile<V: Vector>(&self, v: V, t: usize, c: usize, lanes: usize) -> V::Reg {
        let nr = 2 * V::LANES;
        let mut half = [[v.splat(0.0); M]; N];
        for (j, half) in half.iter_mut().enumerate() {
            // SAFETY: there are `N * N` times `step` products, of which registers are read whole.
            let m = std::array::from_fn(|i| unsafe {
                v.load(self.products.add((i * N + j) * self.step + t * nr + c))
            });
            *half = output::<V, N, M>(v, m);
        }
        // SAFETY: `lanes` values of bias follow.
        let bias = if self.bias.is_null() {
            v.splat(0.0)
        } else {
            // SAFETY: as above.
            unsafe { v.load_some(self.bias.add(c), lanes) }
        };
        let mut results = [[bias; M]; M];
        for (i, results) in results.iter_mut().enumerate() {
            let y = output::<V, N, M>(v, half.map(|column| column[i]));
            for (result, y) in results.iter_mut().zip(y) {
                *result = v.add(*result, y);
            }
        }
        let [ty, tx] = self.tiles.at(t);
        let (rows, columns) = (M.min(self.size[0] - ty * M), M.min(self.size[1] - tx * M));
        let first = ((ty - self.tiles.rows[0]) * self.size[1] + tx) * M;
        let mut sum = v.splat(0.0);
        for (i, results) in results.into_iter().enumerate().take(rows) {
            for (j, mut y) in results.into_iter().enumerate().take(columns) {
                let p = first + i * self.size[1] + j;
                // SAFETY: a pixel of the output, which the residual reaches as far as.
                unsafe {
                    if !self.residual.is_null() {
                        y = v.add(y, v.load_some(self.residual.add(p * self.residual_ld + c), lanes));
                    }
                    y = self.act.apply(v, y);
                    v.store_some(self.out.add(p * self.ld + c), y, lanes);
                }
                sum = v.add(sum, y);
            }
        }
        sum
    }
}
