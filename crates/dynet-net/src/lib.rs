//! Convolutional networks with dynamic convolutions, described as data.
//!
//! A [`Net`] is a list of nodes, always valid, which training, the inference engine, the cost counter and the
//! exporters all read. The [`zoo`] builds the nets that people know; [`Net::to_dynamic`] makes any of them
//! dynamic and [`Net::twin`] static again; [`cost()`] counts; a [`Model`] is a net with its [`Weights`],
//! labels and [`Preprocessing`] in one file.
//!
//! In a dynamic convolution K fixed kernels a layer, the experts, are fused into one kernel for each image:
//! `w~_t = sum_i eta_t^i w_t^i` for every output channel `t`. A predictor makes the coefficients `eta` of the
//! image's features.
//!
//! ```
//! use dynet_net::{DynamicOptions, cost, zoo};
//!
//! // The paper's ResNet18 and the static net that it replaces.
//! let dynamic = zoo::build("dy_resnet18", &Default::default())?;
//! let resnet = zoo::build("resnet18", &Default::default())?;
//! let ratio = cost(&dynamic).madds.fused_total() as f64 / cost(&resnet).madds.fused_total() as f64;
//! assert_eq!(format!("{:.1} %", 100.0 * (1.0 - ratio)), "67.2 %");
//!
//! // Any static net made dynamic with 4 kernels, and its twin.
//! let options = DynamicOptions { experts: 4, ..Default::default() };
//! let net = resnet.to_dynamic(&options)?;
//! assert_eq!(net.params()[5].name, "layer1.0.conv1.weight");
//! assert_eq!(net.params()[5].shape, [4, 64, 64, 3, 3]);
//! assert_eq!(net.twin(), resnet);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod builder;
pub mod cost;
mod dynamic;
pub mod formula;
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
