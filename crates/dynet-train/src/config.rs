//! The recipe of a run as one document: `config.toml`.

use dynet_data::{Augment, Crop};
use dynet_net::zoo::ZooOptions;
use dynet_net::{CoefActivation, DynamicOptions};
use dynet_nn::DeviceName;
use serde::{Deserialize, Serialize};

use crate::config_file::ConfigError;

/// The whole recipe. Its default is the main job: a small dynamic net on the built-in images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The images.
    pub data: DataConfig,
    /// The net.
    pub model: ModelConfig,
    /// Batches, epochs, randomness.
    pub run: RunConfig,
    /// The update rule.
    pub optimizer: OptimizerConfig,
    /// What changes over time.
    pub schedule: ScheduleConfig,
    /// Random changes of training images.
    pub augment: Augment,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            data: DataConfig::default(),
            model: ModelConfig::main_job(),
            run: RunConfig::default(),
            optimizer: OptimizerConfig::default(),
            schedule: ScheduleConfig::default(),
            // Shifts and mirror images: without them even a net this narrow learns 10,800 images by heart.
            augment: Augment { crop: Crop::Pad { pixels: 2 }, flip: 0.5, ..Augment::default() },
        }
    }
}

/// The images.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataConfig {
    /// `builtin`, or the path of a folder.
    pub source: String,
    /// Share of the training images kept back for validation, where the data has no validation set.
    pub val_fraction: f32,
    /// Leave images that cannot be read out, instead of stopping.
    pub skip_bad: bool,
    /// Threads that decode and augment; 0 does both on the training thread.
    pub workers: usize,
    /// Batches made ahead of the training step.
    pub ahead: usize,
}

impl Default for DataConfig {
    fn default() -> Self {
        Self { source: "builtin".into(), val_fraction: 0.1, skip_bad: false, workers: 1, ahead: 4 }
    }
}

/// The net. The default is the zoo's: a net that is named keeps its published design where nothing else is said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelConfig {
    /// Its name in the zoo.
    pub net: String,
    /// Train the static twin in its place.
    pub twin: bool,
    /// Factor on the number of channels.
    pub width: f64,
    /// Height and width of the input in pixels; by default that of the images where they share one, else 224 x 224.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<[usize; 2]>,
    /// Stride 1 and no max pooling in the stem; by default for inputs of at most 64 x 64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub small_stem: Option<bool>,
    /// How a static net is made dynamic; takes the place of a dynamic net's own design.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dynamic: Option<DynamicOptions>,
}

/// Longest side in pixels of inputs that get a stem for small images.
const SMALL_SIDE: usize = 64;

impl Default for ModelConfig {
    fn default() -> Self {
        Self { net: "resnet18".into(), twin: false, width: 1.0, size: None, small_stem: None, dynamic: None }
    }
}

impl ModelConfig {
    /// The main job's net: the paper's Dy-ResNet18, so narrow that it lacks capacity, which is what dynamic kernels
    /// give. Chosen on validation images among those of `bench/records/2026-11-24-main-job.md`; since small images keep
    /// their size in the stem, as `bench/records/2026-11-26-main-job.md` has it, its maps have sixteen times as many pixels.
    pub(crate) fn main_job() -> Self {
        let dynamic = DynamicOptions {
            experts: 8,
            activation: CoefActivation::Sigmoid,
            dropout: 0.0,
            outside_blocks: false,
            ..DynamicOptions::default()
        };
        let net = "dy_resnet18".into();
        Self { net, width: 0.0625, dynamic: Some(dynamic), ..Self::default() }
    }

    /// What the zoo is asked for, given what the data decides.
    pub(crate) fn zoo_options(&self, classes: usize, channels: usize, size: [usize; 2]) -> ZooOptions {
        let Self { width, dynamic, .. } = *self;
        let small_stem = self.small_stem.unwrap_or(size.iter().all(|side| *side <= SMALL_SIDE));
        ZooOptions { width, classes, channels, size, small_stem, dynamic }
    }
}

/// Batches, epochs, randomness.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RunConfig {
    /// Passes over the training images.
    pub epochs: usize,
    /// Images of one forward and backward pass.
    pub batch: usize,
    /// Passes whose gradients are averaged before one update.
    pub accumulate: usize,
    /// Everything random follows from it.
    pub seed: u64,
    /// Touch the test set once, at the end.
    pub test: bool,
    /// Checkpoints that are kept, the newest ones.
    pub keep_checkpoints: usize,
    /// What trains: `cpu`, or a device of a feature of the build, `wgpu`, `cuda:1`.
    pub device: DeviceName,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            epochs: 28,
            batch: 64,
            accumulate: 1,
            seed: 0,
            test: true,
            keep_checkpoints: 2,
            device: DeviceName::default(),
        }
    }
}

/// Names of the update rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Rule {
    /// Stochastic gradient descent with momentum.
    #[default]
    Sgd,
    /// Adam with decoupled weight decay (Loshchilov and Hutter, 2019).
    AdamW,
}

/// The update rule.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerConfig {
    /// SGD or AdamW.
    pub rule: Rule,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Factor on the learning rate of the coefficient predictors' weights: the mean over a map makes their gradients small.
    pub predictor_rate: f64,
    /// Factor on the weight decay of the same weights. A predictor that is pulled towards zero ends up giving every
    /// image the same coefficients: its gradient is small, and so would be what stands against the pull.
    pub predictor_decay: f64,
    /// SGD: share of the last step that is repeated.
    pub momentum: f64,
    /// SGD: Nesterov's form of momentum, as PyTorch has it.
    pub nesterov: bool,
    /// AdamW: decay of the running means of the gradient and of its square.
    pub betas: [f64; 2],
    /// AdamW: added to the root of the squares' mean.
    pub epsilon: f64,
    /// Pull towards zero; norms and biases are spared.
    pub weight_decay: f64,
    /// Largest norm of the gradient of all parameters together; 0 clips nothing.
    pub clip_norm: f64,
    /// Decay of the running mean of the weights which is evaluated and saved; 0 keeps none.
    pub ema: f64,
    /// Share of the target that is spread over all classes.
    pub label_smoothing: f64,
}

impl Default for OptimizerConfig {
    fn default() -> Self {
        Self {
            rule: Rule::Sgd,
            learning_rate: 0.1,
            predictor_rate: 5.0,
            predictor_decay: 0.0,
            momentum: 0.9,
            nesterov: true,
            betas: [0.9, 0.999],
            epsilon: 1e-8,
            weight_decay: 5e-4,
            clip_norm: 0.0,
            ema: 0.0,
            label_smoothing: 0.0,
        }
    }
}

/// Shape of the learning rate's course.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Course {
    /// Half a cosine from the largest rate to the last.
    #[default]
    Cosine,
    /// Times `gamma` every `step_epochs`.
    Step,
}

/// What changes over time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ScheduleConfig {
    /// Cosine or step.
    pub course: Course,
    /// Epochs in which the learning rate rises linearly from zero.
    pub warmup_epochs: f64,
    /// Cosine: the last learning rate, as a share of the largest.
    pub last_share: f64,
    /// Step: epochs between two cuts.
    pub step_epochs: f64,
    /// Step: factor of a cut.
    pub gamma: f64,
    /// Temperature of softmax predictors at the start; it falls linearly to the net's own. High, as in Dynamic Convolution
    /// (Chen et al., 2020, arXiv 1912.03458): predictors follow each other, and at temperature 1 each multiplies what flows
    /// back through it. In a fresh dynamic MobileNetV2 the gradient's norm was 12,000 so, against 23 at 30 and in the
    /// static net, and it learned nothing.
    pub temperature_start: f64,
    /// Epochs until the temperature has fallen; 0 keeps the net's own from the start.
    pub temperature_epochs: f64,
}

impl Default for ScheduleConfig {
    fn default() -> Self {
        Self {
            course: Course::Cosine,
            warmup_epochs: 1.0,
            last_share: 0.0,
            step_epochs: 30.0,
            gamma: 0.1,
            temperature_start: 30.0,
            temperature_epochs: 10.0,
        }
    }
}

impl Config {
    /// Checks every value that does not depend on the data.
    ///
    /// # Errors
    /// The first value out of range: its key, expected and got.
    pub fn check(&self) -> Result<(), ConfigError> {
        let o = &self.optimizer;
        let s = &self.schedule;
        let counts = [
            ("run.epochs", self.run.epochs, 1..=1_000_000),
            ("run.batch", self.run.batch, 1..=65_536),
            ("run.accumulate", self.run.accumulate, 1..=65_536),
            ("run.keep_checkpoints", self.run.keep_checkpoints, 1..=1_000_000),
            ("data.workers", self.data.workers, 0..=256),
            ("data.ahead", self.data.ahead, 1..=1024),
        ];
        for (key, got, range) in counts {
            if !range.contains(&got) {
                return Err(ConfigError::value(key, format!("{} to {}", range.start(), range.end()), got));
            }
        }
        let epochs = self.run.epochs as f64;
        let numbers = [
            ("data.val_fraction", f64::from(self.data.val_fraction), 0.001, 0.9),
            ("optimizer.learning_rate", o.learning_rate, 0.0, 1e4),
            ("optimizer.predictor_rate", o.predictor_rate, 0.0, 1e4),
            ("optimizer.predictor_decay", o.predictor_decay, 0.0, 1e4),
            ("optimizer.momentum", o.momentum, 0.0, 0.999_999),
            ("optimizer.betas", o.betas[0], 0.0, 0.999_999),
            ("optimizer.betas", o.betas[1], 0.0, 0.999_999_9),
            ("optimizer.epsilon", o.epsilon, 1e-30, 1.0),
            ("optimizer.weight_decay", o.weight_decay, 0.0, 1e3),
            ("optimizer.clip_norm", o.clip_norm, 0.0, 1e9),
            ("optimizer.ema", o.ema, 0.0, 0.999_999),
            ("optimizer.label_smoothing", o.label_smoothing, 0.0, 0.99),
            ("schedule.warmup_epochs", s.warmup_epochs, 0.0, epochs),
            ("schedule.last_share", s.last_share, 0.0, 1.0),
            ("schedule.step_epochs", s.step_epochs, 1e-6, 1e9),
            ("schedule.gamma", s.gamma, 1e-9, 1.0),
            ("schedule.temperature_start", s.temperature_start, 1e-3, 1e4),
            ("schedule.temperature_epochs", s.temperature_epochs, 0.0, 1e6),
        ];
        for (key, got, least, most) in numbers {
            if !(least..=most).contains(&got) {
                return Err(ConfigError::value(key, format!("{least} to {most}"), got));
            }
        }
        Ok(())
    }
}
