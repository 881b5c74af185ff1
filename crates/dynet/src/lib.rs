//! Dynamic convolutions at the price of static ones: one facade over the crates of the project.
//!
//! - [`net`]: networks as data, the zoo, costs, model files;
//! - [`nn`]: layers and networks for Burn;
//! - [`data`]: image datasets, decoding, augmentation;
//! - [`train`]: recipes, the training loop, evaluation;
//! - [`engine`]: inference on CPUs;
//! - [`analysis`]: correlation, coefficients, the report.
#![forbid(unsafe_code)]

pub use dynet_analysis as analysis;
pub use dynet_data as data;
pub use dynet_engine as engine;
pub use dynet_net as net;
pub use dynet_nn as nn;
pub use dynet_train as train;
