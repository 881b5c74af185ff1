//! The forward pass of a [`Graph`] over a batch.

use std::sync::Arc;

use burn::backend::flex::FlexTensor;
use dynet_kernels::Activation;
use dynet_kernels::backward::{self as kernels, Dense, FUSED_EXPERTS, Grouped, NormState, Team, Window};
use dynet_net::{CoefActivation, Conv2d, Head, Predictor};

use crate::ops::arena::{Arena, Map};
use crate::ops::graph::{Action, Graph, Step, point};
use crate::ops::slots::Lent;

/// Pixels of an image's map up to which experts are mixed, where their number is not the one that the kernels fuse in
/// registers: then K products of these few pixels cost less than fusing K kernels, and rows of all images share a tile.
const MIX_PIXELS: usize = 9;

/// What comes with a step from outside: its dropout, already scaled, and the temperature of its softmax.
#[derive(Debug, Default)]
pub(super) struct Chance {
    /// For each step that drops, a factor for each value, channels first.
    pub(super) masks: Vec<Option<Vec<f32>>>,
    pub(super) temperature: f32,
}

/// What backward needs of a step besides maps.
#[derive(Debug)]
pub(super) enum Note {
    Nothing,
    /// Of a normalisation.
    Norm(NormState),
    /// The outputs of all experts, of a dynamic convolution that mixed them.
    Stack(Map),
    /// Of a predictor.
    Prediction(Prediction),
}

/// What a predictor made on the way to its coefficients.
#[derive(Debug)]
pub(super) struct Prediction {
    /// Behind pooling and dropout.
    pub(super) pooled: Map,
    /// Behind the ReLU.
    pub(super) hidden: Option<Map>,
    /// For each head `[images][experts][channels]`, channels as predicted.
    pub(super) coefs: Vec<Map>,
}

/// A pass over a batch that has been forward and can go back.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) images: usize,
    pub(super) maps: Vec<Option<Map>>,
    /// One for each step.
    pub(super) notes: Vec<Note>,
    pub(super) chance: Chance,
}

/// Everything that a pass works with.
pub(super) struct Context<'a> {
    pub(super) graph: &'a Graph,
    pub(super) team: &'a mut Team,
    pub(super) arena: &'a mut Arena,
    /// Values of the parameters; on the way back none of those that are lent.
    pub(super) params: &'a [&'a [f32]],
    /// On the way back: for each parameter whether, and how, its values are to be updated.
    pub(super) lent: &'a mut [Option<Lent>],
    /// Memory of the size of a parameter for its gradient.
    pub(super) gradient: &'a mut dyn FnMut(usize) -> FlexTensor,
}

/// How a convolution is computed.
pub(super) enum Way {
    Static,
    Grouped,
    Mix,
    Fuse,
}

pub(super) fn way(conv: &Conv2d, window: &Window) -> Way {
    match conv.dynamic {
        _ if conv.groups > 1 => Way::Grouped,
        None => Way::Static,
        Some(d) if mixes(d.experts, window) => Way::Mix,
        Some(_) => Way::Fuse,
    }
}

/// Whether mixing the outputs of all experts takes fewer multiplications than fusing their kernels: forward, back to
/// the input and to the weights.
fn mixes(experts: usize, window: &Window) -> bool {
    if experts != FUSED_EXPERTS {
        return window.outputs() <= MIX_PIXELS;
    }
    let (pixels, taps, met) = (window.outputs(), window.taps(), window.met());
    3 * experts * met <= taps * (4 * experts + 2 * pixels) + met
}

/// The parameters of a step.
fn params_of<'a>(params: &[&'a [f32]], step: &Step) -> Vec<&'a [f32]> {
    params[step.params[0]..][..step.params[1]].to_vec()
}

pub(super) fn dense<'a>(window: &'a Window, conv: &Conv2d, experts: usize, weights: &'a [f32]) -> Dense<'a> {
    let stacked = conv.dynamic.map_or(1, |d| d.experts) / experts;
    Dense { window, c_in: conv.c_in, c_out: conv.c_out * stacked, experts, weights }
}

pub(super) fn grouped<'a>(window: &'a Window, conv: &Conv2d, weights: &'a [f32]) -> Grouped<'a> {
    let experts = conv.dynamic.map_or(1, |d| d.experts);
    Grouped { window, c_in: conv.c_in, c_out: conv.c_out, groups: conv.groups, experts, weights }
}

/// Coefficients for every output channel, where one head value may serve them all.
pub(super) fn of_channels(coefs: &[f32], head: Head, channels: usize) -> std::borrow::Cow<'_, [f32]> {
    if head.channels == channels {
        return coefs.into();
    }
    coefs.iter().flat_map(|c| std::iter::repeat_n(*c, channels)).collect::<Vec<f32>>().into()
}

impl Context<'_> {
    /// Runs all steps on images `[n][pixels][channels]`.
    pub(super) fn forward(&mut self, images: usize, x: Map, chance: Chance) -> Pass {
        let graph = self.graph;
        let mut maps: Vec<Option<Map>> = graph.sizes.iter().map(|_| None).collect();
        maps[0] = Some(x);
        let mut pass = Pass { images, maps, notes: Vec::with_capacity(graph.steps.len()), chance };
        for (at, step) in graph.steps.iter().enumerate() {
            let note = self.step(&mut pass, at, step);
            pass.notes.push(note);
            for input in &step.inputs {
                if !graph.kept[*input]
                    && graph.last_reader[*input] == at
                    && let Some(map) = pass.maps[*input].take()
                {
                    self.arena.give(map);
                }
            }
        }
        pass
    }

    fn step(&mut self, pass: &mut Pass, at: usize, step: &Step) -> Note {
        let (graph, n) = (self.graph, pass.images);
        let [input, output] = [step.inputs[0], step.output].map(|i| graph.sizes[i]);
        if let Action::Predictor { predictor } = &step.op {
            let mask = pass.chance.masks[at].as_deref();
            let map = map(&pass.maps, step.inputs[0]);
            return Note::Prediction(self.predict(
                step,
                predictor,
                n,
                (map, input.c),
                mask,
                pass.chance.temperature,
            ));
        }
        let mut y = self.arena.take(n * output.c * output.pixels);
        let x = map(&pass.maps, step.inputs[0]);
        let team = &mut *self.team;
        let params = params_of(self.params, step);
        let mut note = Note::Nothing;
        match &step.op {
            Action::Conv { conv, geometry, coefs } => {
                let window = graph.window(geometry, n);
                let coefs = coefs.map(|place| coefs_of(graph, &pass.notes, place, conv.c_out));
                note = self.conv(conv, &window, coefs.as_deref(), &params, x, &mut y);
            }
            Action::Norm { eps } => {
                note = Note::Norm(kernels::norm(team, x, [params[0], params[1]], *eps, step.act, &mut y));
            }
            Action::Activate => kernels::activate(team, x, step.act, &mut y),
            Action::MaxPool { geometry } => kernels::max_pool(team, x, geometry, input.c, &mut y),
            Action::GlobalAverage => kernels::global_average(team, x, input.c, &mut y),
            Action::Add => kernels::add(team, [x, map(&pass.maps, step.inputs[1])], step.act, &mut y),
            Action::Scale => kernels::scale(team, x, map(&pass.maps, step.inputs[1]), input.c, &mut y),
            Action::Slice { start } => {
                kernels::put_columns(team, x, [input.c, *start], &mut y, [output.c, 0], output.c);
            }
            Action::Concat => {
                let mut start = 0;
                for id in &step.inputs {
                    let c = graph.sizes[*id].c;
                    kernels::put_columns(team, map(&pass.maps, *id), [c, 0], &mut y, [output.c, start], c);
                    start += c;
                }
            }
            Action::Shuffle { groups } => kernels::shuffle_columns(team, x, input.c, *groups, &mut y),
            Action::Linear => self.linear(n, params[0], Some(params[1]), x, &mut y),
            Action::Dropout => {
                y.copy_from_slice(x);
                if let Some(mask) = &pass.chance.masks[at] {
                    apply_mask(&mut y, mask, input.c, input.pixels);
                }
            }
            Action::Predictor { .. } => {}
        }
        pass.maps[step.output] = Some(y);
        note
    }

    fn conv(
        &mut self,
        conv: &Conv2d,
        window: &Arc<Window>,
        coefs: Option<&[f32]>,
        params: &[&[f32]],
        x: &[f32],
        y: &mut [f32],
    ) -> Note {
        let (weights, bias) = (params[0], params.get(1).copied());
        let team = &mut *self.team;
        let experts = conv.dynamic.map_or(1, |d| d.experts);
        match (way(conv, window), coefs) {
            (Way::Grouped, coefs) => grouped(window, conv, weights).forward(team, coefs, x, bias, y),
            (Way::Fuse, Some(coefs)) => {
                dense(window, conv, experts, weights).forward_fused(team, coefs, x, bias, y);
            }
            (Way::Mix, Some(coefs)) => {
                let mut stack = self.arena.take(y.len() * experts);
                dense(window, conv, 1, weights).forward(team, x, None, &mut stack);
                kernels::mix(team, &stack, coefs, [window.images(), experts, conv.c_out], bias, y);
                return Note::Stack(stack);
            }
            _ => dense(window, conv, 1, weights).forward(team, x, bias, y),
        }
        Note::Nothing
    }

    /// `x W' + b`.
    fn linear(&mut self, images: usize, weights: &[f32], bias: Option<&[f32]>, x: &[f32], y: &mut [f32]) {
        let window = self.graph.window(&point(), images);
        let (c_in, c_out) = (x.len() / images, y.len() / images);
        Dense { window: &window, c_in, c_out, experts: 1, weights }.forward(self.team, x, bias, y);
    }

    fn predict(
        &mut self,
        step: &Step,
        predictor: &Predictor,
        n: usize,
        (x, c): (&[f32], usize),
        mask: Option<&[f32]>,
        temperature: f32,
    ) -> Prediction {
        let params = params_of(self.params, step);
        let mut pooled = self.arena.take(n * c);
        kernels::global_average(self.team, x, c, &mut pooled);
        if let Some(mask) = mask {
            pooled.iter_mut().zip(mask).for_each(|(x, m)| *x *= m);
        }
        let hidden = predictor.hidden.map(|units| {
            let mut raw = self.arena.take(n * units);
            self.linear(n, params[0], Some(params[1]), &pooled, &mut raw);
            let mut hidden = self.arena.take(n * units);
            kernels::activate(self.team, &raw, Activation::Relu, &mut hidden);
            self.arena.give(raw);
            hidden
        });
        let total = predictor.coefficients();
        let mut scores = self.arena.take(n * total);
        let fc = &params[params.len() - 2..];
        self.linear(n, fc[0], Some(fc[1]), hidden.as_ref().unwrap_or(&pooled), &mut scores);
        let mut start = 0;
        let mut coefs = Vec::with_capacity(predictor.heads.len());
        for head in &predictor.heads {
            let mut own = self.arena.take(n * head.len());
            kernels::put_columns(self.team, &scores, [total, start], &mut own, [head.len(), 0], head.len());
            match predictor.activation {
                CoefActivation::Softmax { .. } => {
                    kernels::softmax(self.team, [head.experts, head.channels], temperature, &mut own);
                }
                CoefActivation::Sigmoid => {
                    let mut out = self.arena.take(own.len());
                    kernels::activate(self.team, &own, Activation::Sigmoid, &mut out);
                    self.arena.give(std::mem::replace(&mut own, out));
                }
            }
            coefs.push(own);
            start += head.len();
        }
        self.arena.give(scores);
        Prediction { pooled, hidden, coefs }
    }
}

/// The map of a node.
pub(super) fn map(maps: &[Option<Map>], node: usize) -> &[f32] {
    match &maps[node] {
        Some(map) => map,
        None => unreachable!("steps run after those that they read, whose maps stay until then"),
    }
}

/// The coefficients `[images][experts][c_out]` of a head of a predictor.
pub(super) fn coefs_of<'a>(
    graph: &Graph,
    notes: &'a [Note],
    (node, head): (usize, usize),
    c_out: usize,
) -> std::borrow::Cow<'a, [f32]> {
    let found = graph.steps.iter().zip(notes).find(|(step, _)| step.node == node);
    match found {
        Some((Step { op: Action::Predictor { predictor }, .. }, Note::Prediction(own))) => {
            of_channels(&own.coefs[head], predictor.heads[head], c_out)
        }
        _ => unreachable!("a dynamic convolution reads a predictor that ran before it"),
    }
}

/// Multiplies a map, channels last, by factors whose channels come first.
pub(super) fn apply_mask(map: &mut [f32], mask: &[f32], c: usize, pixels: usize) {
    for (map, mask) in map.chunks_exact_mut(c * pixels).zip(mask.chunks_exact(c * pixels)) {
        for (i, x) in map.iter_mut().enumerate() {
            *x *= mask[i % c * pixels + i / c];
        }
    }
}
