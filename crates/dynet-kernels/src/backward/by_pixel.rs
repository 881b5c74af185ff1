//! Small maps, whose windows lie outside of the image for a good part: the rows of all images of one pixel meet the same
//! elements of the kernel, so that those outside are not multiplied.
//!
//! Of a window of 3 x 3 over a map of 2 x 2 pixels that leaves 16 products of 36, of one over 4 x 4 pixels 100 of 144.

use crate::backward::dense::{Block, Dense, product, sink};
use crate::backward::team::{Raw, Team};
use crate::backward::window::{Class, Window};
use crate::generic::operands::{Sink, Source};
use crate::geometry::ZERO;
use crate::isa::Isa;

/// Bytes of a panel that are packed at once: they stay in a second-level cache while all pixels pass by.
const PACKED_BYTES: usize = 1 << 17;

/// Fewest panels: each is a part of the job.
const PANELS: usize = 4;

/// Most of the products that may be left: going by pixel costs more tiles, and all images' rows for each panel.
const MOST_LEFT: f64 = 0.75;

/// What each pixel of an image reads, the same in every image.
#[derive(Clone, Copy)]
struct Reads<'a> {
    /// `[images][pixels][taps]`.
    table: &'a [u32],
    pixels: usize,
    taps: usize,
}

impl Reads<'_> {
    fn inside(&self, pixel: usize, tap: usize) -> bool {
        self.table[pixel * self.taps + tap] != ZERO
    }

    /// Elements of the kernel that lie inside the image, summed over the pixels.
    fn met(&self) -> usize {
        self.table[..self.pixels * self.taps].iter().filter(|t| **t != ZERO).count()
    }

    /// Runs of elements inside, from and to; of a pixel that has none the first element, which reads zeros.
    fn runs(&self, pixel: usize) -> Vec<[usize; 2]> {
        let mut runs: Vec<[usize; 2]> = Vec::new();
        for tap in (0..self.taps).filter(|tap| self.inside(pixel, *tap)) {
            match runs.last_mut() {
                Some([_, end]) if *end == tap => *end += 1,
                _ => runs.push([tap, tap + 1]),
            }
        }
        if runs.is_empty() { vec![[0, 1]] } else { runs }
    }
}

impl Window {
    fn reads(&self) -> Reads<'_> {
        Reads { table: &self.table, pixels: self.outputs(), taps: self.taps() }
    }

    /// Whether going by pixel leaves few enough of the products of `reads`.
    fn pays<'a>(&self, isa: Isa, channels: usize, reads: impl Iterator<Item = Reads<'a>>) -> bool {
        if self.table.is_empty() || channels.div_ceil(isa.nr()) < PANELS {
            return false;
        }
        let (met, all) = reads.fold((0, 0), |(met, all), r| (met + r.met(), all + r.pixels * r.taps));
        // A tile that is not filled takes as long as one that is.
        let images = self.images.max(isa.mr()) as f64 / self.images as f64;
        met as f64 * images <= MOST_LEFT * all as f64
    }
}

impl Class {
    fn reads(&self) -> Reads<'_> {
        Reads { table: &self.table, pixels: self.pixels.len(), taps: self.taps.len() }
    }
}

/// The rows of all images of one pixel, as they meet channels of a panel.
struct Rows<'a> {
    images: usize,
    /// The first image's first of these channels, and the values from one pixel to the next.
    base: *const f32,
    ld: usize,
    reads: Reads<'a>,
    pixel: usize,
}

impl Rows<'_> {
    /// Multiplies with `panel [tap][len][nr]`.
    fn multiply(&self, isa: Isa, len: usize, panel: &[f32], mut sink: Sink) {
        let Self { images, base, ld, reads, pixel } = *self;
        let table = reads.table[pixel * reads.taps..].as_ptr();
        let source = Source { base, ld, table, taps: reads.pixels * reads.taps, len };
        for run in reads.runs(pixel) {
            let k = run.map(|tap| tap * len);
            isa.run(product(images, source, k, panel[k[0] * isa.nr()..].as_ptr(), sink));
            sink.resume = true;
        }
    }
}

/// Channels of which a panel is packed at once.
fn piece(channels: usize, taps: usize, nr: usize) -> usize {
    let pieces = (4 * channels * taps * nr).div_ceil(PACKED_BYTES);
    channels.div_ceil(pieces)
}

impl Dense<'_> {
    /// Whether [`Self::forward_by_pixel`] is the way forward.
    pub(super) fn goes_by_pixel(&self, isa: Isa) -> bool {
        self.window.pays(isa, self.c_out, [self.window.reads()].into_iter())
    }

    /// Whether [`Self::backward_by_pixel`] is the way back.
    pub(super) fn returns_by_pixel(&self, isa: Isa) -> bool {
        self.window.pays(isa, self.c_in, self.window.classes.iter().map(Class::reads))
    }

    /// [`Self::forward`]: each panel is packed piece by piece, just before all pixels meet it.
    pub(super) fn forward_by_pixel(&self, team: &mut Team, x: &[f32], bias: Option<&[f32]>, out: &mut [f32]) {
        let (isa, n, images, reads) = (team.isa, self.c_out, self.window.images, self.window.reads());
        let nr = isa.nr();
        let step = piece(self.c_in, reads.taps, nr);
        let out = Raw::of(out);
        team.run(n.div_ceil(nr), step * reads.taps * nr, |p, packed| {
            let block = Block::new(p, nr, n);
            for from in (0..self.c_in).step_by(step) {
                let len = step.min(self.c_in - from);
                self.pack(isa, block, [from, len], packed);
                for pixel in 0..reads.pixels {
                    let (at, ld) = (out.at(pixel * n + block.c0), reads.pixels * n);
                    let sink = sink(at, ld, block, bias.map(|b| &b[block.c0..]), from > 0);
                    let rows = Rows { images, base: x[from..].as_ptr(), ld: self.c_in, reads, pixel };
                    rows.multiply(isa, len, packed, sink);
                }
            }
        });
    }

    /// [`Self::backward_input`], as [`Self::forward_by_pixel`]; sums go to their places at once.
    pub(super) fn backward_by_pixel(&self, team: &mut Team, dy: &[f32], dx: &mut [f32], adds: bool) {
        let (isa, n, w) = (team.isa, self.c_in, self.window);
        let (nr, taps, images) = (isa.nr(), w.taps(), w.images);
        let step = piece(self.c_out, taps, nr);
        let dx = Raw::of(dx);
        team.run(n.div_ceil(nr), step * taps * nr, |p, packed| {
            let block = Block::new(p, nr, n);
            for from in (0..self.c_out).step_by(step) {
                let len = step.min(self.c_out - from);
                self.pack_transposed(isa, block, [from, len], packed);
                let mut panel = &packed[..];
                for class in &w.classes {
                    let reads = class.reads();
                    for (pixel, place) in class.pixels.iter().enumerate() {
                        let at = |image| dx.at((image * w.inputs() + *place as usize) * n + block.c0);
                        if reads.taps == 0 {
                            if !adds && from == 0 {
                                // SAFETY: this part alone has the columns of the block.
                                (0..images).for_each(|i| unsafe { at(i).write_bytes(0, block.cols) });
                            }
                            continue;
                        }
                        let sink = sink(at(0), w.inputs() * n, block, None, adds || from > 0);
                        let rows = Rows { images, base: dy[from..].as_ptr(), ld: self.c_out, reads, pixel };
                        rows.multiply(isa, len, panel, sink);
                    }
                    panel = &panel[reads.taps * len * nr..];
                }
            }
        });
    }
}
