//! The lowering of convolutions: the algorithm of each layer, its kernels folded and packed.

use std::sync::Arc;

use dynet_kernels::winograd::{self, Side};
use dynet_kernels::{Border, Conv, Geometry, KernelShape, Panels, Stem, Storage, Taps};
use dynet_net::{Conv2d, NodeId, Op, PaddingMode, Predictor, Shape};

use crate::blocks::{self, Layer};
use crate::error::PlanError;
use crate::fold::{self, finite, fold, tensor};
use crate::lower::{Chain, Lowering, Value};
use crate::plan::Precision;
use crate::step::{ConvStep, DenseStep, FEW_PIXELS, Gate, Head, Kind, Reading, View};

/// Input channels up to which a row of the kernel is one run of memory: images, whose pixels would fill no line.
const STEM_CHANNELS: usize = 4;

/// Fixed kernels, input and output of a layer that stay in a second-level cache of 2 MiB while one image runs through it.
const NEAR_BYTES: usize = 1280 << 10;

impl Lowering<'_> {
    /// The convolution of a node that reads the images with so few channels that whole rows of the kernel are read.
    pub(crate) fn stem(&self, id: NodeId) -> Option<&Conv2d> {
        match &self.net.node(id).op {
            Op::Conv2d(c)
                if self.net.node(id).inputs[0].index() == 0
                    && c.groups == 1
                    && c.c_in <= STEM_CHANNELS
                    && c.padding_mode == PaddingMode::Zeros
                    && c.dilation[1] == 1 =>
            {
                Some(c)
            }
            _ => None,
        }
    }

    /// The window of a stem that reads the images as they are given.
    fn reads_planes(&self, id: NodeId) -> Option<Geometry> {
        let conv = self.stem(id)?;
        let image = self.shape(self.net.node(id).inputs[0]);
        let geometry = Geometry {
            input: [image.h, image.w],
            kernel: conv.kernel,
            stride: conv.stride,
            padding: conv.padding,
            dilation: conv.dilation,
        };
        let is_plain = conv.dynamic.is_none() && self.options.precision == Precision::F32;
        (is_plain && Stem::fits(&geometry, conv.c_in)).then_some(geometry)
    }

    pub(crate) fn conv(&mut self, id: NodeId, conv: &Conv2d) -> Result<(), PlanError> {
        let planes = self.reads_planes(id);
        // The input first: making it may need a step of its own.
        let (x, input_scale) = match planes {
            Some(_) => (self.packed_buffer(0, 0), None),
            None => self.conv_input(id, conv),
        };
        let chain = self.epilogue(id);
        let (kernels, bias) = self.folded(id, conv, &chain)?;
        let output = self.shape(chain.last);
        let geometry = planes.unwrap_or_else(|| self.geometry(id, conv));
        let is_one = output.pixels() == 1 && geometry.input == [1, 1] && geometry.is_pointwise();
        if is_one && conv.groups == 1 && conv.dynamic.is_none() && input_scale.is_none() {
            let step = self.dense(x, self.dense_storage(), &kernels, bias, chain.act);
            self.push_dense(id, chain.last, DenseStep { residual: chain.residual, ..step });
            return Ok(());
        }
        let precision = self.precision_of(conv);
        let scaled = input_scale.is_some();
        let (weights, x, reading) = match planes {
            Some(_) => {
                let weights = Stem::pack(self.isa, kernel_shape(conv, &geometry), &kernels);
                (weights, x, Reading::Planes(geometry))
            }
            None => self.algorithm(id, conv, x, geometry, &kernels, scaled),
        };
        let every = sum_run(&reading, output);
        let run = if self.is_summed(chain.last) { every } else { 1 };
        let (pixel_block, channel_block) =
            self.tile(conv, output, &geometry, (&weights, &reading), [usize::from(scaled), run]);
        let panel_major = is_panel_major(conv, output, weights.len_bytes());
        let pixel_blocks = output.pixels().div_ceil(pixel_block);
        let head = self.head(id, conv, pixel_blocks == 1);
        let step = ConvStep {
            x,
            reading,
            weights: Arc::new(weights),
            precision,
            groups: conv.groups,
            head,
            input_scale,
            bias,
            residual: chain.residual,
            in_place: false,
            act: chain.act,
            pixel_block,
            channel_block,
            panel_major,
            pool: None,
            summed: None,
            expand: None,
        };
        let out = self.buffer(output.c, output.pixels());
        let sums = self.sums_of(chain.last, every);
        self.push(id, Kind::Conv(Box::new(step)), out, sums);
        self.set(chain.last, Value::Map(out));
        Ok(())
    }

    /// The algorithm of a convolution: its packed kernels, and how it reads `x` or what a step before makes of it. `scaled`:
    /// whether it multiplies its input with factors.
    fn algorithm(
        &mut self,
        id: NodeId,
        conv: &Conv2d,
        x: View,
        geometry: Geometry,
        kernels: &[f32],
        scaled: bool,
    ) -> (Panels, View, Reading) {
        let shape = kernel_shape(conv, &geometry);
        let bf16 = self.precision_of(conv) == Precision::Bf16;
        let storage = if conv.dynamic.is_some() { self.options.experts } else { Storage::F32 };
        // The tiles of AMX multiply so fast that transforms would take longer than what they save.
        if !scaled
            && !bf16
            && let Some(side) = side(conv, &geometry)
        {
            let weights = match conv.dynamic {
                None => winograd::pack(self.isa, side, &geometry, shape, kernels),
                Some(_) => winograd::pack_experts(self.isa, storage, shape, kernels),
            };
            return (weights, x, Reading::Winograd(geometry, side));
        }
        let (x, reading) = self.reading(id, conv, x, geometry);
        let weights = if bf16 && conv.dynamic.is_none() && !scaled {
            Panels::pack_bf16(self.isa, shape, reading.segments(), kernels)
        } else {
            Panels::pack(self.isa, storage, shape, kernels)
        };
        (weights, x, reading)
    }

    /// Pixels and channels of a convolution's tile, whole runs of `run` pixels; `scaled`: 1 if it multiplies its input with factors.
    fn tile(
        &self,
        conv: &Conv2d,
        output: Shape,
        geometry: &Geometry,
        (weights, reading): (&Panels, &Reading),
        [scaled, run]: [usize; 2],
    ) -> (usize, usize) {
        let experts = conv.dynamic.map_or(0, |d| d.experts);
        let channels = (conv.c_out, weights.nr());
        if let Reading::Winograd(_, side) = reading {
            let tiles = [output.h, output.w].map(|len| len.div_ceil(side.outputs()));
            let strip = side.strip_rows(geometry, experts > 0) / side.outputs();
            let (rows, channels) = self.blocks.winograd_tile(tiles, side.outputs(), strip, channels, experts);
            return (rows * output.w, channels);
        }
        if self.precision_of(conv) == Precision::Bf16 {
            let row = Conv::bf16_row(weights.k() / reading.segments(), reading.taps());
            let fused = experts.max(scaled);
            return self.blocks.bf16_tile([output.pixels(), run], [weights.k(), row], channels, fused);
        }
        let by_channel = matches!(reading, Reading::Window(_));
        let in_rows = by_channel || matches!(reading, Reading::Planes(_));
        let pixels = self.blocks.pixel_block(Layer {
            pixels: output.pixels(),
            values: conv.c_in * blocks::pixels_read(geometry),
            by_channel,
            terms: weights.k(),
            halves: blocks::half_panels(conv.c_out, weights.nr()),
            experts,
            row: if in_rows { run.max(output.w) } else { run },
        });
        let pixel_blocks = output.pixels().div_ceil(pixels);
        (pixels, self.blocks.channel_block(conv.c_out, weights.nr(), pixel_blocks))
    }

    /// What a convolution multiplies, if it is a product.
    fn precision_of(&self, conv: &Conv2d) -> Precision {
        if self.is_dense(conv) { self.options.precision } else { Precision::F32 }
    }

    /// Whether a convolution's groups are whole panels, so that it is a product.
    fn is_dense(&self, conv: &Conv2d) -> bool {
        conv.groups == 1 || (conv.c_out / conv.groups).is_multiple_of(self.isa.nr())
    }

    /// The map that a convolution reads, and factors of its channels that it multiplies itself.
    fn conv_input(&mut self, id: NodeId, conv: &Conv2d) -> (View, Option<View>) {
        let input = self.net.node(id).inputs[0];
        if self.stem(id).is_some() {
            let shape = self.shape(input);
            let [h, w] = [shape.h + 2 * conv.padding[0], shape.w + 2 * conv.padding[1]];
            let output = self.packed_buffer(shape.c, h * w);
            let mut geometry = Geometry::same([shape.h, shape.w], 1, 1);
            geometry.padding = conv.padding;
            self.push(id, Kind::Image(geometry), output, None);
            return (output, None);
        }
        match self.value(input).cloned() {
            Some(Value::Scaled { of, factors }) => (self.map(of), Some(factors)),
            _ => (self.map(input), None),
        }
    }

    /// The window of a convolution, that of a stem over the image with its border.
    fn geometry(&self, id: NodeId, conv: &Conv2d) -> Geometry {
        let input = self.shape(self.net.node(id).inputs[0]);
        let (mut input, mut padding) = ([input.h, input.w], conv.padding);
        if self.stem(id).is_some() {
            input = std::array::from_fn(|d| input[d] + 2 * padding[d]);
            padding = [0, 0];
        }
        Geometry { input, kernel: conv.kernel, stride: conv.stride, padding, dilation: conv.dilation }
    }

    /// Kernels and bias with the batch normalisation behind them folded in.
    fn folded(&self, id: NodeId, conv: &Conv2d, chain: &Chain) -> Result<(Vec<f32>, Vec<f32>), PlanError> {
        let mut kernels = tensor(self.net, self.weights, id, "weight").to_vec();
        let mut bias = match conv.bias {
            true => tensor(self.net, self.weights, id, "bias").to_vec(),
            false => vec![0.0; conv.c_out],
        };
        if let Some(norm) = chain.norm {
            let affine = fold::norm(self.net, self.weights, norm)?;
            fold(&mut kernels, conv.fan_in(), &mut bias, &affine);
            finite(self.net, id, &kernels)?;
            finite(self.net, id, &bias)?;
        }
        Ok((kernels, bias))
    }

    /// How a convolution reads its input; a map whose border is not zeros may be copied into a bordered one first.
    fn reading(&mut self, id: NodeId, conv: &Conv2d, x: View, geometry: Geometry) -> (View, Reading) {
        let border = border(conv.padding_mode);
        if self.stem(id).is_some() {
            return (x, Reading::Table(Taps::rows(&geometry)));
        }
        if self.is_dense(conv) {
            let pointwise = geometry.is_pointwise();
            let reading =
                if pointwise { Reading::Pointwise } else { Reading::Table(Taps::new(&geometry, border)) };
            return (x, reading);
        }
        if border == Border::Zeros || geometry.padding == [0, 0] {
            return (x, Reading::Window(geometry));
        }
        let [h, w] = std::array::from_fn(|d| geometry.input[d] + 2 * geometry.padding[d]);
        let output = self.buffer(x.channels, h * w);
        self.push(id, Kind::Border { x, geometry, border }, output, None);
        (output, Reading::Window(Geometry { input: [h, w], padding: [0, 0], ..geometry }))
    }

    /// The coefficients of a dynamic convolution. `inline`: each of its panels is fused once, so that the thread that
    /// does it may make the panel's coefficients as well.
    fn head(&mut self, id: NodeId, conv: &Conv2d, inline: bool) -> Option<Head> {
        let (dynamic, source) = (conv.dynamic?, *self.net.node(id).inputs.get(1)?);
        let Op::Predictor(predictor) = &self.net.node(source).op else { return None };
        let head = predictor.heads.get(dynamic.head)?;
        let first = predictor.head_offset(dynamic.head);
        let Some(Value::Gated { x, layer }) = self.value(source).cloned() else {
            let coefs = self.map(source).slice(first, head.len());
            return Some(Head::Map { coefs, channels: head.channels });
        };
        let gate = Arc::new(self.gate(source, predictor, dynamic.head, x, layer));
        let output = self.packed_buffer(gate.len() * gate.weights.len(), 1);
        let inline = inline && head.channels > 1;
        self.push(source, Kind::Gate { gate: Arc::clone(&gate), inline }, output, None);
        Some(match head.channels {
            1 => Head::Map { coefs: output, channels: 1 },
            _ if inline => Head::Inline(gate, output),
            _ => Head::Blocked(output),
        })
    }

    /// The last layer of a predictor, as far as it belongs to one head, its outputs in the order of panels.
    fn gate(&self, id: NodeId, predictor: &Predictor, head: usize, x: View, layer: &str) -> Gate {
        let first = predictor.head_offset(head);
        let head = predictor.heads[head];
        let [weight, bias] =
            ["weight", "bias"].map(|s| tensor(self.net, self.weights, id, &format!("{layer}.{s}")));
        let width = if head.channels == 1 { 1 } else { self.isa.nr() };
        let storage = self.options.experts;
        let c_in = x.channels;
        let mut gate =
            Gate { x, weights: vec![], bias: vec![], activation: predictor.activation, channels: width };
        for panel in 0..head.channels.div_ceil(width) {
            let mut rows = vec![0.0; head.experts * width * c_in];
            let start = gate.bias.len();
            gate.bias.resize(start + head.experts * width, 0.0);
            for e in 0..head.experts {
                for lane in 0..width.min(head.channels - panel * width) {
                    let (from, to) = (first + e * head.channels + panel * width + lane, e * width + lane);
                    rows[to * c_in..][..c_in].copy_from_slice(&weight[from * c_in..][..c_in]);
                    gate.bias[start + to] = bias[from];
                }
            }
            let shape = KernelShape { experts: 1, c_out: head.experts * width, c_in, taps: 1 };
            gate.weights.push(Panels::pack(self.isa, storage, shape, &rows));
        }
        gate
    }

    /// A batch normalisation that no convolution could take: a depthwise 1x1 convolution.
    pub(crate) fn norm(&mut self, id: NodeId) -> Result<(), PlanError> {
        let x = self.map(self.net.node(id).inputs[0]);
        let shape = self.shape(id);
        let affine = fold::norm(self.net, self.weights, id)?;
        let chain = self.activation_behind(id);
        let kernel = KernelShape { experts: 1, c_out: shape.c, c_in: 1, taps: 1 };
        let weights = Panels::pack(self.isa, Storage::F32, kernel, &affine.factor);
        let mut geometry = Geometry::same([shape.h, shape.w], 1, 1);
        geometry.padding = [0, 0];
        let halves = blocks::half_panels(shape.c, weights.nr());
        let reading = Reading::Window(geometry);
        let every = sum_run(&reading, shape);
        let pixel_block = self.blocks.pixel_block(Layer {
            pixels: shape.pixels(),
            values: shape.c,
            by_channel: true,
            terms: 1,
            halves,
            experts: 0,
            row: if self.is_summed(chain.last) { every } else { shape.w },
        });
        let pixel_blocks = shape.pixels().div_ceil(pixel_block);
        let step = ConvStep {
            x,
            reading,
            channel_block: self.blocks.channel_block(shape.c, weights.nr(), pixel_blocks),
            weights: Arc::new(weights),
            precision: Precision::F32,
            groups: shape.c,
            head: None,
            input_scale: None,
            bias: affine.shift,
            residual: None,
            in_place: false,
            act: chain.act,
            pixel_block,
            panel_major: false,
            pool: None,
            summed: None,
            expand: None,
        };
        let output = self.buffer(shape.c, shape.pixels());
        let sums = self.sums_of(chain.last, every);
        self.push(id, Kind::Conv(Box::new(step)), output, sums);
        self.set(chain.last, Value::Map(output));
        Ok(())
    }
}

/// The fixed kernels of a convolution.
fn kernel_shape(conv: &Conv2d, geometry: &Geometry) -> KernelShape {
    KernelShape {
        experts: conv.dynamic.map_or(1, |d| d.experts),
        c_out: conv.c_out,
        c_in: conv.c_in / conv.groups,
        taps: geometry.taps(),
    }
}

/// The tiles of Winograd's filtering where it wins: enough channels and pixels for the multiplications that are saved to
/// outweigh the transforms and, in a static convolution, that transformed kernels are larger. Measured on layers of ResNets.
fn side(conv: &Conv2d, geometry: &Geometry) -> Option<Side> {
    let zeros = border(conv.padding_mode) == Border::Zeros || geometry.padding == [0, 0];
    if !zeros || conv.groups > 1 || conv.c_out < 32 {
        return None;
    }
    let wins = |side: Side| match side {
        // A dynamic layer of few pixels takes as long either way, and images fuse for a product at once.
        Side::Two => conv.dynamic.is_none() && conv.c_in >= 32 && geometry.pixels() >= 32,
        Side::Three => conv.c_in <= STEM_CHANNELS && conv.dynamic.is_none() && geometry.pixels() >= 100,
        Side::Four => conv.c_in >= 32 && geometry.pixels() >= 100,
    };
    [Side::Four, Side::Three, Side::Two].into_iter().find(|side| side.fits(geometry) && wins(*side))
}

/// Pixels over which a layer adds up its output by themselves: as its kernel computes them.
fn sum_run(reading: &Reading, output: Shape) -> usize {
    match reading {
        Reading::Window(_) | Reading::Planes(_) => blocks::SUM_ROWS * output.w,
        Reading::Winograd(_, side) => side.outputs() * output.w,
        Reading::Pointwise | Reading::Table(_) => blocks::sum_run(output.pixels()),
    }
}

/// Whether all images of a batch are run over a panel before the next panel: where it has more bytes of weights than an image has of
/// inputs. A dynamic layer fuses each panel anew for each image, so that image by image costs nothing while all that an image
/// needs stays in the cache, and each thread finds its own images there; of few pixels they share what is fused.
fn is_panel_major(conv: &Conv2d, output: Shape, weight_bytes: usize) -> bool {
    let map_bytes = |channels: usize| size_of::<f32>() * output.pixels() * channels;
    let stays = weight_bytes + map_bytes(conv.c_in + conv.c_out) <= NEAR_BYTES;
    let by_image = conv.dynamic.is_some() && output.pixels() > FEW_PIXELS && stays;
    weight_bytes > map_bytes(conv.c_in) && !by_image
}

fn border(mode: PaddingMode) -> Border {
    match mode {
        PaddingMode::Zeros => Border::Zeros,
        PaddingMode::Reflect => Border::Reflect,
        PaddingMode::Replicate => Border::Replicate,
        PaddingMode::Circular => Border::Circular,
    }
}
