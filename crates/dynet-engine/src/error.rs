//! Why a plan cannot be made, or a batch cannot run.

use dynet_net::WeightsError;

/// Why a net and its weights cannot become a plan. Nothing large has been allocated then.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// Missing, extra or misshapen tensors, or values that are not finite.
    #[error(transparent)]
    Weights(#[from] WeightsError),
    /// A layer or the whole net needs more memory than can be addressed.
    #[error("{what}: {values} values are more than the engine's limit of {limit}")]
    TooLarge {
        /// The layer, or the plan's memory.
        what: String,
        /// Values that it needs.
        values: u128,
        /// Values that are possible.
        limit: usize,
    },
    /// A node whose output shall be read does not exist.
    #[error("tap: expected a node below {nodes}, got {got}")]
    Tap {
        /// Nodes of the net.
        nodes: usize,
        /// The index asked for.
        got: usize,
    },
    /// A batch normalisation whose variance, scale or shift makes a value that is not finite.
    #[error("{node}: folding the batch normalisation gives {value} at value {index} of a tensor")]
    NotFinite {
        /// Name of the node.
        node: String,
        /// Where in the folded tensor.
        index: usize,
        /// The value.
        value: f32,
    },
}

/// Why images do not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The images are not a whole number of images of the net's shape.
    #[error("images: expected a multiple of {expected} values ({shape}), got {got}")]
    Length {
        /// Values of one image.
        expected: usize,
        /// Shape of one image.
        shape: String,
        /// Values given.
        got: usize,
    },
    /// The system gives no further thread.
    #[error("threads: {0}")]
    Threads(std::io::Error),
}
