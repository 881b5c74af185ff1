//! Inference engine for networks with dynamic convolutions: dynamic at the price of static.
//!
//! [`Plan::compile`] folds batch normalisation, chooses the algorithm of each layer, packs the fixed kernels and lays
//! out memory, once. A [`Session`] holds the memory and the threads of one caller and runs images through a plan,
//! which any number of sessions may share. For each image the fixed kernels of a dynamic convolution are fused, a panel
//! of output channels at a time, and multiplied while the panel is in cache: fused kernels never travel to memory.
//!
//! ```
//! use std::sync::Arc;
//! use dynet_engine::{Options, Plan, Session};
//! use dynet_net::{DynamicOptions, Weights, zoo};
//!
//! let options = zoo::ZooOptions { size: [64, 64], dynamic: Some(DynamicOptions::default()), ..Default::default() };
//! let net = zoo::build("mobilenet_v3_small", &options)?;
//! let plan = Arc::new(Plan::compile(&net, &Weights::init(&net, 0), &Options::default())?);
//! let mut session = Session::new(plan, 2)?;
//! let images = vec![0.5; 3 * 3 * 64 * 64]; // [n, c, h, w]: three images
//! let logits = session.run(&images)?; // [n, classes]
//! assert_eq!(logits.len(), 3 * 1000);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
#![forbid(unsafe_code)]

mod ahead;
mod arena;
mod blocks;
mod convolution;
mod cut;
mod error;
mod expand;
mod fold;
mod in_place;
mod layout;
mod lower;
mod pass;
mod peaks;
mod plan;
mod pooled;
mod run;
mod session;
mod step;
mod tile;

pub use dynet_kernels::{Isa, Kernel, Storage, UnknownIsa, kernels};
pub use error::{PlanError, RunError};
pub use peaks::Peaks;
pub use plan::{LayerInfo, Options, Plan, Precision};
pub use session::{Session, StepTime};
