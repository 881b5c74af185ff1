//! The dense convolution of a batch and the gradient of its input.
//!
//! Static layers see the batch as one image: rows of several images share a tile. Dynamic ones: `dense_fused`.

use std::ops::Range;

use crate::activation::Activation;
use crate::backward::dots::LONG_ROW;
use crate::backward::team::{Raw, Team};
use crate::backward::transpose::{AHEAD, Far, Transpose};
use crate::backward::window::{Class, Window};
use crate::generic::gemm::{Ahead, PanelProduct};
use crate::generic::operands::{Sink, Source};
use crate::isa::Isa;
use crate::sums::SumRows;

/// Bytes of input that a part of a static layer goes through with one panel after the other: a quarter of a cache of
/// 1 MiB.
const CHUNK_BYTES: usize = 1 << 18;

/// Rows of a static layer up to which each panel is packed by the part that multiplies it: fully connected layers, whose
/// weights would else go to memory and back.
pub(super) const FEW_ROWS: usize = 112;

/// Output channels whose weights are asked for ahead of those that are turned: each lies in a page of its own.
const ROWS_AHEAD: usize = 3;

/// A dense convolution of a batch; a fully connected layer is one whose images have one pixel.
///
/// # Shapes
/// Input `[images][pixels][c_in]`, weights `[experts][c_out][c_in][kh * kw]`, output `[images][output pixels][c_out]`,
/// coefficients `[images][experts][c_out]`.
#[derive(Clone, Copy, Debug)]
pub struct Dense<'a> {
    /// Which pixels are read.
    pub window: &'a Window,
    /// Input channels.
    pub c_in: usize,
    /// Output channels.
    pub c_out: usize,
    /// Fixed kernels of each output channel; static layers have one.
    pub experts: usize,
    /// The weights; none where an [`Update`](super::Update) has them.
    pub weights: &'a [f32],
}

/// A panel of `nr` channels from `c0` on, `cols` of which exist.
#[derive(Clone, Copy)]
pub(super) struct Block {
    pub(super) c0: usize,
    pub(super) cols: usize,
}

impl Block {
    pub(super) fn new(index: usize, nr: usize, channels: usize) -> Self {
        let c0 = index * nr;
        Self { c0, cols: nr.min(channels - c0) }
    }
}

impl Dense<'_> {
    /// Rows of a panel.
    pub(super) fn k(&self) -> usize {
        self.c_in * self.window.taps()
    }

    pub(super) fn check(&self, x: usize, y: usize) {
        let Self { window: w, c_in, c_out, experts, weights } = self;
        assert_eq!(weights.len(), experts * c_out * c_in * w.taps(), "weights of {c_in} -> {c_out} channels");
        self.check_maps(x, y);
    }

    pub(super) fn check_maps(&self, x: usize, y: usize) {
        let Self { window: w, c_in, c_out, .. } = self;
        assert_eq!(x, w.images * w.inputs() * c_in, "input of {c_in} channels");
        assert_eq!(y, w.images * w.outputs() * c_out, "output of {c_out} channels");
    }

    /// Packs input channels `from..from + len` of a panel of output channels, `[tap][len][experts][nr]`.
    pub(super) fn pack(&self, isa: Isa, block: Block, [from, len]: [usize; 2], packed: &mut [f32]) {
        let (k, taps, experts, nr) = (self.k(), self.window.taps(), self.experts, isa.nr());
        assert!(packed.len() >= len * taps * experts * nr, "a panel of {} rows", len * taps);
        if block.cols < nr {
            packed[..len * taps * experts * nr].fill(0.0);
        }
        let places = places([len, taps], len);
        for e in 0..experts {
            isa.run(Transpose {
                src: self.weights[(e * self.c_out + block.c0) * k + from * taps..].as_ptr(),
                from: |r| r * k,
                rows: block.cols,
                cols: len * taps,
                dst: packed[e * nr..].as_mut_ptr(),
                to: |q| places[q] * experts * nr,
                far: Far::Source(AHEAD),
            });
        }
    }

    /// Packs output channels `from..from + len` of a panel of input channels, `[tap in the order of the
    /// classes][len][experts][nr]`.
    pub(super) fn pack_transposed(
        &self,
        isa: Isa,
        block: Block,
        [from, len]: [usize; 2],
        packed: &mut [f32],
    ) {
        let (k, taps, experts, nr) = (self.k(), self.window.taps(), self.experts, isa.nr());
        assert!(packed.len() >= taps * len * experts * nr, "a panel of {} rows", taps * len);
        if taps == 1 {
            let all = packed.len();
            return self.copy_panels(isa, block, [from, len], (packed, all));
        }
        if block.cols < nr {
            packed[..taps * len * experts * nr].fill(0.0);
        }
        let mut places = vec![0; taps];
        for (place, tap) in self.window.classes.iter().flat_map(|c| &c.taps).enumerate() {
            places[*tap] = place;
        }
        for e in 0..experts {
            for co in 0..len {
                let row = e * self.c_out + from + co;
                let src = &self.weights[row * k + block.c0 * taps..][..block.cols * taps];
                let dst = &mut packed[(co * experts + e) * nr..];
                isa.run(Transpose {
                    src: src.as_ptr(),
                    from: |r| r * taps,
                    rows: block.cols,
                    cols: taps,
                    dst: dst.as_mut_ptr(),
                    to: |t| places[t] * len * experts * nr,
                    far: Far::Source(ROWS_AHEAD * k),
                });
            }
        }
    }

    /// Rows `row0..` of the batch's input as the left operand.
    pub(super) fn source(&self, x: &[f32], row0: usize) -> Source {
        let (w, ld) = (self.window, self.c_in);
        if w.table.is_empty() {
            let base = x[row0 * ld..].as_ptr();
            return Source { base, ld, table: std::ptr::null(), taps: 1, len: ld };
        }
        let table = w.table[row0 * w.taps()..].as_ptr();
        Source { base: x.as_ptr(), ld, table, taps: w.taps(), len: ld }
    }

    /// `out = x (*) w + bias`, all images with the same kernel; several experts' weights may be given as those of
    /// `experts * c_out` output channels.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn forward(&self, team: &mut Team, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        self.check(x.len(), out.len());
        assert_eq!(self.experts, 1, "a static layer has one kernel");
        let (isa, k, n) = (team.isa, self.k(), self.c_out);
        let (nr, rows) = (isa.nr(), self.window.images * self.window.outputs());
        let panels = n.div_ceil(nr);
        if self.goes_by_pixel(isa) {
            return self.forward_by_pixel(team, x, bias, out);
        }
        if self.window.table.is_empty() && rows <= FEW_ROWS && k >= LONG_ROW {
            return self.forward_few_rows(team, x, bias, out);
        }
        if rows <= FEW_ROWS && panels >= 4 {
            let out = Raw::of(out);
            team.run(panels, k * nr, |p, packed| {
                let block = Block::new(p, nr, n);
                self.pack(isa, block, [0, self.c_in], packed);
                let sink = sink(out.at(block.c0), n, block, bias.map(|b| &b[block.c0..]), false);
                isa.run(product(rows, self.source(x, 0), [0, k], packed.as_ptr(), sink));
            });
            return;
        }
        let mut packed = team.take_shared(panels * k * nr);
        team.chunks(&mut packed[..panels * k * nr], k * nr, |p, packed| {
            self.pack(isa, Block::new(p, nr, n), [0, self.c_in], packed);
        });
        let chunk = chunk_rows(rows, self.c_in);
        let out = Raw::of(out);
        team.run(rows.div_ceil(chunk) * panels, 0, |part, _| {
            let (row0, block) = (part / panels * chunk, Block::new(part % panels, nr, n));
            let sink = sink(out.at(row0 * n + block.c0), n, block, bias.map(|b| &b[block.c0..]), false);
            let panel = packed[part % panels * k * nr..].as_ptr();
            let rows = chunk.min(rows - row0);
            isa.run(product(rows, self.source(x, row0), [0, k], panel, sink));
        });
        team.put_back(packed);
    }

    /// The gradient of the input from that of the output; added to `dx` where `adds`.
    ///
    /// # Panics
    /// If the sizes do not fit each other.
    pub fn backward_input(&self, team: &mut Team, dy: &[f32], dx: &mut [f32], adds: bool) {
        self.check(dx.len(), dy.len());
        assert_eq!(self.experts, 1, "a static layer has one kernel");
        let (isa, n, images) = (team.isa, self.c_in, self.window.images);
        let (nr, k) = (isa.nr(), self.c_out * self.window.taps());
        let panels = n.div_ceil(nr);
        if self.window.table.is_empty() && images * self.window.inputs() <= FEW_ROWS {
            return self.few_rows_input(team, dy, dx, adds);
        }
        if self.returns_by_pixel(isa) {
            return self.backward_by_pixel(team, dy, dx, adds);
        }
        let mut packed = team.take_shared(panels * k * nr);
        team.chunks(&mut packed[..panels * k * nr], k * nr, |p, packed| {
            self.pack_transposed(isa, Block::new(p, nr, n), [0, self.c_out], packed);
        });
        let dx = Raw::of(dx);
        let mut tap0 = 0;
        for class in &self.window.classes {
            let rows = images * class.pixels.len();
            let chunk = chunk_rows(rows, self.c_out);
            team.run(rows.div_ceil(chunk) * panels, chunk * nr, |part, scratch| {
                let block = Block::new(part % panels, nr, n);
                let row0 = part / panels * chunk;
                let panel = &packed[(part % panels * self.window.taps() + tap0) * self.c_out * nr..];
                let rows = row0..rows.min(row0 + chunk);
                let whole = |k: [usize; 2]| (k[1], panel.as_ptr());
                self.class_rows(isa, class, dy, whole, rows, block, (dx, adds), scratch);
            });
            tap0 += class.taps.len();
        }
        team.put_back(packed);
    }

    /// Rows `row0..` of the gradient of the output as a class of input pixels meets them.
    pub(super) fn class_source(&self, class: &Class, dy: &[f32], row0: usize) -> Source {
        let (ld, taps) = (self.c_out, class.taps.len());
        if self.window.table.is_empty() {
            return Source { base: dy[row0 * ld..].as_ptr(), ld, table: std::ptr::null(), taps: 1, len: ld };
        }
        Source { base: dy.as_ptr(), ld, table: class.table[row0 * taps..].as_ptr(), taps, len: ld }
    }

    /// Input pixels `rows` of a class, counted through the batch, for one panel. `panel([from, end])` gives its rows
    /// from `from` to the row that it returns.
    #[expect(clippy::too_many_arguments, reason = "the two callers share everything")]
    pub(super) fn class_rows(
        &self,
        isa: Isa,
        class: &Class,
        dy: &[f32],
        mut panel: impl FnMut([usize; 2]) -> (usize, *const f32),
        rows: Range<usize>,
        block: Block,
        (dx, adds): (Raw, bool),
        scratch: &mut [f32],
    ) {
        let (n, ld, taps, nr) = (self.c_in, self.c_out, class.taps.len(), isa.nr());
        let source = self.class_source(class, dy, rows.start);
        let k = taps * ld;
        let mut multiply = |out: *mut f32, out_ld: usize, adds: bool| {
            let mut k0 = 0;
            while k0 < k {
                let (k1, panel) = panel([k0, k]);
                let sink = sink(out, out_ld, block, None, adds || k0 > 0);
                isa.run(product(rows.len(), source, [k0, k1], panel, sink));
                k0 = k1;
            }
        };
        if self.window.classes.len() == 1 && class.pixels.len() == self.window.inputs() {
            return multiply(dx.at(rows.start * n + block.c0), n, adds);
        }
        let at = |row: usize| {
            let (image, pixel) = (row / class.pixels.len(), class.pixels[row % class.pixels.len()]);
            // SAFETY: this part alone has the columns of the block of these pixels.
            unsafe { dx.slice((image * self.window.inputs() + pixel as usize) * n + block.c0, block.cols) }
        };
        if taps == 0 {
            if !adds {
                rows.for_each(|row| at(row).fill(0.0));
            }
            return;
        }
        assert!(scratch.len() >= rows.len() * nr, "scratch of {} rows", rows.len());
        multiply(scratch.as_mut_ptr(), nr, false);
        for (row, values) in rows.zip(scratch.chunks_exact(nr)) {
            let dx = at(row);
            if adds {
                dx.iter_mut().zip(values).for_each(|(x, y)| *x += y);
            } else {
                dx.copy_from_slice(&values[..block.cols]);
            }
        }
    }
}

/// Where weights `[channels][taps]` go among rows `[tap][channel]`, `step` rows from tap to tap.
pub(super) fn places([channels, taps]: [usize; 2], step: usize) -> Vec<usize> {
    (0..channels).flat_map(|c| (0..taps).map(move |t| t * step + c)).collect()
}

/// Where a panel's results go; `adds` to what is there.
pub(super) fn sink(out: *mut f32, ld: usize, block: Block, bias: Option<&[f32]>, adds: bool) -> Sink {
    Sink {
        out,
        ld,
        cols: block.cols,
        bias: bias.map_or(std::ptr::null(), <[f32]>::as_ptr),
        residual: std::ptr::null(),
        residual_ld: 0,
        act: Activation::None,
        sums: SumRows::NONE,
        resume: adds,
    }
}

pub(super) fn product(
    rows: usize,
    source: Source,
    k: [usize; 2],
    panel: *const f32,
    sink: Sink,
) -> PanelProduct {
    // The panel stands for memory to be read ahead: an address that does not exist is looked up in the page tables each time.
    PanelProduct { rows, source, k, panel, sink, ahead: Ahead::new([panel.cast(); 2]) }
}

/// Rows of a part of a static layer whose rows are gathered from pixels of `channels` values.
fn chunk_rows(rows: usize, channels: usize) -> usize {
    // At least 8 tiles of 14 rows for each panel that is read; at least two parts.
    (CHUNK_BYTES / 4 / channels).clamp(112, 1792).min(rows.div_ceil(2)).max(1)
}
