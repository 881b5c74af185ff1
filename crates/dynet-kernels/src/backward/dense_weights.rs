//! Gradients of the weights and coefficients of a dense convolution of a batch.
//!
//! A panel of output channels is a part of the job: its columns of the output's gradient are copied into rows without
//! gaps, then every tile of (input channels) x (panel) runs over the pixels. A dynamic layer's tile runs over all
//! images while its experts and their gradients are in the first cache.

use std::ops::Range;

use crate::backward::dense::{Block, Dense, FEW_ROWS, places};
use crate::backward::few_weights::FEW_PIXELS;
use crate::backward::team::{Raw, Team};
use crate::backward::transpose::{Far, Transpose};
use crate::backward::weight_tile::{DynamicTile, Operands, Pair, StaticTile, dynamic_rows};
use crate::geometry::ZERO;
use crate::isa::Isa;

/// Pixels that are multiplied at once: 512 rows of a panel are 64 KiB.
const CHUNK: usize = 512;

/// The same where tiles go through whole images: 4096 rows of a panel are half of a cache of 1 MiB.
const CHUNK_OF_IMAGES: usize = 4096;

/// Fewest parts of a layer that is large enough: two for each of two threads.
const PARTS: usize = 4;

/// Input channels in tiles of nearly equal height.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pub(super) count: usize,
    channels: usize,
}

impl Tiles {
    pub(super) fn new(channels: usize, most: usize) -> Self {
        Self { count: channels.div_ceil(most), channels }
    }

    /// First channel and number of channels of a tile.
    pub(super) fn at(self, tile: usize) -> [usize; 2] {
        let start = |i: usize| i * self.channels / self.count;
        [start(tile), start(tile + 1) - start(tile)]
    }
}

/// Copies columns of rows of `ld` values into rows of `nr`.
pub(super) fn copy_columns(
    from: &[f32],
    ld: usize,
    rows: Range<usize>,
    block: Block,
    nr: usize,
    out: &mut [f32],
) {
    let rows = rows.zip(out.chunks_exact_mut(nr)).map(|(row, out)| (&from[row * ld + block.c0..], out));
    match block.cols {
        16 if nr == 16 => rows.for_each(|(row, out)| out[..16].copy_from_slice(&row[..16])),
        32 if nr == 32 => rows.for_each(|(row, out)| out[..32].copy_from_slice(&row[..32])),
        cols => rows.for_each(|(row, out)| {
            out[..cols].copy_from_slice(&row[..cols]);
            out[cols..].fill(0.0);
        }),
    }
}

/// Where a run of rows writes its sums: the first one into the result, others behind one another.
fn of_run([first, others]: [Raw; 2], run: usize, len: usize) -> Raw {
    if run == 0 { first } else { others.offset((run - 1) * len) }
}

/// Adds parts of the size of the sum, in order.
fn add_parts(sum: &mut [f32], parts: &[f32]) {
    for part in parts.chunks_exact(sum.len()) {
        sum.iter_mut().zip(part).for_each(|(sum, x)| *sum += x);
    }
}

impl Dense<'_> {
    /// Rows of the largest tile.
    pub(super) fn mr(isa: Isa) -> usize {
        match isa {
            Isa::Avx512(_) => 14,
            Isa::Avx2Fma(_) => 6,
            Isa::Portable => 4,
        }
    }

    /// Copies columns of rows `rows` of the output's gradient into rows of `nr`.
    fn copy_panel(&self, dy: &[f32], rows: Range<usize>, block: Block, nr: usize, out: &mut [f32]) {
        copy_columns(dy, self.c_out, rows, block, nr, out);
    }

    /// The pairs of `rows` with one element of the kernel; rows of the gradient count from `first` on.
    pub(super) fn pairs(&self, rows: Range<usize>, first: usize, tap: usize, pairs: &mut Vec<Pair>) {
        let (table, taps) = (&self.window.table, self.window.taps());
        for row in rows {
            let pixel = if table.is_empty() { row as u32 } else { table[row * taps + tap] };
            if pixel != ZERO {
                pairs.push([pixel, (row - first) as u32]);
            }
        }
    }

    /// Parts along the input channels: enough parts for the threads where there are few panels.
    pub(super) fn splits(panels: usize, tiles: usize) -> usize {
        PARTS.div_ceil(panels).min(tiles)
    }

    /// Runs of rows, whose sums are added up in order, where there are too few parts even so: `rows` in pieces of at
    /// least `least`.
    fn runs(parts: usize, rows: usize, least: usize) -> usize {
        PARTS.div_ceil(parts).min(rows / least).max(1)
    }

    /// The gradient of the weights of a static layer.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights(&self, team: &mut Team, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        self.check(x.len(), dy.len());
        assert_eq!((self.experts, dw.len()), (1, self.weights.len()), "gradient of the weights");
        let (isa, k, taps, n) = (team.isa, self.k(), self.window.taps(), self.c_out);
        let (nr, rows) = (isa.nr(), self.window.images * self.window.outputs());
        if self.window.table.is_empty() && rows <= FEW_ROWS {
            return self.few_rows_weights(team, x, dy, dw);
        }
        let tiles = Tiles::new(self.c_in, Self::mr(isa));
        let panels = n.div_ceil(nr);
        let splits = Self::splits(panels, tiles.count);
        let runs = Self::runs(panels * splits, rows, CHUNK);
        let mut partial = team.take_shared((runs - 1) * dw.len());
        let outs = [&mut *dw, &mut partial].map(Raw::of);
        team.run(panels * splits * runs, CHUNK * nr + k * nr, |part, scratch| {
            let (part, run) = (part / runs, part % runs);
            let (block, split) = (Block::new(part / splits, nr, n), part % splits);
            let (first_row, end) = (run * rows / runs, (run + 1) * rows / runs);
            let dw = of_run(outs, run, self.weights.len());
            let tiles =
                (split * tiles.count / splits..(split + 1) * tiles.count / splits).map(|i| tiles.at(i));
            let (panel, sums) = scratch.split_at_mut(CHUNK * nr);
            let sums = &mut sums[..k * nr];
            sums.fill(0.0);
            let mut pairs = vec![Vec::with_capacity(CHUNK); taps];
            for first in (first_row..end).step_by(CHUNK) {
                let rows = first..end.min(first + CHUNK);
                self.copy_panel(dy, rows.clone(), block, nr, panel);
                for (tap, pairs) in pairs.iter_mut().enumerate() {
                    pairs.clear();
                    self.pairs(rows.clone(), first, tap, pairs);
                }
                for [c, rows] in tiles.clone() {
                    for (tap, pairs) in pairs.iter().enumerate() {
                        let (x_ld, cols) = (self.c_in, block.cols);
                        let operands =
                            Operands { x: x[c..].as_ptr(), x_ld, dy: panel.as_ptr(), pairs, cols, rows };
                        let sums = sums[(c * taps + tap) * nr..].as_mut_ptr();
                        isa.run(StaticTile { operands, sums, step: taps * nr, fresh: false });
                    }
                }
            }
            for [c, rows] in tiles {
                let (from, cols) = (&sums[c * taps * nr..], rows * taps);
                self.unpack(isa, from, cols, dw, block.c0 * k + c * taps, block.cols);
            }
        });
        add_parts(dw, &partial[..(runs - 1) * dw.len()]);
        team.put_back(partial);
    }

    /// Writes rows `[cols][nr]` to `dw[start + lane * k + col]`.
    fn unpack(&self, isa: Isa, from: &[f32], cols: usize, dw: Raw, start: usize, lanes: usize) {
        let (nr, k) = (isa.nr(), self.k());
        isa.run(Transpose {
            src: from.as_ptr(),
            from: |q| q * nr,
            rows: cols,
            cols: lanes,
            dst: dw.at(start),
            to: |lane| lane * k,
            far: Far::Destination,
        });
    }

    /// The gradients of weights and coefficients of a layer whose kernels are fused for each image; `d_coefs` is
    /// overwritten.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights_fused(
        &self,
        team: &mut Team,
        coefs: &[f32],
        [x, dy]: [&[f32]; 2],
        [dw, d_coefs]: [&mut [f32]; 2],
    ) {
        self.check(x.len(), dy.len());
        assert_eq!(dw.len(), self.weights.len(), "gradient of the weights");
        let (isa, n, experts, images) = (team.isa, self.c_out, self.experts, self.window.images);
        let of_images = images * experts * n;
        assert_eq!((coefs.len(), d_coefs.len()), (of_images, of_images), "coefficients of a batch");
        if self.window.outputs() <= FEW_PIXELS {
            return self.few_pixels_weights(team, coefs, [x, dy], [dw, d_coefs]);
        }
        let (nr, rows, taps) = (isa.nr(), self.window.outputs(), self.window.taps());
        let most = dynamic_rows(Self::mr(isa));
        let tiles = Tiles::new(self.c_in, most);
        let panels = n.div_ceil(nr);
        let splits = Self::splits(panels, tiles.count);
        let runs = Self::runs(panels * splits, images * rows, CHUNK.max(rows));
        // The gradient of the coefficients of each split, then that of the weights of each run of images, to be added up
        // in order.
        let (of_splits, of_runs) = (splits * of_images, (runs - 1) * dw.len());
        let mut partial = team.take_shared(of_splits + of_runs);
        partial[..of_splits].fill(0.0);
        let (shared, partial_weights) = partial.split_at_mut(of_splits);
        let (outs, shared) = ([&mut *dw, partial_weights].map(Raw::of), Raw::of(shared));
        // Images whose panel fills half of a cache of 1 MiB, at least one.
        let group = (CHUNK_OF_IMAGES / rows).clamp(1, images.div_ceil(runs));
        let alone = group * runs >= images;
        let places = if alone { most.min(self.c_in) } else { self.c_in } * taps * experts * nr;
        team.run(panels * splits * runs, group * rows * nr + 2 * places, |part, scratch| {
            let (part, run) = (part / runs, part % runs);
            let (block, split) = (Block::new(part / splits, nr, n), part % splits);
            let (first_image, last) = (run * images / runs, (run + 1) * images / runs);
            let dw = of_run(outs, run, self.weights.len());
            let tiles =
                (split * tiles.count / splits..(split + 1) * tiles.count / splits).map(|i| tiles.at(i));
            let (panel, scratch) = scratch.split_at_mut(group * rows * nr);
            let (weights, d_weights) = scratch.split_at_mut(places);
            let mut pairs = vec![(Vec::with_capacity(group * rows), Vec::with_capacity(group)); taps];
            for first in (first_image..last).step_by(group) {
                let end = last.min(first + group);
                self.copy_panel(dy, first * rows..end * rows, block, nr, panel);
                for (tap, (pairs, ends)) in pairs.iter_mut().enumerate() {
                    pairs.clear();
                    ends.clear();
                    for image in first..end {
                        self.pairs(image * rows..(image + 1) * rows, first * rows, tap, pairs);
                        ends.push(pairs.len());
                    }
                }
                for [c, rows] in tiles.clone() {
                    let start = if alone { 0 } else { c * taps * experts * nr };
                    let len = rows * taps * experts * nr;
                    let (weights, d_weights) = (&mut weights[start..][..len], &mut d_weights[start..][..len]);
                    if first == first_image {
                        self.pack_tile(isa, block, [c, rows], &self.tile_places(rows), weights);
                        d_weights.fill(0.0);
                    }
                    for (tap, (pairs, ends)) in pairs.iter().enumerate() {
                        let (x_ld, cols) = (self.c_in, block.cols);
                        let operands =
                            Operands { x: x[c..].as_ptr(), x_ld, dy: panel.as_ptr(), pairs, cols, rows };
                        let at = tap * experts * rows * nr;
                        let of_group = first * experts * n + block.c0;
                        isa.run(DynamicTile {
                            operands,
                            ends,
                            experts,
                            coefs: coefs[of_group..].as_ptr(),
                            d_coefs: shared.at(split * of_images + of_group),
                            coef_step: n,
                            weights: weights[at..].as_ptr(),
                            d_weights: d_weights[at..].as_mut_ptr(),
                        });
                    }
                    if end == last {
                        self.unpack_tile(isa, block, [c, rows], &self.tile_places(rows), (d_weights, dw));
                    }
                }
            }
        });
        Self::add_splits(&partial[..of_splits], d_coefs);
        add_parts(dw, &partial[of_splits..][..of_runs]);
        team.put_back(partial);
    }

    /// Adds up what the parts along the input channels gave, in order.
    pub(super) fn add_splits(parts: &[f32], d_coefs: &mut [f32]) {
        let (first, others) = parts.split_at(d_coefs.len());
        d_coefs.copy_from_slice(first);
        add_parts(d_coefs, others);
    }

    /// Where weights `[rows][taps]` of a tile go among rows `[tap][experts][rows]`.
    pub(super) fn tile_places(&self, rows: usize) -> Vec<usize> {
        places([rows, self.window.taps()], self.experts * rows)
    }

    /// The experts' weights of a tile, `[tap][experts][rows][nr]`; `places` are [`Self::tile_places`].
    pub(super) fn pack_tile(
        &self,
        isa: Isa,
        block: Block,
        [c, rows]: [usize; 2],
        places: &[usize],
        out: &mut [f32],
    ) {
        let (k, taps, nr) = (self.k(), self.window.taps(), isa.nr());
        if block.cols < nr {
            out.fill(0.0);
        }
        for e in 0..self.experts {
            isa.run(Transpose {
                src: self.weights[(e * self.c_out + block.c0) * k + c * taps..].as_ptr(),
                from: |lane| lane * k,
                rows: block.cols,
                cols: rows * taps,
                dst: out[e * rows * nr..].as_mut_ptr(),
                to: |q| places[q] * nr,
                far: Far::Source,
            });
        }
    }

    /// Ends [`Self::pack_tile`] for gradients.
    pub(super) fn unpack_tile(
        &self,
        isa: Isa,
        block: Block,
        [c, rows]: [usize; 2],
        places: &[usize],
        (tile, dw): (&[f32], Raw),
    ) {
        let (k, taps, nr) = (self.k(), self.window.taps(), isa.nr());
        for e in 0..self.experts {
            isa.run(Transpose {
                src: tile[e * rows * nr..].as_ptr(),
                from: |q| places[q] * nr,
                rows: rows * taps,
                cols: block.cols,
                dst: dw.at((e * self.c_out + block.c0) * k + c * taps),
                to: |lane| lane * k,
                far: Far::Destination,
            });
        }
    }
}
