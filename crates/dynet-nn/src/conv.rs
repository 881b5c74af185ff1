//! The convolution of every layer here: kernels shared by the batch, or one set of kernels for each image.
//!
//! This is the only file that asks Burn for a convolution.

use burn::tensor::Tensor;
use burn::tensor::module::conv2d as burn_conv2d;
use burn::tensor::ops::ConvOptions;
use dynet_net::PaddingMode;

use crate::error::{ConfigError, at_least_one};
use crate::padding::pad;

/// How a convolution moves over the image; height first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Geometry {
    /// Step between two output pixels.
    pub stride: [usize; 2],
    /// Pixels added on each side.
    pub padding: [usize; 2],
    /// What these pixels hold.
    pub padding_mode: PaddingMode,
    /// Distance between two kernel elements.
    pub dilation: [usize; 2],
    /// Blocks of channels that do not see each other.
    pub groups: usize,
}

impl Geometry {
    /// Refuses zeros, and channels that do not divide into the groups.
    ///
    /// # Errors
    /// [`ConfigError`] that names the option.
    pub(crate) fn check(&self, [inputs, outputs]: [usize; 2]) -> Result<(), ConfigError> {
        at_least_one("input channels", inputs)?;
        at_least_one("output channels", outputs)?;
        at_least_one("groups", self.groups)?;
        at_least_one("stride", self.stride[0].min(self.stride[1]))?;
        at_least_one("dilation", self.dilation[0].min(self.dilation[1]))?;
        for (name, channels) in [("input channels", inputs), ("output channels", outputs)] {
            if !channels.is_multiple_of(self.groups) {
                return Err(ConfigError::Groups { name, channels, groups: self.groups });
            }
        }
        Ok(())
    }

    /// The images with their border, and the geometry that is left to do. Zeros cost a convolution nothing, so
    /// they stay its own business.
    fn bordered(self, images: Tensor<4>) -> (Tensor<4>, Self) {
        match self.padding_mode {
            PaddingMode::Zeros => (images, self),
            mode => (pad(images, self.padding, mode), Self { padding: [0, 0], ..self }),
        }
    }

    fn options(self, groups: usize) -> ConvOptions<2> {
        ConvOptions::new(self.stride, self.padding, self.dilation, groups)
    }
}

/// Convolves every image with the same kernels.
///
/// # Shapes
/// `images [n, c_in, h, w]`, `kernels [c_out, c_in / groups, kh, kw]`, result `[n, c_out, h', w']`.
pub(crate) fn conv2d(images: Tensor<4>, kernels: Tensor<4>, geometry: Geometry) -> Tensor<4> {
    let (images, geometry) = geometry.bordered(images);
    burn_conv2d(images, kernels, None, geometry.options(geometry.groups))
}

/// Convolves each image with kernels of its own: the batch becomes groups of one wide image.
///
/// # Shapes
/// `images [n, c_in, h, w]`, `kernels [n, c_out, c_in / groups, kh, kw]`, result `[n, c_out, h', w']`.
pub(crate) fn conv2d_per_image(images: Tensor<4>, kernels: Tensor<5>, geometry: Geometry) -> Tensor<4> {
    let (images, geometry) = geometry.bordered(images);
    let [n, c_in, height, width] = images.dims();
    let [_, c_out, depth, kernel_height, kernel_width] = kernels.dims();
    let output = burn_conv2d(
        images.reshape([1, n * c_in, height, width]),
        kernels.reshape([n * c_out, depth, kernel_height, kernel_width]),
        None,
        geometry.options(n * geometry.groups),
    );
    let [_, _, height, width] = output.dims();
    output.reshape([n, c_out, height, width])
}

/// Adds one value to each channel: `[n, c, h, w] + [c]`.
pub(crate) fn add_bias(output: Tensor<4>, bias: Tensor<1>) -> Tensor<4> {
    let [channels] = bias.dims();
    output + bias.reshape([1, channels, 1, 1])
}
