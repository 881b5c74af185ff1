//! Dy-mobile, the paper's net for MobileNetV2's place.
//!
//! A block has no expansion: 1 x 1 -> 3 x 3 of groups of 6 channels -> 1 x 1, all of the block's output
//! channels, which are MobileNetV2's rounded up to a multiple of 6. One predictor, from the block's input,
//! feeds all three. The stem (32) and the last convolution (1280) are MobileNetV2's. Without its classifier
//! the net has the paper's 129 M multiply-adds (129.3, counted in 10^6).
//!
//! Departs from the paper: the first block, the one that MobileNetV2 has without expansion as well, stays
//! static. Its kernels see 112 x 112 pixels and hold 0.4 % of the weights of all blocks; the cut with fusion
//! and predictors, from the paper's 298 M, is then the paper's 54.7 % (54.66; with the block dynamic 54.65).

use super::ZooOptions;
use super::mobilenet_v2::{assemble, linear_bottleneck};
use super::parts::{round_up, scale};
use crate::builder::NetError;
use crate::net::Net;
use crate::op::Conv2d;

/// Channels of a group of the 3 x 3 convolution.
const GROUP: usize = 6;

pub(super) fn build(name: &str, options: &ZooOptions) -> Result<Net, NetError> {
    assemble(name, options, |b, path, x, row, stride| {
        let c = round_up(scale(row.channels, options.width, 8), GROUP);
        let keep = |conv: Conv2d| if row.expand == 1 { conv.keep_static() } else { conv };
        let inner = vec![
            keep(Conv2d::new(b.channels(x), c, 1)),
            keep(Conv2d::new(c, c, 3).groups(c / GROUP).stride(stride)),
        ];
        linear_bottleneck(b, path, x, inner, keep(Conv2d::new(c, c, 1)))
    })
}
