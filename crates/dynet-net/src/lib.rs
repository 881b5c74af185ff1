//! Convolutional networks with dynamic convolutions, described as data.
//!
//! A [`Net`] is a list of nodes, always valid, which training, the inference engine, the cost counter and the
//! exporters all read. The [`zoo`] builds the nets that people know; [`Net::to_dynamic`] makes any of them
//! dynamic and [`Net::twin`] static again; [`cost()`] counts; a [`Model`] is a net with its
//! [`Weights`] in one file.
#![forbid(unsafe_code)]

mod builder;
pub mod cost;
mod dynamic;
pub mod model;
mod net;
mod op;
mod params;
pub mod preprocessing;
mod shape;
pub mod weights;
pub mod zoo;

pub use builder::{NetBuilder, NetError};
pub use cost::{Summary, cost, summary};
pub use dynamic::{Coefficients, DynamicOptions, Scope};
pub use model::{Model, ModelError, ModelProblem};
pub use net::{Net, Node, NodeId};
pub use op::{Activation, CoefActivation, Conv2d, DynamicKernel, Head, Op, PaddingMode, Predictor, Shape};
pub use params::{ParamKind, ParamSpec};
pub use preprocessing::{Channels, Interpolation, Preprocessing};
pub use shape::{MAX_DIM, MAX_EXPERTS, MAX_VALUES};
pub use weights::{WeightTensor, Weights, WeightsError};
