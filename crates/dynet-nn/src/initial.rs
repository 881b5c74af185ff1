//! Initial values of layers that start without given weights: the distributions of
//! [`Weights::init`](dynet_net::Weights::init).
//!
//! The fan-in is an argument because no shape tells it: of `[k, c_out, c_in / groups, kh, kw]` only the last three
//! axes feed one output, however many experts there are.

use burn::module::{Initializer, Param};
use burn::tensor::{Device, Tensor};

/// Uniform with variance `2 / fan_in`, for kernels (He et al., 2015).
pub(crate) fn he_uniform<const D: usize>(
    shape: [usize; D],
    fan_in: usize,
    device: &Device,
) -> Param<Tensor<D>> {
    uniform(shape, (6.0 / fan_in as f64).sqrt(), device)
}

/// Uniform in `+-1 / sqrt(fan_in)`, PyTorch's default for fully connected layers.
pub(crate) fn torch_uniform<const D: usize>(
    shape: [usize; D],
    fan_in: usize,
    device: &Device,
) -> Param<Tensor<D>> {
    uniform(shape, 1.0 / (fan_in as f64).sqrt(), device)
}

fn uniform<const D: usize>(shape: [usize; D], bound: f64, device: &Device) -> Param<Tensor<D>> {
    Initializer::Uniform { min: -bound, max: bound }.init(shape, device)
}
