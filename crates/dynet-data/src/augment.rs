//! Random changes to a training image, each drawn from the image's own stream.

use dynet_net::Preprocessing;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::jitter::Jitter;
use crate::preprocess::{Rect, fit, normalise_planes, resize, to_planes, window};
use crate::random::{uniform, up_to};
use crate::{DataError, Image};

/// Augmentation. The default changes nothing.
///
/// The order is crop, flip, colour jitter, normalisation, erasing, and mixup or cutmix with the next image of
/// the batch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// The part of the image that is shown.
    pub crop: Crop,
    /// Probability of the mirror image.
    pub flip: f32,
    /// Change of colours.
    pub jitter: Jitter,
    /// Probability that a rectangle becomes the mean colour: 2 to 33 % of the area, sides 0.3 to 3.3 to one.
    /// Source: Zhong et al., Random Erasing, 2017, arXiv:1708.04896, with torchvision's defaults.
    pub erase: f32,
    /// The beta distribution's parameter of mixup; 0 for none.
    pub mixup: f32,
    /// The beta distribution's parameter of cutmix; 0 for none.
    pub cutmix: f32,
}

/// Random crop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Crop {
    /// What evaluation shows.
    #[default]
    None,
    /// What evaluation shows, shifted by at most `pixels` each way; black comes in from outside.
    Pad {
        /// The largest shift.
        pixels: usize,
    },
    /// A part of random size, shape and place, resized to the net's input, as torchvision's
    /// `RandomResizedCrop`.
    Resized {
        /// Least and greatest share of the area.
        scale: [f32; 2],
        /// Least and greatest width to height.
        ratio: [f32; 2],
    },
}

/// Tries to find a rectangle that fits.
const TRIES: usize = 10;

impl Augment {
    /// Checks every setting.
    ///
    /// # Errors
    /// [`DataError::Option`] for the first one that is out of range.
    pub fn check(&self) -> Result<(), DataError> {
        for (field, value) in [("augment.flip", self.flip), ("augment.erase", self.erase)] {
            if !(0.0..=1.0).contains(&value) {
                return Err(DataError::option(field, "a probability from 0 to 1", value));
            }
        }
        for (field, value) in [("augment.mixup", self.mixup), ("augment.cutmix", self.cutmix)] {
            if !(value == 0.0 || (1e-3..=1e3).contains(&value)) {
                return Err(DataError::option(field, "0, or from 0.001 to 1000", value));
            }
        }
        match self.crop {
            Crop::None => {}
            Crop::Pad { pixels } if pixels <= 4096 => {}
            Crop::Pad { pixels } => {
                return Err(DataError::option("augment.crop.pad.pixels", "at most 4096", pixels));
            }
            Crop::Resized { scale, ratio } => {
                if !(scale[0] > 0.0 && scale[0] <= scale[1] && scale[1] <= 1.0) {
                    let got = format!("{scale:?}");
                    return Err(DataError::option(
                        "augment.crop.resized.scale",
                        "0 < least <= most <= 1",
                        got,
                    ));
                }
                if !(ratio[0] >= 1e-3 && ratio[0] <= ratio[1] && ratio[1] <= 1e3) {
                    let got = format!("{ratio:?}");
                    let expected = "0.001 <= least <= most <= 1000";
                    return Err(DataError::option("augment.crop.resized.ratio", expected, got));
                }
            }
        }
        self.jitter.check()
    }

    /// Whether images of a batch are mixed.
    pub(crate) fn mixes(&self) -> bool {
        self.mixup > 0.0 || self.cutmix > 0.0
    }

    /// `image` as the net sees it in training, mixing apart.
    ///
    /// # Shapes
    /// `[channels][height][width]` of `p`.
    pub(crate) fn apply(&self, image: &Image, p: &Preprocessing, rng: &mut ChaCha8Rng) -> Vec<f32> {
        let mut cropped = self.crop(image, p, rng);
        if uniform(rng, 0.0, 1.0) < self.flip {
            flip(&mut cropped);
        }
        let mut planes = to_planes(&cropped);
        self.jitter.apply(&mut planes, cropped.channels, rng);
        normalise_planes(&mut planes, cropped.channels.count(), p);
        if uniform(rng, 0.0, 1.0) < self.erase
            && let Some(part) = rectangle(rng, p.crop, [0.02, 0.33], [0.3, 3.3])
        {
            erase(&mut planes, p.crop, part);
        }
        planes
    }

    fn crop(&self, image: &Image, p: &Preprocessing, rng: &mut ChaCha8Rng) -> Image {
        match self.crop {
            Crop::None => fit(image, p),
            Crop::Pad { pixels } => {
                let mut shift = || up_to(rng, 2 * pixels) as i64 - pixels as i64;
                window(&fit(image, p), shift(), shift(), p.crop)
            }
            Crop::Resized { scale, ratio } => {
                let image = image.clone().into_channels(p.channels);
                let size = [image.height, image.width];
                let part = rectangle(rng, size, scale, ratio).unwrap_or_else(|| centre(size, ratio));
                resize(image, part, p.crop, p.interpolation)
            }
        }
    }
}

/// A rectangle within `size` whose share of the area is uniform in `scale` and whose width to height is
/// uniform on a logarithmic scale in `ratio`; `None` if no try fits.
fn rectangle(
    rng: &mut ChaCha8Rng,
    [height, width]: [usize; 2],
    scale: [f32; 2],
    ratio: [f32; 2],
) -> Option<Rect> {
    for _ in 0..TRIES {
        let area = (height * width) as f32 * uniform(rng, scale[0], scale[1]);
        let shape = uniform(rng, ratio[0].ln(), ratio[1].ln()).exp();
        let (h, w) = ((area / shape).sqrt().round() as usize, (area * shape).sqrt().round() as usize);
        if (1..=height).contains(&h) && (1..=width).contains(&w) {
            let (top, left) = (up_to(rng, height - h), up_to(rng, width - w));
            return Some(Rect { top, left, height: h, width: w });
        }
    }
    None
}

/// The largest part in the middle with an allowed width to height.
fn centre([height, width]: [usize; 2], ratio: [f32; 2]) -> Rect {
    let shape = (width as f32 / height.max(1) as f32).clamp(ratio[0], ratio[1]);
    let w = ((height as f32 * shape).round() as usize).clamp(1, width.max(1));
    let h = ((width as f32 / shape).round() as usize).clamp(1, height.max(1));
    Rect { top: height.saturating_sub(h) / 2, left: width.saturating_sub(w) / 2, height: h, width: w }
}

fn flip(image: &mut Image) {
    let channels = image.channels.count();
    for row in image.pixels.chunks_exact_mut((image.width * channels).max(1)) {
        for x in 0..image.width / 2 {
            for c in 0..channels {
                row.swap(x * channels + c, (image.width - 1 - x) * channels + c);
            }
        }
    }
}

/// 0, which is the mean once normalised.
fn erase(planes: &mut [f32], [height, width]: [usize; 2], part: Rect) {
    for plane in planes.chunks_exact_mut((height * width).max(1)) {
        for row in part.top..part.top + part.height {
            let start = row * width + part.left;
            plane[start..start + part.width].fill(0.0);
        }
    }
}
