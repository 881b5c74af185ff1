//! The training loop.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::Device;
use dynet_data::{Batch, BatchOptions, DataError};
use dynet_net::{Model, Weights, cost};
use dynet_nn::NetModule;

use crate::checkpoint::{self, Checkpoint, Position, Sums};
use crate::classifier::{Runtime, classifier};
use crate::config::Config;
use crate::curves;
use crate::error::TrainError;
use crate::evaluate::{EvaluateOptions, Evaluation, evaluate};
use crate::metrics::Metrics;
use crate::optimizer::Optimizer;
use crate::report::{EpochReport, EpochSeconds, Observer, Outcome, RunInfo, StepReport, Summary};
use crate::run_folder::RunFolder;
use crate::schedule::{Clock, rate_share, temperature};
use crate::setup::Setup;
use crate::step::{Labelled, Pass, pass};

/// Trains a run from where its folder stands: from the start, or from its newest checkpoint. Once `stop` is set it
/// finishes the step, saves and returns. A run that is finished already returns its result: the test set is touched once.
///
/// # Errors
/// Input that cannot be used, a loss that is not finite, or what the system refused.
pub fn train(
    config: &Config,
    setup: Setup,
    folder: &RunFolder,
    observer: &mut dyn Observer,
    stop: &AtomicBool,
) -> Result<Outcome, TrainError> {
    if let Some(summary) = folder.summary()? {
        return Ok(Outcome::Finished(summary));
    }
    let mut run = Run::start(config, folder, setup, observer)?;
    run.log(&format!(
        "at epoch {}, step {}, on {}",
        run.position.epoch + 1,
        run.position.step,
        config.run.device
    ))?;
    observer.started(&run.info());
    while run.position.epoch < config.run.epochs {
        if run.epoch(observer, stop)? == Flow::Stop {
            let step = run.position.step;
            run.log(&format!("stopped after step {step}"))?;
            return Ok(Outcome::Stopped { folder: folder.path().into(), step });
        }
    }
    run.finish()
}

/// Gives the next batch.
type Next<'a> = &'a mut dyn FnMut() -> Option<Result<Batch, DataError>>;

/// Whether to go on.
#[derive(PartialEq)]
enum Flow {
    Next,
    Stop,
}

/// A run in progress.
struct Run<'a> {
    config: &'a Config,
    folder: &'a RunFolder,
    setup: Setup,
    module: NetModule,
    optimizer: Optimizer,
    position: Position,
    metrics: Metrics,
    device: Device,
    /// Time of training, validation not counted, in this process and those before it.
    train_time: Duration,
}

impl<'a> Run<'a> {
    fn start(
        config: &'a Config,
        folder: &'a RunFolder,
        setup: Setup,
        observer: &mut dyn Observer,
    ) -> Result<Self, TrainError> {
        let device = setup.device.clone().autodiff();
        let newest = newest_checkpoint(folder, observer)?;
        let module = match &newest {
            Some((path, checkpoint)) => NetModule::new(&setup.net, &checkpoint.weights, &device)
                .map_err(|problem| TrainError::checkpoint(path, problem.to_string()))?,
            None => NetModule::init(&setup.net, config.run.seed, &device),
        };
        let mut optimizer = Optimizer::new(&config.optimizer, &module);
        let (mut position, mut train_time) = (Position::default(), Duration::ZERO);
        if let Some((path, checkpoint)) = newest {
            optimizer
                .restore(&checkpoint.optimizer, checkpoint.position.step, &setup.device)
                .map_err(|problem| TrainError::checkpoint(&path, problem))?;
            position = checkpoint.position;
            train_time = Duration::try_from_secs_f64(checkpoint.train_seconds).unwrap_or_default();
        }
        for skipped in &setup.skipped {
            folder.log(&format!("left out {}: {}", skipped.path.display(), skipped.reason))?;
        }
        let metrics = Metrics::open(folder, &position.history)?;
        Ok(Self { config, folder, setup, module, optimizer, position, metrics, device, train_time })
    }

    fn clock(&self) -> Clock {
        Clock { steps_per_epoch: self.setup.steps_per_epoch(self.config), epochs: self.config.run.epochs }
    }

    fn info(&self) -> RunInfo {
        let cost = cost(&self.setup.net);
        let setup = &self.setup;
        RunInfo {
            folder: self.folder.path().into(),
            net: describe(self.config),
            params: cost.params,
            madds: cost.madds.fused_total(),
            data: setup.data.clone(),
            images: [setup.train.len(), setup.val.len(), setup.test.as_ref().map_or(0, |t| t.len())],
            skipped: setup.skipped.clone(),
            epochs: [self.config.run.epochs, self.position.epoch],
            steps_per_epoch: self.clock().steps_per_epoch,
            steps_done: self.position.batch / self.config.run.accumulate,
            images_per_step: self.config.run.batch * self.config.run.accumulate,
        }
    }

    fn log(&self, line: &str) -> Result<(), TrainError> {
        self.folder.log(line)
    }

    /// One epoch, or what is left of it.
    fn epoch(&mut self, observer: &mut dyn Observer, stop: &AtomicBool) -> Result<Flow, TrainError> {
        let started = Instant::now();
        let images_before = self.position.sums.images;
        let mut waited = Duration::ZERO;
        let mut batches = dynet_data::batches(&self.setup.train, &self.batch_options());
        let mut last_rate = 0.0;
        let passes = self.config.run.accumulate;
        while self.position.batch < self.clock().steps_per_epoch * passes {
            if stop.load(Ordering::Relaxed) {
                self.train_time += started.elapsed();
                self.save()?;
                return Ok(Flow::Stop);
            }
            self.begin_step()?;
            last_rate = self.config.optimizer.learning_rate
                * rate_share(&self.config.schedule, self.clock(), self.position.step);
            let mut next = || {
                let asked = Instant::now();
                let batch = batches.next();
                waited += asked.elapsed();
                batch
            };
            if passes == 1 && self.optimizer.needs_no_norm() {
                self.step_at_once(&mut next, last_rate)?;
            } else {
                self.step_of_passes(&mut next, passes, last_rate)?;
            }
            self.position.step += 1;
            let images = self.position.sums.images - images_before;
            observer.step(&self.step_report(last_rate, images as f64 / started.elapsed().as_secs_f64()));
        }
        let train = started.elapsed();
        self.train_time += train;
        let images = self.position.sums.images - images_before;
        let mut seconds = EpochSeconds {
            train: train.as_secs_f64(),
            data_wait: waited.as_secs_f64(),
            images_per_second: images as f64 / train.as_secs_f64(),
            validation: 0.0,
        };
        self.end_epoch(last_rate, &mut seconds, observer)?;
        Ok(Flow::Next)
    }

    /// A step of one pass: backward updates what it can.
    fn step_at_once(&mut self, next: Next<'_>, rate: f64) -> Result<(), TrainError> {
        let batch = next().ok_or_else(|| self.short_epoch())??;
        let batch = Labelled::new(&batch, self.config.optimizer.label_smoothing, &self.device);
        let (logits, step) = self.optimizer.begin(&mut self.module, batch.images.clone(), rate);
        let (pass, gradients) = pass(logits, &batch, 1);
        let gradients = gradients.map(|own| GradientsParams::from_grads(own, step.module()));
        match gradients {
            Some(gradients) => {
                let states = step.finish(gradients);
                self.optimizer.finish(&self.module, states);
            }
            None => drop(step),
        }
        self.absorb(&pass)
    }

    /// A step with the mean of several passes' gradients, or one that needs the norm of all of them.
    fn step_of_passes(&mut self, next: Next<'_>, passes: usize, rate: f64) -> Result<(), TrainError> {
        let mut sum = GradientsAccumulator::new();
        for _ in 0..passes {
            let batch = next().ok_or_else(|| self.short_epoch())??;
            let batch = Labelled::new(&batch, self.config.optimizer.label_smoothing, &self.device);
            let (pass, gradients) = pass(self.module.forward(batch.images.clone()), &batch, passes);
            if let Some(gradients) = gradients {
                sum.accumulate(&self.module, GradientsParams::from_grads(gradients, &self.module));
            }
            self.absorb(&pass)?;
        }
        self.optimizer.step(&mut self.module, sum.grads(), rate);
        Ok(())
    }

    /// Counts a pass.
    fn absorb(&mut self, pass: &Pass) -> Result<(), TrainError> {
        if !pass.loss.is_finite() {
            return Err(self.not_finite("the loss", pass.loss));
        }
        self.position.sums.add(pass.images, pass.correct, pass.loss);
        self.position.batch += 1;
        Ok(())
    }

    fn batch_options(&self) -> BatchOptions {
        let Config { data, run, augment, .. } = self.config;
        BatchOptions {
            batch: run.batch,
            epoch: self.position.epoch as u64,
            seed: run.seed,
            shuffle: true,
            drop_last: true,
            start: self.position.batch,
            augment: Some(augment.clone()),
            preprocessing: self.setup.preprocessing.clone(),
            workers: data.workers,
            ahead: data.ahead,
            skip_bad: data.skip_bad,
        }
    }

    /// Sets what depends on the step alone: temperature, and the seed of dropout.
    fn begin_step(&mut self) -> Result<(), TrainError> {
        let step = self.position.step;
        if let Some(own) = self.setup.net.temperature() {
            let now = temperature(&self.config.schedule, self.clock(), step, own);
            self.module.set_temperature(now).map_err(|e| TrainError::Mismatch(e.to_string()))?;
        }
        // No generator's state has to be saved: each step seeds it anew.
        self.device.seed(mix(self.config.run.seed, step as u64));
        Ok(())
    }

    fn step_report(&self, learning_rate: f64, images_per_second: f64) -> StepReport {
        let Position { epoch, batch, step, sums, .. } = self.position;
        StepReport {
            epoch: epoch + 1,
            step_in_epoch: batch / self.config.run.accumulate,
            step,
            loss: sums.mean_loss(),
            top1: sums.accuracy(),
            learning_rate,
            temperature: self.module.temperature(),
            images_per_second,
        }
    }

    /// Validates, saves, reports.
    fn end_epoch(
        &mut self,
        learning_rate: f64,
        seconds: &mut EpochSeconds,
        observer: &mut dyn Observer,
    ) -> Result<(), TrainError> {
        let started = Instant::now();
        let model = self.model()?;
        let val = self.evaluate(&model, &self.setup.val)?;
        seconds.validation = started.elapsed().as_secs_f64();
        let best = self.position.best.is_none_or(|(top1, _)| val.top1 > top1);
        let position = &mut self.position;
        position.epoch += 1;
        let report = EpochReport {
            epoch: position.epoch,
            step: position.step,
            train_loss: position.sums.mean_loss(),
            train_top1: position.sums.accuracy(),
            val_loss: val.loss,
            val_top1: val.top1,
            val_top5: val.top5,
            learning_rate,
            temperature: self.module.temperature(),
            best,
        };
        position.batch = 0;
        position.sums = Sums::default();
        position.history.push(report);
        if best {
            position.best = Some((val.top1, report.epoch));
            model.write(&self.folder.best())?;
        }
        model.write(&self.folder.last())?;
        self.save()?;
        self.metrics.epoch(&self.position.history, seconds)?;
        curves::draw(self.folder, &self.position.history)?;
        self.log(&format!(
            "epoch {}: loss {:.4}, training top-1 {:.4}, validation top-1 {:.4}",
            report.epoch, report.train_loss, report.train_top1, report.val_top1
        ))?;
        observer.epoch(&report, seconds);
        Ok(())
    }

    /// The model as it is evaluated and saved: with averaged weights where they are kept.
    fn model(&self) -> Result<Model, TrainError> {
        let mut weights = self.finite_weights()?;
        for (name, values) in self.optimizer.averaged() {
            if let Some(shape) = weights.get(&name).map(|t| t.shape.clone()) {
                weights.insert(name, shape, values);
            }
        }
        Ok(Model {
            net: self.module.net(),
            weights,
            labels: self.setup.labels.clone(),
            preprocessing: self.setup.preprocessing.clone(),
        })
    }

    /// The weights; an update that was too large for them is found here, before it gets into a file.
    fn finite_weights(&self) -> Result<Weights, TrainError> {
        let weights = self.module.weights();
        let bad = weights.iter().flat_map(|(_, tensor)| &tensor.data).find(|value| !value.is_finite());
        match bad {
            Some(value) => Err(self.not_finite("a weight", f64::from(*value))),
            None => Ok(weights),
        }
    }

    fn evaluate(
        &self,
        model: &Model,
        dataset: &std::sync::Arc<dynet_data::Dataset>,
    ) -> Result<Evaluation, TrainError> {
        let options = EvaluateOptions {
            batch: self.config.run.batch,
            workers: self.config.data.workers,
            skip_bad: self.config.data.skip_bad,
            labels: None,
        };
        let classes = self.setup.labels.len();
        let runtime = Runtime { device: self.config.run.device, ..Runtime::default() };
        let mut classifier = classifier(model, &runtime)?;
        evaluate(classifier.as_mut(), dataset, &self.setup.preprocessing, classes, &options)
    }

    fn save(&self) -> Result<(), TrainError> {
        let weights = self.finite_weights()?;
        let (optimizer, _) = self.optimizer.save();
        let state = Checkpoint {
            position: self.position.clone(),
            weights,
            temperature: self.module.temperature(),
            optimizer,
            train_seconds: self.train_time.as_secs_f64(),
        };
        let folder = self.folder.checkpoints();
        state.write(&folder.join(checkpoint::file_name(self.position.step)))?;
        let all = checkpoint::list(&folder)?;
        for old in &all[..all.len().saturating_sub(self.config.run.keep_checkpoints)] {
            std::fs::remove_file(old).map_err(|e| TrainError::io(old, e))?;
        }
        Ok(())
    }

    fn short_epoch(&self) -> TrainError {
        let text = format!(
            "{}: the images ended within epoch {}; too many could not be read",
            self.setup.data,
            self.position.epoch + 1
        );
        TrainError::Mismatch(text)
    }

    fn not_finite(&self, what: &'static str, value: f64) -> TrainError {
        let last = checkpoint::list(&self.folder.checkpoints()).ok().and_then(|all| all.last().cloned());
        let last = match last {
            Some(path) => format!("the last good checkpoint is {}", path.display()),
            None => "there is no checkpoint yet".into(),
        };
        let advice = format!("{last}; try a lower optimizer.learning_rate, or optimizer.clip_norm=1");
        let error = TrainError::NotFinite { step: self.position.step, what, value, advice };
        // The error itself is what matters; a log that cannot be written must not hide it.
        self.log(&error.to_string()).unwrap_or_default();
        error
    }

    /// The test set, once, with the best model.
    fn finish(self) -> Result<Outcome, TrainError> {
        let best_path: PathBuf = self.folder.best();
        let model = Model::read(&best_path)?;
        let test = match &self.setup.test {
            Some(test) if self.config.run.test => Some(self.evaluate(&model, test)?),
            _ => None,
        };
        let cost = cost(&self.setup.net);
        let (val_top1, best_epoch) = self.position.best.unwrap_or_default();
        let summary = Summary {
            net: describe(self.config),
            folder: self.folder.path().into(),
            best: best_path,
            best_epoch,
            val_top1,
            test_top1: test.as_ref().map(|t| t.top1),
            test_top5: test.as_ref().map(|t| t.top5),
            params: cost.params,
            madds: cost.madds.fused_total(),
            train_seconds: self.train_time.as_secs_f64(),
        };
        self.folder.write_summary(&summary)?;
        self.log(&format!("finished: validation top-1 {val_top1:.4}, test top-1 {:?}", summary.test_top1))?;
        Ok(Outcome::Finished(summary))
    }
}

/// The newest checkpoint that is whole. A damaged one is told, and the one before it taken.
fn newest_checkpoint(
    folder: &RunFolder,
    observer: &mut dyn Observer,
) -> Result<Option<(PathBuf, Checkpoint)>, TrainError> {
    let mut error = None;
    for path in checkpoint::list(&folder.checkpoints())?.into_iter().rev() {
        match Checkpoint::read(&path) {
            Ok(checkpoint) => return Ok(Some((path, checkpoint))),
            Err(e) => {
                observer.message(&format!("{e}; trying the checkpoint before it"));
                error.get_or_insert(e);
            }
        }
    }
    error.map_or(Ok(None), Err)
}

/// The net of a recipe in a few words.
fn describe(config: &Config) -> String {
    let model = &config.model;
    let mut text = model.net.clone();
    if model.width != 1.0 {
        text += &format!(", width {}", model.width);
    }
    match (&model.dynamic, model.twin) {
        (_, true) => text += ", static twin",
        (Some(dynamic), false) => text += &format!(", K = {}", dynamic.experts),
        (None, false) => {}
    }
    text
}

/// A seed from two numbers, by the finaliser of SplitMix64 (Steele, Lea and Flood, 2014).
fn mix(seed: u64, step: u64) -> u64 {
    let mut z =
        seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(step).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
