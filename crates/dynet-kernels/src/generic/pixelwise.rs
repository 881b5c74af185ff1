//! Work on one pixel after the other, channels in lanes: what the product leaves over.

use crate::activation::Activation;
use crate::geometry::Geometry;
use crate::shared::Tile;
use crate::vector::{Job, Vector};
use crate::view::Pixels;

/// Applies an activation to stored values and adds them up over the rows; for activations that are too long to
/// be compiled into every tile of the product.
///
/// # Safety
/// `rows` rows of `cols` values every `ld` must be this thread's at `out`, and `cols` at `sums` unless null.
#[inline(always)]
pub(crate) unsafe fn reactivate<V: Vector>(
    v: V,
    out: *mut f32,
    ld: usize,
    rows: usize,
    cols: usize,
    act: Activation,
    sums: *mut f32,
) {
    let mut c = 0;
    while c < cols {
        let lanes = (cols - c).min(V::LANES);
        let mut sum = v.splat(0.0);
        for i in 0..rows {
            // SAFETY: the caller's promise.
            unsafe {
                let p = out.add(i * ld + c);
                let x = act.apply(v, v.load_some(p, lanes));
                v.store_some(p, x, lanes);
                sum = v.add(sum, x);
            }
        }
        if !sums.is_null() {
            // SAFETY: the caller's promise.
            unsafe {
                let p = sums.add(c);
                v.store_some(p, v.add(v.load_some(p, lanes), sum), lanes);
            }
        }
        c += lanes;
    }
}

/// What [`Pixelwise`] makes of the inputs at a channel of a pixel.
#[derive(Clone, Copy)]
pub(crate) enum Operation<'a> {
    /// `x`.
    Copy,
    /// `x + y`.
    Add(Pixels<'a>),
    /// `x * y[channel]`.
    Scale(&'a [f32]),
}

/// `out = act(operation(x))` on every channel of every pixel of a tile, which may add up.
pub(crate) struct Pixelwise<'a, 't> {
    pub(crate) x: Pixels<'a>,
    pub(crate) operation: Operation<'a>,
    pub(crate) act: Activation,
    pub(crate) out: &'a mut Tile<'t>,
    /// Sums over the pixels are added here; empty for none.
    pub(crate) sums: &'a mut [f32],
}

impl Job for Pixelwise<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (n, c0, p0) = (self.out.channels(), self.out.channel0(), self.out.pixel0());
        let ld = self.x.ld;
        for i in 0..self.out.pixels() {
            let x = &self.x.data[(p0 + i) * ld + c0..][..n];
            let y = match self.operation {
                Operation::Copy => x,
                Operation::Add(y) => &y.data[(p0 + i) * y.ld + c0..][..n],
                Operation::Scale(y) => &y[c0..][..n],
            };
            let out = self.out.row(i);
            let mut c = 0;
            while c < n {
                let lanes = (n - c).min(V::LANES);
                // SAFETY: `x`, `y` and `out` have `n` values, `c + lanes <= n`; `sums` is empty or has `n`.
                unsafe {
                    let a = v.load_some(x.as_ptr().add(c), lanes);
                    let b = || v.load_some(y.as_ptr().add(c), lanes);
                    let r = match self.operation {
                        Operation::Copy => a,
                        Operation::Add(_) => v.add(a, b()),
                        Operation::Scale(_) => v.mul(a, b()),
                    };
                    let r = self.act.apply(v, r);
                    v.store_some(out.as_mut_ptr().add(c), r, lanes);
                    if self.sums.len() >= n {
                        let p = self.sums.as_mut_ptr().add(c);
                        v.store_some(p, v.add(v.load_some(p, lanes), r), lanes);
                    }
                }
                c += lanes;
            }
        }
    }
}

/// Sums of each channel over pixels: of every fourth from each of the first four on, then of these. The pixels have as many channels
/// as there are sums.
pub(crate) struct PixelSums<'a> {
    /// The first pixel.
    pub(crate) first: *const f32,
    pub(crate) ld: usize,
    pub(crate) pixels: usize,
    pub(crate) sums: &'a mut [f32],
}

impl Job for PixelSums<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        // Registers and pixels at once, since additions wait for the one before: a panel has two registers.
        const WIDE: usize = 2;
        const DEEP: usize = 4;
        let n = self.sums.len();
        for start in (0..n).step_by(WIDE * V::LANES) {
            let columns: [(usize, usize); WIDE] = std::array::from_fn(|j| {
                let c = (start + j * V::LANES).min(n);
                (c, (n - c).min(V::LANES))
            });
            let mut sums = [[v.splat(0.0); WIDE]; DEEP];
            let mut pixel = self.first;
            let mut left = self.pixels;
            while left > 0 {
                for sums in sums.iter_mut().take(left) {
                    for (sum, (c, lanes)) in sums.iter_mut().zip(columns) {
                        // SAFETY: `lanes` channels of a pixel from `c` on.
                        *sum = v.add(*sum, unsafe { v.load_some(pixel.wrapping_add(c), lanes) });
                    }
                    pixel = pixel.wrapping_add(self.ld);
                }
                left = left.saturating_sub(DEEP);
            }
            let [a, b, c, d] = sums;
            for (j, (column, lanes)) in columns.into_iter().enumerate() {
                let sum = v.add(v.add(a[j], b[j]), v.add(c[j], d[j]));
                // SAFETY: `lanes` sums from `column` on.
                unsafe { v.store_some(self.sums[column..].as_mut_ptr(), sum, lanes) };
            }
        }
    }
}

/// The greatest value of each channel over windows, one for each pixel of a tile.
pub(crate) struct MaxWindows<'a, 't> {
    pub(crate) x: Pixels<'a>,
    /// Row of the map with which `x` begins.
    pub(crate) origin: usize,
    pub(crate) geometry: &'a Geometry,
    pub(crate) out: &'a mut Tile<'t>,
}

/// Registers of channels of [`MaxWindows`] that move along a row of the map together.
const TOGETHER: usize = 4;

impl Job for MaxWindows<'_, '_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let width = self.geometry.output()[1];
        let (first, end) = (self.out.pixel0(), self.out.pixel0() + self.out.pixels());
        let mut p = first;
        while p < end {
            let columns = [p % width, (p % width + end - p).min(width)];
            let row = self.geometry.at(0, p / width, 0);
            self.row(v, p - first, row, columns);
            p += columns[1] - columns[0];
        }
    }
}

impl MaxWindows<'_, '_> {
    /// Output columns, from and to, whose windows begin at row `top` of the map; the first one is pixel `first` of the tile.
    #[inline(always)]
    fn row<V: Vector>(&mut self, v: V, first: usize, top: isize, [from, to]: [usize; 2]) {
        let (g, ld, channel0, n) = (self.geometry, self.x.ld, self.out.channel0(), self.out.channels());
        let inside = |d: usize, at: isize| {
            let end = (at + g.kernel[d] as isize).clamp(0, g.input[d] as isize);
            [at.clamp(0, end) as usize, end as usize]
        };
        let [row, rows_end] = inside(0, top);
        let height = rows_end - row;
        let line = g.input[1] * ld;
        // The caller's check: the map reaches from its row `origin` to the last row that is read.
        let map = self.x.data.as_ptr().wrapping_add((row - self.origin.min(row)) * line + channel0);
        for c in (0..n).step_by(TOGETHER * V::LANES) {
            let lanes = |j: usize| n.saturating_sub(c + j * V::LANES);
            // The greatest values of a column of the window, which the next window may begin with.
            let mut last = (usize::MAX, [v.splat(f32::NEG_INFINITY); TOGETHER]);
            for x in from..to {
                let mut best = [v.splat(f32::NEG_INFINITY); TOGETHER];
                let [left, right] = inside(1, g.at(1, x, 0));
                for column in left..if height == 0 { left } else { right } {
                    if column != last.0 {
                        last = (column, [v.splat(f32::NEG_INFINITY); TOGETHER]);
                        let mut at = map.wrapping_add(column * ld + c);
                        for _ in 0..height {
                            for (j, last) in last.1.iter_mut().enumerate() {
                                // SAFETY: channels of a pixel of the window.
                                *last = v.max(*last, unsafe {
                                    v.load_some(at.wrapping_add(j * V::LANES), lanes(j))
                                });
                            }
                            at = at.wrapping_add(line);
                        }
                    }
                    for (best, last) in best.iter_mut().zip(last.1) {
                        *best = v.max(*best, last);
                    }
                }
                let out = self.out.row(first + x - from);
                for (j, best) in best.into_iter().enumerate().take(lanes(0).div_ceil(V::LANES)) {
                    // SAFETY: channels of the output's pixel.
                    unsafe { v.store_some(out.as_mut_ptr().wrapping_add(c + j * V::LANES), best, lanes(j)) };
                }
            }
        }
    }
}

/// Softmax over the experts of each channel, in place: `[experts][channels]`.
pub(crate) struct Softmax<'a> {
    pub(crate) channels: usize,
    pub(crate) temperature: f32,
    pub(crate) coefs: &'a mut [f32],
}

impl Job for Softmax<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let (n, experts) = (self.channels, self.coefs.len() / self.channels);
        let factor = v.splat(1.0 / self.temperature);
        let mut c = 0;
        while c < n {
            let lanes = (n - c).min(V::LANES);
            let at = |e: usize| self.coefs.as_ptr().wrapping_add(e * n + c).cast_mut();
            // SAFETY: `experts * n` values exist, `c + lanes <= n`, and `self.coefs` is borrowed uniquely.
            unsafe {
                let mut top = v.splat(f32::NEG_INFINITY);
                for e in 0..experts {
                    top = v.max(top, v.mul(factor, v.load_some(at(e), lanes)));
                }
                let below = v.mul(top, v.splat(-1.0));
                let mut sum = v.splat(0.0);
                for e in 0..experts {
                    let x = v.fma(factor, v.load_some(at(e), lanes), below);
                    let x = crate::generic::exp::exp(v, x);
                    v.store_some(at(e), x, lanes);
                    sum = v.add(sum, x);
                }
                let share = v.div(v.splat(1.0), sum);
                for e in 0..experts {
                    v.store_some(at(e), v.mul(share, v.load_some(at(e), lanes)), lanes);
                }
            }
            c += lanes;
        }
    }
}
