//! MobileNetV3 small and large as torchvision has them (Howard et al., 2019).
//!
//! Dy-MobileNetV3 is reported in the paper (arXiv 2004.10694) without its block design. The design here is
//! this project's own: MobileNetV3's blocks, every convolution of a block dynamic with one predictor per
//! block, squeeze-and-excitation kept and static.

use super::ZooOptions;
use super::parts::{linear, pool, scale};
use crate::builder::{NetBuilder, NetError};
use crate::net::{Net, NodeId};
use crate::op::{Activation, Conv2d, Op};

struct Row {
    kernel: usize,
    expanded: usize,
    channels: usize,
    /// Whether the block has squeeze-and-excitation.
    excite: bool,
    activation: Activation,
    stride: usize,
}

const fn row(
    kernel: usize,
    expanded: usize,
    channels: usize,
    excite: bool,
    activation: Activation,
    stride: usize,
) -> Row {
    Row { kernel, expanded, channels, excite, activation, stride }
}

const RE: Activation = Activation::Relu;
const HS: Activation = Activation::Hardswish;
const SE: bool = true;

/// One architecture of the family.
pub(super) struct MobilenetV3 {
    rows: &'static [Row],
    /// Features of the hidden layer of the classifier.
    last: usize,
}

/// Channels of the stem, 112 x 112.
const STEM: usize = 16;

pub(super) const SMALL: MobilenetV3 = MobilenetV3 {
    rows: &[
        row(3, 16, 16, SE, RE, 2),  // 56 x 56
        row(3, 72, 24, !SE, RE, 2), // 28 x 28
        row(3, 88, 24, !SE, RE, 1), // 28 x 28
        row(5, 96, 40, SE, HS, 2),  // 14 x 14
        row(5, 240, 40, SE, HS, 1), // 14 x 14
        row(5, 240, 40, SE, HS, 1), // 14 x 14
        row(5, 120, 48, SE, HS, 1), // 14 x 14
        row(5, 144, 48, SE, HS, 1), // 14 x 14
        row(5, 288, 96, SE, HS, 2), // 7 x 7
        row(5, 576, 96, SE, HS, 1), // 7 x 7
        row(5, 576, 96, SE, HS, 1), // 7 x 7
    ],
    last: 1024,
};

pub(super) const LARGE: MobilenetV3 = MobilenetV3 {
    rows: &[
        row(3, 16, 16, !SE, RE, 1),  // 112 x 112
        row(3, 64, 24, !SE, RE, 2),  // 56 x 56
        row(3, 72, 24, !SE, RE, 1),  // 56 x 56
        row(5, 72, 40, SE, RE, 2),   // 28 x 28
        row(5, 120, 40, SE, RE, 1),  // 28 x 28
        row(5, 120, 40, SE, RE, 1),  // 28 x 28
        row(3, 240, 80, !SE, HS, 2), // 14 x 14
        row(3, 200, 80, !SE, HS, 1), // 14 x 14
        row(3, 184, 80, !SE, HS, 1), // 14 x 14
        row(3, 184, 80, !SE, HS, 1), // 14 x 14
        row(3, 480, 112, SE, HS, 1), // 14 x 14
        row(3, 672, 112, SE, HS, 1), // 14 x 14
        row(5, 672, 160, SE, HS, 2), // 7 x 7
        row(5, 960, 160, SE, HS, 1), // 7 x 7
        row(5, 960, 160, SE, HS, 1), // 7 x 7
    ],
    last: 1280,
};

impl MobilenetV3 {
    pub(super) fn build(&self, name: &str, options: &ZooOptions) -> Result<Net, NetError> {
        let channels = |c| scale(c, options.width, 8);
        let mut b = NetBuilder::new(name, options.image());
        // A small stem leaves out the stride of the stem and the first one after it.
        let mut leave_out = options.small_stem;
        let stem = Conv2d::new(options.channels, channels(STEM), 3);
        let stem = stem.stride(if leave_out { 1 } else { 2 }).keep_static();
        let x = b.input();
        let mut x = conv_norm(&mut b, "features.0", x, stem, Some(HS));
        for (row, index) in self.rows.iter().zip(1..) {
            let mut row = Row { expanded: channels(row.expanded), channels: channels(row.channels), ..*row };
            if row.stride == 2 && std::mem::take(&mut leave_out) {
                row.stride = 1;
            }
            x = row.add(&mut b, &format!("features.{index}"), x);
        }
        let c = b.channels(x);
        let path = format!("features.{}", self.rows.len() + 1);
        let x = conv_norm(&mut b, &path, x, Conv2d::new(c, 6 * c, 1), Some(HS));
        let x = pool(&mut b, x);
        let x = linear(&mut b, "classifier.0", x, channels(self.last));
        let x = b.push("classifier.1", Op::Activation(HS), &[x]);
        let x = b.push("classifier.2", Op::Dropout { rate: 0.2 }, &[x]);
        linear(&mut b, "classifier.3", x, options.classes);
        b.finish()
    }
}

impl Row {
    /// 1 x 1 to the expanded channels, unless they are the input's -> depthwise -> squeeze-and-excitation ->
    /// 1 x 1, linear; residual.
    fn add(&self, b: &mut NetBuilder, path: &str, input: NodeId) -> NodeId {
        let c_in = b.channels(input);
        b.begin_block(path);
        let mut x = input;
        // The parts are numbered in the order in which they are there.
        let mut names = (0..).map(|part| format!("{path}.block.{part}"));
        let mut name = || names.next().unwrap_or_default();
        if self.expanded != c_in {
            x = conv_norm(b, &name(), x, Conv2d::new(c_in, self.expanded, 1), Some(self.activation));
        }
        let depthwise = Conv2d::depthwise(self.expanded, self.kernel).stride(self.stride);
        x = conv_norm(b, &name(), x, depthwise, Some(self.activation));
        if self.excite {
            x = squeeze_excite(b, &name(), x);
        }
        x = conv_norm(b, &name(), x, Conv2d::new(self.expanded, self.channels, 1), None);
        if b.shape(x) == b.shape(input) {
            x = b.push(&format!("{path}.add"), Op::Add, &[x, input]);
        }
        b.end_block();
        x
    }
}

/// Scales each channel by a factor from 0 to 1, which two small convolutions make of all channels' means.
fn squeeze_excite(b: &mut NetBuilder, path: &str, input: NodeId) -> NodeId {
    let c = b.channels(input);
    let squeezed = scale(c / 4, 1.0, 8);
    let x = b.push(&format!("{path}.avgpool"), Op::GlobalAvgPool, &[input]);
    let x = b.conv(&format!("{path}.fc1"), x, Conv2d::new(c, squeezed, 1).with_bias().keep_static());
    let x = b.act(x, Activation::Relu);
    let x = b.conv(&format!("{path}.fc2"), x, Conv2d::new(squeezed, c, 1).with_bias().keep_static());
    let x = b.act(x, Activation::Hardsigmoid);
    b.push(&format!("{path}.scale"), Op::Scale, &[input, x])
}

/// A convolution with this family's batch normalisation.
fn conv_norm(
    b: &mut NetBuilder,
    path: &str,
    x: NodeId,
    conv: Conv2d,
    activation: Option<Activation>,
) -> NodeId {
    let x = b.conv(&format!("{path}.0"), x, conv);
    let x = b.push(&format!("{path}.1"), Op::BatchNorm { eps: 1e-3, momentum: 0.01 }, &[x]);
    match activation {
        Some(activation) => b.act(x, activation),
        None => x,
    }
}
