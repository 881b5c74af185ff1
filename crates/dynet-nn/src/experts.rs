//! K fixed kernels for each output channel and the two sides of Eq. 2, which turn them into one convolution.

use burn::module::{Module, Param};
use burn::tensor::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::conv::{Geometry, add_bias, conv2d, conv2d_per_image};
use crate::error::{ConfigError, at_least_one};
use crate::initial::he_uniform;

/// The two sides of Eq. 2, `(sum_i eta_i w_i) (*) x = sum_i eta_i (w_i (*) x)`. They differ in cost, not in result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// Right side: K static convolutions, their outputs mixed for each image.
    Mix,
    /// Left side: the K kernels fused for each image, one convolution.
    Fuse,
}

/// A convolution with K fixed kernels for each output channel, told for each image how much of each to take.
///
/// This is the part of [`DyConv2d`](crate::DyConv2d) behind the prediction of the coefficients: use it where one
/// [`CoefPredictor`](crate::CoefPredictor) feeds several convolutions.
#[derive(Module, Debug)]
pub struct ExpertConv2d {
    /// The fixed kernels `[k, c_out, c_in / groups, kh, kw]`.
    pub weight: Param<Tensor<5>>,
    /// One value for each output channel, `[c_out]`; not dynamic.
    pub bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    geometry: Geometry,
    #[module(skip)]
    form: Option<Form>,
}

impl ExpertConv2d {
    /// Draws each expert on its own, with variance `2 / fan_in` of that one expert; biases are zero.
    ///
    /// # Errors
    /// [`ConfigError`] where a count is zero or the groups do not divide the channels.
    pub fn new(
        experts: usize,
        [c_in, c_out]: [usize; 2],
        [height, width]: [usize; 2],
        geometry: Geometry,
        bias: bool,
        device: &Device,
    ) -> Result<Self, ConfigError> {
        at_least_one("experts", experts)?;
        at_least_one("kernel size", height.min(width))?;
        geometry.check([c_in, c_out])?;
        let depth = c_in / geometry.groups;
        let weight = he_uniform([experts, c_out, depth, height, width], depth * height * width, device);
        let bias = bias.then(|| Param::from_tensor(Tensor::zeros([c_out], device)));
        Ok(Self { weight, bias, geometry, form: None })
    }

    /// A convolution with given kernels `[k, c_out, c_in / groups, kh, kw]` and bias `[c_out]`.
    pub(crate) fn from_tensors(weight: Tensor<5>, bias: Option<Tensor<1>>, geometry: Geometry) -> Self {
        Self { weight: Param::from_tensor(weight), bias: bias.map(Param::from_tensor), geometry, form: None }
    }

    /// Forces a form; `None` leaves the choice to the layer, which takes [`Form::Mix`] to train and
    /// [`Form::Fuse`] to infer, as the paper does.
    pub fn set_form(&mut self, form: Option<Form>) {
        self.form = form;
    }

    /// Whether a form is forced.
    pub(crate) fn is_forced(&self) -> bool {
        self.form.is_some()
    }

    /// Convolves each image with its own mixture of the experts.
    ///
    /// # Shapes
    /// `images [n, c_in, h, w]`, `coefs [n, k, c_out]`, or `[n, k, 1]` for one coefficient a kernel; result
    /// `[n, c_out, h', w']`.
    ///
    /// # Panics
    /// Where the shapes do not fit each other.
    pub fn forward(&self, images: Tensor<4>, coefs: Tensor<3>) -> Tensor<4> {
        let output = match self.form.unwrap_or_else(|| default_form(&images)) {
            Form::Mix => mix(images, self.weight.val(), coefs, self.geometry),
            Form::Fuse => fuse(images, self.weight.val(), coefs, self.geometry),
        };
        match &self.bias {
            Some(bias) => add_bias(output, bias.val()),
            None => output,
        }
    }
}

fn default_form(images: &Tensor<4>) -> Form {
    if images.device().is_autodiff() { Form::Mix } else { Form::Fuse }
}

/// `sum_i eta_i (w_i (*) x)`: one static convolution with K times the output channels, then the sum.
///
/// Kernels are stacked channel-major, `[c_out * k, ..]`, so that the groups keep their channels.
fn mix(images: Tensor<4>, experts: Tensor<5>, coefs: Tensor<3>, geometry: Geometry) -> Tensor<4> {
    let [k, c_out, depth, kernel_height, kernel_width] = experts.dims();
    let stacked = experts.swap_dims(0, 1).reshape([c_out * k, depth, kernel_height, kernel_width]);
    let outputs = conv2d(images, stacked, geometry);
    let [n, _, height, width] = outputs.dims();
    let coefs = coefs.swap_dims(1, 2).expand([n, c_out, k]).reshape([n * c_out, 1, k]);
    coefs.matmul(outputs.reshape([n * c_out, k, height * width])).reshape([n, c_out, height, width])
}

/// `(sum_i eta_i w_i) (*) x`: one fused kernel for each image, then one convolution for each.
fn fuse(images: Tensor<4>, experts: Tensor<5>, coefs: Tensor<3>, geometry: Geometry) -> Tensor<4> {
    let [k, c_out, depth, kernel_height, kernel_width] = experts.dims();
    let [n, _, _] = coefs.dims();
    // For each output channel a product [n, k] x [k, len].
    let coefs = coefs.expand([n, k, c_out]).permute([2, 0, 1]);
    let experts = experts.swap_dims(0, 1).reshape([c_out, k, depth * kernel_height * kernel_width]);
    let fused = coefs.matmul(experts).swap_dims(0, 1);
    conv2d_per_image(images, fused.reshape([n, c_out, depth, kernel_height, kernel_width]), geometry)
}
