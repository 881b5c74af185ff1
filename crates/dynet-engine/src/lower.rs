//! From nodes to steps: what a node's reader can do in its own epilogue, it does; slices are views.

use dynet_kernels::{Activation, Geometry, Isa, KernelShape, Panels, Storage};
use dynet_net::{CoefActivation, Net, NodeId, Op, Predictor, Shape, Weights};

use crate::blocks::{self, Blocks};
use crate::error::PlanError;
use crate::expand;
use crate::fold::tensor;
use crate::in_place;
use crate::layout::Lifetime;
use crate::plan::{Options, Precision};
use crate::pooled;
use crate::step::{DenseStep, Kind, RunSums, Step, View};

/// Maps that a shuffle takes at once.
pub(crate) const MAX_PARTS: usize = 8;

/// Where a node's output is.
#[derive(Clone, Debug)]
pub(crate) enum Value {
    /// In memory.
    Map(View),
    /// `of` times `factors`, channel by channel: its readers multiply themselves.
    Scaled { of: NodeId, factors: View },
    /// The maps behind one another by channel: a shuffle copies them anyway.
    Parts(Vec<View>),
    /// A predictor whose last layer, which reads this, belongs to the convolutions that it feeds.
    Gated { x: View, layer: &'static str },
}

/// What an operation does after its own work, so that later nodes need no step.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Chain {
    pub(crate) norm: Option<NodeId>,
    pub(crate) residual: Option<View>,
    pub(crate) act: Activation,
    /// The node whose output is stored.
    pub(crate) last: NodeId,
}

pub(crate) struct Lowering<'a> {
    pub(crate) net: &'a Net,
    pub(crate) weights: &'a Weights,
    pub(crate) isa: Isa,
    pub(crate) options: &'a Options,
    pub(crate) blocks: Blocks,
    ids: Vec<NodeId>,
    readers: Vec<Vec<NodeId>>,
    values: Vec<Option<Value>>,
    /// Nodes that an earlier step computes on the way.
    absorbed: Vec<bool>,
    pooled: Vec<Option<View>>,
    sums: Vec<Option<View>>,
    pub(crate) buffers: Vec<Lifetime>,
    pub(crate) steps: Vec<Step>,
}

impl<'a> Lowering<'a> {
    pub(crate) fn new(net: &'a Net, weights: &'a Weights, options: &'a Options) -> Self {
        let nodes = net.nodes().len();
        let ids: Vec<NodeId> = net.ids().collect();
        let mut readers = vec![Vec::new(); nodes];
        for (id, node) in ids.iter().zip(net.nodes()) {
            node.inputs.iter().for_each(|i| readers[i.index()].push(*id));
        }
        Self {
            net,
            weights,
            isa: options.isa,
            options,
            blocks: Blocks::new(options.threads),
            ids,
            readers,
            values: vec![None; nodes],
            absorbed: vec![false; nodes],
            pooled: vec![None; nodes],
            sums: vec![None; nodes],
            buffers: Vec::new(),
            steps: Vec::new(),
        }
    }

    /// Makes all steps; returns the view of the logits and that of each tap.
    ///
    /// # Errors
    /// A tap that does not exist, or a folded value that is not finite.
    pub(crate) fn run(&mut self) -> Result<(View, Vec<View>), PlanError> {
        for id in self.ids.clone() {
            if !self.absorbed[id.index()] {
                self.node(id)?;
            }
        }
        let logits = self.map(self.net.output());
        let taps: Vec<View> = self.options.taps.clone().into_iter().map(|id| self.map(id)).collect();
        let kept: Vec<View> = taps.iter().copied().chain([logits]).collect();
        expand::join(&mut self.steps, &mut self.buffers, &kept, self.blocks);
        pooled::join(&mut self.steps, &mut self.buffers, &kept, self.blocks);
        self.live(&kept);
        in_place::add(&mut self.steps, &mut self.buffers);
        Ok((logits, taps))
    }

    /// When each buffer is first written and last read.
    fn live(&mut self, kept: &[View]) {
        let end = self.steps.len();
        for (at, step) in self.steps.iter().enumerate() {
            for view in step.reads().into_iter().chain([step.output]).chain(step.sums.map(|sums| sums.view)) {
                let buffer = &mut self.buffers[view.buffer];
                buffer.first = buffer.first.min(at);
                buffer.last = buffer.last.max(at);
            }
        }
        for view in kept {
            self.buffers[view.buffer].last = end;
        }
    }

    fn node(&mut self, id: NodeId) -> Result<(), PlanError> {
        let node = self.net.node(id);
        let input = |at: usize| node.inputs[at];
        match &node.op {
            Op::Input => self.input(id),
            Op::Conv2d(conv) => self.conv(id, conv)?,
            Op::Predictor(predictor) => self.predictor(id, predictor),
            Op::BatchNorm { .. } => self.norm(id)?,
            Op::Activation(_) => {
                let x = self.map(input(0));
                let act = activation(&node.op);
                self.pixelwise(id, id, |_| Kind::Activate { x, act });
            }
            Op::MaxPool { kernel, stride, padding } => {
                let x = self.map(input(0));
                let shape = self.shape(input(0));
                let mut geometry = Geometry::same([shape.h, shape.w], *kernel, *stride);
                geometry.padding = [*padding; 2];
                self.pixelwise(id, id, |_| Kind::MaxPool { x, geometry });
            }
            Op::GlobalAvgPool => {
                let view = self.pooled(input(0));
                self.set(id, Value::Map(view));
            }
            Op::Add => {
                let [x, y] = [self.map(input(0)), self.map(input(1))];
                let chain = self.activation_behind(id);
                self.pixelwise(id, chain.last, |_| Kind::Add { x, y, act: chain.act });
            }
            Op::Scale => self.scale(id),
            Op::Slice { start, len } => {
                let view = self.map(input(0)).slice(*start, *len);
                self.set(id, Value::Map(view));
            }
            Op::Concat => self.concat(id),
            Op::Shuffle { groups } => {
                let parts = self.parts(input(0));
                self.pixelwise(id, id, |_| Kind::Shuffle { parts, groups: *groups });
            }
            Op::Linear { .. } => {
                let chain = self.activation_behind(id);
                let x = self.map(input(0));
                let [weights, bias] = ["weight", "bias"].map(|s| tensor(self.net, self.weights, id, s));
                let step = self.dense(x, self.dense_storage(), weights, bias.to_vec(), chain.act);
                self.push_dense(id, chain.last, step);
            }
            Op::Dropout { .. } => {
                let value = self.values[input(0).index()].clone();
                self.values[id.index()] = value;
                self.sums[id.index()] = self.sums[input(0).index()];
                self.pooled[id.index()] = self.pooled[input(0).index()];
            }
        }
        Ok(())
    }

    pub(crate) fn shape(&self, id: NodeId) -> Shape {
        self.net.node(id).shape
    }

    pub(crate) fn set(&mut self, id: NodeId, value: Value) {
        self.values[id.index()] = Some(value);
    }

    pub(crate) fn value(&self, id: NodeId) -> Option<&Value> {
        self.values[id.index()].as_ref()
    }

    pub(crate) fn is_tapped(&self, id: NodeId) -> bool {
        self.options.taps.contains(&id)
    }

    /// The only reader of a node that nobody else looks at.
    pub(crate) fn only_reader(&self, id: NodeId) -> Option<NodeId> {
        match self.readers[id.index()][..] {
            [reader] if !self.is_tapped(id) => Some(reader),
            _ => None,
        }
    }

    pub(crate) fn readers(&self, id: NodeId) -> &[NodeId] {
        &self.readers[id.index()]
    }

    /// Whether somebody reads the mean over the pixels of a node's map.
    fn is_pooled(&self, id: NodeId) -> bool {
        self.readers(id).iter().any(|reader| match self.net.node(*reader).op {
            Op::Predictor(_) | Op::GlobalAvgPool => true,
            Op::Dropout { .. } | Op::Slice { .. } => self.is_pooled(*reader),
            Op::Scale => self.net.node(*reader).inputs[0] == id && self.is_pooled(*reader),
            _ => false,
        })
    }

    /// A new map.
    pub(crate) fn buffer(&mut self, channels: usize, pixels: usize) -> View {
        // Pixels that lie a multiple of 1 KiB apart would share few sets of the first cache.
        let ld = if channels.is_multiple_of(256) && pixels > 1 { channels + 16 } else { channels };
        self.buffers.push(Lifetime::new(ld * pixels));
        View { buffer: self.buffers.len() - 1, channel0: 0, channels, ld, pixels }
    }

    /// A new map without gaps between its pixels.
    pub(crate) fn packed_buffer(&mut self, channels: usize, pixels: usize) -> View {
        self.buffers.push(Lifetime::new(channels * pixels));
        View { buffer: self.buffers.len() - 1, channel0: 0, channels, ld: channels, pixels }
    }

    pub(crate) fn push(&mut self, node: NodeId, kind: Kind, output: View, sums: Option<RunSums>) {
        let name = self.net.node(node).name.clone();
        self.steps.push(Step { node, name, kind, output, cost_ns: 0, sums });
    }

    /// Whether somebody reads the mean of a node's map, so that its maker adds up.
    pub(crate) fn is_summed(&self, last: NodeId) -> bool {
        self.shape(last).pixels() > 1 && self.is_pooled(last)
    }

    /// Room for the sums over runs of `every` pixels of a node's map, if somebody reads its mean.
    pub(crate) fn sums_of(&mut self, last: NodeId, every: usize) -> Option<RunSums> {
        if !self.is_summed(last) {
            return None;
        }
        let shape = self.shape(last);
        let view = self.packed_buffer(shape.c, shape.pixels().div_ceil(every));
        self.sums[last.index()] = Some(view);
        Some(RunSums { view, every })
    }

    /// A step over all pixels of a map of the shape of `last`, in bands.
    fn pixelwise(&mut self, node: NodeId, last: NodeId, kind: impl FnOnce(&mut Self) -> Kind) {
        let shape = self.shape(last);
        let kind = kind(self);
        let output = self.buffer(shape.c, shape.pixels());
        let can_sum = !matches!(kind, Kind::Image(_) | Kind::Border { .. } | Kind::Copy { .. });
        let block = blocks::bands(1, shape.pixels(), shape.c, output.ld).pixel_block;
        let sums = if can_sum { self.sums_of(last, block) } else { None };
        self.push(node, kind, output, sums);
        self.set(last, Value::Map(output));
    }

    /// The activation that is a node's only reader.
    pub(crate) fn activation_behind(&mut self, id: NodeId) -> Chain {
        let mut chain = Chain { norm: None, residual: None, act: Activation::None, last: id };
        if let Some(reader) = self.only_reader(id)
            && let op @ Op::Activation(_) = &self.net.node(reader).op
        {
            (chain.act, chain.last) = (activation(op), reader);
            self.absorbed[reader.index()] = true;
        }
        chain
    }

    /// Everything behind a convolution that its epilogue can do: batch normalisation, then either an activation or
    /// an addition of a map that is there already, and the activation behind that.
    pub(crate) fn epilogue(&mut self, id: NodeId) -> Chain {
        let mut last = id;
        let mut norm = None;
        if let Some(reader) = self.only_reader(id)
            && matches!(self.net.node(reader).op, Op::BatchNorm { .. })
        {
            (norm, last) = (Some(reader), reader);
            self.absorbed[reader.index()] = true;
        }
        let mut residual = None;
        if let Some(reader) = self.only_reader(last)
            && let Op::Add = self.net.node(reader).op
            && let Some(other) = self.net.node(reader).inputs.iter().copied().find(|i| *i != last)
            && let Some(Value::Map(view)) = self.value(other)
        {
            (residual, last) = (Some(*view), reader);
            self.absorbed[reader.index()] = true;
        }
        Chain { norm, residual, ..self.activation_behind(last) }
    }

    /// A node's output in memory.
    pub(crate) fn map(&mut self, id: NodeId) -> View {
        match self.values[id.index()].clone() {
            Some(Value::Map(view)) => view,
            Some(Value::Scaled { of, factors }) => {
                let x = self.map(of);
                self.pixelwise(id, id, |_| Kind::Scale { x, factors, act: Activation::None });
                self.map(id)
            }
            Some(Value::Parts(parts)) => {
                let shape = self.shape(id);
                let output = self.buffer(shape.c, shape.pixels());
                let mut start = 0;
                for x in parts {
                    self.push(id, Kind::Copy { x }, output.slice(start, x.channels), None);
                    start += x.channels;
                }
                self.set(id, Value::Map(output));
                output
            }
            // Nodes stand behind their inputs, and coefficients feed convolutions alone: never so in a valid net.
            Some(Value::Gated { .. }) | None => self.packed_buffer(self.shape(id).c, self.shape(id).pixels()),
        }
    }

    fn parts(&self, id: NodeId) -> Vec<View> {
        match self.value(id) {
            Some(Value::Parts(parts)) => parts.clone(),
            Some(Value::Map(view)) => vec![*view],
            _ => vec![],
        }
    }

    /// The mean over the pixels of a node's map.
    pub(crate) fn pooled(&mut self, id: NodeId) -> View {
        if let Some(view) = self.pooled[id.index()] {
            return view;
        }
        let node = self.net.node(id);
        if let Op::Slice { start, len } = node.op
            && self.sums[node.inputs[0].index()].is_some()
        {
            let view = self.pooled(node.inputs[0]).slice(start, len);
            self.pooled[id.index()] = Some(view);
            return view;
        }
        let shape = self.shape(id);
        let view = match (self.value(id).cloned(), self.sums[id.index()]) {
            (Some(Value::Map(view)), _) if shape.pixels() == 1 => view,
            (Some(Value::Scaled { of, factors }), _) => {
                let x = self.pooled(of);
                let view = self.packed_buffer(shape.c, 1);
                self.push(id, Kind::Scale { x, factors, act: Activation::None }, view, None);
                view
            }
            (_, Some(sums)) => {
                let view = self.packed_buffer(shape.c, 1);
                let factor = 1.0 / shape.pixels() as f32;
                self.push(id, Kind::Combine { sums, factor }, view, None);
                view
            }
            _ => {
                let x = self.map(id);
                let view = self.packed_buffer(shape.c, 1);
                self.push(id, Kind::Pool { x }, view, None);
                view
            }
        };
        self.pooled[id.index()] = Some(view);
        view
    }

    /// The images in channels last, unless their only readers are stems that make their own.
    fn input(&mut self, id: NodeId) {
        let shape = self.shape(id);
        let stems = self.readers(id).iter().all(|r| self.stem(*r).is_some());
        if stems && !self.is_tapped(id) && !self.readers(id).is_empty() {
            self.set(id, Value::Parts(vec![]));
            return;
        }
        let output = self.buffer(shape.c, shape.pixels());
        let mut geometry = Geometry::same([shape.h, shape.w], 1, 1);
        geometry.padding = [0, 0];
        self.push(id, Kind::Image(geometry), output, None);
        self.set(id, Value::Map(output));
    }

    /// Format of the weights of fully connected layers: one pixel waits for its weights, not for multiplications.
    pub(crate) fn dense_storage(&self) -> Storage {
        match self.options.precision {
            Precision::F32 => Storage::F32,
            Precision::Bf16 => Storage::Bf16,
        }
    }

    /// A fully connected layer on the means of all pixels or on single pixels.
    pub(crate) fn dense(
        &self,
        x: View,
        storage: Storage,
        weights: &[f32],
        bias: Vec<f32>,
        act: Activation,
    ) -> DenseStep {
        let shape = KernelShape { experts: 1, c_out: bias.len(), c_in: x.channels, taps: 1 };
        let weights = Panels::pack(self.isa, storage, shape, weights);
        DenseStep { x, weights, bias, residual: None, act }
    }

    pub(crate) fn push_dense(&mut self, id: NodeId, last: NodeId, step: DenseStep) {
        let output = self.packed_buffer(step.weights.n(), 1);
        self.push(id, Kind::Dense(Box::new(step)), output, None);
        self.set(last, Value::Map(output));
    }

    fn predictor(&mut self, id: NodeId, predictor: &Predictor) {
        let x = self.pooled(self.net.node(id).inputs[0]);
        // A predictor is as much to read as the fixed kernels. Its hidden layer is a fully connected one like others, too.
        let storage = self.options.experts;
        let hidden_storage = if storage == Storage::F32 { self.dense_storage() } else { storage };
        let layer = |this: &mut Self, name: &str, x: View, storage, act| {
            let [weights, bias] =
                ["weight", "bias"].map(|s| tensor(this.net, this.weights, id, &format!("{name}.{s}")));
            let step = this.dense(x, storage, weights, bias.to_vec(), act);
            this.push_dense(id, id, step);
            this.map(id)
        };
        let (name, x) = match predictor.hidden {
            None => ("fc", x),
            Some(_) => ("fc2", layer(self, "fc1", x, hidden_storage, Activation::Relu)),
        };
        if !self.is_tapped(id) {
            self.set(id, Value::Gated { x, layer: name });
            return;
        }
        let sigmoid = predictor.activation == CoefActivation::Sigmoid;
        let act = if sigmoid { Activation::Sigmoid } else { Activation::None };
        let output = layer(self, name, x, storage, act);
        if let CoefActivation::Softmax { temperature } = predictor.activation {
            let heads = predictor.heads.iter().enumerate();
            let heads = heads.map(|(i, h)| [predictor.head_offset(i), h.channels, h.experts]).collect();
            self.push(id, Kind::Softmax { heads, temperature }, output, None);
        }
    }

    /// Squeeze-and-excitation's end: left to the convolutions that read it, or a pass of its own.
    fn scale(&mut self, id: NodeId) {
        let [of, by] = [0, 1].map(|i| self.net.node(id).inputs[i]);
        let factors = self.map(by);
        let virtually = !self.is_tapped(id) && self.readers(id).iter().all(|r| self.takes_factors(*r, id));
        if virtually && matches!(self.value(of), Some(Value::Map(_))) {
            self.set(id, Value::Scaled { of, factors });
            return;
        }
        let x = self.map(of);
        let chain = self.activation_behind(id);
        self.pixelwise(id, chain.last, |_| Kind::Scale { x, factors, act: chain.act });
    }

    /// Whether a reader multiplies its input with factors itself for less than a pass over the map costs.
    fn takes_factors(&self, reader: NodeId, of: NodeId) -> bool {
        let node = self.net.node(reader);
        match &node.op {
            Op::Predictor(_) | Op::GlobalAvgPool => true,
            Op::Conv2d(c) => {
                let cheap = c.c_out * c.kernel[0] * c.kernel[1] <= 2 * self.shape(of).pixels();
                c.groups == 1 && cheap && self.shape(reader).pixels() > 1
            }
            _ => false,
        }
    }

    fn concat(&mut self, id: NodeId) {
        let inputs = self.net.node(id).inputs.clone();
        let parts: Vec<View> = inputs.into_iter().map(|i| self.map(i)).collect();
        let parts_many = parts.len() > MAX_PARTS;
        self.set(id, Value::Parts(parts));
        let shuffled = self.readers(id).iter().all(|r| matches!(self.net.node(*r).op, Op::Shuffle { .. }));
        if !shuffled || parts_many || self.is_tapped(id) || id == self.net.output() {
            self.map(id);
        }
    }
}

/// The kernels' name of an activation.
pub(crate) fn activation(op: &Op) -> Activation {
    use dynet_net::Activation as A;
    match op {
        Op::Activation(A::Relu) => Activation::Relu,
        Op::Activation(A::Relu6) => Activation::Relu6,
        Op::Activation(A::Hardswish) => Activation::Hardswish,
        Op::Activation(A::Hardsigmoid) => Activation::Hardsigmoid,
        Op::Activation(A::Sigmoid) => Activation::Sigmoid,
        _ => Activation::None,
    }
}
