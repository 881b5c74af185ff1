//! How an image becomes the input of a net.

use serde::{Deserialize, Serialize};

/// How pixels are interpolated when an image is resized.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Interpolation {
    /// The nearest pixel.
    Nearest,
    /// Triangle filter, widened when shrinking (as Pillow and torchvision do).
    #[default]
    Bilinear,
    /// Catmull-Rom filter, widened when shrinking.
    Bicubic,
}

/// Colour channels of a net's input.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channels {
    /// One channel of luma.
    Gray,
    /// Red, green, blue.
    Rgb,
}

impl Channels {
    /// The number of channels.
    pub fn count(self) -> usize {
        match self {
            Self::Gray => 1,
            Self::Rgb => 3,
        }
    }
}

/// The path from a decoded image to a net's input, kept in the model file so that prediction repeats what
/// evaluation did: resize the shorter side, crop the centre, scale to `[0, 1]`, subtract `mean`, divide by
/// `std`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Preprocessing {
    /// Length in pixels to which the shorter side is resized before the crop; `None` leaves images that
    /// already have the size of the crop alone and resizes others so that the crop just fits.
    pub resize: Option<usize>,
    /// Height and width in pixels of the centre crop: the net's input.
    pub crop: [usize; 2],
    /// Filter of the resize.
    pub interpolation: Interpolation,
    /// Colour channels of the input.
    pub channels: Channels,
    /// Mean of each channel, on values in `[0, 1]`.
    pub mean: Vec<f32>,
    /// Standard deviation of each channel, on values in `[0, 1]`.
    pub std: Vec<f32>,
}

/// A field of a [`Preprocessing`] that cannot be.
#[derive(Debug, thiserror::Error, PartialEq)]
#[error("preprocessing: {field}: expected {expected}, got {got}")]
pub struct PreprocessingError {
    /// Name of the field.
    pub field: &'static str,
    /// What would be accepted.
    pub expected: String,
    /// What was found.
    pub got: String,
}

impl Preprocessing {
    /// Checks every field.
    ///
    /// # Errors
    /// The first field whose value is out of range.
    pub fn check(&self) -> Result<(), PreprocessingError> {
        const SIDE: std::ops::RangeInclusive<usize> = 1..=8192;
        let channels = self.channels.count();
        let error = |field, expected: String, got: String| Err(PreprocessingError { field, expected, got });
        for side in self.crop.into_iter().chain(self.resize) {
            if !SIDE.contains(&side) {
                return error("crop, resize", format!("1 to {} pixels", SIDE.end()), side.to_string());
            }
        }
        for (field, values) in [("mean", &self.mean), ("std", &self.std)] {
            if values.len() != channels {
                return error(field, format!("{channels} values"), values.len().to_string());
            }
            if let Some(bad) = values.iter().find(|v| !v.is_finite() || (field == "std" && **v <= 0.0)) {
                return error(field, "finite values, std above zero".into(), bad.to_string());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_out_of_range_is_named() {
        let good = Preprocessing {
            resize: Some(256),
            crop: [224, 224],
            interpolation: Interpolation::Bilinear,
            channels: Channels::Rgb,
            mean: vec![0.5; 3],
            std: vec![0.25; 3],
        };
        assert_eq!(good.check(), Ok(()));
        let cases = [
            ("crop, resize", Preprocessing { resize: Some(0), ..good.clone() }),
            ("crop, resize", Preprocessing { crop: [224, usize::MAX], ..good.clone() }),
            ("mean", Preprocessing { mean: vec![0.5], ..good.clone() }),
            ("mean", Preprocessing { mean: vec![0.5, f32::NAN, 0.5], ..good.clone() }),
            ("std", Preprocessing { std: vec![0.5, 0.0, 0.5], ..good.clone() }),
            ("std", Preprocessing { channels: Channels::Gray, mean: vec![0.5], ..good.clone() }),
        ];
        for (field, bad) in cases {
            assert_eq!(bad.check().unwrap_err().field, field, "{bad:?}");
        }
    }
}
