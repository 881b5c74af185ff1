//! The CPU operations beside Burn's own: the same logits, gradients, running statistics, for any number of threads.
#![expect(clippy::unwrap_used, reason = "tests panic")]

use std::sync::{Mutex, PoisonError};

use burn::module::{Module, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Distribution, Tensor};
use dynet_net::zoo::{self, ZooOptions};
use dynet_net::{CoefActivation, Coefficients, DynamicOptions, Net, NetBuilder, Op, Scope, Shape};
use dynet_nn::{NetModule, set_threads};

/// Sums of some hundred terms in another order.
const FLAT: f32 = 1e-4;
/// Images are moved by this share of themselves, the size of some roundings of their sums, to see what roundings do to a
/// net: its norms over few values magnify them, in some nets a thousandfold.
const NUDGE: f32 = 1e-6;

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

fn run(net: &Net, batch: usize, burn: bool, nudge: f32) -> Trace {
    let device = Device::flex().autodiff();
    device.seed(7);
    let module = NetModule::init(net, 3, &device);
    let forward = |x: Tensor<4>| if burn { module.forward_taps(x, &[]).0 } else { module.forward(x) };
    let Shape { c, h, w } = net.input();
    let images =
        Tensor::<4>::random([batch, c, h, w], Distribution::Normal(0.0, 1.0), &device) * (1.0 + nudge);
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

/// Largest difference over the largest value.
fn apart(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let top = b.iter().fold(1e-6_f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0_f32, |m, (a, b)| m.max((a - b).abs())) / top
}

/// The CPU operations may differ from Burn's by ten times as much as Burn's do on images that are moved a little.
fn compare(net: &Net, batch: usize, label: &str) {
    let own = run(net, batch, false, 0.0);
    let [burn, moved] = [0.0, NUDGE].map(|nudge| run(net, batch, true, nudge));
    let mut wrong = Vec::new();
    let mut check = |what: String, own: &[f32], [burn, moved]: [&[f32]; 2]| {
        let (far, limit) = (apart(own, burn), FLAT + 10.0 * apart(moved, burn));
        if far.is_nan() || far > limit {
            wrong.push(format!("{what}: {far:e}, at most {limit:e}"));
        }
    };
    check("logits".into(), &own.logits, [&burn.logits, &moved.logits]);
    check("gradient of the images".into(), &own.images, [&burn.images, &moved.images]);
    assert_eq!(own.gradients.len(), burn.gradients.len(), "{label}");
    for (i, own) in own.gradients.iter().enumerate() {
        check(
            format!("gradient {i} of {} values", own.len()),
            own,
            [&burn.gradients[i], &moved.gradients[i]],
        );
    }
    for spec in net.params() {
        let [a, b, c] = [&own, &burn, &moved].map(|t| &t.weights.get(&spec.name).unwrap().data[..]);
        check(spec.name, a, [b, c]);
    }
    assert!(wrong.is_empty(), "{label}: {wrong:#?}");
    let again = run(net, batch, false, 0.0);
    set_threads(1);
    let single = run(net, batch, false, 0.0);
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

#[test]
fn dynamic_nets_train_as_with_burns_operations() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    for name in ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0"] {
        compare(&dynamic(name, 0.25, Some(softmax(4))), 8, name);
    }
    let sigmoid = DynamicOptions {
        activation: CoefActivation::Sigmoid,
        scope: Scope::Block,
        squeeze: Some(4),
        coefficients: Coefficients::Kernel,
        ..softmax(3)
    };
    compare(&dynamic("resnet50", 0.125, Some(sigmoid)), 8, "sigmoid");
    compare(&dynamic("dy_mobile", 0.25, None), 8, "dy_mobile");
}

/// A convolution that is wide enough for the fused form, with sizes that no vector divides.
#[test]
fn every_geometry_trains_as_with_burns_operations() {
    let _one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
    set_threads(2);
    use dynet_net::Conv2d;
    let mut odd = Conv2d::new(5, 37, 3).stride(2).with_bias();
    odd.dilation = [1, 2];
    odd.padding = [1, 2];
    for (i, conv) in [
        odd,
        Conv2d::new(5, 33, 1),
        Conv2d::new(5, 7, 1).stride(2),
        Conv2d::new(6, 8, 3).groups(2).stride(2),
        Conv2d::depthwise(5, 5).stride(2),
        Conv2d::depthwise(19, 3).with_bias(),
        Conv2d::new(3, 40, 7).stride(3),
    ]
    .into_iter()
    .enumerate()
    {
        let mut builder = NetBuilder::new("one", Shape::new(3, 15, 13));
        let stem =
            builder.push("stem", Op::Conv2d(Conv2d::new(3, conv.c_in, 1).keep_static()), &[builder.input()]);
        let y = builder.push("conv", Op::Conv2d(conv), &[stem]);
        let pool = builder.push("pool", Op::GlobalAvgPool, &[y]);
        builder.push("fc", Op::Linear { c_out: 4 }, &[pool]);
        let net = builder.finish().unwrap();
        compare(&net, 3, &format!("static geometry {i}"));
        compare(&net.to_dynamic(&softmax(2)).unwrap(), 3, &format!("geometry {i}"));
    }
}
