//! Operations of a net that have no parameters.

use burn::tensor::Tensor;
use burn::tensor::activation::{hard_sigmoid, relu, sigmoid};
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use dynet_net::Activation;

/// An element-wise nonlinearity.
pub(crate) fn activate(x: Tensor<4>, activation: Activation) -> Tensor<4> {
    match activation {
        Activation::Relu => relu(x),
        Activation::Relu6 => x.clamp(0.0, 6.0),
        Activation::Hardsigmoid => hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::Hardswish => x.clone() * hard_sigmoid(x, 1.0 / 6.0, 0.5),
        Activation::Sigmoid => sigmoid(x),
    }
}

/// Maximum over a square window; padding counts as minus infinity.
pub(crate) fn max_pool(x: Tensor<4>, kernel: usize, stride: usize, padding: usize) -> Tensor<4> {
    let mut options = MaxPoolOptions::new([kernel, kernel]);
    options.stride = [stride, stride];
    options.padding = [(padding, padding), (padding, padding)];
    max_pool2d(x, options)
}

/// Mean over all pixels: `[n, c, h, w]` to `[n, c]`.
pub(crate) fn global_avg_pool(x: Tensor<4>) -> Tensor<2> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, c, h * w]).mean_dim(2).reshape([n, c])
}

/// Channel shuffle: channels as `[groups, c / groups]`, transposed.
pub(crate) fn shuffle(x: Tensor<4>, groups: usize) -> Tensor<4> {
    let [n, c, h, w] = x.dims();
    x.reshape([n, groups, c / groups, h * w]).swap_dims(1, 2).reshape([n, c, h, w])
}
