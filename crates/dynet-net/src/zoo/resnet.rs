//! ResNet18 and ResNet50 as torchvision has them (He et al., 2016), and the paper's Dy-ResNets.
//!
//! Dy-ResNet18 and 50: the stem keeps its 64 channels, all stages have half of theirs, block outputs
//! included. The first block, which the stem no longer fits, gets a 1 x 1 projection. All convolutions of a
//! block are dynamic, the projection too. This reading gives the paper's 550 and 1075 M (counted in 2^20).

use super::ZooOptions;
use super::parts::{conv_norm, linear, max_pool, pool, scale};
use crate::builder::{NetBuilder, NetError};
use crate::net::{Net, NodeId};
use crate::op::{Activation, Conv2d, Op};

#[derive(Clone, Copy)]
enum Block {
    /// 3 x 3, 3 x 3.
    Basic,
    /// 1 x 1, 3 x 3, 1 x 1 to four times the channels.
    Bottleneck,
}

struct Stage {
    blocks: usize,
    channels: usize,
    stride: usize,
}

const fn stage(blocks: usize, channels: usize, stride: usize) -> Stage {
    Stage { blocks, channels, stride }
}

/// One architecture of the family.
pub(super) struct Resnet {
    block: Block,
    stem: usize,
    stages: [Stage; 4],
}

pub(super) const RESNET18: Resnet = Resnet {
    block: Block::Basic,
    stem: 64, // 112 x 112, then pooled
    stages: [
        stage(2, 64, 1),  // 56 x 56
        stage(2, 128, 2), // 28 x 28
        stage(2, 256, 2), // 14 x 14
        stage(2, 512, 2), // 7 x 7
    ],
};

pub(super) const RESNET50: Resnet = Resnet {
    block: Block::Bottleneck,
    stem: 64, // 112 x 112, then pooled
    stages: [
        stage(3, 64, 1),  // 56 x 56
        stage(4, 128, 2), // 28 x 28
        stage(6, 256, 2), // 14 x 14
        stage(3, 512, 2), // 7 x 7
    ],
};

pub(super) const DY_RESNET18: Resnet = Resnet {
    block: Block::Basic,
    stem: 64, // 112 x 112, then pooled
    stages: [
        stage(2, 32, 1),  // 56 x 56
        stage(2, 64, 2),  // 28 x 28
        stage(2, 128, 2), // 14 x 14
        stage(2, 256, 2), // 7 x 7
    ],
};

pub(super) const DY_RESNET50: Resnet = Resnet {
    block: Block::Bottleneck,
    stem: 64, // 112 x 112, then pooled
    stages: [
        stage(3, 32, 1),  // 56 x 56
        stage(4, 64, 2),  // 28 x 28
        stage(6, 128, 2), // 14 x 14
        stage(3, 256, 2), // 7 x 7
    ],
};

impl Resnet {
    pub(super) fn build(&self, name: &str, options: &ZooOptions) -> Result<Net, NetError> {
        let channels = |c| scale(c, options.width, 8);
        let mut b = NetBuilder::new(name, options.image());
        let stem = channels(self.stem);
        let conv = match options.small_stem {
            false => Conv2d::new(options.channels, stem, 7).stride(2),
            true => Conv2d::new(options.channels, stem, 3),
        };
        let x = b.input();
        let mut x = conv_norm(&mut b, ["conv1", "bn1"], x, conv.keep_static(), Some(Activation::Relu));
        if !options.small_stem {
            x = max_pool(&mut b, x);
        }
        for (index, stage) in self.stages.iter().enumerate() {
            for block in 0..stage.blocks {
                let stride = if block == 0 { stage.stride } else { 1 };
                let path = format!("layer{}.{block}", index + 1);
                x = self.block.add(&mut b, &path, x, channels(stage.channels), stride);
            }
        }
        let x = pool(&mut b, x);
        linear(&mut b, "fc", x, options.classes);
        b.finish()
    }
}

impl Block {
    /// Adds a residual block and returns its output.
    fn add(self, b: &mut NetBuilder, path: &str, input: NodeId, channels: usize, stride: usize) -> NodeId {
        let c_in = b.channels(input);
        let convs = match self {
            Self::Basic => {
                vec![Conv2d::new(c_in, channels, 3).stride(stride), Conv2d::new(channels, channels, 3)]
            }
            Self::Bottleneck => vec![
                Conv2d::new(c_in, channels, 1),
                Conv2d::new(channels, channels, 3).stride(stride),
                Conv2d::new(channels, 4 * channels, 1),
            ],
        };
        b.begin_block(path);
        let last = convs.len();
        let mut x = input;
        for (i, conv) in (1..).zip(convs) {
            let names = [format!("{path}.conv{i}"), format!("{path}.bn{i}")];
            let relu = (i < last).then_some(Activation::Relu);
            x = conv_norm(b, [&names[0], &names[1]], x, conv, relu);
        }
        let c_out = b.channels(x);
        let mut shortcut = input;
        if stride != 1 || c_in != c_out {
            let names = [format!("{path}.downsample.0"), format!("{path}.downsample.1")];
            let conv = Conv2d::new(c_in, c_out, 1).stride(stride);
            shortcut = conv_norm(b, [&names[0], &names[1]], input, conv, None);
        }
        let x = b.push(&format!("{path}.add"), Op::Add, &[x, shortcut]);
        let x = b.act(x, Activation::Relu);
        b.end_block();
        x
    }
}
