//! Model files that the command reads, and how long one image takes.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use dynet_net::Model;
use dynet_train::{Runtime, classifier};

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

/// Median milliseconds that one image takes as a batch of its own, from pixels in memory to logits.
///
/// # Errors
/// A classifier that fails.
pub(crate) fn milliseconds_an_image(model: &Model) -> Result<f64, Fault> {
    let mut classifier = classifier(model, &Runtime::default()).map_err(blame)?;
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
