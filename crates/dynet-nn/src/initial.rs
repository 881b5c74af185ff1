//! Initial values of layers that start without given weights.

use burn::module::{Initializer, Param};
use burn::tensor::{Device, Tensor};

/// Uniform in `+-1 / sqrt(fan_in)`, PyTorch's default for kernels and matrices (Kaiming's with `a = sqrt(5)`).
///
/// The fan-in is an argument because no shape tells it: of `[k, c_out, c_in / groups, kh, kw]` only the last three
/// axes feed one output, however many experts there are.
pub(crate) fn kaiming_uniform<const D: usize>(shape: [usize; D], fan_in: usize, device: &Device) -> Param<Tensor<D>> {
    let bound = 1.0 / (fan_in as f64).sqrt();
    Initializer::Uniform { min: -bound, max: bound }.init(shape, device)
}
