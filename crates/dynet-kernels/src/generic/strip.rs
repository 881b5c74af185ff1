//! Windows over narrow groups where registers are few: one row of outputs at a time.
//!
//! A tile of seven pixels has 63 multiplications for a 3x3 kernel, as many as 30 cycles take, so that every other instruction
//! counts: which columns lie outside the image is known when compiling, rows outside are left out by the loop's bounds,
//! and addresses move on by additions.
//!
//! How far from its floor, one core of a Zen 3 with AVX2 (89 GFLOP/s): what lies in its first cache takes 1.8 times its
//! multiplications for 3x3, 1.1 for 5x5, 2.1 for 3x3 with stride 2; the 256 instructions that it looks ahead are no two tiles,
//! whose sums of nine terms wait for one another. Maps that come from the last-level cache take 2 to 3.5 times. Groups of six fill
//! three quarters of a register and take 2.3 to 3 times.

use crate::generic::fetch::Fetch;
use crate::generic::gemm::FAR_BYTES;
use crate::generic::grouped::{Band, finish};
use crate::vector::Vector;

/// One register of output channels of a band: where its values lie and how far apart.
struct Strip<V: Vector> {
    /// Column of the panel, and lanes that exist.
    columns: [usize; 2],
    /// Its weights: row 0 of the panel.
    w: *const f32,
    bias: V::Reg,
    /// Values from one row of the image to the next.
    row: usize,
    /// Width of the output.
    width: usize,
    /// Bounds of the activation if it is a clamp and there is no residual.
    bounds: Option<[f32; 2]>,
    /// Whether the output is asked for before it is written.
    far: bool,
}

impl<const K: usize, const S: usize, const TX: usize> Band<'_, K, S, TX> {
    /// All tiles of the band for `lanes` output channels from column `c` of the panel on.
    ///
    /// # Safety
    /// As in [`Band::register`].
    #[inline(always)]
    pub(super) unsafe fn strips<V: Vector, F: Fetch<V>>(
        &self,
        v: V,
        fetch: &F,
        [c, lanes]: [usize; 2],
        bias: V::Reg,
        bounds: Option<[f32; 2]>,
    ) {
        let (p, g) = (&self.panel, self.panel.geometry);
        let width = g.output()[1];
        // Two registers of eight lanes share a line.
        let far = c.is_multiple_of(16) && g.pixels() * p.out_ld * size_of::<f32>() >= FAR_BYTES;
        let w = p.panel.wrapping_add(c);
        let strip = Strip::<V> { columns: [c, lanes], w, bias, row: g.input[1] * p.x_ld, width, bounds, far };
        for tile in 0..self.tiles {
            let x = self.x0 + tile * TX;
            let first = g.at(1, x, 0);
            let outside = [-first, first + ((TX - 1) * S + K) as isize - g.input[1] as isize];
            let outside = outside.map(|n| n.max(0) as usize);
            // SAFETY: the caller's promise; no more than half a kernel lies outside.
            unsafe {
                match outside {
                    [0, 0] => self.below::<V, F, 0, 0>(v, fetch, &strip, x),
                    [0, 1] => self.below::<V, F, 0, 1>(v, fetch, &strip, x),
                    [1, 0] => self.below::<V, F, 1, 0>(v, fetch, &strip, x),
                    [1, 1] => self.below::<V, F, 1, 1>(v, fetch, &strip, x),
                    [0, 2] if K > 3 => self.below::<V, F, 0, 2>(v, fetch, &strip, x),
                    [1, 2] if K > 3 => self.below::<V, F, 1, 2>(v, fetch, &strip, x),
                    [2, 0] if K > 3 => self.below::<V, F, 2, 0>(v, fetch, &strip, x),
                    [2, 1] if K > 3 => self.below::<V, F, 2, 1>(v, fetch, &strip, x),
                    [2, 2] if K > 3 => self.below::<V, F, 2, 2>(v, fetch, &strip, x),
                    _ => unreachable!("{outside:?} columns of a kernel of {K} lie outside"),
                }
            }
        }
    }

    /// The tiles at column `x` below one another, of whose input columns `LEFT` and `RIGHT` lie outside the image.
    ///
    /// # Safety
    /// As in [`Band::register`].
    #[inline(always)]
    unsafe fn below<V: Vector, F: Fetch<V>, const LEFT: usize, const RIGHT: usize>(
        &self,
        v: V,
        fetch: &F,
        strip: &Strip<V>,
        x: usize,
    ) {
        let (p, g) = (&self.panel, self.panel.geometry);
        let (ld, inputs) = (p.x_ld, if F::ONE_INPUT { 1 } else { p.group[0] });
        let column = p.x.wrapping_offset((g.at(1, x, 0) + LEFT as isize) * ld as isize);
        let mut sum = v.splat(0.0);
        for y in p.rows[0]..p.rows[1] {
            let at = (y - p.rows[0]) * strip.width + x;
            if strip.far {
                let mut out = p.out.wrapping_add(at * p.out_ld + strip.columns[0]);
                for _ in 0..TX {
                    v.prefetch_to_write(out);
                    out = out.wrapping_add(p.out_ld);
                }
            }
            let top = g.at(0, y, 0);
            // Rows of the kernel inside the image.
            let from = (-top).clamp(0, K as isize);
            let to = (g.input[0] as isize - top).clamp(from, K as isize);
            let mut row = column.wrapping_offset((top + from) * strip.row as isize);
            let mut w = strip.w.wrapping_add(from as usize * K * inputs * V::ROW);
            let mut acc = [strip.bias; TX];
            for _ in from..to {
                for i in 0..inputs {
                    // SAFETY: a row of the image; a row of the kernel for input `i`.
                    unsafe {
                        let w = (w.add(i * V::ROW), inputs * V::ROW);
                        add_row::<V, F, K, S, TX, LEFT, RIGHT>(v, (fetch, i), (row, ld), w, &mut acc);
                    }
                }
                row = row.wrapping_add(strip.row);
                w = w.wrapping_add(K * inputs * V::ROW);
            }
            let bounds = (p, strip.bounds);
            let columns = (strip.columns[0], strip.columns[1]);
            // SAFETY: the caller's promise.
            unsafe {
                sum = v.add(sum, finish::<V, F, TX, 1>(v, bounds, [acc], (at, strip.width), columns));
                if (y - p.rows[0]) % 2 == 1 || y + 1 == p.rows[1] {
                    p.add_up(v, y, columns, sum);
                    sum = v.splat(0.0);
                }
            }
        }
    }
}

/// Adds one row of the kernel, at `w`, for one input of each group; `row` is the first pixel inside the image.
///
/// # Safety
/// All pixels that the tile reaches but the first `LEFT` and the last `RIGHT` must exist every `ld` values, and the weights of
/// `K` taps every `w_step` values.
#[inline(always)]
unsafe fn add_row<
    V: Vector,
    F: Fetch<V>,
    const K: usize,
    const S: usize,
    const TX: usize,
    const LEFT: usize,
    const RIGHT: usize,
>(
    v: V,
    (fetch, input): (&F, usize),
    (row, ld): (*const f32, usize),
    (w, w_step): (*const f32, usize),
    acc: &mut [V::Reg; TX],
) {
    let mut weights = [v.splat(0.0); K];
    for (kx, weight) in weights.iter_mut().enumerate() {
        // SAFETY: the caller's promise.
        *weight = unsafe { fetch.weights(v, w.add(kx * w_step)) };
    }
    // Four pixels from each address, which is what an instruction can add to it.
    let mut four = row;
    // Written out: left to itself the compiler keeps long rows as loops, and accumulators in memory.
    macro_rules! columns {
        ($($reach:literal)*) => {
            $(
                if $reach >= LEFT && $reach + RIGHT < (TX - 1) * S + K {
                    // SAFETY: a pixel inside the image.
                    let value = unsafe { fetch.fetch(v, four.wrapping_add(($reach - LEFT) % 4 * ld), input) };
                    if ($reach - LEFT) % 4 == 3 {
                        four = four.wrapping_add(4 * ld);
                    }
                    for kx in 0..K {
                        if $reach >= kx && ($reach - kx) % S == 0 && ($reach - kx) / S < TX {
                            let t = ($reach - kx) / S;
                            acc[t] = v.fma(value, weights[kx], acc[t]);
                        }
                    }
                }
            )*
        };
    }
    // Up to 7 steps of 2 and a kernel of 5 columns.
    columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
    let _ = four;
}
