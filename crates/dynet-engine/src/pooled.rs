//! A convolution and the max pooling behind it as one step.
//!
//! The map between them is the largest of a net, and would have left the nearer caches before it is pooled. A tile of the pooling
//! computes some rows of it at a time into its thread's scratch, pools what they complete, and keeps the rows that its next
//! windows read again. Each value is the same sum in the same order, so that logits keep their bits; rows that two tiles read are
//! computed twice.

use std::ops::Range;

use dynet_kernels::{Geometry, Pixels, Sums, Tile, pixelwise};

use crate::blocks::{self, Blocks};
use crate::expand::{both, part_ld, reader};
use crate::layout::Lifetime;
use crate::plan::conv_scratch_len;
use crate::step::{ConvStep, Kind, Reading, Step, View};
use crate::tile::Inputs;

/// Values of the rows of a map that are computed at a time, 256 KiB: they are pooled from a second-level cache.
const PART_VALUES: usize = 64 << 10;
/// Most values of a tile's part of the map, 1 MiB.
const MOST_VALUES: usize = 256 << 10;

/// The pooling of a convolution's output.
#[derive(Clone, Debug)]
pub(crate) struct Pooling {
    /// Its window over the output of the convolution.
    pub(crate) geometry: Geometry,
    /// Pixels of a tile of what it makes: whole rows.
    pub(crate) pixel_block: usize,
    /// Rows of the convolution's output that are computed at a time, from a multiple of `align` on.
    rows: usize,
    align: usize,
}

impl Pooling {
    /// `None` where few rows of the map, `ld` values a pixel, are too many values. The convolution computes multiples of `align` rows.
    fn new(geometry: Geometry, ld: usize, align: usize, blocks: Blocks) -> Option<Self> {
        let [height, width] = geometry.output();
        let row = geometry.input[1] * ld;
        let rows =
            (PART_VALUES / row / align * align).clamp(align, geometry.input[0].next_multiple_of(align));
        let pixel_block = blocks.pooled_rows(height) * width;
        let pooling = Self { geometry, pixel_block, rows, align };
        (pixel_block > 0 && pooling.map_rows() * row <= MOST_VALUES).then_some(pooling)
    }

    /// Rows of the map that are in memory at once: those that are computed, and those above that a window covers with them.
    fn map_rows(&self) -> usize {
        self.rows + self.geometry.kernel[0] - 1
    }

    /// Pixels of the convolution's output.
    pub(crate) fn pixels(&self) -> usize {
        self.geometry.input[0] * self.geometry.input[1]
    }

    /// Values of scratch for its part of the map, of `channels` channels.
    pub(crate) fn scratch_len(&self, channels: usize) -> usize {
        (self.map_rows() * self.geometry.input[1] * part_ld(channels)).next_multiple_of(16)
    }

    /// Rows of the map that the windows of some rows of the pooled map cover.
    fn covered(&self, rows: Range<usize>) -> Range<usize> {
        self.geometry.rows_read(rows)
    }
}

/// Joins the steps of such layers, except where somebody else reads the map between them: `kept` are read at the end.
pub(crate) fn join(steps: &mut Vec<Step>, buffers: &mut [Lifetime], kept: &[View], blocks: Blocks) {
    let mut at = 0;
    while at < steps.len() {
        match reader(steps, at, kept).and_then(|by| Some((by, pooling(steps, at, by, blocks)?))) {
            Some((by, pooling)) => {
                let step = steps.remove(at);
                put(step, pooling, by - 1, (steps, buffers));
            }
            None => at += 1,
        }
    }
}

/// How step `by` pools the output of step `at`, if it is such a layer.
fn pooling(steps: &[Step], at: usize, by: usize, blocks: Blocks) -> Option<Pooling> {
    let (Kind::Conv(conv), Kind::MaxPool { x, geometry }) = (&steps[at].kind, &steps[by].kind) else {
        return None;
    };
    let align = match &conv.reading {
        Reading::Winograd(_, side) => side.outputs(),
        Reading::Planes(_) | Reading::Pointwise | Reading::Table(_) => 1,
        Reading::Window(_) => return None,
    };
    // Each tile would fuse all kernels again.
    let fused = conv.head.is_some() || conv.input_scale.is_some();
    let apart = fused || conv.residual.is_some() || steps[at].sums.is_some();
    if *x != steps[at].output || apart {
        return None;
    }
    Pooling::new(*geometry, part_ld(x.channels), align, blocks)
}

/// Hands a convolution to the pooling at `by`.
fn put(conv: Step, pooling: Pooling, by: usize, (steps, buffers): (&mut [Step], &mut [Lifetime])) {
    let (pixels, channels) = (pooling.rows * pooling.geometry.input[1], conv.output.channels);
    buffers[conv.output.buffer].len = 0;
    let step = &mut steps[by];
    step.name = both(&conv.name, &step.name);
    if let Kind::Conv(of) = conv.kind {
        let of = ConvStep { pixel_block: pixels, channel_block: channels, pool: Some(pooling), ..*of };
        step.kind = Kind::Conv(Box::new(of));
    }
    sum_rows(steps, by, buffers);
}

/// Lets step `at` add up what it pools over rows, of which its tiles have some.
fn sum_rows(steps: &mut [Step], at: usize, buffers: &mut [Lifetime]) {
    let Step { kind: Kind::Conv(conv), output, sums: Some(sums), .. } = &mut steps[at] else { return };
    let Some(pool) = &conv.pool else { return };
    sums.every = blocks::SUM_ROWS * pool.geometry.output()[1];
    sums.view.pixels = output.pixels.div_ceil(sums.every);
    let view = sums.view;
    buffers[view.buffer].len = view.ld * view.pixels;
    for step in steps {
        if let Kind::Combine { sums: of, .. } = &mut step.kind
            && of.buffer == view.buffer
        {
            *of = view;
        }
    }
}

/// One tile of the pooled map, which has all channels.
pub(crate) fn pooled(
    inputs: &Inputs<'_>,
    pooling: &Pooling,
    image: usize,
    tile: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
    scratch: &mut [f32],
) {
    let (g, isa, channels) = (&pooling.geometry, inputs.isa, tile.channels());
    let ([height, width], pooled_width) = (g.input, g.output()[1]);
    let (ld, rows) =
        (part_ld(channels), tile.pixel0() / pooled_width..(tile.pixel0() + tile.pixels()) / pooled_width);
    let (scratch, map) = scratch.split_at_mut(conv_scratch_len(inputs.step));
    let all = pooling.covered(rows.clone());
    let start = all.start / pooling.align * pooling.align;
    let last = all.end.next_multiple_of(pooling.align).min(height);
    // Rows of the map that are in memory.
    let mut held = start..start;
    let mut next = rows.start;
    while next < rows.end {
        let end = (held.end + pooling.rows).min(last);
        let part = &mut map[held.len() * width * ld..];
        let mut part = Tile::part(part, held.end * width..end * width, 0..channels, ld);
        inputs.convolve(image, &mut part, None, scratch);
        held.end = end;
        let is_ready = |row: &usize| end == last || pooling.covered(*row..*row + 1).end <= end;
        let ready = (next..rows.end).take_while(is_ready).count();
        let mut out = tile.rows((next - rows.start) * pooled_width, ready * pooled_width);
        pixelwise::max_pool(isa, Pixels::new(map, ld), held.start, g, &mut out);
        next += ready;
        let keep = pooling.covered(next..next + 1).start.clamp(held.start, held.end);
        map.copy_within((keep - held.start) * width * ld..held.len() * width * ld, 0);
        held.start = keep;
    }
    if let Some(mut sums) = sums {
        pixelwise::tile_sums(isa, tile, &mut sums);
    }
}
