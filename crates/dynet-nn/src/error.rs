//! What can be wrong with a layer's configuration or a network's weights.

use dynet_net::WeightsError;
use thiserror::Error;

/// A layer's configuration that no layer can have.
#[derive(Debug, Clone, PartialEq, Error)]
pub enum ConfigError {
    /// A count that must be at least one is zero.
    #[error("{name}: 0, at least 1 expected")]
    Zero {
        /// Name of the option.
        name: &'static str,
    },
    /// Channels that the groups do not divide.
    #[error("{name}: {channels} channels in {groups} groups, a multiple of {groups} expected")]
    Groups {
        /// `input channels` or `output channels`.
        name: &'static str,
        /// Number of channels.
        channels: usize,
        /// Number of groups.
        groups: usize,
    },
    /// A probability outside `[0, 1)`.
    #[error("dropout: {probability}, a value in [0, 1) expected")]
    Dropout {
        /// The probability that was asked for.
        probability: f64,
    },
    /// A temperature that softmax cannot be divided by.
    #[error("temperature: {temperature}, a finite value above 0 expected")]
    Temperature {
        /// The temperature that was asked for.
        temperature: f32,
    },
}

/// Why a net cannot become a module.
#[derive(Debug, Error)]
pub enum NnError {
    /// A layer's configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// Tensors that do not fit the net.
    #[error(transparent)]
    Weights(#[from] WeightsError),
}

/// Refuses a count of zero.
///
/// # Errors
/// [`ConfigError::Zero`] that names the option.
pub(crate) fn at_least_one(name: &'static str, count: usize) -> Result<(), ConfigError> {
    if count == 0 { Err(ConfigError::Zero { name }) } else { Ok(()) }
}

/// Refuses a dropout probability outside `[0, 1)`.
///
/// # Errors
/// [`ConfigError::Dropout`] with the probability.
pub(crate) fn check_dropout(probability: f64) -> Result<(), ConfigError> {
    if (0.0..1.0).contains(&probability) { Ok(()) } else { Err(ConfigError::Dropout { probability }) }
}

/// Refuses a temperature that is not finite and above zero.
///
/// # Errors
/// [`ConfigError::Temperature`] with the temperature.
pub(crate) fn check_temperature(temperature: f32) -> Result<(), ConfigError> {
    if temperature.is_finite() && temperature > 0.0 {
        Ok(())
    } else {
        Err(ConfigError::Temperature { temperature })
    }
}
