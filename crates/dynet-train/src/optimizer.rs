//! SGD with momentum and AdamW over a net's parameters, grouped by what they are for.
//!
//! Burn's own optimizers have no state that is saved by parameter name and restored bit for bit, which a resumed run
//! needs; the two rules are a few lines.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use dynet_net::{ParamKind, ParamSpec};
use dynet_nn::NetModule;

use crate::config::{OptimizerConfig, Rule};

/// A named slot of state: velocity, first and second moment, mean of the weights.
const VELOCITY: &str = "velocity";
const MEAN: &str = "mean";
const SQUARE: &str = "square";
const EMA: &str = "ema";

/// Updates a [`NetModule`] from gradients. State lies flat, by slot and parameter.
pub(crate) struct Optimizer {
    config: OptimizerConfig,
    specs: HashMap<ParamId, ParamSpec>,
    state: HashMap<(&'static str, ParamId), Tensor<1>>,
    /// Updates so far.
    steps: usize,
}

impl Optimizer {
    pub(crate) fn new(config: &OptimizerConfig, module: &NetModule) -> Self {
        Self { config: config.clone(), specs: module.param_specs(), state: HashMap::new(), steps: 0 }
    }

    /// One update of every parameter that has a gradient; returns the norm of all gradients together.
    pub(crate) fn step(&mut self, module: NetModule, grads: GradientsParams, rate: f64) -> (NetModule, f64) {
        self.steps += 1;
        let norm = self.norm(&module, &grads);
        let limit = self.config.clip_norm;
        let scale = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
        let mut update = Update { optimizer: self, grads, rate, scale };
        (module.map(&mut update), norm)
    }

    /// Norm of all gradients together, where somebody asks for it: where they are to be clipped.
    fn norm(&self, module: &NetModule, grads: &GradientsParams) -> f64 {
        if self.config.clip_norm == 0.0 {
            return 0.0;
        }
        let mut visitor = SquareSum { grads, sum: 0.0 };
        module.visit(&mut visitor);
        visitor.sum.sqrt()
    }

    /// The running means of the parameters by name; empty without EMA.
    pub(crate) fn averaged(&self) -> BTreeMap<String, Vec<f32>> {
        self.slot(EMA)
    }

    fn slot(&self, slot: &str) -> BTreeMap<String, Vec<f32>> {
        let own = self.state.iter().filter(|((name, _), _)| *name == slot);
        own.map(|((_, id), tensor)| (self.specs[id].name.clone(), values(tensor))).collect()
    }

    /// All state as `slot/parameter`, with the number of updates.
    pub(crate) fn save(&self) -> (BTreeMap<String, Vec<f32>>, usize) {
        let slots = [VELOCITY, MEAN, SQUARE, EMA];
        let named = |slot: &'static str| {
            self.slot(slot).into_iter().map(move |(name, values)| (format!("{slot}/{name}"), values))
        };
        (slots.into_iter().flat_map(named).collect(), self.steps)
    }

    /// Takes over the state of [`Optimizer::save`]. Names of other things are left alone.
    pub(crate) fn restore(&mut self, state: &BTreeMap<String, Vec<f32>>, steps: usize, device: &Device) {
        self.steps = steps;
        for (id, spec) in &self.specs {
            for slot in [VELOCITY, MEAN, SQUARE, EMA] {
                if let Some(values) = state.get(&format!("{slot}/{}", spec.name)) {
                    let data = TensorData::new(values.clone(), [values.len()]);
                    self.state.insert((slot, *id), Tensor::from_data(data, device));
                }
            }
        }
    }

    /// The new value of one parameter, flat.
    fn update(&mut self, id: ParamId, value: Tensor<1>, grad: Tensor<1>, rate: f64) -> Tensor<1> {
        let spec = &self.specs[&id];
        let decay = if spec.decays() { self.config.weight_decay } else { 0.0 };
        let is_predictor = spec.kind == ParamKind::PredictorWeight;
        let rate = if is_predictor { rate * self.config.predictor_rate } else { rate };
        let value = match self.config.rule {
            Rule::Sgd => self.sgd(id, value, grad, rate, decay),
            Rule::AdamW => self.adamw(id, value, grad, rate, decay),
        };
        if self.config.ema > 0.0 {
            // Young means forget faster: else the first weights would linger.
            let steps = self.steps as f64;
            let keep = self.config.ema.min((1.0 + steps) / (10.0 + steps));
            let mean = self.state.remove(&(EMA, id)).unwrap_or_else(|| value.clone());
            self.state.insert((EMA, id), mean.mul_scalar(keep) + value.clone().mul_scalar(1.0 - keep));
        }
        value
    }

    /// `v = m v + (g + d w)`, then `w -= r v`, or with Nesterov `w -= r (g + d w + m v)`: PyTorch's forms.
    fn sgd(&mut self, id: ParamId, value: Tensor<1>, grad: Tensor<1>, rate: f64, decay: f64) -> Tensor<1> {
        let grad = if decay > 0.0 { grad + value.clone().mul_scalar(decay) } else { grad };
        let momentum = self.config.momentum;
        if momentum == 0.0 {
            return value - grad.mul_scalar(rate);
        }
        let velocity = match self.state.remove(&(VELOCITY, id)) {
            Some(velocity) => velocity.mul_scalar(momentum) + grad.clone(),
            None => grad.clone(),
        };
        let step = if self.config.nesterov {
            grad + velocity.clone().mul_scalar(momentum)
        } else {
            velocity.clone()
        };
        self.state.insert((VELOCITY, id), velocity);
        value - step.mul_scalar(rate)
    }

    /// Adam's step with bias correction, the decay apart from it: `w -= r d w` first.
    fn adamw(&mut self, id: ParamId, value: Tensor<1>, grad: Tensor<1>, rate: f64, decay: f64) -> Tensor<1> {
        let [b1, b2] = self.config.betas;
        let square = grad.clone() * grad.clone();
        let mean = match self.state.remove(&(MEAN, id)) {
            Some(mean) => mean.mul_scalar(b1) + grad.mul_scalar(1.0 - b1),
            None => grad.mul_scalar(1.0 - b1),
        };
        let square = match self.state.remove(&(SQUARE, id)) {
            Some(old) => old.mul_scalar(b2) + square.mul_scalar(1.0 - b2),
            None => square.mul_scalar(1.0 - b2),
        };
        let steps = self.steps as i32;
        let (fix1, fix2) = (1.0 - b1.powi(steps), 1.0 - b2.powi(steps));
        let root = square.clone().div_scalar(fix2).sqrt().add_scalar(self.config.epsilon);
        let step = mean.clone().mul_scalar(rate / fix1) / root;
        self.state.insert((MEAN, id), mean);
        self.state.insert((SQUARE, id), square);
        value.mul_scalar(1.0 - rate * decay) - step
    }
}

fn values(tensor: &Tensor<1>) -> Vec<f32> {
    tensor.clone().into_data().iter::<f32>().collect()
}

struct SquareSum<'a> {
    grads: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SquareSum<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(grad) = self.grads.get::<D>(param.id) {
            let square: f32 = (grad.clone() * grad).sum().into_scalar();
            self.sum += f64::from(square);
        }
    }
}

struct Update<'a> {
    optimizer: &'a mut Optimizer,
    grads: GradientsParams,
    rate: f64,
    scale: f64,
}

impl ModuleMapper for Update<'_> {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(grad) = self.grads.remove::<D>(param.id) else { return param };
        let (id, tensor, mapper) = param.consume();
        let shape = tensor.dims();
        let len = shape.iter().product::<usize>();
        let grad = grad.reshape([len]);
        let grad = if self.scale == 1.0 { grad } else { grad.mul_scalar(self.scale) };
        let value = self.optimizer.update(id, tensor.inner().reshape([len]), grad, self.rate);
        let tensor = Tensor::from_inner(value.reshape(shape)).require_grad();
        Param::from_mapped_value(id, tensor, mapper)
    }
}
