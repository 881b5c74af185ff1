//! Backward of few rows that meet one element of the kernel: fully connected layers, whose weights and their gradients
//! travel once between memory and registers.

use crate::backward::dense::{Block, Dense, product, sink};
use crate::backward::dense_weights::{Tiles, copy_columns};
use crate::backward::goal::Goal;
use crate::backward::pieces::FUSE_ROWS;
use crate::backward::team::{Raw, Team};
use crate::backward::weight_tile::{Operands, Pair, StaticTile};
use crate::isa::Isa;
use crate::vector::{Job, Vector};

/// Parts along the output channels.
const PARTS: usize = 8;

/// Rows of weights that are asked for ahead of those that are copied: each lies in a page of its own.
const AHEAD_ROWS: usize = 16;

/// Values that are read from one row of weights before the next: eight cache lines, which memory gives at some three
/// times the pace of single ones.
const FAR_VALUES: usize = 128;

/// Fewest sets of panels that are packed together: each is a part of the job.
const FEWEST_SETS: usize = 4;

/// Copies rows that lie far apart in memory into panels of two registers.
struct CopyRows {
    src: *const f32,
    src_step: usize,
    rows: usize,
    /// Of all panels.
    cols: usize,
    dst: *mut f32,
    /// From one row of a panel to the next, and from one panel to the next.
    dst_step: usize,
    panel: usize,
}

impl Job for CopyRows {
    type Out = ();

    #[inline(always)]
    fn run<V: Vector>(self, v: V) {
        let Self { mut src, src_step, rows, cols, mut dst, dst_step, panel } = self;
        let nr = 2 * V::LANES;
        // As many lines are on their way for any number of panels.
        let ahead = AHEAD_ROWS.div_ceil(cols.div_ceil(nr)) * src_step;
        for _ in 0..rows {
            for col in (0..cols).step_by(V::LANES) {
                v.prefetch(src.wrapping_add(ahead + col).cast());
                // SAFETY: whoever makes this job answers for `cols` values of all rows on both sides.
                unsafe {
                    let to = dst.add(col / nr * panel + col % nr);
                    if cols - col >= V::LANES {
                        v.store(to, v.load(src.add(col)));
                    } else {
                        v.store_some(to, v.load_some(src.add(col), cols - col), cols - col);
                    }
                }
            }
            (src, dst) = (src.wrapping_add(src_step), dst.wrapping_add(dst_step));
        }
    }
}

impl Dense<'_> {
    /// Panels of input channels that are packed together: those that a row of weights has side by side.
    pub(super) fn panels_side_by_side(&self, isa: Isa) -> usize {
        let panels = self.c_in.div_ceil(isa.nr());
        if self.window.taps() == 1 { (FAR_VALUES / isa.nr()).min(panels / FEWEST_SETS).max(1) } else { 1 }
    }

    /// Packs panels of input channels, each into `len` values of `packed`.
    pub(super) fn pack_side_by_side(
        &self,
        isa: Isa,
        mut blocks: impl Iterator<Item = Block> + Clone,
        rows: [usize; 2],
        (packed, len): (&mut [f32], usize),
    ) {
        if self.window.taps() == 1 {
            let cols = blocks.clone().map(|block| block.cols).sum();
            let Some(first) = blocks.next() else { return };
            return self.copy_panels(isa, Block { cols, ..first }, rows, (packed, len));
        }
        for (block, packed) in blocks.zip(packed.chunks_exact_mut(len)) {
            self.pack_transposed(isa, block, rows, packed);
        }
    }

    /// [`Dense::backward_input`]: weights are packed in pieces that stay in cache, just before use.
    pub(super) fn few_rows_input(&self, team: &mut Team, dy: &[f32], dx: &mut [f32], adds: bool) {
        let (isa, n, rows) = (team.isa, self.c_in, self.window.images * self.window.inputs());
        let nr = isa.nr();
        let (panels, side) = (n.div_ceil(nr), self.panels_side_by_side(isa));
        let dx = Raw::of(dx);
        team.run(panels.div_ceil(side), side * FUSE_ROWS * nr, |set, packed| {
            let blocks = (set * side..panels.min((set + 1) * side)).map(|p| Block::new(p, nr, n));
            for k0 in (0..self.c_out).step_by(FUSE_ROWS) {
                let len = FUSE_ROWS.min(self.c_out - k0);
                self.pack_side_by_side(isa, blocks.clone(), [k0, len], (packed, FUSE_ROWS * nr));
                for (block, packed) in blocks.clone().zip(packed.chunks_exact(FUSE_ROWS * nr)) {
                    let sink = sink(dx.at(block.c0), n, block, None, adds || k0 > 0);
                    let (source, panel) =
                        (self.class_source(&self.window.classes[0], dy, 0), packed.as_ptr());
                    isa.run(product(rows, source, [k0, k0 + len], panel, sink));
                }
            }
        });
    }

    /// [`Dense::backward_weights`]: with the input channels as lanes the sums lie as the weights do.
    pub(super) fn few_rows_weights(&self, team: &mut Team, [x, dy]: [&[f32]; 2], goal: Goal<'_>) {
        let (isa, n, rows) = (team.isa, self.c_in, self.window.images * self.window.outputs());
        let nr = isa.nr();
        let tiles = Tiles::new(self.c_out, Self::mr(isa));
        let parts = tiles.count.min(PARTS);
        let pairs: Vec<Pair> = (0..rows as u32).map(|row| [row; 2]).collect();
        let panels = n.div_ceil(nr);
        let (dw, update) = match goal {
            Goal::Gradient(dw) => (Raw::of(dw), None),
            Goal::Update(update) => (Raw::of(&mut []), Some(update)),
        };
        let of_tile = if update.is_some() { Self::mr(isa) * n } else { 0 };
        team.run(parts, panels * rows * nr + of_tile, |part, scratch| {
            let (panel, of_tile) = scratch.split_at_mut(panels * rows * nr);
            let of_tile = Raw::of(of_tile);
            for (p, panel) in panel.chunks_exact_mut(rows * nr).enumerate() {
                copy_columns(x, n, 0..rows, Block::new(p, nr, n), nr, panel);
            }
            for [c, count] in
                (part * tiles.count / parts..(part + 1) * tiles.count / parts).map(|i| tiles.at(i))
            {
                // This part alone has the output channels of its tiles.
                let to = if update.is_some() { of_tile } else { dw.offset(c * n) };
                for (p, panel) in panel.chunks_exact(rows * nr).enumerate() {
                    let block = Block::new(p, nr, n);
                    let operands = Operands {
                        x: dy[c..].as_ptr(),
                        x_ld: self.c_out,
                        dy: panel.as_ptr(),
                        pairs: &pairs,
                        cols: block.cols,
                        rows: count,
                    };
                    isa.run(StaticTile { operands, sums: to.at(block.c0), step: n, fresh: true });
                }
                if let Some(update) = &update {
                    // SAFETY: as above.
                    unsafe { update.apply(isa, c * n, to.at(0), count * n) };
                }
            }
        });
    }

    /// Copies output channels `from..from + rows` of the input channels of a block, of all experts, into panels
    /// `[rows][experts][nr]` of `len` values.
    pub(super) fn copy_panels(
        &self,
        isa: Isa,
        block: Block,
        [from, rows]: [usize; 2],
        (packed, len): (&mut [f32], usize),
    ) {
        let (nr, experts, n) = (isa.nr(), self.experts, self.c_in);
        let (whole, rest) = (block.cols / nr, block.cols % nr);
        let end = (block.cols.div_ceil(nr) - 1) * len + rows * experts * nr;
        assert!(packed.len() >= end, "panels of {rows} rows");
        if rest > 0 {
            packed[whole * len..][..rows * experts * nr].fill(0.0);
        }
        for e in 0..experts {
            isa.run(CopyRows {
                src: self.weights[(e * self.c_out + from) * n + block.c0..].as_ptr(),
                src_step: n,
                rows,
                cols: block.cols,
                dst: packed[e * nr..].as_mut_ptr(),
                dst_step: experts * nr,
                panel: len,
            });
        }
    }
}
