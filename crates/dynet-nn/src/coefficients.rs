//! Prediction of the coefficients that fuse an image's kernels, from the image itself.

use burn::config::Config;
use burn::module::{Module, Param, RunningState};
use burn::nn::{Dropout, DropoutConfig};
use burn::tensor::activation::{relu, sigmoid, softmax};
use burn::tensor::{Device, Tensor};
use dynet_net::{CoefActivation, Head, Predictor};

use crate::error::{ConfigError, at_least_one, check_dropout, check_temperature};
use crate::initial::torch_uniform;
use crate::pointwise::global_avg_pool;

/// Configuration of a [`CoefPredictor`].
#[derive(Config, Debug)]
pub struct CoefPredictorConfig {
    /// Channels of the features that the coefficients are predicted from.
    pub channels: usize,
    /// One head for each dynamic convolution that is fed.
    pub heads: Vec<Head>,
    /// Units of a layer between pooling and heads; the paper's ResNets use a quarter of the channels.
    pub hidden: Option<usize>,
    /// How scores become coefficients.
    #[config(default = "CoefActivation::Softmax { temperature: 1.0 }")]
    pub activation: CoefActivation,
    /// Probability that a pooled channel is dropped, in training only.
    #[config(default = 0.2)]
    pub dropout: f64,
}

impl CoefPredictorConfig {
    /// Draws the weights as PyTorch does; biases are zero, so that a channel's untrained softmax is near even.
    ///
    /// # Errors
    /// [`ConfigError`] where a count is zero, or dropout or temperature are out of range.
    pub fn init(&self, device: &Device) -> Result<CoefPredictor, ConfigError> {
        at_least_one("channels", self.channels)?;
        at_least_one("heads", self.heads.len())?;
        check_dropout(self.dropout)?;
        for head in &self.heads {
            at_least_one("experts", head.experts)?;
            at_least_one("channels of a head", head.channels)?;
        }
        if let CoefActivation::Softmax { temperature } = self.activation {
            check_temperature(temperature)?;
        }
        let reduce = match self.hidden {
            Some(units) => {
                at_least_one("hidden units", units)?;
                Some(FullyConnected::init(self.channels, units, device))
            }
            None => None,
        };
        let scores = self.heads.iter().map(|head| head.len()).sum();
        Ok(CoefPredictor {
            dropout: DropoutConfig::new(self.dropout).init(),
            reduce,
            fc: FullyConnected::init(self.hidden.unwrap_or(self.channels), scores, device),
            temperature: temperature_state(self.activation, device),
            heads: self.heads.clone(),
        })
    }
}

fn temperature_state(activation: CoefActivation, device: &Device) -> Option<RunningState<Tensor<1>>> {
    match activation {
        CoefActivation::Softmax { temperature } => {
            Some(RunningState::new(Tensor::full([1], temperature, device)))
        }
        CoefActivation::Sigmoid => None,
    }
}

/// A fully connected layer whose matrix lies as PyTorch's does, `[outputs, inputs]`.
#[derive(Module, Debug)]
pub struct FullyConnected {
    /// `[outputs, inputs]`.
    pub weight: Param<Tensor<2>>,
    /// `[outputs]`.
    pub bias: Param<Tensor<1>>,
}

impl FullyConnected {
    /// A layer with given matrix `[outputs, inputs]` and bias `[outputs]`.
    pub(crate) fn from_tensors(weight: Tensor<2>, bias: Tensor<1>) -> Self {
        Self { weight: Param::from_tensor(weight), bias: Param::from_tensor(bias) }
    }

    fn init(inputs: usize, outputs: usize, device: &Device) -> Self {
        Self {
            weight: torch_uniform([outputs, inputs], inputs, device),
            bias: Param::from_tensor(Tensor::zeros([outputs], device)),
        }
    }

    /// `x W' + b`.
    ///
    /// # Shapes
    /// `[n, inputs]` to `[n, outputs]`.
    pub fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        burn::tensor::module::linear(x, self.weight.val().transpose(), Some(self.bias.val()))
    }
}

/// Predicts coefficients from an image's features: global average pooling, dropout, fully connected layer, softmax
/// or sigmoid. No statistic of the batch takes part, so one image is a batch.
#[derive(Module, Debug)]
pub struct CoefPredictor {
    pub(crate) dropout: Dropout,
    /// Layer between pooling and heads, with a ReLU behind it.
    pub reduce: Option<FullyConnected>,
    /// The scores of all heads, one head behind the other, each expert-major: row `e * channels + c`.
    pub fc: FullyConnected,
    /// Of softmax, `[1]`. A buffer: saved with the weights, never trained.
    temperature: Option<RunningState<Tensor<1>>>,
    #[module(skip)]
    heads: Vec<Head>,
}

impl CoefPredictor {
    /// A predictor of a net with given layers.
    pub(crate) fn from_layers(
        predictor: &Predictor,
        reduce: Option<FullyConnected>,
        fc: FullyConnected,
        device: &Device,
    ) -> Self {
        Self {
            dropout: DropoutConfig::new(f64::from(predictor.dropout)).init(),
            reduce,
            fc,
            temperature: temperature_state(predictor.activation, device),
            heads: predictor.heads.clone(),
        }
    }

    /// Coefficients for every head.
    ///
    /// # Shapes
    /// `features [n, c, h, w]`; for each head `[n, experts, channels]`.
    ///
    /// # Panics
    /// Where the features have another number of channels than the predictor.
    pub fn forward(&self, features: Tensor<4>) -> Vec<Tensor<3>> {
        let [n, ..] = features.dims();
        let mut units = self.dropout.forward(global_avg_pool(features));
        if let Some(reduce) = &self.reduce {
            units = relu(reduce.forward(units));
        }
        let scores = self.fc.forward(units);
        let mut start = 0;
        let mut coefs = Vec::with_capacity(self.heads.len());
        for head in &self.heads {
            let own = scores.clone().narrow(1, start, head.len()).reshape([n, head.experts, head.channels]);
            coefs.push(self.activate(own));
            start += head.len();
        }
        coefs
    }

    fn activate(&self, scores: Tensor<3>) -> Tensor<3> {
        match &self.temperature {
            Some(temperature) => softmax(scores / temperature.value().reshape([1, 1, 1]), 1),
            None => sigmoid(scores),
        }
    }

    /// The temperature of softmax; `None` with sigmoid.
    pub fn temperature(&self) -> Option<f32> {
        self.temperature.as_ref().map(|temperature| temperature.value().into_scalar())
    }

    /// Sets the temperature of softmax; with sigmoid there is none to set.
    ///
    /// # Errors
    /// [`ConfigError::Temperature`] where it is not finite and above 0.
    pub fn set_temperature(&mut self, temperature: f32) -> Result<(), ConfigError> {
        check_temperature(temperature)?;
        if let Some(state) = &mut self.temperature {
            let value = state.value().full_like(temperature);
            *state = RunningState::new(value);
        }
        Ok(())
    }
}
