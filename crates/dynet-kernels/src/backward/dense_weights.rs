//! Gradients of the weights and coefficients of a dense convolution of a batch.
//!
//! A panel of output channels is a part of the job: its columns of the output's gradient are copied into rows without
//! gaps, then every tile of (input channels) x (panel) runs over the pixels. A dynamic layer's tile runs over all
//! images while its experts and their gradients are in the first cache.

use std::ops::Range;

use crate::backward::dense::{self, Block, Dense, FEW_ROWS};
use crate::backward::team::{Raw, Team};
use crate::backward::transpose::{AHEAD, Far, Transpose};
use crate::backward::update::Update;
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
        let start = |i: usize| i * self.channels / self.count;
        [start(tile), start(tile + 1) - start(tile)]
    }

    /// The channels of tiles that follow one another.
    pub(super) fn channels(self, tiles: Range<usize>) -> Range<usize> {
        let start = |i: usize| i * self.channels / self.count;
        start(tiles.start)..start(tiles.end)
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
pub(super) fn of_run([first, others]: [Raw; 2], run: usize, len: usize) -> Raw {
    if run == 0 { first } else { others.offset((run - 1) * len) }
}

/// Adds parts of the size of the sum, in order.
pub(super) fn add_parts(sum: &mut [f32], parts: &[f32]) {
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
    pub(super) fn runs(parts: usize, rows: usize, least: usize) -> usize {
        PARTS.div_ceil(parts).min(rows / least).max(1)
    }

    /// The gradient of the weights of a static layer, or with an `update` their new values.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_weights(
        &self,
        team: &mut Team,
        [x, dy]: [&[f32]; 2],
        dw: &mut [f32],
        update: Option<Update<'_>>,
    ) {
        let update = update.as_ref();
        self.check(x.len(), dy.len());
        assert_eq!(self.experts, 1, "a static layer");
        self.check_gradient(dw, update);
        let (isa, k, taps, n) = (team.isa, self.k(), self.window.taps(), self.c_out);
        let (nr, rows) = (isa.nr(), self.window.images * self.window.outputs());
        if self.window.table.is_empty() && rows <= FEW_ROWS {
            return self.few_rows_weights(team, [x, dy], dw, update);
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
            let range = split * tiles.count / splits..(split + 1) * tiles.count / splits;
            let of_split = tiles.channels(range.clone());
            let tiles = range.map(|i| tiles.at(i));
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
            if let (Some(update), 1) = (update, runs) {
                self.update_block(isa, update, block, of_split, dw);
            }
        });
        add_parts(dw, &partial[..(runs - 1) * dw.len()]);
        if let (Some(update), 2..) = (update, runs) {
            update.finish(team, self.weights, dw);
        }
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

    /// Turns the gradient of the weights of a part, which has all of it, into their new values.
    pub(super) fn update_block(
        &self,
        isa: Isa,
        update: &Update<'_>,
        block: Block,
        channels: Range<usize>,
        dw: Raw,
    ) {
        let (k, taps) = (self.k(), self.window.taps());
        for row in (0..self.experts).flat_map(|e| (0..block.cols).map(move |c| e * self.c_out + block.c0 + c))
        {
            let (start, len) = (row * k + channels.start * taps, channels.len() * taps);
            // SAFETY: of these rows the part alone has these channels.
            unsafe { update.rows(isa, self.weights, dw, start, len) };
        }
    }

    /// # Panics
    /// If the gradient of the weights or their update has another size than they.
    pub(super) fn check_gradient(&self, dw: &[f32], update: Option<&Update<'_>>) {
        let len = self.weights.len();
        assert_eq!(
            [dw.len(), update.map_or(len, Update::len)],
            [len; 2],
            "gradient of the weights, and update"
        );
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

    /// The experts' weights of tiles of `rows` channels from `c` on, at their `places` ([`Self::tile_places`]).
    pub(super) fn pack_tile(
        &self,
        isa: Isa,
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
                src: self.weights[(e * self.c_out + block.c0) * k + c * taps..].as_ptr(),
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
        isa: Isa,
        block: Block,
        [c, rows]: [usize; 2],
        places: &[[usize; 2]],
        (tile, dw): (&[f32], Raw),
    ) {
        let (k, taps, nr) = (self.k(), self.window.taps(), isa.nr());
        for e in 0..self.experts {
            isa.run(Transpose {
                src: tile.as_ptr(),
                from: |q: usize| (places[q][0] + e * places[q][1]) * nr,
                rows: rows * taps,
                cols: block.cols,
                dst: dw.at((e * self.c_out + block.c0) * k + c * taps),
                to: |lane| lane * k,
                far: Far::Destination,
            });
        }
    }
}
