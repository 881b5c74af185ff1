//! Gradients of the weights and coefficients of a dense dynamic layer whose kernels are fused for each image.
//!
//! A part of the job is a panel of output channels. It goes through tiles of a few input channels: their experts and the
//! gradients of these stay in the first cache while all images pass by. The input is laid out for that first, tile by tile.

use std::ops::Range;

use crate::backward::dense::{Block, Dense};
use crate::backward::dense_weights::{CHUNK, Tiles, copy_columns};
use crate::backward::few_weights::few_pixels;
use crate::backward::goal::{Goal, Landing, Sums};
use crate::backward::team::{Raw, Team};
use crate::backward::weight_tile::{DynamicTile, Operands, Pair, dynamic_rows};
use crate::isa::Isa;

/// Pixels that tiles go through at once: 4096 rows of a panel are half of a second-level cache.
const CHUNK_OF_IMAGES: usize = 4096;

/// Pixels that are laid out by one part of the job.
const TURNED_PIXELS: usize = 64;

/// Fewest channels whose weights are packed together: a cache line of each row of weights.
const PACKED_CHANNELS: usize = 16;

/// What a part of the job works on.
struct Part<'a> {
    block: Block,
    /// Tiles of input channels, those of the part among all, and how many are packed together.
    tiles: Tiles,
    range: Range<usize>,
    bundle: usize,
    images: Range<usize>,
    /// Images that are gone through at once.
    group: usize,
    /// `[tile][images][pixels][channels of the tile]`.
    x: &'a [f32],
    dy: &'a [f32],
    weights: *const f32,
}

/// Scratch memory of a part: coefficients and the sums of their gradient `[images][experts][nr]`, the packed gradient of
/// the output, and tiles of experts and of their gradients.
struct Scratch<'a> {
    coefs: &'a [f32],
    d_coefs: &'a mut [f32],
    panel: &'a mut [f32],
    weights: &'a mut [f32],
    d_weights: &'a mut [f32],
}

impl Dense<'_> {
    /// The gradients of weights and of coefficients of a layer whose kernels are fused for each image; `d_coefs` is
    /// overwritten.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights_fused(
        &self,
        team: &mut Team,
        coefs: &[f32],
        [x, dy]: [&[f32]; 2],
        goal: Goal<'_>,
        d_coefs: &mut [f32],
    ) {
        self.check_maps(x.len(), dy.len());
        self.check_goal(&goal);
        let (isa, n, experts, images) = (team.isa, self.c_out, self.experts, self.window.images);
        let of_images = images * experts * n;
        assert_eq!((coefs.len(), d_coefs.len()), (of_images, of_images), "coefficients of a batch");
        if self.window.outputs() <= few_pixels(isa, experts) {
            return self.few_pixels_weights(team, coefs, [x, dy], goal, d_coefs);
        }
        let (nr, rows, taps) = (isa.nr(), self.window.outputs(), self.window.taps());
        let most = dynamic_rows(Self::mr(isa));
        let tiles = Tiles::new(self.c_in, most);
        let panels = n.div_ceil(nr);
        let splits = Self::splits(panels, tiles.count);
        let runs = Self::runs(panels * splits, images * rows, CHUNK.max(rows));
        // The gradient of the coefficients of each split, that of the weights of each run of images behind the first, to
        // be added up in order, and the input in tiles.
        let (of_splits, of_runs) = (splits * of_images, goal.sums(runs));
        let mut shared = team.take_shared(of_splits + of_runs + x.len());
        let (of_coefs, rest) = shared.split_at_mut(of_splits);
        let (of_weights, rest) = rest.split_at_mut(of_runs);
        let turned = &mut rest[..x.len()];
        self.turn_input(team, tiles, x, turned);
        let (gradient, sums) = (Sums::new(goal, runs, of_weights), Raw::of(of_coefs));
        let group = (CHUNK_OF_IMAGES / rows).clamp(1, images.div_ceil(runs));
        let bundle = PACKED_CHANNELS.div_ceil(most);
        let places = if group * runs >= images { (bundle * most).min(self.c_in) } else { self.c_in };
        let of_coefs = images.div_ceil(runs) * experts * nr;
        let lens = [of_coefs, of_coefs, group * rows * nr, places * taps * experts * nr];
        let scratch = lens.iter().sum::<usize>() + lens[3] + Landing::scratch(self, isa, bundle * most);
        let turned = &*turned;
        team.run(panels * splits * runs, scratch, |part, scratch| {
            let (part, run) = (part / runs, part % runs);
            let (block, split) = (Block::new(part / splits, nr, n), part % splits);
            let images = run * images / runs..(run + 1) * images / runs;
            let range = split * tiles.count / splits..(split + 1) * tiles.count / splits;
            let (own, rest) = scratch.split_at_mut(lens[0]);
            let (sum, rest) = rest.split_at_mut(lens[1]);
            let (panel, rest) = rest.split_at_mut(lens[2]);
            let (weights, rest) = rest.split_at_mut(lens[3]);
            let (d_weights, landing) = rest.split_at_mut(lens[3]);
            let (sum, at) = (&mut sum[..images.len() * experts * nr], images.start * experts);
            copy_columns(coefs, n, at..images.end * experts, block, nr, own);
            sum.fill(0.0);
            let landing = gradient.landing(self, isa, block, run, (landing, tiles.end(range.start)));
            let weights_of_layer = self.weights_of(gradient.update.as_ref());
            let part =
                Part { block, tiles, range, bundle, images, group, x: turned, dy, weights: weights_of_layer };
            let scratch = Scratch { coefs: own, d_coefs: sum, panel, weights, d_weights };
            self.fused_weights_part(isa, &part, scratch, landing);
            for (i, sum) in sum.chunks_exact(nr).enumerate() {
                // SAFETY: this part alone has the columns of the block of these images of its split.
                let out = unsafe { sums.slice(split * of_images + (at + i) * n + block.c0, block.cols) };
                out.copy_from_slice(&sum[..block.cols]);
            }
        });
        gradient.finish(team);
        Self::add_splits(&shared[..of_splits], d_coefs);
        team.put_back(shared);
    }

    fn fused_weights_part(&self, isa: Isa, part: &Part<'_>, scratch: Scratch<'_>, mut landing: Landing<'_>) {
        let (nr, experts, outputs, taps) =
            (isa.nr(), self.experts, self.window.outputs(), self.window.taps());
        let Part { block, tiles, range, bundle, images, group, x, dy, weights: of_layer } = part;
        let Scratch { coefs, d_coefs, panel, weights, d_weights } = scratch;
        let alone = *group >= images.len();
        let (mut pairs, mut ends) = (Vec::with_capacity(group * outputs * taps), Vec::new());
        let (mut places, mut of) = (Vec::new(), Vec::new());
        for first in images.clone().step_by(*group) {
            let end = images.end.min(first + group);
            copy_columns(dy, self.c_out, first * outputs..end * outputs, *block, nr, panel);
            self.pairs_of(first..end, &mut pairs, &mut ends);
            for tile in range.clone().step_by(*bundle) {
                let bundle = (tile..range.end.min(tile + bundle)).map(|i| tiles.at(i));
                if !bundle.clone().map(|[_, rows]| rows).eq(of.iter().copied()) {
                    places = self.tile_places(bundle.clone());
                    of = bundle.clone().map(|[_, rows]| rows).collect();
                }
                let [c0, _] = tiles.at(tile);
                let all = [c0, places.len() / taps];
                let start = if alone { 0 } else { c0 * taps * experts * nr };
                let len = places.len() * experts * nr;
                let (weights, d_weights) = (&mut weights[start..][..len], &mut d_weights[start..][..len]);
                if first == images.start {
                    self.pack_tile((isa, *of_layer), *block, all, &places, weights);
                    d_weights.fill(0.0);
                }
                for [c, rows] in bundle {
                    let at = (first - images.start) * experts * nr;
                    let of_tile = (c - c0) * taps * experts * nr;
                    let x = &x[c * self.window.images * self.window.inputs()..];
                    isa.run(DynamicTile {
                        operands: Operands {
                            x: x.as_ptr(),
                            x_ld: rows,
                            dy: panel.as_ptr(),
                            pairs: &pairs,
                            cols: block.cols,
                            rows,
                        },
                        taps,
                        ends: &ends,
                        experts,
                        coefs: coefs[at..].as_ptr(),
                        d_coefs: d_coefs[at..].as_mut_ptr(),
                        weights: weights[of_tile..].as_ptr(),
                        d_weights: d_weights[of_tile..].as_mut_ptr(),
                    });
                }
                if end == images.end {
                    self.unpack_tile(&mut landing, all, &places, (nr, d_weights));
                    let end = all[0] + all[1];
                    landing.landed(end, end == tiles.end(range.end));
                }
            }
        }
    }

    /// The pairs of each image and each element of the kernel, and where these end.
    fn pairs_of(&self, images: Range<usize>, pairs: &mut Vec<Pair>, ends: &mut Vec<usize>) {
        let outputs = self.window.outputs();
        pairs.clear();
        ends.clear();
        for image in images.clone() {
            for tap in 0..self.window.taps() {
                self.pairs(image * outputs..(image + 1) * outputs, images.start * outputs, tap, pairs);
                ends.push(pairs.len());
            }
        }
    }

    /// Lays the input out `[tile][images][pixels][channels of the tile]`: a tile reads a few channels of each pixel, whose
    /// cache lines would leave the first cache before the next tile reads its own.
    fn turn_input(&self, team: &mut Team, tiles: Tiles, x: &[f32], turned: &mut [f32]) {
        let (c_in, pixels) = (self.c_in, self.window.images * self.window.inputs());
        let turned = Raw::of(turned);
        team.run(pixels.div_ceil(TURNED_PIXELS), 0, |part, _| {
            let start = part * TURNED_PIXELS;
            let end = pixels.min(start + TURNED_PIXELS);
            for [c, rows] in (0..tiles.count).map(|i| tiles.at(i)) {
                // SAFETY: this part alone has these pixels.
                let out = unsafe { turned.slice(c * pixels + start * rows, (end - start) * rows) };
                let x = x[start * c_in..end * c_in].chunks_exact(c_in);
                match rows {
                    4 => x
                        .zip(out.as_chunks_mut::<4>().0)
                        .for_each(|(x, out)| out.copy_from_slice(&x[c..c + 4])),
                    _ => x
                        .zip(out.chunks_exact_mut(rows))
                        .for_each(|(x, out)| out.copy_from_slice(&x[c..c + rows])),
                }
            }
        });
    }
}
