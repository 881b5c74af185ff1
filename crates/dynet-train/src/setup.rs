//! From a recipe to what a run needs: images, net, preprocessing.

use std::sync::Arc;

use burn::tensor::Device;
use dynet_data::{Dataset, OpenOptions, Skipped, Source, Splits, channel_statistics};
use dynet_net::{Interpolation, Net, Preprocessing, zoo};

use crate::config::Config;
use crate::error::TrainError;

/// Input size of nets for images of differing sizes.
const STANDARD_SIZE: [usize; 2] = [224, 224];
/// Shorter side before the crop, as a multiple of the crop: 256 for 224, as torchvision evaluates.
const RESIZE_SHARE: f64 = 256.0 / 224.0;
/// Training images that mean and standard deviation are measured on.
const STATISTICS_IMAGES: usize = 5_000;

/// All that a run reads and does not change: images, net, preprocessing, device.
pub struct Setup {
    pub(crate) net: Net,
    pub(crate) preprocessing: Preprocessing,
    pub(crate) labels: Vec<String>,
    pub(crate) data: String,
    pub(crate) train: Arc<Dataset>,
    pub(crate) val: Arc<Dataset>,
    pub(crate) test: Option<Arc<Dataset>>,
    pub(crate) skipped: Vec<Skipped>,
    pub(crate) device: Device,
}

impl Setup {
    /// Opens the device and the images and builds the net, before a run's folder is made: what cannot be used leaves no trace.
    ///
    /// # Errors
    /// A device that is not there, images that cannot be read, a net that cannot be, or two that do not go together.
    pub fn new(config: &Config) -> Result<Self, TrainError> {
        config.check()?;
        config.augment.check()?;
        let device = config.run.device.open()?;
        let source = Source::from(config.data.source.clone());
        let options = OpenOptions {
            val_fraction: config.data.val_fraction,
            seed: config.run.seed,
            skip_bad: config.data.skip_bad,
            ..OpenOptions::default()
        };
        let Splits { name, classes, channels, size, train, val, test, skipped } =
            dynet_data::open(&source, &options)?;
        let crop = config.model.size.or(size).unwrap_or(STANDARD_SIZE);
        let model = &config.model;
        let net = zoo::build(&model.net, &model.zoo_options(classes.len(), channels.count(), crop))?;
        let net = if model.twin { net.twin() } else { net };
        let (mean, std) = channel_statistics(&train, STATISTICS_IMAGES)?;
        let resize = (size != Some(crop))
            .then(|| (*crop.iter().min().unwrap_or(&crop[0]) as f64 * RESIZE_SHARE).round() as usize);
        let preprocessing =
            Preprocessing { resize, crop, interpolation: Interpolation::Bilinear, channels, mean, std };
        let setup =
            Self { net, preprocessing, labels: classes, data: name, train, val, test, skipped, device };
        setup.check(config)?;
        Ok(setup)
    }

    /// The net that is trained.
    pub fn net(&self) -> &Net {
        &self.net
    }

    fn check(&self, config: &Config) -> Result<(), TrainError> {
        let per_step = config.run.batch * config.run.accumulate;
        if self.train.len() < per_step {
            let text = format!(
                "run.batch x run.accumulate: expected at most {}, the number of training images, got {per_step}",
                self.train.len()
            );
            return Err(TrainError::Mismatch(text));
        }
        if self.labels.len() < 2 {
            let text = format!("{}: expected at least 2 classes, got {}", self.data, self.labels.len());
            return Err(TrainError::Mismatch(text));
        }
        Ok(())
    }

    /// Updates of one epoch; images that do not fill one wait for the next epoch's order.
    pub(crate) fn steps_per_epoch(&self, config: &Config) -> usize {
        self.train.len() / config.run.batch / config.run.accumulate
    }
}
