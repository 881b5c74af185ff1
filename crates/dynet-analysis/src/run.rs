//! Runs a model over images, with the engine's taps.

use std::sync::Arc;

use dynet_data::Batches;
use dynet_engine::{Options as EngineOptions, Plan, Session};
use dynet_net::Model;

use crate::collect::{Collector, Options};
use crate::error::AnalysisError;
use crate::report::ModelAnalysis;

/// A model and what to call it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its name in the report.
    pub label: &'a str,
    /// Where it comes from.
    pub origin: &'a str,
    /// The model.
    pub model: &'a Model,
}

/// Runs a model over at most `images` images on `threads` threads. `progress` hears how many are done.
///
/// # Errors
/// A net without a convolution, weights or images that cannot be used.
pub fn analyze(
    subject: Subject<'_>,
    batches: Batches,
    images: usize,
    threads: usize,
    options: &Options,
    mut progress: impl FnMut(usize),
) -> Result<ModelAnalysis, AnalysisError> {
    let Subject { label, origin, model } = subject;
    let mut collector = Collector::new(&model.net, options)?;
    let engine = EngineOptions { taps: collector.nodes(), ..EngineOptions::default() };
    let plan = Plan::compile(&model.net, &model.weights, &engine)?;
    let mut session = Session::new(Arc::new(plan), threads)?;
    let len = model.net.input().len();
    let classes = model.net.classes();
    let mut labels: Vec<usize> = Vec::new();
    let mut right = 0;
    for batch in batches {
        let batch = batch?;
        let n = batch.targets.len().min(images - labels.len());
        let first = labels.len();
        let mut problem = None;
        let logits = session.run_with_taps(&batch.images[..n * len], |image, node, values| {
            if problem.is_none() {
                problem = collector.look(first + image, node, values).err();
            }
        })?;
        if let Some(problem) = problem {
            return Err(problem);
        }
        for (target, row) in batch.targets[..n].iter().zip(logits.chunks_exact(classes)) {
            let best = row.iter().enumerate().max_by(|a, b| a.1.total_cmp(b.1).then(b.0.cmp(&a.0)));
            right += usize::from(best.is_some_and(|b| b.0 == target.a));
            labels.push(target.a);
        }
        progress(labels.len());
        if labels.len() == images {
            break;
        }
    }
    // Classes beyond the model's are those of another data set: its answers are then neither right nor wrong.
    let known = labels.iter().all(|l| *l < classes);
    let top1 = (known && !labels.is_empty()).then(|| right as f64 / labels.len() as f64);
    let layers = collector.finish(&model.weights, &labels)?;
    Ok(ModelAnalysis::new(label, origin, model, labels.len(), top1, layers))
}
