//! SGD with momentum and AdamW over a net's parameters, grouped by what they are for.
//!
//! Burn's own optimizers have no state that is saved by parameter name and restored bit for bit, which a resumed run
//! needs, and go over the memory many times; the two rules are operations of `dynet-nn`.

use std::collections::{BTreeMap, HashMap};

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use dynet_net::{ParamKind, ParamSpec};
use dynet_nn::{AdamW, NetModule, ParamUpdate, Sgd, Step, UpdateRule, average, square_sum};

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

    /// Whether a step's updates do not depend on all of its gradients together, so that backward can make them.
    pub(crate) fn needs_no_norm(&self) -> bool {
        self.config.clip_norm == 0.0
    }

    /// Begins a step that backward takes part in; [`Self::finish`] ends it.
    pub(crate) fn begin<'a>(
        &mut self,
        module: &'a mut NetModule,
        images: Tensor<4>,
        rate: f64,
    ) -> (Tensor<2>, Step<'a>) {
        self.steps += 1;
        module.step(images, |id| self.update(id, [rate, 1.0]))
    }

    /// Ends a step: keeps the new states of its parameters.
    pub(crate) fn finish(&mut self, module: &NetModule, states: HashMap<ParamId, Vec<Tensor<1>>>) {
        module.visit(&mut Finish { optimizer: self, states });
    }

    /// One update of every parameter that has a gradient; returns the norm of all gradients together.
    pub(crate) fn step(&mut self, module: &mut NetModule, grads: GradientsParams, rate: f64) -> f64 {
        let norm = self.norm(module, &grads);
        let limit = self.config.clip_norm;
        let scale = if limit > 0.0 && norm > limit { limit / norm } else { 1.0 };
        self.steps += 1;
        let states = module.update(grads, |id| self.update(id, [rate, scale]));
        self.finish(module, states);
        norm
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
    ///
    /// # Errors
    /// What was expected and what was found, where a state has not the size of its parameter.
    pub(crate) fn restore(
        &mut self,
        state: &BTreeMap<String, Vec<f32>>,
        steps: usize,
        device: &Device,
    ) -> Result<(), String> {
        self.steps = steps;
        for (id, spec) in &self.specs {
            for slot in [VELOCITY, MEAN, SQUARE, EMA] {
                let name = format!("{slot}/{}", spec.name);
                let Some(values) = state.get(&name) else { continue };
                let (expected, got) = (spec.shape.iter().product::<usize>(), values.len());
                if got != expected {
                    return Err(format!("optimizer/{name}: expected {expected} values, got {got}"));
                }
                let data = TensorData::new(values.clone(), [got]);
                self.state.insert((slot, *id), Tensor::from_data(data, device));
            }
        }
        Ok(())
    }

    /// The next update of one parameter, with its state.
    fn update(&mut self, id: ParamId, [rate, scale]: [f64; 2]) -> ParamUpdate {
        let (spec, o) = (&self.specs[&id], &self.config);
        let [rate, decay] = match spec.kind {
            ParamKind::PredictorWeight => [rate * o.predictor_rate, o.weight_decay * o.predictor_decay],
            _ => [rate, o.weight_decay],
        };
        let decay = if spec.decays() { decay } else { 0.0 };
        let rule = match o.rule {
            Rule::Sgd => {
                UpdateRule::Sgd(Sgd { rate, momentum: o.momentum, nesterov: o.nesterov, decay, scale })
            }
            Rule::AdamW => {
                let (betas, epsilon, steps) = (o.betas, o.epsilon, self.steps);
                UpdateRule::AdamW(AdamW { rate, betas, epsilon, decay, scale, steps })
            }
        };
        let state = self.slots().iter().filter_map(|slot| self.state.remove(&(*slot, id))).collect();
        ParamUpdate { rule, state }
    }

    /// Slots of the rule's state, in its order.
    fn slots(&self) -> &'static [&'static str] {
        match self.config.rule {
            Rule::Sgd => &[VELOCITY],
            Rule::AdamW => &[MEAN, SQUARE],
        }
    }

    /// Keeps the new state of a parameter, and lets the mean of its values follow.
    fn keep(&mut self, id: ParamId, state: Vec<Tensor<1>>, value: impl FnOnce() -> Tensor<1>) {
        self.state.extend(self.slots().iter().map(|slot| (*slot, id)).zip(state));
        if self.config.ema > 0.0 {
            // Young means forget faster: else the first weights would linger.
            let steps = self.steps as f64;
            let keep = self.config.ema.min((1.0 + steps) / (10.0 + steps));
            let value = value();
            let mean = self.state.remove(&(EMA, id)).unwrap_or_else(|| value.clone());
            self.state.insert((EMA, id), average(mean, value, keep));
        }
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
            let len = grad.dims().iter().product::<usize>();
            self.sum += square_sum(grad.reshape([len]));
        }
    }
}

/// Keeps the state of all parameters.
struct Finish<'a> {
    optimizer: &'a mut Optimizer,
    states: HashMap<ParamId, Vec<Tensor<1>>>,
}

impl ModuleVisitor for Finish<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(state) = self.states.remove(&param.id) {
            let len = param.dims().iter().product::<usize>();
            self.optimizer.keep(param.id, state, || param.val().inner().reshape([len]));
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::GradientsAccumulator;
    use dynet_data::{Batch, Target};
    use dynet_net::{Activation, Conv2d, DynamicOptions, NetBuilder, Op, Shape};

    use super::*;
    use crate::step::{Labelled, pass};

    /// A dynamic convolution and a classifier; no batch normalisation, whose statistics would tell batches apart.
    fn module() -> NetModule {
        let mut builder = NetBuilder::new("tiny", Shape::new(1, 4, 4));
        let first = builder.conv("first", builder.input(), Conv2d::new(1, 2, 3).keep_static().with_bias());
        let second = builder.conv("second", first, Conv2d::new(2, 3, 3));
        let x = builder.act(second, Activation::Relu);
        let pooled = builder.push("pool", Op::GlobalAvgPool, &[x]);
        builder.push("fc", Op::Linear { c_out: 3 }, &[pooled]);
        let options = DynamicOptions { experts: 2, dropout: 0.0, ..DynamicOptions::default() };
        let net = builder.finish().unwrap().to_dynamic(&options).unwrap();
        NetModule::init(&net, 3, &Device::flex().autodiff())
    }

    fn config() -> OptimizerConfig {
        let standard = OptimizerConfig::default();
        OptimizerConfig {
            nesterov: false,
            weight_decay: 0.01,
            predictor_rate: 1.0,
            predictor_decay: 1.0,
            ..standard
        }
    }

    fn id_of(optimizer: &Optimizer, kind: ParamKind) -> ParamId {
        *optimizer.specs.iter().find(|(_, spec)| spec.kind == kind).unwrap().0
    }

    /// The new value of one parameter.
    fn one_update(
        optimizer: &mut Optimizer,
        id: ParamId,
        value: Tensor<1>,
        grad: Tensor<1>,
        rate: f64,
    ) -> Tensor<1> {
        let (value, state) = optimizer.update(id, [rate, 1.0]).step(value, grad);
        optimizer.keep(id, state, || value.clone());
        value
    }

    /// Where 1 and -2 end after three updates at rate 0.1 with gradients (0.5, 0.25), (-1, 0.5), (0.25, -0.125).
    fn three_steps(config: &OptimizerConfig, kind: ParamKind) -> [f32; 2] {
        let mut optimizer = Optimizer::new(config, &module());
        let id = id_of(&optimizer, kind);
        let mut value = Tensor::<1>::from_data([1.0f32, -2.0], &Device::flex());
        for grad in [[0.5f32, 0.25], [-1.0, 0.5], [0.25, -0.125]] {
            optimizer.steps += 1;
            let grad = Tensor::from_data(grad, &Device::flex());
            value = one_update(&mut optimizer, id, value, grad, 0.1);
        }
        values(&value).try_into().unwrap()
    }

    /// Single precision in about ten operations: 1e-6.
    fn assert_close(got: [f32; 2], want: [f64; 2]) {
        assert!(got.iter().zip(want).all(|(g, w)| (f64::from(*g) - w).abs() < 1e-6), "{got:?}, {want:?}");
    }

    #[test]
    fn rules_agree_with_pytorch() {
        // torch.optim in double precision: SGD(0.1, momentum=0.9, weight_decay=0.01), with nesterov=True, without
        // momentum and decay, AdamW(0.1, betas=(0.9, 0.99), weight_decay=0.1).
        let sgd = config();
        assert_close(three_steps(&sgd, ParamKind::ConvWeight), [1.023_984_749, -2.138_894_623]);
        let nesterov = OptimizerConfig { nesterov: true, ..config() };
        assert_close(three_steps(&nesterov, ParamKind::ConvWeight), [1.043_668_458, -2.181_217_024]);
        let plain = OptimizerConfig { momentum: 0.0, weight_decay: 0.0, ..config() };
        assert_close(three_steps(&plain, ParamKind::ConvWeight), [1.025, -2.0625]);
        let adamw = OptimizerConfig { rule: Rule::AdamW, betas: [0.9, 0.99], weight_decay: 0.1, ..config() };
        assert_close(three_steps(&adamw, ParamKind::LinearWeight), [0.922_162_224, -2.192_931_001]);
    }

    #[test]
    fn decay_spares_norms_and_biases_and_predictors_have_their_rate() {
        let without = OptimizerConfig { weight_decay: 0.0, ..config() };
        let bias = three_steps(&config(), ParamKind::Bias);
        assert_eq!(bias, three_steps(&without, ParamKind::Bias));
        assert_ne!(bias, three_steps(&config(), ParamKind::ConvWeight));
        let specs = module().param_specs();
        assert!(specs.values().all(|spec| spec.decays() == spec.name.ends_with(".weight")));
        let frozen = OptimizerConfig { predictor_rate: 0.0, ..config() };
        assert_eq!(three_steps(&frozen, ParamKind::PredictorWeight), [1.0, -2.0]);
        let [pulled, spared, undecayed] =
            [config(), OptimizerConfig { predictor_decay: 0.0, ..config() }, without]
                .map(|config| three_steps(&config, ParamKind::PredictorWeight));
        assert!(spared == undecayed && spared != pulled, "{spared:?}, {pulled:?}");
    }

    #[test]
    fn the_mean_of_the_weights_follows_its_formula() {
        let config = OptimizerConfig { momentum: 0.0, weight_decay: 0.0, ema: 0.25, ..config() };
        let mut optimizer = Optimizer::new(&config, &module());
        let id = id_of(&optimizer, ParamKind::LinearWeight);
        let mut value = Tensor::<1>::from_data([0.0f32], &Device::flex());
        for _ in 0..3 {
            optimizer.steps += 1;
            let grad = Tensor::from_data([-1.0f32], &Device::flex());
            value = one_update(&mut optimizer, id, value, grad, 1.0);
        }
        // Weights 1, 2, 3; kept are min(0.25, 2/11), min(0.25, 3/12), min(0.25, 4/13): of the first nothing is
        // averaged yet.
        let want = (1.0 * 0.25 + 2.0 * 0.75) * 0.25 + 3.0 * 0.75;
        assert_eq!(optimizer.averaged()["fc.weight"], [want]);
    }

    fn batch(images: std::ops::Range<usize>) -> Batch {
        let pixel = |i: usize| ((i * 37 % 101) as f32) / 50.0 - 1.0;
        Batch {
            images: (images.start * 16..images.end * 16).map(pixel).collect(),
            shape: [images.len(), 1, 4, 4],
            targets: images.clone().map(|i| Target { a: i % 3, b: i % 3, share_a: 1.0 }).collect(),
            indices: images.collect(),
            skipped: Vec::new(),
        }
    }

    fn gradients(module: &NetModule, batches: &[Batch]) -> GradientsParams {
        let mut sum = GradientsAccumulator::new();
        let device = Device::flex().autodiff();
        for batch in batches {
            let batch = Labelled::new(batch, 0.1, &device);
            let logits = module.forward(batch.images.clone());
            let (_, grads) = pass(logits, &batch, batches.len());
            sum.accumulate(module, GradientsParams::from_grads(grads.unwrap(), module));
        }
        sum.grads()
    }

    /// What becomes of a module that stays, and the norm of the gradients.
    fn step(
        optimizer: &mut Optimizer,
        module: &NetModule,
        grads: GradientsParams,
        rate: f64,
    ) -> (NetModule, f64) {
        let mut after = module.clone();
        let norm = optimizer.step(&mut after, grads, rate);
        (after, norm)
    }

    #[test]
    fn averaged_passes_are_one_large_batch() {
        let plain = OptimizerConfig { momentum: 0.0, weight_decay: 0.0, ..config() };
        let module = module();
        let after = |batches: &[Batch]| {
            let grads = gradients(&module, batches);
            step(&mut Optimizer::new(&plain, &module), &module, grads, 1.0).0.weights()
        };
        let (one, three) = (after(&[batch(0..6)]), after(&[batch(0..2), batch(2..4), batch(4..6)]));
        for (name, tensor) in one.iter() {
            let other = &three.get(name).unwrap().data;
            // The order of sums differs: a few units in the last place of values below 1.
            let near = tensor.data.iter().zip(other).all(|(a, b)| (a - b).abs() < 1e-6);
            assert!(near, "{name}: {:?}, {other:?}", tensor.data);
        }
    }

    #[test]
    fn clipping_scales_all_gradients_together_and_only_where_they_are_too_long() {
        let module = module();
        let plain = OptimizerConfig { momentum: 0.0, weight_decay: 0.0, ..config() };
        let moved = |clip_norm: f64| {
            let config = OptimizerConfig { clip_norm, ..plain.clone() };
            let grads = gradients(&module, &[batch(0..6)]);
            let (after, norm) = step(&mut Optimizer::new(&config, &module), &module, grads, 1.0);
            let mut square = 0.0;
            for (name, tensor) in module.weights().iter() {
                let new = &after.weights().get(name).unwrap().data.clone();
                square += tensor.data.iter().zip(new).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
            }
            (square.sqrt(), norm)
        };
        let (free, _) = moved(0.0);
        let (long, norm) = moved(1e3);
        // The step is a difference of weights of order 1, each rounded to 6e-8.
        assert!((free - long).abs() < 1e-9 && (free - norm).abs() < 1e-5 * norm, "{free}, {long}, {norm}");
        let (clipped, _) = moved(norm / 8.0);
        assert!((clipped - norm / 8.0).abs() < 1e-5 * norm, "{clipped}, {norm}");
    }

    #[test]
    fn state_comes_back_by_name() {
        let config = OptimizerConfig { ema: 0.9, rule: Rule::AdamW, ..config() };
        let module = module();
        let mut optimizer = Optimizer::new(&config, &module);
        let (after, _) = step(&mut optimizer, &module, gradients(&module, &[batch(0..6)]), 0.1);
        let (state, steps) = optimizer.save();
        assert_eq!((steps, state.len()), (1, 3 * module.param_specs().len()));
        // Another module of the same net has other ids.
        let other = self::module();
        let mut restored = Optimizer::new(&config, &other);
        restored.restore(&state, steps, &Device::flex()).unwrap();
        assert_eq!(restored.save(), (state.clone(), 1));
        assert!(after.weights() != module.weights());
        let mut short = state;
        short.get_mut("square/fc.bias").unwrap().pop();
        let error = restored.restore(&short, steps, &Device::flex()).unwrap_err();
        assert_eq!(error, "optimizer/square/fc.bias: expected 3 values, got 2");
    }
}
