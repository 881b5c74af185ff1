//! Recipes, the training loop, metrics and run folders.
//!
//! [`Config`] is the whole recipe; [`Setup`] opens the images and builds the net; [`RunFolder::create`] makes a run's
//! place; [`train`] trains there and tells an [`Observer`]; a stopped run goes on with [`RunFolder::open`] and [`train`].
//! [`evaluate`] and [`top_k`] use what came out.
#![forbid(unsafe_code)]

mod checkpoint;
mod classifier;
mod config;
mod config_file;
mod curves;
mod error;
mod evaluate;
mod metrics;
mod optimizer;
mod report;
mod run_folder;
mod schedule;
mod setup;
mod step;
mod tensorboard;
mod train;

pub use classifier::{Classifier, Runtime, classifier};
pub use config::{Config, Course, DataConfig, ModelConfig, OptimizerConfig, Rule, RunConfig, ScheduleConfig};
pub use config_file::ConfigError;
pub use dynet_nn::{DeviceError, DeviceName};
pub use error::TrainError;
pub use evaluate::{ClassScore, EvaluateOptions, Evaluation, evaluate, top_k};
pub use report::{EpochReport, EpochSeconds, Observer, Outcome, RunInfo, Silent, StepReport, Summary};
pub use run_folder::{RunFolder, default_name};
pub use setup::Setup;
pub use train::train;
