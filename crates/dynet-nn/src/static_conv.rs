//! An ordinary convolution: one kernel for all images.

use burn::module::{Module, Param};
use burn::tensor::Tensor;

use crate::conv::{Geometry, add_bias, conv2d};

/// A static convolution.
#[derive(Module, Debug)]
pub(crate) struct StaticConv2d {
    /// The kernel `[c_out, c_in / groups, kh, kw]`.
    weight: Param<Tensor<4>>,
    /// One value for each output channel, `[c_out]`.
    bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: Geometry,
}

impl StaticConv2d {
    /// A convolution with a given kernel `[c_out, c_in / groups, kh, kw]` and bias `[c_out]`.
    pub(crate) fn from_tensors(weight: Tensor<4>, bias: Option<Tensor<1>>, geometry: Geometry) -> Self {
        Self { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor), geometry }
    }

    /// Convolves every image with the one kernel.
    ///
    /// # Shapes
    /// `images [n, c_in, h, w]` to `[n, c_out, h', w']`.
    ///
    /// # Panics
    /// Where the images have other channels than the layer.
    pub(crate) fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let output = conv2d(images, self.weight.val(), self.geometry);
        match &self.bias {
            Some(bias) => add_bias(output, bias.val()),
            None => output,
        }
    }
}
