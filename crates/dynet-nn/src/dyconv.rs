//! The dynamic convolution as one layer: predict coefficients from the input, fuse the kernels, convolve.

use burn::config::Config;
use burn::module::Module;
use burn::tensor::{Device, Tensor};
use dynet_net::{CoefActivation, Coefficients, Head, PaddingMode};

use crate::coefficients::{CoefPredictor, CoefPredictorConfig};
use crate::conv::Geometry;
use crate::error::ConfigError;
use crate::experts::{ExpertConv2d, Form};

/// Configuration of a [`DyConv2d`]; options and defaults are PyTorch's `Conv2d`'s, with height before width.
#[derive(Config, Debug)]
pub struct DyConv2dConfig {
    /// Input and output channels.
    pub channels: [usize; 2],
    /// Height and width of the kernels.
    pub kernel_size: [usize; 2],
    /// Step between two output pixels.
    #[config(default = "[1, 1]")]
    pub stride: [usize; 2],
    /// Pixels added on each side.
    #[config(default = "[0, 0]")]
    pub padding: [usize; 2],
    /// What these pixels hold.
    #[config(default = "PaddingMode::Zeros")]
    pub padding_mode: PaddingMode,
    /// Distance between two kernel elements.
    #[config(default = "[1, 1]")]
    pub dilation: [usize; 2],
    /// Blocks of channels that do not see each other.
    #[config(default = 1)]
    pub groups: usize,
    /// Whether a (static) bias is added.
    #[config(default = true)]
    pub bias: bool,
    /// K, the number of fixed kernels for each output channel.
    #[config(default = 3)]
    pub experts: usize,
    /// Probability that a pooled channel is dropped before the prediction, in training only.
    #[config(default = 0.2)]
    pub dropout: f64,
    /// How scores become coefficients.
    #[config(default = "CoefActivation::Softmax { temperature: 1.0 }")]
    pub activation: CoefActivation,
    /// Which output channels share a coefficient.
    #[config(default = "Coefficients::Channel")]
    pub coefficients: Coefficients,
    /// Forces a side of Eq. 2; by default [`ExpertConv2d::set_form`] says which.
    pub form: Option<Form>,
}

impl DyConv2dConfig {
    /// Draws every expert on its own, with variance `2 / fan_in`; biases are zero. The same distributions as
    /// [`Weights::init`](dynet_net::Weights::init).
    ///
    /// # Errors
    /// [`ConfigError`] where an option is out of range or the groups do not divide the channels.
    pub fn init(&self, device: &Device) -> Result<DyConv2d, ConfigError> {
        let [c_in, c_out] = self.channels;
        let geometry = Geometry {
            stride: self.stride,
            padding: self.padding,
            padding_mode: self.padding_mode,
            dilation: self.dilation,
            groups: self.groups,
        };
        let mut kernels =
            ExpertConv2d::new(self.experts, self.channels, self.kernel_size, geometry, self.bias, device)?;
        kernels.set_form(self.form);
        let channels = match self.coefficients {
            Coefficients::Channel => c_out,
            Coefficients::Kernel => 1,
        };
        let predictor = CoefPredictorConfig::new(c_in, vec![Head { experts: self.experts, channels }])
            .with_activation(self.activation)
            .with_dropout(self.dropout)
            .init(device)?;
        Ok(DyConv2d { kernels, predictor })
    }
}

/// A dynamic convolution (Eq. 1): `w~_t = sum_i eta_t^i w_t^i` for each output channel `t`, with coefficients
/// `eta` predicted from each image, then an ordinary convolution with `w~`.
///
/// Weights lie as in the PyTorch layer that it equals: `kernels.weight [k, c_out, c_in / groups, kh, kw]` and
/// `predictor.fc.weight [k * c_out, c_in]`, expert-major.
#[derive(Module, Debug)]
pub struct DyConv2d {
    /// The fixed kernels.
    pub kernels: ExpertConv2d,
    /// What predicts their coefficients from the layer's own input.
    pub predictor: CoefPredictor,
}

impl DyConv2d {
    /// Convolves each image with the kernel that it asks for.
    ///
    /// # Shapes
    /// `[n, c_in, h, w]` to `[n, c_out, h', w']`.
    ///
    /// # Panics
    /// Where the images have other channels than the layer, or are smaller than their padding permits.
    pub fn forward(&self, images: Tensor<4>) -> Tensor<4> {
        let coefs = self.coefficients(images.clone());
        self.kernels.forward(images, coefs)
    }

    /// The coefficients that [`forward`](Self::forward) would take.
    ///
    /// # Shapes
    /// `[n, c_in, h, w]` to `[n, k, c_out]`, or `[n, k, 1]` with [`Coefficients::Kernel`].
    ///
    /// # Panics
    /// Where the images have other channels than the layer.
    pub fn coefficients(&self, images: Tensor<4>) -> Tensor<3> {
        self.predictor.forward(images).swap_remove(0)
    }
}
