//! The backward pass of a [`Graph`](super::graph::Graph): gradients of all parameters from that of the logits.

use std::collections::HashMap;
use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use dynet_kernels::Activation;
use dynet_kernels::backward::{self as kernels, Dense, Goal, Team, Window};
use dynet_net::{CoefActivation, Conv2d, Head, Predictor};

use crate::ops::arena::Map;
use crate::ops::forward::{
    Context, Note, Pass, Prediction, Way, apply_mask, coefs_of, dense, grouped, map, way,
};
use crate::ops::graph::{Action, Step, point};
use crate::ops::slots::Lent;

/// Gradients on their way to the front.
pub(super) struct Gradients {
    /// Of the maps, one for each node.
    maps: Vec<Option<Map>>,
    /// Of the coefficients of each predictor's heads.
    coefs: HashMap<usize, Vec<Map>>,
    /// Of the parameters; none of those that are updated, or that the logits do not depend on.
    pub(super) params: Vec<Option<Gradient>>,
}

/// The gradient of one parameter.
pub(super) enum Gradient {
    /// Of weights: in the memory that the caller gave.
    Given(FlexTensor),
    /// Of a value a channel.
    Small(Vec<f32>),
}

impl Context<'_> {
    /// Gradients of the parameters and, where `of_images`, of the images, channels last.
    pub(super) fn backward(
        &mut self,
        mut pass: Pass,
        logits: Map,
        of_images: bool,
    ) -> (Gradients, Option<Map>) {
        let graph = self.graph;
        let none = || graph.sizes.iter().map(|_| None).collect();
        let mut grads = Gradients {
            maps: none(),
            coefs: HashMap::new(),
            params: (0..graph.params).map(|_| None).collect(),
        };
        grads.maps[graph.output] = Some(logits);
        for (at, step) in graph.steps.iter().enumerate().rev() {
            let note = std::mem::replace(&mut pass.notes[at], Note::Nothing);
            let wants = |node: usize| of_images || node != 0;
            match (&step.op, note) {
                (Action::Predictor { predictor }, Note::Prediction(own)) => {
                    if let Some(d) = grads.coefs.remove(&step.node) {
                        let mask = pass.chance.masks[at].as_deref();
                        let temperature = pass.chance.temperature;
                        let d_pooled =
                            self.predictor(step, predictor, &own, (pass.images, temperature), d, &mut grads);
                        self.unpool(
                            step.inputs[0],
                            d_pooled,
                            mask,
                            pass.images,
                            wants(step.inputs[0]),
                            &mut grads,
                        );
                    }
                    self.drop_prediction(own);
                }
                (_, note) => {
                    if let Some(dy) = grads.maps[step.output].take() {
                        self.step_back(&pass, at, step, note, dy, wants(step.inputs[0]), &mut grads);
                    }
                }
            }
            if let Some(map) = pass.maps[step.output].take() {
                self.arena.give(map);
            }
        }
        if let Some(images) = pass.maps[0].take() {
            self.arena.give(images);
        }
        let images = grads.maps[0].take();
        (grads, images)
    }

    fn drop_prediction(&mut self, own: Prediction) {
        let all = own.coefs.into_iter().chain(own.hidden).chain([own.pooled]);
        all.for_each(|map| self.arena.give(map));
    }

    /// The gradient of a node that a kernel is to write, and whether it is to add.
    fn open(&mut self, node: usize, images: usize, grads: &mut Gradients) -> (Map, bool) {
        let size = self.graph.sizes[node];
        match grads.maps[node].take() {
            Some(map) => (map, true),
            None => (self.arena.take(images * size.c * size.pixels), false),
        }
    }

    /// Adds a gradient to a node's.
    fn put(&mut self, node: usize, map: Map, grads: &mut Gradients) {
        match &mut grads.maps[node] {
            Some(sum) => {
                kernels::add_into(self.team, sum, &map);
                self.arena.give(map);
            }
            none => *none = Some(map),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step with all that it takes part in")]
    fn step_back(
        &mut self,
        pass: &Pass,
        at: usize,
        step: &Step,
        note: Note,
        mut dy: Map,
        wants: bool,
        grads: &mut Gradients,
    ) {
        let (graph, n) = (self.graph, pass.images);
        let node = step.inputs[0];
        let [input, output] = [node, step.output].map(|i| graph.sizes[i]);
        match (&step.op, note) {
            (Action::Conv { conv, geometry, coefs }, note) => {
                let window = graph.window(geometry, n);
                self.conv_back(pass, step, (conv, &window, *coefs), note, dy, wants, grads);
            }
            (Action::Norm { .. }, Note::Norm(state)) => {
                let [weight, bias] =
                    kernels::norm_backward(self.team, map(&pass.maps, node), &state, step.act, &mut dy);
                grads.params[step.params[0]] = Some(Gradient::Small(weight));
                grads.params[step.params[0] + 1] = Some(Gradient::Small(bias));
                self.put(node, dy, grads);
            }
            (Action::Activate, _) => {
                kernels::activate_backward(self.team, map(&pass.maps, node), step.act, &mut dy);
                self.put(node, dy, grads);
            }
            (Action::MaxPool { geometry }, _) => {
                let mut dx = self.arena.take(n * input.c * input.pixels);
                let x = map(&pass.maps, node);
                kernels::max_pool_backward(self.team, x, geometry, input.c, &dy, &mut dx);
                self.put(node, dx, grads);
                self.arena.give(dy);
            }
            (Action::GlobalAverage, _) => {
                let (mut dx, adds) = self.open(node, n, grads);
                kernels::global_average_backward(self.team, &dy, input.c, &mut dx, adds);
                grads.maps[node] = Some(dx);
                self.arena.give(dy);
            }
            (Action::Add, _) => {
                if step.act != Activation::None {
                    kernels::activate_backward(self.team, map(&pass.maps, step.output), step.act, &mut dy);
                }
                if let Some(sum) = &mut grads.maps[step.inputs[1]] {
                    kernels::add_into(self.team, sum, &dy);
                } else {
                    let mut copy = self.arena.take(dy.len());
                    kernels::put_columns(self.team, &dy, [output.c, 0], &mut copy, [output.c, 0], output.c);
                    grads.maps[step.inputs[1]] = Some(copy);
                }
                self.put(node, dy, grads);
            }
            (Action::Scale, _) => {
                let mut d_factors = self.arena.take(n * input.c);
                let (x, factors) = (map(&pass.maps, node), map(&pass.maps, step.inputs[1]));
                kernels::scale_backward(self.team, x, factors, input.c, &mut dy, &mut d_factors);
                self.put(step.inputs[1], d_factors, grads);
                self.put(node, dy, grads);
            }
            (Action::Slice { start }, _) => {
                let mut dx = match grads.maps[node].take() {
                    Some(map) => map,
                    None => self.arena.zeros(n * input.c * input.pixels),
                };
                kernels::add_columns(self.team, &dy, [output.c, 0], &mut dx, [input.c, *start], output.c);
                grads.maps[node] = Some(dx);
                self.arena.give(dy);
            }
            (Action::Concat, _) => {
                let mut start = 0;
                for id in &step.inputs {
                    let size = graph.sizes[*id];
                    let mut dx = self.arena.take(n * size.c * size.pixels);
                    kernels::put_columns(self.team, &dy, [output.c, start], &mut dx, [size.c, 0], size.c);
                    self.put(*id, dx, grads);
                    start += size.c;
                }
                self.arena.give(dy);
            }
            (Action::Shuffle { groups }, _) => {
                let mut dx = self.arena.take(dy.len());
                kernels::shuffle_columns(self.team, &dy, input.c, input.c / groups, &mut dx);
                self.put(node, dx, grads);
                self.arena.give(dy);
            }
            (Action::Linear, _) => {
                let x = map(&pass.maps, node);
                if let Some(dx) = self.linear_back(step.params[0], x, &dy, n, wants, grads) {
                    self.put(node, dx, grads);
                }
                self.arena.give(dy);
            }
            (Action::Dropout, _) => {
                if let Some(mask) = &pass.chance.masks[at] {
                    apply_mask(&mut dy, mask, input.c, input.pixels);
                }
                self.put(node, dy, grads);
            }
            _ => self.arena.give(dy),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "one step with all that it takes part in")]
    fn conv_back(
        &mut self,
        pass: &Pass,
        step: &Step,
        (conv, window, place): (&Conv2d, &Arc<Window>, Option<(usize, usize)>),
        note: Note,
        dy: Map,
        wants: bool,
        grads: &mut Gradients,
    ) {
        let (index, node) = (step.params[0], step.inputs[0]);
        let x = map(&pass.maps, node);
        let experts = conv.dynamic.map_or(1, |d| d.experts);
        let coefs = place.map(|place| coefs_of(self.graph, &pass.notes, place, conv.c_out));
        let coefs = coefs.as_deref();
        let way = way(conv, window);
        let mut d_coefs = self.arena.take(coefs.map_or(0, <[f32]>::len));
        let (mut dx, adds) =
            if wants { self.open(node, pass.images, grads) } else { (self.arena.take(0), false) };
        if step.params[1] > 1 {
            let sums = kernels::column_sums(self.team, &dy, conv.c_out);
            grads.params[index + 1] = Some(Gradient::Small(sums));
        }
        // First the input, then the weights, whose values may change.
        let weights = values(self.params, self.lent, index);
        let team = &mut *self.team;
        match (way, coefs, note) {
            (Way::Grouped, coefs, _) => {
                let g = grouped(window, conv, weights);
                let mut given = (self.gradient)(index);
                g.backward_weights(team, coefs, [x, &dy], given.storage_mut(), &mut d_coefs);
                if wants {
                    g.backward_input(team, coefs, &dy, &mut dx, adds);
                }
                grads.params[index] = Some(Gradient::Given(given));
            }
            (Way::Fuse, Some(coefs), _) => {
                if wants {
                    let d = dense(window, conv, experts, weights);
                    d.backward_input_fused(team, coefs, &dy, &mut dx, adds);
                }
                grads.params[index] = self.weights_back(index, |team, weights, goal| {
                    let d = dense(window, conv, experts, weights);
                    d.backward_weights_fused(team, coefs, [x, &dy], goal, &mut d_coefs);
                });
            }
            (Way::Mix, Some(coefs), Note::Stack(mut stack)) => {
                let sizes = [pass.images, experts, conv.c_out];
                kernels::mix_backward(team, &mut stack, coefs, sizes, &dy, &mut d_coefs);
                if wants {
                    dense(window, conv, 1, weights).backward_input(team, &stack, &mut dx, adds);
                }
                grads.params[index] = self.weights_back(index, |team, weights, goal| {
                    dense(window, conv, 1, weights).backward_weights(team, [x, &stack], goal);
                });
                self.arena.give(stack);
            }
            _ => {
                if wants {
                    dense(window, conv, 1, weights).backward_input(team, &dy, &mut dx, adds);
                }
                grads.params[index] = self.weights_back(index, |team, weights, goal| {
                    dense(window, conv, 1, weights).backward_weights(team, [x, &dy], goal);
                });
            }
        }
        self.arena.give(dy);
        if wants {
            grads.maps[node] = Some(dx);
        }
        match place {
            Some((predictor, head)) => {
                self.put_coefs(predictor, head, d_coefs, pass.images, conv.c_out, grads)
            }
            None => self.arena.give(d_coefs),
        }
    }

    /// Hands the weights and what is to become of their gradient to `job`; returns the gradient if it is that.
    fn weights_back(
        &mut self,
        index: usize,
        job: impl FnOnce(&mut Team, &[f32], Goal<'_>),
    ) -> Option<Gradient> {
        if let Some(Lent { values, update }) = &mut self.lent[index] {
            job(self.team, &[], Goal::Update(update.kernel(values)));
            return None;
        }
        let mut given = (self.gradient)(index);
        job(self.team, self.params[index], Goal::Gradient(given.storage_mut()));
        Some(Gradient::Given(given))
    }

    /// Adds a convolution's gradient of its coefficients to its predictor's head.
    fn put_coefs(&mut self, node: usize, head: usize, d: Map, n: usize, c_out: usize, grads: &mut Gradients) {
        let step = self.graph.steps.iter().find(|s| s.node == node);
        let Some(Step { op: Action::Predictor { predictor }, .. }) = step else { return self.arena.give(d) };
        let heads = &predictor.heads;
        let own = grads
            .coefs
            .entry(node)
            .or_insert_with(|| heads.iter().map(|head| self.arena.zeros(n * head.len())).collect());
        if heads[head].channels == c_out {
            own[head].iter_mut().zip(d.iter()).for_each(|(sum, d)| *sum += d);
        } else {
            for (sum, d) in own[head].iter_mut().zip(d.chunks_exact(c_out)) {
                *sum += d.iter().sum::<f32>();
            }
        }
        self.arena.give(d);
    }

    /// Gradients of a fully connected layer whose weight and bias are parameters `param` and `param + 1`.
    fn linear_back(
        &mut self,
        param: usize,
        x: &[f32],
        dy: &[f32],
        n: usize,
        wants: bool,
        grads: &mut Gradients,
    ) -> Option<Map> {
        let window = self.graph.window(&point(), n);
        let (c_in, c_out) = (x.len() / n, dy.len() / n);
        // First the input, then the weights, whose values may change.
        let dx = wants.then(|| {
            let mut dx = self.arena.take(x.len());
            let weights = values(self.params, self.lent, param);
            let layer = Dense { window: &window, c_in, c_out, experts: 1, weights };
            layer.backward_input(self.team, dy, &mut dx, false);
            dx
        });
        grads.params[param] = self.weights_back(param, |team, weights, goal| {
            Dense { window: &window, c_in, c_out, experts: 1, weights }.backward_weights(team, [x, dy], goal);
        });
        grads.params[param + 1] = Some(Gradient::Small(kernels::column_sums(self.team, dy, c_out)));
        dx
    }

    /// Gradients of a predictor's parameters; returns that of what it pooled.
    fn predictor(
        &mut self,
        step: &Step,
        predictor: &Predictor,
        own: &Prediction,
        (n, temperature): (usize, f32),
        d_coefs: Vec<Map>,
        grads: &mut Gradients,
    ) -> Map {
        let total = predictor.coefficients();
        let mut scores = self.arena.take(n * total);
        let mut start = 0;
        for ((head, coefs), mut d) in predictor.heads.iter().zip(&own.coefs).zip(d_coefs) {
            let Head { experts, channels } = *head;
            match predictor.activation {
                CoefActivation::Softmax { .. } => {
                    kernels::softmax_backward(self.team, coefs, [experts, channels], temperature, &mut d);
                }
                CoefActivation::Sigmoid => {
                    d.iter_mut().zip(coefs.iter()).for_each(|(d, c)| *d *= c * (1.0 - c));
                }
            }
            kernels::put_columns(self.team, &d, [head.len(), 0], &mut scores, [total, start], head.len());
            start += head.len();
            self.arena.give(d);
        }
        let last = step.params[0] + step.params[1] - 2;
        let units = own.hidden.as_ref().unwrap_or(&own.pooled);
        let back = self.linear_back(last, units, &scores, n, true, grads);
        self.arena.give(scores);
        let Some(mut d_units) = back else { unreachable!("the gradient was asked for") };
        if let Some(hidden) = &own.hidden {
            kernels::activate_backward(self.team, hidden, Activation::Relu, &mut d_units);
            let back = self.linear_back(step.params[0], &own.pooled, &d_units, n, true, grads);
            let Some(d_pooled) = back else { unreachable!("the gradient was asked for") };
            self.arena.give(std::mem::replace(&mut d_units, d_pooled));
        }
        d_units
    }

    /// Through dropout and pooling.
    fn unpool(
        &mut self,
        node: usize,
        mut d: Map,
        mask: Option<&[f32]>,
        n: usize,
        wants: bool,
        grads: &mut Gradients,
    ) {
        if let Some(mask) = mask {
            d.iter_mut().zip(mask).for_each(|(d, m)| *d *= m);
        }
        if wants {
            let (mut dx, adds) = self.open(node, n, grads);
            kernels::global_average_backward(self.team, &d, self.graph.sizes[node].c, &mut dx, adds);
            grads.maps[node] = Some(dx);
        }
        self.arena.give(d);
    }
}

/// The values of a parameter, lent or not.
fn values<'a>(params: &[&'a [f32]], lent: &'a [Option<Lent>], index: usize) -> &'a [f32] {
    lent[index].as_ref().map_or(params[index], |lent| lent.values.storage())
}
