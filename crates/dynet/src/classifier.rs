//! What runs a model file: the one place where the command chooses.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use dynet_engine::{Options, Plan, Session};
use dynet_net::Model;
use dynet_train::{BurnClassifier, Classifier, DeviceName, TrainError};

use crate::fault::{Blame, Fault, blame};

/// Timed runs of one image, and after how long there are enough of them.
const RUNS: usize = 200;
const ENOUGH: Duration = Duration::from_secs(2);
/// Runs that warm caches and pages up and are not timed.
const WARM_UP: usize = 5;

/// Reads a model file; for the folder of a run, its best model.
///
/// # Errors
/// A file that is no model.
pub(crate) fn read_model(path: &Path) -> Result<Model, Fault> {
    let file = if path.is_dir() { path.join("weights/best.safetensors") } else { PathBuf::from(path) };
    Model::read(&file).input()
}

/// Most threads that a session of the engine takes.
const MAX_THREADS: usize = 64;

/// A model on the inference engine.
struct EngineClassifier(Session);

impl Classifier for EngineClassifier {
    fn logits(&mut self, images: &[f32], _shape: [usize; 4]) -> Result<Vec<f32>, TrainError> {
        let logits = self.0.run(images).map_err(|e| TrainError::Classifier(e.to_string()))?;
        Ok(logits.to_vec())
    }
}

/// What runs `model`: on CPUs the engine, or Burn for what the engine does not take; on other devices Burn.
///
/// # Errors
/// A model that neither can run, or a device that is not there.
pub(crate) fn classifier(model: &Model, device: DeviceName) -> Result<Box<dyn Classifier>, Fault> {
    if device == DeviceName::default()
        && let Ok(plan) = Plan::compile(&model.net, &model.weights, &Options::default())
    {
        let threads = available_parallelism().map_or(1, usize::from).min(MAX_THREADS);
        let session = Session::new(Arc::new(plan), threads).failure()?;
        return Ok(Box::new(EngineClassifier(session)));
    }
    Ok(Box::new(BurnClassifier::new(model, device).map_err(blame)?))
}

/// Median milliseconds that one image takes as a batch of its own, from pixels in memory to logits.
///
/// # Errors
/// A classifier that fails.
pub(crate) fn milliseconds_an_image(model: &Model) -> Result<f64, Fault> {
    let mut classifier = classifier(model, DeviceName::default())?;
    let shape = model.net.input();
    let len = shape.c * shape.h * shape.w;
    let started = Instant::now();
    let mut times = Vec::with_capacity(RUNS);
    for run in 0..WARM_UP + RUNS {
        // Another image each time, never zeros: the golden ratio's multiples spread over -1 to 1.
        let value = |i: usize| ((run * len + i) as f32 * 0.618_034).fract() * 2.0 - 1.0;
        let image: Vec<f32> = (0..len).map(value).collect();
        let start = Instant::now();
        classifier.logits(&image, [1, shape.c, shape.h, shape.w]).failure()?;
        if run >= WARM_UP {
            times.push(start.elapsed().as_secs_f64() * 1e3);
            if started.elapsed() > ENOUGH {
                break;
            }
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}
