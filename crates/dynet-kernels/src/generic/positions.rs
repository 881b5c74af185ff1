//! The matrix product of Winograd's positions: sums as they are, of short rows, to and from scratch. It is the
//! [product of a panel](super::gemm) without what happens around the sums there, which with 12 to 64 terms takes as long.

use crate::generic::gemm::Ahead;
use crate::vector::{Job, Vector};

/// `out[row][nr] = sum_k x[row][k] * weights[k][nr]`, added to what is there if `resume`.
///
/// Every output is one sum over `k` in order, in one accumulator: its bits depend neither on the tile that it falls into
/// nor on where `k` was cut.
pub(crate) struct Product {
    pub(crate) rows: usize,
    pub(crate) x: *const f32,
    /// Values from one row to the next.
    pub(crate) ld: usize,
    pub(crate) k: usize,
    pub(crate) weights: *const f32,
    pub(crate) out: *mut f32,
    pub(crate) resume: bool,
    pub(crate) ahead: Ahead,
}

impl Job for Product {
    /// What is left to be asked for.
    type Out = Ahead;

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) -> Ahead {
        // Tiles of nearly equal height: first the higher ones, then those of a row less.
        let tiles = self.rows.div_ceil(V::MR);
        let low = self.rows.checked_div(tiles).unwrap_or(0);
        let high_tiles = self.rows - low * tiles;
        for (tiles, mr) in [(high_tiles, low + 1), (tiles - high_tiles, low)] {
            macro_rules! call {
                ($($mr:literal)*) => {
                    match mr {
                        $($mr if tiles > 0 => v.call_apart(Tiles::<$mr> { tiles, product: &self }),)*
                        _ => self.ahead,
                    }
                };
            }
            self.ahead = call!(1 2 3 4 5 6 7 8 9 10 11 12 13 14);
            self.x = self.x.wrapping_add(tiles * mr * self.ld);
            self.out = self.out.wrapping_add(tiles * mr * V::ROW);
        }
        self.ahead
    }
}

/// `tiles` tiles of `MR` rows.
struct Tiles<'a, const MR: usize> {
    tiles: usize,
    product: &'a Product,
}

impl<const MR: usize> Job for Tiles<'_, MR> {
    type Out = Ahead;

    #[inline(always)]
    fn run<V: Vector>(self, v: V) -> Ahead {
        let &Product { mut x, ld, k, weights, mut out, resume, mut ahead, .. } = self.product;
        if MR > V::MR {
            return ahead;
        }
        for _ in 0..self.tiles {
            let step = ahead.step();
            let mut acc = [[v.splat(0.0); 2]; MR];
            // SAFETY: whoever made the product has `rows` rows of `x` and `out`, and `k` rows of weights.
            unsafe {
                if resume {
                    for (i, acc) in acc.iter_mut().enumerate() {
                        let row = out.add(i * V::ROW);
                        *acc = [v.load(row), v.load(row.add(V::LANES))];
                    }
                }
                let mut rows = [x; MR];
                for (i, row) in rows.iter_mut().enumerate() {
                    *row = x.add(i * ld);
                }
                let (mut row, mut next) = (weights, ahead.next);
                for k in 0..k {
                    v.prefetch(next);
                    next = next.wrapping_add(step);
                    let b = [v.load(row), v.load(row.add(V::LANES))];
                    row = row.add(V::ROW);
                    for (acc, x) in acc.iter_mut().zip(rows) {
                        let a = v.splat(*x.add(k));
                        *acc = [v.fma(a, b[0], acc[0]), v.fma(a, b[1], acc[1])];
                    }
                }
                for (i, acc) in acc.into_iter().enumerate() {
                    let row = out.add(i * V::ROW);
                    v.store(row, acc[0]);
                    v.store(row.add(V::LANES), acc[1]);
                }
                x = x.add(MR * ld);
                out = out.add(MR * V::ROW);
            }
            ahead.next = ahead.next.wrapping_add(step * k);
        }
        ahead
    }
}
