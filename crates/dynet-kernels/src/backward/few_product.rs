//! Fusing and multiplying at once, for the few pixels of late maps.
//!
//! With four pixels an image a fused weight is used four times: storing it and reading it again would cost as much as
//! its use. Here it stays in a register, and all images pass while the experts of a piece are in the first cache.

use crate::generic::gemm::{finish, start};
use crate::generic::operands::{PIECE, Sink, Source};
use crate::isa::Isa;
use crate::vector::{Job, Vector};

/// How many experts are fused in registers for maps of few pixels: with four coefficients they still hold the sums.
pub const FUSED_EXPERTS: usize = 4;

/// The product of each image's rows with the rows `k` of one panel, fused for it.
pub(super) struct FewProduct {
    pub(super) images: usize,
    /// Rows of an image.
    pub(super) pixels: usize,
    /// From the first image's first row on.
    pub(super) source: Source,
    pub(super) k: [usize; 2],
    /// `[k][experts][nr]`.
    pub(super) packed: *const f32,
    pub(super) coefs: Coefs,
    /// Of the first image; `step` values from one image to the next.
    pub(super) sink: Sink,
    pub(super) step: usize,
}

/// The coefficients of the first image and how far those of the next are.
#[derive(Clone, Copy)]
pub(super) struct Coefs {
    /// Of the panel's first column, or of the first value of a segment of `k`.
    pub(super) first: *const f32,
    /// From one expert to the next.
    pub(super) expert: usize,
    pub(super) image: usize,
    /// Whether they belong to rows of the panel; else to its columns.
    pub(super) of_rows: bool,
}

/// Whether [`FewProduct`] is compiled for so many pixels and experts.
pub(super) fn serves(isa: Isa, pixels: usize, experts: usize) -> bool {
    experts == FUSED_EXPERTS && matches!(pixels, 1..=4 | 6 | 8 | 9) && pixels <= most(isa.mr())
}

/// Pixels whose sums stay in registers with those of the fusing, of an instruction set with tiles of `mr` rows. More
/// would fit into 32 registers, but rows of a power of two channels meet in one set of the first cache, of eight ways:
/// at 16 pixels fusing first is up to twice as fast.
const fn most(mr: usize) -> usize {
    if mr > 6 { 9 } else { 8 }
}

/// Whether two registers of columns have their sums in registers: 8 pixels x 2 sums, 4 x 2 coefficients, 2 fused, 1
/// broadcast of 32, and of 16 registers where coefficients of rows are broadcast as well: 4 x 2 sums, 2 fused, 2 broadcast.
const fn is_wide(mr: usize, pixels: usize, of_rows: bool) -> bool {
    if mr > 6 { pixels <= 8 } else { of_rows && pixels <= 4 }
}

impl Job for FewProduct {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let wide = is_wide(V::MR, self.pixels, self.coefs.of_rows) && self.sink.cols > V::LANES;
        let width = if wide { 2 * V::LANES } else { V::LANES };
        for lane in (0..self.sink.cols).step_by(width) {
            let packed = self.packed.wrapping_add(lane);
            let mut coefs = self.coefs;
            if !coefs.of_rows {
                coefs.first = coefs.first.wrapping_add(lane);
            }
            let sink = self.sink.columns(lane, width);
            let part = Self { packed, coefs, sink, ..self };
            macro_rules! call {
                ($($p:literal)*) => {
                    match (part.pixels, wide, coefs.of_rows) {
                        $(
                            ($p, true, true) => v.call_apart(Part::<$p, 2, true>(part)),
                            ($p, true, false) => v.call_apart(Part::<$p, 2, false>(part)),
                            ($p, false, true) => v.call_apart(Part::<$p, 1, true>(part)),
                            ($p, false, false) => v.call_apart(Part::<$p, 1, false>(part)),
                        )*
                        _ => unreachable!("`serves` tells which numbers of pixels there are"),
                    }
                };
            }
            call!(1 2 3 4 6 8 9);
        }
    }
}

/// `P` pixels, `NB` registers of columns, coefficients of rows or of columns.
struct Part<const P: usize, const NB: usize, const OF_ROWS: bool>(FewProduct);

impl<const P: usize, const NB: usize, const OF_ROWS: bool> Job for Part<P, NB, OF_ROWS> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        if P > most(V::MR) || (NB == 2 && !is_wide(V::MR, P, OF_ROWS)) {
            return;
        }
        let Self(mut t) = self;
        for _ in 0..t.images {
            // SAFETY: `Dense` checked all sizes before it made this job.
            unsafe {
                let acc = image::<V, P, NB, OF_ROWS>(v, &t);
                let bounds = [f32::NEG_INFINITY, f32::INFINITY];
                if t.sink.cols == NB * V::LANES {
                    finish::<V, P, NB, true>(v, acc, &t.sink, bounds);
                } else {
                    finish::<V, P, NB, false>(v, acc, &t.sink, bounds);
                }
                t.source = t.source.skip(P);
            }
            t.sink.out = t.sink.out.wrapping_add(t.step);
            t.coefs.first = t.coefs.first.wrapping_add(t.coefs.image);
        }
    }
}

/// The sums of the first image.
///
/// # Safety
/// Its rows, its coefficients, the panel and the sink must exist.
#[inline(always)]
unsafe fn image<V: Vector, const P: usize, const NB: usize, const OF_ROWS: bool>(
    v: V,
    t: &FewProduct,
) -> [[V::Reg; NB]; P] {
    // SAFETY: the caller's promise.
    let mut acc = unsafe { start::<V, P, NB>(v, &t.sink) };
    let mut fixed = [[v.splat(0.0); NB]; FUSED_EXPERTS];
    if !OF_ROWS {
        for (e, fixed) in fixed.iter_mut().enumerate() {
            for (j, fixed) in fixed.iter_mut().enumerate() {
                let lanes = t.sink.cols.saturating_sub(j * V::LANES);
                // SAFETY: `cols` coefficients of each expert exist.
                *fixed = unsafe {
                    v.load_some(t.coefs.first.wrapping_add(e * t.coefs.expert + j * V::LANES), lanes)
                };
            }
        }
    }
    let [from, to] = t.k;
    let (mut tap, mut k0) = (from / t.source.len, from % t.source.len);
    let (mut left, mut w) = (to - from, t.packed);
    while left > 0 {
        let len = (t.source.len - k0).min(PIECE).min(left);
        let mut rows = [t.source.base; P];
        for (i, row) in rows.iter_mut().enumerate() {
            // SAFETY: rows `0..P` exist, `k0` lies within a segment.
            *row = unsafe { t.source.segment(i, tap, k0) };
        }
        for k in 0..len {
            // SAFETY: `k` lies within the segment, and the panel has all experts' weights for each value.
            unsafe {
                let mut fused = [v.splat(0.0); NB];
                for (e, fixed) in fixed.iter().enumerate() {
                    let row = if OF_ROWS {
                        v.splat(*t.coefs.first.add(e * t.coefs.expert + k0 + k))
                    } else {
                        v.splat(0.0)
                    };
                    for (j, fused) in fused.iter_mut().enumerate() {
                        let coef = if OF_ROWS { row } else { fixed[j] };
                        let weight = v.load(w.add(e * 2 * V::LANES + j * V::LANES));
                        *fused = if e == 0 { v.mul(coef, weight) } else { v.fma(coef, weight, *fused) };
                    }
                }
                for (acc, row) in acc.iter_mut().zip(rows) {
                    let a = v.splat(*row.add(k));
                    for (acc, fused) in acc.iter_mut().zip(fused) {
                        *acc = v.fma(a, fused, *acc);
                    }
                }
                w = w.add(FUSED_EXPERTS * 2 * V::LANES);
            }
        }
        left -= len;
        k0 += len;
        if k0 == t.source.len {
            (tap, k0) = (tap + 1, 0);
        }
    }
    acc
}
