//! Dynamic convolution layers for [Burn](https://burn.dev), and networks described by `dynet-net` as Burn modules.
#![forbid(unsafe_code)]

mod coefficients;
mod conv;
mod dyconv;
mod error;
mod experts;
mod initial;
mod padding;

pub use coefficients::{CoefPredictor, CoefPredictorConfig, FullyConnected};
pub use conv::Geometry;
pub use dyconv::{DyConv2d, DyConv2dConfig};
pub use error::ConfigError;
pub use experts::{ExpertConv2d, Form};
pub use dynet_net::{CoefActivation, Coefficients, Head, PaddingMode};
