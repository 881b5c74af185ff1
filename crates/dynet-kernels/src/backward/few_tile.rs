//! `dY (x) X` over the few pixels of late maps, and what becomes of it with every expert, in registers.
//!
//! With four pixels an image the product itself is four multiplications a weight, its use for K = 4 experts eight. So
//! the gradients of all experts of a few rows stay in registers while the images pass by, and nothing of the size of
//! images x weights is stored or read.

use crate::backward::weight_tile::Pair;
use crate::vector::{Job, Vector};

/// Input channels that are packed together: a cache line of each row of weights.
pub(super) const CHANNELS: usize = 16;

/// For each image `dW~ = dY (x) X`: `dw_e += eta_e dW~`, `d eta_e += <dW~, w_e>`, for all rows of a tile.
pub(super) struct FewTile<'a> {
    /// `[pixel][CHANNELS]` of the batch's input.
    pub(super) x: *const f32,
    /// Rows `[nr]` of the gradient of the output.
    pub(super) dy: *const f32,
    /// Pixels and rows of all images, and where those of each image end.
    pub(super) pairs: &'a [Pair],
    pub(super) ends: &'a [usize],
    pub(super) experts: usize,
    /// `[images][experts][nr]`.
    pub(super) coefs: *const f32,
    pub(super) d_coefs: *mut f32,
    /// `[experts][rows][nr]` of weights and their gradients.
    pub(super) weights: *const f32,
    pub(super) d_weights: *mut f32,
    /// Whether the gradients hold those of earlier images.
    pub(super) resume: bool,
    /// Input channels.
    pub(super) rows: usize,
    /// Output channels that exist.
    pub(super) cols: usize,
}

impl Job for FewTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let mut first = 0;
        while first < self.experts {
            // SAFETY: `few_weights` made everything for `rows` x `cols` and all experts.
            first += unsafe {
                match self.experts - first {
                    1 => self.experts_from::<V, 1>(v, first),
                    2 | 3 => self.experts_from::<V, 2>(v, first),
                    _ => self.experts_from::<V, 4>(v, first),
                }
            };
        }
    }
}

/// `R` rows from row `row` on, `E` experts from expert `first` on, lanes from `lane` on.
struct Part<'a, const E: usize, const R: usize> {
    tile: &'a FewTile<'a>,
    first: usize,
    row: usize,
    lane: usize,
}

impl FewTile<'_> {
    /// Experts `first..first + E` of all rows; returns `E`.
    ///
    /// # Safety
    /// All operands must exist.
    #[inline(always)]
    unsafe fn experts_from<V: Vector, const E: usize>(&self, v: V, first: usize) -> usize {
        // 4 rows x 4 experts and 4 sums of 32 registers, or 2 rows of 16.
        let most = if V::MR > 6 { 4 } else { 2 };
        for lane in (0..self.cols).step_by(V::LANES) {
            for row in (0..self.rows).step_by(most) {
                match (self.rows - row).min(most) {
                    1 => v.call_apart(Part::<E, 1> { tile: self, first, row, lane }),
                    2 => v.call_apart(Part::<E, 2> { tile: self, first, row, lane }),
                    3 => v.call_apart(Part::<E, 3> { tile: self, first, row, lane }),
                    _ => v.call_apart(Part::<E, 4> { tile: self, first, row, lane }),
                }
            }
        }
        E
    }
}

impl<const E: usize, const R: usize> Job for Part<'_, E, R> {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { tile, first, row, lane } = self;
        // By value: a store could change what a reference leads to, for all that the compiler knows, and each access
        // would read it again.
        let &FewTile {
            x, dy, pairs, ends, experts, coefs, d_coefs, weights, d_weights, resume, rows, ..
        } = tile;
        let nr = 2 * V::LANES;
        let mut dw = [[v.splat(0.0); R]; E];
        // SAFETY: pairs are pixels of the input and rows of the gradient; all else has `nr` lanes for each of its rows.
        unsafe {
            let mut places = [0; E];
            for (e, place) in places.iter_mut().enumerate() {
                *place = ((first + e) * rows + row) * nr + lane;
            }
            if resume {
                for (dw, place) in dw.iter_mut().zip(places) {
                    for (i, dw) in dw.iter_mut().enumerate() {
                        *dw = v.load(d_weights.add(place + i * nr));
                    }
                }
            }
            let (x, dy) = (x.add(row), dy.add(lane));
            let mut start = 0;
            let mut at = first * nr + lane;
            for &end in ends {
                let mut acc = [v.splat(0.0); R];
                for &[pixel, row] in &pairs[start..end] {
                    let (x, dy) = (x.add(pixel as usize * CHANNELS), v.load(dy.add(row as usize * nr)));
                    for (i, acc) in acc.iter_mut().enumerate() {
                        *acc = v.fma(v.splat(*x.add(i)), dy, *acc);
                    }
                }
                for (e, (dw, place)) in dw.iter_mut().zip(places).enumerate() {
                    let coef = v.load(coefs.add(at + e * nr));
                    let mut sum = v.load(d_coefs.add(at + e * nr));
                    for (i, (dw, acc)) in dw.iter_mut().zip(acc).enumerate() {
                        sum = v.fma(acc, v.load(weights.add(place + i * nr)), sum);
                        *dw = v.fma(acc, coef, *dw);
                    }
                    v.store(d_coefs.add(at + e * nr), sum);
                }
                at += experts * nr;
                start = end;
            }
            for (dw, place) in dw.iter().zip(places) {
                for (i, dw) in dw.iter().enumerate() {
                    v.store(d_weights.add(place + i * nr), *dw);
                }
            }
        }
    }
}
