//! Dy-shuffle, the paper's net for ShuffleNetV2's place.
//!
//! A unit of stride 1 splits its channels left : right = 3 : 1 and only the right branch is dynamic, with one
//! predictor from the branch's input. Its 3 x 3 convolution has half as many channels as ShuffleNetV2's
//! depthwise one, so groups of two keep the cost. Downsampling units keep ShuffleNetV2's channels; their
//! right branch is dynamic too. Without its classifier the net has the paper's 88 M multiply-adds (88.2,
//! counted in 2^20), with fusion and predictors 36.9 % less than the paper's 146 M; at 1.5 times the width
//! 168.2 (the paper: 171).
//!
//! Departs from the paper: a quarter of 116 channels is 29, which are no groups of two. The branch's ends are
//! rounded down to even (28) and its middle up (30): together nearest to the cost of 29.
//!
//! The paper does not say how the parts are shuffled. Here they are four, so that the next right branch reads
//! every quarter, its own kind among them, in equal shares.

use super::ZooOptions;
use super::shufflenet_v2::{ShufflenetV2, branch2, join};
use crate::builder::{NetBuilder, NetError};
use crate::net::Net;
use crate::op::{Conv2d, Op};

/// Channels of a group of the right branch's 3 x 3 convolution.
const GROUP: usize = 2;
/// A unit's channels are this many times those of its right branch.
const PARTS: usize = 4;

pub(super) fn build(name: &str, options: &ZooOptions, table: &ShufflenetV2) -> Result<Net, NetError> {
    let unit = |b: &mut NetBuilder, path: &str, x| {
        let c = b.channels(x);
        let (down, up) = (c / (PARTS * GROUP) * GROUP, c.div_ceil(PARTS * GROUP) * GROUP);
        let left = b.push(&format!("{path}.left"), Op::Slice { start: 0, len: c - down }, &[x]);
        let right = b.push(&format!("{path}.right"), Op::Slice { start: c - down, len: down }, &[x]);
        let middle = Conv2d::new(up, up, 3).groups(up / GROUP);
        let right = branch2(b, path, right, down, middle);
        join(b, path, left, right, PARTS)
    };
    table.assemble(name, options, Conv2d::keep_static, unit)
}
