//! `fuse` on a panel in scratch memory, forward with a coefficient for each column, backward with one for each row.

use crate::vector::{Job, Vector};

/// `fused[k][lane] = sum_e coefs[e][lane] * packed[k][e][lane]`.
pub(crate) struct FuseColumns<'a> {
    /// `[k][experts][nr]`.
    pub(crate) packed: &'a [f32],
    /// From the panel's first channel on; expert `e` is `step` values behind expert 0.
    pub(crate) coefs: *const f32,
    pub(crate) step: usize,
    pub(crate) experts: usize,
    /// Channels of the panel.
    pub(crate) cols: usize,
    /// `[k][nr]`.
    pub(crate) fused: &'a mut [f32],
}

impl Job for FuseColumns<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(mut self, v: V) {
        let nr = 2 * V::LANES;
        let k = self.fused.len() / nr;
        assert!(self.packed.len() >= k * self.experts * nr, "a panel of {k} rows");
        match self.experts {
            4 => self.with::<V, 4>(v, k, 0),
            _ => {
                for e in 0..self.experts {
                    self.with::<V, 1>(v, k, e);
                }
            }
        }
    }
}

impl FuseColumns<'_> {
    /// Experts `first..first + E` of all rows; adds to those before.
    #[inline(always)]
    fn with<V: Vector, const E: usize>(&mut self, v: V, k: usize, first: usize) {
        let nr = 2 * V::LANES;
        // SAFETY: `cols` coefficients of each expert exist; `run` checked the panel.
        unsafe {
            let mut c = [[v.splat(0.0); 2]; E];
            for (e, c) in c.iter_mut().enumerate() {
                let at = self.coefs.add((first + e) * self.step);
                c[0] = v.load_some(at, self.cols);
                c[1] = v.load_some(at.wrapping_add(V::LANES), self.cols.saturating_sub(V::LANES));
            }
            let mut w = self.packed.as_ptr().add(first * nr);
            let mut out = self.fused.as_mut_ptr();
            for _ in 0..k {
                for j in 0..2 {
                    let mut sum = if first > 0 { v.load(out.add(j * V::LANES)) } else { v.splat(0.0) };
                    for (e, c) in c.iter().enumerate() {
                        sum = v.fma(c[j], v.load(w.add(e * nr + j * V::LANES)), sum);
                    }
                    v.store(out.add(j * V::LANES), sum);
                }
                w = w.add(self.experts * nr);
                out = out.add(nr);
            }
        }
    }
}

/// `fused[row][lane] = sum_e coefs[e][(first + row) % channels] * packed[row][e][lane]`.
pub(crate) struct FuseRows<'a> {
    /// `[rows][experts][nr]`.
    pub(crate) packed: &'a [f32],
    pub(crate) first: usize,
    /// `[experts][channels]`.
    pub(crate) coefs: &'a [f32],
    pub(crate) experts: usize,
    /// `[rows][nr]`.
    pub(crate) fused: &'a mut [f32],
}

impl Job for FuseRows<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let nr = 2 * V::LANES;
        let rows = self.fused.len() / nr;
        assert!(self.packed.len() >= rows * self.experts * nr, "a panel of {rows} rows");
        let n = self.coefs.len() / self.experts;
        let (coefs, experts) = (self.coefs.as_ptr(), self.experts);
        let mut w = self.packed.as_ptr();
        let mut out = self.fused.as_mut_ptr();
        // SAFETY: the panel was checked; `c < n`, the coefficients of an expert.
        unsafe {
            let mut c = self.first % n;
            for _ in 0..rows {
                let (mut a, mut b) = (v.splat(0.0), v.splat(0.0));
                for e in 0..experts {
                    let coef = v.splat(*coefs.add(e * n + c));
                    a = v.fma(coef, v.load(w), a);
                    b = v.fma(coef, v.load(w.add(V::LANES)), b);
                    w = w.add(nr);
                }
                v.store(out, a);
                v.store(out.add(V::LANES), b);
                out = out.add(nr);
                c = if c + 1 == n { 0 } else { c + 1 };
            }
        }
    }
}
