//! Gradients of the weights and coefficients of a dynamic layer whose maps have few pixels.

use crate::backward::dense::{Block, Dense};
use crate::backward::dense_weights::{Tiles, copy_columns};
use crate::backward::few_product::FUSED_EXPERTS;
use crate::backward::few_tile::{CHANNELS, FewTile};
use crate::backward::goal::{Goal, Landing, Sums};
use crate::backward::team::{Raw, Team};
use crate::isa::Isa;

/// Output pixels of an image up to which gradients of all experts stay in registers while the images pass by. Of 16
/// registers those of four experts of two channels take eight: there tiles in the first cache are up to a third faster,
/// which was measured for four experts alone.
pub(super) fn few_pixels(isa: Isa, experts: usize) -> usize {
    if isa.mr() > 6 || experts != FUSED_EXPERTS { 16 } else { 0 }
}

/// Pixels of the batch's output that are gone through at once: 2048 rows of a panel are a quarter of a cache of 1 MiB.
const CHUNK: usize = 2048;

/// One part of the job: tiles of input channels times a panel of output channels.
struct Part<'a> {
    coefs: &'a [f32],
    x: &'a [f32],
    dy: &'a [f32],
    weights: *const f32,
    block: Block,
}

impl Dense<'_> {
    /// [`Dense::backward_weights_fused`] of maps of at most [`few_pixels`] pixels; the sizes fit.
    pub(super) fn few_pixels_weights(
        &self,
        team: &mut Team,
        coefs: &[f32],
        [x, dy]: [&[f32]; 2],
        goal: Goal<'_>,
        d_coefs: &mut [f32],
    ) {
        let (isa, n, experts, w) = (team.isa, self.c_out, self.experts, self.window);
        let (nr, of_images) = (isa.nr(), w.images * experts * n);
        let tiles = Tiles::new(self.c_in, CHANNELS);
        let panels = n.div_ceil(nr);
        let splits = Self::splits(panels, tiles.count);
        let mut partial = team.take_shared(splits * of_images);
        let (gradient, shared) = (Sums::new(goal, 1, &mut []), Raw::of(&mut partial));
        let group = (CHUNK / w.outputs()).clamp(1, w.images);
        let of_tile = CHANNELS.min(self.c_in) * w.taps() * experts * nr;
        let of_group = group * (w.outputs() * nr + w.inputs() * CHANNELS);
        let lens =
            [2 * w.images * experts * nr, of_group + 2 * of_tile, Landing::scratch(self, isa, CHANNELS)];
        team.run(panels * splits, lens.iter().sum(), |part, scratch| {
            let (block, split) = (Block::new(part / splits, nr, n), part % splits);
            let (own, rest) = scratch.split_at_mut(w.images * experts * nr);
            let (sums, rest) = rest.split_at_mut(w.images * experts * nr);
            let (rest, landing) = rest.split_at_mut(lens[1]);
            copy_columns(coefs, n, 0..w.images * experts, block, nr, own);
            sums.fill(0.0);
            let range = split * tiles.count / splits..(split + 1) * tiles.count / splits;
            let landing = gradient.landing(self, isa, block, 0, (landing, tiles.end(range.start)));
            let part = Part { coefs: own, x, dy, weights: self.weights_of(gradient.update.as_ref()), block };
            self.few_pixels_part(isa, &part, range, group, (sums, rest), landing);
            for (i, sums) in sums.chunks_exact(nr).enumerate() {
                // SAFETY: this part alone has the columns of the block of its split.
                let out = unsafe { shared.slice(split * of_images + i * n + block.c0, block.cols) };
                out.copy_from_slice(&sums[..block.cols]);
            }
        });
        gradient.finish(team);
        Self::add_splits(&partial[..splits * of_images], d_coefs);
        team.put_back(partial);
    }

    fn few_pixels_part(
        &self,
        isa: Isa,
        part: &Part<'_>,
        tiles: std::ops::Range<usize>,
        group: usize,
        (d_coefs, scratch): (&mut [f32], &mut [f32]),
        mut landing: Landing<'_>,
    ) {
        let (w, experts, nr, block) = (self.window, self.experts, isa.nr(), part.block);
        let (outputs, inputs, taps) = (w.outputs(), w.inputs(), w.taps());
        let (panel, rest) = scratch.split_at_mut(group * outputs * nr);
        let (pixels, rest) = rest.split_at_mut(group * inputs * CHANNELS);
        let (weights, d_weights) = rest.split_at_mut(rest.len() / 2);
        let all = Tiles::new(self.c_in, CHANNELS);
        let mut met = vec![(Vec::with_capacity(group * outputs), Vec::with_capacity(group)); taps];
        let mut ready = usize::MAX;
        let mut places = Vec::new();
        let behind = all.end(tiles.end);
        for [c, rows] in tiles.map(|tile| all.at(tile)) {
            let len = rows * taps * experts * nr;
            let (weights, d_weights) = (&mut weights[..len], &mut d_weights[..len]);
            if places.len() != rows * taps {
                places = self.tile_places([[c, rows]].into_iter());
            }
            self.pack_tile((isa, part.weights), block, [c, rows], &places, weights);
            for first in (0..w.images).step_by(group) {
                let end = w.images.min(first + group);
                if ready != first {
                    copy_columns(part.dy, self.c_out, first * outputs..end * outputs, block, nr, panel);
                    self.pairs_of_images(first..end, &mut met);
                    ready = first;
                }
                let columns = Block { c0: c, cols: rows };
                copy_columns(part.x, self.c_in, first * inputs..end * inputs, columns, CHANNELS, pixels);
                for (tap, (pairs, ends)) in met.iter().enumerate() {
                    let at = tap * experts * rows * nr;
                    let of_group = first * experts * nr;
                    isa.run(FewTile {
                        x: pixels.as_ptr(),
                        dy: panel.as_ptr(),
                        pairs,
                        ends,
                        experts,
                        coefs: part.coefs[of_group..].as_ptr(),
                        d_coefs: d_coefs[of_group..].as_mut_ptr(),
                        weights: weights[at..].as_ptr(),
                        d_weights: d_weights[at..].as_mut_ptr(),
                        resume: first > 0,
                        rows,
                        cols: block.cols,
                    });
                }
            }
            self.unpack_tile(&mut landing, [c, rows], &places, (nr, d_weights));
            landing.landed(c + rows, c + rows == behind);
        }
    }

    /// Pairs of input pixels and output rows of some images, both counted from the first image on, for each element of
    /// the kernel, and where those of each image end.
    fn pairs_of_images(&self, images: std::ops::Range<usize>, met: &mut [(Vec<[u32; 2]>, Vec<usize>)]) {
        let (outputs, base) = (self.window.outputs(), (images.start * self.window.inputs()) as u32);
        for (tap, (pairs, ends)) in met.iter_mut().enumerate() {
            pairs.clear();
            ends.clear();
            for image in images.clone() {
                self.pairs(image * outputs..(image + 1) * outputs, images.start * outputs, tap, pairs);
                ends.push(pairs.len());
            }
            pairs.iter_mut().for_each(|[pixel, _]| *pixel -= base);
        }
    }
}
