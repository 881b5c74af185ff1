//! What runs a trained model: the inference engine on CPUs, Burn on other devices.
//!
//! Validation runs on the engine too: what is measured is what will be deployed, and it takes a fraction of the time that
//! Burn's operations take without autodiff.

use std::sync::Arc;
use std::thread::available_parallelism;

use burn::tensor::{Device, Tensor, TensorData};
use dynet_engine::{Options, Plan, Precision, Session, Storage};
use dynet_net::Model;
use dynet_nn::{DeviceName, NetModule};

use crate::error::TrainError;

/// Most threads that a session of the engine takes.
const MAX_THREADS: usize = 64;

/// Anything that turns images into logits.
pub trait Classifier {
    /// Logits of a batch.
    ///
    /// # Shapes
    /// `images [n, c, h, w]` as `shape` says; the result is `[n, classes]`.
    ///
    /// # Errors
    /// Whatever keeps the classifier from running.
    fn logits(&mut self, images: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, TrainError>;
}

/// Where and how a trained model runs; by default on the engine, in f32, with all of the machine's threads.
#[derive(Clone, Debug, Default)]
pub struct Runtime {
    /// On CPUs the engine runs it, on other devices Burn.
    pub device: DeviceName,
    /// Of the engine.
    pub engine: Options,
    /// Of the engine; all of the machine's if not given.
    pub threads: Option<usize>,
}

/// What runs `model`: on CPUs the engine, or Burn for what the engine does not take in f32; on other devices Burn.
///
/// # Errors
/// A model that neither can run, one that the engine does not take where another format is asked for, a device that is
/// not there.
pub fn classifier(model: &Model, runtime: &Runtime) -> Result<Box<dyn Classifier>, TrainError> {
    let Runtime { device, engine, threads } = runtime;
    if *device == DeviceName::default() {
        match Plan::compile(&model.net, &model.weights, engine) {
            Ok(plan) => {
                let all = || available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
                let session = Session::new(Arc::new(plan), threads.unwrap_or_else(all));
                let session = session.map_err(|e| TrainError::Classifier(e.to_string()))?;
                return Ok(Box::new(EngineClassifier(session)));
            }
            // Burn would give other numbers than the ones that are asked for.
            Err(e) if (engine.experts, engine.precision) != (Storage::F32, Precision::F32) => {
                return Err(TrainError::Plan(e));
            }
            Err(_) => {}
        }
    }
    Ok(Box::new(BurnClassifier::new(model, *device)?))
}

/// A model on the inference engine.
struct EngineClassifier(Session);

impl Classifier for EngineClassifier {
    fn logits(&mut self, images: &[f32], _shape: [usize; 4]) -> Result<Vec<f32>, TrainError> {
        let logits = self.0.run(images).map_err(|e| TrainError::Classifier(e.to_string()))?;
        Ok(logits.to_vec())
    }
}

/// A net that runs on Burn.
struct BurnClassifier {
    module: NetModule,
    device: Device,
}

impl BurnClassifier {
    fn new(model: &Model, device: DeviceName) -> Result<Self, TrainError> {
        let device = device.open()?;
        Ok(Self { module: NetModule::new(&model.net, &model.weights, &device)?, device })
    }
}

impl Classifier for BurnClassifier {
    fn logits(&mut self, images: &[f32], shape: [usize; 4]) -> Result<Vec<f32>, TrainError> {
        let data = TensorData::new(images.to_vec(), shape);
        let logits = self.module.forward(Tensor::from_data(data, &self.device));
        Ok(logits.into_data().iter::<f32>().collect())
    }
}
