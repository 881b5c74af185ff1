//! What can go wrong in an analysis.

use std::path::PathBuf;

use dynet_data::DataError;
use dynet_engine::{PlanError, RunError};
use dynet_net::WeightsError;

/// Why an analysis stopped.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// A setting out of range.
    #[error("{name}: expected {expected}, got {got}")]
    Option {
        /// Name of the setting.
        name: &'static str,
        /// What would be accepted.
        expected: String,
        /// What was found.
        got: String,
    },
    /// A model without anything to analyse.
    #[error("{model}: expected at least one convolution, got none")]
    NoConvolution {
        /// Name of the model.
        model: String,
    },
    /// The weights do not fit the net.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A feature map of another size than the net says.
    #[error("{layer}: expected {expected} values, got {got}")]
    MapSize {
        /// The node.
        layer: String,
        /// Values that the net's shape asks for.
        expected: usize,
        /// Values that came.
        got: usize,
    },
    /// A feature map that overflowed.
    #[error("{layer}: expected finite feature maps, got values that are not")]
    NotFinite {
        /// The node.
        layer: String,
    },
    /// No image was read.
    #[error("{model}: expected images to run, got none")]
    NoImages {
        /// Name of the model.
        model: String,
    },
    /// The engine cannot run the model.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The engine cannot run the images.
    #[error(transparent)]
    Run(#[from] RunError),
    /// An image cannot be read.
    #[error(transparent)]
    Data(#[from] DataError),
    /// The system refused.
    #[error("{path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A picture that could not be encoded.
    #[error("figure {name}: {problem}")]
    Figure {
        /// Name of the figure.
        name: String,
        /// What the encoder said.
        problem: String,
    },
    /// A run folder that cannot be compared.
    #[error("{path}: {problem}")]
    RunFolder {
        /// The folder or a file in it.
        path: PathBuf,
        /// What was expected and what was found.
        problem: String,
    },
}
