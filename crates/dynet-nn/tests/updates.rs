//! Updates that backward makes on its way are, bit for bit, those that are made from the gradients behind it; and a step loses nothing.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::collections::HashMap;

use burn::module::{Module, ModuleMapper, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{DynamicOptions, Net, Shape, Weights};
use dynet_nn::{AdamW, NetModule, ParamUpdate, Sgd, UpdateRule, average};

const BATCH: usize = 8;

fn values(tensor: Tensor<1>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

/// Weights and state after three steps, and how many parameters had a gradient in the last.
fn train(net: &Net, rule: impl Fn(usize) -> UpdateRule, on_the_way: bool) -> (Weights, Vec<Vec<f32>>, usize) {
    let device = Device::flex().autodiff();
    device.seed(7);
    let mut module = NetModule::init(net, 3, &device);
    let Shape { c, h, w } = net.input();
    let images = Tensor::<4>::random([BATCH, c, h, w], Distribution::Normal(0.0, 1.0), &device);
    let wanted = Tensor::<2>::random([BATCH, net.classes()], Distribution::Normal(0.0, 1.0), &device);
    let mut states: HashMap<ParamId, Vec<Tensor<1>>> = HashMap::new();
    let mut with_gradient = 0;
    for step in 1..=3 {
        let of = |id| ParamUpdate { rule: rule(step), state: states.remove(&id).unwrap_or_default() };
        let mut back = |logits: Tensor<2>, module: &NetModule| {
            let gradients = (logits - wanted.clone()).square().mean().backward();
            let gradients = GradientsParams::from_grads(gradients, module);
            with_gradient = gradients.len();
            gradients
        };
        states = if on_the_way {
            let (logits, step) = module.step(images.clone(), of);
            let gradients = back(logits, step.module());
            step.finish(gradients)
        } else {
            let gradients = back(module.forward(images.clone()), &module);
            module.update(gradients, of)
        };
    }
    let specs = module.param_specs();
    assert_eq!(states.len(), specs.len(), "a state for each parameter");
    let mut states: Vec<_> = states.into_iter().map(|(id, state)| (specs[&id].name.clone(), state)).collect();
    states.sort_by(|a, b| a.0.cmp(&b.0));
    let states = states.into_iter().flat_map(|(_, state)| state.into_iter().map(values)).collect();
    (module.weights(), states, with_gradient)
}

#[test]
fn updates_on_the_way_back_are_those_from_the_gradients() {
    let sgd = Sgd { rate: 0.05, momentum: 0.9, nesterov: true, decay: 1e-3, scale: 0.5 };
    let plain = Sgd { momentum: 0.0, nesterov: false, ..sgd };
    let adamw =
        |steps| AdamW { rate: 0.01, betas: [0.9, 0.99], epsilon: 1e-6, decay: 0.1, scale: 1.0, steps };
    let options = DynamicOptions { dropout: 0.2, ..DynamicOptions::default() };
    let zoo = ZooOptions { width: 0.25, classes: 10, size: [32, 32], ..ZooOptions::default() };
    for name in ["resnet18", "mobilenet_v3_small"] {
        let net = zoo::build(name, &zoo).unwrap();
        for net in [net.clone(), net.to_dynamic(&options).unwrap()] {
            let rules: [&dyn Fn(usize) -> UpdateRule; 3] =
                [&|_| UpdateRule::Sgd(sgd), &|_| UpdateRule::Sgd(plain), &|step| {
                    UpdateRule::AdamW(adamw(step))
                }];
            for (rule, states) in rules.into_iter().zip([1, 0, 2]) {
                let label = format!("{name}, {} parameters, {:?}", net.params().len(), rule(1));
                let (weights, own, few) = train(&net, rule, true);
                let (wanted, behind, all) = train(&net, rule, false);
                assert_eq!(own.len(), states * all, "{label}: tensors of state");
                assert!(few < all, "{label}: nothing was updated on the way, {few} of {all}");
                assert!(own == behind, "{label}: other state");
                for (name, tensor) in wanted.iter() {
                    assert!(tensor.data == weights.get(name).unwrap().data, "{label}: other bits in {name}");
                }
            }
        }
    }
}

/// A small net in half, its weights, and images for it.
fn small() -> (NetModule, Weights, Tensor<4>) {
    let net = zoo::build("resnet18", &ZooOptions { width: 0.25, ..ZooOptions::default() }).unwrap();
    let device = Device::flex().autodiff();
    let module = NetModule::init(&net, 3, &device);
    let weights = module.weights();
    let Shape { c, h, w } = net.input();
    (module, weights, Tensor::zeros([2, c, h, w], &device))
}

fn unchanged(module: &NetModule, before: &Weights) {
    let after = module.weights();
    for (name, tensor) in before.iter().filter(|(name, _)| !name.contains("running")) {
        assert!(tensor.data == after.get(name).unwrap().data, "{name}");
    }
}

const RULE: UpdateRule =
    UpdateRule::Sgd(Sgd { rate: 0.1, momentum: 0.9, nesterov: false, decay: 0.0, scale: 1.0 });

#[test]
fn a_step_without_backward_loses_nothing() {
    let (mut module, before, images) = small();
    let lens: HashMap<ParamId, usize> =
        module.param_specs().into_iter().map(|(id, spec)| (id, spec.shape.iter().product())).collect();
    let velocity = |id: ParamId| Tensor::from_data(vec![0.5_f32; lens[&id]].as_slice(), &Device::flex());
    let (_, step) = module.step(images.clone(), |id| ParamUpdate { rule: RULE, state: vec![velocity(id)] });
    let zeros = |module: &NetModule| {
        module.weights().iter().filter(|(_, t)| t.data.iter().all(|x| *x == 0.0)).count()
    };
    assert!(zeros(step.module()) > 18, "the weights of dense layers are with the step");
    let states = step.finish(GradientsParams::new());
    unchanged(&module, &before);
    assert!(states.iter().all(|(id, state)| values(state[0].clone()) == vec![0.5; lens[id]]));
    assert_eq!(states.len(), lens.len());
    let (logits, step) = module.step(images, |_| ParamUpdate { rule: RULE, state: Vec::new() });
    drop(step);
    unchanged(&module, &before);
    // The weights that backward was to update are gone from its hands: it has no gradients to give.
    let gradients = GradientsParams::from_grads(logits.sum().backward(), &module);
    assert!(gradients.is_empty(), "{} gradients of a step that was dropped", gradients.len());
}

#[test]
fn weights_that_somebody_else_holds_stay_as_they_are() {
    let (mut module, before, images) = small();
    let held = module.clone();
    let (logits, step) = module.step(images, |_| ParamUpdate { rule: RULE, state: Vec::new() });
    let gradients = GradientsParams::from_grads(logits.sum().backward(), step.module());
    step.finish(gradients);
    unchanged(&held, &before);
    assert!(module.weights().get("fc.bias").unwrap().data != before.get("fc.bias").unwrap().data);
}

/// Freezes one parameter.
struct Freeze(ParamId);

impl ModuleMapper for Freeze {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if param.id == self.0 { param.set_require_grad(false) } else { param }
    }
}

#[test]
fn frozen_weights_stay_as_they_are_and_frozen() {
    let (module, before, images) = small();
    let of = |name: &str| {
        let specs = module.param_specs();
        *specs.iter().find(|(_, spec)| spec.name == name).unwrap().0
    };
    let frozen = of("layer1.0.conv1.weight");
    let mut module = module.map(&mut Freeze(frozen));
    for _ in 0..2 {
        let (logits, step) =
            module.step(images.clone() + 1.0, |_| ParamUpdate { rule: RULE, state: Vec::new() });
        let gradients = GradientsParams::from_grads(logits.square().sum().backward(), step.module());
        step.finish(gradients);
    }
    let changed = |name: &str| module.weights().get(name).unwrap().data != before.get(name).unwrap().data;
    assert!(!changed("layer1.0.conv1.weight") && changed("layer1.0.conv2.weight"));
}

#[test]
fn images_of_another_size_train_on_burns_operations_with_all_weights() {
    let (mut module, _, images) = small();
    let [n, c, h, w] = images.dims();
    let larger = Tensor::ones([n, c, h + 32, w], &images.device());
    let expected = module.clone().forward(larger.clone());
    let (logits, step) = module.step(larger, |_| ParamUpdate { rule: RULE, state: Vec::new() });
    assert_eq!(logits.clone().into_data(), expected.into_data());
    let gradients = GradientsParams::from_grads(logits.sum().backward(), step.module());
    assert_eq!(gradients.len(), step.module().param_specs().len());
    step.finish(gradients);
}

#[test]
fn means_follow_and_leave_the_values_alone() {
    let tensor = |values: [f32; 3]| Tensor::<1>::from_data(values, &Device::flex());
    let first = tensor([1.0, 2.0, -4.0]);
    // The mean starts in the memory of the values.
    let mean = average(first.clone(), tensor([2.0, 0.0, 4.0]), 0.75);
    assert_eq!(values(mean), [1.25, 1.5, -2.0]);
    assert_eq!(values(first), [1.0, 2.0, -4.0]);
}
