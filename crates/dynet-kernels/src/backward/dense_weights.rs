//! Gradients of the weights and coefficients of a dense convolution of a batch.
//!
//! A panel of output channels is a part of the job: its columns of the output's gradient are copied into rows without
//! gaps, then every tile of (input channels) x (panel) runs over the pixels. A dynamic layer's tile runs over all
//! images while its experts and their gradients are in the first cache.

use std::ops::Range;

use crate::backward::dense::{self, Block, Dense, FEW_ROWS};
use crate::backward::goal::{Goal, Landing, Sums, add_parts};
use crate::backward::team::Team;
use crate::backward::transpose::{AHEAD, Far, Transpose};
use crate::backward::weight_tile::{Operands, Pair, StaticTile};
use crate::geometry::ZERO;
use crate::isa::Isa;

/// Pixels that are multiplied at once: 512 rows of a panel are 64 KiB.
pub(super) const CHUNK: usize = 512;

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
        [self.end(tile), self.end(tile + 1) - self.end(tile)]
    }

    /// The channel behind those of the tiles before `tile`.
    pub(super) fn end(self, tile: usize) -> usize {
        tile * self.channels / self.count
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
    pub(super) fn runs(parts: usize, rows: usize, least: usize) -> usize {
        PARTS.div_ceil(parts).min(rows / least).max(1)
    }

    /// The gradient of the weights of a static layer.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights(&self, team: &mut Team, [x, dy]: [&[f32]; 2], goal: Goal<'_>) {
        self.check_maps(x.len(), dy.len());
        assert_eq!(self.experts, 1, "a static layer");
        self.check_goal(&goal);
        let (isa, k, taps, n) = (team.isa, self.k(), self.window.taps(), self.c_out);
        let (nr, rows) = (isa.nr(), self.window.images * self.window.outputs());
        if self.window.table.is_empty() && rows <= FEW_ROWS {
            return self.few_rows_weights(team, [x, dy], goal);
        }
        let tiles = Tiles::new(self.c_in, Self::mr(isa));
        let panels = n.div_ceil(nr);
        let splits = Self::splits(panels, tiles.count);
        let runs = Self::runs(panels * splits, rows, CHUNK);
        let mut shared = team.take_shared(goal.sums(runs));
        let sums = Sums::new(goal, runs, &mut shared);
        let landing = Landing::scratch(self, isa, Self::mr(isa));
        team.run(panels * splits * runs, CHUNK * nr + k * nr + landing, |part, scratch| {
            let (part, run) = (part / runs, part % runs);
            let (block, split) = (Block::new(part / splits, nr, n), part % splits);
            let (first_row, end) = (run * rows / runs, (run + 1) * rows / runs);
            let range = split * tiles.count / splits..(split + 1) * tiles.count / splits;
            let (panel, scratch) = scratch.split_at_mut(CHUNK * nr);
            let (own, landing) = scratch.split_at_mut(k * nr);
            own.fill(0.0);
            let mut pairs = vec![Vec::with_capacity(CHUNK); taps];
            for first in (first_row..end).step_by(CHUNK) {
                let rows = first..end.min(first + CHUNK);
                self.copy_panel(dy, rows.clone(), block, nr, panel);
                for (tap, pairs) in pairs.iter_mut().enumerate() {
                    pairs.clear();
                    self.pairs(rows.clone(), first, tap, pairs);
                }
                for [c, rows] in range.clone().map(|i| tiles.at(i)) {
                    for (tap, pairs) in pairs.iter().enumerate() {
                        let (x_ld, cols) = (self.c_in, block.cols);
                        let operands =
                            Operands { x: x[c..].as_ptr(), x_ld, dy: panel.as_ptr(), pairs, cols, rows };
                        let sums = own[(c * taps + tap) * nr..].as_mut_ptr();
                        isa.run(StaticTile { operands, sums, step: taps * nr, fresh: false });
                    }
                }
            }
            let mut landing = sums.landing(self, isa, block, run, (landing, tiles.end(range.start)));
            for [c, rows] in range.clone().map(|i| tiles.at(i)) {
                landing.take(0, [c, rows], &own[c * taps * nr..], |q| q * nr);
                landing.landed(c + rows, c + rows == tiles.end(range.end));
            }
        });
        sums.finish(team);
        team.put_back(shared);
    }

    /// Adds up what the parts along the input channels gave, in order.
    pub(super) fn add_splits(parts: &[f32], d_coefs: &mut [f32]) {
        let (first, others) = parts.split_at(d_coefs.len());
        d_coefs.copy_from_slice(first);
        add_parts(d_coefs, others);
    }

    /// Where weights `[channels][taps]` of tiles that follow one another go among rows `[tap][experts][channels]` of each:
    /// the row of the first expert, and rows from one expert to the next.
    pub(super) fn tile_places(&self, tiles: impl Iterator<Item = [usize; 2]>) -> Vec<[usize; 2]> {
        let (taps, experts) = (self.window.taps(), self.experts);
        let (mut places, mut start) = (Vec::new(), 0);
        for [_, rows] in tiles {
            let own = dense::places([rows, taps], experts * rows);
            places.extend(own.iter().map(|p| [start + p, rows]));
            start += rows * taps * experts;
        }
        places
    }

    /// The experts' `weights` of tiles of `rows` channels from `c` on, at their `places` ([`Self::tile_places`]).
    pub(super) fn pack_tile(
        &self,
        (isa, weights): (Isa, *const f32),
        block: Block,
        [c, rows]: [usize; 2],
        places: &[[usize; 2]],
        out: &mut [f32],
    ) {
        let (k, taps, nr) = (self.k(), self.window.taps(), isa.nr());
        if block.cols < nr {
            out.fill(0.0);
        }
        for e in 0..self.experts {
            isa.run(Transpose {
                src: weights.wrapping_add((e * self.c_out + block.c0) * k + c * taps),
                from: |lane| lane * k,
                rows: block.cols,
                cols: rows * taps,
                dst: out.as_mut_ptr(),
                to: |q: usize| (places[q][0] + e * places[q][1]) * nr,
                far: Far::Source(AHEAD),
            });
        }
    }

    /// Ends [`Self::pack_tile`] for gradients.
    pub(super) fn unpack_tile(
        &self,
        landing: &mut Landing<'_>,
        channels: [usize; 2],
        places: &[[usize; 2]],
        (nr, tile): (usize, &[f32]),
    ) {
        for e in 0..self.experts {
            landing.take(e, channels, tile, |q| (places[q][0] + e * places[q][1]) * nr);
        }
    }
}
