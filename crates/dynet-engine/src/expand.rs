//! A 1x1 convolution and the depthwise one behind it as one step.
//!
//! The map between them is several times as large as those around it, and would go to memory or the last-level cache and
//! come back. A tile of the depthwise layer computes what it reads, one panel of channels of a few rows, into its thread's
//! scratch. Each value is the same sum in the same order, so that logits keep their bits; rows that two tiles read
//! are computed twice.
//!
//! A predictor that reads the mean of the map needs it before the depthwise layer begins. Where the map is large and its values are
//! short sums, a step computes it for its sums alone, and the tiles compute it once more.

use dynet_kernels::{Conv, GroupedConv, Pixels, Sums, Tile, grouped};

use crate::blocks::{self, Blocks};
use crate::layout::Lifetime;
use crate::plan::{Precision, conv_scratch_len};
use crate::step::{ConvStep, Head, Kind, Reading, Step, View};
use crate::tile::Inputs;

/// Bytes of a map that has left a second-level cache before it is read. With 1.5 MB mobilenet_v2, K = 4, took 5 % longer with two threads.
const FAR_BYTES: usize = 2 << 20;
/// Most terms of a value of such a map for which computing it twice takes less time than storing it and reading it again.
const CHEAP_TERMS: usize = 24;

/// Joins the steps of such layers, except where somebody else reads the map between them: `kept` are read at the end.
pub(crate) fn join(steps: &mut Vec<Step>, buffers: &mut [Lifetime], kept: &[View], blocks: Blocks) {
    let mut at = 0;
    while at < steps.len() {
        match reader(steps, at, kept).and_then(|by| Some((by, rows(steps, at, by, blocks)?))) {
            Some((by, rows)) => {
                coefficients_apart(steps, at);
                coefficients_apart(steps, by);
                let (expand, by) = match sums_alone(steps, at) {
                    Some(expand) => (expand, by),
                    None => (steps.remove(at), by - 1),
                };
                put(expand, rows, by, (steps, buffers), blocks);
            }
            None => at += 1,
        }
    }
}

/// The step that alone reads the map of a step.
pub(crate) fn reader(steps: &[Step], at: usize, kept: &[View]) -> Option<usize> {
    let buffer = steps[at].output.buffer;
    let touches = |step: &Step| step.reads().iter().chain([&step.output]).any(|view| view.buffer == buffer);
    let mut others = (0..steps.len()).filter(|&i| i != at && touches(&steps[i]));
    match (others.next(), others.next()) {
        (Some(by), None) if by > at && kept.iter().all(|view| view.buffer != buffer) => Some(by),
        _ => None,
    }
}

/// Rows of a tile of step `by` if it can compute its input, the output of step `at`, by itself.
fn rows(steps: &[Step], at: usize, by: usize, blocks: Blocks) -> Option<usize> {
    let (Kind::Conv(expand), Kind::Conv(window)) = (&steps[at].kind, &steps[by].kind) else { return None };
    let Reading::Window(geometry) = &window.reading else { return None };
    let product = matches!(expand.reading, Reading::Pointwise)
        && expand.groups == 1
        && expand.input_scale.is_none()
        && expand.residual.is_none()
        && (steps[at].sums.is_none() || is_cheaper_twice(expand, steps[at].output));
    // Nor may the map be added to the output: it is never in memory.
    let added = window.residual.is_some_and(|residual| residual.buffer == steps[at].output.buffer);
    let depthwise = window.x == steps[at].output
        && !added
        && window.groups == window.x.channels
        && window.weights.n() == window.groups
        && window.weights.k() == geometry.taps();
    if !(product && depthwise) {
        return None;
    }
    let unit = if steps[by].sums.is_some() { blocks::SUM_ROWS } else { 1 };
    blocks.window_rows(geometry, expand.weights.k(), window.weights.count(), unit)
}

/// Whether computing a map twice takes less time than storing it and reading it again.
fn is_cheaper_twice(expand: &ConvStep, map: View) -> bool {
    map.pixels * map.ld * size_of::<f32>() >= FAR_BYTES && expand.weights.k() <= CHEAP_TERMS
}

/// If somebody reads sums of the map of step `at`: leaves it to make these alone, and returns a step that makes the map.
fn sums_alone(steps: &mut [Step], at: usize) -> Option<Step> {
    let step = &mut steps[at];
    let (Kind::Conv(conv), Some(sums)) = (&mut step.kind, step.sums) else { return None };
    let expand = Step { name: step.name.clone(), kind: Kind::Conv(conv.clone()), sums: None, ..*step };
    let nr = conv.weights.nr();
    let channel_block = match conv.precision {
        Precision::F32 => blocks::summed_channels(conv.weights.n(), nr, sums.view.pixels),
        Precision::Bf16 => conv.weights.count() * nr,
    };
    let pixels = std::mem::replace(&mut step.output, sums.view).pixels;
    step.sums = None;
    (conv.pixel_block, conv.channel_block, conv.summed) = (sums.every, channel_block, Some(pixels));
    Some(expand)
}

/// Leaves a convolution's coefficients to the step that makes them: they must be there before the first joined tile starts.
fn coefficients_apart(steps: &mut [Step], at: usize) {
    let Kind::Conv(conv) = &mut steps[at].kind else { return };
    let Some(Head::Inline(_, coefs)) = conv.head else { return };
    conv.head = Some(Head::Blocked(coefs));
    for step in steps {
        if let Kind::Gate { inline, .. } = &mut step.kind
            && step.output == coefs
        {
            *inline = false;
        }
    }
}

/// Hands a step to the one at `by`, whose tiles get `rows` rows.
fn put(
    expand: Step,
    rows: usize,
    by: usize,
    (steps, buffers): (&mut [Step], &mut [Lifetime]),
    blocks: Blocks,
) {
    buffers[expand.output.buffer].len = 0;
    let step = &mut steps[by];
    step.name = both(&expand.name, &step.name);
    let (Kind::Conv(window), Kind::Conv(expand)) = (&mut step.kind, expand.kind) else { return };
    if let Reading::Window(geometry) = &window.reading {
        window.pixel_block = rows * geometry.output()[1];
    }
    let count = step.output.pixels.div_ceil(window.pixel_block);
    let nr = window.weights.nr();
    window.channel_block = match expand.precision {
        Precision::F32 => nr,
        Precision::Bf16 => {
            nr * blocks.bf16_part_panels(part_pixels(window), window.weights.count(), nr, count)
        }
    };
    window.panel_major |= expand.panel_major;
    window.expand = Some(expand);
}

/// Two names as one: `features.2.conv.{0.0,1.0}`.
pub(crate) fn both(a: &str, b: &str) -> String {
    let same = a.bytes().zip(b.bytes()).take_while(|(a, b)| a == b).count();
    let start = a[..same].rfind('.').map_or(0, |dot| dot + 1);
    format!("{}{{{},{}}}", &a[..start], &a[start..], &b[start..])
}

/// Pixels of the part of its input that a tile computes.
pub(crate) fn part_pixels(window: &ConvStep) -> usize {
    match &window.reading {
        Reading::Window(geometry) => {
            let rows = window.pixel_block / geometry.output()[1];
            blocks::rows_read(geometry, rows) * geometry.input[1]
        }
        _ => 0,
    }
}

/// Values from one pixel of such a part to the next, of tiles of some channels. A multiple of 1 KiB would share few sets of the
/// first cache.
pub(crate) fn part_ld(channels: usize) -> usize {
    if channels.is_multiple_of(256) { channels + 16 } else { channels }
}

/// One tile of a depthwise convolution `window`, of whose fields `x` and `origin` are not read, over the output of `product`,
/// the convolution of `expand`.
pub(crate) fn expanded(
    expand: &Inputs<'_>,
    product: &Conv<'_>,
    window: &GroupedConv<'_>,
    scratch: &mut [f32],
    tile: &mut Tile<'_>,
    mut sums: Option<Sums<'_>>,
) {
    let (geometry, nr) = (window.geometry, window.weights.nr());
    let width = geometry.output()[1];
    let rows = geometry.rows_read(tile.pixel0() / width..(tile.pixel0() + tile.pixels()) / width);
    let pixels = rows.start * geometry.input[1]..rows.end * geometry.input[1];
    // One panel, which the window finds in the first or second cache, or all of them, whose inputs are laid out once.
    let channels = tile.channels();
    let wide = match expand.step.precision {
        Precision::F32 => nr,
        Precision::Bf16 => channels.next_multiple_of(nr),
    };
    let ld = part_ld(wide);
    let (map, scratch) = scratch.split_at_mut(pixels.len() * ld);
    for start in (0..channels).step_by(wide) {
        let len = wide.min(channels - start);
        let first = tile.channel0() + start;
        let mut part = Tile::part(map, pixels.clone(), first..first + len, ld);
        expand.multiply(product, scratch, &mut part, None);
        for panel in (0..len).step_by(nr) {
            let (start, len) = (start + panel, nr.min(len - panel));
            let origin = [rows.start, first + panel];
            let window = GroupedConv { x: Pixels::new(&map[panel..], ld), origin, ..*window };
            let sums = sums.as_mut().map(|sums| sums.columns(start, len));
            grouped(expand.isa, &window, scratch, &mut tile.columns(start, len), sums);
        }
    }
}

/// One tile of the sums over blocks of pixels of a convolution's output, of `pixels` pixels, that is not kept.
pub(crate) fn summed(
    inputs: &Inputs<'_>,
    pixels: usize,
    image: usize,
    tile: &mut Tile<'_>,
    scratch: &mut [f32],
) {
    let step = inputs.step;
    let (scratch, map) = scratch.split_at_mut(conv_scratch_len(step));
    let start = tile.pixel0() * step.pixel_block;
    let pixels = start..(start + step.pixel_block).min(pixels);
    let channels = tile.channel0()..tile.channel0() + tile.channels();
    let mut part = Tile::part(map, pixels, channels.clone(), part_ld(channels.len()));
    let sums = Sums::new(tile.reborrow(), step.pixel_block);
    inputs.convolve(image, &mut part, Some(sums), scratch);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_share_their_path() {
        assert_eq!(both("features.2.conv.0.0", "features.2.conv.1.0"), "features.2.conv.{0.0,1.0}");
        assert_eq!(both("layer1.conv1", "layer1.conv12"), "layer1.{conv1,conv12}");
        assert_eq!(both("a", "b"), "{a,b}");
    }
}
