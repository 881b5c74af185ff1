//! Runs one step after the other: cuts outputs into tiles and hands them to threads.

use std::ops::Range;
use std::sync::atomic::AtomicU64;

use dynet_kernels::{
    Activation, Conv, Epilogue, Grid, Isa, OfImage, PerThread, Pixels, Pool, Residual, SharedOut, Sums, Tile,
    conv, copy, pixelwise,
};

use dynet_net::CoefActivation;

use crate::ahead::Ahead;
use crate::arena::{Rest, carve};
use crate::blocks::{self, Blocks, MAX_IMAGES};
use crate::layout::Layout;
use crate::lower::MAX_PARTS;
use crate::plan::grid;
use crate::step::{ConvStep, DenseStep, Gate, Kind, RunSums, Step, View};
use crate::tile::Inputs;

/// Parts of a step for each thread: enough that threads finish together.
const PARTS: usize = 8;

/// Work that is not worth waking another thread for: a fork and a join take one or two microseconds.
const ALONE_NS: usize = 2500;
/// Work that is worth a thread where two share already: each costs some hundred nanoseconds.
const SHARE_NS: usize = 2000;

/// A run of some images through a plan.
pub(crate) struct Frame<'a> {
    pub(crate) isa: Isa,
    pub(crate) images: usize,
    /// The images `[n, c, h, w]`.
    pub(crate) planes: &'a [f32],
    pub(crate) layout: &'a Layout,
    pub(crate) arena: &'a mut [f32],
    /// Weights of later steps, for those that compute to bring.
    pub(crate) ahead: Option<Ahead<'a>>,
    /// Whether each step is timed.
    pub(crate) timed: bool,
    /// Receives the time of fusing in the step that runs.
    pub(crate) fusing: Option<&'a AtomicU64>,
    /// A piece for each thread.
    pub(crate) scratch: &'a mut [f32],
    /// Threads to share the work with; none for a thread that runs an image by itself.
    pub(crate) pool: Option<&'a mut Pool>,
}

/// What a step reads, image by image.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    data: &'a [f32],
    view: View,
    /// Values of one image.
    len: usize,
}

impl<'a> Reader<'a> {
    fn new(rest: &Rest<'a>, layout: &Layout, view: View, images: usize) -> Self {
        Self { data: rest.get(range(layout, view, images)), view, len: layout.lens[view.buffer] }
    }

    /// The pixels of one image.
    pub(crate) fn pixels(&self, image: usize) -> Pixels<'a> {
        let data = &self.data[image * self.len..][..self.len];
        Pixels::new(&data[self.view.channel0..], self.view.ld)
    }

    /// The channels of a map of one pixel.
    pub(crate) fn vector(&self, image: usize) -> &'a [f32] {
        &self.data[image * self.len + self.view.channel0..][..self.view.channels]
    }

    /// Each image's only pixel as one pixel.
    fn rows(&self) -> Pixels<'a> {
        Pixels::new(&self.data[self.view.channel0..], self.len)
    }
}

fn range(layout: &Layout, view: View, images: usize) -> Range<usize> {
    let start = layout.offsets[view.buffer] * images;
    start..start + layout.lens[view.buffer] * images
}

/// Order in which tiles are computed.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    /// All channels of a block of pixels, then the next block: maps stay in cache.
    Pixels,
    /// All images and pixels of a block of channels, then the next block: weights stay in cache.
    Channels,
}

/// Calls `job(image, pixel block, channel block, thread)` for all tiles; work of `cost_ns` nanoseconds in all.
fn tiles(
    pool: Option<&mut Pool>,
    grid: &Grid,
    order: Order,
    cost_ns: usize,
    job: impl Fn(usize, usize, usize, usize) + Sync,
) {
    let total = grid.tiles();
    let threads = match pool.as_ref().map_or(1, |p| p.threads()) {
        1 => 1,
        _ if cost_ns < ALONE_NS => 1,
        all => all.min((cost_ns / SHARE_NS).max(2)),
    };
    let parts = if threads == 1 { 1 } else { total.min(threads * PARTS) };
    let run = |part: usize, thread| {
        for index in part * total / parts..(part + 1) * total / parts {
            let [image, pixel, channel] = match order {
                Order::Pixels => grid.position(index),
                Order::Channels => {
                    let each = grid.images * grid.pixel_blocks();
                    let rest = index % each;
                    [rest / grid.pixel_blocks(), rest % grid.pixel_blocks(), index / each]
                }
            };
            job(image, pixel, channel, thread);
        }
    };
    match pool {
        Some(pool) => pool.run_on(threads, parts, run),
        None => (0..parts).for_each(|part| run(part, 0)),
    }
}

/// The output of a step, with the sums that it makes of it.
struct Outputs<'a> {
    out: SharedOut<'a>,
    sums: Option<(SharedOut<'a>, usize)>,
}

impl<'a> Outputs<'a> {
    fn new(step: &Step, grid: Grid, out: &'a mut [f32], sums: &'a mut [f32]) -> Self {
        let sums = step.sums.map(|RunSums { view, every }| {
            let pixel_block = grid.pixel_block.div_ceil(every);
            let runs = Grid { pixels: view.pixels, ld: view.ld, pixel_block, ..grid };
            (SharedOut::new(sums, 0, runs), every)
        });
        Self { out: SharedOut::new(out, step.output.channel0, grid), sums }
    }

    fn take(&self, [image, pixel, channel]: [usize; 3]) -> (Tile<'_>, Option<Sums<'_>>) {
        let sums =
            self.sums.as_ref().map(|(sums, every)| Sums::new(sums.take(image, pixel, channel), *every));
        (self.out.take(image, pixel, channel), sums)
    }
}

impl Frame<'_> {
    fn threads(&self) -> usize {
        self.pool.as_ref().map_or(1, |pool| pool.threads())
    }

    /// Whether coefficients have a step of their own: a batch reads their weights once for all of its images.
    fn gates_apart(&self) -> bool {
        self.images > 1 || self.timed
    }

    pub(crate) fn step(&mut self, step: &Step) {
        match &step.kind {
            Kind::Conv(c) => self.conv(step, c),
            Kind::Dense(d) => self.dense(step, d),
            Kind::Gate { inline: true, .. } if !self.gates_apart() => {}
            Kind::Gate { gate, .. } => self.gate(gate, step.output, step.cost_ns),
            Kind::Softmax { heads, temperature } => self.softmax(step, heads, *temperature),
            Kind::Combine { sums, factor } => self.combine(step, *sums, *factor),
            Kind::Pool { x } => self.mean(step, *x),
            _ => self.bands(step),
        }
    }

    fn conv(&mut self, step: &Step, c: &ConvStep) {
        let apart = self.gates_apart();
        let (isa, images, layout, threads) = (self.isa, self.images, self.layout, self.threads());
        let sums_range = step.sums.map_or(0..0, |sums| range(layout, sums.view, images));
        let ([out, sums, _], rest) =
            carve(self.arena, [range(layout, step.output, images), sums_range, 0..0]);
        let grid = grid(c, step.output, images);
        let outputs = Outputs::new(step, grid, out, sums);
        let reader = |view: View| Reader::new(&rest, layout, view, images);
        let head = |c: &ConvStep, apart| c.head.as_ref().map(|head| reader(head.source(apart)));
        let expand = c.expand.as_deref();
        let inputs = Inputs {
            isa,
            step: c,
            planes: self.planes,
            images,
            x: reader(expand.map_or(c.x, |expand| expand.x)),
            head: head(c, apart),
            expand_head: expand.and_then(|expand| head(expand, true)),
            input_scale: c.input_scale.map(reader),
            residual: c.residual.filter(|_| !c.in_place).map(reader),
            apart,
            ahead: self.ahead.as_ref(),
            fusing: self.fusing,
        };
        let scratch = PerThread::new(self.scratch, threads);
        let order = if c.panel_major { Order::Channels } else { Order::Pixels };
        let (pool, cost_ns) = (self.pool.as_deref_mut(), step.cost_ns * images);
        if !(images > 1 && c.fuses_for_images_at_once(&grid)) {
            return tiles(pool, &grid, order, cost_ns, |image, pixel, channel, thread| {
                let (mut tile, sums) = outputs.take([image, pixel, channel]);
                inputs.tile(image, &mut tile, sums, &mut scratch.take(thread));
            });
        }
        let groups = blocks::groups(images, grid.channel_blocks(), threads);
        let jobs = Grid { images: groups, pixels: 1, pixel_block: 1, ..grid };
        tiles(pool, &jobs, Order::Channels, cost_ns, |group, _, channel, thread| {
            let mut some = [const { None }; MAX_IMAGES];
            let group = group * images / groups..(group + 1) * images / groups;
            for (image, to) in group.zip(&mut some) {
                let (out, sums) = outputs.take([image, 0, channel]);
                *to = Some(OfImage { conv: inputs.product(image, inputs.coefs(image)), out, sums });
            }
            inputs.tile_of_images(&mut some, &mut scratch.take(thread));
        });
    }

    fn dense(&mut self, step: &Step, d: &DenseStep) {
        let (isa, images, layout, threads) = (self.isa, self.images, self.layout, self.threads());
        let ([out, ..], rest) = carve(self.arena, [range(layout, step.output, images), 0..0, 0..0]);
        let channels = step.output.channels;
        let channel_block = Blocks::new(threads).channel_block(channels, d.weights.nr(), 1);
        let grid = Grid {
            images: 1,
            pixels: images,
            channels,
            ld: layout.lens[step.output.buffer],
            pixel_block: images,
            channel_block,
        };
        let shared = SharedOut::new(out, step.output.channel0, grid);
        let reader = |view: View| Reader::new(&rest, layout, view, images);
        let (x, residual) = (reader(d.x), d.residual.map(reader));
        let scratch = PerThread::new(self.scratch, threads);
        let pool = self.pool.as_deref_mut();
        tiles(pool, &grid, Order::Channels, step.cost_ns * images, |_, _, channel, thread| {
            let mut tile = shared.take(0, 0, channel);
            let residual = residual.as_ref().map(|residual| Residual::Map(residual.rows()));
            let epilogue = Epilogue { bias: Some(&d.bias), residual, act: d.act };
            let (x, weights) = (x.rows(), &d.weights);
            let c = Conv { x, taps: None, weights, coefs: None, groups: 1, input_scale: None, epilogue };
            conv(isa, &c, &mut scratch.take(thread), &mut tile, None);
        });
    }

    /// The coefficients of a dynamic convolution, panel by panel, each read once for all images.
    fn gate(&mut self, gate: &Gate, output: View, cost_ns: usize) {
        let (isa, images, layout, threads) = (self.isa, self.images, self.layout, self.threads());
        let ([out, ..], rest) = carve(self.arena, [range(layout, output, images), 0..0, 0..0]);
        let (channels, ld) = (output.channels, layout.lens[output.buffer]);
        let channel_block = gate.len();
        let grid = Grid { images: 1, pixels: images, channels, ld, pixel_block: images, channel_block };
        let shared = SharedOut::new(out, output.channel0, grid);
        let x = Reader::new(&rest, layout, gate.x, images);
        let scratch = PerThread::new(self.scratch, threads);
        let pool = self.pool.as_deref_mut();
        tiles(pool, &grid, Order::Channels, cost_ns * images, |_, _, panel, thread| {
            let mut tile = shared.take(0, 0, panel);
            let mut scratch = scratch.take(thread);
            let (coefs, scratch) = scratch.split_at_mut(images * gate.len());
            coefficients(isa, gate, panel, x.rows(), scratch, coefs);
            for (image, coefs) in coefs.chunks_exact(gate.len()).enumerate() {
                tile.row(image).copy_from_slice(coefs);
            }
        });
    }

    fn softmax(&mut self, step: &Step, heads: &[[usize; 3]], temperature: f32) {
        let len = self.layout.lens[step.output.buffer];
        let coefs = &mut self.arena[range(self.layout, step.output, self.images)];
        for image in coefs.chunks_exact_mut(len) {
            for [first, channels, experts] in heads {
                let head = &mut image[*first..][..channels * experts];
                pixelwise::softmax(self.isa, *channels, temperature, head);
            }
        }
    }

    fn combine(&mut self, step: &Step, sums: View, factor: f32) {
        let (images, layout) = (self.images, self.layout);
        let ([out, ..], rest) = carve(self.arena, [range(layout, step.output, images), 0..0, 0..0]);
        let sums = rest.get(range(layout, sums, images));
        let each = sums.len() / images;
        for (sums, out) in sums.chunks_exact(each).zip(out.chunks_exact_mut(step.output.channels)) {
            pixelwise::combine_sums(sums, factor, out);
        }
    }

    /// The mean of a map whose maker did not add up: each block of channels runs over the pixels in order.
    fn mean(&mut self, step: &Step, x: View) {
        let (isa, images, layout) = (self.isa, self.images, self.layout);
        let ([out, ..], rest) = carve(self.arena, [range(layout, step.output, images), 0..0, 0..0]);
        let (channels, ld) = (step.output.channels, step.output.ld);
        let channel_block = channels.div_ceil(blocks::IMAGE_TILES).next_multiple_of(64);
        let grid = Grid { images, pixels: 1, channels, ld, pixel_block: 1, channel_block };
        let shared = SharedOut::new(out, 0, grid);
        let x = Reader::new(&rest, layout, x, images);
        let pool = self.pool.as_deref_mut();
        tiles(pool, &grid, Order::Pixels, step.cost_ns * images, |image, _, channel, _| {
            let mut tile = shared.take(image, 0, channel);
            let map = x.pixels(image);
            let map = Pixels::new(&map.data[tile.channel0()..], map.ld);
            let out = tile.row(0);
            pixelwise::sums(isa, map, 0, x.view.pixels, out);
            out.iter_mut().for_each(|s| *s *= 1.0 / x.view.pixels as f32);
        });
    }

    /// Steps without weights, over bands of pixels.
    fn bands(&mut self, step: &Step) {
        let (isa, images, layout) = (self.isa, self.images, self.layout);
        let view = step.output;
        let sums_range = step.sums.map_or(0..0, |sums| range(layout, sums.view, images));
        let ([out, sums, _], rest) = carve(self.arena, [range(layout, view, images), sums_range, 0..0]);
        let grid = blocks::bands(images, view.pixels, view.channels, view.ld);
        let outputs = Outputs::new(step, grid, out, sums);
        let each = self.planes.len() / images;
        let planes = self.planes;
        let pool = self.pool.as_deref_mut();
        tiles(pool, &grid, Order::Pixels, step.cost_ns * images, |image, pixel, channel, _| {
            let (mut tile, sums) = outputs.take([image, pixel, channel]);
            let read = |view: &View| Reader::new(&rest, layout, *view, images);
            let planes = &planes[image * each..][..each];
            band(isa, &step.kind, planes, image, read, &mut tile, sums);
        });
    }
}

/// The coefficients `[images][experts][nr]` of one panel of a dynamic convolution for all pixels of `x`: fully
/// connected, then softmax or sigmoid. A single image needs no scratch.
pub(crate) fn coefficients(
    isa: Isa,
    gate: &Gate,
    panel: usize,
    x: Pixels<'_>,
    scratch: &mut [f32],
    out: &mut [f32],
) {
    let act = match gate.activation {
        CoefActivation::Softmax { .. } => Activation::None,
        CoefActivation::Sigmoid => Activation::Sigmoid,
    };
    let (len, weights) = (gate.len(), &gate.weights[panel]);
    let epilogue = Epilogue { bias: Some(&gate.bias[panel * len..]), residual: None, act };
    let c = Conv { x, taps: None, weights, coefs: None, groups: 1, input_scale: None, epilogue };
    let images = out.len() / len;
    conv(isa, &c, scratch, &mut Tile::whole(out, images, len, len), None);
    if let CoefActivation::Softmax { temperature } = gate.activation {
        out.chunks_exact_mut(len).for_each(|out| pixelwise::softmax(isa, gate.channels, temperature, out));
    }
}

/// One band of a step without weights.
fn band<'a>(
    isa: Isa,
    kind: &Kind,
    planes: &[f32],
    image: usize,
    read: impl Fn(&View) -> Reader<'a>,
    out: &mut Tile<'_>,
    sums: Option<Sums<'_>>,
) {
    let pixels = |view: &View| read(view).pixels(image);
    // While what was written is in the cache.
    let add_up = |sums: Option<Sums<'_>>, out: &mut Tile<'_>| {
        if let Some(mut sums) = sums {
            pixelwise::tile_sums(isa, out, &mut sums);
        }
    };
    match kind {
        Kind::Image(g) => copy::image(isa, planes, g, out),
        Kind::Border { x, geometry, border } => copy::border(pixels(x), geometry, *border, out),
        Kind::MaxPool { x, geometry } => {
            pixelwise::max_pool(isa, pixels(x), 0, geometry, out);
            add_up(sums, out);
        }
        Kind::Activate { x, act } => pixelwise::activate(isa, pixels(x), *act, out, sums),
        Kind::Add { x, y, act } => pixelwise::add(isa, [pixels(x), pixels(y)], *act, out, sums),
        Kind::Scale { x, factors, act } => {
            pixelwise::scale(isa, pixels(x), read(factors).vector(image), *act, out, sums);
        }
        Kind::Copy { x } => copy::copy(pixels(x), out),
        Kind::Shuffle { parts, groups } => {
            let mut some = [(Pixels::new(&[], 1), 0); MAX_PARTS];
            for (slot, part) in some.iter_mut().zip(parts) {
                *slot = (pixels(part), part.channels);
            }
            copy::shuffle(isa, &some[..parts.len()], *groups, out);
            add_up(sums, out);
        }
        Kind::Conv(_)
        | Kind::Dense(_)
        | Kind::Gate { .. }
        | Kind::Softmax { .. }
        | Kind::Combine { .. }
        | Kind::Pool { .. } => {}
    }
}
