//! A net's pass as a node of Burn's autodiff graph.
//!
//! Burn's operations have a fixed number of parents, a net has hundreds of parameters. So each parameter has a link of
//! its own: a node with two parents, the parameter and the link before it, whose value nobody reads. The pass hangs on
//! the last link and on the images. Backward runs the pass first, which leaves all gradients in the tape; then each link
//! hands its parameter the gradient.

use std::sync::{Arc, Mutex, PoisonError};

use burn::backend::autodiff::checkpoint::base::Checkpointer;
use burn::backend::autodiff::checkpoint::strategy::NoCheckpointing;
use burn::backend::autodiff::grads::Gradients;
use burn::backend::autodiff::ops::{Backward, Ops, OpsKind};
use burn::backend::flex::FlexTensor;
use burn::backend::tensor::FloatTensor;
use burn::backend::{Autodiff, Flex};
use burn::tensor::{Tensor, TensorData};
use dynet_kernels::backward as kernels;

use crate::ops::backward::Gradient;
use crate::ops::forward::{Chance, Context, Note, Pass};
use crate::ops::graph::{Action, Graph};
use crate::ops::slots::{Lent, Slots};
use crate::ops::update::is_whole;
use crate::ops::with_engine;

type Tracked = FloatTensor<Autodiff<Flex>>;

/// What a pass leaves for backward.
#[derive(Debug)]
struct Tape {
    graph: Arc<Graph>,
    /// Contiguous; none of those that are lent.
    params: Vec<Option<FlexTensor>>,
    shape: [usize; 4],
    pass: Mutex<Option<Pass>>,
    gradients: Mutex<Vec<Option<FlexTensor>>>,
    /// Parameters that backward updates.
    slots: Option<Slots>,
}

/// Logits, and each norm's mean and unbiased variance of the batch.
pub(crate) struct Outcome {
    /// `[n, classes]`.
    pub(crate) logits: Tensor<2>,
    /// Node, mean, biased variance and number of values of each norm.
    pub(crate) statistics: Vec<(usize, Vec<f32>, Vec<f32>)>,
}

/// Runs a net on a batch. `None` where Burn's own operations have to: on another backend, without autodiff, with
/// gradient checkpointing or for another number type than f32.
///
/// `masks` gives for each node that drops a factor for each of its values, channels first. Parameters that lie in `slots`
/// are updated by backward and get no gradient.
pub(crate) fn forward(
    graph: &Arc<Graph>,
    images: &Tensor<4>,
    params: Vec<Tracked>,
    masks: impl FnOnce() -> Vec<Option<Vec<f32>>>,
    temperature: f32,
    slots: Option<&Slots>,
) -> Option<Outcome> {
    let shape = images.dims();
    let [n, c, h, w] = shape;
    let image = tracked(images.clone())?;
    if params.len() != graph.params || n == 0 || [c, h, w] != graph.image {
        return None;
    }
    let lent: Vec<_> = (0..params.len()).map(|index| slots?.values(index)).collect();
    let flex = params.iter().zip(&lent).map(|(p, lent)| match lent {
        Some(_) => None,
        None => Some(p.primitive().to_contiguous()),
    });
    let flex: Vec<Option<FlexTensor>> = flex.collect();
    let slices = flex.iter().zip(&lent).map(|(own, lent)| own.as_ref().or(lent.as_ref())?.as_slice::<f32>());
    let slices: Vec<&[f32]> = slices.collect::<Option<_>>()?;
    let pixels = image.primitive().to_contiguous();
    let pixels = pixels.as_slice::<f32>()?;
    let of_nodes = masks();
    let masks = graph.steps.iter().map(|s| of_nodes[s.node].clone()).collect();
    let (pass, logits) = with_engine(|team, arena| {
        let mut x = arena.take(pixels.len());
        kernels::from_planes(team, pixels, c, h * w, &mut x);
        let gradient: &mut dyn FnMut(usize) -> FlexTensor = &mut |_| unreachable!("forward has no gradients");
        let mut context = Context { graph, team, arena, params: &slices, lent: &mut [], gradient };
        let pass = context.forward(n, x, Chance { masks, temperature });
        let logits = pass.maps[graph.output].as_deref().map(<[f32]>::to_vec);
        (pass, logits)
    })?;
    let statistics = graph.steps.iter().zip(&pass.notes).filter_map(|(step, note)| match (&step.op, note) {
        (Action::Norm { .. }, Note::Norm(state)) => Some((step.node, state.mean.clone(), state.var.clone())),
        _ => None,
    });
    let statistics = statistics.collect();
    let tape = Arc::new(Tape {
        graph: Arc::clone(graph),
        params: flex,
        shape,
        pass: Mutex::new(Some(pass)),
        gradients: Mutex::default(),
        slots: slots.cloned(),
    });
    let classes = graph.sizes[graph.output].c;
    let logits = FlexTensor::from_data(TensorData::new(logits?, [n, classes]));
    let logits = register(&tape, images, image, params, logits)?;
    Some(Outcome { logits: Tensor::from_primitive::<Autodiff<Flex>>(logits), statistics })
}

/// The primitive of a tensor on Flex with autodiff.
pub(crate) fn tracked<const D: usize>(tensor: Tensor<D>) -> Option<Tracked> {
    tensor.try_into_primitive::<Autodiff<Flex>>().ok()
}

/// Builds the nodes of a pass.
fn register(
    tape: &Arc<Tape>,
    images: &Tensor<4>,
    image: Tracked,
    params: Vec<Tracked>,
    logits: FlexTensor,
) -> Option<Tracked> {
    let mut token = tracked(Tensor::<1>::zeros([1], &images.device()))?;
    for (index, param) in params.into_iter().enumerate() {
        let value = token.primitive().clone();
        let prep = Link.prepare::<NoCheckpointing>([token.node(), param.node()]).compute_bound();
        token = match prep.stateful() {
            OpsKind::Tracked(prep) => prep.finish((Arc::clone(tape), index), value),
            OpsKind::UnTracked(prep) => prep.finish(value),
        };
    }
    let prep = WholeNet.prepare::<NoCheckpointing>([image.node(), token.node()]).compute_bound();
    Some(match prep.stateful() {
        OpsKind::Tracked(prep) => prep.finish(Arc::clone(tape), logits),
        OpsKind::UnTracked(prep) => prep.finish(logits),
    })
}

/// What flows along the links: a value to say that gradients are there.
fn signal() -> FlexTensor {
    FlexTensor::from_data(TensorData::new(vec![0.0_f32], [1]))
}

/// A parameter's place in the graph. Parents: the link before it, the parameter.
#[derive(Debug)]
struct Link;

impl Backward<Flex, 2> for Link {
    type State = (Arc<Tape>, usize);

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        grads.consume::<Flex>(&ops.node);
        let [before, param] = ops.parents;
        let (tape, index) = ops.state;
        if let Some(before) = before {
            grads.register::<Flex>(before.id, signal());
        }
        let mut gradients = tape.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        let own = gradients.get_mut(index).and_then(Option::take);
        if let (Some(param), Some(own)) = (param, own) {
            grads.register::<Flex>(param.id, own);
        }
    }
}

/// The pass itself. Parents: the images, the last parameter's link.
#[derive(Debug)]
struct WholeNet;

impl Backward<Flex, 2> for WholeNet {
    type State = Arc<Tape>;

    fn backward(self, ops: Ops<Self::State, 2>, grads: &mut Gradients, _: &mut Checkpointer) {
        let d_logits = grads.consume::<Flex>(&ops.node).to_contiguous();
        let [images, link] = ops.parents;
        let tape = ops.state;
        let d_images = tape.run(&d_logits, images.is_some());
        if let (Some(images), Some(d_images)) = (images, d_images) {
            grads.register::<Flex>(images.id, d_images);
        }
        if let Some(link) = link {
            grads.register::<Flex>(link.id, signal());
        }
    }
}

impl Tape {
    /// Runs backward: leaves the gradients of the parameters, returns that of the images if it is asked for.
    fn run(&self, d_logits: &FlexTensor, of_images: bool) -> Option<FlexTensor> {
        let pass = self.pass.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        let mut taken = match &self.slots {
            Some(slots) => Some(slots.take()?),
            None => None,
        };
        let mut none: Vec<_> = self.params.iter().map(|_| None).collect();
        let lent: &mut [Option<Lent>] = taken.as_mut().map_or(&mut none, |taken| &mut taken.all);
        let slices = self.params.iter().zip(&*lent).map(|(own, lent)| match own {
            Some(own) => own.as_slice::<f32>(),
            None => lent.as_ref().map(|_| &[][..]),
        });
        let slices: Vec<&[f32]> = slices.collect::<Option<_>>()?;
        let d_logits = d_logits.as_slice::<f32>()?;
        let [_, c, h, w] = self.shape;
        let mut last = self.graph.gradients.lock().unwrap_or_else(PoisonError::into_inner);
        last.resize(self.params.len(), None);
        let gradient: &mut dyn FnMut(usize) -> FlexTensor = &mut |index| {
            let Some(like) = &self.params[index] else { unreachable!("a lent parameter needs no gradient") };
            // Nobody else holds it when the count says so: then its memory is used again.
            match last[index].take() {
                Some(old)
                    if old.is_unique() && is_whole(&old) && old.layout().shape() == like.layout().shape() =>
                {
                    old
                }
                _ => FlexTensor::empty(like.layout().shape().clone(), like.dtype()),
            }
        };
        let (grads, d_images) = with_engine(|team, arena| {
            let mut d = arena.take(d_logits.len());
            d.copy_from_slice(d_logits);
            let graph = &self.graph;
            let mut context = Context { graph, team, arena, params: &slices, lent, gradient };
            let (grads, d_images) = context.backward(pass, d, of_images);
            let d_images = d_images.map(|d| {
                let mut planes = vec![0.0; d.len()];
                kernels::to_planes(context.team, &d, c, h * w, &mut planes);
                context.arena.give(d);
                planes
            });
            (grads, d_images)
        })?;
        let of = |(gradient, like): (Option<Gradient>, &Option<FlexTensor>)| match (gradient?, like) {
            (Gradient::Given(tensor), _) => Some(tensor),
            (Gradient::Small(values), Some(like)) => {
                Some(FlexTensor::from_data(TensorData::new(values, like.layout().shape().clone())))
            }
            (Gradient::Small(_), None) => None,
        };
        let all: Vec<_> = grads.params.into_iter().zip(&self.params).map(of).collect();
        last.clone_from(&all);
        drop(last);
        *self.gradients.lock().unwrap_or_else(PoisonError::into_inner) = all;
        d_images.map(|values| FlexTensor::from_data(TensorData::new(values, self.shape)))
    }
}
