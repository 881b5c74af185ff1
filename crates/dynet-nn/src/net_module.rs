//! Any [`Net`] as a Burn module.

use std::collections::HashMap;
use std::sync::Arc;

use burn::module::{Module, ModuleMapper, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use dynet_net::{Net, Node, NodeId, Op, ParamSpec, Weights};

use crate::error::{ConfigError, NnError, check_temperature};
use crate::experts::Form;
use crate::layer::Layer;
use crate::ops::{self, Graph, ParamUpdate, Slots};
use crate::pointwise::{activate, global_avg_pool, max_pool, shuffle};
use crate::step::Step;

/// Runs a [`Net`] with Burn's tensors. On an autodiff device it trains: dropout drops, and batch normalisation uses
/// and tracks the batch's statistics.
#[derive(Module, Debug)]
pub struct NetModule {
    /// One for each node of the net.
    layers: Vec<Option<Layer>>,
    #[module(skip)]
    plan: Arc<Plan>,
}

/// What does not change while a net trains.
#[derive(Debug)]
struct Plan {
    net: Net,
    /// For each node, the nodes that nobody reads after it.
    finished: Vec<Vec<usize>>,
    /// The net as one operation, where it has nothing that only Burn's own operations do.
    graph: Option<Arc<Graph>>,
}

impl Plan {
    fn new(net: &Net) -> Self {
        let mut last_reader = vec![0; net.nodes().len()];
        for (index, node) in net.nodes().iter().enumerate() {
            node.inputs.iter().for_each(|input| last_reader[input.index()] = index);
        }
        let mut finished = vec![Vec::new(); net.nodes().len()];
        // The last node is read by the caller.
        for (index, reader) in last_reader.iter().enumerate().take(net.output().index()) {
            finished[*reader].push(index);
        }
        Self { net: net.clone(), finished, graph: Graph::new(net).map(Arc::new) }
    }
}

/// What the nodes have given so far.
struct Values {
    maps: Vec<Option<Tensor<4>>>,
    /// Of predictors: for each head `[n, experts, channels]`.
    coefs: Vec<Vec<Tensor<3>>>,
}

impl Values {
    fn new(nodes: usize) -> Self {
        Self { maps: vec![None; nodes], coefs: vec![Vec::new(); nodes] }
    }

    fn map(&self, id: NodeId) -> Tensor<4> {
        match &self.maps[id.index()] {
            Some(map) => map.clone(),
            None => unreachable!("nodes run after their inputs, which stay until their last reader"),
        }
    }

    /// A node's output as one map, a predictor's too: `[n, coefficients, 1, 1]`.
    fn tap(&self, id: NodeId) -> Tensor<4> {
        let flat = |head: &Tensor<3>| {
            let [n, experts, channels] = head.dims();
            head.clone().reshape([n, experts * channels, 1, 1])
        };
        match self.coefs[id.index()].as_slice() {
            [] => self.map(id),
            heads => Tensor::cat(heads.iter().map(flat).collect(), 1),
        }
    }

    fn forget(&mut self, node: usize) {
        self.maps[node] = None;
        self.coefs[node].clear();
    }
}

impl NetModule {
    /// A net with given weights.
    ///
    /// # Errors
    /// [`NnError::Weights`] that lists every tensor that is missing, extra, misshapen or not finite.
    pub fn new(net: &Net, weights: &Weights, device: &Device) -> Result<Self, NnError> {
        weights.check(net)?;
        Ok(Self::build(net, weights, device))
    }

    /// A net with the seeded initial values of [`Weights::init`].
    pub fn init(net: &Net, seed: u64, device: &Device) -> Self {
        Self::build(net, &Weights::init(net, seed), device)
    }

    fn build(net: &Net, weights: &Weights, device: &Device) -> Self {
        let layers = net.ids().map(|id| Layer::new(net, id, weights, device)).collect();
        Self { layers, plan: Arc::new(Plan::new(net)) }
    }

    /// The logits.
    ///
    /// # Shapes
    /// `images [n, c, h, w]` to `[n, classes]`.
    ///
    /// # Panics
    /// Where the images have other channels than the net's input, or are too small for a layer.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<2> {
        self.forward_at_once(&images, None).unwrap_or_else(|| self.forward_taps(images, &[]).0)
    }

    /// [`Self::forward`] for a step that ends with [`Step::finish`], with the next update of each trainable parameter.
    ///
    /// # Shapes
    /// `images [n, c, h, w]` to `[n, classes]`.
    ///
    /// # Panics
    /// As [`Self::forward`].
    pub fn step(
        &mut self,
        images: Tensor<4>,
        of: impl FnMut(ParamId) -> ParamUpdate,
    ) -> (Tensor<2>, Step<'_>) {
        let slots = self.slots(of);
        // From here on the step gives back what it has taken, whatever happens.
        let mut step = Step::new(self, slots);
        let logits = step.forward(images);
        (logits, step)
    }

    /// Updates all parameters that have a gradient, in place, and returns the new state of each; the others stay as they
    /// are, and so does their state.
    ///
    /// # Panics
    /// Where a gradient or state has not the size of its parameter.
    pub fn update(
        &mut self,
        gradients: GradientsParams,
        of: impl FnMut(ParamId) -> ParamUpdate,
    ) -> HashMap<ParamId, Vec<Tensor<1>>> {
        let slots = self.slots(of);
        Step::new(self, slots).finish(gradients)
    }

    fn slots(&self, of: impl FnMut(ParamId) -> ParamUpdate) -> Slots {
        let trainable = self.named_tensors().filter(|(spec, ..)| spec.is_trainable());
        Slots::new(trainable.map(|(_, id, _)| id).collect(), of)
    }

    /// The net as one operation, where that trains it.
    pub(crate) fn graph(&self, images: &Tensor<4>) -> Option<Arc<Graph>> {
        self.plan.graph.clone().filter(|_| self.trains_at_once(images))
    }

    /// Maps parameters without a clone, which would hold them too, so that they would be copied.
    pub(crate) fn map_layers(&mut self, mapper: &mut impl ModuleMapper) {
        self.layers = std::mem::take(&mut self.layers).map(mapper);
    }

    /// Whether nothing asks for Burn's own operations: no autodiff, a forced form, a frozen layer.
    fn trains_at_once(&self, images: &Tensor<4>) -> bool {
        let own = |layer: &Layer| match layer {
            Layer::Dynamic(conv) => conv.is_forced(),
            Layer::Norm(norm) => !norm.is_training(),
            _ => false,
        };
        images.device().is_autodiff() && !self.layers.iter().flatten().any(own)
    }

    /// Trains the whole net as one operation on a CPU; `None` where Burn's own operations have to do it: on other
    /// devices, and with a forced form or a frozen layer.
    pub(crate) fn forward_at_once(&self, images: &Tensor<4>, slots: Option<&Slots>) -> Option<Tensor<2>> {
        let graph = &self.graph(images)?;
        let [n, ..] = images.dims();
        let params = self.layers.iter().flatten().map(Layer::tracked).collect::<Option<Vec<_>>>()?.concat();
        let masks = || self.masks(images);
        let temperature = self.temperature().unwrap_or(1.0);
        let outcome = ops::forward(graph, images, params, masks, temperature, slots)?;
        for (node, mean, variance) in outcome.statistics {
            if let Some(Layer::Norm(norm)) = &self.layers[node] {
                let pixels = self.plan.net.nodes()[node].shape.pixels();
                let [mean, variance] =
                    [mean, variance].map(|values| Tensor::from_data(values.as_slice(), &images.device()));
                norm.absorb(mean, variance, n * pixels);
            }
        }
        Some(outcome.logits)
    }

    /// For each node that drops a factor for each value, drawn as Burn's layer draws it.
    fn masks(&self, images: &Tensor<4>) -> Vec<Option<Vec<f32>>> {
        let [n, ..] = images.dims();
        let net = &self.plan.net;
        let drawn = net.nodes().iter().zip(&self.layers).map(|(node, layer)| {
            let shape = net.node(*node.inputs.first()?).shape;
            let (dropout, shape) = match layer {
                Some(Layer::Predictor(predictor)) => (&predictor.dropout, [n, shape.c, 1, 1]),
                Some(Layer::Dropout(dropout)) => (dropout, [n, shape.c, shape.h, shape.w]),
                _ => return None,
            };
            if dropout.prob == 0.0 {
                return None;
            }
            let ones = Tensor::<4>::ones(shape, &images.device());
            Some(dropout.forward(ones).into_data().iter::<f32>().collect())
        });
        drawn.collect()
    }

    /// The logits, and the outputs of other nodes on the way.
    ///
    /// # Shapes
    /// `images [n, c, h, w]` to `[n, classes]`; for each tap `[n, c, h, w]` of its node, for a predictor
    /// `[n, coefficients, 1, 1]`.
    ///
    /// # Panics
    /// Where the images have other channels than the net's input or are too small for a layer, and where a tap is
    /// a node of another, larger net.
    pub fn forward_taps(&self, images: Tensor<4>, taps: &[NodeId]) -> (Tensor<2>, Vec<Tensor<4>>) {
        let net = &self.plan.net;
        let mut values = Values::new(net.nodes().len());
        let mut tapped: Vec<Option<Tensor<4>>> = vec![None; taps.len()];
        for (id, node) in net.ids().zip(net.nodes()) {
            match (&node.op, &self.layers[id.index()]) {
                (Op::Input, _) => values.maps[id.index()] = Some(images.clone()),
                (_, Some(Layer::Predictor(predictor))) => {
                    values.coefs[id.index()] = predictor.forward(values.map(node.inputs[0]));
                }
                (_, layer) => values.maps[id.index()] = Some(run(node, layer.as_ref(), &values)),
            }
            for (tap, _) in taps.iter().enumerate().filter(|(_, tap)| **tap == id) {
                tapped[tap] = Some(values.tap(id));
            }
            // Memory of maps that nobody reads again goes at once.
            self.plan.finished[id.index()].iter().for_each(|done| values.forget(*done));
        }
        let logits = values.map(net.output());
        let [n, classes, _, _] = logits.dims();
        let tapped = tapped.into_iter().map(|tap| tap.expect("a tap is a node of this net")).collect();
        (logits.reshape([n, classes]), tapped)
    }

    /// The current weights, by the names of [`Net::params`].
    pub fn weights(&self) -> Weights {
        let mut weights = Weights::new();
        for (spec, _, tensor) in self.named_tensors() {
            let data = tensor.into_data().iter::<f32>().collect();
            weights.insert(spec.name, spec.shape, data);
        }
        weights
    }

    /// Every trainable tensor, for an optimizer that treats kinds of them differently.
    pub fn param_specs(&self) -> HashMap<ParamId, ParamSpec> {
        let trainable = self.named_tensors().filter(|(spec, ..)| spec.is_trainable());
        trainable.map(|(spec, id, _)| (id, spec)).collect()
    }

    fn named_tensors(&self) -> impl Iterator<Item = (ParamSpec, ParamId, Tensor<1>)> {
        let net = &self.plan.net;
        let layers = net.ids().zip(&self.layers).filter_map(|(id, layer)| Some((id, layer.as_ref()?)));
        layers.flat_map(|(id, layer)| {
            net.params_of(id).into_iter().zip(layer.tensors()).map(|(spec, (id, tensor))| (spec, id, tensor))
        })
    }

    /// The net, with its current temperature.
    pub fn net(&self) -> Net {
        let net = &self.plan.net;
        match self.temperature().map(|temperature| net.with_temperature(temperature)) {
            Some(Ok(net)) => net,
            _ => net.clone(),
        }
    }

    /// The temperature of the softmax predictors; `None` where there is none.
    pub fn temperature(&self) -> Option<f32> {
        self.layers.iter().flatten().find_map(|layer| match layer {
            Layer::Predictor(predictor) => predictor.temperature(),
            _ => None,
        })
    }

    /// Sets the temperature of all softmax predictors; a net without one stays as it is.
    ///
    /// # Errors
    /// [`ConfigError::Temperature`] where it is not finite and above 0.
    pub fn set_temperature(&mut self, temperature: f32) -> Result<(), ConfigError> {
        check_temperature(temperature)?;
        for layer in self.layers.iter_mut().flatten() {
            if let Layer::Predictor(predictor) = layer {
                predictor.set_temperature(temperature)?;
            }
        }
        Ok(())
    }

    /// Forces a side of Eq. 2 in all dynamic convolutions; `None` leaves the choice to each.
    pub fn set_form(&mut self, form: Option<Form>) {
        for layer in self.layers.iter_mut().flatten() {
            if let Layer::Dynamic(conv) = layer {
                conv.set_form(form);
            }
        }
    }
}

/// Any node but input and predictors.
fn run(node: &Node, layer: Option<&Layer>, values: &Values) -> Tensor<4> {
    let x = values.map(node.inputs[0]);
    let [n, c, h, w] = x.dims();
    match (layer, &node.op) {
        (Some(Layer::Conv(conv)), _) => conv.forward(x),
        (Some(Layer::Dynamic(conv)), Op::Conv2d(spec)) => {
            let head = spec.dynamic.map_or(0, |dynamic| dynamic.head);
            conv.forward(x, values.coefs[node.inputs[1].index()][head].clone())
        }
        (Some(Layer::Norm(norm)), _) => norm.forward(x),
        (Some(Layer::Linear(linear)), _) => {
            let y = linear.forward(x.reshape([n, c * h * w]));
            let [_, outputs] = y.dims();
            y.reshape([n, outputs, 1, 1])
        }
        (Some(Layer::Dropout(dropout)), _) => dropout.forward(x),
        (_, Op::Activation(activation)) => activate(x, *activation),
        (_, Op::MaxPool { kernel, stride, padding }) => max_pool(x, *kernel, *stride, *padding),
        (_, Op::GlobalAvgPool) => global_avg_pool(x).reshape([n, c, 1, 1]),
        (_, Op::Add) => x + values.map(node.inputs[1]),
        (_, Op::Scale) => x * values.map(node.inputs[1]),
        (_, Op::Slice { start, len }) => x.narrow(1, *start, *len),
        (_, Op::Concat) => Tensor::cat(node.inputs.iter().map(|id| values.map(*id)).collect(), 1),
        (_, Op::Shuffle { groups }) => shuffle(x, *groups),
        (_, op) => unreachable!("{} of {} has its layer", op.kind(), node.name),
    }
}
