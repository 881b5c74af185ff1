//! What the coefficients of a dynamic layer do: distribution, entropy, variation between images and classes.

use serde::Serialize;

use crate::pca::{Map2d, principal_map};

/// Bins of the histograms of coefficients and of entropies, over 0 to 1.
pub const COEF_BINS: usize = 40;
/// A predictor whose coefficients vary less than this between images, as a share of their mean, does the work of a
/// static kernel. Our threshold.
pub const COLLAPSED: f64 = 0.01;
/// Images of a map by coefficients: more would hide each other.
const MAPPED: usize = 400;

/// Why a predictor is no predictor: its coefficients are the same for every image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Collapse {
    /// All kernels get the same coefficient.
    Uniform,
    /// One kernel gets nearly all.
    OneKernel,
    /// Something else, but the same for every image.
    Constant,
}

impl Collapse {
    /// In words.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Uniform => "every kernel has the same weight in every image",
            Self::OneKernel => "one kernel has nearly all the weight in every image",
            Self::Constant => "the coefficients are the same in every image",
        }
    }
}

/// Statistics of the coefficients of one dynamic convolution.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CoefStats {
    /// Fixed kernels K.
    pub experts: usize,
    /// Channels with coefficients of their own; 1 where all share them.
    pub channels: usize,
    /// Images seen.
    pub images: usize,
    /// Coefficients by value: `COEF_BINS` equal bins over 0 to 1.
    pub histogram: Vec<u64>,
    /// Mean coefficient of each kernel, over images and channels.
    pub mean: Vec<f64>,
    /// Mean entropy of the shares of the K kernels, over `ln K`: 0 one kernel, 1 all alike. 1 for K = 1.
    pub entropy: f64,
    /// Images and channels by that entropy: `COEF_BINS` equal bins over 0 to 1.
    pub entropy_histogram: Vec<u64>,
    /// Standard deviation between images, mean over the coefficients.
    pub sd_images: f64,
    /// The same as a share of the mean coefficient.
    pub variation: f64,
    /// Share of the variance between images that lies between classes (eta squared); `None` with fewer than two
    /// classes, or without variance.
    pub between_classes: Option<f64>,
    /// The same that `n` images in `k` classes would show by chance, `(k - 1) / (n - 1)`.
    pub between_by_chance: Option<f64>,
    /// Whether the predictor has collapsed, and how.
    pub collapsed: Option<Collapse>,
    /// Share of the variance along the two axes of the map of images.
    pub explained: [f64; 2],
    /// Map of images: a point for each of the first few, and its class.
    pub map: Vec<MapPoint>,
}

/// One image on the map.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct MapPoint {
    /// First principal component.
    pub x: f64,
    /// Second.
    pub y: f64,
    /// Class of the image.
    pub class: usize,
}

/// Coefficients of one layer, image by image.
#[derive(Clone, Debug)]
pub(crate) struct CoefRows {
    pub(crate) experts: usize,
    pub(crate) channels: usize,
    /// `[images][experts][channels]`.
    pub(crate) rows: Vec<f32>,
}

impl CoefRows {
    fn width(&self) -> usize {
        self.experts * self.channels
    }

    /// Mean of each coefficient over the images, `[experts][channels]`.
    pub(crate) fn mean(&self) -> Vec<f64> {
        let images = (self.rows.len() / self.width()).max(1) as f64;
        let mut mean = vec![0.0; self.width()];
        for row in self.rows.chunks_exact(self.width()) {
            mean.iter_mut().zip(row).for_each(|(m, x)| *m += f64::from(*x) / images);
        }
        mean
    }

    /// All statistics, given the class of each image.
    pub(crate) fn stats(&self, classes: &[usize]) -> CoefStats {
        let (experts, channels, width) = (self.experts, self.channels, self.width());
        let images = self.rows.len() / width;
        let mean = self.mean();
        let bin = |x: f64| ((x * COEF_BINS as f64) as usize).min(COEF_BINS - 1);
        let mut histogram = vec![0; COEF_BINS];
        self.rows.iter().for_each(|x| histogram[bin(f64::from(*x))] += 1);
        let (entropy, entropy_histogram) = self.entropies(bin);
        let variance = |at: usize| {
            let deviation = |row: &[f32]| (f64::from(row[at]) - mean[at]).powi(2);
            self.rows.chunks_exact(width).map(deviation).sum::<f64>() / images.max(1) as f64
        };
        let variances: Vec<f64> = (0..width).map(variance).collect();
        let sd_images = variances.iter().map(|v| v.sqrt()).sum::<f64>() / width as f64;
        let overall = mean.iter().sum::<f64>() / width as f64;
        let variation = if overall > 0.0 { sd_images / overall } else { 0.0 };
        let (between_classes, between_by_chance) = self.between(classes, &mean, variances.iter().sum());
        let means = mean.chunks_exact(channels).map(|m| m.iter().sum::<f64>() / channels as f64);
        let mapped = images.min(MAPPED);
        let Map2d { points, explained } = principal_map(&self.rows[..mapped * width], width);
        let point = |(p, class): ([f64; 2], &usize)| MapPoint { x: p[0], y: p[1], class: *class };
        CoefStats {
            experts,
            channels,
            images,
            histogram,
            mean: means.collect(),
            entropy,
            entropy_histogram,
            sd_images,
            variation,
            between_classes,
            between_by_chance,
            collapsed: (images > 1 && variation < COLLAPSED).then(|| self.collapse(&mean)),
            explained,
            map: points.into_iter().zip(classes).map(point).collect(),
        }
    }

    /// Mean normalised entropy over images and channels, and their histogram.
    fn entropies(&self, bin: impl Fn(f64) -> usize) -> (f64, Vec<u64>) {
        let mut histogram = vec![0; COEF_BINS];
        let (mut sum, mut count) = (0.0, 0);
        for row in self.rows.chunks_exact(self.width()) {
            for channel in 0..self.channels {
                let shares = (0..self.experts).map(|e| f64::from(row[e * self.channels + channel]));
                let entropy = normalised_entropy(shares);
                histogram[bin(entropy)] += 1;
                sum += entropy;
                count += 1;
            }
        }
        (sum / f64::from(count.max(1)), histogram)
    }

    /// The share of variance between classes, and what chance alone gives.
    fn between(&self, classes: &[usize], mean: &[f64], total: f64) -> (Option<f64>, Option<f64>) {
        let width = self.width();
        let mut sums: std::collections::BTreeMap<usize, (usize, Vec<f64>)> = Default::default();
        for (row, class) in self.rows.chunks_exact(width).zip(classes) {
            let (count, sum) = sums.entry(*class).or_insert_with(|| (0, vec![0.0; width]));
            *count += 1;
            sum.iter_mut().zip(row).for_each(|(s, x)| *s += f64::from(*x));
        }
        let images = self.rows.len() / width;
        // What is left of constants is rounding of their means.
        let scale: f64 = mean.iter().map(|m| m * m).sum();
        if sums.len() < 2 || images <= sums.len() || total <= 1e-13 * scale {
            return (None, None);
        }
        let mut between = 0.0;
        for (count, sum) in sums.values() {
            let n = *count as f64;
            between += sum.iter().zip(mean).map(|(s, m)| n * (s / n - m).powi(2)).sum::<f64>();
        }
        let chance = (sums.len() - 1) as f64 / (images - 1) as f64;
        (Some((between / images as f64 / total).min(1.0)), Some(chance))
    }

    /// How it has collapsed, by the mean coefficients.
    fn collapse(&self, mean: &[f64]) -> Collapse {
        let shares = |channel: usize| (0..self.experts).map(move |e| mean[e * self.channels + channel]);
        let entropy: f64 = (0..self.channels).map(|c| normalised_entropy(shares(c))).sum::<f64>();
        match entropy / self.channels as f64 {
            _ if self.experts == 1 => Collapse::Constant,
            e if e > 0.999 => Collapse::Uniform,
            e if e < 0.1 => Collapse::OneKernel,
            _ => Collapse::Constant,
        }
    }
}

/// Entropy of the shares of a sum, over the logarithm of their number.
fn normalised_entropy(values: impl Iterator<Item = f64> + Clone) -> f64 {
    let (sum, count) = values.clone().fold((0.0, 0), |(s, n), v| (s + v, n + 1));
    if count < 2 || sum <= 0.0 {
        return 1.0;
    }
    let entropy: f64 = values.map(|v| v / sum).filter(|p| *p > 0.0).map(|p| -p * p.ln()).sum();
    (entropy / f64::from(count).ln()).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const K: usize = 3;
    const CHANNELS: usize = 4;

    fn rows(images: usize, value: impl Fn(usize, usize, usize) -> f32) -> CoefRows {
        let each =
            (0..images * K * CHANNELS).map(|at| value(at / (K * CHANNELS), at / CHANNELS % K, at % CHANNELS));
        CoefRows { experts: K, channels: CHANNELS, rows: each.collect() }
    }

    #[test]
    fn collapsed_predictors_are_told_apart() {
        let classes: Vec<usize> = (0..50).map(|i| i % 2).collect();
        let third = rows(50, |_, _, _| 1.0 / 3.0).stats(&classes);
        assert_eq!((third.collapsed, third.between_classes), (Some(Collapse::Uniform), None));
        assert!((third.entropy - 1.0).abs() < 1e-6);
        let one = rows(50, |_, e, _| if e == 1 { 0.9999 } else { 0.000_05 }).stats(&classes);
        assert_eq!(one.collapsed, Some(Collapse::OneKernel));
        assert!((one.mean[1] - 0.9999).abs() < 1e-6 && one.entropy < 0.01);
        // The same for every image up to a trace, different by channel.
        let fixed = |i: usize, e: usize, c: usize| {
            [[0.5, 0.3, 0.2], [0.2, 0.3, 0.5]][c % 2][e] + 1e-4 * (i as f32).sin()
        };
        assert_eq!(rows(50, fixed).stats(&classes).collapsed, Some(Collapse::Constant));
        let alive = |i: usize, e: usize, _: usize| if e == i % K { 0.8 } else { 0.1 };
        let alive = rows(50, alive).stats(&classes);
        assert_eq!(alive.collapsed, None);
        assert!(alive.variation > 0.5, "{}", alive.variation);
    }

    #[test]
    fn variance_between_classes_is_a_share() {
        let classes: Vec<usize> = (0..60).map(|i| i % 3).collect();
        let by_class = rows(60, |i, e, _| if e == i % 3 { 0.8 } else { 0.1 }).stats(&classes);
        assert!((by_class.between_classes.unwrap() - 1.0).abs() < 1e-6);
        assert!((by_class.between_by_chance.unwrap() - 2.0 / 59.0).abs() < 1e-12);
        // Every class holds the same coefficients: i / 3 runs over them.
        let within = rows(60, |i, e, _| if e == i / 3 % 2 { 0.8 } else { 0.1 }).stats(&classes);
        assert!(within.between_classes.unwrap() < 1e-9);
    }

    #[test]
    fn histograms_count_everything() {
        let stats = rows(7, |i, e, c| ((i + e + c) as f32 * 0.7).sin().abs()).stats(&[0; 7]);
        assert_eq!(stats.histogram.iter().sum::<u64>(), (7 * K * CHANNELS) as u64);
        assert_eq!(stats.entropy_histogram.iter().sum::<u64>(), (7 * CHANNELS) as u64);
        assert_eq!((stats.map.len(), stats.between_classes), (7, None));
    }
}
