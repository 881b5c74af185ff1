//! The sums of one tile of a window that slides along a row.

use crate::generic::fetch::Fetch;
use crate::generic::grouped::GroupedPanel;
use crate::geometry::Geometry;
use crate::vector::Vector;

/// Output pixels of a tile, a register of channels each.
pub(crate) type Acc<V, const TX: usize, const TY: usize> = [[<V as Vector>::Reg; TX]; TY];

/// A tile of `TY` rows of `TX` pixels from output pixel `(y, x)` on, for a square kernel `K` wide that moves by `S`.
/// `w` is the panel's first row at the channels in question.
///
/// # Safety
/// As in [`Band::register`](crate::generic::grouped::Band).
#[inline(always)]
pub(crate) unsafe fn slide<
    V: Vector,
    F: Fetch<V>,
    const K: usize,
    const S: usize,
    const TX: usize,
    const TY: usize,
>(
    v: V,
    fetch: &F,
    (p, g): (&GroupedPanel<'_>, &Geometry),
    w: *const f32,
    [y, x]: [usize; 2],
    bias: V::Reg,
) -> Acc<V, TX, TY> {
    let mut acc = [[bias; TX]; TY];
    let [first_row, first_column] = [g.at(0, y, 0), g.at(1, x, 0)];
    let step = if F::ONE_INPUT { 1 } else { p.group[0] } * V::ROW;
    // Written out, so that which rows of the kernel meet row `R` is known when compiling.
    macro_rules! rows {
        ($($r:literal)*) => {
            $(
                let row = (first_row + $r) as usize;
                if $r < K + (TY - 1) * S && row < g.input[0] {
                    let row = p.x.wrapping_add(row * g.input[1] * p.x_ld);
                    let inputs = if F::ONE_INPUT { 1 } else { p.group[0] };
                    for i in 0..inputs {
                        // SAFETY: a row of the image; row `i` of each tap of the panel.
                        unsafe {
                            let w = (w.add(i * V::ROW), step);
                            let from = (row, p.x_ld, first_column, g.input[1]);
                            slide_row::<V, F, K, S, TX, TY, $r>(v, fetch, from, w, i, &mut acc);
                        }
                    }
                }
            )*
        };
    }
    // Kernels of up to 5 rows, and 2 more for a second row of outputs.
    rows!(0 1 2 3 4 5 6);
    acc
}

/// Adds input row `R` of a tile, counted from its first, for input `i` of each group.
///
/// # Safety
/// `row` must be a row of `width` pixels every `ld` values; `w` must hold `K * K` rows every `w_step` values. No more than
/// the first and the last `K / 2` columns that the tile reaches may lie outside.
#[inline(always)]
unsafe fn slide_row<
    V: Vector,
    F: Fetch<V>,
    const K: usize,
    const S: usize,
    const TX: usize,
    const TY: usize,
    const R: usize,
>(
    v: V,
    fetch: &F,
    (row, ld, first, width): (*const f32, usize, isize, usize),
    (panel, w_step): (*const f32, usize),
    i: usize,
    acc: &mut Acc<V, TX, TY>,
) {
    let meets = |o: usize| R >= o * S && R - o * S < K;
    let mut w = [[v.splat(0.0); K]; TY];
    for (o, w) in w.iter_mut().enumerate() {
        for (kx, w) in w.iter_mut().enumerate() {
            if meets(o) {
                // SAFETY: the caller's promise.
                *w = unsafe { fetch.weights(v, panel.add(((R - o * S) * K + kx) * w_step)) };
            }
        }
    }
    let mut pixel = row.wrapping_offset(first * ld as isize);
    // Written out: left to itself the compiler keeps long rows as loops, and accumulators in memory.
    macro_rules! columns {
        ($($reach:literal)*) => {
            $(
                if $reach < (TX - 1) * S + K {
                    let middle = $reach >= K / 2 && $reach < (TX - 1) * S + K - K / 2;
                    if middle || ((first + $reach) as usize) < width {
                        // SAFETY: a pixel inside the image.
                        let value = unsafe { fetch.fetch(v, pixel, i) };
                        for o in 0..TY {
                            for kx in 0..K {
                                if meets(o) && $reach >= kx && ($reach - kx) % S == 0 && ($reach - kx) / S < TX {
                                    let t = ($reach - kx) / S;
                                    acc[o][t] = v.fma(value, w[o][kx], acc[o][t]);
                                }
                            }
                        }
                    }
                    pixel = pixel.wrapping_add(ld);
                }
            )*
        };
    }
    // Up to 7 steps of 2 and a kernel of 5 columns.
    columns!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18);
    let _ = pixel;
}

/// A tile of one row of `TX` pixels for any kernel, tap by tap.
///
/// # Safety
/// As in [`Band::register`](crate::generic::grouped::Band).
#[inline(always)]
pub(crate) unsafe fn any<V: Vector, F: Fetch<V>, const TX: usize>(
    v: V,
    fetch: &F,
    (p, g): (&GroupedPanel<'_>, &Geometry),
    mut w: *const f32,
    [y, x]: [usize; 2],
    bias: V::Reg,
) -> Acc<V, TX, 1> {
    let mut acc = [bias; TX];
    for ky in 0..g.kernel[0] {
        let row = g.at(0, y, ky) as usize;
        for kx in 0..g.kernel[1] {
            for i in 0..p.group[0] {
                // SAFETY: a row of the panel.
                let weight = unsafe { v.load(w) };
                w = w.wrapping_add(V::ROW);
                for (t, acc) in acc.iter_mut().enumerate() {
                    let column = g.at(1, x + t, kx) as usize;
                    if row < g.input[0] && column < g.input[1] {
                        let pixel = p.x.wrapping_add((row * g.input[1] + column) * p.x_ld);
                        // SAFETY: a pixel inside the image.
                        *acc = v.fma(unsafe { fetch.fetch(v, pixel, i) }, weight, *acc);
                    }
                }
            }
        }
    }
    [acc]
}
