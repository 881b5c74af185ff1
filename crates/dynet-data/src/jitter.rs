//! Colour jitter as torchvision's `ColorJitter` on tensors: brightness, contrast, saturation and hue in random
//! order.

use dynet_net::Channels;
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::DataError;
use crate::random::{shuffle, uniform};

/// How far colours may change. Saturation and hue leave grey images alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Jitter {
    /// The factor is uniform in `[max(0, 1 - brightness), 1 + brightness]`.
    pub brightness: f32,
    /// The same of the distance from the mean luma.
    pub contrast: f32,
    /// The same of the distance from the pixel's luma.
    pub saturation: f32,
    /// The turn is uniform in `[-hue, hue]`, in circles; at most 0.5.
    pub hue: f32,
}

/// A change and the setting of its range.
#[derive(Clone, Copy)]
enum Change {
    Brightness,
    Contrast,
    Saturation,
    Hue,
}

impl Jitter {
    pub(crate) fn check(&self) -> Result<(), DataError> {
        let limits = [
            ("augment.jitter.brightness", self.brightness, 10.0),
            ("augment.jitter.contrast", self.contrast, 10.0),
            ("augment.jitter.saturation", self.saturation, 10.0),
            ("augment.jitter.hue", self.hue, 0.5),
        ];
        for (field, value, most) in limits {
            if !(0.0..=most).contains(&value) {
                return Err(DataError::option(field, format!("from 0 to {most}"), value));
            }
        }
        Ok(())
    }

    /// Changes `planes`, `[channels][pixels]` with values in `[0, 1]`.
    pub(crate) fn apply(&self, planes: &mut [f32], channels: Channels, rng: &mut ChaCha8Rng) {
        if *self == Self::default() {
            return;
        }
        let mut order = [Change::Brightness, Change::Contrast, Change::Saturation, Change::Hue];
        shuffle(&mut order, rng);
        for change in order {
            let (low, high) = match change {
                Change::Brightness => around_one(self.brightness),
                Change::Contrast => around_one(self.contrast),
                Change::Saturation => around_one(self.saturation),
                Change::Hue => (-self.hue, self.hue),
            };
            let amount = uniform(rng, low, high);
            match (change, channels) {
                (Change::Brightness, _) => each(planes, |v| v * amount),
                (Change::Contrast, _) => contrast(planes, channels, amount),
                (Change::Saturation, Channels::Rgb) => each_pixel(planes, |rgb| saturate(rgb, amount)),
                (Change::Hue, Channels::Rgb) => each_pixel(planes, |rgb| turn_hue(rgb, amount)),
                (Change::Saturation | Change::Hue, Channels::Gray) => {}
            }
        }
    }
}

fn around_one(range: f32) -> (f32, f32) {
    ((1.0 - range).max(0.0), 1.0 + range)
}

fn each(planes: &mut [f32], change: impl Fn(f32) -> f32) {
    for value in planes {
        *value = change(*value).clamp(0.0, 1.0);
    }
}

fn each_pixel(planes: &mut [f32], change: impl Fn([f32; 3]) -> [f32; 3]) {
    let plane = planes.len() / 3;
    let (red, rest) = planes.split_at_mut(plane);
    let (green, blue) = rest.split_at_mut(plane);
    for ((r, g), b) in red.iter_mut().zip(green).zip(blue) {
        [*r, *g, *b] = change([*r, *g, *b]).map(|value| value.clamp(0.0, 1.0));
    }
}

fn contrast(planes: &mut [f32], channels: Channels, factor: f32) {
    let pixels = (planes.len() / channels.count()).max(1);
    let weights: &[f32] = match channels {
        Channels::Gray => &[1.0],
        Channels::Rgb => &LUMA,
    };
    let sums = planes.chunks_exact(pixels).zip(weights);
    let sum: f64 = sums.map(|(p, &w)| f64::from(w) * p.iter().map(|&v| f64::from(v)).sum::<f64>()).sum();
    let mean = (sum / pixels as f64) as f32;
    each(planes, |v| mean + factor * (v - mean));
}

/// Weights of red, green and blue in torchvision's grey.
const LUMA: [f32; 3] = [0.2989, 0.587, 0.114];

fn saturate(rgb: [f32; 3], factor: f32) -> [f32; 3] {
    let luma: f32 = rgb.iter().zip(LUMA).map(|(v, w)| v * w).sum();
    rgb.map(|value| luma + factor * (value - luma))
}

/// Turns the hue by `circles`; saturation and value (of HSV) stay.
fn turn_hue([r, g, b]: [f32; 3], circles: f32) -> [f32; 3] {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);
    if chroma <= 0.0 {
        return [r, g, b];
    }
    let sixths = if value == r {
        (g - b) / chroma
    } else if value == g {
        2.0 + (b - r) / chroma
    } else {
        4.0 + (r - g) / chroma
    };
    let turned = sixths + 6.0 * circles;
    // How far each channel is from the hue that it dominates (Smith, 1978, in closed form).
    [5.0, 3.0, 1.0].map(|offset| {
        let k = (offset + turned).rem_euclid(6.0);
        value - chroma * k.min(4.0 - k).clamp(0.0, 1.0)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(got: [f32; 3], expected: [f32; 3]) {
        let near = got.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(near, "expected {expected:?}, got {got:?}");
    }

    #[test]
    fn hue_turns_colours_into_one_another() {
        close(turn_hue([0.8, 0.2, 0.2], 1.0 / 3.0), [0.2, 0.8, 0.2]);
        close(turn_hue([0.8, 0.2, 0.2], -1.0 / 3.0), [0.2, 0.2, 0.8]);
        for colour in [[0.1, 0.5, 0.9], [0.9, 0.3, 0.0], [0.4, 0.4, 0.4], [0.2, 0.7, 0.1]] {
            close(turn_hue(colour, 0.0), colour);
            close(turn_hue(turn_hue(colour, 0.3), -0.3), colour);
        }
    }

    #[test]
    fn factors_of_zero_give_black_grey_and_flat() {
        close(saturate([0.9, 0.3, 0.1], 0.0), [0.9 * 0.2989 + 0.3 * 0.587 + 0.1 * 0.114; 3]);
        let mut planes = vec![0.1, 0.5, 0.2, 0.4, 0.3, 0.9];
        contrast(&mut planes, Channels::Rgb, 0.0);
        assert!(planes.iter().all(|v| (v - planes[0]).abs() < 1e-6), "{planes:?}");
    }
}
