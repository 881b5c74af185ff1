//! MobileNetV2 as torchvision has it (Sandler et al., 2018). Made dynamic, block by block, it is the paper's
//! Dy-MobileNetV2 of the correlation study, which keeps MobileNetV2's channels.

use super::ZooOptions;
use super::parts::{conv_norm, linear, pool, scale};
use crate::builder::{NetBuilder, NetError};
use crate::net::{Net, NodeId};
use crate::op::{Activation, Conv2d, Op};

/// Some blocks of the same channels.
pub(super) struct Row {
    /// Factor from the input's channels to the hidden ones.
    pub(super) expand: usize,
    /// Output channels.
    pub(super) channels: usize,
    /// Number of blocks.
    pub(super) blocks: usize,
    /// Stride of the first one.
    pub(super) stride: usize,
}

const fn row(expand: usize, channels: usize, blocks: usize, stride: usize) -> Row {
    Row { expand, channels, blocks, stride }
}

/// Channels of the stem, 112 x 112.
pub(super) const STEM: usize = 32;
/// Channels of the last convolution, 7 x 7.
pub(super) const LAST: usize = 1280;
pub(super) const ROWS: [Row; 7] = [
    row(1, 16, 1, 1),  // 112 x 112
    row(6, 24, 2, 2),  // 56 x 56
    row(6, 32, 3, 2),  // 28 x 28
    row(6, 64, 4, 2),  // 14 x 14
    row(6, 96, 3, 1),  // 14 x 14
    row(6, 160, 3, 2), // 7 x 7
    row(6, 320, 1, 1), // 7 x 7
];

const RELU6: Option<Activation> = Some(Activation::Relu6);

pub(super) fn build(name: &str, options: &ZooOptions) -> Result<Net, NetError> {
    assemble(name, options, |b, path, x, row, stride| {
        let channels = scale(row.channels, options.width, 8);
        let hidden = b.channels(x) * row.expand;
        inverted_residual(b, path, x, [hidden, channels], stride)
    })
}

/// Stem, blocks as `block` adds them, last convolution, classifier. `block` gets the builder, the block's
/// path, its input, its row and its stride, and returns its output.
pub(super) fn assemble(
    name: &str,
    options: &ZooOptions,
    block: impl Fn(&mut NetBuilder, &str, NodeId, &Row, usize) -> NodeId,
) -> Result<Net, NetError> {
    let mut b = NetBuilder::new(name, options.image());
    // A small stem leaves out the stride of the stem and the first one after it.
    let mut leave_out = options.small_stem;
    let stem = Conv2d::new(options.channels, scale(STEM, options.width, 8), 3);
    let stem = stem.stride(if leave_out { 1 } else { 2 }).keep_static();
    let x = b.input();
    let mut x = conv_norm(&mut b, ["features.0.0", "features.0.1"], x, stem, RELU6);
    let mut index = 1;
    for row in &ROWS {
        for i in 0..row.blocks {
            let mut stride = if i == 0 { row.stride } else { 1 };
            if stride == 2 && std::mem::take(&mut leave_out) {
                stride = 1;
            }
            let path = format!("features.{index}");
            b.begin_block(&path);
            x = block(&mut b, &path, x, row, stride);
            b.end_block();
            index += 1;
        }
    }
    let last = Conv2d::new(b.channels(x), scale(LAST, options.width.max(1.0), 8), 1);
    let names = [format!("features.{index}.0"), format!("features.{index}.1")];
    let x = conv_norm(&mut b, [&names[0], &names[1]], x, last, RELU6);
    let x = pool(&mut b, x);
    let x = b.push("classifier.0", Op::Dropout { rate: 0.2 }, &[x]);
    linear(&mut b, "classifier.1", x, options.classes);
    b.finish()
}

/// 1 x 1 to the hidden channels, unless they are the input's -> depthwise 3 x 3 -> 1 x 1, linear; residual.
fn inverted_residual(
    b: &mut NetBuilder,
    path: &str,
    input: NodeId,
    [hidden, c_out]: [usize; 2],
    stride: usize,
) -> NodeId {
    let c_in = b.channels(input);
    let depthwise = Conv2d::depthwise(hidden, 3).stride(stride);
    let mut inner = vec![];
    if hidden != c_in {
        inner.push(Conv2d::new(c_in, hidden, 1));
    }
    inner.push(depthwise);
    linear_bottleneck(b, path, input, inner, Conv2d::new(hidden, c_out, 1))
}

/// The `inner` convolutions with ReLU6, then `project` without; the input added where sizes agree.
pub(super) fn linear_bottleneck(
    b: &mut NetBuilder,
    path: &str,
    input: NodeId,
    inner: Vec<Conv2d>,
    project: Conv2d,
) -> NodeId {
    let n = inner.len();
    let mut x = input;
    for (i, conv) in inner.into_iter().enumerate() {
        let names = [format!("{path}.conv.{i}.0"), format!("{path}.conv.{i}.1")];
        x = conv_norm(b, [&names[0], &names[1]], x, conv, RELU6);
    }
    let names = [format!("{path}.conv.{n}"), format!("{path}.conv.{}", n + 1)];
    let x = conv_norm(b, [&names[0], &names[1]], x, project, None);
    if b.shape(x) == b.shape(input) { b.push(&format!("{path}.add"), Op::Add, &[input, x]) } else { x }
}
