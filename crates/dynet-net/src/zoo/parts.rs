//! What the families share: rounding of channels, convolution + norm + activation, classifiers.

use crate::builder::NetBuilder;
use crate::net::NodeId;
use crate::op::{Activation, Conv2d, Op};

/// `channels * width`, rounded to a multiple of `divisor`, at least one, and never more than a tenth below:
/// the MobileNets' rule.
pub(super) fn scale(channels: usize, width: f64, divisor: usize) -> usize {
    let (wanted, step) = (channels as f64 * width, divisor as f64);
    let rounded = (((wanted + step / 2.0) / step).floor() * step).max(step);
    // Widths are bounded, so that the value is far below 2^53 and exact.
    (if rounded < 0.9 * wanted { rounded + step } else { rounded }) as usize
}

/// The least multiple of `divisor` that is not below `channels`.
pub(super) fn round_up(channels: usize, divisor: usize) -> usize {
    channels.div_ceil(divisor) * divisor
}

/// Adds `conv` as `conv_name`, its batch normalisation as `norm_name`, and the activation, if any.
pub(super) fn conv_norm(
    b: &mut NetBuilder,
    [conv_name, norm_name]: [&str; 2],
    x: NodeId,
    conv: Conv2d,
    activation: Option<Activation>,
) -> NodeId {
    let x = b.conv(conv_name, x, conv);
    let x = b.norm(norm_name, x);
    match activation {
        Some(activation) => b.act(x, activation),
        None => x,
    }
}

/// Adds the global average pooling in front of a classifier.
pub(super) fn pool(b: &mut NetBuilder, x: NodeId) -> NodeId {
    b.push("avgpool", Op::GlobalAvgPool, &[x])
}

/// Adds a fully connected layer.
pub(super) fn linear(b: &mut NetBuilder, name: &str, x: NodeId, c_out: usize) -> NodeId {
    b.push(name, Op::Linear { c_out }, &[x])
}

/// Adds ResNet's and ShuffleNetV2's `maxpool`: 3 x 3, stride 2.
pub(super) fn max_pool(b: &mut NetBuilder, x: NodeId) -> NodeId {
    b.push("maxpool", Op::MaxPool { kernel: 3, stride: 2, padding: 1 }, &[x])
}
