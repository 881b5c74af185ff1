//! Weights and images that any language can compute for itself, so that two implementations of a net can be
//! compared without a file of weights between them.
//!
//! Value `i` of a tensor is the `i`-th output of splitmix64 (Steele et al., 2014) started at the FNV-1a hash of the
//! tensor's name: integers, so that it is the same bits everywhere. `tools/golden/formula.py` is this file in
//! Python; the golden vectors in `golden/` come from it.

use crate::net::Net;
use crate::op::Shape;
use crate::params::{ParamKind, ParamSpec};
use crate::weights::Weights;

/// Values in `[-1, 1)`, multiples of `2^-23`, of the tensor with this name.
pub fn uniform(name: &str, len: usize) -> Vec<f32> {
    let start = fnv1a(name);
    // The upper 24 bits fill the significand of an f32, so no step rounds.
    (1..=len as u64).map(|i| (splitmix(start, i) >> 40) as f32 / (1u32 << 23) as f32 - 1.0).collect()
}

/// FNV-1a of 64 bits.
fn fnv1a(text: &str) -> u64 {
    text.bytes()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

/// Output `i`, from 1 on, of the generator that starts at `start`.
fn splitmix(start: u64, i: u64) -> u64 {
    let z = start.wrapping_add(i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Offset and scale of a tensor's values: `offset + scale * uniform`.
///
/// With a gain of 1, kernels have variance `2 / fan_in`. Predictors have a quarter of that: images differ in their
/// coefficients, but not so much that rounding does. Norms are far enough from the identity to be missed when left out.
fn placement(spec: &ParamSpec, gain: f64) -> (f32, f32) {
    let scaled = |variance: f64| (3.0 * variance / spec.fan_in.max(1) as f64).sqrt();
    match spec.kind {
        ParamKind::ConvWeight => (0.0, (scaled(2.0) * gain) as f32),
        ParamKind::LinearWeight => (0.0, scaled(2.0) as f32),
        ParamKind::PredictorWeight => (0.0, scaled(0.5) as f32),
        ParamKind::Bias | ParamKind::RunningMean => (0.0, 0.0625),
        ParamKind::NormWeight | ParamKind::RunningVar => (1.0, 0.25),
    }
}

/// Every tensor of a net. `gain` is a factor on all kernels: untrained deep nets vanish or explode without one of
/// their own.
pub fn weights(net: &Net, gain: f64) -> Weights {
    let mut weights = Weights::new();
    for spec in net.params() {
        let (offset, scale) = placement(&spec, gain);
        let data = uniform(&spec.name, spec.len()).into_iter().map(|u| offset + scale * u).collect();
        weights.insert(spec.name, spec.shape, data);
    }
    weights
}

/// One of as many images as wanted, `[c, h, w]`. Channels have means of their own, so that pooling tells two images
/// apart.
pub fn image(shape: Shape, index: usize) -> Vec<f32> {
    let means = uniform(&format!("image.{index}.mean"), shape.c);
    let mut pixels = uniform(&format!("image.{index}"), shape.len());
    for (channel, mean) in pixels.chunks_exact_mut(shape.h * shape.w).zip(means) {
        channel.iter_mut().for_each(|pixel| *pixel += mean);
    }
    pixels
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_the_python_side() {
        // `python tools/golden/formula.py` prints these.
        let bits: Vec<u32> = uniform("layer1.0.conv1.weight", 4).iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, [0x3f2e_d1a4, 0x3e15_ef80, 0x3f33_7f0e, 0x3de8_aa30]);
        let pixels = image(Shape::new(2, 1, 2), 1);
        let bits: Vec<u32> = pixels.iter().map(|v| v.to_bits()).collect();
        assert_eq!(bits, [0xbef0_b938, 0x3f03_1f14, 0x3f98_450b, 0x3f5b_5848]);
    }
}
