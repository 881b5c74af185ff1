//! ShuffleNetV2 as torchvision has it (Ma et al., 2018).

use super::ZooOptions;
use super::parts::{conv_norm, linear, max_pool, pool, scale};
use crate::builder::{NetBuilder, NetError};
use crate::net::{Net, NodeId};
use crate::op::{Activation, Conv2d, Op};

struct Stage {
    units: usize,
    channels: usize,
}

const fn stage(units: usize, channels: usize) -> Stage {
    Stage { units, channels }
}

/// One architecture of the family.
pub(super) struct ShufflenetV2 {
    stages: [Stage; 3],
}

/// Channels of the stem, 112 x 112, then pooled.
const STEM: usize = 24;
/// Channels of the last convolution, 7 x 7.
const LAST: usize = 1024;

pub(super) const X1_0: ShufflenetV2 = ShufflenetV2 {
    stages: [
        stage(4, 116), // 28 x 28
        stage(8, 232), // 14 x 14
        stage(4, 464), // 7 x 7
    ],
};

pub(super) const X1_5: ShufflenetV2 = ShufflenetV2 {
    stages: [
        stage(4, 176), // 28 x 28
        stage(8, 352), // 14 x 14
        stage(4, 704), // 7 x 7
    ],
};

const RELU: Option<Activation> = Some(Activation::Relu);

impl ShufflenetV2 {
    pub(super) fn build(&self, name: &str, options: &ZooOptions) -> Result<Net, NetError> {
        let unit = |b: &mut NetBuilder, path: &str, x| {
            let half = b.channels(x) / 2;
            let left = b.push(&format!("{path}.left"), Op::Slice { start: 0, len: half }, &[x]);
            let right = b.push(&format!("{path}.right"), Op::Slice { start: half, len: half }, &[x]);
            let right = branch2(b, path, right, half, Conv2d::depthwise(half, 3));
            join(b, path, left, right, 2)
        };
        self.assemble(name, options, |conv| conv, unit)
    }

    /// Stem, stages, last convolution, classifier. `mark` edits the convolutions of the left branches of
    /// downsampling units; `unit` adds a unit of stride 1.
    pub(super) fn assemble(
        &self,
        name: &str,
        options: &ZooOptions,
        mark: fn(Conv2d) -> Conv2d,
        unit: impl Fn(&mut NetBuilder, &str, NodeId) -> NodeId,
    ) -> Result<Net, NetError> {
        // Multiples of 4, of which the published channels are: halves stay even.
        let channels = |c| scale(c, options.width, 4);
        let mut b = NetBuilder::new(name, options.image());
        let stem = Conv2d::new(options.channels, channels(STEM), 3);
        let stem = stem.stride(if options.small_stem { 1 } else { 2 }).keep_static();
        let x = b.input();
        let mut x = conv_norm(&mut b, ["conv1.0", "conv1.1"], x, stem, RELU);
        if !options.small_stem {
            x = max_pool(&mut b, x);
        }
        for (stage, index) in self.stages.iter().zip(2..) {
            // At least 8, so that a quarter holds one group of two channels.
            let c = channels(stage.channels).max(8);
            for i in 0..stage.units {
                let path = format!("stage{index}.{i}");
                b.begin_block(&path);
                x = match i {
                    0 => downsample(&mut b, &path, x, c, mark),
                    _ => unit(&mut b, &path, x),
                };
                b.end_block();
            }
        }
        let last = Conv2d::new(b.channels(x), channels(LAST), 1);
        let x = conv_norm(&mut b, ["conv5.0", "conv5.1"], x, last, RELU);
        let x = pool(&mut b, x);
        linear(&mut b, "fc", x, options.classes);
        b.finish()
    }
}

/// The unit that halves the image: both branches read all of it and give half of the output's channels.
fn downsample(b: &mut NetBuilder, path: &str, x: NodeId, c_out: usize, mark: fn(Conv2d) -> Conv2d) -> NodeId {
    let (c_in, half) = (b.channels(x), c_out / 2);
    let name = |i: usize| format!("{path}.branch1.{i}");
    let left = conv_norm(b, [&name(0), &name(1)], x, mark(Conv2d::depthwise(c_in, 3).stride(2)), None);
    let left = conv_norm(b, [&name(2), &name(3)], left, mark(Conv2d::new(c_in, half, 1)), RELU);
    let right = branch2(b, path, x, half, Conv2d::depthwise(half, 3).stride(2));
    join(b, path, left, right, 2)
}

/// 1 x 1 -> `middle` -> 1 x 1 to `c_out`; the middle one without activation.
pub(super) fn branch2(b: &mut NetBuilder, path: &str, x: NodeId, c_out: usize, middle: Conv2d) -> NodeId {
    let name = |i: usize| format!("{path}.branch2.{i}");
    let (c_in, hidden) = (b.channels(x), middle.c_out);
    let x = conv_norm(b, [&name(0), &name(1)], x, Conv2d::new(c_in, hidden, 1), RELU);
    let x = conv_norm(b, [&name(3), &name(4)], x, middle, None);
    conv_norm(b, [&name(5), &name(6)], x, Conv2d::new(hidden, c_out, 1), RELU)
}

/// The branches behind one another, their channels shuffled.
pub(super) fn join(b: &mut NetBuilder, path: &str, left: NodeId, right: NodeId, groups: usize) -> NodeId {
    let x = b.push(&format!("{path}.concat"), Op::Concat, &[left, right]);
    b.push(&format!("{path}.shuffle"), Op::Shuffle { groups }, &[x])
}
