//! `dY (x) X` over pixels, a tile of the gradient of the weights in registers.

use crate::vector::{Job, Vector};

/// A pixel of the input and the row of the packed gradient that it meets.
pub(super) type Pair = [u32; 2];

/// Rows of a tile, at most.
pub(super) const MAX_ROWS: usize = 14;

/// Where tiles find their operands.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// The batch's input, from the tile's first channel on.
    pub(super) x: *const f32,
    pub(super) x_ld: usize,
    /// Rows `[nr]` of the gradient of the output.
    pub(super) dy: *const f32,
    pub(super) pairs: &'a [Pair],
    /// Output channels that exist.
    pub(super) cols: usize,
    /// Input channels of the tile.
    pub(super) rows: usize,
}

/// Adds the tile `[rows][nr]`, whose rows are `step` values apart, to what is in `sums`; a `fresh` one it writes, the
/// columns that exist alone.
pub(super) struct StaticTile<'a> {
    pub(super) operands: Operands<'a>,
    pub(super) sums: *mut f32,
    pub(super) step: usize,
    pub(super) fresh: bool,
}

impl Job for StaticTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        macro_rules! call {
            ($($mr:literal)*) => {
                match (self.operands.rows, self.operands.cols > V::LANES) {
                    $(
                        ($mr, true) => v.call_apart(Sized::<_, $mr, 2>(self)),
                        ($mr, false) => v.call_apart(Sized::<_, $mr, 1>(self)),
                    )*
                    _ => unreachable!("a tile has at most {MAX_ROWS} rows"),
                }
            };
        }
        call!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
    }
}

/// A tile with its size known when compiling.
struct Sized<T, const MR: usize, const NB: usize>(T);

type Acc<V, const MR: usize, const NB: usize> = [[<V as Vector>::Reg; NB]; MR];

/// # Safety
/// All pairs must be pixels of the input with `MR` channels, and rows of the gradient.
#[inline(always)]
unsafe fn accumulate<V: Vector, const MR: usize, const NB: usize>(
    v: V,
    o: &Operands<'_>,
    pairs: &[Pair],
    acc: &mut Acc<V, MR, NB>,
) {
    for &[pixel, row] in pairs {
        // SAFETY: the caller's promise.
        unsafe {
            let x = o.x.add(pixel as usize * o.x_ld);
            let dy = o.dy.add(row as usize * 2 * V::LANES);
            let mut b = [v.splat(0.0); NB];
            for (j, b) in b.iter_mut().enumerate() {
                *b = v.load(dy.add(j * V::LANES));
            }
            for (i, acc) in acc.iter_mut().enumerate() {
                let a = v.splat(*x.add(i));
                for (acc, b) in acc.iter_mut().zip(b) {
                    *acc = v.fma(a, b, *acc);
                }
            }
        }
    }
}

impl<const MR: usize, const NB: usize> Job for Sized<StaticTile<'_>, MR, NB> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let StaticTile { operands: o, sums, step, fresh } = self.0;
        let mut acc = [[v.splat(0.0); NB]; MR];
        // SAFETY: `dense_weights` made pairs and sums for `rows` x `cols`, and this is the case of `MR` rows.
        unsafe {
            for (i, acc) in acc.iter_mut().enumerate() {
                for (j, acc) in acc.iter_mut().enumerate() {
                    let at = sums.wrapping_add(i * step + j * V::LANES);
                    if fresh {
                        v.prefetch_to_write(at);
                    } else {
                        *acc = v.load(at);
                    }
                }
            }
            accumulate::<V, MR, NB>(v, &o, o.pairs, &mut acc);
            let cols = if fresh { o.cols } else { NB * V::LANES };
            for (i, acc) in acc.iter().enumerate() {
                for (j, acc) in acc.iter().enumerate() {
                    let lanes = cols.saturating_sub(j * V::LANES);
                    v.store_some(sums.wrapping_add(i * step + j * V::LANES), *acc, lanes);
                }
            }
        }
    }
}

/// For each image and each element of the kernel `dW~ = dY (x) X`, which never leaves the registers:
/// `dw_e += eta_e dW~`, `d eta_e += <dW~, w_e>`.
pub(super) struct DynamicTile<'a> {
    /// Pairs of all images, of each those of all elements of the kernel.
    pub(super) operands: Operands<'a>,
    /// Elements of the kernel.
    pub(super) taps: usize,
    /// Where the pairs of each element of each image end.
    pub(super) ends: &'a [usize],
    pub(super) experts: usize,
    /// `[images][experts][nr]`.
    pub(super) coefs: *const f32,
    pub(super) d_coefs: *mut f32,
    /// `[taps][experts][rows][nr]` of weights and their gradients.
    pub(super) weights: *const f32,
    pub(super) d_weights: *mut f32,
}

/// Rows of a [`DynamicTile`] of an instruction set with `mr`: two pairs of registers go to the experts.
pub(super) fn dynamic_rows(mr: usize) -> usize {
    mr - 2
}

impl Job for DynamicTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        macro_rules! call {
            ($($mr:literal)*) => {
                match (self.operands.rows, self.operands.cols > V::LANES) {
                    $(
                        ($mr, true) => v.call_apart(Sized::<_, $mr, 2>(self)),
                        ($mr, false) => v.call_apart(Sized::<_, $mr, 1>(self)),
                    )*
                    _ => unreachable!("a tile has at most {} rows", MAX_ROWS - 2),
                }
            };
        }
        call!(1 2 3 4 5 6 7 8 9 10 11 12);
    }
}

impl<const MR: usize, const NB: usize> Job for Sized<DynamicTile<'_>, MR, NB> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let t = self.0;
        let (o, nr) = (t.operands, 2 * V::LANES);
        let (mut start, mut coefs, mut d_coefs) = (0, t.coefs, t.d_coefs);
        for ends in t.ends.chunks_exact(t.taps) {
            let (mut weights, mut d_weights) = (t.weights, t.d_weights);
            for &end in ends {
                let mut acc = [[v.splat(0.0); NB]; MR];
                // SAFETY: as in `StaticTile`; coefficients and tiles of the experts exist for `nr` channels.
                unsafe {
                    accumulate::<V, MR, NB>(v, &o, &o.pairs[start..end], &mut acc);
                    for e in 0..t.experts {
                        for j in 0..NB {
                            let at = e * nr + j * V::LANES;
                            let coef = v.load(coefs.add(at));
                            let mut sum = v.load(d_coefs.add(at));
                            for (i, acc) in acc.iter().enumerate() {
                                let place = (e * MR + i) * nr + j * V::LANES;
                                sum = v.fma(acc[j], v.load(weights.add(place)), sum);
                                let dw = d_weights.add(place);
                                v.store(dw, v.fma(acc[j], coef, v.load(dw)));
                            }
                            v.store(d_coefs.add(at), sum);
                        }
                    }
                }
                let step = t.experts * MR * nr;
                (weights, d_weights) = (weights.wrapping_add(step), d_weights.wrapping_add(step));
                start = end;
            }
            let step = t.experts * nr;
            (coefs, d_coefs) = (coefs.wrapping_add(step), d_coefs.wrapping_add(step));
        }
    }
}
