//! A net with every operation that trains, and so few values that none lies near a kink. `tools/golden/gradients.py` has
//! it in PyTorch.

use dynet_net::{Activation, Conv2d, DynamicOptions, Net, NetBuilder, Op, Shape};

pub(crate) const CLASSES: usize = 3;

/// The net with dynamic convolutions, or without options static.
pub(crate) fn small_net(options: Option<&DynamicOptions>) -> Net {
    let mut b = NetBuilder::new("small", Shape::new(3, 10, 9));
    let x = b.conv("stem", b.input(), Conv2d::new(3, 8, 3).keep_static());
    let x = b.norm("norm1", x);
    let x = b.act(x, Activation::Hardswish);
    let x = b.push("max", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x]);
    let y = b.conv("deep", x, Conv2d::depthwise(8, 3));
    let y = b.norm("norm2", y);
    let y = b.act(y, Activation::Relu6);
    let y = b.conv("grouped", y, Conv2d::new(8, 8, 3).groups(2));
    let gate = b.push("squeeze", Op::GlobalAvgPool, &[y]);
    let gate = b.conv("gate", gate, Conv2d::new(8, 8, 1).with_bias().keep_static());
    let gate = b.act(gate, Activation::Hardsigmoid);
    let y = b.push("scale", Op::Scale, &[y, gate]);
    let y = b.push("add", Op::Add, &[x, y]);
    let y = b.conv("wide", y, Conv2d::new(8, 12, 3).stride(2).with_bias());
    let y = b.norm("norm3", y);
    let y = b.act(y, Activation::Relu);
    let left = b.push("left", Op::Slice { start: 0, len: 8 }, &[y]);
    let right = b.push("right", Op::Slice { start: 8, len: 4 }, &[y]);
    let y = b.push("concat", Op::Concat, &[right, left]);
    let y = b.conv("point", y, Conv2d::new(12, 12, 1));
    let y = b.norm("norm4", y);
    let y = b.act(y, Activation::Sigmoid);
    let y = b.push("shuffle", Op::Shuffle { groups: 3 }, &[y]);
    let y = b.push("pool", Op::GlobalAvgPool, &[y]);
    b.push("fc", Op::Linear { c_out: CLASSES }, &[y]);
    let net = b.finish().unwrap();
    match options {
        Some(options) => net.to_dynamic(options).unwrap(),
        None => net,
    }
}
