//! What a run tells while it goes and when it ends.

use std::path::PathBuf;

use dynet_data::Skipped;
use serde::{Deserialize, Serialize};

/// Watches a run. The library prints nothing; the command draws bars and lines from these calls.
pub trait Observer {
    /// The run begins, or goes on.
    fn started(&mut self, info: &RunInfo);
    /// One update is done.
    fn step(&mut self, report: &StepReport);
    /// One epoch is done, validation included.
    fn epoch(&mut self, report: &EpochReport, seconds: &EpochSeconds);
    /// Something worth a line.
    fn message(&mut self, text: &str);
}

/// An observer that looks away.
pub struct Silent;

impl Observer for Silent {
    fn started(&mut self, _: &RunInfo) {}
    fn step(&mut self, _: &StepReport) {}
    fn epoch(&mut self, _: &EpochReport, _: &EpochSeconds) {}
    fn message(&mut self, _: &str) {}
}

/// What a run is about to do.
#[derive(Clone, Debug, Serialize)]
pub struct RunInfo {
    /// Folder of the run.
    pub folder: PathBuf,
    /// The net, with its main options.
    pub net: String,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds of one image, kernels fused.
    pub madds: u64,
    /// Name of the data.
    pub data: String,
    /// Images to train on, to validate on, to test on.
    pub images: [usize; 3],
    /// Images that could not be read and were left out.
    pub skipped: Vec<Skipped>,
    /// Epochs of the whole run, and those already done.
    pub epochs: [usize; 2],
    /// Updates of one epoch.
    pub steps_per_epoch: usize,
    /// Updates of the current epoch already done.
    pub steps_done: usize,
    /// Images of one update.
    pub images_per_step: usize,
}

/// One update.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct StepReport {
    /// Its epoch, counted from 1.
    pub epoch: usize,
    /// Updates of this epoch so far.
    pub step_in_epoch: usize,
    /// Updates so far.
    pub step: usize,
    /// Mean loss of the epoch so far.
    pub loss: f64,
    /// Share of the epoch's images so far whose likeliest class was right.
    pub top1: f64,
    /// Learning rate of the update.
    pub learning_rate: f64,
    /// Temperature of the softmax predictors.
    pub temperature: Option<f32>,
    /// Images a second since the epoch began.
    pub images_per_second: f64,
}

/// One epoch. Holds nothing that depends on the clock, so that a resumed run reports the same.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct EpochReport {
    /// Counted from 1.
    pub epoch: usize,
    /// Updates so far.
    pub step: usize,
    /// Mean training loss, with smoothing and mixed targets.
    pub train_loss: f64,
    /// Share of right training answers, under augmentation.
    pub train_top1: f64,
    /// Mean cross entropy on the validation images.
    pub val_loss: f64,
    /// Share of validation images whose likeliest class is right.
    pub val_top1: f64,
    /// Share of validation images whose class is among the five likeliest.
    pub val_top5: f64,
    /// Learning rate of the epoch's last update.
    pub learning_rate: f64,
    /// Temperature of the softmax predictors at its end.
    pub temperature: Option<f32>,
    /// Whether it is the best so far.
    pub best: bool,
}

/// Where an epoch's time went, in seconds.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct EpochSeconds {
    /// Forward, backward and update.
    pub train: f64,
    /// Waiting for batches, within `train`.
    pub data_wait: f64,
    /// Validation.
    pub validation: f64,
    /// Images a second in training.
    pub images_per_second: f64,
}

/// How a run ended.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// All epochs are done.
    Finished(Summary),
    /// It was asked to stop; the folder resumes it.
    Stopped {
        /// The run's folder.
        folder: PathBuf,
        /// Updates done.
        step: usize,
    },
}

/// The result of a run: `summary.json` in its folder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The net, with its main options.
    pub net: String,
    /// Folder of the run.
    pub folder: PathBuf,
    /// The model with the best validation accuracy.
    pub best: PathBuf,
    /// Epoch of that model.
    pub best_epoch: usize,
    /// Its validation accuracy.
    pub val_top1: f64,
    /// Its accuracy on the test set, where there is one and it was asked for.
    pub test_top1: Option<f64>,
    /// The same for the five likeliest classes.
    pub test_top5: Option<f64>,
    /// Trainable values.
    pub params: u64,
    /// Multiply-adds of one image, kernels fused.
    pub madds: u64,
    /// Seconds of training, validation not counted; of a resumed run, of all its parts.
    pub train_seconds: f64,
}
