//! The CPU operations beside Burn's own: the same logits, gradients, running statistics, for any number of threads.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{
    Activation, CoefActivation, Coefficients, Conv2d, DynamicOptions, Net, NetBuilder, Op, Scope, Shape,
};
use dynet_nn::{NetModule, set_threads};

/// Sums of some hundred terms in another order, through a few norms: share of the norm of all values.
const SHALLOW: f32 = 1e-3;
/// The same through fifty norms and activations with kinks. An input of a ReLU that lies within roundings of zero passes
/// its gradient in one of the two and not in the other, so single values differ wholly: the gradient of a norm's bias
/// shows it, that of its scale does not.
const DEEP: f32 = 0.1;

/// The number of threads is one for the process.
static ONE: Mutex<()> = Mutex::new(());

struct Collect<'a> {
    gradients: &'a GradientsParams,
    all: Vec<Vec<f32>>,
}

impl ModuleVisitor for Collect<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let gradient = self.gradients.get::<D>(param.id);
        self.all.extend(gradient.map(|g| g.into_data().iter::<f32>().collect()));
    }
}

/// Logits, gradients of the images and of all parameters, running statistics after two passes.
struct Trace {
    logits: Vec<f32>,
    images: Vec<f32>,
    gradients: Vec<Vec<f32>>,
    weights: dynet_net::Weights,
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().iter::<f32>().collect()
}

fn run(net: &Net, batch: usize, burn: bool) -> Trace {
    let device = Device::flex().autodiff();
    device.seed(7);
    let module = NetModule::init(net, 3, &device);
    let forward = |x: Tensor<4>| if burn { module.forward_taps(x, &[]).0 } else { module.forward(x) };
    let Shape { c, h, w } = net.input();
    let images = Tensor::<4>::random([batch, c, h, w], Distribution::Normal(0.0, 1.0), &device);
    let wanted = Tensor::<2>::random([batch, net.classes()], Distribution::Normal(0.0, 1.0), &device);
    device.seed(8);
    let _ = forward(images.clone());
    let images = images.require_grad();
    let logits = forward(images.clone());
    let gradients = ((logits.clone() - wanted).square().mean() * 10.0).backward();
    let of_images = values(images.grad(&gradients).unwrap());
    let gradients = GradientsParams::from_grads(gradients, &module);
    let mut collect = Collect { gradients: &gradients, all: Vec::new() };
    module.visit(&mut collect);
    Trace { logits: values(logits), images: of_images, gradients: collect.all, weights: module.weights() }
}

/// Norm of the difference over the norm of the values, or over that of as many values of size `least`.
fn apart(a: &[f32], b: &[f32], least: f64) -> f32 {
    assert_eq!(a.len(), b.len());
    let least = least * (a.len() as f64).sqrt();
    let norm =
        |it: &mut dyn Iterator<Item = f32>| it.map(|x| f64::from(x) * f64::from(x)).sum::<f64>().sqrt();
    (norm(&mut a.iter().zip(b).map(|(a, b)| a - b)) / norm(&mut b.iter().copied()).max(least)) as f32
}

/// Logits and statistics agree closely, gradients within `limit`.
fn compare(net: &Net, batch: usize, label: &str, limit: f32) {
    let [own, burn] = [false, true].map(|burn| run(net, batch, burn));
    let mut wrong = Vec::new();
    let all: Vec<f32> = burn.gradients.concat();
    let mean = all.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>() / all.len() as f64;
    // A scale whose effect the next norm undoes has a gradient of zero, but for roundings of what cancels in it.
    let least = 0.1 * mean.sqrt();
    let mut check = |what: String, own: &[f32], burn: &[f32], limit: f32| {
        let far = apart(own, burn, least);
        if far.is_nan() || far > limit {
            wrong.push(format!("{what}: {far:e}"));
        }
    };
    check("logits".into(), &own.logits, &burn.logits, SHALLOW);
    check("gradient of the images".into(), &own.images, &burn.images, limit);
    assert_eq!(own.gradients.len(), burn.gradients.len(), "{label}");
    for (i, (own, burn)) in own.gradients.iter().zip(&burn.gradients).enumerate() {
        check(format!("gradient {i} of {} values", own.len()), own, burn, limit);
    }
    for spec in net.params() {
        let [own, burn] = [&own, &burn].map(|t| &t.weights.get(&spec.name).unwrap().data[..]);
        check(spec.name, own, burn, SHALLOW);
    }
    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
    let again = run(net, batch, false);
    set_threads(1);
    let single = run(net, batch, false);
    set_threads(2);
    for (other, what) in [(again, "another run"), (single, "one thread")] {
        assert!(own.logits == other.logits, "{label}: logits of {what}");
        assert!(own.images == other.images, "{label}: gradient of the images of {what}");
        assert!(own.gradients == other.gradients, "{label}: gradients of {what}");
    }
}

fn dynamic(name: &str, width: f64, options: Option<DynamicOptions>) -> Net {
    let zoo = ZooOptions { width, classes: 10, size: [64, 64], ..ZooOptions::default() };
    let net = zoo::build(name, &zoo).unwrap();
    match options {
        Some(options) => net.twin().to_dynamic(&options).unwrap(),
        None => net,
    }
}

fn softmax(experts: usize) -> DynamicOptions {
    DynamicOptions { experts, dropout: 0.2, ..DynamicOptions::default() }
}

/// The paper's coefficients, one for each kernel, from a hidden layer.
fn sigmoid() -> DynamicOptions {
    DynamicOptions {
        activation: CoefActivation::Sigmoid,
        squeeze: Some(4),
        coefficients: Coefficients::Kernel,
        ..softmax(3)
    }
}

#[test]
fn dynamic_nets_train_as_with_burns_operations() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    for name in ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0"] {
        compare(&dynamic(name, 0.25, Some(softmax(4))), 8, name, DEEP);
    }
    compare(
        &dynamic("resnet18", 0.25, Some(DynamicOptions { scope: Scope::Block, ..sigmoid() })),
        8,
        "sigmoid",
        DEEP,
    );
    compare(&dynamic("dy_mobile", 0.25, None), 8, "dy_mobile", DEEP);
}

/// A convolution that is wide enough for the fused form, with sizes that no vector divides.
#[test]
fn every_geometry_trains_as_with_burns_operations() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    let mut odd = Conv2d::new(5, 37, 3).stride(2).with_bias();
    odd.dilation = [1, 2];
    odd.padding = [1, 2];
    let large = [15, 13];
    for (i, (conv, [height, width], experts)) in [
        (odd, large, 2),
        (Conv2d::new(5, 33, 1), large, 2),
        (Conv2d::new(5, 7, 1).stride(2), large, 2),
        (Conv2d::new(6, 8, 3).groups(2).stride(2), large, 2),
        (Conv2d::depthwise(5, 5).stride(2), large, 2),
        (Conv2d::depthwise(19, 3).with_bias(), large, 2),
        (Conv2d::new(3, 40, 7).stride(3), large, 2),
        // Most of the window lies outside: mixed, and pixel by pixel.
        (Conv2d::new(129, 130, 5).with_bias(), [2, 2], 4),
        (Conv2d::new(19, 24, 3).stride(2), [4, 4], 4),
    ]
    .into_iter()
    .enumerate()
    {
        let mut builder = NetBuilder::new("one", Shape::new(3, height, width));
        let stem =
            builder.push("stem", Op::Conv2d(Conv2d::new(3, conv.c_in, 1).keep_static()), &[builder.input()]);
        let y = builder.push("conv", Op::Conv2d(conv), &[stem]);
        let pool = builder.push("pool", Op::GlobalAvgPool, &[y]);
        builder.push("fc", Op::Linear { c_out: 4 }, &[pool]);
        let net = builder.finish().unwrap();
        compare(&net, 3, &format!("static geometry {i}"), SHALLOW);
        compare(&net.to_dynamic(&softmax(experts)).unwrap(), 3, &format!("geometry {i}"), SHALLOW);
    }
}

/// Every operation once, with so few values that none lies near a kink.
#[test]
fn every_operation_trains_as_with_burns_operations() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    let mut b = NetBuilder::new("all", Shape::new(3, 9, 8));
    let input = b.input();
    let x = b.conv("stem", input, Conv2d::new(3, 12, 3).keep_static());
    let x = b.norm("norm1", x);
    let x = b.act(x, Activation::Hardswish);
    let x = b.push("max", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]);
    let y = b.conv("wide", x, Conv2d::new(12, 20, 1));
    let y = b.norm("norm2", y);
    let y = b.act(y, Activation::Relu6);
    let y = b.conv("deep", y, Conv2d::depthwise(20, 3));
    let y = b.norm("norm3", y);
    let y = b.act(y, Activation::Sigmoid);
    let gate = b.push("squeeze", Op::GlobalAvgPool, &[y]);
    let gate = b.conv("gate", gate, Conv2d::new(20, 20, 1).with_bias().keep_static());
    let gate = b.act(gate, Activation::Hardsigmoid);
    let y = b.push("scale", Op::Scale, &[y, gate]);
    let y = b.conv("narrow", y, Conv2d::new(20, 12, 1));
    let y = b.norm("norm4", y);
    let y = b.push("add", Op::Add, &[x, y]);
    let y = b.act(y, Activation::Relu);
    let left = b.push("left", Op::Slice { start: 0, len: 8 }, &[y]);
    let right = b.push("right", Op::Slice { start: 4, len: 8 }, &[y]);
    let y = b.push("concat", Op::Concat, &[right, left]);
    let y = b.push("shuffle", Op::Shuffle { groups: 2 }, &[y]);
    let y = b.push("pool", Op::GlobalAvgPool, &[y]);
    let y = b.push("drop", Op::Dropout { rate: 0.3 }, &[y]);
    b.push("fc", Op::Linear { c_out: 5 }, &[y]);
    let net = b.finish().unwrap();
    compare(&net, 4, "static", SHALLOW);
    compare(&net.to_dynamic(&softmax(3)).unwrap(), 4, "dynamic", SHALLOW);
    compare(&net.to_dynamic(&sigmoid()).unwrap(), 4, "sigmoid", SHALLOW);
}
