//! Gradients of every operation against central differences of an f64 reference.
//!
//! The reference shares nothing with the crates but the net. Both ways of training are held to it: the CPU operations,
//! and Burn's own, which other devices run.
#![expect(clippy::unwrap_used, reason = "a test fails that way")]

#[path = "../common/pass.rs"]
mod pass;
mod reference;

use burn::tensor::Device;
use dynet_net::{
    Activation, CoefActivation, Coefficients, Conv2d, DynamicOptions, Net, NetBuilder, NodeId, Op, Scope,
    Shape, formula,
};

use crate::pass::{module_on, pass};
use crate::reference::{Params, loss};

/// Half the distance of the two points of a difference. Its square, times a third derivative of order one, is the
/// difference's own error, and what f64 leaves of two losses is 1e-16 / 1e-5: both 1e-10 of a gradient.
const STEP: f64 = 1e-5;
/// Largest error of a gradient in f32, over the largest value of its tensor, or over a tenth of the largest gradient of
/// the net, since what cancels leaves the roundings of what it is made of. Gradients pass through at most six layers,
/// each with sums of some hundred products rounded at 6e-8.
const TOLERANCE: f64 = 1e-5;

/// A net and the number of images of its batch.
struct Case {
    net: Net,
    batch: usize,
}

impl Case {
    fn new(net: Net, batch: usize) -> Self {
        Self { net, batch }
    }

    /// Central differences of the reference, in the order of `names`.
    fn differences<'a>(&self, names: impl Iterator<Item = &'a String>) -> Vec<Vec<f64>> {
        let weights = formula::weights(&self.net, 1.0);
        let wide = |values: &[f32]| values.iter().copied().map(f64::from).collect::<Vec<_>>();
        let mut params: Params =
            weights.iter().map(|(name, tensor)| (name.to_owned(), wide(&tensor.data))).collect();
        let images: Vec<f32> = (0..self.batch).flat_map(|i| formula::image(self.net.input(), i)).collect();
        params.insert("images".into(), wide(&images));
        let labels: Vec<usize> = (0..self.batch).map(|i| i % self.net.classes()).collect();
        let mut difference = |name: &String, at: usize| {
            let mut ends = [1.0, -1.0].map(|sign| {
                let mut moved = params.remove(name).unwrap();
                let old = moved[at];
                moved[at] += sign * STEP;
                params.insert(name.clone(), moved);
                let value = loss(&self.net, &params, &params["images"], &labels);
                params.get_mut(name).unwrap()[at] = old;
                value
            });
            ends[0] -= ends[1];
            ends[0] / (2.0 * STEP)
        };
        let len = |name: &String| match weights.get(name) {
            Some(tensor) => tensor.data.len(),
            None => images.len(),
        };
        names.map(|name| (0..len(name)).map(|at| difference(name, at)).collect()).collect()
    }

    fn check(&self, label: &str) {
        let device = Device::flex();
        let got = [("CPU operations", false), ("Burn's operations", true)]
            .map(|(way, burn)| (way, pass(&module_on(&self.net, &device), &device, self.batch, burn).1));
        let trainable = self.net.params().iter().filter(|spec| spec.is_trainable()).count();
        assert_eq!(got[0].1.len(), trainable + 1, "{label}: a gradient of each parameter and of the images");
        let wanted = self.differences(got[0].1.keys());
        let largest = |values: &[f64]| values.iter().fold(0.0, |max: f64, v| max.max(v.abs()));
        let all = wanted.iter().map(|values| largest(values)).fold(0.0, f64::max);
        assert!(all > 1e-3, "{label}: gradients that tell nothing, at most {all:e}");
        let mut wrong = Vec::new();
        for (way, got) in &got {
            for ((name, got), wanted) in got.iter().zip(&wanted) {
                let scale = largest(wanted).max(all / 10.0);
                let errors = got.iter().zip(wanted).map(|(g, w)| (f64::from(*g) - w).abs());
                let error = errors.fold(0.0, |max, e| if e <= max { max } else { e }) / scale;
                if error.is_nan() || error > TOLERANCE {
                    wrong.push(format!("{label}, {way}, {name}: off by {error:.1e}"));
                }
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}

/// A stem, then what `body` adds, then the classifier.
fn net(shape: Shape, channels: usize, body: impl FnOnce(&mut NetBuilder, NodeId) -> NodeId) -> Net {
    let mut b = NetBuilder::new("small", shape);
    let x = b.conv("stem", b.input(), Conv2d::new(shape.c, channels, 1).keep_static());
    let x = body(&mut b, x);
    let x = if b.shape(x).pixels() > 1 { b.push("pool", Op::GlobalAvgPool, &[x]) } else { x };
    b.push("fc", Op::Linear { c_out: 3 }, &[x]);
    b.finish().unwrap()
}

/// Two batch norms, whose gradients pass through mean and variance, around what is tested.
fn between_norms(shape: Shape, channels: usize, body: impl FnOnce(&mut NetBuilder, NodeId) -> NodeId) -> Net {
    net(shape, channels, |b, x| {
        let x = b.norm("before", x);
        let y = body(b, x);
        let y = b.norm("after", y);
        b.act(y, Activation::Sigmoid)
    })
}

fn options(experts: usize) -> DynamicOptions {
    DynamicOptions { experts, dropout: 0.0, ..DynamicOptions::default() }
}

fn convolutions() -> Vec<(&'static str, Conv2d)> {
    let mut odd = Conv2d::new(3, 5, 3).stride(2).with_bias();
    (odd.dilation, odd.padding, odd.kernel) = ([1, 2], [1, 2], [2, 3]);
    vec![
        ("dense", Conv2d::new(3, 5, 3)),
        ("pointwise", Conv2d::new(3, 18, 1)),
        ("strided, dilated", odd),
        ("grouped", Conv2d::new(4, 6, 3).groups(2)),
        ("grouped, strided", Conv2d::new(4, 4, 3).groups(2).stride(2).with_bias()),
        ("depthwise", Conv2d::depthwise(4, 3)),
        ("depthwise, strided", Conv2d::depthwise(3, 5).stride(2)),
    ]
}

#[test]
fn convolutions_static_fused_and_mixed() {
    for (name, conv) in convolutions() {
        // Maps of up to nine pixels are mixed, larger ones fused.
        for (size, form) in [([5, 4], "fused"), ([3, 3], "mixed")] {
            let shape = Shape::new(2, size[0], size[1]);
            let still = between_norms(shape, conv.c_in, |b, x| b.conv("conv", x, conv.clone()));
            let dynamic = still.to_dynamic(&options(3)).unwrap();
            Case::new(still, 2).check(&format!("{name}, {size:?}, static"));
            Case::new(dynamic, 2).check(&format!("{name}, {form}"));
        }
    }
}

#[test]
fn predictors_of_every_form_of_coefficients() {
    let softmax = |temperature| CoefActivation::Softmax { temperature };
    for activation in [softmax(1.0), softmax(4.0), CoefActivation::Sigmoid] {
        for coefficients in [Coefficients::Channel, Coefficients::Kernel] {
            for squeeze in [None, Some(2)] {
                for scope in [Scope::Layer, Scope::Block] {
                    let still = between_norms(Shape::new(2, 4, 4), 4, |b, x| {
                        b.begin_block("block");
                        let y = b.conv("block.wide", x, Conv2d::new(4, 6, 1));
                        let y = b.conv("block.deep", y, Conv2d::depthwise(6, 3).stride(2));
                        let y = b.conv("block.narrow", y, Conv2d::new(6, 4, 1));
                        b.end_block();
                        y
                    });
                    let options = DynamicOptions { activation, coefficients, squeeze, scope, ..options(2) };
                    let label = format!("{activation:?}, {coefficients:?}, {squeeze:?}, {scope:?}");
                    Case::new(still.to_dynamic(&options).unwrap(), 2).check(&label);
                }
            }
        }
    }
}

/// Behind a norm, where the two are one step, and behind a convolution, where it is a step of its own.
#[test]
fn activations_with_and_without_a_norm() {
    let all = [
        Activation::Relu,
        Activation::Relu6,
        Activation::Hardswish,
        Activation::Hardsigmoid,
        Activation::Sigmoid,
    ];
    for activation in all {
        let joined = net(Shape::new(2, 4, 3), 5, |b, x| {
            let x = b.norm("norm", x);
            b.act(x, activation)
        });
        Case::new(joined, 3).check(&format!("norm and {activation:?}"));
        let alone = between_norms(Shape::new(2, 4, 3), 5, |b, x| b.act(x, activation));
        Case::new(alone, 3).check(&format!("{activation:?}"));
        let sum = between_norms(Shape::new(2, 4, 3), 5, |b, x| {
            let y = b.conv("side", x, Conv2d::new(5, 5, 3));
            let y = b.push("sum", Op::Add, &[x, y]);
            b.act(y, activation)
        });
        Case::new(sum, 3).check(&format!("sum and {activation:?}"));
    }
}

#[test]
fn pools_and_what_moves_channels() {
    for (kernel, stride, padding) in [(3, 2, 1), (2, 2, 0), (3, 1, 1)] {
        let pooled = between_norms(Shape::new(2, 6, 5), 4, |b, x| {
            b.push("max", Op::MaxPool { kernel, stride, padding }, &[x])
        });
        Case::new(pooled, 2).check(&format!("max pool {kernel}, {stride}, {padding}"));
    }
    let squeezed = between_norms(Shape::new(2, 4, 3), 4, |b, x| {
        let gate = b.push("squeeze", Op::GlobalAvgPool, &[x]);
        let gate = b.conv("reduce", gate, Conv2d::new(4, 2, 1).with_bias());
        let gate = b.act(gate, Activation::Relu);
        let gate = b.conv("gate", gate, Conv2d::new(2, 4, 1).with_bias());
        let gate = b.act(gate, Activation::Hardsigmoid);
        b.push("scale", Op::Scale, &[x, gate])
    });
    Case::new(squeezed, 3).check("squeeze and excitation");
    let shuffled = between_norms(Shape::new(2, 4, 3), 6, |b, x| {
        let left = b.push("left", Op::Slice { start: 0, len: 4 }, &[x]);
        let right = b.push("right", Op::Slice { start: 2, len: 4 }, &[x]);
        let right = b.conv("right.conv", right, Conv2d::new(4, 4, 3));
        let y = b.push("concat", Op::Concat, &[left, right]);
        b.push("shuffle", Op::Shuffle { groups: 2 }, &[y])
    });
    Case::new(shuffled, 2).check("slice, concat, shuffle");
}
