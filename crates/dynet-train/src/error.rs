//! What can go wrong while training and evaluating.

use std::path::{Path, PathBuf};

use crate::config_file::ConfigError;

/// Why a run stopped without a result.
#[derive(Debug, thiserror::Error)]
pub enum TrainError {
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Images that cannot be read.
    #[error(transparent)]
    Data(#[from] dynet_data::DataError),
    /// A net that cannot be.
    #[error(transparent)]
    Net(#[from] dynet_net::zoo::ZooError),
    /// A device that is not in this build or not on this machine.
    #[error(transparent)]
    Device(#[from] dynet_nn::DeviceError),
    /// Weights that do not fit.
    #[error(transparent)]
    Nn(#[from] dynet_nn::NnError),
    /// A model file that cannot be read or written.
    #[error(transparent)]
    Model(#[from] dynet_net::ModelError),
    /// A file of the run's folder that cannot be read or written.
    #[error("{path}: {source}")]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A damaged checkpoint, or one of another run.
    #[error("{path}: {problem}")]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The folder of a run is taken, or holds no run.
    #[error("{path}: {problem}")]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
    /// The data and the net, or the recipe, do not go together.
    #[error("{0}")]
    Mismatch(String),
    /// The loss, or a weight, is not a number any more.
    #[error("step {step}: {what} is {value}; {advice}")]
    NotFinite {
        /// Updates made before, which is also the number of the next one, counted from 0.
        step: usize,
        /// The loss or a weight.
        what: &'static str,
        /// Its value.
        value: f64,
        /// The last good checkpoint and what to try.
        advice: String,
    },
    /// The engine does not take the model.
    #[error("model: {0}")]
    Plan(dynet_engine::PlanError),
    /// What runs a model could not.
    #[error("the model does not run: {0}")]
    Classifier(String),
    /// A figure could not be drawn.
    #[error("{path}: {problem}")]
    Figure {
        /// The file.
        path: PathBuf,
        /// What the drawing library said.
        problem: String,
    },
}

impl TrainError {
    pub(crate) fn io(path: &Path, source: std::io::Error) -> Self {
        Self::Io { path: path.into(), source }
    }

    pub(crate) fn checkpoint(path: &Path, problem: String) -> Self {
        Self::Checkpoint { path: path.into(), problem }
    }

    pub(crate) fn folder(path: &Path, problem: impl Into<String>) -> Self {
        Self::Folder { path: path.into(), problem: problem.into() }
    }

    /// Whether the user's input is at fault, not the run.
    pub fn is_input(&self) -> bool {
        match self {
            Self::Device(error) => error.is_input(),
            Self::Io { .. } | Self::NotFinite { .. } | Self::Classifier(_) | Self::Figure { .. } => false,
            _ => true,
        }
    }
}
