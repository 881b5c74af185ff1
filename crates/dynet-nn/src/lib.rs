//! Dynamic convolution layers for [Burn](https://burn.dev), and networks described by `dynet-net` as Burn modules.
#![forbid(unsafe_code)]

mod coefficients;
mod conv;
mod device;
mod dyconv;
mod error;
mod experts;
mod initial;
mod layer;
mod net_module;
mod norm;
mod ops;
mod padding;
mod pointwise;
mod state;
mod static_conv;
mod step;
mod timing;

pub use coefficients::{CoefPredictor, CoefPredictorConfig, FullyConnected};
pub use conv::Geometry;
pub use device::{DeviceError, DeviceName, Driver};
pub use dyconv::{DyConv2d, DyConv2dConfig};
pub use dynet_kernels::backward::{AdamW, Sgd};
pub use dynet_net::{CoefActivation, Coefficients, Head, PaddingMode};
pub use error::{ConfigError, NnError};
pub use experts::{ExpertConv2d, Form};
pub use net_module::NetModule;
pub use ops::{ParamUpdate, UpdateRule, average, set_threads, square_sum};
pub use step::Step;
pub use timing::{StepTimes, time_steps};
