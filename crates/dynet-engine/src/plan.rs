//! `Plan::compile`: everything about a net that does not depend on the images, done once.

use dynet_kernels::winograd::WinogradConv;
use dynet_kernels::{Conv, Grid, Isa, KernelShape, PerThread, Stem, Storage};
use dynet_net::{Net, NodeId, Op, Shape, Weights};

use crate::ahead::Stream;
use crate::blocks::MAX_IMAGES;
use crate::cut::Cut;
use crate::error::PlanError;
use crate::expand;
use crate::layout::{Layout, MAX_VALUES};
use crate::lower::Lowering;
use crate::pooled::Pooling;
use crate::step::{ConvStep, Gate, Head, Kind, Reading, Step, View};

/// What dense convolutions multiply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Precision {
    /// f32.
    #[default]
    F32,
    /// Maps and (fused) kernels rounded to bfloat16 when they are multiplied, sums in f32, on a CPU with AMX several times as
    /// fast; elsewhere the same numbers, no faster than f32. Of fully connected layers the weights are rounded. Maps stay f32 in
    /// memory; depthwise layers and other narrow groups multiply f32; predictors follow [`Options::experts`].
    Bf16,
}

/// How a plan is made.
#[derive(Clone, Debug)]
pub struct Options {
    /// Number format of the fixed kernels of dynamic convolutions and of the predictors of their coefficients, which are
    /// as much to read; static kernels are f32.
    pub experts: Storage,
    /// What dense convolutions multiply.
    pub precision: Precision,
    /// Instruction set.
    pub isa: Isa,
    /// Threads that the layers are cut for. Sessions may have more, which then find nothing to do in some layers, or fewer, which
    /// costs them a few percent. Logits are the same bits for any number.
    pub threads: usize,
    /// Nodes whose outputs can be read after a run. Each of them is computed as the net has it: an activation or a
    /// batch normalisation behind it is no longer part of its layer, which takes longer.
    pub taps: Vec<NodeId>,
}

impl Default for Options {
    /// All in f32, the best instruction set of this CPU, cut for all threads of the machine, no taps.
    fn default() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self { experts: Storage::F32, precision: Precision::F32, isa: Isa::best(), threads, taps: Vec::new() }
    }
}

/// One step of a plan, for tables.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    /// Module path of the layer; of two that run as one, of both: `features.2.conv.{0.0,1.0}`.
    pub name: String,
    /// The algorithm that was chosen.
    pub algorithm: &'static str,
    /// Shape of its output.
    pub output: Shape,
    /// Multiply-adds of the convolution or fully connected layer for one image, fusion not counted.
    pub madds: u64,
    /// Of these, those whose factors are bfloat16.
    pub bf16_madds: u64,
    /// Multiply-adds of fusing for one image.
    pub fusion_madds: u64,
    /// Bytes of weights that are read.
    pub weight_bytes: usize,
    /// Bytes of maps that are read and written for one image.
    pub map_bytes: usize,
    /// Whether it belongs to a coefficient predictor or is a pooling.
    pub is_predictor: bool,
    /// Whether a later layer, which reads the same weights, does all of it once more: this one keeps sums alone.
    pub is_repeated: bool,
}

/// A net with its weights, ready to run: shared by any number of [`Session`](crate::Session)s.
#[derive(Debug)]
pub struct Plan {
    pub(crate) net: Net,
    pub(crate) options: Options,
    pub(crate) steps: Vec<Step>,
    /// Memory of one image that runs through all steps.
    pub(crate) layout: Layout,
    pub(crate) cut: Cut,
    pub(crate) stream: Stream,
    pub(crate) logits: View,
    pub(crate) taps: Vec<View>,
    /// Values of scratch that a thread needs.
    pub(crate) scratch_len: usize,
}

impl Plan {
    /// Folds, chooses, packs and lays out.
    ///
    /// # Errors
    /// Tensors that are missing, extra, misshapen or not finite; sizes that no memory holds; a tap that does not
    /// exist. Nothing large has been allocated then.
    pub fn compile(net: &Net, weights: &Weights, options: &Options) -> Result<Self, PlanError> {
        weights.check(net)?;
        check_sizes(net, options.precision)?;
        if let Some(bad) = options.taps.iter().find(|id| id.index() >= net.nodes().len()) {
            return Err(PlanError::Tap { nodes: net.nodes().len(), got: bad.index() });
        }
        let mut lowering = Lowering::new(net, weights, options);
        let (logits, taps) = lowering.run()?;
        let layout = match options.threads {
            0 | 1 => Layout::new(&lowering.buffers)?,
            _ => Layout::for_threads(&lowering.buffers)?,
        };
        let mut steps = lowering.steps;
        let scratch_len = steps.iter().map(scratch_len).max().unwrap_or(0).max(16);
        for step in &mut steps {
            step.cost_ns = cost_ns(net, step);
        }
        let layers: Vec<LayerInfo> = steps.iter().map(|step| info(net, step)).collect();
        // A tap may be anywhere, and a single image leaves some coefficients to the convolution behind.
        let inline = |step: usize| matches!(steps[step].kind, Kind::Gate { inline: true, .. });
        let may = |step: usize| step == 0 || (taps.is_empty() && !inline(step - 1));
        let cut = Cut::new(&layers, &lowering.buffers, may)?;
        let (net, options) = (net.clone(), options.clone());
        let stream = Stream::new(&steps, |step| layers[step].map_bytes);
        Ok(Self { net, options, steps, layout, cut, stream, logits, taps, scratch_len })
    }

    /// The net.
    pub fn net(&self) -> &Net {
        &self.net
    }

    /// What it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Bytes of memory that a session of `threads` threads takes for batches of `images` images.
    pub fn session_bytes(&self, images: usize, threads: usize) -> usize {
        let together = images.min(MAX_IMAGES);
        let behind = if together > 1 { together * self.cut.layout.len } else { 0 };
        let values = self.lanes_len(together, threads) + behind + PerThread::size(self.scratch_len, threads);
        values * size_of::<f32>()
    }

    /// Values of the lanes of threads that run images by themselves.
    pub(crate) fn lanes_len(&self, images: usize, threads: usize) -> usize {
        let lanes = match images {
            0 => 0,
            1 => 1,
            _ if self.cut.step == 0 => 0,
            n if n < threads => 1,
            _ => threads,
        };
        lanes * self.layout.len
    }

    /// Bytes of all packed weights.
    pub fn weight_bytes(&self) -> usize {
        self.layers().iter().filter(|l| !l.is_repeated).map(|l| l.weight_bytes).sum()
    }

    /// Its steps, in the order in which they run.
    pub fn layers(&self) -> Vec<LayerInfo> {
        self.steps.iter().map(|step| info(&self.net, step)).collect()
    }
}

fn info(net: &Net, step: &Step) -> LayerInfo {
    let shape = net.node(step.node).shape;
    let views = step.reads().into_iter().chain([step.output]).chain(step.sums.map(|sums| sums.view));
    let bf16 = |c: &ConvStep, madds: u64| if c.precision == Precision::Bf16 { madds } else { 0 };
    let mut bf16_madds = 0;
    let (madds, fusion_madds, weight_bytes) = match &step.kind {
        Kind::Conv(c) => {
            let stored = (c.weights.k() * c.weights.n()) as u64;
            let weights = match &c.reading {
                Reading::Winograd(geometry, side) if c.head.is_none() => {
                    stored / side.transformed() as u64 * geometry.taps() as u64
                }
                _ => stored,
            };
            let fusion = |c: &ConvStep| match c.head {
                Some(_) => (c.weights.experts() * c.weights.k() * c.weights.n()) as u64,
                None => 0,
            };
            let pixels = c.pool.as_ref().map_or(c.summed.unwrap_or(step.output.pixels), Pooling::pixels);
            let mut all = (weights * pixels as u64, fusion(c), c.weights.len_bytes());
            bf16_madds = bf16(c, all.0);
            if let Some(expand) = &c.expand {
                let w = &expand.weights;
                let madds = (w.k() * w.n() * c.x.pixels) as u64;
                all.0 += madds;
                bf16_madds += bf16(expand, madds);
                all.1 += fusion(expand);
                all.2 += w.len_bytes();
            }
            all
        }
        Kind::Dense(d) => ((d.weights.k() * d.weights.n()) as u64, 0, d.weights.len_bytes()),
        Kind::Gate { gate, .. } => (gate.madds(), 0, gate.len_bytes()),
        _ => (0, 0, 0),
    };
    LayerInfo {
        name: step.name.clone(),
        algorithm: step.algorithm(),
        output: Shape { c: step.output.channels, ..shape },
        madds,
        bf16_madds,
        fusion_madds,
        weight_bytes,
        map_bytes: views.map(|v| v.pixels * v.channels * size_of::<f32>()).sum(),
        is_predictor: matches!(net.node(step.node).op, Op::Predictor(_))
            || matches!(step.kind, Kind::Combine { .. } | Kind::Pool { .. }),
        is_repeated: matches!(&step.kind, Kind::Conv(c) if c.summed.is_some()),
    }
}

/// What a step takes for one image on one core, roughly: 60 multiply-adds, eight times as many of bfloat16, and 16 bytes a
/// nanosecond.
fn cost_ns(net: &Net, step: &Step) -> usize {
    let info = info(net, step);
    let madds = info.madds - info.bf16_madds + info.bf16_madds / 8;
    ((madds + info.fusion_madds) / 60) as usize + (info.weight_bytes + info.map_bytes) / 16
}

/// The tiles of a convolution's output.
pub(crate) fn grid(step: &ConvStep, output: View, images: usize) -> Grid {
    Grid {
        images,
        pixels: output.pixels,
        channels: output.channels,
        ld: output.ld,
        pixel_block: match (&step.pool, step.summed) {
            (Some(pool), _) => pool.pixel_block,
            (None, Some(_)) => 1,
            (None, None) => step.pixel_block,
        },
        channel_block: step.channel_block,
    }
}

/// Values of scratch that a convolution's kernel needs, a whole number of cache lines.
pub(crate) fn conv_scratch_len(c: &ConvStep) -> usize {
    let part = c.expand.as_ref().map_or(0, |expand| {
        let pixels = expand::part_pixels(c);
        product_scratch_len(expand, pixels) + pixels * expand::part_ld(c.channel_block)
    });
    let len = part
        + match &c.reading {
            Reading::Winograd(geometry, side) => {
                let rows = c.pixel_block.div_ceil(geometry.output()[1]);
                WinogradConv::scratch_len(&c.weights, *side, geometry, rows, c.head.is_some())
            }
            Reading::Planes(geometry) => Stem::scratch_len(geometry, c.weights.k() / geometry.taps()),
            _ => product_scratch_len(c, c.pixel_block),
        };
    len.next_multiple_of(16)
}

/// Values of scratch that a tile of some pixels needs.
fn product_scratch_len(c: &ConvStep, pixels: usize) -> usize {
    match c.precision {
        Precision::F32 => Conv::scratch_len(&c.weights),
        Precision::Bf16 => Conv::bf16_scratch_len(&c.weights, c.reading.taps(), pixels),
    }
}

/// The coefficients of a panel for all images of a batch, and its weights widened.
fn gate_scratch_len(gate: &Gate) -> usize {
    MAX_IMAGES * gate.len() + gate.weights.first().map_or(0, Conv::scratch_len)
}

fn scratch_len(step: &Step) -> usize {
    match &step.kind {
        Kind::Conv(c) => {
            let gate = match &c.head {
                Some(Head::Inline(gate, _)) => gate.len() * (c.channel_block / c.weights.nr()),
                _ => 0,
            };
            let map = c.pool.as_ref().map_or(0, |pool| pool.scratch_len(c.channel_block));
            let summed = c.summed.map_or(0, |_| c.pixel_block * expand::part_ld(c.channel_block));
            conv_scratch_len(c) + gate + map + summed
        }
        Kind::Gate { gate, .. } => gate_scratch_len(gate),
        Kind::Dense(d) => Conv::scratch_len(&d.weights),
        _ => 0,
    }
}

/// The largest tensors that could be needed, counted before any of them exists.
fn check_sizes(net: &Net, precision: Precision) -> Result<(), PlanError> {
    for node in net.nodes() {
        let map = [node.shape.c, node.shape.h, node.shape.w].iter().map(|s| *s as u128).product::<u128>();
        let packed = match &node.op {
            Op::Conv2d(c) => {
                let experts = c.dynamic.map_or(1, |d| d.experts);
                // A panel more than the channels need, at most 32 of them.
                let c_in = match precision {
                    Precision::F32 => c.c_in / c.groups,
                    Precision::Bf16 => Conv::bf16_row(c.c_in / c.groups, None),
                };
                let shape = KernelShape { experts, c_out: c.c_out + 31, c_in, taps: 1 };
                let taps = (c.kernel[0] * c.kernel[1]) as u128;
                let table = (node.shape.pixels() as u128) * taps;
                // Winograd's filtering stores 36 values for a static 3x3 kernel, four times as many for one of 7x7 or 8x8.
                let taps = taps.max(match c.kernel {
                    [3, 3] => 36,
                    [7 | 8, 7 | 8] => 144,
                    _ => 0,
                });
                shape.len().map_or(u128::MAX, |len| (len as u128).saturating_mul(taps)).max(table)
            }
            Op::Linear { c_out } => (*c_out as u128 + 31) * net.node(node.inputs[0]).shape.c as u128,
            _ => 0,
        };
        let values = map.max(packed);
        if values > MAX_VALUES as u128 {
            return Err(PlanError::TooLarge { what: node.name.clone(), values, limit: MAX_VALUES });
        }
    }
    Ok(())
}
